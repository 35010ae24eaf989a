"""Run a sweep: plan, prepare data, train side by side, time alone, leave records."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from seqbench import environment, locks, records, store
from seqbench.config import Job, settings
from seqbench.display import Display, outcome
from seqbench.errors import UsageError
from seqbench.isolate import Pool
from seqbench.plan import Unit, describe, expected_device, extended, finished, plan
from seqbench.records import Run
from seqbench.store import DamagedFile


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


def run_sweep(jobs: list[Job], command: list[str], console: Console) -> tuple[Path, list[str]]:
    """Run everything that is not done yet.

    Returns:
        The sweep's folder, and in words the runs whose failure could not be recorded there (a full disk).

    Raises:
        UsageError: the data of a task cannot be used; nothing has been trained.
        KeyboardInterrupt: stopped by the user; what was running is recorded as interrupted.
    """
    folder = sweep_folder(jobs)
    store.make_folder(folder)
    units = plan(jobs, folder)
    reused = {unit.identity for unit in units if finished(unit) is not None}
    todo = [unit for unit in units if unit.identity not in reused]
    _prepare(todo)
    planned = _write_plan(folder, describe(jobs, units, folder.name, program(), command))
    earlier = len(planned["runs"]) - len(units)
    say(
        console,
        f"{len(units)} runs in {folder}"
        + (f", {len(reused)} reused" if reused else "")
        + (f"; the table also shows {earlier} of earlier commands" if earlier else ""),
    )
    unrecorded = _run(jobs[0], todo, len(units), console)
    _settle(folder, planned, unrecorded)
    return folder, [f"{unit.label}: {outcome(run)}" for unit, run in unrecorded if not _recorded(unit)]


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


def _write_plan(folder: Path, new: dict[str, Any]) -> dict[str, Any]:
    """Write the plan before the first run, together with what earlier commands finished here."""
    with locks.file_lock(folder / ".lock"):
        with contextlib.suppress(FileNotFoundError, DamagedFile):  # the first plan, or one that is lost
            new = extended(new, records.read_plan(folder), folder)
        records.write_plan(folder, new)
    return new


def _settle(folder: Path, planned: dict[str, Any], unrecorded: list[tuple[Unit, Run]]) -> None:
    """Write what could not be written while the disk was full or the folder gone, if that works now."""
    with contextlib.suppress(OSError):
        for unit, run in unrecorded:
            records.write_run(unit.folder, run, {})
        try:
            records.read_plan(folder)
        except (FileNotFoundError, DamagedFile):
            store.make_folder(folder)
            records.write_plan(folder, planned)


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
