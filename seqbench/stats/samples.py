"""One set of values: its mean and interval, shares, medians of what not every run reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean (or share) of ``n`` values with its interval; the ends are NaN when ``n`` is too small."""

    mean: float
    low: float
    high: float
    n: int


def finite(values: ArrayLike) -> Floats:
    """The values that are numbers, flat."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def deviation(x: Floats) -> float:
    """Standard deviation; exactly zero for equal values, where rounding would leave a trace."""
    return 0.0 if np.ptp(x) == 0 else float(x.std(ddof=1))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval; missing values are left out.

    One value has no interval (NaN); values without spread have one of no width.

    >>> round(mean_interval([1.0, 2.0, 3.0]).high, 3)
    4.484
    """
    from scipy.special import stdtrit

    x = finite(values)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stdtrit(len(x) - 1, (1 + confidence) / 2)) * deviation(x) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half, len(x))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Share with Wilson's interval; for solved runs and for the error on a test set.

    >>> round(wilson(3, 3).low, 3), wilson(3, 3).high
    (0.439, 1.0)
    """
    if trials <= 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    from scipy import stats

    ends = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    low = 0.0 if successes == 0 else float(ends.low)
    high = 1.0 if successes == trials else float(ends.high)
    return Interval(successes / trials, low, high, trials)


def unseen(n: int, confidence: float = 0.95) -> float:
    """The largest share of runs in which something may happen that ``n`` runs did not show (exact binomial).

    >>> [round(unseen(n), 2) for n in (3, 5, 10)]
    [0.63, 0.45, 0.26]
    """
    return 1.0 if n < 1 else 1 - (1 - confidence) ** (1 / n)


def censored_median(times: Sequence[float | None]) -> float | None:
    """Median time to an event that not every run reached (None or NaN: not reached).

    The lower of the two middle values for an even number of runs, so that it is a time at which half of
    the runs had arrived; None when fewer than half ever did.

    >>> censored_median([100, None, 50]), censored_median([100, None, None])
    (100.0, None)
    """
    if not times:
        return None
    known = [math.inf if time is None or math.isnan(time) else float(time) for time in times]
    middle = sorted(known)[(len(known) - 1) // 2]
    return middle if math.isfinite(middle) else None


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half (25 % cut from either end, rounded down); NaN without values.

    Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".

    >>> interquartile_mean([0.0, 0.4, 0.6, 9.0]), interquartile_mean([0.0, 1.0])
    (0.5, 0.5)
    """
    from scipy import stats

    x = finite(values)
    return float(stats.trim_mean(x, 0.25)) if len(x) else math.nan


def expected_best(scores: ArrayLike, trials: int, *, higher: bool = True) -> float:
    """Expected best score had only so many of the trials been made: the mean over all subsets of that size.

    The estimator is unbiased, unlike the one that draws with replacement. Missing scores are left out; NaN
    where fewer are left than ``trials``, or none is asked for.

    Source: Tang et al. 2020, "Showing your work doesn't always work", equation 5.

    >>> round(expected_best([0.2, 0.4, 0.9], 2), 4), expected_best([0.2, 0.4, 0.9], 1)
    (0.7333, 0.5)
    """
    x = np.sort(finite(scores) if higher else -finite(scores))
    n = len(x)
    if not 1 <= trials <= n:
        return math.nan
    subsets = math.comb(n, trials)
    weights = [math.comb(rank, trials - 1) / subsets for rank in range(n)]
    best = math.fsum(weight * value for weight, value in zip(weights, x.tolist(), strict=True))
    return best if higher else -best
