"""A child process per unit: time limit, crash = a record, several side by side, nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from seqbench import environment, records
from seqbench.config import Job, settings
from seqbench.errors import UsageError
from seqbench.plan import Unit
from seqbench.records import Run
from seqbench.store import DamagedFile

_POLL_S = 0.25
_LAST_LINES = 5


@dataclass
class Child:
    """A running child process and when it started."""

    unit: Unit
    process: ForkServerProcess
    started_at: float  # wall clock, to compare with file times


def warm_server() -> multiprocessing.context.ForkServerContext:
    """Start the server process that imports torch once; every child is forked from it in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqbench.worker"])
    forkserver.ensure_running()
    return context


class Pool:
    """Runs units in child processes forked from a warm server that has imported torch."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._context = warm_server()
        self._running: list[Child] = []

    @property
    def running(self) -> list[Unit]:
        """The units at work now."""
        return [child.unit for child in self._running]

    def prepare(self, jobs: list[Job], failure: Path) -> None:
        """Check devices and prepare data in a child; ``failure`` is where it leaves a reason.

        Raises:
            UsageError: a device or the data cannot be used.
        """
        process = self._context.Process(target=_prepare, args=(jobs, failure))
        process.start()
        process.join()
        if failure.exists():
            raise UsageError(failure.read_text(encoding="utf-8"))
        if process.exitcode != 0:
            raise UsageError(f"preparing the data ended with exit code {process.exitcode}")

    def run(self, units: list[Unit], tick: Callable[[], None]) -> Iterator[tuple[Unit, Run]]:
        """Run all units, yielding each with its record as it ends; ``tick`` is called while waiting."""
        waiting = list(units)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.slots:
                    self._start(waiting.pop(0))
                wait([child.process.sentinel for child in self._running], timeout=_POLL_S)
                tick()
                for child in [c for c in self._running if not c.process.is_alive()]:
                    self._running.remove(child)
                    child.process.join()
                    yield child.unit, self._record(child, child.process.exitcode)
                self._enforce_limits()
        finally:
            self._stop_all()

    def _start(self, unit: Unit) -> None:
        unit.folder.mkdir(parents=True, exist_ok=True)
        if unit.job.force:  # otherwise the child decides, holding the run's lock
            (unit.folder / records.RUN_FILE).unlink(missing_ok=True)
        process = self._context.Process(target=_execute, args=(unit,))
        process.start()
        self._running.append(Child(unit, process, time.time()))

    def _record(self, child: Child, code: int | None) -> Run:
        """The child's record; if it left none, one that says how it died."""
        try:
            return records.read_run(child.unit.folder)
        except FileNotFoundError:
            message = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            status = "killed" if code is not None and code < 0 else "failed"
            return write_failure(child.unit, status, "ProcessEnded", message)
        except DamagedFile as error:
            return write_failure(child.unit, "damaged", "DamagedFile", str(error))

    def _enforce_limits(self) -> None:
        for child in list(self._running):
            limit_s = child.unit.job.limit.time_s
            if working_s(child) > limit_s:
                _end(child, "timeout", "TimeLimit", f"longer than limit.time_s={limit_s:g}")

    def _stop_all(self) -> None:
        """End every child that still runs (Ctrl-C, SIGTERM, an error) and record it as interrupted."""
        for child in self._running:
            _end(child, "interrupted", "Interrupted", "the sweep was stopped")
        self._running = []


def working_s(child: Child) -> float:
    """Seconds since the child got its locks; waiting for another sweep does not count."""
    try:
        working_at = (child.unit.folder / records.STARTED_FILE).stat().st_mtime
    except FileNotFoundError:
        return 0.0
    return time.time() - working_at if working_at >= child.started_at - 1 else 0.0


def _execute(unit: Unit) -> None:
    from seqbench.worker import execute

    execute(unit)


def _prepare(jobs: list[Job], failure: Path) -> None:
    from seqbench.worker import prepare

    prepare(jobs, failure)


def _end(child: Child, status: str, kind: str, message: str) -> None:
    """Kill a child and say why, unless it has just committed its own record."""
    _kill(child)
    try:
        records.read_run(child.unit.folder)
    except (FileNotFoundError, DamagedFile):
        write_failure(child.unit, status, kind, message)


def _kill(child: Child) -> None:
    """Kill the child with everything it started (it leads its own process group)."""
    pid = child.process.pid
    try:
        if pid is not None and os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            child.process.kill()
    except ProcessLookupError:
        pass  # it ended by itself in the meantime
    child.process.join()


def write_failure(unit: Unit, status: str, kind: str, message: str) -> Run:
    """Record a unit whose child could not do so itself; keeps the last lines of its log."""
    log = unit.folder / records.LOG_FILE
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    run = Run(
        kind=unit.kind,
        identity=unit.identity,
        status=status,
        task=unit.job.task.name,
        rung=unit.rung,
        model=unit.job.model.name,
        seed=unit.seed,
        config=settings(unit.job),
        card=unit.job.task.described(),
        environment=environment.describe(unit.code_sha256),
        error={"type": kind, "message": message, "place": " | ".join(tail[-_LAST_LINES:])[:2000]},
    )
    return records.write_run(unit.folder, run, {})


def last_event(folder: Path) -> dict[str, Any] | None:
    """The newest progress line of a run."""
    import json

    try:
        lines = (folder / records.EVENTS_FILE).read_bytes().splitlines()
        event: dict[str, Any] = json.loads(lines[-1])
    except (OSError, IndexError, ValueError):
        return None  # nothing written yet, or the last line is still being written
    return event
