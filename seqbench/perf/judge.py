"""When is a ratio of times slower, not slower, or not to be told: pure functions of plain numbers.

Base and head are timed in pairs of neighbouring blocks, so that what drifts touches both; the median of the
pairs' log ratios does not mind single disturbed blocks, and its interval by order statistics is exact for
any distribution. There are at most :data:`LOOKS` looks, after equal numbers of pairs; each uses its share of
the error (Bonferroni), so that looking early and often accuses nobody more.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MARGIN = 0.05
CONFIDENCE = 0.98
LOOKS = 3
FEWEST_PAIRS = 12
_POWER = 0.8


class Verdict(enum.Enum):
    """What a check says of a model."""

    PASS = "pass"
    FAIL = "fail"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Decision:
    """A ratio of times, head over base, and what follows from it.

    Attributes:
        ratio, low, high: median of the pairs' ratios and its interval.
        confidence: of this interval, the share of this look.
        detectable: the smallest slowdown (0.1: 10 %) that so noisy pairs show with power 0.8.
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    confidence: float
    pairs: int
    detectable: float


def decide(
    log_ratios: Sequence[float], margin: float = MARGIN, confidence: float = CONFIDENCE, looks: int = LOOKS
) -> Decision:
    """Judge the pairs of one look, of ``looks`` in all.

    Args:
        log_ratios: natural logarithms of head's time over base's, one per pair.
        margin: a slowdown up to this one counts as none.
        confidence: of all looks together.

    Raises:
        ValueError: fewer pairs than an interval needs.
    """
    from scipy import stats

    if len(log_ratios) < FEWEST_PAIRS:
        raise ValueError(f"{len(log_ratios)} pairs, at least {FEWEST_PAIRS} are needed")
    level = 1 - (1 - confidence) / looks
    ends: Any = stats.quantile_test(np.asarray(log_ratios), q=0.0, p=0.5).confidence_interval(level)
    low, high, limit = float(ends.low), float(ends.high), math.log1p(margin)
    verdict = Verdict.CANNOT_TELL
    if low > limit:
        verdict = Verdict.FAIL
    elif high < limit:
        verdict = Verdict.PASS
    z, z_power = (float(stats.norm.ppf(p)) for p in ((1 + level) / 2, _POWER))
    seen = math.expm1(limit + (high - low) / 2 * (1 + z_power / z))
    middle = float(np.median(log_ratios))
    return Decision(verdict, math.exp(middle), math.exp(low), math.exp(high), level, len(log_ratios), seen)
