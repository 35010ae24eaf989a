"""Which runs a sweep has: those of its plan, and those whose records were copied into its folder.

Run folders may come from other machines, by hand or by ``python -m seqbench.collect``. A record that no entry
of the plan names is adopted where it stands on equal ground with the planned runs, as far as these tell: code
and versions, and the source and data of its model and task. What is not adopted is counted by its cause.
Nothing in the folder is trusted.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import records, store
from seqbench.records import Run
from seqbench.store import DamagedFile

Plan = dict[str, Any]
Entry = dict[str, Any]
Grounds = dict[str, set[str]]

KINDS = ("train", "speed", "trial")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
CODE, MODEL, TASK = (
    "other code or versions",
    "another version of the model's source",
    "other data, or another version of the task's source",
)
UNKNOWN = "not known what they stand on"
ELSEWHERE = "the same run as one that is planned, from another machine"
TWICE = "a second copy of a run that is planned"
BESIDE = "a canary beside the comparison, where the same one is compared"
_DIFFERS = {"code": CODE, "model": MODEL, "task": TASK}
_OF_A_RUN = ("identity", "asked", "kind", "label", "task", "rung", "model", "seed")


@dataclass(frozen=True)
class Hint:
    """What the plan of another place says of a run, beside its record.

    Attributes:
        job: number of its job there; it decides the order of variants that are new here.
        base: what it has in common with its trials.
        command: place of its command among those of the other plans.
    """

    job: int
    base: str
    command: int


@dataclass
class Found:
    """What a sweep's folder holds beside what its plan names.

    Attributes:
        entries: the adopted runs as entries of a plan; ``records``: their records, by folder.
        left_out: finished runs that were not adopted, counted by cause in words.
        damaged: folders whose record or files do not verify, and why.
    """

    entries: list[Entry] = field(default_factory=list)
    records: dict[str, Run] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)


# What may be compared


def parts(entry: Mapping[str, Any]) -> dict[str, str]:
    """The ground of a run, by what must be equal to compare: the code, its model's source, its task's.

    The machine is no part: the page keeps times of several machines apart. Empty where it is not known.
    """
    ground = entry.get("ground")
    if not isinstance(ground, Mapping) or not all(isinstance(ground.get(name), str) for name in _DIFFERS):
        return {}
    return {"code": ground["code"]} | {
        f"{group} {entry[group]}": ground[group] for group in ("model", "task")
    }


def grounds(entries: Iterable[Mapping[str, Any]]) -> Grounds:
    """What the runs of a plan stand on, by part."""
    found: Grounds = {}
    for entry in entries:
        for part, value in parts(entry).items():
            found.setdefault(part, set()).add(value)
    return found


def cause(ground: Grounds, entry: Mapping[str, Any]) -> str:
    """Why a run may not stand beside runs on this ground; empty where it may."""
    own = parts(entry)
    if not own or "code" not in ground:
        return UNKNOWN
    return next(
        (
            _DIFFERS[part.split(" ")[0]]
            for part, value in own.items()
            if value not in ground.get(part, {value})
        ),
        "",
    )


def without_beaten(entries: Iterable[Entry]) -> list[Entry]:
    """The runs without canaries beside the comparison whose model is compared on that task by name."""
    runs = list(entries)
    named = contests(runs)
    return [e for e in runs if not (e.get("companion") and (e.get("model"), e.get("task")) in named)]


def contests(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, Any], None]:
    """Models that are compared, each with its task, in the order of the entries."""
    return {(e.get("model"), e.get("task")): None for e in entries if not e.get("companion")}


def usable(raw: object) -> Entry | None:
    """An entry of a plan with the types that it must have; None for anything else.

    A folder must be a plain name, so that a plan can never make anybody read outside its sweep.
    """
    if not isinstance(raw, dict) or raw.get("kind") not in KINDS:
        return None
    name, seed, rung = raw.get("folder"), raw.get("seed"), raw.get("rung")
    fits = (
        isinstance(name, str)
        and PLAIN_NAME.fullmatch(name) is not None
        and isinstance(raw.get("model"), str)
        and isinstance(raw.get("task"), str)
        and whole(seed)
        and (rung is None or whole(rung))
        and records.shallow(raw)
    )
    if not fits:
        return None
    kept = {key: value for key, value in raw.items() if key not in _FITS or _FITS[key](value)}
    config = raw.get("config")
    return {**kept, "config": config if isinstance(config, Mapping) else {}}


def tidy(plan: Mapping[str, Any]) -> Plan:
    """A plan of which every part has the type that it must have; entries that are not runs are left out."""
    lists = {name: plan[name] if isinstance(plan.get(name), list) else [] for name in ("commands", "models")}
    return {
        **plan,
        "runs": [entry for entry in map(usable, plan["runs"]) if entry is not None],
        "commands": lists["commands"],
        "models": [name for name in lists["models"] if isinstance(name, str)],
        "reference": name if isinstance(name := plan.get("reference"), str) else None,
    }


def whole(value: object) -> bool:
    """Whether a value is an integer of sensible size."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62


