"""Two models, seed by seed: the difference, its tests, and what the seeds could have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import ArrayLike

from seqbench.stats.samples import Floats, deviation, finite

MARGIN = 0.02
ALPHA = 0.05
_MOST_EXACT_PAIRS = 16
_RANDOM_FLIPS = 1 << 14
_MOST_SEEDS = 100
_ROUNDING = 1e-12  # of the largest score: what arithmetic leaves of no spread at all


@dataclass(frozen=True)
class Spread:
    """A standard deviation of paired differences with the degrees of freedom behind it."""

    sd: float
    df: int


@dataclass(frozen=True)
class Paired:
    """A paired difference ``a - b`` over ``n`` seeds.

    Attributes:
        mean, low, high: the difference and its Student t interval.
        sd: standard deviation of the differences, or what it was taken to be at least; NaN for fewer than
            two.
        pooled: what the spread was taken to be at least, or None.
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
    pooled: Spread | None = None

    @property
    def spreads(self) -> list[Spread]:
        """The estimates of the spread that a claim must survive, each with its own degrees of freedom."""
        own = [Spread(self.sd, self.n - 1)] if self.n > 1 else []
        return own + ([self.pooled] if own and self.pooled is not None else [])

    def detectable(self, alpha: float = ALPHA) -> float:
        """Smallest true difference found with power 0.8; NaN for fewer than two pairs."""
        return max((detectable(s.sd, self.n, alpha=alpha, df=s.df) for s in self.spreads), default=math.nan)

    def needed(self, alpha: float = ALPHA) -> int | None:
        """Seeds with which a true difference of the size seen here would be found with power 0.8."""
        sd = max((s.sd for s in self.spreads), default=math.nan)
        return seeds_needed(self.mean, sd, alpha=alpha)


def paired(
    a: ArrayLike,
    b: ArrayLike,
    margin: float = MARGIN,
    *,
    higher: bool = True,
    pooled: Spread | None = None,
    least: float = 0.0,
) -> Paired:
    """Compare ``a`` with ``b``, value by value; pairs with a missing value are left out.

    Args:
        pooled: a spread estimated from more than these two (:func:`pooled_spread`). A difference must then
            be one by both estimates, and the interval is the wider of the two.
        least: the differences' standard deviation is at least this (:func:`rounding_spread`).

    Raises:
        ValueError: not the same number of values.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"pairs need equal numbers of values, got {left.shape} and {right.shape}")
    d = finite(left - right)
    mean = float(d.mean()) if len(d) else math.nan
    sd = max(deviation(d), least) if len(d) > 1 else math.nan
    own = [Spread(sd, len(d) - 1)] if len(d) > 1 else []
    spreads = own + ([pooled] if own and pooled is not None else [])
    half = max((_half_width(s, len(d)) for s in spreads), default=math.nan)
    return Paired(
        n=len(d),
        mean=mean,
        low=mean - half,
        high=mean + half,
        sd=sd,
        p_t=max((_two_sided(mean, s, len(d)) for s in spreads), default=math.nan),
        p_flip=sign_flip(d),
        p_equivalent=max((_within(mean, s, len(d), margin) for s in spreads), default=math.nan),
        margin=margin,
        higher=higher,
        pooled=pooled,
    )


def pooled_spread(scores: ArrayLike) -> Spread | None:
    """The spread of a paired difference, pooled over models: the error of a randomised block design.

    Three equal scores do not prove that a model has no spread: where runs either solve a task or do not, they
    are common, and among five such models that are identical, one in ten sweeps of three seeds shows one that
    seems surely better by its own spread. The others tell how much scores vary.

    Args:
        scores: models by seeds. A missing score (NaN) takes only itself out: an effect for each model and
            one for each seed are fitted by least squares to the scores that are there.

    Returns:
        None where fewer than three models have two scores each (two know no more than their own difference),
        or where the effects leave nothing over.
    """
    x = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    x = x[np.isfinite(x).sum(axis=1) > 1]
    model, seed = np.nonzero(np.isfinite(x))
    if len(x) < 3:
        return None
    values = x[model, seed]
    effects = np.hstack([np.eye(x.shape[0])[model], np.eye(x.shape[1])[seed]])
    # The normal equations: whole numbers, well conditioned, and too small for threads to wait on each other.
    fitted, _, rank, _ = np.linalg.lstsq(effects.T @ effects, effects.T @ values)
    df = len(values) - int(rank)
    if df < 1:
        return None
    rest = values - effects @ fitted
    if np.abs(rest).max() <= _ROUNDING * np.abs(values).max():
        return Spread(0.0, df)
    return Spread(math.sqrt(2 * float((rest**2).sum()) / df), df)


def rounding_spread(answers: Sequence[float]) -> float:
    """The least standard deviation to take for a difference of two accuracies: that of rounding alone.

    An accuracy over few answers moves in steps of one answer, so that equal differences are no proof that
    there is no spread. A value rounded to steps of s is off by s / sqrt(12) (Sheppard), and the difference
    of two by s / sqrt(6).

    Args:
        answers: of each of the test sets over which the accuracies are averaged. One of which nothing is
            known (not a number, or below 1) adds nothing.

    >>> round(rounding_spread([40]), 4), round(rounding_spread([40, 40, 40, 40]), 4), rounding_spread([])
    (0.0102, 0.0051, 0.0)
    """
    steps = [1 / count for count in answers if count >= 1]
    return math.sqrt(sum(step**2 for step in steps) / 6) / len(answers) if steps else 0.0


def _half_width(spread: Spread, n: int, confidence: float = 1 - ALPHA) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(spread.df, (1 + confidence) / 2)) * spread.sd / math.sqrt(n)


def _above(mean: float, spread: Spread, n: int) -> float:
    """The p of the one-sided t-test that a mean is above 0; without spread it is 0, 1/2 or 1."""
    from scipy.special import stdtr

    if spread.sd == 0:
        return 0.5 if mean == 0 else float(mean < 0)
    return float(stdtr(spread.df, -mean / (spread.sd / math.sqrt(n))))


def _two_sided(mean: float, spread: Spread, n: int) -> float:
    return min(1.0, 2 * _above(abs(mean), spread, n))


def _within(mean: float, spread: Spread, n: int, margin: float) -> float:
    return max(_above(mean + margin, spread, n), _above(margin - mean, spread, n))


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided sign-flip permutation p of a mean difference; NaN without differences.

    Exact for up to 16 pairs: all sign patterns are tried. Beyond that a fixed random sample of them.

    >>> sign_flip([1.0, 2.0, 3.0])
    0.25
    """
    d = finite(differences)
    n = len(d)
    if n == 0:
        return math.nan
    sums = np.abs(_signs(n) @ d)
    return float(np.mean(sums >= abs(d.sum()) - 1e-12 * np.abs(d).sum()))


