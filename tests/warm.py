"""A warm Python: runs programs of seqbench in forks of a process that has imported what all of them need.

A sweep of four steps takes six seconds of a processor to import torch twice and pandas, and half a second to
do its work. Here it gets a process of its own as always, with its own arguments, folder, environment, main
module and server of child processes; only the libraries are there already. What a start itself does (what is
imported when, the flags of Python, another hash seed) needs a cold one: ``conftest.python_in`` knows which.

::

    tests ── order ──> warm process ── fork ──> keeper ── fork ──> program ── fork ──> its future server
      ^─────────────── how it ended ──────────────┘ (waits)
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import multiprocessing.process
import multiprocessing.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

LIBRARIES = (
    "seqbench.worker",
    "hydra",
    "hydra.core.config_store",
    "rich.console",
    "rich.live",
    "rich.table",
    "yaml",
    "jinja2",
    "pandas",
    "scipy.stats",
    "matplotlib.pyplot",
    "seaborn",
)  # fmt: skip; not `datasets`, which reads its settings from the environment as it is imported
MODULES = ("seqbench", "pytest")  # `-m` of these, of what is in them, and files
_LONGEST_ORDER = 1 << 17


def can_run(args: Sequence[str], variables: Iterable[str]) -> bool:
    """Whether a warm process can stand for ``python *args`` with these variables set."""
    if any(name.startswith("PYTHON") and name != "PYTHONPATH" for name in variables):
        return False
    if args[0] == "-m":
        return args[1].partition(".")[0] in MODULES
    return args[0].endswith(".py")


# On the side of the tests


class WarmPython:
    """Runs programs like :func:`subprocess.run`; several threads may use it at once."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def close(self) -> None:
        """End the warm process."""
        self._orders.close()
        self._process.wait()

    def run(
        self, args: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python *args``.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds and was killed.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            order = {"args": [*map(str, args)], "cwd": str(cwd), "env": {**env}, "timeout": timeout}
            ended = self._ask(json.dumps(order).encode(), out, err)
            texts = [_content(file) for file in (out, err)]
        if ended == "timeout":
            raise subprocess.TimeoutExpired(list(args), timeout, *texts)
        return subprocess.CompletedProcess([sys.executable, *args], int(ended), *texts)

    def _ask(self, order: bytes, out: IO[bytes], err: IO[bytes]) -> str:
        """Give an order and wait until it is done."""
        reader, writer = os.pipe()
        try:
            socket.send_fds(self._orders, [order], [writer, out.fileno(), err.fileno()])
        finally:
            os.close(writer)
        with open(reader, encoding="ascii") as answer:
            if ended := answer.read():
                return ended
        raise RuntimeError("the warm Python has gone: see what it printed above")


@functools.cache
def shared() -> WarmPython:
    """The one warm process of this process, started at first use; it ends when this one does."""
    one = WarmPython()
    atexit.register(one.close)
    return one


def _content(file: IO[bytes]) -> str:
    """All that was written, with the line ends of text."""
    file.seek(0)
    return file.read().decode("utf-8", "replace").replace("\r\n", "\n")


# In the warm process


def _serve(orders: socket.socket) -> None:
    """Import the libraries, then fork a keeper for each order until the tests have gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests close the orders, whatever ends them
    del sys.path[0]  # the tests' own folder
    for name in LIBRARIES:
        importlib.import_module(name)
    del sys.path[: len(_given_places())]  # each program brings its own
    gc.collect()
    gc.freeze()  # so that no program copies the libraries' memory by looking through it
    orders.settimeout(1.0)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        try:
            order, descriptors, _, _ = socket.recv_fds(orders, _LONGEST_ORDER, 3)
        except TimeoutError:
            continue
        if not order:
            return
        if os.fork() == 0:
            orders.close()
            _keep(json.loads(order), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(order: dict[str, Any], answer: int, out: int, err: int) -> NoReturn:
    """Fork the program, wait for it, kill it when its time is over, and say how it ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    program = os.fork()
    if program == 0:
        os.close(answer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        _become(order, out, err)
    in_time = signal.sigtimedwait({signal.SIGCHLD}, order["timeout"]) is not None
    if not in_time:
        os.kill(program, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    os.write(answer, str(code if in_time else "timeout").encode())
    os._exit(0)


def _become(order: dict[str, Any], out: int, err: int) -> NoReturn:
    """Turn this process into ``python *args``, as it would be after its imports."""
    for source, target in ((out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    _move_to(order)
    multiprocessing.process.ORIGINAL_DIR = order["cwd"]
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = _given_places()
    multiprocessing.util.spawnv_passfds = _with_a_server(multiprocessing.util.spawnv_passfds)
    args = order["args"]
    _end_with(lambda: _run_module(*args[1:]) if args[0] == "-m" else _run_file(*args))


def _end_with(program: Callable[[], None]) -> NoReturn:
    """Run a program and end as Python does, but leave it to the kernel to take the libraries apart."""
    code: object = 0
    try:
        program()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


def _given_places() -> list[str]:
    """The places of modules that the environment puts before Python's own."""
    given = os.environ.get("PYTHONPATH", "")
    return [os.path.abspath(place) for place in given.split(os.pathsep)] if given else []


def _run_module(name: str, *args: str) -> None:
    """``python -m name``; seqbench itself keeps the current folder out of the places of modules."""
    if name.startswith("seqbench"):
        os.environ["PYTHONSAFEPATH"] = "1"
    else:
        sys.path.insert(0, os.getcwd())
    sys.argv = ["-m", *args]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_file(name: str, *args: str) -> None:
    """``python name``."""
    sys.argv = [name, *args]
    sys.path.insert(0, str(Path(name).resolve().parent))
    main = types.ModuleType("__main__")
    main.__file__ = str(Path(name).absolute())
    sys.modules["__main__"] = main
    exec(compile(Path(name).read_bytes(), main.__file__, "exec"), main.__dict__)


Spawn = Callable[[Any, Sequence[Any], Sequence[int]], int]


def _with_a_server(spawn: Spawn) -> Spawn:
    """What starts a Python process for :mod:`multiprocessing`; the fork server is one that waits already.

    It is forked here, before the program has done anything, since a server knows nothing of its program.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if (server := os.fork()) == 0:
        ours.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as seqbench starts its server
        _wait_to_serve(theirs)
    theirs.close()
    waiting = [server]

    def spawn_quickly(path: Any, args: Sequence[Any], descriptors: Sequence[int]) -> int:
        code = str(args[-1])
        if "forkserver" not in code or not waiting:
            return spawn(path, args, descriptors)
        order = {"code": code, "descriptors": [*descriptors], "env": {**os.environ}, "cwd": os.getcwd()}
        socket.send_fds(ours, [json.dumps(order).encode()], descriptors)
        ours.close()
        return waiting.pop()

    return spawn_quickly


def _wait_to_serve(orders: socket.socket) -> NoReturn:
    """Wait for the order to be the fork server of :mod:`multiprocessing`, and be it."""
    order, received, _, _ = socket.recv_fds(orders, _LONGEST_ORDER, 16)
    orders.close()
    if not order:
        os._exit(0)
    told = json.loads(order)
    _renumber(received, told["descriptors"])
    _move_to(told)
    sys.modules["__main__"] = types.ModuleType("__main__")
    _end_with(lambda: exec(told["code"], {"__name__": "__main__"}))


def _renumber(descriptors: Sequence[int], wanted: Sequence[int]) -> None:
    """Give open files the numbers that they have where they came from."""
    above = max(*descriptors, *wanted) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(moved, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _move_to(order: Mapping[str, Any]) -> None:
    """Work in the folder and with the environment that was told."""
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
