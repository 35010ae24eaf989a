"""What a figure of the page consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
