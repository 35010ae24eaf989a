"""The arithmetic of a budget in time: what runs cost, how many seeds and trials fit, when to stop adding."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqbench.errors import UsageError

FEWEST_SEEDS = 3  # fewer cannot tell two models apart
FEWEST_TRIALS = 3  # fewer cannot show an edge
MOST_TRIALS = 16  # a finer grid of learning rates changes little
TUNING_SHARE = 0.4  # of the budget, at most
OVERRUN = 0.1  # of the budget: a worst case may exceed it by this much
_AHEAD = 0.8  # of the rounds that seem to fit, so many at once; the rest is decided on what they took
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_TIME = re.compile("".join(rf"(?:(\d{{1,6}}(?:\.\d{{1,3}})?){unit})?" for unit in _SECONDS))


def duration_s(text: str) -> float:
    """Seconds of a time as it is typed; 0 for none.

    >>> duration_s("90s"), duration_s("10m"), duration_s("1h30m"), duration_s("0.5h"), duration_s("")
    (90.0, 600.0, 5400.0, 1800.0, 0.0)

    Raises:
        UsageError: not a time above 0.
    """
    if not text:
        return 0.0
    found = _TIME.fullmatch(text)
    if text.isdigit():
        raise UsageError(f"budget={text:.20}: a time needs a unit: budget={text:.20}m for minutes, or s or h")
    if found is None:
        raise UsageError(f"budget={text:.40}: expected a time like 90s, 10m, 2h or 1h30m")
    seconds = sum(float(part or 0) * _SECONDS[unit] for part, unit in zip(found.groups(), "hms", strict=True))
    if seconds <= 0:
        raise UsageError(f"budget={text}: no time at all: expected one like 90s, 10m, 2h or 1h30m")
    return seconds


def in_words(seconds: float) -> str:
    """A time for a reader, rounded to what can be known.

    >>> [in_words(s) for s in (0.4, 42.2, 59.7, 95.0, 3600.0, 9000.0)]
    ['1 s', '42 s', '1 min', '1 min 35 s', '1 h', '2 h 30 min']
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(whole / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


@dataclass(frozen=True)
class Cost:
    """What a kind of run costs on this machine, beside others, as a pilot found it. Seconds.

    Attributes:
        fixed_s: from the start of its process to the record, without what follows.
        step_s: a training step; ``eval_s``: an evaluation; ``look_s``: probes during training, once.
        steps: most training steps of a run; ``every``: steps between evaluations.
        peak_bytes: peak memory of the process; 0: not known.
        error: why it could not be timed, in words; empty where it was.
    """

    fixed_s: float
    step_s: float
    eval_s: float
    look_s: float
    steps: int
    every: int
    peak_bytes: int = 0
    error: str = ""

    @property
    def known(self) -> bool:
        """Whether it was timed."""
        return not self.error and math.isfinite(self.fixed_s)

    def run_s(self, steps: float | None = None) -> float:
        """A run of so many steps, or of all."""
        done = self.steps if steps is None else min(steps, self.steps)
        looks = looks_until(done) if self.look_s else 0
        evaluations = math.ceil(done / self.every)
        return self.fixed_s + done * self.step_s + evaluations * self.eval_s + looks * self.look_s

    def trial_s(self, share: float) -> float:
        """A run of tuning on a share of the steps; it has no probes."""
        steps = self.steps * share
        return self.fixed_s + steps * self.step_s + math.ceil(steps / self.every) * self.eval_s


UNKNOWN = Cost(math.nan, math.nan, math.nan, math.nan, steps=1, every=1)


def looks_until(steps: float) -> int:
    """How often probes look on: after 10, 30, 100, 300, ... steps.

    >>> [looks_until(steps) for steps in (5, 10, 400, 1000)]
    [0, 1, 4, 5]
    """
    return sum(lead * 10**power <= steps for power in range(1, 10) for lead in (1, 3))


def makespan(seconds: Sequence[float], slots: int) -> float:
    """How long runs take that start in this order, so many side by side.

    >>> makespan([4.0, 3.0, 2.0, 1.0], 2)
    5.0
    """
    free = [0.0] * max(1, slots)
    for one in seconds:
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free)


def most(fits: Callable[[int], bool], least: int, step: int, limit: int) -> int:
    """The largest of ``least, least + step, ...`` up to ``limit`` that fits; 0 where not even the first does.

    Args:
        fits: whether a number does; where one does not, none above it does. Asked for no number much larger
            than the answer.

    >>> most(lambda n: n <= 10, 3, 1, 100), most(lambda n: n <= 2, 3, 1, 100), most(lambda n: True, 4, 4, 10)
    (10, 0, 8)
    """
    if least > limit or not fits(least):
        return 0
    last = (limit - least) // step
    low, high = 0, 1  # what fits, and what may not
    while high <= last and fits(least + high * step):
        low, high = high, 2 * high
    high = min(high, last + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(least + middle * step) else (low, middle)
    return least + low * step


def more_rounds(left_s: float, round_s: float) -> int:
    """How many rounds to add before looking at the clock again: a part of those that fit, one at least.

    >>> [more_rounds(left, 10.0) for left in (9.0, 10.0, 25.0, 100.0)]
    [0, 1, 1, 8]
    """
    if not (round_s > 0 and math.isfinite(round_s)):
        return 0
    fitting = int(left_s / round_s)
    return max(1, int(_AHEAD * fitting)) if fitting else 0
