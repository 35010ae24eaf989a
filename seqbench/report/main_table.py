"""The main table: one row for each task and model, with what it reached and what it costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from seqbench import stats
from seqbench.report import theme
from seqbench.report.fairness import Cost
from seqbench.report.frame import Sweep
from seqbench.report.summary import Cell, same, seed_scores, until_solved
from seqbench.report.tables import NONE, Entry, Table, interval, late, model, number, p_value, share, text
from seqbench.report.task import Task
from seqbench.report.verdict import Comparison, said, signed, words_list

_UNTIL = "until solved (median)"
_NO_COST = Cost(Task("", "", None, [None], {}), None, "", "", *[math.nan] * 5)


@dataclass(frozen=True)
class Whole:
    """One model on a whole task, over all rungs and seeds.

    Attributes:
        score: over seeds, of each seed's mean over the rungs; a seed that lacks a rung is left out.
        comparison: with the reference; None for the reference itself.
        planned, done, solved, finished, missing: training runs; ``finished`` are done or diverged,
            ``missing`` counts the others by status.
        steps, cpu_s: medians over all runs until solved; None where fewer than half solved.
        cost: parameters and operations at the longest trained rung.
        tokens_per_s, memory_bytes: of training steps at the longest trained rung; NaN where not measured.
    """

    task: Task
    label: str
    score: stats.Interval
    comparison: Comparison | None
    planned: int
    done: int
    diverged: int
    solved: int
    finished: int
    missing: Mapping[str, int]
    steps: float | None
    cpu_s: float | None
    cost: Cost
    tokens_per_s: float
    memory_bytes: float


def wholes(
    sweep: Sweep, grid: list[Cell], comparisons: list[Comparison], costs: list[Cost], speeds: pd.DataFrame
) -> list[Whole]:
    """Every task and model of the plan.

    Args:
        comparisons: of whole tasks.
        costs, speeds: what :func:`seqbench.report.fairness.costs` and
            :func:`seqbench.report.summary.speeds` give.
    """
    found = []
    for task in sweep.tasks:
        scores = seed_scores(sweep, task).mean(axis=1, skipna=False)
        for label in dict.fromkeys(cell.label for cell in grid if cell.task is task):
            mine = [cell for cell in grid if cell.task is task and cell.label == label]
            against = [c for c in comparisons if c.task is task and c.label == label]
            cost = [c for c in costs if c.task is task and c.label == label]
            timed = speeds[
                (speeds["task"] == task.key)
                & (speeds["label"] == label)
                & (speeds["mode"] == "train")
                & same(speeds["rung"], task.rungs[-1])
            ]
            found.append(_whole(sweep, mine, scores.loc[label], against, cost, timed))
    return found


def _whole(
    sweep: Sweep,
    mine: list[Cell],
    scores: pd.Series,
    against: list[Comparison],
    cost: list[Cost],
    timed: pd.DataFrame,
) -> Whole:
    task, label = mine[0].task, mine[0].label
    training = sweep.training
    runs = training[(training["task"] == task.key) & (training["label"] == label)]
    ended = runs[runs["status"].isin(["done", "diverged"])]
    missing: dict[str, int] = {}
    for cell in mine:
        for status, count in cell.missing.items():
            missing[status] = missing.get(status, 0) + count
    diverged, finished = sum(cell.diverged for cell in mine), sum(cell.finished for cell in mine)
    return Whole(
        task=task,
        label=label,
        score=stats.mean_interval(scores),
        comparison=next(iter(against), None),
        planned=sum(cell.planned for cell in mine),
        done=finished - diverged,
        diverged=diverged,
        solved=sum(cell.solved for cell in mine),
        finished=finished,
        missing=missing,
        steps=until_solved(ended, "solved_step"),
        cpu_s=until_solved(ended, "solved_cpu_s"),
        cost=next(iter(cost), _NO_COST),
        tokens_per_s=float(timed["valid_tokens_per_s"].iloc[0]) if len(timed) else math.nan,
        memory_bytes=float(timed["memory_bytes"].iloc[0]) if len(timed) else math.nan,
    )


@dataclass(frozen=True)
class _Column:
    """A column: where it stands, its title, how a cell is made, and whether it holds numbers."""

    group: str
    title: str
    cell: Callable[[Whole], Entry]
    numeric: bool = True


def table(found: list[Whole], reference: str, clock: str = "") -> Table:
    """The table; a column that nobody could fill is left out.

    Args:
        clock: the end of its caption, where the times of several machines were recorded.
    """
    columns = [column for column, wanted in _columns(found, reference) if wanted]
    groups: list[tuple[str, int]] = []
    for column in columns:
        last, span = groups.pop() if groups and groups[-1][0] == column.group else (column.group, 0)
        groups.append((last, span + 1))
    heads = [(column.title, column.numeric) for column in columns]
    rows = [[column.cell(one) for column in columns] for one in found]
    ladder = any(len(one.task.rungs) > 1 for one in found)
    over = ", mean over its sizes" if ladder else ""
    return Table(f"Every model on each whole task{over}{clock}", heads, rows, tuple(groups))


def _columns(found: list[Whole], reference: str) -> list[tuple[_Column, bool]]:
    """All columns, each with whether anything stands in it."""
    shorts = {one.task.metric.short for one in found}
    score = shorts.pop() if len(shorts) == 1 else "score"
    solvable = any(one.task.solved_at is not None for one in found)
    compared = any(one.comparison is not None for one in found)

    columns = [
        (_Column("", "model", lambda one: model(one.label), numeric=False), True),
        (_Column("", "task", _task, numeric=False), len({one.task.key for one in found}) > 1),
        (_Column("test score, 95 % interval", score, _score), True),
        (_Column("test score, 95 % interval", f"against {reference}", _difference), compared),
        (_Column("test score, 95 % interval", "p (Holm)", _p), compared),
        (_Column("", "solved", lambda one: share(one.solved, one.finished, {})), solvable),
        (_Column(_UNTIL, "steps", lambda one: _until(one, one.steps, "{:,.0f}")), solvable),
        (_Column(_UNTIL, "CPU s", lambda one: _until(one, one.cpu_s, "{:.3g}")), solvable),
    ]
    place = "cost, at the longest trained length" if any(one.task.rungs[-1] for one in found) else "cost"
    for title, value, shown in _COSTS:
        cell = functools.partial(_cost, value, shown)
        columns.append((_Column(place, title, cell), any(math.isfinite(value(one)) for one in found)))
    return [*columns, (_Column("", "runs ok", _runs), True)]


def _cost(value: Callable[[Whole], float], shown: Callable[[float], Entry], one: Whole) -> Entry:
    return shown(value(one))


def _task(one: Whole) -> Entry:
    rungs = one.task.rungs
    return text(one.task.key if len(rungs) > 1 else one.task.at(rungs[0]))


def _score(one: Whole) -> Entry:
    mean = one.score.mean
    if not math.isfinite(mean):
        return Entry(NONE, math.inf)
    ends = interval(one.score.low, one.score.high, one.task.metric)
    values = (mean, one.score.low, one.score.high) if ends else (mean,)
    return Entry(f"{one.task.metric.shown(mean)}\n{ends}".strip(), mean, values=values)


def _difference(one: Whole) -> Entry:
    if one.comparison is None:
        return Entry("reference", math.inf, values=())
    if one.comparison.reasons:
        return Entry("refused", math.inf, "refused", values=())
    result, judged, digits = one.comparison.result, one.comparison.judged, one.task.metric.digits
    if not math.isfinite(result.mean):
        return Entry(NONE, math.inf)
    word = judged.outcome.value if result.n > 1 else "one seed"
    told = [f"{signed(result.mean, digits)} {word}"]
    values: tuple[float, ...] = (result.mean,)
    if math.isfinite(result.low):
        told.append(f"[{signed(result.low, digits)}, {signed(result.high, digits)}]")
        values = (result.mean, result.low, result.high)
    return Entry("\n".join(told), result.mean, judged.outcome.name.lower(), values=values)


def _p(one: Whole) -> Entry:
    return p_value(one.comparison.judged.p if one.comparison is not None else None)


def _until(one: Whole, value: float | None, pattern: str) -> Entry:
    return (
        Entry(late(one.finished).replace(" half", "\nhalf"), math.inf)
        if value is None
        else number(value, pattern)
    )


def _runs(one: Whole) -> Entry:
    """Training runs that are done, of all that were planned, and what became of the others."""
    lost = {"diverged": one.diverged, **one.missing}
    told = "".join(f"\n{count} {status}" for status, count in lost.items() if count)
    return Entry(f"{one.done}/{one.planned}{told}", one.done / max(1, one.planned), "bad" if told else "")


def si(value: float) -> Entry:
    """A cell with a large number, in three digits."""
    return Entry(theme.plain(value), value) if math.isfinite(value) else number(None)


_COSTS: tuple[tuple[str, Callable[[Whole], float], Callable[[float], Entry]], ...] = (
    ("tokens/s", lambda one: one.tokens_per_s, si),
    ("FLOPs", lambda one: one.cost.flops, si),
    ("parameters", lambda one: one.cost.params, lambda count: number(count, "{:,.0f}")),
    ("memory, MB", lambda one: one.memory_bytes / 1e6, lambda size: number(size, "{:.3g}")),
)


def glance(sweep: Sweep, grid: list[Cell]) -> Table | None:
    """Models by rungs of every ladder: solved runs, or the score where nothing counts as solved.

    None where no task has several rungs, for the main table says the same then.
    """
    tasks = [task for task in sweep.tasks if len(task.rungs) > 1]
    places = [(task, rung) for task in tasks for rung in task.rungs]
    if not places:
        return None
    by_place = {(cell.task.key, cell.rung, cell.label): cell for cell in grid}
    rows = []
    for label in sweep.labels:
        mine = [by_place.get((task.key, rung, label)) for task, rung in places]
        if any(mine):
            rows.append([model(label), *(_glance(cell) for cell in mine)])
    heads = [("model", False), *((f"{task.symbol}={rung}", True) for task, rung in places)]
    groups = (("", 1), *((task.key, len(task.rungs)) for task in tasks))
    solvable = any(task.solved_at is not None for task in tasks)
    names = " or ".join(dict.fromkeys(task.metric.name for task in tasks))
    caption = f"Solved runs of finished runs; below, mean test {names}" if solvable else f"Mean test {names}"
    return Table(caption, heads, rows, groups)


def _glance(cell: Cell | None) -> Entry:
    if cell is None:
        return Entry(NONE, -1.0, "none", values=())
    solved = share(cell.solved, cell.finished, cell.missing)
    if not cell.finished:
        return solved
    known = math.isfinite(cell.score.mean)
    score = cell.task.metric.shown(cell.score.mean, fewer=1) if known else NONE
    if cell.task.solved_at is None:
        return Entry(score, cell.score.mean if known else math.inf)
    return Entry(f"{solved.text}\n{score}", float(solved.key), solved.kind)


def floors(task: Task) -> str:
    """What needs no learning, and what was published, in a sentence; nothing where neither is known."""
    rung = task.rungs[-1]
    parts = []
    for name, levels in (("Floors", task.floors(rung)), ("Published", task.points(rung))):
        told = words_list([f"{level} {task.metric.shown(value)}" for level, value in levels.items()])
        parts += [f"{name} of {task.at(rung)}: {told}."] if told else []
    return " ".join(parts)


def outcomes(comparisons: list[Comparison], reference: str) -> list[str]:
    """Who is better, worse, or cannot be told from the reference, a sentence for each task."""
    sentences = []
    for task in dict.fromkeys(c.task.key for c in comparisons):
        groups: dict[str, list[str]] = {}
        for c in comparisons:
            if c.task.key == task:
                groups.setdefault(said(c.judged, c.other or reference), []).append(c.label)
        told = "; ".join(f"{outcome}: {words_list(labels)}" for outcome, labels in groups.items())
        sentences.append(f"On {task}: {told}.")
    return sentences
