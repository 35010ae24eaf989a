"""What the runs add up to: outcome of each cell, gradient decay, speed. Data frames in and out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seqbench import stats
from seqbench.metric import ACCURACY, Metric
from seqbench.report.clocks import is_time
from seqbench.report.curves import by_seed, curve_by_curve
from seqbench.report.frame import UNFINISHED, Sweep
from seqbench.report.task import Task

_MOST_ANSWERS = 1 << 40
_RISE = 30.0  # a curve with two ends falls to less than a thirtieth of both


@dataclass(frozen=True)
class Cell:
    """One model on one rung of one task, over its seeds.

    Attributes:
        finished: runs that reached an end (done or diverged); the rest is in ``missing``.
        solved: how many of them solved the task.
        score: test score over seeds; a diverged run counts as the worst floor.
        scores: the scores themselves.
        test: Wilson interval of a mean accuracy for the answers of one test set: the sampling error of
            that set alone. Seeds do not add answers, since a fixed test set is the same for each of them.
        solve_rate: share of finished runs that solved it, with Wilson's interval.
        steps, cpu_s: censored medians until solved; None when fewer than half solved.
        note: how the score stands to the floors, in words.
    """

    task: Task
    rung: int | None
    label: str
    planned: int
    finished: int
    diverged: int
    missing: dict[str, int]
    solved: int
    score: stats.Interval
    scores: tuple[float, ...]
    test: stats.Interval
    solve_rate: stats.Interval
    steps: float | None
    cpu_s: float | None
    note: str

    @property
    def solves(self) -> bool:
        """Whether at least half of the finished runs solved it."""
        return self.finished > 0 and 2 * self.solved >= self.finished


def cells(sweep: Sweep) -> list[Cell]:
    """Every task, rung and model of the plan, in the order of the page."""
    training = sweep.training
    found = []
    for task in sweep.tasks:
        for rung in task.rungs:
            here = training[(training["task"] == task.key) & same(training["rung"], rung)]
            of = dict(iter(here.groupby("label", sort=False)))
            found += [_cell(task, rung, label, of[label]) for label in sweep.labels if label in of]
    return found


def same(rungs: pd.Series, rung: int | None) -> pd.Series:
    """Which rows are of this rung; None matches the missing one."""
    return rungs.isna() if rung is None else (rungs == rung).fillna(False).astype(bool)


def scored(task: Task, rung: int | None, runs: pd.DataFrame) -> pd.Series:
    """Test scores of finished runs; a diverged run has learned nothing: it scores the worst floor."""
    score = pd.to_numeric(runs["test_score"], errors="coerce").astype(float)
    nothing = 0.0 if task.metric.higher else math.nan
    return score.mask(runs["status"] == "diverged", next(iter(task.floors(rung).values()), nothing))


def seed_scores(sweep: Sweep, task: Task) -> pd.DataFrame:
    """Test score by (label, seed), one column per rung; NaN where no run has ended."""
    training = sweep.training
    columns = {}
    for rung in task.rungs:
        runs = training[(training["task"] == task.key) & same(training["rung"], rung)]
        runs = runs[runs["status"].isin(["done", "diverged"])]
        runs = runs.assign(score=scored(task, rung, runs))
        columns[rung] = runs.groupby(["label", "seed"])["score"].mean()
    index = pd.MultiIndex.from_product([sweep.labels, sweep.seeds], names=["label", "seed"])
    aligned = {rung: column.reindex(index) for rung, column in columns.items()}
    return pd.DataFrame(aligned, index=index, dtype=float)


def unscored(sweep: Sweep, task: Task, rungs: Sequence[int | None]) -> dict[str, str]:
    """Models with diverged runs that have no score, since no floor of the task is one; in words, by label.

    Leaving such runs out would compare only the seeds that went well.
    """
    lost: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for rung in rungs:
        runs = sweep.training[(sweep.training["task"] == task.key) & same(sweep.training["rung"], rung)]
        diverged = runs["status"] == "diverged"
        ended.update(runs["label"][diverged | (runs["status"] == "done")].astype(str))
        lost.update(runs["label"][diverged & scored(task, rung, runs).isna()].astype(str))
    return {
        label: f"{count} of {ended[label]} runs of {label} diverged, "
        "and the task has no floor to score them by"
        for label, count in lost.items()
    }


def answers(sweep: Sweep, task: Task, rung: int | None) -> float:
    """Answers of one test set on a rung; NaN where that is not known."""
    runs = sweep.training[(sweep.training["task"] == task.key) & same(sweep.training["rung"], rung)]
    counts = pd.to_numeric(runs["test_answers"], errors="coerce").astype(float)
    return float(counts[counts.between(1, _MOST_ANSWERS)].median())


def _cell(task: Task, rung: int | None, label: str, runs: pd.DataFrame) -> Cell:
    ended = runs[runs["status"].isin(["done", "diverged"])]
    solved = ended["solved"].eq(True)
    scores = [float(score) for score in scored(task, rung, ended).dropna()]
    others = runs[~runs["status"].isin(["done", "diverged"])]["status"].value_counts()
    return Cell(
        task=task,
        rung=rung,
        label=label,
        planned=len(runs),
        finished=len(ended),
        diverged=int((ended["status"] == "diverged").sum()),
        missing={str(status): int(count) for status, count in others.items()},
        solved=int(solved.sum()),
        score=stats.mean_interval(scores),
        scores=tuple(scores),
        test=_test_set_alone(ended),
        solve_rate=stats.wilson(int(solved.sum()), len(ended)),
        steps=until_solved(ended, "solved_step"),
        cpu_s=until_solved(ended, "solved_cpu_s"),
        note=note(scores, task.floors(rung), task.metric, task.tolerance(rung)),
    )


def _test_set_alone(runs: pd.DataFrame) -> stats.Interval:
    accuracy = pd.to_numeric(runs["test_accuracy"], errors="coerce").astype(float)
    answers = pd.to_numeric(runs["test_answers"], errors="coerce").astype(float)
    known = accuracy.between(0, 1) & answers.between(1, _MOST_ANSWERS)
    if not known.any():
        return stats.wilson(0, 0)
    one = round(answers[known].median())
    return stats.wilson(round(float(accuracy[known].mean()) * one), one)


def until_solved(runs: pd.DataFrame, column: str) -> float | None:
    """The censored median of what runs needed until they solved their task.

    Returns:
        None where fewer than half solved it; NaN where too few ran on the machine whose times are shown.
    """
    solved = runs["solved"].eq(True)
    times = pd.to_numeric(runs[column], errors="coerce").where(solved)
    if is_time(column) and (elsewhere := runs["elsewhere"].eq(True)).any():
        enough = stats.censored_median([1.0 if one else None for one in solved]) is not None
        here = stats.censored_median([_or_none(time) for time in times[~elsewhere]])
        return (math.nan if here is None else here) if enough else None
    return stats.censored_median([_or_none(time) for time in times])


def _or_none(time: float) -> float | None:
    return None if pd.isna(time) else float(time)


def note(
    scores: list[float], floors: dict[str, float], metric: Metric = ACCURACY, near: float | None = None
) -> str:
    """How the scores of all seeds stand to the floors; seeds that disagree are not averaged.

    Args:
        near: scores so close to a floor are at it; by default the metric's tolerance.

    >>> note([0.12, 0.11], {"chance": 0.125})
    'did not learn (chance)'
    >>> note([0.12, 0.99], {"chance": 0.125})
    'seeds differ: 0.12 to 0.99'
    """
    near = metric.tolerance(floors) if near is None else near
    found = {standing(score, floors, metric, near) for score in scores}
    if len(found) <= 1:
        return next(iter(found), "")
    if max(scores) - min(scores) <= 5 * near:
        return standing(sum(scores) / len(scores), floors, metric, near)
    return f"seeds differ: {min(scores):.2f} to {max(scores):.2f}"


def standing(
    score: float, floors: dict[str, float], metric: Metric = ACCURACY, near: float | None = None
) -> str:
    """How a score stands to the floors, the worst first.

    >>> standing(0.12, {"chance": 0.125, "bag of tokens": 0.6667})
    'did not learn (chance)'
    >>> standing(0.66, {"chance": 0.125, "bag of tokens": 0.6667})
    'at the floor "bag of tokens"'
    >>> standing(0.4, {"chance": 0.125, "bag of tokens": 0.6667})
    'below the floor "bag of tokens"'
    """
    if not floors or not math.isfinite(score):
        return ""
    names, near = list(floors), metric.tolerance(floors) if near is None else near
    if not metric.reaches(score, floors[names[0]]) or abs(score - floors[names[0]]) <= near:
        return f"did not learn ({names[0]})"
    for name in names[1:]:
        if abs(score - floors[name]) <= near:
            return f'at the floor "{name}"'
        if not metric.reaches(score, floors[name]):
            return f'{"below" if metric.higher else "worse than"} the floor "{name}"'
    return ""


def default_gates(sweep: Sweep, label: str) -> bool:
    """Whether a model has a forget gate that starts as torch draws it."""
    names = sweep.training[sweep.training["label"] == label]["folder"]
    models = [sweep.config(name, "model") for name in names if name in sweep.records]
    keys = ("forget_bias", "chrono")
    return bool(models) and all(key in model and model[key] is None for model in models for key in keys)


def status_counts(sweep: Sweep) -> dict[str, int]:
    """How many runs have each status, done first."""
    counts = sweep.runs["status"].value_counts()
    order = ["done", *sorted(set(counts.index) - {"done", *UNFINISHED}), *UNFINISHED]
    return {status: int(counts[status]) for status in order if status in counts.index}


def counted(sweep: Sweep) -> str:
    """Every planned run by its status; the parts add up to the whole."""
    counts = status_counts(sweep)
    parts = " + ".join(f"{count} {status}" for status, count in counts.items())
    return f"{sum(counts.values())} runs planned = {parts}" if parts else "No runs planned"


@dataclass(frozen=True)
class Flow:
    """Gradient flow of one model at one moment of training.

    Attributes:
        two_ended: the curve rises again at the far end (a bidirectional model); only the near end is fitted.
        far: what arrives at distance ``far_distance``, relative to the nearest, 1: the median over seeds of
            each seed's ratio.
        far_distance: the farthest that every probed sequence of every seed has; 0 where there is none.
    """

    label: str
    moment: str
    decay: stats.Decay
    two_ended: bool
    far: float
    far_distance: int


def flow_table(sweep: Sweep) -> tuple[Task, int | None, pd.DataFrame] | None:
    """The task and rung whose gradients reach back farthest, with its table; None without any."""
    table = sweep.table("gradient_flow")
    table = table[table["median"].notna() & table["distance"].notna()]
    if table.empty:
        return None
    farthest = table.sort_values("distance", kind="stable").iloc[-1]
    task = next(task for task in sweep.tasks if task.key == farthest["task"])
    rung = None if pd.isna(farthest["rung"]) else int(farthest["rung"])
    chosen = table[(table["task"] == task.key) & same(table["rung"], rung)]
    return task, rung, chosen


def flows(sweep: Sweep, chosen: tuple[Task, int | None, pd.DataFrame] | None) -> list[Flow]:
    """Decay of the gradient for every model at the start and the end of training.

    Args:
        chosen: what :func:`flow_table` found.
    """
    if chosen is None:
        return []
    sideways = set(sweep.training[sweep.training["causal"].eq(False)]["label"])
    moments = ("init", "final")
    curves = curve_by_curve(chosen[2][chosen[2]["moment"].isin(moments)], ["label", "moment"])
    return [
        _flow(label, moment, curves[label, moment], label in sideways)
        for moment in moments
        for label in sweep.labels
        if (label, moment) in curves
    ]


def flows_in_training(sweep: Sweep, chosen: tuple[Task, int | None, pd.DataFrame] | None) -> pd.DataFrame:
    """How the gradient's decay changes while a model learns.

    Returns:
        ``label, step, factor, moment``: what remains per step back in time, with 0 for before training.
    """
    rows = []
    if chosen is not None:
        task, rung, table = chosen
        sideways = set(sweep.training[sweep.training["causal"].eq(False)]["label"])
        runs = sweep.training[(sweep.training["task"] == task.key) & same(sweep.training["rung"], rung)]
        for (label, moment), curves in curve_by_curve(table, ["label", "moment"]).items():
            step = _step(str(moment), runs[runs["label"] == label])
            factor = _factor(curves, label in sideways)
            rows.append({"label": str(label), "step": step, "factor": factor, "moment": str(moment)})
    found = pd.DataFrame(rows, columns=["label", "step", "factor", "moment"])
    return found[found["factor"].gt(0) & found["step"].notna()].sort_values("step", kind="stable")


def state_decays(table: pd.DataFrame) -> pd.DataFrame:
    """How the gradient at each state falls with distance.

    Args:
        table: rows of the probe ``state_flow``.

    Returns:
        ``label, state, moment, factor``.
    """
    keys = ["label", "state", "moment"]
    rows = [
        {**dict(zip(keys, place, strict=True)), "factor": _factor(curves, False)}
        for place, curves in curve_by_curve(table, keys).items()
    ]
    found = pd.DataFrame(rows, columns=["label", "state", "moment", "factor"])
    return found[found["factor"].gt(0)]


def _step(moment: str, runs: pd.DataFrame) -> float:
    """The training step of a moment; for the end that of the longest run."""
    if moment == "init":
        return 0.0
    if moment == "final":
        return float(pd.to_numeric(runs["steps"], errors="coerce").astype(float).max())
    number = moment.removeprefix("step ")
    return float(number) if number.isdecimal() else math.nan


def _flow(label: str, moment: str, curves: pd.DataFrame, both_ways: bool) -> Flow:
    distance, magnitude, two_ended = _fitted(curves, both_ways)
    decay = stats.decay([(distance, seed) for seed in magnitude.T])
    if not len(distance):
        return Flow(label, moment, decay, two_ended, math.nan, 0)
    near = pd.Series(magnitude[0])
    far = float((pd.Series(magnitude[-1]) / near.where(near > 0)).median())
    return Flow(label, moment, decay, two_ended, far, int(distance[-1]))


def _factor(curves: pd.DataFrame, both_ways: bool) -> float:
    """What remains of a gradient after one more step back: the factor of :class:`Flow` alone."""
    distance, magnitude, _ = _fitted(curves, both_ways)
    factors = stats.decay_factors(distance, magnitude)
    return math.exp(stats.mean_interval(np.log(factors[np.isfinite(factors)])).mean)


def _fitted(curves: pd.DataFrame, both_ways: bool) -> tuple[stats.Floats, stats.Floats, bool]:
    """The part of the curves that tells of their decay.

    Args:
        curves: of one model at one moment, as :func:`curve_by_curve` gives them.

    Returns:
        Distances from 1 on that all seeds have, of shape (D,); the magnitude there, (D, seeds); and whether
        the curve rises again at the far end, which then is left out.
    """
    distance, magnitude = by_seed(curves)
    magnitude, distance = magnitude[distance >= 1], distance[distance >= 1]  # at 0 it is read off
    if not both_ways or not len(distance):
        return distance, magnitude, False
    middle = pd.DataFrame(magnitude).median(axis=1)
    lowest, last = float(distance[int(middle.argmin())]), float(distance[-1])
    ends = min(float(middle.iloc[0]), float(middle.iloc[-1]))
    if not (0.1 * last < lowest < 0.9 * last and ends > _RISE * float(middle.min())):
        return distance, magnitude, False
    near = distance <= 0.8 * lowest
    return distance[near], magnitude[near], True
