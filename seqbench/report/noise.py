"""How much the numbers move although nothing differs: the machine's noise, and what the seeds can show."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seqbench.report.facts import others_busy
from seqbench.report.frame import Sweep
from seqbench.report.summary import Cell
from seqbench.report.tables import Table, text
from seqbench.report.task import mapping
from seqbench.report.verdict import Comparison

BUSY_CORES = 0.5  # kept busy by others, from which times are no ratios to speak of
_BLOCKS = 4  # of a model's timed steps, in their order; two halves are made of every other one
_FEWEST_STEPS = 8
_FEWEST_FOR_QUANTILE = 40
_QUANTILE = 0.95


@dataclass(frozen=True)
class Halves:
    """An A/A comparison: the same network at the same length, its timed steps in two halves.

    Attributes:
        place: model and length in words.
        ratio: median of one half relative to that of the other, the larger above; 1 without any noise.
        spread: distance between the quartiles of all its steps, relative to their median.
    """

    place: str
    ratio: float
    spread: float


def halves(sweep: Sweep) -> list[Halves]:
    """Every timed training step with enough repetitions, compared with itself."""
    table = sweep.table("speed")
    table = table[(table["mode"] == "train") & table["step_s"].gt(0)]
    symbols = {task.key: task for task in sweep.tasks}
    found = []
    for (task, label, _), group in table.groupby(["task", "label", "rung"], sort=False, dropna=False):
        steps = group["step_s"].to_numpy(dtype=float)
        if len(steps) >= _FEWEST_STEPS and task in symbols:
            quarter, middle, three = np.quantile(steps, [0.25, 0.5, 0.75])
            rung = group["rung"].iloc[0]
            where = symbols[str(task)].at(None if pd.isna(rung) else int(rung))
            found.append(Halves(f"{label}, {where}", _ratio(steps), float((three - quarter) / middle)))
    return found


def _ratio(steps: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Ratio of the medians of even and odd blocks of steps; at least 1.

    >>> _ratio(np.array([1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]))
    2.0
    """
    block = np.arange(len(steps)) * _BLOCKS // len(steps)
    even, odd = (float(np.median(steps[block % 2 == rest])) for rest in (0, 1))
    return max(even / odd, odd / even)


def resolvable(found: list[Halves]) -> float:
    """The smallest ratio of two speeds to speak of: what all but one in twenty false ratios stay below.

    With few of them the largest; NaN without any.
    """
    ratios = [one.ratio for one in found]
    if not ratios:
        return math.nan
    return float(np.quantile(ratios, _QUANTILE)) if len(ratios) >= _FEWEST_FOR_QUANTILE else max(ratios)


def table(sweep: Sweep, grid: list[Cell], comparisons: list[Comparison]) -> Table | None:
    """What is known about the noise: a source, how large it is, and what that means; None without any.

    Args:
        comparisons: of whole tasks.
    """
    rows = [*_load(sweep), *_timing(sweep), *_seeds(grid, comparisons)]
    heads = [("what", False), ("how much", False), ("what it means", False)]
    return (
        Table(
            "How much the numbers move although nothing differs", heads, [[*map(text, row)] for row in rows]
        )
        if rows
        else None
    )


def _load(sweep: Sweep) -> Iterable[tuple[str, str, str]]:
    """What else the machine did while speed was measured."""
    busy, cores = others_busy(sweep), _cores(sweep)
    if busy is not None:
        many = f" of {cores:g}" if cores else ""
        if busy[1] <= BUSY_CORES:
            meaning = "nothing else of seqbench ran, and little else: times may be compared"
        else:
            meaning = (
                "other programs ran, though nothing else of seqbench: small differences of speed mean nothing"
            )
        yield "cores that other programs kept busy during speed measurements", f"{_span(busy)}{many}", meaning
    elif not sweep.table("speed").empty:
        yield "other programs", "not recorded", "whether the machine was quiet cannot be told"
    if loads := _numbers(sweep, "load_average_before"):
        meaning = (
            "processes that wanted a core during the minute before, those of this sweep's training included"
        )
        yield "load average before speed measurements", _span(loads), meaning


