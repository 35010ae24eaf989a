"""Beyond training: accuracy on test sets that are longer, or hold more, than what was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.label import clean
from seqbench.report.plots.base import Plot
from seqbench.report.summary import same
from seqbench.report.task import Task
from seqbench.report.verdict import at, words_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT = 0.05  # an accuracy this close to that in training's range counts as kept


def plot(sweep: Sweep, task: Task, number: int) -> Plot | None:
    """Accuracy along the task's slice axis at its highest rung; None without such test sets."""
    table = sweep.table("slices")
    table = table[(table["task"] == task.key) & same(table["rung"], task.rungs[-1])]
    table = table[table["value"].gt(0) & table["accuracy"].between(0, 1)]
    axis = clean(task.card.get("slice_axis") or "value", 20)
    if table["value"].nunique() < 2:
        return None
    limit = task.card.get("trained_to")
    trained_to = float(limit) if isinstance(limit, int) and limit > 0 else None
    place = at(task, task.rungs[-1])
    where = task.key if task.rungs == [None] else f"{task.key} trained at {place}"
    return Plot(
        key=f"slices{number}",
        title=f"Beyond training: {where}",
        draw=lambda: draw(table, task, axis, trained_to, sweep.labels),
        how=(
            f"every point is a test set of its own whose examples all have that {axis}; the vertical line is "
            f"the largest {axis} in training, so right of it the models extrapolate; lines are means over "
            "seeds, small dots single seeds"
        ),
        shows=shows(table, axis, trained_to, sweep.labels),
    )


def draw(table: pd.DataFrame, task: Task, axis: str, trained_to: float | None, labels: list[str]) -> Figure:
    """Draw ``label, value, accuracy, seed``."""
    chosen = {k: v for k, v in theme.styles(labels).items() if k in set(table["label"])}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    figure, axes = theme.panels(1, 2.7, chosen)
    panel = axes[0]
    for label, style in chosen.items():
        mine = table[table["label"] == label]
        line = mine.groupby("value")["accuracy"].mean()
        panel.plot(line.index, line, **style.marked())
        panel.plot(mine["value"], mine["accuracy"], "o", color=style.colour, markersize=2.2, alpha=0.6)
    if trained_to is not None:
        panel.axvline(trained_to, color="0.5", linewidth=0.9, linestyle=(0, (4, 3)))
    values = sorted(set(table["value"]))
    panel.set_xscale("log", base=2)
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.minorticks_off()
    panel.set_ylim(-0.04, 1.06)
    panel.set_title("mean test accuracy over seeds")
    theme.levels(panel, dict(list(task.floors(task.rungs[-1]).items())[:1]))  # others depend on the value
    figure.supxlabel(axis, fontsize=9)
    theme.legend(figure, chosen)
    return figure


def shows(table: pd.DataFrame, axis: str, trained_to: float | None, labels: list[str]) -> str:
    """Who keeps its accuracy at the far end, and what the others fall to."""
    far = float(table["value"].max())
    if trained_to is None or far <= trained_to:
        return ""
    kept: list[str] = []
    lost: list[str] = []
    for label in labels:
        mine = table[table["label"] == label].groupby("value")["accuracy"].mean()
        if far not in mine.index:
            continue
        inside = mine[mine.index <= trained_to]
        best = float(inside.iloc[-1]) if len(inside) else float("nan")
        words = f"{label} ({best:.2f} to {mine[far]:.2f})"
        (kept if mine[far] >= best - _KEPT else lost).append(words)
    told = [f"At {axis} {far:g}, {far / trained_to:g} times what training showed,"]
    told += [f"{words_list(kept)} keep{'s' if len(kept) == 1 else ''} what it reached"] if kept else []
    told += ["while" if kept and lost else ""]
    told += [f"{words_list(lost)} fall{'s' if len(lost) == 1 else ''}"] if lost else []
    return " ".join(part for part in told if part) + "."
