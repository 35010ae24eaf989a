"""What a figure of the page consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from seqbench.report.theme import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """A figure and its words.

    Attributes:
        key: unique on the page; prefix of the ids inside the figure.
        draw: makes the figure; called within the page's drawing settings.
        how: how to read it.
        shows: what it shows, computed from the run's own numbers.
    """

    key: str
    title: str
    draw: Callable[[], Figure]
    how: str
    shows: str


def doubling(panel: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis of sizes, with a tick at each."""
    panel.set_xscale("log", base=2)
    panel.set_xticks([float(size) for size in sizes], [str(size) for size in sizes])
    panel.xaxis.minorticks_off()


def seeds(panel: Axes, curves: pd.DataFrame, x: str, y: str, shown: Mapping[str, Style]) -> None:
    """Every seed of every model as a thin line; to call first, so that no median is hidden.

    Args:
        curves: ``label, seed, step`` and the columns ``x`` and ``y``.
    """
    from matplotlib.collections import LineCollection

    ordered = curves.sort_values(["seed", "step"], kind="stable")
    for label, style in shown.items():
        mine = ordered[ordered["label"] == label]
        ends = np.flatnonzero(np.diff(mine["seed"])) + 1
        lines = np.split(mine[[x, y]].to_numpy(dtype=float), ends)
        panel.add_collection(LineCollection(lines, colors=style.colour, linewidths=0.7, alpha=0.45))
