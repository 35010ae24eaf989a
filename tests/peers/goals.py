"""What the figures say: ratios with their spread, and each goal met or missed. Pure functions of results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from peers.contest import Result
from peers.contestants import FLAX, KERAS, NAIVE, OURS, PACKED, PEAK
from peers.work import PRODUCT_FLOPS, Cell

CellResults = dict[str, Result]  # by contestant
Results = dict[Cell, CellResults]
FLOOR, BEST_KERAS = "floor", "best Keras"
_NAMES = {NAIVE: "padded PyTorch", PACKED: "packed PyTorch", FLAX: "flax", BEST_KERAS: BEST_KERAS}


@dataclass(frozen=True)
class Ratio:
    """A ratio of times, smaller is faster: median over rounds, with quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Goal:
    """A time of seqbench relative to a contestant's, or to the floor, and what it should be at most."""

    model: str
    length: int
    against: str
    at_most: float

    @property
    def words(self) -> str:
        """The goal as the table names it."""
        if self.against == FLOOR:
            return f"{self.model} T={self.length}, over the floor"
        return f"{self.model} T={self.length}, relative to {_NAMES[self.against]}"


# The main ones first, then finer ones ("1.7 times faster" is 1/1.7).
GOALS = (
    Goal("lstm", 32, NAIVE, 0.65),
    Goal("lstm", 128, NAIVE, 0.55),
    Goal("gru", 128, NAIVE, 0.5),
    Goal("bilstm", 128, PACKED, 0.2),
    Goal("bilstm", 512, PACKED, 0.05),
    Goal("transformer", 512, NAIVE, 0.5),
    Goal("rnn", 128, NAIVE, 1 / 2),
    Goal("transformer", 128, NAIVE, 1 / 1.7),
    Goal("rnn", 128, PACKED, 1 / 3),
    Goal("gru", 128, PACKED, 1 / 4),
    Goal("lstm", 128, PACKED, 1 / 5),
    Goal("bilstm", 128, PACKED, 1 / 4.5),
    Goal("lstm", 512, PACKED, 1 / 25),
    Goal("bilstm", 512, PACKED, 1 / 25),
    Goal("rnn", 128, BEST_KERAS, 1 / 1.2),
    Goal("gru", 128, BEST_KERAS, 1 / 1.8),
    Goal("lstm", 128, BEST_KERAS, 1 / 1.8),
    Goal("transformer", 128, BEST_KERAS, 1 / 1.4),
    Goal("rnn", 128, FLAX, 1 / 1.2),
    Goal("gru", 128, FLAX, 1 / 1.6),
    Goal("lstm", 128, FLAX, 1 / 1.8),
    Goal("rnn", 128, FLOOR, 2.4),
    Goal("gru", 128, FLOOR, 1.9),
    Goal("lstm", 128, FLOOR, 1.6),
    Goal("transformer", 128, FLOOR, 1.6),
)


@dataclass(frozen=True)
class Verdict:
    """What became of a goal.

    Attributes:
        ratio: None where there is no figure; then ``why`` says the reason.
    """

    goal: Goal
    ratio: Ratio | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the figure is at most the goal; None without a figure."""
        return None if self.ratio is None else self.ratio.median <= self.goal.at_most


def step_s(result: Result) -> float | None:
    """CPU seconds of a training step, the median over rounds; None without figures."""
    return None if result.problem or not result.cpu_s else statistics.median(result.cpu_s)


def ratio(ours: Result, theirs: Result) -> Ratio | None:
    """Ratio of CPU times in the same rounds; None where one has no figures."""
    if step_s(ours) is None or step_s(theirs) is None:
        return None
    pairs = [a / b for a, b in zip(ours.cpu_s, theirs.cpu_s, strict=False)]  # the slower one has fewer rounds
    low, median, high = np.quantile(pairs, [0.25, 0.5, 0.75])
    return Ratio(float(median), float(low), float(high))


def over_floor(cell: Cell, results: CellResults, name: str) -> Ratio | None:
    """Time of a contestant over what the matrix products of the valid tokens take at this core's peak.

    The peak is that of the same round.
    """
    result, peak = results.get(name, Result(problem="not asked for")), results.get(PEAK)
    if peak is None or step_s(peak) is None or step_s(result) is None:
        return None
    floors = [cell.step_flops * one / PRODUCT_FLOPS for one in peak.cpu_s]
    return ratio(result, Result(cpu_s=floors))


def best_keras(results: CellResults) -> str | None:
    """The back end of Keras with the fastest step; None without any."""
    times = {name: step_s(results[name]) for name in KERAS if name in results}
    found = {name: time for name, time in times.items() if time is not None}
    return min(found, key=lambda name: found[name]) if found else None


def verdicts(results: Results) -> list[Verdict]:
    """Every goal on a model and a length that was measured."""
    return [
        _judge(goal, results[cell]) for goal in GOALS if (cell := Cell(goal.model, goal.length)) in results
    ]


def _judge(goal: Goal, results: CellResults) -> Verdict:
    if goal.against == FLOOR:
        found = over_floor(Cell(goal.model, goal.length), results, OURS)
        return Verdict(goal, found, "" if found else _why(results, OURS, PEAK))
    name = best_keras(results) if goal.against == BEST_KERAS else goal.against
    if name is None:
        return Verdict(goal, None, _why(results, OURS, *KERAS))
    found = ratio(results[OURS], results[name]) if {OURS, name} <= results.keys() else None
    return Verdict(goal, found, "" if found else _why(results, OURS, name))


def _why(results: CellResults, *names: str) -> str:
    """The first reason why one of these has no figures."""
    for name in names:
        if name not in results:
            return f"{name}: not asked for"
        if results[name].problem:
            return f"{name}: {results[name].problem}"
    return "no figure"


def nearest_peer(results: CellResults) -> tuple[str, Ratio] | None:
    """The fastest peer and seqbench's time relative to it; None where one of the two has no figures."""
    times = {n: time for n, r in results.items() if n not in (OURS, PEAK) and (time := step_s(r)) is not None}
    if not times or OURS not in results:
        return None
    name = min(times, key=lambda one: times[one])
    found = ratio(results[OURS], results[name])
    return (name, found) if found else None


def duels(results: Results) -> Iterator[tuple[Cell, str, Ratio]]:
    """Each model and length with its fastest peer."""
    for cell, of_cell in results.items():
        if found := nearest_peer(of_cell):
            yield cell, *found
