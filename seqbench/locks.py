"""Locks that the kernel frees on any exit, so that none is ever stale: per run, per sweep and per machine.

The machine's lock keeps timing undisturbed: whatever of seqbench makes a processor busy (training, preparing
data, drawing the report, starting up) holds it shared, a speed measurement holds it alone. It is one for all
users and sweeps of a machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # the same for every process of a machine, unlike TMPDIR
_POLL_S = 0.01
_ROOM, _TURN = "seqbench-room.lock", "seqbench-turn.lock"


@contextlib.contextmanager
def file_lock(path: Path, *, patience_s: float = math.inf) -> Iterator[None]:
    """Hold the lock of a run's or a sweep's folder alone.

    Raises:
        BlockingIOError: somebody else has it, and keeps it for longer than ``patience_s``.
    """
    with _opened(path) as descriptor:
        if math.isinf(patience_s):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            _lock_soon(descriptor, patience_s)
        yield


def _lock_soon(descriptor: int, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_S)


@contextlib.contextmanager
def busy(waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the machine's lock together with everybody else who makes it busy.

    Whoever holds it must not wait for another process that wants it: that one may stand behind a measurement
    that waits for us.

    Args:
        waiting: called first when a speed measurement has the machine, or waits for it.
    """
    with _machine(fcntl.LOCK_SH, waiting):
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the machine's lock alone, for a speed measurement."""
    with _machine(fcntl.LOCK_EX, lambda: None):
        yield


@contextlib.contextmanager
def _machine(kind: int, waiting: Callable[[], None]) -> Iterator[None]:
    """Enter the room through a turnstile, so that whoever waits to be alone is not overtaken for ever."""
    with _opened(folder() / _TURN) as turn, _opened(folder() / _ROOM) as room:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(room, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(room, kind)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


def folder() -> Path:
    """Where the machine's lock files are; ``SEQBENCH_LOCKS`` names another place (tests use their own)."""
    chosen = os.environ.get("SEQBENCH_LOCKS")
    if chosen:
        return Path(chosen)
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A lock file, open. Whoever comes first creates it; reading is enough to lock it, so all users can."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o644)
        os.fchmod(descriptor, 0o644)  # whatever the umask: all users of the machine share it
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file: remove it", str(path))
        yield descriptor
    finally:
        os.close(descriptor)
