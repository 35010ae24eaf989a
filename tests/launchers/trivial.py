"""Orders that tests of engines understand: a word and a number, as bytes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from seqbench.launch import on_worker


def do(order: bytes) -> str:
    """Do what an order says, as :func:`seqbench.launch.on_worker.do` does, which gives words back.

    The order ``once FILE WORD`` does WORD unless FILE is there, which is left behind.
    """
    word, *rest = order.decode().split()
    if word == "once":
        mark, *rest = rest
        if Path(mark).exists():
            return "again"
        Path(mark).write_text(str(os.getpid()), encoding="utf-8")
        word, *rest = rest
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "fail":
        raise ValueError("no such thing")
    if word == "sleep":
        _sleep(float(rest[0]))
    return f"{word} {os.environ.get('SLURM_RESTART_COUNT', '0')}"


def _sleep(seconds: float) -> None:
    """Sleep in a process of its own, which a signal ends."""
    command = ["setpriv", "--pdeathsig=KILL", "sleep", str(seconds)]  # ends with its parent, as a batch does
    process = subprocess.Popen(command, start_new_session=True)
    on_worker._at_work.append(process)
    try:
        process.wait(seconds + 10)
    finally:
        on_worker.stop()
    if process.returncode != 0:
        raise on_worker.WorkerFailed(f"exit code {process.returncode}")
