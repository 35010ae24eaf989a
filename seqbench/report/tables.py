"""The page's tables: rows of cells with what is shown and what they are sorted by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from seqbench.metric import ACCURACY, Metric
from seqbench.report.frame import Sweep
from seqbench.report.health import Health
from seqbench.report.label import clean
from seqbench.report.summary import Cell, Flow
from seqbench.report.task import Task
from seqbench.report.verdict import Comparison, signed

NONE = "\N{EN DASH}"
SMALLEST_P = 0.0001  # a smaller one is only said to be so
_MOST_SOLVE = 0.8
_LONGEST_LIFE = 1000  # steps; a longer half-life is only said to be one


@dataclass(frozen=True)
class Entry:
    """One table cell.

    Attributes:
        text, key: what is shown, and what it is sorted by.
        kind: a class for its look.
        model: whether it names a model.
        values: the numbers behind the text, unrounded: one, two ends of an interval, or a mean and two ends;
            none where the key only gives it a place; None: the key itself.
    """

    text: str
    key: float | str = ""
    kind: str = ""
    model: bool = False
    values: tuple[float, ...] | None = None

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers behind the text, as they were computed; empty for words and for what is not known."""
        if self.values is not None:
            return self.values
        known = isinstance(self.key, int | float) and math.isfinite(self.key)
        return (float(self.key),) if known else ()


@dataclass(frozen=True)
class Table:
    """A table; ``heads`` are titles with whether their column holds numbers, ``groups`` stand above them."""

    caption: str
    heads: list[tuple[str, bool]]
    rows: list[list[Entry]]
    groups: tuple[tuple[str, int], ...] = ()


def text(value: str, kind: str = "") -> Entry:
    """A cell of words."""
    return Entry(value, value, kind)


def model(label: str) -> Entry:
    """A cell that names a model, with its line style beside it."""
    return Entry(label, label, "", model=True)


def number(value: object, pattern: str = "{:.3g}", kind: str = "") -> Entry:
    """A cell with a number; a dash when there is none."""
    if not isinstance(value, int | float) or pd.isna(value):
        return Entry(NONE, math.inf, kind)
    return Entry(pattern.format(value), float(value), kind)


def p_value(value: object) -> Entry:
    """A cell with a p; one that is very small as what it is below, since few seeds do not tell more.

    >>> p_value(0.034).text, p_value(4e-7).text, p_value(None).text == NONE
    ('0.034', '< 0.0001', True)
    """
    shown = number(value, "{:.2g}")
    tiny = isinstance(shown.key, float) and shown.key < SMALLEST_P
    return dataclasses.replace(shown, text=f"< {SMALLEST_P}") if tiny else shown


def span(low: float, high: float, shown: str) -> Entry:
    """A cell with the two ends of an interval; a dash when they are not known."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return Entry(NONE, NONE, values=())
    return Entry(shown, shown, values=(low, high))


def interval(low: float, high: float, metric: Metric = ACCURACY) -> str:
    """An interval of scores, cut where scores end; nothing when unknown."""
    if not math.isfinite(low):
        return ""
    return f"[{metric.shown(max(0.0, low))}, {metric.shown(min(metric.most, high))}]"


def share(solved: int, finished: int, missing: Mapping[str, int]) -> Entry:
    """Solved runs of finished ones, with what is missing, by status."""
    lost = ", ".join(f"{count} {status}" for status, count in missing.items())
    if not finished:
        return Entry(lost or NONE, -1.0, "none", values=())
    kind = "all" if solved == finished else "some" if solved else "none"
    return Entry(f"{solved}/{finished}{f' ({lost})' if lost else ''}", solved / finished, kind)


def late(finished: int) -> str:
    """What stands for the time to solve where fewer than half of the finished runs solved."""
    return "not in half" if finished else NONE


def outcomes(task: Task, grid: list[Cell]) -> Table:
    """A task's results with its floors as rows of their own."""
    solvable = task.solved_at is not None
    heads = [("model", False)] if task.rungs == [None] else [(task.symbol, True), ("model", False)]
    heads += [("solved", True), ("rate, 95 % (Wilson)", True)] if solvable else []
    alone = not solvable and task.metric is ACCURACY
    heads += [(f"test {task.metric.short}", True), ("95 % interval", True)]
    heads += [("steps to solve", True), ("CPU s to solve", True)] if solvable else []
    heads += [("test set alone", True)] if alone else []
    heads += [("remark", False)]
    rows = []
    same_floors = all(task.floors(r) == task.floors(task.rungs[0]) for r in task.rungs if r in task.cards)
    for rung in task.rungs:
        lead = [] if rung is None else [number(rung, "{}")]
        rows += [
            [*lead, *_outcome(cell, solvable, alone)]
            for cell in grid
            if cell.task is task and cell.rung == rung
        ]
        if same_floors and rung != task.rungs[-1]:
            continue
        lead = [Entry("all", math.inf)] if same_floors and len(task.rungs) > 1 else lead
        for kind, levels in (("floor", task.floors(rung)), ("published", task.points(rung))):
            for name, value in levels.items():
                shown = Entry(task.metric.shown(value), value, "level")
                row = [*lead, text(f"{kind}: {name}", "level"), *[Entry("", "")] * (2 * solvable), shown]
                rows.append(row + [Entry("", "")] * (len(heads) - len(row)))
    return Table(f"{task.key}: what each model reached", heads, rows)


