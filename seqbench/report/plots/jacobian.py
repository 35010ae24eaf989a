"""Singular values of the map from an early state to the last one, against their distance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.summary import same
from seqbench.report.task import Task
from seqbench.report.verdict import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOMENTS = {"init": "before training", "final": "after training"}
STATE, OUTPUT = "state to state", "input to output"


def plot(sweep: Sweep, task: Task, rung: int | None) -> Plot | None:
    """The largest singular value at every distance; None without the probe."""
    table = chosen(sweep, task, rung)
    if table.empty:
        return None
    return Plot(
        key="jacobian",
        title=f"What is left of an early state: {task.at(rung)}",
        draw=lambda: draw(table, sweep.labels),
        how=(
            "lines are the largest singular value of the Jacobian: how much the most preserved small change "
            "of the whole state d steps ago changes the state now (of models without a state: of the input d "
            "steps ago, in the output now); the band reaches down to the median singular value; below 1 "
            "changes die out, above 1 they grow; one sequence, median over seeds"
        ),
        shows=shows(table, sweep.labels),
    )


def chosen(sweep: Sweep, task: Task, rung: int | None) -> pd.DataFrame:
    """One map per model and seed: of its state, or of its inputs where it has none.

    The whole state of a bidirectional model is that of both directions, which do not meet, so that its
    largest singular value is the larger of theirs.

    Returns:
        ``label, of, moment, distance, seed, largest, median, lyapunov`` at distances that every seed has.
    """
    table = sweep.table("jacobian")
    here = table[(table["task"] == task.key) & same(table["rung"], rung)]
    here = here[here["label"].isin(sweep.labels) & here["distance"].ge(1) & here["largest"].gt(1e-200)]
    stateful = set(here[here["of"] == STATE]["label"])
    here = here[here["of"].eq(STATE) | ~here["label"].isin(list(stateful))]
    keys = ["label", "of", "moment", "distance", "seed"]
    whole = here.groupby(keys, sort=False)[["largest", "median", "lyapunov"]].max().reset_index()
    seeds = whole.groupby(["label", "moment", "distance"])["seed"].transform("nunique")
    found: pd.DataFrame = whole[seeds == whole.groupby("label")["seed"].transform("nunique")]
    return found


def draw(table: pd.DataFrame, labels: list[str]) -> Figure:
    """Draw ``label, moment, distance, largest, median, seed``, a panel per moment."""
    present = set(table["label"].unique())
    styles = {k: v for k, v in theme.styles(labels).items() if k in present}
    moments = [moment for moment in MOMENTS if (table["moment"] == moment).any()]
    figure, axes = theme.panels(len(moments), 2.8, styles, sharex=True, sharey=True)
    for panel, moment in zip(axes, moments, strict=True):
        for label in [label for label in labels if label in styles]:
            mine = table[(table["label"] == label) & (table["moment"] == moment)].groupby("distance")
            largest, median = mine["largest"].median(), mine["median"].median()
            panel.plot(largest.index, largest, **styles[label].marked())
            panel.fill_between(
                largest.index, median, largest, color=styles[label].colour, alpha=0.07, linewidth=0
            )
        theme.level(panel, 1.0, "kept")
        panel.set_title(MOMENTS[moment])
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter(theme.power_of_ten)
    axes[0].set_ylim(bottom=max(float(table["largest"].min()) / 10, 1e-30))
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    figure.supxlabel("distance (steps back in time)", fontsize=9)
    figure.supylabel("singular value", fontsize=9)
    theme.legend(figure, {label: styles[label] for label in labels if label in styles})
    return figure


def shows(table: pd.DataFrame, labels: list[str]) -> str:
    """The largest exponent of each model that has a state, before and after training."""
    told = []
    for label in labels:
        found = [_exponent(table, label, moment) for moment in MOMENTS]
        known = [signed(value) for value in found if math.isfinite(value)]
        if known:
            told.append(f"{label} {' to '.join(known)}")
    if not told:
        return ""
    return (
        "Logarithm of the largest singular value per step at the largest distance, which tends to the "
        "largest Lyapunov exponent (0: kept, negative: forgotten), before to after training: "
        f"{'; '.join(told)}."
    )


def _exponent(table: pd.DataFrame, label: str, moment: str) -> float:
    mine = table[(table["label"] == label) & (table["moment"] == moment) & (table["of"] == STATE)]
    if mine.empty:
        return math.nan
    return float(mine[mine["distance"] == mine["distance"].max()]["lyapunov"].median())
