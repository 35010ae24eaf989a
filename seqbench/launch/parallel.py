"""``hydra/launcher=par``: batches side by side on this machine, by joblib's pool of processes (loky).

A pool of loky's dies as a whole when one of its processes is killed: then whatever was at work is reported as
lost, and a new pool takes what is submitted again.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from seqbench import environment
from seqbench.errors import UsageError
from seqbench.launch import on_worker
from seqbench.launch.base import Ended

# What else hydra-joblib-launcher has: how calls are handed out and arrays passed, which batches need none of.
_IDLE = {
    "backend": (None, "loky"), "prefer": ("processes",), "require": (None,), "verbose": (0,),
    "timeout": (None,), "pre_dispatch": ("2*n_jobs",), "batch_size": ("auto", 1), "temp_folder": (None,),
    "max_nbytes": (None,), "mmap_mode": ("r",),
}  # fmt: skip
_WATCH_S = 1.0


def engine(node: Mapping[str, Any]) -> Parallel:
    """The engine for Hydra's launcher node, whose keys are hydra-joblib-launcher's.

    Raises:
        UsageError: the number of jobs makes no sense here, or what has no meaning here is set.
    """
    cores = environment.cores()
    jobs = node.get("n_jobs", -1)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs == 0:
        raise UsageError(f"hydra.launcher.n_jobs={jobs}: expected a number of jobs side by side, or -1")
    side_by_side = jobs if jobs > 0 else max(1, cores + 1 + jobs)
    if side_by_side > cores:
        raise UsageError(
            f"hydra.launcher.n_jobs={jobs}: this process may use {cores} cores, and runs would take turns on "
            "them: choose no more"
        )
    for key, usual in _IDLE.items():
        if key in node and node[key] not in usual:
            raise UsageError(f"hydra.launcher.{key}={node[key]}: n_jobs alone counts here: leave it out")
    return Parallel(side_by_side, max(1, cores // side_by_side))


@dataclass
class Parallel:
    """Batches side by side, each with its share of the cores.

    Attributes:
        jobs: batches side by side.
    """

    jobs: int
    slots: int
    name: str = "par"
    remote: bool = False
    by_seed: bool = False  # starting a batch takes some seconds
    _open: dict[Future[str], int] = field(default_factory=dict)
    _pool: Executor | None = None
    _begun: tempfile.TemporaryDirectory[str] | None = None

    def submit(self, orders: Mapping[int, bytes]) -> None:
        """Queue batches; they start when those before them have ended."""
        if self._pool is None:
            from joblib.externals.loky import ProcessPoolExecutor

            self._pool = ProcessPoolExecutor(self.jobs, initializer=_ignore_ctrl_c)
            self._begun = tempfile.TemporaryDirectory(prefix="seqbench-")
        assert self._begun is not None
        for number, order in orders.items():
            self._open[self._pool.submit(_do, order, Path(self._begun.name) / str(number))] = number

    def poll(self, patience_s: float) -> list[Ended]:
        """The batches that ended."""
        done, _ = wait(self._open, patience_s, FIRST_COMPLETED)
        if any(_broken(future) for future in done):
            return self._all_lost()
        return [_ended(self._open.pop(future), future) for future in done]

    def _all_lost(self) -> list[Ended]:
        """What a dead pool has left: batches that had ended, and lost ones; a new pool takes what comes."""
        wait(self._open)
        assert self._begun is not None
        begun = {path.name for path in Path(self._begun.name).iterdir()}
        ended = [_ended(number, future, begun) for future, number in self._open.items()]
        self._open = {}
        self.close()
        return ended

    def close(self) -> None:
        """End the pool and what it has at work."""
        self._open = {}
        if self._pool is not None and self._begun is not None:
            self._pool.shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]  # loky's own
            self._begun.cleanup()
            self._pool = self._begun = None


def _broken(future: Future[str]) -> bool:
    """Whether the pool died over it."""
    from joblib.externals.loky import BrokenProcessPool

    return isinstance(future.exception(), BrokenProcessPool)


def _ended(number: int, future: Future[str], begun: set[str] | None = None) -> Ended:
    """What became of a batch.

    Args:
        begun: of a dead pool, the batches that it had begun; if none, all count as such, or nothing would
            end a pool that cannot work.
    """
    if begun is not None and _broken(future):
        why = "a process of joblib's pool was killed, and the pool with it"
        return Ended(number, lost=why, started=str(number) in begun or not begun)
    if (error := future.exception()) is not None:
        return Ended(number, lost=" ".join(str(error).split("\n")[0].split()) or type(error).__name__)
    return Ended(number, future.result())


def _ignore_ctrl_c() -> None:
    """The sweep ends the pool itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _do(order: bytes, begun: Path) -> str:
    """Do a batch in a process of the pool."""
    begun.touch()
    over = Event()
    Thread(target=_end_with, args=(os.getppid(), over), daemon=True).start()
    try:
        return on_worker.do(order)
    finally:
        over.set()


def _end_with(driver: int, over: Event) -> None:
    """End a process of the pool, which would go on, when the one that wants its answer has been killed."""
    while not over.wait(_WATCH_S):
        if os.getppid() != driver:
            on_worker.stop()
            os._exit(1)
