"""What happens inside the child process of one unit, and in the one that prepares data.

Importing this module imports torch; a warm server process imports it once and forks every child.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from seqbench import environment, locks, records, store
from seqbench.build import pick_device
from seqbench.config import Job, settings
from seqbench.errors import UsageError
from seqbench.match import width_of
from seqbench.pilot import time_runs
from seqbench.plan import THREADS, WORKING, Unit, cache_folder, finished
from seqbench.precision import check_device
from seqbench.recorder import Recorder
from seqbench.records import Run
from seqbench.registry import load_own, plugins
from seqbench.stacked import together
from seqbench.tasks.base import Data
from seqbench.train import Training


def _warm_up() -> None:
    """Load what torch, pyarrow and seqbench import at first use, once for all children (1.5 s each else)."""
    with torch.device("meta"):
        parameter = torch.nn.Embedding(1, 1).weight
    torch.optim.AdamW([parameter])
    pyarrow.table({"warm": [1]}).to_batches()
    for group in ("model", "task", "probe"):
        load_own(group)


_warm_up()


def execute(units: Sequence[Unit], outboxes: Sequence[Connection]) -> None:
    """Entry point of the child: does the work of one unit, or of several as one, and records what happens.

    A unit that is done is not done again. The parent is told :data:`WORKING` once the locks are held, and
    each record when it is committed: what lies in the folder may be another sweep's a moment later.
    """
    os.setsid()
    _die_with_parent()
    _print_to(Path(os.devnull))
    with contextlib.ExitStack() as held:
        for unit in sorted(units, key=lambda one: one.folder):  # in the same order by every sweep
            held.enter_context(locks.file_lock(unit.folder / records.LOCK_FILE))
        missing = []
        for unit, outbox in zip(units, outboxes, strict=True):
            run = finished(unit)  # another sweep may have done the same while this one waited
            if run is None:
                missing.append((unit, outbox))
            else:
                outbox.send(run)
        if missing:
            _work(missing)


def _work(work: Sequence[tuple[Unit, Connection]]) -> None:
    """Do the work, holding the runs' locks."""
    for unit, _ in work:
        _clear(unit)
    _print_to(work[0][0].folder / records.LOG_FILE)
    torch.set_num_threads(THREADS)
    allocator = environment.keep_freed_memory()
    plugins("model"), plugins("task"), plugins("probe")
    with locks.alone() if work[0][0].kind == "speed" else locks.busy():
        for _, outbox in work:
            outbox.send(WORKING)  # the time limit counts from here
        if len(work) == 1:
            unit, outbox = work[0]
            outbox.send(Recorder(unit, allocator).run())
        else:
            _as_one(work, allocator)


def _as_one(work: Sequence[tuple[Unit, Connection]], allocator: bool) -> None:
    """Train several units as one; each prints to its own log while it is by itself."""
    waiting: dict[Training, tuple[Unit, Connection, Generator[Training, None, Run]]] = {}

    def go_on(unit: Unit, outbox: Connection, stages: Generator[Training, None, Run]) -> None:
        try:
            waiting[next(stages)] = (unit, outbox, stages)
        except StopIteration as end:
            outbox.send(end.value)

    for unit, outbox in work:
        _print_to(unit.folder / records.LOG_FILE)
        go_on(unit, outbox, Recorder(unit, allocator, beside=len(work)).stages())
    for training in together(list(waiting)):
        unit, outbox, stages = waiting.pop(training)
        _print_to(unit.folder / records.LOG_FILE, "ab")
        go_on(unit, outbox, stages)


def _print_to(path: Path, mode: str = "wb") -> None:
    """Send everything that this process prints, on whatever way, to a file."""
    with path.open(mode) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


def _clear(unit: Unit) -> None:
    """Remove what an earlier attempt left, except the checkpoint from which this one goes on."""
    for name in (records.RUN_FILE, records.EVENTS_FILE):
        store.remove(unit.folder / name)
    for stale in unit.folder.glob(".*.tmp"):
        store.remove(stale)


def _die_with_parent() -> None:
    """End this process when the one that started the sweep is gone, however it went (also by kill -9)."""
    if sys.platform == "linux":  # the server ends with the sweep; this works also inside a long call of C
        environment.end_with_parent()
        _let_the_server_go()
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)  # with everything that the run started
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _let_the_server_go() -> None:
    """Close this child's copy of the pipe by which the server knows that somebody still needs it."""
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def prepare(jobs: list[Job], failure: Path) -> None:
    """Entry point of the child that checks the device and prepares data, before anything is trained.

    The reason why something cannot be used is left in the file ``failure``.
    """
    _die_with_parent()
    try:
        for job in jobs:
            check_device(job.train.precision, job.train.cuda_graph, pick_device(job.device))
            with locks.busy():
                job.task.prepare(cache_folder(job))
    except UsageError as error:
        failure.write_text(str(error), encoding="utf-8")
    except Exception as error:
        traceback.print_exc()
        failure.write_text(f"task '{job.task.name}': {type(error).__name__}: {error}", encoding="utf-8")


def solve_widths(units: list[Unit], failure: Path) -> None:
    """Entry point of the child that solves the width of every network once, before anything is trained.

    What is out of reach is left in the file ``failure``. What else goes wrong here goes wrong again in the
    run, whose record says what it was.
    """
    os.setsid()
    _die_with_parent()
    _print_to(Path(os.devnull))
    torch.set_num_threads(THREADS)
    environment.keep_freed_memory()
    plugins("model"), plugins("task")
    opened: dict[str, Data] = {}
    solved: set[str] = set()
    for unit in units:
        try:
            with locks.busy():
                _solve_width(unit, opened, solved)
        except UsageError as error:
            failure.write_text(str(error), encoding="utf-8")
            return
        except Exception:
            traceback.print_exc()


def pilot(units: list[Unit], folder: Path, started: float) -> None:
    """Entry point of a child that times what runs cost, beside others that do the same.

    Args:
        folder: where each unit's cost is left.
        started: monotonic clock of the parent when it started this child.
    """
    os.setsid()
    _die_with_parent()
    _print_to(Path(os.devnull))
    torch.set_num_threads(THREADS)
    allocator = environment.keep_freed_memory()
    plugins("model"), plugins("task"), plugins("probe")
    start_s = time.monotonic() - started
    with locks.busy():
        time_runs(units, allocator, folder, start_s)


def _solve_width(unit: Unit, opened: dict[str, Data], solved: set[str]) -> None:
    """Solve the widths of a unit's networks; ``solved`` and ``opened`` tell what units before it did."""
    for job in unit.jobs:
        plain, cache = settings(job), cache_folder(job)
        task = store.digest({"task": plain["task"]})
        if task not in opened:
            opened[task] = job.task.open(unit.seed, cache)
        data = opened[task]
        sizes = [data.vocabulary_size, data.classes, data.features]
        key = store.digest({"sizes": sizes, **{name: plain[name] for name in ("model", "network", "match")}})
        if key not in solved:
            device = pick_device("cpu" if job.anywhere else job.device)  # its own may be elsewhere
            width_of(job, data, cache, device, unit.folder.parent)
            solved.add(key)
