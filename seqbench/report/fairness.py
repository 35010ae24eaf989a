"""What was made equal, what was not, and whether the ranking depends on it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.label import clean
from seqbench.report.summary import Cell, same
from seqbench.report.tables import NONE, Entry, Table, model, text
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

_MATCHED_WITHIN = 0.02
_MOST_FLIPS = 6
_LARGEST = 1e30
_LOOP = 1.5  # calls per step and layer; seqbench.kernel says the same
AXES = {  # how each cost is called in a setting, in a table, and in a sentence
    "params": ("matched parameters", "parameters"),
    "flops": ("FLOPs, forward", "operations"),
    "state": ("numbers kept", "state"),
    "time": ("train step (ms)", "time per step"),
}
_SHORT = {
    "params": "{:,.0f}".format,
    "flops": theme.plain,
    "state": "{:,.0f}".format,
    "time": "{:.2f}".format,
}


@dataclass(frozen=True)
class Cost:
    """What one model costs on one rung, for one sequence or step; NaN where it is not known.

    Attributes:
        by: the axis that was made equal: "params", "flops", "state", "time" or "none".
        score: mean test score.
    """

    task: Task
    rung: int | None
    label: str
    by: str
    score: float
    params: float
    flops: float
    state: float
    time: float

    def of(self, axis: str) -> float:
        """The cost along one axis."""
        return float(getattr(self, axis))


def costs(sweep: Sweep, grid: list[Cell], speeds: pd.DataFrame) -> list[Cost]:
    """Every model at the highest rung of every task; canaries cost next to nothing and are left out."""
    counted = sweep.table("speed")
    canaries = set(sweep.training[sweep.training["canary"].eq(True)]["label"])
    found = []
    for cell in grid:
        if cell.rung == cell.task.rungs[-1] and cell.label not in canaries:
            key = {"task": cell.task.key, "label": cell.label}
            mine = _rows(counted, key, cell.rung)
            timed = _rows(speeds, key, cell.rung)
            trained = _rows(sweep.training, key, cell.rung)
            found.append(
                Cost(
                    cell.task, cell.rung, cell.label, _by(sweep, trained), cell.score.mean,
                    params=_first(trained, "matched_parameters"), flops=_first(mine, "flops"),
                    state=_first(mine, "state_values"),
                    time=1e3 * _first(timed[timed["mode"] == "train"], "median_s"),
                )
            )  # fmt: skip
    return found


def _rows(table: pd.DataFrame, key: dict[str, str], rung: int | None) -> pd.DataFrame:
    chosen = same(table["rung"], rung)
    for name, value in key.items():
        chosen &= table[name] == value
    rows: pd.DataFrame = table[chosen]
    return rows


def _first(rows: pd.DataFrame, column: str) -> float:
    """The first usable number of a column; NaN where there is none, or no such column."""
    if column not in rows:
        return math.nan
    values = pd.to_numeric(rows[column], errors="coerce").astype(float)
    known = values[values.between(1e-12, _LARGEST)]
    return float(known.iloc[0]) if len(known) else math.nan


def _by(sweep: Sweep, runs: pd.DataFrame) -> str:
    """What was matched for these runs."""
    found = {str(sweep.config(str(name), "match").get("by", "none")) for name in runs["folder"]}
    one = found.pop() if len(found) == 1 else "none"
    fixed = any(sweep.config(str(name), "model").get("hidden") is not None for name in runs["folder"])
    return "none" if fixed or one not in AXES else one


def table(found: list[Cost], clock: str = "") -> Table | None:
    """Costs of every model with its rank along each axis, the cheapest first; None without any cost.

    Args:
        clock: the end of its caption, where the times of several machines were recorded.
    """
    axes = [axis for axis in AXES if any(math.isfinite(cost.of(axis)) for cost in found)]
    if not axes or len({cost.label for cost in found}) < 2:
        return None
    heads = [("task", False), ("model", False), ("made equal", False), ("test score (rank)", True)]
    heads += [(f"{AXES[axis][0]} (rank)", True) for axis in axes]
    rows = []
    for _, here in _grouped(found):
        best = ranks([cost.score for cost in here], highest=here[0].task.metric.higher)
        places = {axis: ranks([cost.of(axis) for cost in here], highest=False) for axis in axes}
        for number, cost in enumerate(here):
            made = AXES[cost.by][1] if cost.by in AXES else "nothing"
            known = math.isfinite(cost.score)
            score = cost.task.metric.shown(cost.score) if known else NONE
            rows.append(
                [
                    text(cost.task.at(cost.rung)),
                    model(cost.label),
                    text(made),
                    Entry(f"{score} ({best[number]})" if known else NONE, cost.score if known else math.inf),
                    *(_ranked(cost, axis, places[axis][number]) for axis in axes),
                ]
            )
    return Table(
        "What each model costs, at the largest size; ranks among models that were matched in the same way"
        + clock,
        heads,
        rows,
    )


def _ranked(cost: Cost, axis: str, rank: int | None) -> Entry:
    value = cost.of(axis)
    if not math.isfinite(value) or rank is None:
        return Entry(NONE, math.inf)
    return Entry(f"{_SHORT[axis](value)} ({rank})", value, "all" if axis == cost.by else "")


def ranks(values: list[float], *, highest: bool) -> list[int | None]:
    """The place of every value, equal ones sharing the better; None for what is not known.

    >>> ranks([0.5, math.nan, 0.9, 0.5], highest=True)
    [2, None, 1, 2]
    """
    known = [value for value in values if math.isfinite(value)]
    return [
        1 + sum(other > value if highest else other < value for other in known)
        if math.isfinite(value)
        else None
        for value in values
    ]


def words(found: list[Cost], *, busy: bool = False) -> list[str]:
    """What was matched, how near, what the equal budget hides, and where the ranking flips.

    Args:
        busy: other programs disturbed the timing, so that times are no ratios to speak of.
    """
    lines = (_uncounted(found), _nearness(found), *_spread(found, busy=busy), *flips(found))
    return [line for line in lines if line]


def _uncounted(found: list[Cost]) -> str:
    """What was to be equal and cannot be looked at, since costs are counted where speed is measured."""
    unknown = [AXES[c.by][1] for c in found if c.by in AXES and not math.isfinite(c.of(c.by))]
    if not unknown:
        return ""
    return (
        f"Widths were solved for equal {words_list(list(dict.fromkeys(unknown)))}; how near they came is not "
        "shown, for a model's costs are counted where its speed is measured (speed.enabled=true)."
    )


def _nearness(found: list[Cost]) -> str:
    """Models that miss what was to be equal, with the closest that their width allows."""
    far: dict[str, None] = {}
    for (by, task), group in _grouped(found):
        values = {cost.label: cost.of(by) for cost in group if by in AXES and math.isfinite(cost.of(by))}
        if by in ("none", "params") or len(values) < 2:  # parameters have a target of their own
            continue
        first = next(iter(values.values()))
        for label, value in values.items():
            if abs(value / first - 1) > _MATCHED_WITHIN:
                far[f"{label} {value / first:.2f} times ({AXES[by][1]}, {task})"] = None
    if not far:
        return ""
    return (
        "Widths come in whole numbers, and heads want multiples: against the first model the closest "
        f"achievable is {words_list(list(far))}."
    )


def _grouped(found: list[Cost]) -> list[tuple[tuple[str, str], list[Cost]]]:
    """Models that were made equal in the same way on the same task."""
    groups: dict[tuple[str, str], list[Cost]] = {}
    for cost in found:
        groups.setdefault((cost.by, cost.task.key), []).append(cost)
    return list(groups.items())


def _spread(found: list[Cost], *, busy: bool) -> list[str]:
    """What the models differ in although something else is equal: the widest ratio of each other cost."""
    told = []
    axes = [axis for axis in AXES if not (busy and axis == "time")]
    for (by, task), group in _grouped(found):
        parts = []
        for axis in axes:
            known = sorted((c for c in group if math.isfinite(c.of(axis))), key=lambda c: c.of(axis))
            if axis != by and len(known) > 1 and known[-1].of(axis) > 1.5 * known[0].of(axis):
                ratio = known[-1].of(axis) / known[0].of(axis)
                least, most = known[0].label, known[-1].label
                parts.append(f"{most} has {ratio:.3g} times the {AXES[axis][1]} of {least}")
        if parts and by in AXES:
            told.append(f"At equal {AXES[by][1]} on {task}, {words_list(parts)}.")
    return told


def flips(found: list[Cost]) -> list[str]:
    """Pairs of models whose order changes with what is made equal, where the sweep varied that."""
    told: list[str] = []
    for task in dict.fromkeys(cost.task.key for cost in found):
        scores: dict[str, dict[str, Cost]] = {}
        for cost in found:
            if cost.task.key == task and math.isfinite(cost.score):
                scores.setdefault(cost.by, {})[base(cost.label)] = cost
        for one, other in itertools.combinations(scores, 2):
            told += _flipped(task, scores[one], scores[other])
    return told[:_MOST_FLIPS]


def _flipped(task: str, one: dict[str, Cost], other: dict[str, Cost]) -> list[str]:
    told = []
    for a, b in itertools.combinations([name for name in one if name in other], 2):
        metric = one[a].task.metric
        margin = metric.margin if not metric.relative else 0.0
        ahead = [(x[a].score - x[b].score) * (1 if metric.higher else -1) for x in (one, other)]
        if min(ahead) < -margin and max(ahead) > margin:
            first, second = (a, b) if ahead[0] > 0 else (b, a)
            told.append(
                f"The ranking flips on {task}: at equal {_axis(one[a])} {first} is ahead of {second}, at "
                f"equal {_axis(other[a])} {second} of {first} (means; see the verdict for what can be told)."
            )
    return told


def _axis(cost: Cost) -> str:
    return AXES[cost.by][1] if cost.by in AXES else "nothing"


def base(label: str) -> str:
    """A label without what was made equal.

    >>> base("lstm (by=flops)"), base("lstm (forget_bias=1, by=time)"), base("lstm")
    ('lstm', 'lstm (forget_bias=1)', 'lstm')
    """
    name, bracket, rest = label.partition(" (")
    parts: list[Any] = [part for part in rest.removesuffix(")").split(", ") if not part.startswith("by=")]
    return clean(f"{name} ({', '.join(parts)})") if bracket and any(parts) else name


def kernels(sweep: Sweep) -> str:
    """A warning where a ranking by speed compares a loop of small calls with fast kernels."""
    runs = sweep.runs[(sweep.runs["kind"] == "speed") & sweep.runs["canary"].ne(True)]
    calls = pd.to_numeric(runs["calls_per_step"], errors="coerce").astype(float)
    loops = {str(label): count for label, count in zip(runs["label"], calls, strict=True) if count >= _LOOP}
    fast = [str(label) for label, count in zip(runs["label"], calls, strict=True) if 0 <= count < _LOOP]
    if not loops or not fast:
        return ""
    slow = words_list([f"{label} ({count:.0f})" for label, count in loops.items()])
    return (
        f"These times mix kernels: {slow} ran as a loop of small torch calls (in brackets: "
        f"calls per step and layer, forward and backward), {words_list(list(dict.fromkeys(fast)))} did many "
        "steps per call. The times say what each costs here and now, not what the architecture could cost "
        "with a kernel of its own."
    )