@lru_cache(maxsize=2)  # up to 13 MB each, for a hundred pairs
def _signs(n: int) -> Floats:
    """Sign patterns of n pairs, of shape (patterns, n)."""
    if n <= _MOST_EXACT_PAIRS:
        flipped = (np.arange(1 << n)[:, np.newaxis] >> np.arange(n)) & 1
    else:
        draws = np.random.default_rng(0).integers(0, 2, (_RANDOM_FLIPS - 1, n))
        flipped = np.concatenate([np.zeros((1, n), dtype=np.int64), draws])
    return 1.0 - 2.0 * flipped.astype(np.float64)


def equivalence(differences: ArrayLike, margin: float = MARGIN) -> float:
    """The p of TOST: small when the mean difference lies within ``margin``; NaN below two differences."""
    d: Floats = finite(differences)
    if len(d) < 2:
        return math.nan
    return _within(float(d.mean()), Spread(deviation(d), len(d) - 1), len(d), margin)


def detectable(sd: float, n: int, power: float = 0.8, alpha: float = ALPHA, df: int | None = None) -> float:
    """Smallest true paired difference that a two-sided t-test finds with this power.

    Args:
        df: degrees of freedom behind ``sd``; None: of the ``n`` differences alone.

    >>> [round(detectable(1.0, n), 1) for n in (3, 5, 10)]
    [3.3, 1.7, 1.0]
    """
    if n < 2 or not math.isfinite(sd):
        return math.nan
    return sd * _effect_size(n, power, alpha, n - 1 if df is None else df)


@cache
def _effect_size(n: int, power: float, alpha: float, df: int) -> float:
    """The mean, in standard deviations, at which the t-test's power is reached."""
    from scipy import optimize, stats

    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def shortfall(size: float) -> float:
        return float(stats.nct.sf(critical, df, size * math.sqrt(n))) - power

    return float(optimize.brentq(shortfall, 1e-6, 4 * critical))


def seeds_needed(difference: float, sd: float, power: float = 0.8, alpha: float = ALPHA) -> int | None:
    """Fewest seeds with which a true difference of this size is found with this power.

    None where it would take more than 100, or nothing is known.

    >>> seeds_needed(1.0, 1.0), seeds_needed(0.0, 1.0)
    (10, None)
    """
    if not (math.isfinite(difference) and math.isfinite(sd)):
        return None
    low, high = 2, _MOST_SEEDS
    if detectable(sd, high, power, alpha) > abs(difference) or difference == 0:
        return None
    while low < high:
        middle = (low + high) // 2
        if detectable(sd, middle, power, alpha) <= abs(difference):
            high = middle
        else:
            low = middle + 1
    return low


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
