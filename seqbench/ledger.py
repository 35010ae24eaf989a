"""The plan of a sweep on disk: which runs it has, from which commands, and how many ended how."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqbench import locks, records
from seqbench.config import Job, settings
from seqbench.errors import UsageError
from seqbench.plan import Unit
from seqbench.records import NewerSchema, Run
from seqbench.store import DamagedFile

Plan = dict[str, Any]


def describe(jobs: list[Job], units: list[Unit], sweep: str, program: list[str], command: list[str]) -> Plan:
    """The plan of one command; models in the order they were named, runs with the number of their job."""
    return {
        "sweep": sweep,
        "program": program,
        "commands": [command],
        "reference": next((job.model.name for job in jobs if not job.model.canary), None),
        "models": list(dict.fromkeys(job.model.name for job in jobs)),
        "runs": [
            {
                "folder": unit.folder.name,
                "identity": unit.identity,
                "asked": unit.asked,
                "ground": dict(unit.ground),
                "command": 0,
                "job": unit.number,
                "kind": unit.kind,
                "label": unit.label,
                "task": unit.job.task.name,
                "rung": unit.rung,
                "model": unit.job.model.name,
                "seed": unit.seed,
                "companion": unit.companion,
                "base": unit.base,
                "config": settings(unit.job),
            }
            for unit in units
        ],
    }


def write(folder: Path, new: Plan) -> tuple[Plan, str]:
    """Write a command's plan together with the runs that earlier commands planned in the same sweep.

    Returns:
        The plan as written, and a remark for the user when the one before was damaged.

    Raises:
        UsageError: the plan before is of a newer version of seqbench.
    """
    with locks.file_lock(folder / records.LOCK_FILE):
        remark = ""
        try:
            earlier = records.read_plan(folder)
        except FileNotFoundError:
            earlier = {"runs": [], "commands": []}
        except NewerSchema as error:
            raise UsageError(f"{error}, or choose another sweep=NAME") from None
        except DamagedFile as error:
            aside = folder / f"{records.PLAN_FILE}.damaged"
            with contextlib.suppress(OSError):
                (folder / records.PLAN_FILE).replace(aside)
            earlier = rebuilt(folder)
            remark = f"{error}; it is kept as {aside.name}, and its runs were found again by their records"
        plan = extended(new, earlier)
        records.write_plan(folder, plan)
    return plan, remark


def ensure(folder: Path, own: Plan) -> None:
    """Write a command's plan again if its runs are not in the sweep's any more, or the plan is lost."""
    try:
        there = {run.get("asked") for run in records.read_plan(folder)["runs"]}
    except (FileNotFoundError, DamagedFile):
        there = set()
    if not {run["asked"] for run in own["runs"]} <= there:
        write(folder, own)


def extended(plan: Plan, earlier: Mapping[str, Any]) -> Plan:
    """A plan together with the runs of an earlier one, whatever became of them, where they are comparable.

    Other seeds or models of an earlier command stay in the table, and so do its reference, as long as that
    has runs, and the order in which models and jobs were declared: what is added never changes what others
    are compared with. What stands on other ground (code, data, versions) stays on disk but out of the plan,
    so that the report never mixes it in.
    """
    asked = {run["asked"] for run in plan["runs"]}
    ground: dict[str, set[str]] = {}
    for run in plan["runs"]:
        for part, value in _parts(run).items():
            ground.setdefault(part, set()).add(value)
    kept = [
        entry
        for entry in earlier["runs"]
        if entry.get("ground")  # else planned by a version that did not know
        and entry["asked"] not in asked
        and all(value in ground.get(part, {value}) for part, value in _parts(entry).items())
    ]
    same = [number for number, words in enumerate(earlier["commands"]) if [words] == plan["commands"]]
    numbers = sorted({entry["command"] for entry in kept if entry["command"] < len(earlier["commands"])})
    numbers = [number for number in numbers if number not in same]  # repeated, it stands once, as the newest
    place = {number: position for position, number in enumerate(numbers)}
    old = [{**entry, "command": place.get(entry["command"], len(numbers))} for entry in kept]
    named = {entry.get("asked") for entry in earlier["runs"] if not entry.get("companion")}
    new = [
        {**entry, "command": len(numbers), "companion": entry["companion"] and entry["asked"] not in named}
        for entry in _numbered(plan["runs"], earlier["runs"])
    ]
    runs = [*new, *old]
    contests = {(e.get("model"), e.get("task")) for e in runs if not e.get("companion")}
    runs = [e for e in runs if not (e.get("companion") and (e.get("model"), e.get("task")) in contests)]
    there = {model for model, _ in contests}
    models = dict.fromkeys([*earlier.get("models", []), *plan["models"], *(entry["model"] for entry in old)])
    commands = [*(earlier["commands"][number] for number in numbers), *plan["commands"]]
    return {
        **plan,
        "commands": commands,
        "reference": earlier["reference"] if earlier.get("reference") in there else plan["reference"],
        "models": [model for model in models if model in there],
        "runs": runs,
    }


def _numbered(runs: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Planned runs with the numbers of their jobs in the whole sweep: the old ones of jobs known before."""
    known = {entry["asked"]: entry["job"] for entry in earlier if "job" in entry and entry.get("ground")}
    numbers: dict[int, int] = {}
    for entry in runs:
        if entry["asked"] in known:
            numbers.setdefault(entry["job"], known[entry["asked"]])
    free = max(known.values(), default=-1) + 1
    return [{**entry, "job": numbers.get(entry["job"], free + entry["job"])} for entry in runs]


def _parts(entry: Mapping[str, Any]) -> dict[str, str]:
    """The ground of a planned run, by what must be equal to compare: its model's, its task's, ..."""
    ground = entry["ground"]
    parts = {"code": ground["code"]}
    parts |= {f"{group} {entry[group]}": ground[group] for group in ("model", "task")}
    return parts | ({"machine": ground["machine"]} if entry["kind"] == "speed" else {})


def rebuilt(folder: Path) -> Plan:
    """The runs of a sweep whose plan is lost, from the records themselves; who planned them is not known."""
    runs = [
        {
            "folder": place.name,
            "command": 0,
            "ground": dict(run.ground),
            "config": dict(run.config),
            "companion": run.metrics.get("companion") is True,
            "base": "",  # a trial is then told by its model's name
            **{key: getattr(run, key) for key in _OF_A_RUN},
        }
        for place, run in _recorded(folder)
    ]
    return {"commands": [], "runs": runs}


_OF_A_RUN = ("identity", "asked", "kind", "label", "task", "rung", "model", "seed")


def _recorded(folder: Path) -> Iterator[tuple[Path, Run]]:
    """Every run below a sweep's folder that has a record."""
    with os.scandir(folder) as places:
        for place in sorted(places, key=lambda one: one.name):
            if place.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError, DamagedFile):
                    yield Path(place.path), records.read_run(Path(place.path))


def tally(folder: Path, plan: Plan) -> str:
    """Every planned run by its status, for a sweep that was stopped; the report counts more thoroughly."""
    counts = Counter(_status(folder / entry["folder"], entry["identity"]) for entry in plan["runs"])
    parts = " + ".join(f"{counts[status]} {status}" for status in records.STATUSES if counts[status])
    return f"{len(plan['runs'])} runs planned = {parts}"


def _status(folder: Path, identity: str) -> str:
    try:
        run = records.read_run(folder)
    except FileNotFoundError:
        return "pending"
    except DamagedFile:
        return "damaged"
    return run.status if run.identity == identity else "damaged"
