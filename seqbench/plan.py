"""From jobs to units of work: which runs a sweep consists of, and which are already done."""

from __future__ import annotations

import copy
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import environment, records, store
from seqbench.config import Job, settings
from seqbench.records import Run
from seqbench.store import DamagedFile

THREADS = 1


@dataclass(frozen=True)
class Unit:
    """One piece of work for one child process.

    Attributes:
        kind: "train" or "speed".
        jobs: the job of the run, one rung each; a speed unit times several rungs.
    """

    kind: str
    jobs: tuple[Job, ...]
    seed: int
    label: str
    identity: str
    folder: Path
    code_sha256: str

    @property
    def job(self) -> Job:
        """The job, or the first rung's job of a speed unit."""
        return self.jobs[0]

    @property
    def rung(self) -> int | None:
        """The rung that is trained; None for a speed unit, which spans the ladder."""
        return self.job.task.rung() if self.kind == "train" else None


def plan(jobs: list[Job], sweep: Path) -> list[Unit]:
    """All units of a sweep: the training runs, long ones first, then the speed measurements."""
    training = [unit for job in jobs for unit in _training(job, sweep)]
    training.sort(key=lambda unit: -unit.job.task.cost() * unit.job.train.steps)
    timing = [_timing(job, sweep) for job in jobs if job.speed.enabled]
    unique = {unit.identity: unit for unit in [*training, *timing]}
    return list(unique.values())


def _training(job: Job, sweep: Path) -> list[Unit]:
    rungs = [_at(job, task) for task in job.task.rungs()]
    return [_unit("train", (one,), seed, sweep) for seed in job.seeds for one in rungs]


def _timing(job: Job, sweep: Path) -> Unit:
    """One speed unit times the job's own rungs and ``speed.lengths``, shortest first."""
    tasks = job.task.rungs()
    if job.task.ladder is not None:
        values = sorted({*getattr(job.task, job.task.ladder), *job.speed.lengths})
        ladder: dict[str, Any] = {job.task.ladder: values}
        extended = dataclasses.replace(job.task, **ladder)
        extended.check()
        tasks = extended.rungs()
    return _unit("speed", tuple(_at(job, task) for task in tasks), job.seeds[0], sweep)


def _at(job: Job, task: Any) -> Job:
    one = copy.copy(job)
    one.task = task
    return one


def _unit(kind: str, jobs: tuple[Job, ...], seed: int, sweep: Path) -> Unit:
    job = jobs[0]
    rung = job.task.rung() if kind == "train" else None
    step = "" if rung is None else f" {job.task.ladder_symbol}={rung}"
    label = f"{job.model.variant()} {job.task.name}{step} " + (f"seed {seed}" if kind == "train" else "speed")
    classes: tuple[type, ...] = (type(job.model), type(job.task))
    identity = store.digest(
        {
            "kind": kind,
            "seed": seed,
            "jobs": [settings(one) for one in jobs],
            "code": environment.code_sha256(),
            "plugins": [environment.plugin_sha256(cls) for cls in classes],
            "versions": environment.versions(),
            "cpu": environment.cpu_model(),
            "threads": THREADS,
            "device": expected_device(job),
            "data": job.task.fingerprint(),
        }
    )
    folder = sweep / records.folder_name(label, identity)
    return Unit(kind, jobs, seed, label, identity, folder, environment.code_sha256())


def finished(unit: Unit) -> Run | None:
    """The record of an earlier, identical and completed run, or None when it must run (again)."""
    if unit.job.force:
        return None
    try:
        run = records.read_run(unit.folder)
    except (FileNotFoundError, DamagedFile):
        return None
    same = run.status == "done" and run.identity == unit.identity
    return run if same and records.files_intact(unit.folder, run) else None


def describe(
    jobs: list[Job], units: list[Unit], sweep: str, program: list[str], command: list[str]
) -> dict[str, Any]:
    """The plan as written to ``plan.json`` before the first run; models in the order they were named."""
    return {
        "schema": records.SCHEMA,
        "sweep": sweep,
        "program": program,
        "command": command,
        "reference": next((job.model.name for job in jobs if not job.model.canary), None),
        "models": list(dict.fromkeys(job.model.name for job in jobs)),
        "runs": [
            {
                "folder": unit.folder.name,
                "identity": unit.identity,
                "kind": unit.kind,
                "label": unit.label,
                "task": unit.job.task.name,
                "rung": unit.rung,
                "model": unit.job.model.name,
                "seed": unit.seed,
                "config": settings(unit.job),
            }
            for unit in units
        ],
    }


def cache_folder(job: Job) -> Path:
    """Where prepared data sets are kept."""
    if job.cache_dir is not None:
        return Path(job.cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "seqbench"


def expected_device(job: Job) -> str:
    """What ``device=auto`` will find, judged without importing torch."""
    if job.device != "auto":
        return job.device
    cpu_build = "+cpu" in environment.versions()["torch"]
    return "cuda" if Path("/proc/driver/nvidia/version").exists() and not cpu_build else "cpu"