def _cores(sweep: Sweep) -> float:
    found = _numbers(sweep, "cores")
    return found[0] if len(set(found)) == 1 else 0.0


def _numbers(sweep: Sweep, key: str) -> list[float]:
    """A number of the environment of every speed measurement."""
    found = [mapping(run.environment).get(key) for run in sweep.records.values() if run.kind == "speed"]
    return [float(one) for one in found if isinstance(one, int | float) and 0 <= one < 1e6]


def _span(values: Iterable[float]) -> str:
    """The least and the most of some numbers.

    >>> _span([0.1, 0.123]), _span([0.5, 0.1])
    ('0.1', '0.1 to 0.5')
    """
    known = sorted(values)
    ends = dict.fromkeys(f"{value:.1f}" for value in (known[0], known[-1]))
    return " to ".join(ends)


def _timing(sweep: Sweep) -> Iterable[tuple[str, str, str]]:
    """Spread of single steps, and the A/A figure."""
    found = halves(sweep)
    if not found:
        if not sweep.table("speed").empty:
            few = f"fewer than {_FEWEST_STEPS} timed steps of every model and length"
            yield "A/A figure of speed", "not known", f"{few}: raise speed.min_steps or speed.seconds"
        return
    widest = max(found, key=lambda one: one.spread)
    usual = float(np.median([one.spread for one in found]))
    yield (
        "spread of a model's training steps (quartile distance / median)",
        f"{usual:.0%}, up to {widest.spread:.0%} ({widest.place})",
        "from batch to batch of one model at one length, sequences of different length included",
    )
    worst = max(found, key=lambda one: one.ratio)
    least = resolvable(found)
    yield (
        "A/A figure of speed: the same code compared with itself",
        f"{np.median([one.ratio for one in found]):.2f} times, up to {worst.ratio:.2f} ({worst.place})",
        (
            f"two halves of the same timed steps (every other of {_BLOCKS} blocks), {len(found)} times; "
            f"models whose speeds differ by less than {least:.2f} times cannot be told apart here, and "
            "restarts of a process may move times further"
        ),
    )


def _seeds(grid: list[Cell], comparisons: list[Comparison]) -> Iterable[tuple[str, str, str]]:
    """What the seeds of each task can show."""
    for task in dict.fromkeys(cell.task.key for cell in grid):
        here = [c for c in comparisons if c.task.key == task and c.result.n > 1]
        alone = [cell for cell in grid if cell.task.key == task and math.isfinite(cell.test.low)]
        if here:
            digits = here[0].task.metric.digits - 1
            found = sorted(c.judged.detectable for c in here if math.isfinite(c.judged.detectable))
            ends = dict.fromkeys(f"{value:.{digits}f}" for value in (*found[:1], *found[-1:]))
            seeds = dict.fromkeys(str(c.result.n) for c in here)
            yield (
                f"difference of {here[0].task.metric.name} found with power 0.8, {task}",
                (" to ".join(ends) or "not known") + _beyond(here),
                (
                    f"the smallest one, at {' or '.join(seeds)} seeds, by the spread of the differences, "
                    "after correction; it depends on the model, and 0 means that all seeds differed by the "
                    "same amount; intervals of differences are not cut at what is possible"
                ),
            )
        if alone:
            wide = max(cell.test.high - cell.test.low for cell in alone) / 2
            answers = dict.fromkeys(f"{cell.test.n:,}" for cell in alone)
            yield (
                f"test set alone, {task}",
                f"up to \N{PLUS-MINUS SIGN}{wide:.3f}",
                f"Wilson's interval for {' or '.join(answers)} answers of a test set, apart from the seeds",
            )


def _beyond(here: list[Comparison]) -> str:
    """Whether some of the differences that would be found are larger than any can be."""
    over = [c for c in here if c.judged.detectable >= c.most]
    if not over:
        return ""
    what = "more" if len(over) == len(here) else "at its end more"
    return f" ({what} than is possible here: {max(c.most for c in over):.2f})"
