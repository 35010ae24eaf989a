"""What a longer sequence costs: numbers kept, operations and time at two lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.label import clean
from seqbench.report.lesson_parts.amounts import times
from seqbench.report.tables import NONE, Entry, Table, model
from seqbench.report.task import Task, mapping
from seqbench.report.verdict import words_list

_MOST = 12
_LARGEST = 1e30
Pair = tuple[float, float]


@dataclass(frozen=True)
class Cost:
    """One model's cost of a sequence at both lengths; NaN where it is not known."""

    label: str
    kept: Pair
    flops: Pair
    train_ms: Pair


@dataclass(frozen=True)
class Growth:
    """A task's models at the shortest and the longest timed length."""

    task: Task
    low: int
    high: int
    costs: list[Cost]

    @property
    def longer(self) -> str:
        """How many times as long, with a times sign."""
        return times(self.high / self.low)

    def extreme(self, *, most: bool) -> tuple[str, str]:
        """Whose operations grow most or least, and how much; empty where none are known."""
        known = {cost.label: ratio(cost.flops) for cost in self.costs if ratio(cost.flops) > 0}
        if not known:
            return "", ""
        label = (max if most else min)(known, key=lambda one: known[one])
        return label, times(known[label])


def ratio(pair: Pair) -> float:
    """The second as a multiple of the first; NaN where that says nothing."""
    return pair[1] / pair[0] if pair[0] > 0 else math.nan


def growth(sweep: Sweep) -> Growth | None:
    """The first task that was timed at more than one length."""
    table = sweep.table("speed")
    table = table[(table["mode"] == "train") & table["rung"].between(1, 1e9)]
    for task in sweep.tasks:
        here = table[table["task"] == task.key]
        rungs = sorted({int(rung) for rung in here["rung"]})
        if len(rungs) > 1:
            ends = (rungs[0], rungs[-1])
            costs = [_cost(here[here["label"] == label], label, ends) for label in sweep.labels]
            return Growth(task, *ends, [cost for cost in costs if cost is not None])
    return None


def _cost(rows: pd.DataFrame, label: str, ends: tuple[int, int]) -> Cost | None:
    if rows.empty:
        return None
    low, high = (rows[rows["rung"] == rung] for rung in ends)
    kept, flops, seconds = (
        (_middle(low, column), _middle(high, column)) for column in ("state_values", "flops", "step_s")
    )
    return Cost(label, kept, flops, (1e3 * seconds[0], 1e3 * seconds[1]))


def _middle(rows: pd.DataFrame, column: str) -> float:
    """The median of a column; NaN where there is none of it, or nothing usable in it."""
    if column not in rows:
        return math.nan
    return float(rows[column][rows[column].between(1e-12, _LARGEST)].median())


def ranking(sweep: Sweep, task: Task) -> str:
    """Who is quickest and slowest at which length, and on what; empty where no two times may be compared."""
    table = sweep.table("speed")
    table = table[(table["task"] == task.key) & (table["mode"] == "train") & table["rung"].between(1, 1e9)]
    table = table[table["step_s"].between(1e-12, _LARGEST)]
    times_s = table.groupby(["rung", "label"])["step_s"].median().unstack("label").dropna(axis=1)
    if len(times_s.columns) < 2:
        return ""
    quick, slow = (
        {float(str(rung)): str(label) for rung, label in found.items()}
        for found in (times_s.idxmin(axis=1), times_s.idxmax(axis=1))
    )
    return f"Here{_device(sweep, task)}, {_ends(task, quick, slow)}"


def _ends(task: Task, quick: dict[float, str], slow: dict[float, str]) -> str:
    """The quickest and the slowest model at each length, in words."""
    every = f"at every {'length' if task.symbol == 'T' else 'size'}"
    always = [next(iter(found.values())) for found in (quick, slow) if len(set(found.values())) == 1]
    if len(always) == 2:
        return f"{always[0]} is quickest and {always[1]} slowest {every}"
    return "; ".join(
        _at(task, found, word, every) for found, word in ((quick, "quickest"), (slow, "slowest"))
    )


def _at(task: Task, found: dict[float, str], word: str, every: str) -> str:
    """Which model is quickest (or slowest) at which length."""
    rungs: dict[str, list[str]] = {}
    for rung, label in found.items():
        rungs.setdefault(label, []).append(f"{rung:g}")
    places = {label: f"at {task.symbol}={', '.join(where)}" for label, where in rungs.items()}
    return words_list(
        [f"{label} is {word} {where if len(places) > 1 else every}" for label, where in places.items()]
    )


def on_cpu(sweep: Sweep, task: Task) -> bool:
    """Whether a task was timed on processors alone."""
    return {device for device, _ in _machines(sweep, task)} == {"cpu"}


def _device(sweep: Sweep, task: Task) -> str:
    """What a task was timed on, as part of a sentence; empty where that is not known."""
    device, threads = next(iter(_machines(sweep, task)), ("", 0))
    if device != "cpu":
        return f", on {device}" if device else ""
    return f", on {'one' if threads == 1 else threads} CPU thread{'' if threads == 1 else 's'}"


def _machines(sweep: Sweep, task: Task) -> list[tuple[str, int]]:
    """Device and threads of every timed run that says so."""
    runs = sweep.runs[(sweep.runs["kind"] == "speed") & (sweep.runs["task"] == task.key)]
    runs = runs[runs["elsewhere"].ne(True)]
    environments = [
        mapping(sweep.records[name].environment) for name in runs["folder"] if name in sweep.records
    ]
    return [
        (clean(one["device"], 60), one["threads"])
        for one in environments
        if isinstance(one.get("device"), str) and isinstance(one.get("threads"), int)
    ]


def table(found: Growth) -> Table:
    """Both lengths of every model, with the factor between them."""
    low, high = (f"{found.task.symbol}={rung}" for rung in (found.low, found.high))
    heads = [
        ("model", False), ("numbers kept of a sequence", True), ("million operations, forward", True),
        ("training step (ms)", True),
    ]  # fmt: skip
    rows = [
        [
            model(cost.label),
            _pair(cost.kept, "{:,.0f}"),
            _pair(_millions(cost.flops), "{:,.3g}"),
            _pair(cost.train_ms, "{:.1f}"),
        ]
        for cost in found.costs[:_MOST]
    ]
    return Table(f"From {low} to {high} ({found.longer}): {found.task.key}", heads, rows)


def _millions(pair: Pair) -> Pair:
    return pair[0] / 1e6, pair[1] / 1e6


def _pair(pair: Pair, pattern: str) -> Entry:
    grown = ratio(pair)
    if not grown > 0:
        return Entry(NONE, math.inf, values=())
    shown = [pattern.format(value) for value in pair]
    arrow = "\N{RIGHTWARDS ARROW}"
    return Entry(f"{shown[0]} {arrow} {shown[1]} ({times(grown)})", grown, values=(*pair, grown))
