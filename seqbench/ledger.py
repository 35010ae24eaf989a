"""The plan of a sweep on disk: which runs it has, from which commands, and how many ended how."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqbench import collected, locks, records
from seqbench.collected import Plan
from seqbench.config import Job, settings
from seqbench.errors import UsageError
from seqbench.plan import Unit
from seqbench.records import NewerSchema
from seqbench.store import DamagedFile


def describe(jobs: list[Job], units: list[Unit], sweep: str, program: list[str], command: list[str]) -> Plan:
    """The plan of one command; models in the order they were named, runs with the number of their job."""
    known: dict[int, dict[str, Any]] = {}  # all seeds of a job on a rung share it

    def settings_of(job: Job) -> dict[str, Any]:
        return known[id(job)] if id(job) in known else known.setdefault(id(job), settings(job))

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
                "config": settings_of(unit.job),
            }
            for unit in units
        ],
    }


def write(folder: Path, new: Plan) -> tuple[Plan, str]:
    """Write a command's plan together with what the same sweep has of earlier commands and other machines.

    Runs that no plan names, since their folders were copied here or the plan was lost, are found by their
    records (:func:`seqbench.collected.grown`).

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
            earlier = {"runs": [], "commands": []}
            remark = f"{error}; it is kept as {aside.name}, and its runs were found again by their records"
        plan, _ = collected.grown(extended(new, earlier), folder, fill=False)
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
    earlier = collected.tidy(earlier)
    asked = {run["asked"] for run in plan["runs"]}
    ground = collected.grounds(plan["runs"])
    kept = [
        entry
        for entry in earlier["runs"]
        if not collected.cause(ground, entry) and entry.get("asked") not in asked
    ]
    same = [number for number, words in enumerate(earlier["commands"]) if [words] == plan["commands"]]
    numbers = sorted(
        {n for entry in kept if (n := entry.get("command", -1)) in range(len(earlier["commands"]))}
    )
    numbers = [number for number in numbers if number not in same]  # repeated, it stands once, as the newest
    place = {number: position for position, number in enumerate(numbers)}
    old = [{**entry, "command": place.get(entry.get("command"), len(numbers))} for entry in kept]
    named = {entry.get("asked") for entry in earlier["runs"] if not entry.get("companion")}
    new = [
        {**entry, "command": len(numbers), "companion": entry["companion"] and entry["asked"] not in named}
        for entry in _numbered(plan["runs"], earlier["runs"])
    ]
    runs = collected.without_beaten([*new, *old])
    there = {model for model, _ in collected.contests(runs)}
    models = dict.fromkeys([*earlier["models"], *plan["models"], *(entry["model"] for entry in old)])
    commands = [*(earlier["commands"][number] for number in numbers), *plan["commands"]]
    return {
        **plan,
        "commands": commands,
        "reference": earlier["reference"] if earlier["reference"] in there else plan["reference"],
        "models": [model for model in models if model in there],
        "runs": runs,
    }


def _numbered(runs: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Planned runs with the numbers of their jobs in the whole sweep: the old ones of jobs known before."""
    known = {entry["asked"]: entry["job"] for entry in earlier if {"asked", "job", "ground"} <= entry.keys()}
    numbers: dict[int, int] = {}
    for entry in runs:
        if entry["asked"] in known:
            numbers.setdefault(entry["job"], known[entry["asked"]])
    free = max(known.values(), default=-1) + 1
    return [{**entry, "job": numbers.get(entry["job"], free + entry["job"])} for entry in runs]


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
