"""By what power of its size a cost grows: the slope between logarithms, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 1000
_FEWEST = 5  # values of a size, to draw from them again


@dataclass(frozen=True)
class Power:
    """A cost that grows like ``size ** value`` between two sizes; NaN where it cannot be told.

    Attributes:
        low, high: 95 % interval; NaN where values or sizes are too few for one.
        first, last: smallest and largest size that counted.
    """

    value: float
    low: float
    high: float
    first: float
    last: float


UNKNOWN = Power(math.nan, math.nan, math.nan, math.nan, math.nan)


def longer_half(sizes: Sequence[float]) -> list[float]:
    """The larger half of the sizes, and at least two: what a power in the limit is read from.

    >>> longer_half([32, 64, 128, 256, 512]), longer_half([64, 32])
    ([128, 256, 512], [32, 64])
    """
    ordered = sorted(set(sizes))
    return ordered[-max(2, math.ceil(len(ordered) / 2)) :]


def power_of_medians(groups: Mapping[float, ArrayLike]) -> Power:
    """The power by which medians grow over the larger half of the sizes, every size counting the same.

    The interval is that of resampling the values of each size (percentiles of 1,000 resamples with a fixed
    seed): what single values leave open, not what another process on another day would give.

    Args:
        groups: the raw values, all above 0, by size.

    >>> round(power_of_medians({size: [size**2.0] * 9 for size in (1.0, 2.0, 4.0)}).value, 12)
    2.0
    """
    values = {float(size): np.asarray(group, dtype=np.float64) for size, group in groups.items()}
    values = {size: group[np.isfinite(group) & (group > 0)] for size, group in values.items()}
    sizes = longer_half([size for size, group in values.items() if len(group)])
    if len(sizes) < 2:
        return UNKNOWN
    chosen = [values[size] for size in sizes]
    value = float(_slopes(sizes, np.array([[np.median(group)] for group in chosen]))[0])
    ends = math.nan, math.nan
    if min(len(group) for group in chosen) >= _FEWEST:
        rng = np.random.default_rng(0)
        drawn = [
            np.median(group[rng.integers(0, len(group), (_RESAMPLES, len(group)))], axis=1)
            for group in chosen
        ]
        low, high = np.quantile(_slopes(sizes, np.array(drawn)), [0.025, 0.975])
        ends = float(low), float(high)
    return Power(value, *ends, sizes[0], sizes[-1])


def power_of(costs: Mapping[float, float]) -> Power:
    """The same for one value of each size: least squares, with Student's interval from three sizes on.

    >>> power = power_of({1.0: 3.0, 2.0: 6.0, 4.0: 12.0})
    >>> round(power.value, 12), power.first, power.last
    (1.0, 2.0, 4.0)
    """
    known = {size: cost for size, cost in costs.items() if math.isfinite(cost) and cost > 0}
    sizes = longer_half(list(known))
    if len(sizes) < 2:
        return UNKNOWN
    value = float(_slopes(sizes, np.array([[known[size]] for size in sizes]))[0])
    if len(sizes) < 3:
        return Power(value, math.nan, math.nan, sizes[0], sizes[-1])
    from scipy.stats import linregress, t

    fitted = linregress(np.log(sizes), np.log([known[size] for size in sizes]))
    half = float(t.ppf(0.975, len(sizes) - 2)) * float(fitted.stderr)
    return Power(value, value - half, value + half, sizes[0], sizes[-1])


def _slopes(sizes: Sequence[float], costs: np.ndarray) -> np.ndarray:
    """Slopes of the logarithms: one for each column of ``costs``, whose rows are sizes."""
    x = np.log(np.asarray(sizes, dtype=np.float64))
    x -= x.mean()
    slopes: np.ndarray = x @ np.log(costs) / (x @ x)
    return slopes
