"""The ladder: score and solve rate against sequence length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from seqbench.metric import ACCURACY
from seqbench.report import theme
from seqbench.report.plots.base import Plot
from seqbench.report.summary import Cell
from seqbench.report.task import Task
from seqbench.report.verdict import at, words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(task: Task, grid: list[Cell], labels: list[str], number: int) -> Plot | None:
    """Score and solve rate over the task's rungs; None when fewer than two of them have results."""
    mine = [cell for cell in grid if cell.task is task and cell.finished and cell.rung is not None]
    if len({cell.rung for cell in mine}) < 2:
        return None
    table = frame(mine)
    return Plot(
        key=f"ladder{number}",
        title=f"How far each model gets: {task.key}",
        draw=lambda: draw(table, task, labels),
        how=(
            f"the axis of {task.symbol} is logarithmic; points of different models are moved apart a little "
            "so that none hides another, and small dots are single seeds; bars at the share of solved runs "
            "are Wilson's 95 % intervals; a line that meets a floor has reached the end of what a model can "
            "do within this budget"
        ),
        shows=shows(task, mine, labels),
    )


def frame(cells: list[Cell]) -> pd.DataFrame:
    """Cells as ``label, rung, score, solved`` (a share, with its interval) and ``scores`` of the seeds."""
    return pd.DataFrame(
        [
            {
                "label": cell.label,
                "rung": cell.rung,
                "score": cell.score.mean,
                "solved": cell.solve_rate.mean,
                "low": cell.solve_rate.low,
                "high": cell.solve_rate.high,
                "scores": cell.scores,
            }
            for cell in cells
        ]
    )


def draw(table: pd.DataFrame, task: Task, labels: list[str]) -> Figure:
    """Draw ``label, rung, score, solved, low, high, scores``."""
    chosen = {k: v for k, v in theme.styles(labels).items() if k in set(table["label"])}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    columns = ["score"] if task.solved_at is None else ["score", "solved"]
    figure, axes = theme.panels(len(columns), 2.7, chosen, sharey=task.metric is ACCURACY)
    for panel, column in zip(axes, columns, strict=True):
        for number, (label, style) in enumerate(chosen.items()):
            line = table[table["label"] == label].sort_values("rung")
            apart = 2.0 ** (0.07 * (number - (len(chosen) - 1) / 2) / max(1, (len(chosen) - 1) / 4))
            panel.plot(line["rung"].astype(float) * apart, line[column], **style.marked())
            if column == "score":
                dots = line.explode("scores")
                x, y = dots["rung"].astype(float) * apart, dots["scores"].astype(float)
                panel.plot(x, y, "o", color=style.colour, markersize=2.2, alpha=0.6)
            else:
                panel.vlines(
                    line["rung"].astype(float) * apart, line["low"], line["high"],
                    color=style.colour, linewidth=0.8, alpha=0.6,
                )  # fmt: skip
        _finish(panel, sorted(set(table["rung"])))
    scores = [*table.explode("scores")["scores"].astype(float), *task.floors(task.rungs[-1]).values()]
    theme.score_axis(axes[0], task.metric, scores, whole=True)
    for panel in axes[1:]:
        theme.score_axis(panel, ACCURACY, [], whole=True)
    axes[0].set_title(f"mean test {task.metric.short} over seeds")
    theme.levels(axes[0], task.floors(task.rungs[-1]), task.points(task.rungs[-1]))
    if len(axes) > 1:
        axes[1].set_title("share of runs that solved it")
    figure.supxlabel(f"{task.symbol} (sequence length)" if task.symbol == "T" else task.symbol, fontsize=9)
    theme.legend(figure, chosen)
    return figure


def _finish(panel: Axes, rungs: list[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks([float(rung) for rung in rungs], [str(rung) for rung in rungs])
    panel.xaxis.minorticks_off()


def shows(task: Task, grid: list[Cell], labels: list[str]) -> str:
    """Where each model stops, and how long a solution took at the longest rung that was solved."""
    ends, silent = [], []
    metric = task.metric
    for label in labels:
        mine = sorted((c for c in grid if c.label == label), key=lambda c: c.rung or 0)
        done = [c for c in mine if c.solves]
        if not mine or task.solved_at is None:
            continue
        if not done:
            silent.append(label)
            continue
        last = done[-1]
        beyond = next((c for c in mine if (c.rung or 0) > (last.rung or 0)), None)
        then = (
            f", and scores {metric.shown(beyond.score.mean, fewer=1)} at {at(task, beyond.rung)}"
            if beyond
            else ", the last"
        )
        steps = f" (median {last.steps:.0f} steps)" if last.steps is not None else ""
        ends.append(f"{label} gets to {at(task, last.rung)}{steps}{then}")
    text = "; ".join(ends) + "." if ends else ""
    if silent:
        text += f" {words_list(silent)} solves none of the lengths in most runs."
    return text.strip() or "; ".join(
        f"{cell.label} scores {metric.shown(cell.score.mean)} at {at(task, cell.rung)}" for cell in grid
    )
