"""The response to the learning rate: validation score of every trial, one panel per part of the budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.task import Task
from seqbench.report.tuning import Trial, best, frame, remark, trials

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 6


def plot(sweep: Sweep, task: Task, number: int) -> Plot | None:
    """The responses of a task's models; None where nothing was tuned."""
    found = trials(sweep, task)
    if not found:
        return None
    table = frame(found)
    varied = ", and what else was varied is set anew at every learning rate" if table["others"].any() else ""
    return Plot(
        key=f"response{number}",
        title=f"Response to the learning rate: {task.key}",
        draw=lambda: draw(table, task, sweep.labels),
        how=(
            "each point is a trial: the best validation score of a training of so many steps, averaged over "
            "the task's rungs and the tuning seeds; the better half of a panel went on to the next, where "
            "training starts anew; a ring marks what was chosen, a cross at the floor a trial of which a run "
            f"diverged or failed; the axis of learning rates is logarithmic{varied}"
        ),
        shows=shows(found, task, sweep.labels),
    )


def draw(table: pd.DataFrame, task: Task, labels: list[str]) -> Figure:
    """Draw ``label, budget, unit, lr, score, lost, chosen``."""
    chosen = {label: style for label, style in theme.styles(labels).items() if label in set(table["label"])}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    budgets = sorted(set(table["budget"]))[-_MOST_PANELS:]
    figure, axes = theme.panels(len(budgets), 2.3, chosen, columns=3, sharex=True, sharey=True)
    floor = bottom(table, task)
    for panel, budget in zip(axes, budgets, strict=True):
        here = table[table["budget"] == budget]
        for label, style in chosen.items():
            _curve(panel, here[here["label"] == label].sort_values("lr"), style, floor)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(theme.power_of_ten)
        panel.set_title(f"{budget:g} {here['unit'].iloc[0]}")
        theme.score_axis(panel, task.metric, [*table["score"].dropna(), floor], whole=True)
    _ring(axes, budgets, table)
    figure.supxlabel("peak learning rate", fontsize=9)
    figure.supylabel(f"validation {task.metric.name}", fontsize=9)
    theme.legend(figure, chosen)
    return figure


def _curve(panel: Axes, trials: pd.DataFrame, style: theme.Style, floor: float) -> None:
    """A model's scores as a line, and what failed as crosses."""
    whole, lost = trials[trials["score"].notna()], trials[trials["score"].isna()]
    panel.plot(whole["lr"], whole["score"], **style.marked())
    panel.plot(lost["lr"], [floor] * len(lost), "x", color=style.colour, markersize=7, markeredgewidth=1.6)


def _ring(axes: list[Axes], budgets: list[float], table: pd.DataFrame) -> None:
    """Mark the chosen trial of every model where it got most."""
    for _, mine in table[table["chosen"] & table["score"].notna()].groupby("label"):
        last = mine.sort_values("budget").tail(1)
        for panel, budget in zip(axes, budgets, strict=True):
            here = last[last["budget"] == budget]
            panel.plot(
                here["lr"], here["score"], "o", markersize=10, markerfacecolor="none",
                markeredgecolor=theme.INK, markeredgewidth=1.1, zorder=4,
            )  # fmt: skip


def bottom(table: pd.DataFrame, task: Task) -> float:
    """Where failures are drawn: the worst floor of the task, or the worst score where that is worse."""
    levels = [level for rung in task.rungs for level in task.exact(rung).values()]
    scores = [score for score in (*table["score"].dropna(), *levels) if math.isfinite(score)]
    return (min if task.metric.higher else max)(scores, default=0.0)


def shows(found: list[Trial], task: Task, labels: list[str]) -> str:
    """What each model is best at, whether that is an end of the range, and what failed."""
    told = []
    for name in labels:
        mine = [trial for trial in found if trial.label == name]
        one = best(mine, name)
        if one is not None:
            score = "" if math.isnan(one.score) else f" ({task.metric.shown(one.score, fewer=1)})"
            others = f" with {one.others}" if one.others else ""
            more = remark(mine, name, task)
            told.append(f"{name} {one.lr:g}{others}{score}" + (f", {more}" if more else ""))
    counts = {len({(t.lr, t.others) for t in found if t.label == name}) for name in {t.label for t in found}}
    words = f"{counts.pop()} trials for each model" if len(counts) == 1 else "Trials differ in number"
    sentences = [f"{words}. Chosen: {'; '.join(told)}." if told else f"{words}; nothing has been chosen yet."]
    lost = {name: sum(t.lost > 0 for t in found if t.label == name) for name in labels}
    if any(lost.values()):
        named = ", ".join(f"{count} of {name}" for name, count in lost.items() if count)
        sentences.append(f"Diverged or failed: {named}.")
    return " ".join(sentences)
