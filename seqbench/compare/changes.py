"""What two sweeps differ in besides their results: settings, versions, machines, and runs of one alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from seqbench.compare.judge import Found
from seqbench.compare.pairs import contests
from seqbench.records import Run
from seqbench.report import facts
from seqbench.report.frame import Sweep
from seqbench.report.label import clean, flat, printable
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

_LONGEST = 60


@dataclass(frozen=True)
class Change:
    """A fact that is not the same in both sweeps; ``where`` names the models (and tasks) it holds for."""

    name: str
    a: str
    b: str
    where: str = ""


def settings(found: Found) -> list[Change]:
    """Settings that differ between paired runs, with the models that they differ for."""
    places: dict[tuple[str, str, str], dict[tuple[str, str], None]] = {}
    for place, pairs in found.pairs.items():
        for pair in pairs:
            x, y = _flat(pair.a), _flat(pair.b)
            for key in sorted(set(x) | set(y)):
                if x.get(key) != y.get(key):
                    change = key, x.get(key, "not known"), y.get(key, "not known")
                    places.setdefault(change, {})[place] = None
    every = {place for place, pairs in found.pairs.items() if pairs}
    return [Change(*change, where=_where(set(where), every)) for change, where in places.items()]


def _flat(run: Run) -> dict[str, str]:
    """Every setting of a run as printable text."""
    nested = [name for name, value in run.config.items() if isinstance(value, Mapping)]
    plain = {name: printable(value) for name, value in run.config.items() if name not in nested}
    return {clean(k, _LONGEST): clean(v, _LONGEST) for k, v in (plain | flat(run.config, nested)).items()}


def _where(places: set[tuple[str, str]], every: set[tuple[str, str]]) -> str:
    """Models and tasks in words, as few as tell which are meant."""
    if places == every:
        return "all models"
    tasks, models = {task for task, _ in places}, {model for _, model in places}
    if places == {place for place in every if place[0] in tasks}:
        return f"all models on {', '.join(sorted(tasks))}"
    if places == {place for place in every if place[1] in models}:
        return ", ".join(sorted(models))
    return ", ".join(f"{model} on {task}" for task, model in sorted(places))


def environment(a: Sweep, b: Sweep) -> list[Change]:
    """Versions, code and machine, where they are not the same."""
    left, right = (dict(facts.environments(sweep)) for sweep in (a, b))
    both = [(name, left.get(name, []), right.get(name, [])) for name in dict.fromkeys([*left, *right])]
    return [Change(name, _values(x), _values(y)) for name, x, y in both if sorted(x) != sorted(y)]


def _values(found: Iterable[str]) -> str:
    return " / ".join(value[:16] if len(value) == 64 else value for value in found) or "not known"


def only_in(a: Sweep, b: Sweep) -> dict[str, list[str]]:
    """What only one of the sweeps planned, in words: by "A" and "B"."""
    shared = contests(a, b)
    ours = {(c.task.key, c.label): c.b for c in shared}
    theirs = {(c.theirs.key, c.their_label): c.a for c in shared}
    return {"A": _alone(a, ours), "B": _alone(b, theirs)}


def _alone(sweep: Sweep, partners: Mapping[tuple[str, str], pd.DataFrame]) -> list[str]:
    """Models, rungs and seeds of a sweep that have no partner; models that lack the same stand together."""
    tasks = {task.key: task for task in sweep.tasks}
    told: dict[str, list[str]] = {}
    for (task, label), runs in sweep.training.groupby(["task", "label"], sort=False):
        partner = partners.get((str(task), str(label)))
        known = _seeds(partner) if partner is not None else {}
        missing: dict[tuple[int, ...], list[int | None]] = {}
        for rung, planned in _seeds(runs).items():
            if alone := tuple(sorted(planned - known.get(rung, set()))):
                missing.setdefault(alone, []).append(rung)
        for seeds_alone, rungs in missing.items():
            where = _over(tasks[str(task)], rungs)
            seeds = f": seed{'s' * (len(seeds_alone) > 1)} {', '.join(map(str, seeds_alone))}"
            told.setdefault(where if partner is None else where + seeds, []).append(str(label))
    return [f"{words_list(labels)} on {place}" for place, labels in told.items()]


def _over(task: Task, rungs: list[int | None]) -> str:
    """A task with some of its rungs, or alone with all of them."""
    some = [str(rung) for rung in rungs if rung is not None]
    return task.key if rungs == task.rungs or not some else f"{task.key} {task.symbol}={', '.join(some)}"


def _seeds(runs: pd.DataFrame) -> dict[int | None, set[int]]:
    """The planned seeds of every rung, the lowest rung first."""
    found: dict[int | None, set[int]] = {}
    for rung, seed in runs.sort_values("rung", kind="stable")[["rung", "seed"]].itertuples(index=False):
        found.setdefault(None if pd.isna(rung) else int(rung), set()).add(int(seed))
    return found
