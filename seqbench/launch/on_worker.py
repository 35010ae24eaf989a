"""What an engine runs on a worker: a process of its own for each batch, which ends with the worker.

Whatever process an engine starts (joblib's is used again and again, Ray's has imported Ray), a batch gets a
fresh one that has seqbench for its main program, so that a run's surroundings are the same everywhere.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

_PATIENCE_S = 20.0  # for stopping: what runs is recorded as interrupted
_LAST_CHARACTERS = 500
_at_work: list[subprocess.Popen[bytes]] = []


class WorkerFailed(RuntimeError):
    """A batch's process ended by itself without an answer."""


def do(order: bytes) -> str:
    """Do a batch; gives what became of its runs as JSON (see :mod:`seqbench.launch.work`).

    Raises:
        WorkerFailed: its process ended without an answer, with the last that it said.
    """
    command = [sys.executable, "-m", "seqbench.launch.work", str(os.getpid())]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    _at_work.append(process)
    try:
        answer, said = process.communicate(order)
    finally:  # also when a signal of Slurm's ends this function
        stop()
    if process.returncode != 0:
        last = said.decode("utf-8", "replace").strip()[-_LAST_CHARACTERS:]
        raise WorkerFailed(f"exit code {process.returncode}: {' | '.join(last.splitlines())}")
    return answer.decode()


def stop() -> None:
    """End what :func:`do` has started: runs are recorded as interrupted and keep their checkpoints."""
    while _at_work:
        process = _at_work[-1]
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)
            process.kill()
            process.wait()
        with contextlib.suppress(ValueError):
            _at_work.remove(process)
