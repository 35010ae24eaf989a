"""Learning curves: held-out score against the training step, one panel per rung."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots import base
from seqbench.report.plots.base import Plot
from seqbench.report.summary import Cell, same
from seqbench.report.task import Task
from seqbench.report.verdict import at, words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(sweep: Sweep, task: Task, grid: list[Cell], number: int) -> Plot | None:
    """The learning curves of a task, or None without evaluations."""
    table = sweep.table("evaluations")
    table = table[(table["task"] == task.key) & table["score"].notna() & table["step"].notna()]
    if table.empty:
        return None
    lines = "the dotted lines are the task's floors" if task.floors(task.rungs[-1]) else "no floors are known"
    lines += ", the band holds published scores" if task.points(task.rungs[-1]) else ""
    return Plot(
        key=f"learning{number}",
        title=f"Learning curves: {task.key}",
        draw=lambda: draw(table, task, sweep.labels),
        how=(
            "each thin line is one seed, the thick line their median; a run that has solved the task stops, "
            f"and its last value is carried on in the median; {task.metric.name} on held-out sequences, "
            f"{lines}"
        ),
        shows=shows(task, [cell for cell in grid if cell.task is task], sweep.labels),
    )


def draw(table: pd.DataFrame, task: Task, labels: list[str]) -> Figure:
    """Draw ``step, score, label, seed, rung`` as small multiples."""
    present = set(table["label"].unique())
    chosen = {label: style for label, style in theme.styles(labels).items() if label in present}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    rungs = [rung for rung in task.rungs if same(table["rung"], rung).any()]
    known = [*table["score"], *(value for rung in rungs for value in task.floors(rung).values())]
    height = 2.1 if len(rungs) > 1 else 2.9
    figure, axes = theme.panels(len(rungs), height, chosen, sharex=True, sharey=True)
    for panel, rung in zip(axes, rungs, strict=True):
        here = table[same(table["rung"], rung)]
        base.seeds(panel, here, "step", "score", chosen)
        for label, style in chosen.items():
            _median(panel, here[here["label"] == label], style)
        theme.levels(panel, task.floors(rung), task.points(rung))
        panel.set_title(task.at(rung))
        theme.score_axis(panel, task.metric, known, whole=task.solved_at is not None)
        panel.set_xlim(0, float(table["step"].max()) * 1.02)
    figure.supxlabel("training step", fontsize=9)
    figure.supylabel(f"held-out {task.metric.name}", fontsize=9)
    theme.legend(figure, chosen)
    return figure


def _median(panel: Axes, curves: pd.DataFrame, style: theme.Style) -> None:
    if curves.empty:
        return
    import seaborn as sns

    wide = curves.pivot_table(index="step", columns="seed", values="score").ffill()
    middle = wide.median(axis=1)
    look = {**style.marked(), "markersize": 3.2, "markeredgecolor": style.colour}
    sns.lineplot(x=middle.index, y=middle, ax=panel, legend=False, **look)
    panel.set(xlabel="", ylabel="")


def shows(task: Task, grid: list[Cell], labels: list[str]) -> str:
    """When each model solves it, and who stays at which floor."""
    sentences, solved = [], []
    for rung in task.rungs:
        here = sorted((c for c in grid if c.rung == rung and c.solves), key=lambda c: c.steps or 0)
        times: dict[float, list[str]] = {}
        for cell in here:
            times.setdefault(cell.steps or 0, []).append(cell.label)
        if times:
            told = ", ".join(f"{words_list(names)} {steps:.0f}" for steps, names in times.items())
            solved.append(f"{told}{at(task, rung, ' at ') if len(task.rungs) > 1 else ''}")
    if solved:
        sentences.append(f"Median steps to solve {task.key}: {'; '.join(solved)}.")
    sentences += stuck(task, grid, labels) + unfinished(task, grid, labels)
    if task.solved_at is None:
        sentences += [
            f"{cell.label} ends at {task.metric.shown(cell.score.mean)} on the test set."
            for cell in grid
            if cell.finished and math.isfinite(cell.score.mean)
        ]
    return " ".join(sentences) or "No run has finished yet."


def unfinished(task: Task, grid: list[Cell], labels: list[str]) -> list[str]:
    """Models that end below a floor which needs less than the task asks: slow learning is part of that."""
    if task.solved_at is None or not task.metric.higher:
        return []
    names = dict.fromkeys(name for rung in task.rungs for name in list(task.floors(rung))[1:])
    found = []
    for name in names:
        below = [
            cell
            for cell in grid
            if cell.finished and not cell.solved
            and cell.score.mean < task.floors(cell.rung).get(name, 0.0) - task.metric.margin
        ]  # fmt: skip
        told = []
        for label in labels:
            mine = [
                f"{cell.score.mean:.2f}" + (at(task, cell.rung, " at ") if len(task.rungs) > 1 else "")
                for cell in below
                if cell.label == label
            ]
            told += [f"{label} ({', '.join(mine)})"] if mine else []
        levels = sorted({f"{task.floors(cell.rung)[name]:.2f}" for cell in below})
        if told:
            end = "ends" if len(told) == 1 else "end"
            found.append(
                f'Below "{name}" ({" to ".join([levels[0], *levels[1:][-1:]])}), which needs less than this '
                f"task asks, {end} {words_list(told)}: slow learning at this budget, which does not "
                "show that they cannot learn it."
            )
    return found


def stuck(task: Task, grid: list[Cell], labels: list[str]) -> list[str]:
    """Models that do not solve a rung, by how they stand to the floors."""
    notes = dict.fromkeys(cell.note for cell in grid if cell.note and not cell.solves)
    found = []
    for note in notes:
        names = []
        for label in labels:
            mine = [c.rung for c in grid if c.note == note and c.label == label and not c.solves]
            rungs = ", ".join(str(rung) for rung in mine if rung is not None)
            if mine:
                names.append(f"{label} at {task.symbol}={rungs}" if rungs and len(task.rungs) > 1 else label)
        found.append(f"{note[:1].upper() + note[1:]}: {'; '.join(names)}.")
    return found
