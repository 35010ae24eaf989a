"""Performance profile over several tasks: the share of runs that get so far on the way to perfect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from seqbench.report import theme
from seqbench.report.aggregate import FEWEST_TASKS, normalised
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEVELS = np.linspace(0.0, 1.0, 201)
_MOST_NAMED = 8
_SAME = 1e-9


def plot(sweep: Sweep) -> Plot | None:
    """The profile of every model with results on all tasks; None for fewer than two tasks or no result."""
    found = profiles(normalised(sweep), sweep.labels)
    if found.empty:
        return None
    return Plot(
        key="profile",
        title="All tasks together: performance profile",
        draw=lambda: draw(found, sweep.labels),
        how=(
            "the height of a line is the share of runs whose score is at least so far on the way from the "
            "task's worst floor (0) to the best possible score (1); every task weighs the same, and so does "
            "every rung of a task; a line above another everywhere is better whatever level is asked for; "
            "lines that cross say that the better one depends on the level; there is no interval, since it "
            "describes these runs"
        ),
        shows=shows(found),
    )


def profiles(runs: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Share of runs at or above each level.

    Args:
        runs: ``label, task, rung, seed, value``.

    Returns:
        One column per model that has a finished run at every place, one row per level.
    """
    places = runs[["task", "rung"]].drop_duplicates()
    ended = runs.dropna(subset=["value"])
    if places["task"].nunique() < FEWEST_TASKS:
        return pd.DataFrame()
    columns = {}
    for label in labels:
        mine = ended[ended["label"] == label]
        if len(mine[["task", "rung"]].drop_duplicates()) == len(places):
            columns[label] = _weighted(mine)
    return pd.DataFrame(columns, index=_LEVELS)


def _weighted(runs: pd.DataFrame) -> NDArray[np.float64]:
    """Mean over tasks of the mean over rungs of the share of seeds."""
    shares: dict[str, list[NDArray[np.float64]]] = {}
    for (task, _), group in runs.groupby(["task", "rung"], sort=False, dropna=False):
        reached = group["value"].to_numpy(dtype=float)[None, :] >= _LEVELS[:, None] - _SAME
        shares.setdefault(str(task), []).append(reached.mean(axis=1))
    whole: NDArray[np.float64] = np.stack([np.stack(rungs).mean(axis=0) for rungs in shares.values()]).mean(
        axis=0
    )
    return whole


def draw(found: pd.DataFrame, labels: list[str]) -> Figure:
    """Draw one line per column."""
    styles = theme.styles(labels)
    chosen = {label: styles[label] for label in labels if label in found}
    figure, axes = theme.panels(1, 3.0, chosen)
    panel = axes[0]
    for number, (label, style) in enumerate(chosen.items()):
        every = (7 * number % 40, 40)  # markers of lines that lie on each other stand apart
        panel.plot(found.index, found[label], **style.marked(), markevery=every)
    panel.set_xlim(-0.01, 1.01)
    panel.set_ylim(-0.03, 1.05)
    panel.set_xlabel("share of the way from the worst floor to the best possible score")
    panel.set_title("share of runs that get at least so far")
    theme.legend(figure, chosen)
    return figure


def shows(found: pd.DataFrame) -> str:
    """How many runs get at least half of the way, and who lies nowhere below the others."""
    half = found.iloc[int(np.abs(found.index - 0.5).argmin())].sort_values(ascending=False, kind="stable")
    parts = [f"{label} in {100 * share:.0f} %" for label, share in half.items()]
    rest = f" and {len(parts) - _MOST_NAMED} more" if len(parts) > _MOST_NAMED else ""
    told = f"At least half of the way: {words_list(parts[:_MOST_NAMED])}{rest} of the runs."
    top = [label for label in found if (found[label].to_numpy()[:, None] >= found.to_numpy() - _SAME).all()]
    if len(found.columns) > 1 and len(top) == 1:
        told += f" {top[0]} lies nowhere below another."
    elif len(found.columns) > 1 and not top:
        told += " No line lies above all others everywhere: the best depends on the level."
    return told
