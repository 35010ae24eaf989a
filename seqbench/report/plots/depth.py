"""Gradient against depth: how much of it each layer of a deep stack receives at the first steps."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.summary import same
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LAYER = re.compile(r"\.(?:blocks|encoders|layers)\.(\d{1,3})\.")
_FEWEST_LAYERS = 3
_FIRST_STEPS = 10
_LOSES = 0.5  # a first layer with less than this share of the last one's gradient is starved


def plot(sweep: Sweep, task: Task, rung: int | None) -> Plot | None:
    """The gradient of each layer's weights at the start of training; None without a deep stack."""
    table = by_layer(sweep, task, rung)
    if table.empty:
        return None
    return Plot(
        key="depth",
        title=f"Gradient against depth: {task.at(rung)}",
        draw=lambda: draw(table, sweep.labels),
        how=(
            f"norm of the gradient of all weights of a layer, mean of the first {_FIRST_STEPS} training "
            "steps, median over seeds; layer 1 reads the input, the last is nearest to the loss; a line that "
            "falls to the left starves the early layers"
        ),
        shows=shows(table, sweep.labels),
    )


def by_layer(sweep: Sweep, task: Task, rung: int | None) -> pd.DataFrame:
    """The gradient norm of every layer of models with at least three of them.

    Returns:
        ``label, layer, norm``.
    """
    table = sweep.table("parameters")
    here = table[(table["task"] == task.key) & same(table["rung"], rung) & (table["step"] <= _FIRST_STEPS)]
    layers: dict[int, list[str]] = {}
    for name in here.columns:
        if found := _LAYER.search(str(name)):
            layers.setdefault(int(found[1]) + 1, []).append(str(name))
    rows = []
    for (label, seed), steps in here[here["label"].isin(sweep.labels)].groupby(["label", "seed"], sort=False):
        for layer, names in sorted(layers.items()):
            squares = steps[names].dropna(axis=1, how="all") ** 2
            if squares.shape[1]:
                norm = float(squares.sum(axis=1).pow(0.5).mean())
                rows.append({"label": str(label), "seed": seed, "layer": layer, "norm": norm})
    found_rows = pd.DataFrame(rows, columns=["label", "seed", "layer", "norm"])
    middle = found_rows[found_rows["norm"].gt(0)].groupby(["label", "layer"], sort=False)["norm"].median()
    whole = middle.reset_index()
    deep = whole.groupby("label")["layer"].transform("max") >= _FEWEST_LAYERS
    kept: pd.DataFrame = whole[deep]
    return kept


def draw(table: pd.DataFrame, labels: list[str]) -> Figure:
    """Draw ``label, layer, norm``."""
    present = set(table["label"].unique())
    chosen = {k: v for k, v in theme.styles(labels).items() if k in present}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    figure, (panel,) = theme.panels(1, 2.7, chosen)
    for label, style in chosen.items():
        line = table[table["label"] == label].sort_values("layer")
        panel.plot(line["layer"], line["norm"], **style.marked())
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(theme.power_of_ten)
    panel.yaxis.minorticks_off()
    panel.set_xticks(sorted(set(table["layer"])))
    panel.set_ylabel("gradient norm of the layer's weights")
    figure.supxlabel("layer", fontsize=9)
    theme.legend(figure, chosen)
    return figure


def shows(table: pd.DataFrame, labels: list[str]) -> str:
    """What the first layer receives of the last one's gradient."""
    starved: list[str] = []
    fed: list[str] = []
    for label in labels:
        line = table[table["label"] == label].sort_values("layer")
        if line.empty:
            continue
        share = float(line["norm"].iloc[0]) / float(line["norm"].iloc[-1])
        if math.isfinite(share):
            (starved if share < _LOSES else fed).append(f"{label} ({share:.2g} of the last)")
    told = [f"The first layer receives little in {words_list(starved)}."] if starved else []
    told += [f"It receives at least half in {words_list(fed)}."] if fed else []
    return " ".join(told)
