"""What a sweep's folder says that it holds: the runs of its plan, and their records. Nothing is trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import collected, records
from seqbench.collected import Entry
from seqbench.errors import UsageError
from seqbench.records import Run
from seqbench.report.label import clean
from seqbench.store import DamagedFile

_LARGEST = 1e100


@dataclass(frozen=True)
class Planned:
    """A run that the sweep has, and what became of it.

    Attributes:
        reason: why its record cannot be used, in words; empty where it can, or where there is none.
    """

    entry: Entry
    status: str
    run: Run | None
    reason: str


@dataclass(frozen=True)
class Holding:
    """A sweep's folder: its plan with all that was collected from other places, and what cannot be used.

    Attributes:
        left_out: finished runs that belong to no plan, counted by cause in words.
        problems: what could not be read, in words.
    """

    plan: Mapping[str, Any]
    runs: list[Planned]
    left_out: Mapping[str, int]
    problems: list[str]


def read(folder: Path) -> Holding:
    """Read the plan and the records of a sweep.

    Raises:
        UsageError: the folder has no valid plan; says what would be right.
    """
    raw = _read_plan(folder)
    tidy = collected.tidy(raw)
    odd = len(raw["runs"]) - len(tidy["runs"])
    problems = [f"{odd} entries of plan.json are not runs"] if odd else []
    plan, found = collected.grown(tidy, folder)
    runs = [
        Planned(entry, run.status, tamed_run(run), "")
        if (run := found.records.get(entry["folder"]))
        else Planned(entry, *_record(folder, entry))
        for entry in plan["runs"]
    ]
    problems += [f"{one.entry['folder']}: {one.reason}" for one in runs if one.status == "damaged"]
    problems += [clean(f"not in the plan, {reason}", 300) for reason in found.damaged.values()]
    return Holding(plan, runs, found.left_out, problems)


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        return records.read_plan(folder)
    except (FileNotFoundError, NotADirectoryError):
        reason = "no such folder" if not folder.is_dir() else f"it has no {records.PLAN_FILE}"
        raise UsageError(f"{folder}: {reason}; give the folder of a sweep, like runs/NAME") from None
    except (DamagedFile, OSError) as error:
        raise UsageError(
            f"{error}; give the folder of a sweep, like runs/NAME, or repeat its command: runs that are "
            "whole are reused"
        ) from None


def _record(folder: Path, entry: Mapping[str, Any]) -> tuple[str, Run | None, str]:
    """Status, record and reason of a planned run."""
    place = folder / entry["folder"]
    if place.is_symlink():
        return "damaged", None, "a link instead of a folder"
    try:
        run = records.read_run(place)
    except (FileNotFoundError, NotADirectoryError):
        return "pending", None, ""
    except (DamagedFile, OSError, ValueError, TypeError, RecursionError) as error:
        return "damaged", None, clean(str(error).replace(f"{folder}/", ""), 300)
    if run.identity != entry.get("identity"):
        return "damaged", None, "the record is not of the planned run"
    if not records.files_intact(place, run):
        return "damaged", None, "a file is missing or not what the record says"
    return run.status, tamed_run(run), ""


def tamed_run(run: Run) -> Run:
    """A run whose numbers are numbers that can be computed with."""
    parts = {name: tamed(getattr(run, name)) for name in ("config", "card", "metrics", "environment")}
    return dataclasses.replace(run, **parts)


def tamed(value: Any) -> Any:
    """Plain data without numbers that are not finite or of absurd size; None stands in their place.

    >>> tamed({"a": [1, 10**400], "b": float("inf")})
    {'a': [1, None], 'b': None}
    """
    if isinstance(value, Mapping):
        return {key: tamed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tamed(item) for item in value]
    absurd = isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST
    return None if absurd else value


def as_list(value: object) -> list[Any]:
    """A value from a plan where a list should be; an empty one for anything else."""
    return value if isinstance(value, list) else []


def words(value: object) -> list[str]:
    """A command of a plan, as words that can be shown."""
    return [clean(word, 500) for word in as_list(value)[:200]]


def job(entry: Mapping[str, Any]) -> int:
    """Which job of its sweep a run is of, as declared; older plans do not say, and theirs come first."""
    number = entry.get("job")
    return number if isinstance(number, int) and collected.whole(number) else -1
