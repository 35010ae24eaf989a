"""The trials of tuning: what each model was given, what was chosen, and where the range may be too narrow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from seqbench import stats
from seqbench.metric import Scale
from seqbench.report.frame import Sweep
from seqbench.report.label import clean, differing, flat, label
from seqbench.report.tables import Entry, Table, model, number, text
from seqbench.report.task import Task

_FEWEST_RATES = 3


@dataclass(frozen=True)
class Trial:
    """One learning rate of a model (with what else was varied) on one part of the budget.

    Attributes:
        budget: training steps, or passes over a fixed data set.
        others: further settings that were varied, in words.
        score: mean over rungs and tuning seeds of the best validation score; NaN where a run failed.
        lost: runs that failed or diverged.
        chosen: whether the comparison was made with it.
    """

    label: str
    budget: float
    unit: str
    lr: float
    others: str
    score: float
    runs: int
    lost: int
    chosen: bool


def trials(sweep: Sweep, task: Task) -> list[Trial]:
    """Every trial of a task that has a record, by model in the sweep's order, budget and learning rate."""
    rows = sweep.trials[sweep.trials["task"] == task.key]
    if rows.empty:
        return []
    found = []
    for name in sweep.labels:
        mine = rows[rows["label"] == name].to_dict("records")
        chosen = _chosen(sweep, task, name)
        groups: dict[tuple[float, str, float, str], list[dict[Any, Any]]] = {}
        keys = differing([_model(sweep, row) for row in mine])
        for row in mine:
            if (place := _place(sweep, row)) is not None:
                groups.setdefault((*place, _others(_model(sweep, row), keys)), []).append(row)
        found += [_trial(name, key, runs, key[2] == chosen) for key, runs in sorted(groups.items())]
    return found


def _model(sweep: Sweep, row: Mapping[Any, Any]) -> dict[str, str]:
    return flat({"model": sweep.config(str(row["folder"]), "model")}, ["model"])


def _others(settings: dict[str, str], keys: list[str]) -> str:
    """The settings beside the learning rate, as they stand in a label."""
    return label("", settings, keys).removeprefix("(").removesuffix(")") if keys else ""


def _place(sweep: Sweep, row: Mapping[Any, Any]) -> tuple[float, str, float] | None:
    """A trial's budget, its unit and its learning rate; None without a usable record."""
    train = sweep.config(str(row["folder"]), "train")
    epochs, lr = train.get("epochs"), train.get("lr")
    budget = train.get("steps") if epochs is None else epochs
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in (budget, lr)):
        return None
    return float(budget or 0), "steps" if epochs is None else "passes", float(lr or 0)


def _chosen(sweep: Sweep, task: Task, name: str) -> float | None:
    """The learning rate with which a model was compared, if tuning found it."""
    runs = sweep.training[(sweep.training["task"] == task.key) & (sweep.training["label"] == name)]
    for folder in runs["folder"]:
        train = sweep.config(str(folder), "train")
        if train.get("tuned") is True and isinstance(lr := train.get("lr"), int | float):
            return float(lr)
    return None


def _trial(name: str, key: tuple[float, str, float, str], runs: list[dict[Any, Any]], chosen: bool) -> Trial:
    budget, unit, lr, others = key
    whole = [r["best_valid_score"] for r in runs if r["status"] == "done"]
    scores = [float(s) for s in whole if isinstance(s, int | float) and math.isfinite(s)]
    lost = len(runs) - len(scores)
    score = math.nan if lost else sum(scores) / len(scores)
    return Trial(name, budget, unit, lr, others, score, len(runs), lost, chosen)


def best(found: Sequence[Trial], name: str) -> Trial | None:
    """The chosen trial of a model, on the largest budget that it got."""
    mine = [trial for trial in found if trial.label == name and trial.chosen]
    return max(mine, key=lambda trial: trial.budget, default=None)


def edge(found: Sequence[Trial], name: str, task: Task) -> str:
    """Which end of the learning rates won, "lowest" or "highest", so that one beyond may be better; or empty.

    It won where the model is above the floors with it, and clearly better than with the next rate on the
    largest budget that both got; a rate at which a run failed is worse than any other.
    """
    mine = [trial for trial in found if trial.label == name]
    rates, one, scale = sorted({trial.lr for trial in mine}), best(mine, name), _scale(task)
    if one is None or len(rates) < _FEWEST_RATES or one.lr not in (rates[0], rates[-1]):
        return ""
    end, inner = ("lowest", rates[1]) if one.lr == rates[0] else ("highest", rates[-2])
    chosen, inside = ({t.budget: t.score for t in mine if t.lr == lr} for lr in (one.lr, inner))
    shared = max(chosen.keys() & inside.keys(), default=None)
    if shared is None or scale.at_floor(one.score):
        return ""
    return end if scale.clearly_better(chosen[shared], inside[shared]) else ""


