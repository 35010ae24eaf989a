"""|dL/dh_t|: how much of the loss reaches each state, per layer, against the distance from the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.summary import same
from seqbench.report.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS, _MOST_STATES, _MOST_LOOKS = 8, 4, 8
_DASHES: tuple[theme.Dash, ...] = ((), (5, 1.5), (1.2, 1.2), (5, 1.5, 1.2, 1.5))


def plot(sweep: Sweep, task: Task, rung: int | None, decays: pd.DataFrame) -> Plot | None:
    """The states' gradients before and after training on one rung; None without the probe.

    Args:
        decays: ``label, state, moment, factor``.
    """
    table = chosen(sweep, task, rung)
    if table.empty:
        return None
    return Plot(
        key="states",
        title=f"Gradient at each state: {task.at(rung)}",
        draw=lambda: draw(table, sweep.labels),
        how=(
            "|dL/dh\u209c|, the total derivative of one answer's loss with respect to the state after each "
            "step, through every later step, for every layer and direction (a cell is an LSTM's inner state; "
            "a model without a state shows the outputs of its blocks, of which the last is read at the "
            "answer alone and so has none elsewhere); of a deep stack four states; full colour after "
            "training, faint before, hairlines on the way; medians over seeds"
        ),
        shows=shows(decays, sweep.labels),
    )


def chosen(sweep: Sweep, task: Task, rung: int | None) -> pd.DataFrame:
    """Rows of the probe on one rung that have a gradient."""
    table = sweep.table("state_flow")
    here = table[(table["task"] == task.key) & same(table["rung"], rung) & table["label"].isin(sweep.labels)]
    found: pd.DataFrame = here[here["median"].gt(0) & here["distance"].ge(1)]
    return found


def draw(table: pd.DataFrame, labels: list[str]) -> Figure:
    """Draw ``label, state, moment, distance, median, seed``, a panel per model."""
    shown = [label for label in labels if (table["label"] == label).any()][:_MOST_PANELS]
    styles = theme.styles(labels)
    figure, axes = theme.panels(len(shown), 2.2, sharex=True, sharey=True)
    for panel, label in zip(axes, shown, strict=True):
        _panel(panel, table[table["label"] == label], styles[label])
        panel.set_title(label)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter(theme.power_of_ten)
    figure.supxlabel("distance from the loss (steps back in time)", fontsize=9)
    figure.supylabel("|dL/dh\u209c|", fontsize=9)
    return figure


def some(states: list[Any]) -> list[Any]:
    """At most four of the states of a deep stack: the first, the last, and two between.

    >>> some(list(range(12)))
    [0, 4, 7, 11]
    """
    if len(states) <= _MOST_STATES:
        return states
    last = len(states) - 1
    return [states[round(number * last / (_MOST_STATES - 1))] for number in range(_MOST_STATES)]


def _panel(panel: Axes, mine: pd.DataFrame, style: theme.Style) -> None:
    for number, (state, curves) in enumerate(some(list(mine.groupby("state", sort=False)))):
        dash = _DASHES[number % len(_DASHES)]
        lines = curves.groupby(["moment", "distance"])["median"].median()
        for moment, look in looks(lines.index.unique("moment")):
            line = lines[moment]
            panel.plot(
                line.index, line, color=style.colour, linestyle=(0, dash), **look,
                label=str(state) if moment == "final" else None,
            )  # fmt: skip
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7.5)


def looks(moments: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """How each moment is drawn, in their order: faint before training, hairlines on the way, full at the end.

    >>> [moment for moment, _ in looks(["final", "init", "step 30", "step 10", "?"])]
    ['init', 'step 10', 'step 30', 'final']
    """
    known = set(moments)
    steps = sorted(int(m[5:]) for m in known if m.startswith("step ") and m[5:].isdecimal())
    passing: list[tuple[str, dict[str, Any]]] = [
        (f"step {step}", {"alpha": 0.35 + 0.5 * (n + 1) / (len(steps) + 1), "linewidth": 0.6})
        for n, step in enumerate(steps[:_MOST_LOOKS])
    ]
    ends: list[tuple[str, dict[str, Any]]] = [("init", {"alpha": 0.35}), ("final", {"alpha": 1.0})]
    return [look for look in (ends[0], *passing, ends[1]) if look[0] in known]


def shows(decays: pd.DataFrame, labels: list[str]) -> str:
    """What remains per step of each state's gradient, before and after training."""
    told = []
    for label in labels:
        parts = []
        for state, rows in some(list(decays[decays["label"] == label].groupby("state", sort=False))):
            factor = dict(zip(rows["moment"], rows["factor"], strict=True))
            if {"init", "final"} <= set(factor):
                parts.append(
                    f"{state} \N{MULTIPLICATION SIGN}{factor['init']:.2f}, then {factor['final']:.2f}"
                )
        if parts:
            told.append(f"{label}: {'; '.join(parts)}")
    return f"Remains per step before and after training: {'. '.join(told)}." if told else ""
