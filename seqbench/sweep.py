"""Run a sweep: plan, prepare data, train side by side, time alone, leave records."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from seqbench import environment, ledger, locks, records, store
from seqbench.config import Job, settings
from seqbench.display import Display, outcome
from seqbench.errors import UsageError
from seqbench.isolate import Pool
from seqbench.plan import Unit, expected_device, finished, plan
from seqbench.records import Run


def sweep_folder(jobs: list[Job]) -> Path:
    """The folder of a sweep: the same command (whatever its seeds) always gives the same one."""
    job = jobs[0]
    if job.sweep:
        return Path(job.runs_dir) / safe_name(job.sweep)
    tasks = "+".join(dict.fromkeys(one.task.name for one in jobs))
    models = "-".join(dict.fromkeys(one.model.name for one in jobs))
    digest = store.digest({"jobs": [settings(one) for one in jobs]})
    return Path(job.runs_dir) / records.folder_name(f"{tasks} {models}", digest)[:80]


def safe_name(name: str) -> str:
    """Refuse sweep names that would leave the runs folder.

    Raises:
        UsageError: the name holds anything but letters, digits, dots, dashes and underscores.
    """
    safe = all((c.isascii() and c.isalnum()) or c in "._-" for c in name)
    if not safe or name.startswith(".") or len(name) > 80:
        raise UsageError(
            f"sweep={name}: use at most 80 letters, digits, '-', '_' and '.', not starting with '.'"
        )
    return name


def slots(job: Job) -> int:
    """How many runs go side by side: one per core, or one where a GPU is used."""
    if job.workers is not None:
        return job.workers
    return 1 if expected_device(job) == "cuda" else environment.cores()


@dataclass(frozen=True)
class Swept:
    """What a command ran.

    Attributes:
        runs: names of the folders of its runs; the sweep may hold others of earlier commands.
        unrecorded: in words, the runs whose failure could not be recorded (a full disk).
    """

    folder: Path
    runs: frozenset[str]
    unrecorded: tuple[str, ...]


def run_sweep(jobs: list[Job], command: list[str], console: Console) -> Swept:
    """Run everything that is not done yet.

    Raises:
        UsageError: the data of a task cannot be used; nothing has been trained.
        KeyboardInterrupt: stopped by the user; what was running is recorded as interrupted.
    """
    folder = sweep_folder(jobs)
    with locks.busy():
        store.make_folder(folder)
        units = plan(jobs, folder)
        if jobs[0].force:
            _forget(units)
        reused = {unit.identity for unit in units if finished(unit) is not None}
    todo = [unit for unit in units if unit.identity not in reused]
    try:
        _prepare(todo)
    except UsageError:
        with contextlib.suppress(OSError):  # it holds what earlier commands left
            folder.rmdir()
        raise
    own = ledger.describe(jobs, units, folder.name, program(), command)
    planned, remark = ledger.write(folder, own)
    say(console, _opening(folder, len(units), len(reused), len(planned["runs"])))
    if remark:
        say(console, remark)
    try:
        unrecorded = _run(jobs[0], todo, len(units), console)
    except KeyboardInterrupt:
        say(console, ledger.tally(folder, planned))
        raise
    _settle(folder, own, unrecorded)
    left = tuple(f"{unit.label}: {outcome(run)}" for unit, run in unrecorded if not _recorded(unit))
    return Swept(folder, frozenset(unit.folder.name for unit in units), left)


def _opening(folder: Path, runs: int, reused: int, planned: int) -> str:
    """What is about to be done, in a line."""
    parts = [f"{runs} runs in {folder}"]
    parts += [f"{reused} reused"] if reused else []
    parts += [f"and {planned - runs} of earlier commands in the same sweep"] if planned > runs else []
    return ", ".join(parts)


def _forget(units: list[Unit]) -> None:
    """Take back the records of runs that are to be redone; where another sweep is at work, it redoes them."""
    for unit in units:
        if unit.folder.is_dir():
            lock = locks.file_lock(unit.folder / records.LOCK_FILE, patience_s=0)
            with contextlib.suppress(BlockingIOError), lock:
                store.remove(unit.folder / records.RUN_FILE)
                store.remove(unit.folder / records.CHECKPOINT_FILE)


def _run(job: Job, todo: list[Unit], total: int, console: Console) -> list[tuple[Unit, Run]]:
    """Train side by side, then time alone. Returns the runs whose record could not be written."""
    unrecorded = []
    with Display(console, total, total - len(todo)) as display:
        for kind, at_once in (("train", slots(job)), ("speed", 1)):
            some = [unit for unit in todo if unit.kind == kind]
            with contextlib.closing(Pool(at_once).run(some, display.tick)) as ended:
                for unit, run in ended:
                    display.ended(unit, run)
                    if run.status != "done" and not _recorded(unit):
                        unrecorded.append((unit, run))
                    if run.status != "done" and job.fail_fast:
                        say(console, "stopped at the first run that did not end well (fail_fast=true)")
                        return unrecorded
    return unrecorded


def _recorded(unit: Unit) -> bool:
    return (unit.folder / records.RUN_FILE).exists()


def _settle(folder: Path, own: ledger.Plan, unrecorded: list[tuple[Unit, Run]]) -> None:
    """Write what could not be written while the disk was full or the folder gone, if that works now."""
    for unit, run in unrecorded:
        with contextlib.suppress(OSError):  # also where another sweep is at work on the run
            store.make_folder(unit.folder)
            with locks.file_lock(unit.folder / records.LOCK_FILE, patience_s=0):
                if finished(unit) is None:
                    records.write_run(unit.folder, run, {})
    with contextlib.suppress(OSError, UsageError):
        store.make_folder(folder)
        ledger.ensure(folder, own)


def _prepare(todo: list[Unit]) -> None:
    """Check the device, load and cache data sets: once, before anything is trained."""
    wanted = {
        store.digest({"task": settings(unit.job)["task"], "device": unit.job.device}): unit.job
        for unit in todo
    }
    if wanted:
        with tempfile.TemporaryDirectory(prefix="seqbench-") as scratch:
            Pool(1).prepare(list(wanted.values()), Path(scratch) / "failure.txt")


def say(console: Console, line: str) -> None:
    """Print words as they are."""
    console.print(line, highlight=False, markup=False)


def program() -> list[str]:
    """The words that start this program, for repeating a command."""
    name = Path(sys.argv[0])
    if name.name == "__main__.py":
        return ["python", "-m", "seqbench"]
    return ["python", sys.argv[0]] if name.suffix == ".py" else [name.name]


def resume_command(command: list[str]) -> str:
    """What to type to go on where a sweep stopped."""
    return shlex.join([*program(), *(word for word in command if not word.startswith("force="))])
