"""Curves of gradients over distance, one for each seed: what is comparable over seeds, as arrays."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from seqbench import stats

_COLUMNS = ["seed", "distance", "sequences", "median"]


def curve_by_curve(table: pd.DataFrame, keys: list[str]) -> dict[tuple[str, ...], pd.DataFrame]:
    """Of each curve the rows at distances that every probed sequence of every seed has, the nearest first.

    A mean or median over seeds is of the same seeds at every distance only there.

    Args:
        table: ``seed, distance, sequences, median``, one row for each distance.
        keys: columns that tell the curves apart, each of one model at one moment.
    """
    curve = table.groupby(keys, sort=False).ngroup()
    names = table[keys][~curve.duplicated()].itertuples(index=False, name=None)
    rows = table[_COLUMNS]
    complete = rows["sequences"] == rows["sequences"].groupby([curve, rows["seed"]]).transform("max")
    rows, curve = rows[complete], curve[complete]
    seeds = rows["seed"].groupby([curve, rows["distance"]]).transform("nunique")
    everywhere = seeds == rows["seed"].groupby(curve).transform("nunique")
    rows, curve = rows[everywhere], curve[everywhere]
    order = np.lexsort((rows["distance"], curve))
    rows, number = rows.iloc[order], curve.to_numpy()[order]
    return {
        name: rows.iloc[slice(*np.searchsorted(number, (place, place + 1)))]
        for place, name in enumerate(names)
    }


def by_seed(common: pd.DataFrame) -> tuple[stats.Floats, stats.Floats]:
    """The distances, the nearest first, and the median magnitude at each of every seed, (D, seeds).

    Args:
        common: as :func:`curve_by_curve` gives it.
    """
    row, distances = pd.factorize(common["distance"])
    column, seeds = pd.factorize(common["seed"], sort=True)
    cells = pd.Series(common["median"].to_numpy()).groupby(row * len(seeds) + column).median()
    found = np.full(len(distances) * len(seeds), math.nan)
    found[cells.index] = cells
    return distances.to_numpy(dtype=float), found.reshape(len(distances), len(seeds))
