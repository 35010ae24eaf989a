"""Run a sweep: plan, prepare data, train side by side, time alone, leave records."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from seqbench import environment, records, store
from seqbench.config import Job, settings
from seqbench.display import Display
from seqbench.errors import UsageError
from seqbench.isolate import Pool
from seqbench.plan import Unit, describe, expected_device, finished, plan


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
    if not all(c.isalnum() or c in "._-" for c in name) or name.startswith(".") or len(name) > 80:
        raise UsageError(
            f"sweep={name}: use at most 80 letters, digits, '-', '_' and '.', not starting with '.'"
        )
    return name


def slots(job: Job) -> int:
    """How many runs go side by side: one per core, or one where a GPU is used."""
    if job.workers is not None:
        return job.workers
    return 1 if expected_device(job) == "cuda" else environment.cores()


def run_sweep(jobs: list[Job], command: list[str], console: Console) -> Path:
    """Run everything that is not done yet. Returns the sweep's folder.

    Raises:
        UsageError: the data of a task cannot be used; nothing has been trained.
        KeyboardInterrupt: stopped by the user; what was running is recorded as interrupted.
    """
    folder = sweep_folder(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    units = plan(jobs, folder)
    _prepare(units)
    store.write_sealed(folder / records.PLAN_FILE, describe(jobs, units, folder.name, program(), command))
    reused = [unit for unit in units if finished(unit) is not None]
    todo = [unit for unit in units if unit not in reused]
    console.print(
        f"{len(units)} runs in {folder}" + (f", {len(reused)} reused" if reused else ""),
        highlight=False, markup=False,
    )  # fmt: skip
    with Display(console, len(units), len(reused)) as display:
        for pool, some in (
            (Pool(slots(jobs[0])), [unit for unit in todo if unit.kind == "train"]),
            (Pool(1), [unit for unit in todo if unit.kind == "speed"]),
        ):
            for unit, run in pool.run(some, lambda pool=pool: display.tick(pool.running)):  # type: ignore[misc]
                display.ended(unit, run)
    return folder


def _prepare(units: list[Unit]) -> None:
    """Check the device, load and cache data sets: once, before anything is trained."""
    wanted = {
        store.digest({"task": settings(unit.job)["task"], "device": unit.job.device}): unit.job
        for unit in units
        if finished(unit) is None
    }
    if wanted:
        with tempfile.TemporaryDirectory(prefix="seqbench-") as scratch:
            Pool(1).prepare(list(wanted.values()), Path(scratch) / "failure.txt")


def program() -> list[str]:
    """The words that start this program, for repeating a command."""
    name = Path(sys.argv[0])
    if name.name == "__main__.py":
        return ["python", "-m", "seqbench"]
    return ["python", sys.argv[0]] if name.suffix == ".py" else [name.name]


def resume_command(command: list[str]) -> str:
    """What to type to go on where a sweep stopped."""
    return shlex.join([*program(), *(word for word in command if not word.startswith("force="))])