_FITS: Mapping[str, Callable[[Any], bool]] = {  # parts of an entry that may be missing, but not strange
    "command": lambda value: whole(value) and value >= 0,
    "job": whole,
    "asked": lambda value: isinstance(value, str),
    "identity": lambda value: isinstance(value, str),
}


# What a folder holds


def grown(
    plan: Plan, folder: Path, hints: Mapping[str, Hint] | None = None, *, fill: bool = True
) -> tuple[Plan, Found]:
    """A plan together with the runs in its sweep's folder that it does not name, where they are comparable.

    Args:
        plan: as :func:`tidy` gives it.
        hints: what other plans say of runs, by identity.
        fill: a finished run of another machine takes the place of a planned one that has no record.
    """
    found = Found()
    named = {entry["folder"] for entry in plan["runs"]}
    for name, run in recorded(folder, named):
        if isinstance(run, str):
            found.damaged[name] = run
        elif entry := entry_of(name, run):
            found.entries.append(entry)
            found.records[name] = run
    plan = _filled(folder, plan, found) if fill else plan
    _adopt(folder, plan, found)
    return (_joined(plan, found, hints or {}), found) if found.entries else (plan, found)


def recorded(folder: Path, but: Iterable[str] = ()) -> Iterator[tuple[str, Run | str]]:
    """Every run below a folder that has a record, by its folder's name; in words where it does not verify.

    Args:
        but: names of folders that are not looked at.
    """
    left = set(but)
    with os.scandir(folder) as places:
        names = sorted(
            place.name
            for place in places
            if place.name not in left
            and PLAIN_NAME.fullmatch(place.name)
            and place.is_dir(follow_symlinks=False)
        )
    for name in names:
        try:
            yield name, records.read_run(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (DamagedFile, OSError, ValueError, TypeError, RecursionError) as error:
            yield name, str(error).replace(f"{folder}/", "")


def entry_of(name: str, run: Run) -> Entry | None:
    """A record as an entry of a plan; None where it is of no run that a plan can have."""
    companion = run.metrics.get("companion")
    return usable(
        {
            "folder": name,
            "ground": dict(run.ground),
            "config": dict(run.config),
            "companion": companion if isinstance(companion, bool) else None,
            "base": "",
            **{key: getattr(run, key) for key in _OF_A_RUN},
        }
    )


def _filled(folder: Path, plan: Plan, found: Found) -> Plan:
    """The plan with finished runs of other machines in the place of the same ones without a record."""
    ground = grounds(plan["runs"])
    ended = {
        entry.get("asked"): entry
        for entry in found.entries
        if found.records[entry["folder"]].status in records.ENDED and not cause(ground, entry)
    }
    runs = []
    for entry in plan["runs"]:
        other = ended.get(entry.get("asked"))
        if other is not None and _fills(folder, other, entry, found.records[other["folder"]]):
            found.entries.remove(other)
            del found.records[other["folder"]], ended[other.get("asked")]
            runs.append({**entry, **{key: other[key] for key in ("folder", "identity", "ground")}})
        else:
            runs.append(entry)
    return {**plan, "runs": runs}


def _fills(folder: Path, other: Entry, entry: Entry, run: Run) -> bool:
    """Whether a run is whole, and the planned one has no record."""
    return not _has_record(folder, entry) and records.files_intact(folder / other["folder"], run)


def _has_record(folder: Path, entry: Mapping[str, Any]) -> bool:
    return Path(folder, entry["folder"], records.RUN_FILE).exists()


def _adopt(folder: Path, plan: Plan, found: Found) -> None:
    """Keep of what was found what the plan can take, those that are compared first; count the rest."""
    beside = {entry["model"] for entry in plan["runs"] if entry.get("companion")}
    for entry in found.entries:  # the record of a run that was killed does not say
        entry["companion"] = entry["model"] in beside if entry["companion"] is None else entry["companion"]
    adoption, kept = Adoption(plan["runs"]), []
    for entry in sorted(found.entries, key=lambda entry: entry["companion"]):
        name = entry["folder"]
        run = found.records[name]
        if why := adoption.why_not(entry):
            found.left_out[why] += run.status in records.ENDED
        elif not records.files_intact(folder / name, run):
            found.damaged[name] = f"{name}: a file is missing or not what the record says"
        else:
            adoption.take(entry)
            kept.append(entry)
    found.entries = sorted(kept, key=lambda entry: str(entry["folder"]))
    found.records = {entry["folder"]: found.records[entry["folder"]] for entry in found.entries}
    found.left_out = +found.left_out


class Adoption:
    """Decides which further runs may stand beside those of a plan.

    Args:
        folder: of the sweep, where runs may take the place of those that have no record; None: they may not.
    """

    def __init__(self, planned: Sequence[Mapping[str, Any]], folder: Path | None = None) -> None:
        self._ground = grounds(planned)
        self._asked: dict[Any, str] = {}
        self._contests: set[tuple[Any, Any]] = set()
        for entry in planned:
            self._note(entry, pending=folder is not None and not _has_record(folder, entry))

    def why_not(self, entry: Mapping[str, Any]) -> str:
        """Why a run cannot be adopted, in words; empty where it can."""
        if why := cause(self._ground, entry) or ("" if entry.get("asked") else UNKNOWN):
            return why
        if (machine := self._asked.get(entry["asked"])) is not None:
            return TWICE if machine == _machine(entry) else ELSEWHERE
        place = (entry.get("model"), entry.get("task"))
        return BESIDE if entry.get("companion") and place in self._contests else ""

    def take(self, entry: Mapping[str, Any]) -> None:
        """Count a run among those of the plan from now on."""
        for part, value in parts(entry).items():
            self._ground.setdefault(part, set()).add(value)
        self._note(entry)

    def _note(self, entry: Mapping[str, Any], *, pending: bool = False) -> None:
        if isinstance(asked := entry.get("asked"), str) and asked and not pending:
            self._asked.setdefault(asked, _machine(entry))
        if not entry.get("companion"):
            self._contests.add((entry.get("model"), entry.get("task")))


def _machine(entry: Mapping[str, Any]) -> str:
    ground = entry.get("ground")
    return str(ground.get("machine")) if isinstance(ground, Mapping) else ""


# Their place in the plan


def _joined(plan: Plan, found: Found, hints: Mapping[str, Hint]) -> Plan:
    """The plan with the adopted runs, as a command that had planned them would have put them."""
    before, models = len(plan["commands"]), plan["models"]
    numbers = _numbers(plan["runs"], found.entries, models, hints)
    new = []
    for entry in found.entries:
        hint = hints.get(entry["identity"])
        told = {"command": hint.command if hint else before, "base": hint.base if hint else ""}
        new.append({**entry, **told, "job": numbers[_variant(entry)]})
    found.entries = new
    runs = without_beaten([*plan["runs"], *new])
    models = list(dict.fromkeys([*models, *(model for model, _ in contests(_in_order(new)))]))
    return {**plan, "models": models, "runs": runs}


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry["job"], entry["folder"]))


