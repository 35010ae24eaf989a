"""Held-out score against what training has cost so far: time, and floating-point operations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots import base
from seqbench.report.plots.base import Plot
from seqbench.report.summary import Cell, same
from seqbench.report.task import Task, mapping
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PASSES = 3  # a backward pass costs about two forward passes
_MOST_TOLD = 12


@dataclass(frozen=True)
class Axis:
    """What training has cost: a column, what it is called, and its unit."""

    column: str
    title: str
    unit: str


_TIMES = {
    True: Axis("train_cpu_s", "CPU time of training", "s"),
    False: Axis("train_wall_s", "time of training", "s"),
}
_FLOPS = Axis("flops", "training FLOPs", "FLOPs")


def plot(sweep: Sweep, task: Task, grid: list[Cell], number: int) -> Plot | None:
    """Score against time and operations at one rung; None where neither was recorded."""
    rung = chosen(task, grid)
    table = costed(sweep, task, rung)
    clock = _TIMES[_on_cpu(sweep)]
    axes = [a for a in (clock, _FLOPS) if a.column in table and table[a.column].gt(0).any()]
    if table.empty or not axes:
        return None
    return Plot(
        key=f"progress{number}",
        title=f"Score against {words_list([axis.title for axis in axes])}: {task.at(rung)}",
        draw=lambda: draw(table, axes, task, rung, sweep.labels),
        how=(
            "the same evaluations as in the learning curves, against what training had cost by then, on a "
            "logarithmic axis; thin lines are seeds, thick ones their medians; further left is cheaper; "
            f"evaluations are not counted{_flops_words(axes)}"
        ),
        shows=shows(table, axes, task, sweep.labels),
    )


def _flops_words(axes: list[Axis]) -> str:
    if _FLOPS not in axes:
        return ""
    return (
        f"; training FLOPs are estimated as {_PASSES} forward passes per sequence (the backward pass counts "
        "as two), times batch size, times steps"
    )


def chosen(task: Task, grid: list[Cell]) -> int | None:
    """The highest rung that any model solves in most runs; the highest of all where none does."""
    solved = {cell.rung for cell in grid if cell.task is task and cell.solves}
    return next((rung for rung in reversed(task.rungs) if rung in solved), task.rungs[-1])


def _on_cpu(sweep: Sweep) -> bool:
    """Whether every run was trained on a processor, whose time does not depend on the load.

    Runs whose times are not shown do not count.
    """
    clock = sweep.clocks.of.get("train")
    elsewhere = clock.folders if clock else frozenset()
    found = [run for name, run in sweep.records.items() if name not in elsewhere]
    devices = {str(mapping(run.environment).get("device", "cpu")) for run in found}
    return devices <= {"cpu"}


def costed(sweep: Sweep, task: Task, rung: int | None) -> pd.DataFrame:
    """The evaluations of one rung, with ``flops``: operations of training until then (NaN: not counted)."""
    table = sweep.table("evaluations")
    here = table[(table["task"] == task.key) & same(table["rung"], rung)]
    here = here[here["score"].notna() & here["step"].notna()]
    per_step = {label: flops_per_step(sweep, task, rung, label) for label in set(here["label"])}
    rates = pd.Series([per_step[label] for label in here["label"]], index=here.index, dtype=float)
    return here.assign(flops=here["step"].astype(float) * rates)


def flops_per_step(sweep: Sweep, task: Task, rung: int | None, label: str) -> float:
    """Operations of one training step: three forward passes of a batch; NaN where they were not counted."""
    runs = sweep.training[(sweep.training["task"] == task.key) & (sweep.training["label"] == label)]
    sizes = [sweep.config(str(name), "train").get("batch_size") for name in runs["folder"]]
    batch = next((size for size in sizes if isinstance(size, int) and 0 < size < 1 << 40), None)
    speed = sweep.table("speed")
    here = speed[(speed["task"] == task.key) & (speed["label"] == label) & same(speed["rung"], rung)]
    if batch is None or "flops" not in here:
        return math.nan
    known = here["flops"][here["flops"] > 0]
    return _PASSES * batch * float(known.iloc[0]) if len(known) else math.nan


def draw(table: pd.DataFrame, axes: list[Axis], task: Task, rung: int | None, labels: list[str]) -> Figure:
    """Draw ``score`` against the columns of ``axes``, with ``step, label, seed``."""
    present = set(table["label"])
    styles = theme.styles(labels)
    shown = {label: styles[label] for label in labels if label in present}
    figure, panels = theme.panels(len(axes), 2.7, shown, sharey=True)
    known = [*table["score"], *task.floors(rung).values()]
    for panel, axis in zip(panels, axes, strict=True):
        spent = table[table[axis.column].gt(0)]
        base.seeds(panel, spent, axis.column, "score", shown)
        for label, style in shown.items():
            middle = median(spent[spent["label"] == label], axis.column)
            panel.plot(middle[axis.column], middle["score"], **style.marked(), markersize=3.2)
        panel.set_xscale("log")
        theme.levels(panel, task.floors(rung), task.points(rung))
        theme.score_axis(panel, task.metric, known, whole=task.solved_at is not None)
        panel.set_xlabel(f"{axis.title} ({axis.unit})" if axis.unit not in axis.title else axis.title)
        theme.one_two_five(panel.xaxis)
    panels[0].set_ylabel(f"held-out {task.metric.name}")
    theme.legend(figure, shown)
    return figure


def median(curves: pd.DataFrame, column: str) -> pd.DataFrame:
    """Median cost and score of the seeds at every step; the last score of a seed that stopped is carried on.

    The cost never falls, although it is that of the seeds that are still training.
    """
    score = curves.pivot_table(index="step", columns="seed", values="score").ffill().median(axis=1)
    cost = curves.groupby("step")[column].median().cummax()
    return pd.DataFrame({column: cost, "score": score})


def shows(table: pd.DataFrame, axes: list[Axis], task: Task, labels: list[str]) -> str:
    """Where every model stands once as much is spent as the cheapest one spent in all."""
    return " ".join(filter(None, (_at_equal(table, axis, task, labels) for axis in axes)))


def _at_equal(table: pd.DataFrame, axis: Axis, task: Task, labels: list[str]) -> str:
    curves = {
        label: line
        for label in labels
        if len(line := median(table[(table["label"] == label) & table[axis.column].gt(0)], axis.column))
    }
    if len(curves) < 2:
        return ""
    spent = {label: float(line[axis.column].iloc[-1]) for label, line in curves.items()}
    least = min(spent, key=lambda label: spent[label])
    reached = {
        label: float(before["score"].iloc[-1])
        for label, line in curves.items()
        if len(before := line[line[axis.column] <= spent[least]])
    }
    return (
        f"By the {axis.title} that {least} used in all ({theme.plain(spent[least])} {axis.unit}), "
        f"{_standing(reached, task)}{_not_yet(curves, reached)}."
    )


def _standing(reached: Mapping[str, float], task: Task) -> str:
    """Scores in words, the best first."""
    order = sorted(reached, key=lambda label: reached[label], reverse=task.metric.higher)
    told = [f"{label} stands at {task.metric.shown(reached[label], fewer=1)}" for label in order[:1]]
    told += [f"{label} at {task.metric.shown(reached[label], fewer=1)}" for label in order[1:_MOST_TOLD]]
    return words_list(told) + (f" (and {len(order) - _MOST_TOLD} more)" if len(order) > _MOST_TOLD else "")


def _not_yet(curves: Mapping[str, pd.DataFrame], reached: Mapping[str, float]) -> str:
    late = [label for label in curves if label not in reached]
    several = "have" if len(late) > 1 else "has"
    return f"; {words_list(late[:_MOST_TOLD])} {several} not been evaluated by then" if late else ""