def remark(found: Sequence[Trial], name: str, task: Task) -> str:
    """What a reader of a model's trials must know: an end of the range won, or no rate taught it anything."""
    if end := edge(found, name, task):
        return f"{end} tried"
    scores = [t.score for t in found if t.label == name and math.isfinite(t.score)]
    if not scores:
        return ""
    top, scale = (max if task.metric.higher else min)(scores), _scale(task)
    if scale.learned_nothing(top):
        return "nothing learned at any rate"
    return "no rate above the floors" if scale.at_floor(top) else ""


def _scale(task: Task) -> Scale:
    """How scores that are means over a task's rungs compare."""
    return Scale.over(task.metric, [task.exact(rung) for rung in task.rungs if rung in task.cards])


def changed(trial: Trial) -> str:
    """What a trial set otherwise than the model's default, in words."""
    return ", ".join(part for part in trial.others.split(", ") if part and not part.endswith("=default"))


def warnings(sweep: Sweep) -> list[str]:
    """Models that tuning started differently, or whose best learning rate lies at an end of the range."""
    told = []
    for task in sweep.tasks:
        found = trials(sweep, task)
        for name in sweep.labels:
            one, end = best(found, name), edge(found, name, task)
            if one is not None and (other := changed(one)):
                told.append(f"Tuning found {other} for {name} on {task.key}: with that it was compared.")
            if one is not None and end:
                way = "tuning.low" if end == "lowest" else "tuning.high"
                told.append(
                    f"Tuning chose for {name} on {task.key} the {end} learning rate tried ({one.lr:g}): one "
                    f"beyond may be better. Widen the range with {way}."
                )
    return told


def table(sweep: Sweep) -> Table | None:
    """What each model was given in tuning and what came of it; None where nothing was tuned."""
    heads = [
        ("task", False), ("model", False), ("trials", True), ("rounds", False), ("range", False),
        ("chosen", True), ("with", False), ("score", True), ("first round", True), ("with half of it", True),
        ("runs lost", True), ("remark", False),
    ]  # fmt: skip
    rows = []
    for task in sweep.tasks:
        found = trials(sweep, task)
        mine = {name: [trial for trial in found if trial.label == name] for name in sweep.labels}
        rows += [_row(task, name, some) for name, some in mine.items() if some]
    caption = (
        "What tuning gave each model (rounds: trials \N{MULTIPLICATION SIGN} budget of each), on validation; "
        "the best score of the first round, and what to expect of half of its trials (mean over all subsets)"
    )
    return Table(caption, heads, rows) if rows else None


def _row(task: Task, name: str, mine: list[Trial]) -> list[Entry]:
    one = best(mine, name)
    return [
        text(task.key),
        model(name),
        number(len({(trial.lr, trial.others) for trial in mine}), "{}"),
        text(_rounds(mine)),
        text(f"{min(t.lr for t in mine):g} to {max(t.lr for t in mine):g}"),
        number(one.lr if one else None, "{:g}"),
        text(clean(one.others, 80) if one and one.others else ""),
        number(one.score if one else None, f"{{:.{task.metric.digits}f}}"),
        *(number(value, f"{{:.{task.metric.digits}f}}") for value in _expected(mine, task)),
        number(sum(trial.lost for trial in mine), "{}"),
        text(remark(mine, name, task)),
    ]


def _expected(mine: list[Trial], task: Task) -> tuple[float, float]:
    """Best score of the first round, and the expected best of half of its trials; NaN where a trial was lost.

    How far the two lie apart tells how much a model's score owes to the number of trials.
    """
    shortest = min(trial.budget for trial in mine)
    scores = [trial.score for trial in mine if trial.budget == shortest]
    if not all(math.isfinite(score) for score in scores):
        return math.nan, math.nan
    sizes = len(scores), max(1, len(scores) // 2)
    every, half = (stats.expected_best(scores, size, higher=task.metric.higher) for size in sizes)
    return every, half


def _rounds(mine: list[Trial]) -> str:
    """How many trials got how much, the shortest first."""
    budgets = sorted({trial.budget for trial in mine})
    counts = [f"{sum(t.budget == one for t in mine)} \N{MULTIPLICATION SIGN} {one:g}" for one in budgets]
    return clean(f"{', '.join(counts)} {mine[0].unit}", 80)


def words(sweep: Sweep) -> str:
    """Whether every model of a task got the same learning rates, and as many trials of each budget."""
    for task in sweep.tasks:
        found = trials(sweep, task)
        names = {trial.label for trial in found}
        rates = {frozenset(t.lr for t in found if t.label == name) for name in names}
        budgets = {tuple(sorted(t.budget for t in found if t.label == name)) for name in names}
        if len(rates) > 1 or len(budgets) > 1:
            return "The models did not all get the same trials, since one that diverges does not go on."
    return "Every model of a task got the same learning rates, and as many trials of the same budgets."


def frame(found: list[Trial]) -> pd.DataFrame:
    """Trials as ``label, budget, unit, lr, others, score, runs, lost, chosen``."""
    return pd.DataFrame([vars(trial) for trial in found])
