"""From jobs to units of work: which runs a sweep consists of, and which are already done."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import environment, native, records, store
from seqbench.config import Job, settings
from seqbench.models.canaries import Bag, Constant
from seqbench.records import Run
from seqbench.store import DamagedFile

THREADS = 1
WORKING = "working"  # what a child tells its parent once it holds its locks


@dataclass(frozen=True)
class Unit:
    """One piece of work for one child process.

    Attributes:
        kind: "train", "speed", or "trial": training for tuning, which is never tested.
        jobs: the job of the run, one rung each; a speed unit times several rungs.
        asked: hash of what is measured: settings and seed.
        ground: hashes of what it stands on, by part: "code" (with versions, threads and device), "model" and
            "task" (plugin source, outside data), "machine" (any, where the job may run anywhere).
        identity: hash of both; equal identities give equal results.
        companion: a canary that nobody named; its score is a floor of its task.
        base: what a run has in common with the trials by which it was tuned; empty where there are none.
        number: which job of its command it is of, counted from 0 in the order in which they were declared.
        stack: the same for the seeds of a job that are trained as one; empty where each is trained by itself.
    """

    kind: str
    jobs: tuple[Job, ...]
    seed: int
    label: str
    asked: str
    ground: Mapping[str, str]
    identity: str
    folder: Path
    code_sha256: str
    companion: bool = False
    base: str = ""
    number: int = 0
    stack: str = ""

    @property
    def job(self) -> Job:
        """The job, or the first rung's job of a speed unit."""
        return self.jobs[0]

    @property
    def rung(self) -> int | None:
        """The rung that is trained; None for a speed unit, which spans the ladder."""
        return None if self.kind == "speed" else self.job.task.rung()


def plan(jobs: list[Job], sweep: Path) -> list[Unit]:
    """All units of a sweep: the training runs, long ones first, then the speed measurements."""
    training = [
        dataclasses.replace(unit, number=number)
        for number, job in enumerate(jobs)
        if not job.speed.only
        for unit in _training(job, sweep)
    ]
    beside = [unit for job in companions(jobs) for unit in _training(job, sweep)]
    training += [dataclasses.replace(unit, companion=True) for unit in beside]
    training.sort(key=lambda unit: -unit.job.task.cost() * unit.job.train.steps)
    timing = [
        dataclasses.replace(_timing(job, sweep), number=number)
        for number, job in enumerate(jobs)
        if job.speed.enabled
    ]
    units: dict[str, Unit] = {}
    for unit in [*training, *timing]:
        units.setdefault(unit.identity, unit)
    return list(units.values())


def companions(jobs: list[Job]) -> list[Job]:
    """Canaries for every task of the sweep that does not name them: one seed each, and no speed measurement.

    They get the budget of the task's first model, and their own learning rate.
    """
    first: dict[str, Job] = {}
    for job in jobs:
        if job.canaries and not job.speed.only:
            first.setdefault(store.digest({"task": settings(job)["task"]}), job)
    named = {(job.model.name, job.task.name) for job in jobs}
    return [
        dataclasses.replace(
            job,
            model=canary,
            train=dataclasses.replace(job.train, lr=canary.learning_rate, tuned=False),
            seeds=job.seeds[:1],
        )
        for job in first.values()
        for canary in (Bag(), Constant())
        if (canary.name, job.task.name) not in named
    ]


