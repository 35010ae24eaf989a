"""How training changes what the gradient keeps: the decay per step against the training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.plots.base import Plot
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIRST_LOOK = 10.0  # the axis is linear below it, so that 0 has a place
_FLAT, _GROWS = 0.95, 1.05


def plot(task: Task, rung: int | None, table: pd.DataFrame, labels: list[str]) -> Plot | None:
    """The decay over training; None where no network was looked at while it learned.

    Args:
        table: ``label, step, factor, moment`` of :func:`seqbench.report.summary.flows_in_training`.
    """
    if table["step"].nunique() < 3:
        return None
    return Plot(
        key="training-flow",
        title=f"What training does to it: {task.at(rung)}",
        draw=lambda: draw(table, labels),
        how=(
            "each point is the share of the gradient that remains per step back in time, fitted as in the "
            "figure above (over seeds); 1 means that distance does not matter; a point between the ends is "
            "of the runs that were still training then, the last one of all at their end"
        ),
        shows=shows(table),
    )


def draw(table: pd.DataFrame, labels: list[str]) -> Figure:
    """Draw ``label, step, factor``."""
    chosen = {k: v for k, v in theme.styles(labels).items() if k in set(table["label"])}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    figure, (panel,) = theme.panels(1, 2.7, chosen)
    for label, style in chosen.items():
        line = table[table["label"] == label]
        panel.plot(line["step"], line["factor"], **style.marked())
    panel.set_xscale("symlog", linthresh=_FIRST_LOOK)
    steps = sorted(
        {0.0, *(step for step in table["step"] if step in (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0))}
    )
    panel.set_xticks(steps, [f"{step:g}" for step in steps])
    panel.xaxis.minorticks_off()
    theme.level(panel, 1.0, "nothing is lost")
    panel.set_ylabel("remains per step")
    figure.supxlabel("training step", fontsize=9)
    theme.legend(figure, chosen)
    return figure


def shows(table: pd.DataFrame) -> str:
    """Who built a memory while learning, and who did not."""
    groups: dict[str, list[str]] = {}
    for label, line in table.groupby("label", sort=False):
        ends = [line[line["moment"] == moment]["factor"] for moment in ("init", "final")]
        if all(len(one) for one in ends):
            start, end = (float(one.iloc[0]) for one in ends)
            words = f"{label} (\N{MULTIPLICATION SIGN}{start:.2f} to {end:.2f})"
            groups.setdefault(_change(start, end), []).append(words)
    return " ".join(f"{change} {words_list(names)}." for change, names in groups.items() if change)


def _change(start: float, end: float) -> str:
    """What training did to a model, in words."""
    if end > _GROWS:
        return "At the end the gradient grows with distance in"
    if end < _FLAT:
        return "At the end the gradient still falls with distance in"
    return "Training itself builds the memory in" if start < _FLAT else "From beginning to end it is kept in"
