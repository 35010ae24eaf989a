"""Whoever measures time has the machine alone; whoever trains shares it; nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqbench import locks

HOLD = """
import sys, time
from seqbench import locks
with getattr(locks, sys.argv[1])():
    print("in", flush=True)
    sys.stdin.readline()
print("out", flush=True)
"""


@pytest.fixture
def hold(tmp_path, monkeypatch):
    """Start a process that holds the machine's lock until it is told to let go."""
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    started = []

    def start(kind: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HOLD, kind]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        os.set_blocking(process.stdout.fileno(), False)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def is_in(process: subprocess.Popen[bytes], within_s: float = 20.0) -> bool:
    """Whether the process gets its lock; a short time for those that must not."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if b"in" in (process.stdout.read() or b""):
            return True
        time.sleep(0.02)
    return False


def let_go(process: subprocess.Popen[bytes]) -> None:
    process.stdin.write(b"\n")
    process.wait()


def test_training_is_shared_and_timing_is_alone(hold):
    first, second = hold("busy"), hold("busy")
    assert is_in(first)
    assert is_in(second)
    timing = hold("alone")
    assert not is_in(timing, 1.0)
    let_go(first)
    assert not is_in(timing, 0.5)
    let_go(second)
    assert is_in(timing)
    late = hold("busy")
    assert not is_in(late, 1.0)
    let_go(timing)
    assert is_in(late)


def test_whoever_waits_to_be_alone_is_not_overtaken(hold):
    training = hold("busy")
    assert is_in(training)
    timing = hold("alone")
    assert not is_in(timing, 1.0)
    late = hold("busy")  # would be let in at once without a turnstile, and others after it, for ever
    assert not is_in(late, 1.0)
    let_go(training)
    assert is_in(timing)
    assert not is_in(late, 0.5)
    let_go(timing)
    assert is_in(late)


def test_the_dead_hold_nothing(hold):
    timing = hold("alone")
    assert is_in(timing)
    os.kill(timing.pid, signal.SIGKILL)
    assert is_in(hold("busy"))


def test_the_lock_is_one_for_all_processes_whatever_their_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SEQBENCH_LOCKS", raising=False)
    before = locks.folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert locks.folder() == before


def test_a_lock_file_of_another_user_can_be_locked(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    with locks.busy():
        pass
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o444 == 0o444
        path.chmod(0o444)
    with locks.alone():
        pass


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_refused_in_words(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    path = tmp_path / "seqbench-room.lock"
    path.symlink_to(Path("/etc/passwd")) if kind == "link" else os.mkfifo(path)
    with pytest.raises(OSError, match=r"seqbench-room\.lock"), locks.busy():
        pass