def _training(job: Job, sweep: Path, kind: str = "train") -> list[Unit]:
    rungs, ground = [_at(job, task) for task in job.task.rungs()], ground_of(job)
    units = [
        (n, one, _unit(kind, (one,), seed, sweep, ground))
        for n, seed in enumerate(job.seeds)
        for one in rungs
    ]
    if (size := stack_size(job)) == 1:
        return [unit for _, _, unit in units]
    return [
        dataclasses.replace(
            unit, stack=store.digest({"jobs": _asked(kind, one), "kind": kind, "part": n // size})
        )
        for n, one, unit in units
    ]


def stack_size(job: Job) -> int:
    """How many seeds of a job are trained as one; 1: each by itself."""
    return min(len(job.seeds), job.stack)


def bundled(units: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """Units that go into one child process, in the order of the first of each."""
    bundles: dict[str, list[Unit]] = {}
    for unit in units:
        bundles.setdefault(unit.stack or unit.identity, []).append(unit)
    return [tuple(bundle) for bundle in bundles.values()]


def trial_units(job: Job, sweep: Path, base: str) -> list[Unit]:
    """The runs of one trial: every rung at every tuning seed, without probes."""
    bare = dataclasses.replace(job, seeds=job.tuning.seeds, probes=[], canaries=False)
    return [dataclasses.replace(unit, base=base) for unit in _training(bare, sweep, "trial")]


def _timing(job: Job, sweep: Path) -> Unit:
    """One speed unit times the job's own rungs and ``speed.lengths``, shortest first."""
    tasks = job.task.rungs()
    if job.task.ladder is not None:
        values = sorted({*getattr(job.task, job.task.ladder), *job.speed.lengths})
        ladder: dict[str, Any] = {job.task.ladder: values}
        extended = dataclasses.replace(job.task, **ladder)
        extended.check()
        tasks = extended.rungs()
    return _unit("speed", tuple(_at(job, task) for task in tasks), job.seeds[0], sweep, ground_of(job))


def _at(job: Job, task: Any) -> Job:
    one = copy.copy(job)
    one.task = task
    return one


def _unit(kind: str, jobs: tuple[Job, ...], seed: int, sweep: Path, ground: dict[str, str]) -> Unit:
    job = jobs[0]
    rung = None if kind == "speed" else job.task.rung()
    step = "" if rung is None else f" {job.task.ladder_symbol}={rung}"
    which = {"train": f"seed {seed}", "speed": "speed", "trial": f"trial lr={job.train.lr:g} seed {seed}"}
    label = f"{job.model.variant()} {job.task.name}{step} {which[kind]}"
    asked = store.digest({"kind": kind, "seed": seed, "jobs": [_asked(kind, one) for one in jobs]})
    identity = store.digest({"asked": asked, "ground": ground})
    folder = sweep / records.folder_name(label, identity)
    return Unit(kind, jobs, seed, label, asked, ground, identity, folder, environment.code_sha256())


def _asked(kind: str, job: Job) -> dict[str, Any]:
    """The settings that decide a result: how speed is measured does not change what training gives.

    Networks that are trained as one round otherwise than each alone; which ones they are changes last bits.
    """
    plain = settings(job) | {"device": expected_device(job)}
    if kind == "speed":
        return {key: value for key, value in plain.items() if key != "stack"}
    as_one = {"stack": job.stack} if stack_size(job) > 1 else {}
    return {key: value for key, value in plain.items() if key not in ("speed", "stack")} | as_one


def ground_of(job: Job) -> dict[str, str]:
    """What a result stands on besides its settings; runs on different ground are not compared."""
    model: type = type(job.model)
    task: type = type(job.task)
    parts: dict[str, dict[str, Any]] = {
        "code": {
            "seqbench": environment.code_sha256(),
            "versions": environment.versions(),
            "threads": THREADS,
            "device": expected_device(job),
        },
        "model": {"plugin": environment.plugin_sha256(model)},
        "task": {"plugin": environment.plugin_sha256(task), "data": job.task.fingerprint()},
        "machine": {"any": True} if job.anywhere else _machine(),
    }
    return {name: store.digest(part)[:16] for name, part in parts.items()}


def _machine() -> dict[str, Any]:
    """What decides the last bits of a result on this machine."""
    return {
        "cpu": environment.cpu_model(),
        "instructions": environment.instruction_set(),
        "native": native.fingerprint(),
    }


def finished(unit: Unit) -> Run | None:
    """The record of an earlier, identical run that ended by itself, or None when it must run (again)."""
    try:
        run = records.read_run(unit.folder)
    except (FileNotFoundError, DamagedFile):
        return None
    same = run.status in records.ENDED and run.identity == unit.identity
    return run if same and records.files_intact(unit.folder, run) else None


def cache_folder(job: Job) -> Path:
    """Where prepared data sets are kept."""
    if job.cache_dir is not None:
        return Path(job.cache_dir)
    return environment.cache_root()


def expected_device(job: Job) -> str:
    """What ``device=auto`` will find, judged without importing torch."""
    if job.device != "auto":
        return job.device
    cpu_build = "+cpu" in environment.versions()["torch"]
    return "cuda" if Path("/proc/driver/nvidia/version").exists() and not cpu_build else "cpu"
