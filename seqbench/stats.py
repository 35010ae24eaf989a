"""Statistics of a comparison: intervals, paired differences, verdicts. Pure functions of plain numbers.

The unit of replication is the seed, paired over models. Distributions come from scipy; what is here is
the care for small samples: one seed, no spread, all equal, missing values.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

MARGIN = 0.02
ALPHA = 0.05
HORIZON_SHARE = 1e-3
_MOST_EXACT_PAIRS = 16
_RANDOM_FLIPS = 1 << 14

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean (or share) of ``n`` values with its interval; the ends are NaN when ``n`` is too small."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Paired:
    """A paired difference ``a - b`` over ``n`` seeds.

    Attributes:
        mean, low, high: the difference and its Student t interval.
        sd: standard deviation of the differences; NaN for fewer than two.
        p_t: two-sided paired t-test.
        p_flip: exact two-sided sign-flip permutation test; cannot be below 2 / 2^n.
        p_equivalent: two one-sided t-tests (TOST) against ``margin``.
        higher: whether a positive difference is better.
    """

    n: int
    mean: float
    low: float
    high: float
    sd: float
    p_t: float
    p_flip: float
    p_equivalent: float
    margin: float
    higher: bool = True


@dataclass(frozen=True)
class Decay:
    """How a gradient falls with the distance from the loss.

    Attributes:
        factor, low, high: what remains of it after one step, with the interval over seeds.
        half_life: steps until half of it is left; infinite when it does not fall.
        horizon: first distance from which less than :data:`HORIZON_SHARE` of its maximum arrives
            (median over seeds); None when it never falls so far.
        n: seeds.
    """

    factor: float
    low: float
    high: float
    half_life: float
    horizon: float | None
    n: int


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval; missing values are left out.

    One value has no interval (NaN); values without spread have one of no width.

    >>> round(mean_interval([1.0, 2.0, 3.0]).high, 3)
    4.484
    """
    from scipy import stats

    x = _finite(values)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1)) * float(_spread(x)) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half, len(x))


def _spread(x: Floats) -> float:
    """Standard deviation; exactly zero for equal values, where rounding would leave a trace."""
    return 0.0 if np.ptp(x) == 0 else float(x.std(ddof=1))


def paired(a: ArrayLike, b: ArrayLike, margin: float = MARGIN, *, higher: bool = True) -> Paired:
    """Compare ``a`` with ``b``, value by value; pairs with a missing value are left out.

    Raises:
        ValueError: not the same number of values.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"pairs need equal numbers of values, got {left.shape} and {right.shape}")
    d = _finite(left - right)
    interval = mean_interval(d)
    sd = _spread(d) if len(d) > 1 else math.nan
    return Paired(
        n=len(d),
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        sd=sd,
        p_t=_two_sided(d),
        p_flip=sign_flip(d),
        p_equivalent=equivalence(d, margin),
        margin=margin,
        higher=higher,
    )


def _one_sided(d: Floats, against: float) -> float:
    """The p of the one-sided t-test that the mean is above ``against``; without spread it is 0, 1/2 or 1."""
    from scipy import stats

    distance = float(d.mean()) - against
    sd = _spread(d)
    if sd == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return float(stats.t.sf(distance / (sd / math.sqrt(len(d))), len(d) - 1))


def _two_sided(d: Floats) -> float:
    if len(d) < 2:
        return math.nan
    upper = _one_sided(d, 0.0)
    return min(1.0, 2 * min(upper, 1 - upper))


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided sign-flip permutation p of a mean difference; NaN without differences.

    Exact for up to 16 pairs: all sign patterns are tried. Beyond that a fixed random sample of them.

    >>> sign_flip([1.0, 2.0, 3.0])
    0.25
    """
    d = _finite(differences)
    n = len(d)
    if n == 0:
        return math.nan
    if n <= _MOST_EXACT_PAIRS:
        signs = 1.0 - 2.0 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
    else:
        draws = np.random.default_rng(0).integers(0, 2, (_RANDOM_FLIPS - 1, n))
        signs = np.concatenate([np.ones((1, n)), 1.0 - 2.0 * draws])
    sums = np.abs(signs @ d)
    return float(np.mean(sums >= abs(d.sum()) - 1e-12 * np.abs(d).sum()))


def equivalence(differences: ArrayLike, margin: float = MARGIN) -> float:
    """The p of TOST: small when the mean difference lies within ``margin``; NaN below two differences."""
    d = _finite(differences)
    if len(d) < 2:
        return math.nan
    return max(_one_sided(d, -margin), _one_sided(-d, -margin))