def _outcome(cell: Cell, solvable: bool, alone: bool) -> list[Entry]:
    metric = cell.task.metric
    never = Entry(late(cell.finished), math.inf)
    times = [
        never if cell.steps is None else number(cell.steps, "{:.0f}"),
        never if cell.cpu_s is None else number(cell.cpu_s, "{:.2f}"),
    ]
    notes = [cell.note, f"{cell.diverged} diverged" if cell.diverged else ""]
    return [
        model(cell.label),
        *([share(cell.solved, cell.finished, cell.missing), _rate(cell)] if solvable else []),
        number(cell.score.mean, f"{{:.{metric.digits}f}}"),
        span(cell.score.low, cell.score.high, interval(cell.score.low, cell.score.high, metric)),
        *(times if solvable else []),
        *([span(cell.test.low, cell.test.high, interval(cell.test.low, cell.test.high))] if alone else []),
        text("; ".join(note for note in notes if note), "note"),
    ]


def _rate(cell: Cell) -> Entry:
    rate = cell.solve_rate
    return span(rate.low, rate.high, f"[{rate.low:.2f}, {rate.high:.2f}]")


def differences(comparisons: list[Comparison], reference: str) -> Table:
    """Paired differences to the reference."""
    heads = [
        ("task", False), ("model", False), ("verdict", False), (f"difference to {reference}", True),
        ("95 % interval", True), ("p (Holm)", True), ("p (sign flips)", True), ("seeds", True),
    ]  # fmt: skip
    rows = []
    for c in comparisons:
        r = c.result
        place = (
            c.task.key
            if c.whole and len(c.task.rungs) > 1
            else c.task.at(c.task.rungs[0] if c.whole else c.rung)
        )
        digits = c.task.metric.digits
        rows.append(
            [
                text(place),
                model(c.label),
                text(c.words, c.judged.outcome.name.lower()),
                Entry(signed(r.mean, digits), r.mean),
                span(r.low, r.high, f"[{signed(r.low, digits)}, {signed(r.high, digits)}]"),
                p_value(c.judged.p),
                p_value(r.p_flip),
                number(r.n, "{}"),
            ]
        )
    averaged = (
        ", mean over a task's rungs" if any(c.whole and len(c.task.rungs) > 1 for c in comparisons) else ""
    )
    tests = max(c.judged.comparisons for c in comparisons)
    corrected = f"; corrected for {tests} comparisons" if tests > 1 else ""
    names = " or ".join(dict.fromkeys(c.task.metric.name for c in comparisons))
    caption = f"Paired differences of test {names} to {reference}{averaged}{corrected}; intervals are not cut"
    return Table(caption, heads, rows)


def gradients(found: list[Flow]) -> Table:
    """Decay, half-life and horizon of every model before and after training."""
    heads = [
        ("model", False), ("moment", False), ("remains per step", True), ("95 % interval", True),
        ("half-life", True), ("horizon", True), ("remains far away", True), ("at distance", True),
    ]  # fmt: skip
    rows = []
    for flow in found:
        d = flow.decay
        name = "before training" if flow.moment == "init" else "after training"
        rows.append(
            [
                model(flow.label),
                text(name + (", near end" if flow.two_ended else "")),
                number(d.factor, "\N{MULTIPLICATION SIGN}{:.3f}"),
                span(d.low, d.high, f"[{d.low:.3f}, {d.high:.3f}]"),
                _half_life(flow),
                Entry("beyond", math.inf) if d.horizon is None and d.n else number(d.horizon, "{:.0f}"),
                number(flow.far, "{:.2g}"),
                number(flow.far_distance, "{}"),
            ]
        )
    caption = (
        "How the gradient falls with the distance from the loss (remains far away: |dL/dx| at that distance "
        "/ at distance 1, median over seeds)"
    )
    return Table(caption, heads, rows)