def _numbers(
    planned: Iterable[Entry], new: Iterable[Entry], models: Sequence[str], hints: Mapping[str, Hint]
) -> dict[str, int]:
    """The number of each job, by variant: the planned ones', and higher ones for variants that are new.

    New ones stand as another plan has them, else in the order of their settings: depth 2 before depth 10.
    """
    numbers: dict[str, int] = {}
    for entry in planned:
        if whole(entry.get("job")) and not entry.get("companion"):
            numbers.setdefault(_variant(entry), entry["job"])
    free = max(numbers.values(), default=-1) + 1
    order = {name: place for place, name in reversed(list(enumerate(models)))}
    unknown: dict[str, tuple[Any, ...]] = {}
    for entry in new:
        hint = hints.get(entry["identity"])
        where = (0, hint.job) if hint else (1, 0)
        place = (order.get(entry["model"], len(order)), where, entry["model"], _sizes(entry["config"]))
        if (key := _variant(entry)) not in numbers:
            unknown[key] = min(unknown.get(key, place), place)
    return numbers | {key: free + n for n, key in enumerate(sorted(unknown, key=lambda key: unknown[key]))}


def _variant(entry: Mapping[str, Any]) -> str:
    """What runs of one job have in common: everything but seed and rung (of a task, a list of one number)."""
    config = {k: v for k, v in entry["config"].items() if k not in ("speed", "probes", "stack")}
    task = config.get("task")
    if isinstance(task, Mapping):
        config["task"] = {key: value for key, value in task.items() if not isinstance(value, list)}
    return store.digest({"config": config, "model": entry["model"], "task": entry["task"]})


def _sizes(value: object) -> tuple[Any, ...]:
    """Settings as something that can be put into an order, numbers by size."""
    if isinstance(value, Mapping):
        return (3, *((str(key), _sizes(value[key])) for key in sorted(value, key=str)))
    if isinstance(value, list | tuple):
        return (2, *(_sizes(item) for item in value))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value) if number else (1, str(value))


def in_words(left_out: Mapping[str, int]) -> str:
    """Causes with their counts, the most frequent first; empty for none."""
    return "; ".join(
        f"{why}: {count}" for why, count in sorted(left_out.items(), key=lambda one: (-one[1], one[0]))
    )