def detectable(sd: float, n: int, power: float = 0.8, alpha: float = ALPHA) -> float:
    """Smallest true paired difference that a two-sided t-test finds with this power.

    >>> [round(detectable(1.0, n), 1) for n in (3, 5, 10)]
    [3.3, 1.7, 1.0]
    """
    if n < 2 or not math.isfinite(sd):
        return math.nan
    return sd * _effect_size(n, power, alpha)


@cache
def _effect_size(n: int, power: float, alpha: float) -> float:
    """The mean, in standard deviations, at which the t-test's power is reached."""
    from scipy import optimize, stats

    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def shortfall(size: float) -> float:
        shift = size * math.sqrt(n)
        return float(stats.nct.sf(critical, n - 1, shift)) - power

    return float(optimize.brentq(shortfall, 1e-6, 4 * critical))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the given order; a NaN stays one and does not count as a test.

    >>> holm([0.01, float("nan"), 0.04])
    [0.02, nan, 0.04]
    """
    p = np.array(p_values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in p]


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


def decay_factor(distance: ArrayLike, magnitude: ArrayLike) -> float:
    """What remains of a magnitude per step: least squares of its logarithm; zeros are left out.

    >>> round(decay_factor([0, 1, 2, 3], [1.0, 0.5, 0.25, 0.125]), 6)
    0.5
    """
    x, y = np.asarray(distance, dtype=np.float64), np.asarray(magnitude, dtype=np.float64)
    usable = np.isfinite(x) & np.isfinite(y) & (y > 0)
    if len(np.unique(x[usable])) < 2:
        return math.nan
    slope = np.polynomial.Polynomial.fit(x[usable], np.log(y[usable]), 1).convert().coef
    return math.exp(float(slope[1])) if len(slope) > 1 else 1.0


def horizon(distance: ArrayLike, magnitude: ArrayLike, share: float = HORIZON_SHARE) -> float | None:
    """First distance from which the magnitude stays below ``share`` of its maximum; None: never.

    >>> horizon([0, 1, 2, 3], [1.0, 1e-4, 1e-2, 1e-5])
    3.0
    """
    x, y = np.asarray(distance, dtype=np.float64), np.asarray(magnitude, dtype=np.float64)
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if not len(y) or y.max() <= 0:
        return None
    order = np.argsort(x)
    x, arrives = x[order], np.flatnonzero(y[order] >= share * y.max())
    return None if arrives[-1] == len(x) - 1 else float(x[arrives[-1] + 1])


def decay(curves: Sequence[tuple[ArrayLike, ArrayLike]]) -> Decay:
    """Summarise (distance, magnitude) curves, one per seed; factors are averaged as logarithms."""
    factors = _finite([decay_factor(*curve) for curve in curves])
    if not len(factors):
        return Decay(math.nan, math.nan, math.nan, math.nan, None, 0)
    log = mean_interval(np.log(factors))
    reach = censored_median([horizon(*curve) for curve in curves])
    half_life = math.log(0.5) / log.mean if log.mean < -1e-12 else math.inf
    return Decay(math.exp(log.mean), math.exp(log.low), math.exp(log.high), half_life, reach, len(factors))


class Outcome(enum.Enum):
    """How a comparison ended."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "cannot tell"
    TOO_FEW = "too few seeds"


@dataclass(frozen=True)
class Verdict:
    """What a comparison says once it is one of several.

    Attributes:
        p: p of the t-test after Holm's correction.
        comparisons: how many tests the correction is for.
        detectable: smallest true difference that this many seeds find with power 0.8 after a correction
            for so many tests; NaN for fewer than two seeds.
        alone: its own interval excludes 0, whatever the correction says.
    """

    outcome: Outcome
    p: float
    comparisons: int
    detectable: float
    margin: float
    alone: bool


def judge(family: Sequence[Paired], alpha: float = ALPHA) -> list[Verdict]:
    """Verdicts on comparisons that are made together, corrected for how many they are.

    A difference that surely lies inside the margin is "equivalent" even when it surely is not zero.
    """
    adjusted = holm([result.p_t for result in family])
    tests = sum(math.isfinite(p) for p in adjusted)
    return [
        Verdict(
            outcome=_outcome(result, p, alpha),
            p=p,
            comparisons=tests,
            detectable=detectable(result.sd, result.n, alpha=alpha / max(1, tests)),
            margin=result.margin,
            alone=result.p_t < alpha,
        )
        for result, p in zip(family, adjusted, strict=True)
    ]


def _outcome(result: Paired, p_adjusted: float, alpha: float) -> Outcome:
    if result.n < 2:
        return Outcome.TOO_FEW
    if result.p_equivalent < alpha:
        return Outcome.EQUIVALENT
    if p_adjusted < alpha:
        return Outcome.BETTER if (result.mean > 0) == result.higher else Outcome.WORSE
    return Outcome.UNDECIDED
