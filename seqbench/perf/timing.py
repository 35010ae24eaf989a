"""Base and head side by side: pairs of blocks of training steps in random order, looked at a few times."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from seqbench.perf.judge import FEWEST_PAIRS, LOOKS, MARGIN, Decision, Verdict, decide

SECONDS = 12.0
_BLOCK_S = 0.04  # long against the clock's ticks and a request's cost
_WHOLE = 10  # steps of a logging interval: longer blocks hold whole ones


class Side(Protocol):
    """What a worker can do with one model."""

    def prepare(self) -> float:
        """Start afresh, warm up, and return the seconds of a step."""

    def block(self, steps: int) -> float:
        """Seconds of some training steps."""


@dataclass(frozen=True)
class Timing:
    """The times of a model on both sides.

    Attributes:
        log_ratios: natural logarithm of head's over base's time, one per pair, in their order.
        base_step_s, head_step_s: median seconds of a training step.
        looks: how often it was looked at until it was decided.
    """

    decision: Decision
    log_ratios: tuple[float, ...]
    base_step_s: float
    head_step_s: float
    looks: int
    steps_per_block: int


def contest(
    base: Side,
    head: Side,
    seed: int,
    *,
    seconds: float = SECONDS,
    margin: float = MARGIN,
    quiet: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Timing:
    """Time both sides in pairs until it can be told, or the time is over.

    The number of pairs of a look is fixed beforehand. Networks are made anew for each look, so that where
    their memory happens to lie is no property of a revision.

    Args:
        seed: of the order within pairs.
        seconds: of training on both sides together, where all looks are needed.
        quiet: holds the machine alone, once for each look.
    """
    order = random.Random(seed)
    times: list[tuple[float, float]] = []
    plan = Plan(1, FEWEST_PAIRS)
    decision = None
    while decision is None or (decision.verdict is Verdict.CANNOT_TELL and len(times) < LOOKS * plan.pairs):
        with quiet():
            step_s = max(side.prepare() for side in (base, head))
            plan = plan if times else _plan(step_s, seconds)
            times += [_pair(base, head, plan.steps, order) for _ in range(plan.pairs)]
        decision = decide([_log_ratio(pair) for pair in times], margin)
    theirs, ours = (statistics.median(side) / plan.steps for side in zip(*times, strict=True))
    ratios = tuple(map(_log_ratio, times))
    return Timing(decision, ratios, theirs, ours, len(times) // plan.pairs, plan.steps)


def _log_ratio(pair: tuple[float, float]) -> float:
    theirs, ours = pair
    return math.log(ours / theirs)


@dataclass(frozen=True)
class Plan:
    """Steps of a block and pairs of blocks of a look."""

    steps: int
    pairs: int


def _plan(step_s: float, seconds: float) -> Plan:
    """Blocks of sensible length; at least as many pairs as an interval needs, whatever they take.

    >>> _plan(0.02, 12.0), _plan(0.002, 12.0), _plan(3.0, 12.0)
    (Plan(steps=2, pairs=50), Plan(steps=20, pairs=50), Plan(steps=1, pairs=12))
    """
    steps = max(1, round(_BLOCK_S / step_s))
    if steps > _WHOLE:
        steps = math.ceil(steps / _WHOLE) * _WHOLE
    pairs = round(seconds / LOOKS / (2 * steps * step_s))
    return Plan(steps, max(FEWEST_PAIRS, pairs))


def _pair(base: Side, head: Side, steps: int, order: random.Random) -> tuple[float, float]:
    """One block of each, in random order."""
    if order.random() < 0.5:
        theirs = base.block(steps)
        return theirs, head.block(steps)
    ours = head.block(steps)
    return base.block(steps), ours


def plain(timing: Timing) -> dict[str, object]:
    """A timing as plain data for the record."""
    decision = dataclasses.asdict(timing.decision) | {"verdict": timing.decision.verdict.value}
    rest = {name: value for name, value in vars(timing).items() if name != "decision"}
    return {**decision, **rest, "log_ratios": list(timing.log_ratios)}
