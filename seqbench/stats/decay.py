"""How a gradient falls with the distance from the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from seqbench.stats.samples import Floats, censored_median, finite, mean_interval

HORIZON_SHARE = 1e-3


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


def decay_factor(distance: ArrayLike, magnitude: ArrayLike) -> float:
    """What remains of a magnitude per step: least squares of its logarithm; zeros are left out.

    >>> round(decay_factor([0, 1, 2, 3], [1.0, 0.5, 0.25, 0.125]), 6)
    0.5
    """
    return float(decay_factors(distance, np.asarray(magnitude, dtype=np.float64)[:, np.newaxis])[0])


def decay_factors(distance: ArrayLike, magnitudes: ArrayLike) -> Floats:
    """:func:`decay_factor` of several curves at the same distances; NaN where it is not defined.

    Shapes: distances (D,), magnitudes (D, curves); gives (curves,).

    >>> decay_factors([0, 1, 2], [[1.0, 0.0], [0.5, 1.0], [0.25, 2.0]]).round(6).tolist()
    [0.5, 2.0]
    """
    x, y = np.asarray(distance, dtype=np.float64)[:, np.newaxis], np.asarray(magnitudes, dtype=np.float64)
    usable = np.isfinite(x) & np.isfinite(y) & (y > 0)
    x, y = np.where(usable, x, 0.0), np.log(np.where(usable, y, 1.0))
    many = np.maximum(usable.sum(axis=0), 1)
    aside = np.where(usable, x - x.sum(axis=0) / many, 0.0)
    spread = np.square(aside).sum(axis=0)
    slope = (aside * (y - y.sum(axis=0) / many)).sum(axis=0)
    with np.errstate(over="ignore"):  # infinite then
        return np.where(spread > 0, np.exp(slope / np.where(spread > 0, spread, 1.0)), math.nan)


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
    factors = finite([decay_factor(*curve) for curve in curves])
    if not len(factors):
        return Decay(math.nan, math.nan, math.nan, math.nan, None, 0)
    log = mean_interval(np.log(factors))
    reach = censored_median([horizon(*curve) for curve in curves])
    half_life = math.log(0.5) / log.mean if log.mean < -1e-12 else math.inf
    return Decay(math.exp(log.mean), math.exp(log.low), math.exp(log.high), half_life, reach, len(factors))