def _half_life(flow: Flow) -> Entry:
    """Steps until half is left; words where that never happens, and where the gradient grows for certain."""
    d = flow.decay
    if d.half_life < _LONGEST_LIFE or not d.n:
        return number(d.half_life, "{:.1f}")
    if math.isfinite(d.half_life):
        return Entry(f"over {_LONGEST_LIFE}", math.inf)
    grows = d.low > 1 if math.isfinite(d.low) else d.factor > 1 + 0.5 / _LONGEST_LIFE
    return Entry("none (grows)" if grows else "none", math.inf)


def training_health(found: list[Health]) -> Table:
    """Clipping, norms and updates of every model."""
    heads = [
        ("task", False), ("model", False), ("steps clipped", True), ("median gradient norm", True),
        ("largest", True), ("update / weights", True), ("remark", False),
    ]  # fmt: skip
    rows = [
        [
            text(one.task.at(one.rung)),
            model(one.label),
            Entry("never clips", -1.0, values=()) if one.clipped is None else number(one.clipped, "{:.0%}"),
            number(one.median_norm, "{:.2g}"),
            number(one.largest_norm, "{:.2g}"),
            number(one.update, "{:.1e}"),
            text(one.flags, "note"),
        ]
        for one in found
    ]
    return Table("Gradients and updates of every training step", heads, rows)


def memories(sweep: Sweep, grid: list[Cell]) -> Table | None:
    """The farthest rung that at least four fifths of a model's runs solve; None without a ladder."""
    ladders = [task for task in sweep.tasks if len(task.rungs) > 1 and task.solved_at is not None]
    if not ladders:
        return None
    heads = [("model", False), *((f"{task.key} ({task.symbol})", True) for task in ladders)]
    rows = [[model(label), *(_reach(grid, task, label) for task in ladders)] for label in sweep.labels]
    caption = "Effective memory: the largest size that at least 80 % of the runs solve (the headline: half)"
    return Table(caption, heads, rows)


def _reach(grid: list[Cell], task: Task, label: str) -> Entry:
    mine = [c for c in grid if c.task is task and c.label == label and c.finished]
    solved = [c.rung for c in mine if c.solved >= _MOST_SOLVE * c.finished and c.rung is not None]
    if not mine:
        return Entry(NONE, -1.0, values=())
    return number(max(solved), "{}") if solved else Entry("none", 0.0, values=())


def first(values: pd.Series) -> float | None:
    """The first number of a column; None where there is none."""
    known = pd.to_numeric(values, errors="coerce").dropna()
    return float(known.iloc[0]) if len(known) else None


def middle(values: pd.Series) -> float | None:
    """The median of the numbers of a column; None where there is none."""
    known = pd.to_numeric(values, errors="coerce").dropna()
    return float(known.median()) if len(known) else None


def first_text(values: pd.Series) -> str:
    """The first text of a column; a dash where there is none."""
    known = [value for value in values if isinstance(value, str)]
    return known[0] if known else NONE


def settings(sweep: Sweep) -> Table:
    """What each model was given: the fairness of the comparison in one table."""
    keys = ("lr", "steps", "batch_size", "warmup", "schedule", "clip", "weight_decay", "precision")
    heads = [
        ("task", False), ("model", False), ("learning rate", True), ("most steps", True), ("batch", True),
        ("warm-up", True), ("schedule", False), ("clip", True), ("weight decay", True), ("precision", False),
        ("matched parameters", True), ("all parameters", True), ("width", True), ("readout", False),
        ("reads", False),
    ]  # fmt: skip
    rows = []
    for (task, label), runs in sweep.training.groupby(["task", "label"], sort=False):
        train = next((found for name in runs["folder"] if (found := sweep.config(name, "train"))), {})
        cells = [_setting(train.get(key)) for key in keys]
        if isinstance(epochs := train.get("epochs"), int | float):
            cells[1] = number(epochs, "{:g} passes")
        counts = [
            number(first(runs[key]), "{:,.0f}") for key in ("matched_parameters", "parameters", "width")
        ]
        ways = {True: "the past only", False: "both ways"}
        reads = next((ways[bool(value)] for value in runs["causal"] if isinstance(value, bool)), NONE)
        last = [text(first_text(runs["readout"])), text(reads)]
        rows.append([text(str(task)), model(str(label)), *cells, *counts, *last])
    return Table("What each model was given", heads, rows)


def _setting(value: object) -> Entry:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(float(value), "{:g}")
    return text(clean(value, 40) if value is not None else NONE)
