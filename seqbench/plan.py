"""From jobs to units of work: which runs a sweep consists of, and which are already done."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import environment, records, store
from seqbench.config import Job, settings
from seqbench.records import Run
from seqbench.secret import mask_word
from seqbench.store import DamagedFile

THREADS = 1


@dataclass(frozen=True)
class Unit:
    """One piece of work for one child process.

    Attributes:
        kind: "train" or "speed".
        jobs: the job of the run, one rung each; a speed unit times several rungs.
        asked: hash of what is measured: settings and seed.
        ground: hashes of what it stands on, by part: "code" (with versions, threads and device), "model" and
            "task" (plugin source, outside data), "machine".
        identity: hash of both; equal identities give equal results.
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
    asked = store.digest({"kind": kind, "seed": seed, "jobs": [_asked(kind, one) for one in jobs]})
    ground = _ground(job)
    identity = store.digest({"asked": asked, "ground": ground})
    folder = sweep / records.folder_name(label, identity)
    return Unit(kind, jobs, seed, label, asked, ground, identity, folder, environment.code_sha256())


def _asked(kind: str, job: Job) -> dict[str, Any]:
    """The settings that decide a result: how speed is measured does not change what training gives."""
    plain = settings(job)
    return plain if kind == "speed" else {key: value for key, value in plain.items() if key != "speed"}


def _ground(job: Job) -> dict[str, str]:
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
        "machine": {"cpu": environment.cpu_model(), "instructions": environment.instruction_set()},
    }
    return {name: store.digest(part)[:16] for name, part in parts.items()}


def finished(unit: Unit) -> Run | None:
    """The record of an earlier, identical run that ended by itself, or None when it must run (again)."""
    if unit.job.force:
        return None
    try:
        run = records.read_run(unit.folder)
    except (FileNotFoundError, DamagedFile):
        return None
    same = run.status in records.ENDED and run.identity == unit.identity
    return run if same and records.files_intact(unit.folder, run) else None


def describe(
    jobs: list[Job], units: list[Unit], sweep: str, program: list[str], command: list[str]
) -> dict[str, Any]:
    """The plan as written to ``plan.json`` before the first run; models in the order they were named."""
    return {
        "sweep": sweep,
        "program": [mask_word(word) for word in program],
        "commands": [[mask_word(word) for word in command]],
        "reference": next((job.model.name for job in jobs if not job.model.canary), None),
        "models": list(dict.fromkeys(job.model.name for job in jobs)),
        "runs": [
            {
                "folder": unit.folder.name,
                "identity": unit.identity,
                "asked": unit.asked,
                "ground": dict(unit.ground),
                "command": 0,
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


def extended(plan: dict[str, Any], earlier: Mapping[str, Any], sweep: Path) -> dict[str, Any]:
    """The plan together with what earlier commands finished in the same sweep, as far as it is comparable.

    Other seeds or models of an earlier command stay in the table. What stands on other ground (code, data,
    versions) stays on disk but out of the plan, so that the report never mixes it in.
    """
    asked = {run["asked"] for run in plan["runs"]}
    ground: dict[str, set[str]] = {}
    for run in plan["runs"]:
        for part, value in _parts(run).items():
            ground.setdefault(part, set()).add(value)
    kept = [
        entry
        for entry in earlier["runs"]
        if "ground" in entry  # else planned by a version that did not know
        and entry["asked"] not in asked
        and all(value in ground.get(part, {value}) for part, value in _parts(entry).items())
        and _ended(sweep, entry)
    ]
    numbers = sorted({entry["command"] for entry in kept})
    place = {number: position for position, number in enumerate(numbers)}
    old = [{**entry, "command": place[entry["command"]]} for entry in kept]
    new = [{**entry, "command": len(numbers)} for entry in plan["runs"]]
    models = dict.fromkeys([*plan["models"], *(entry["model"] for entry in old)])
    commands = [*(earlier["commands"][number] for number in numbers), *plan["commands"]]
    return {**plan, "commands": commands, "models": list(models), "runs": [*new, *old]}


def _parts(entry: Mapping[str, Any]) -> dict[str, str]:
    """The ground of a planned run, by what must be equal to compare: its model's, its task's, ..."""
    ground = entry["ground"]
    parts = {"code": ground["code"]}
    parts |= {f"{group} {entry[group]}": ground[group] for group in ("model", "task")}
    return parts | ({"machine": ground["machine"]} if entry["kind"] == "speed" else {})


def _ended(sweep: Path, entry: Mapping[str, Any]) -> bool:
    """Whether an earlier run was brought to its end."""
    try:
        run = records.read_run(sweep / Path(entry["folder"]).name)
    except (FileNotFoundError, DamagedFile):
        return False
    return run.status in records.ENDED and run.identity == entry["identity"]


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
