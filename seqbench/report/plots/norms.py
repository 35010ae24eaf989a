"""The gradient's norm at each training step, before clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.summary import same
from seqbench.report.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMOOTH = 11


def clip_limits(sweep: Sweep) -> dict[str, float]:
    """The clipping norm of each run's folder; runs without clipping are left out."""
    limits = {}
    for folder in sweep.records:
        clip = sweep.config(folder, "train").get("clip")
        if isinstance(clip, int | float) and clip > 0:
            limits[folder] = float(clip)
    return limits


def plot(sweep: Sweep) -> Plot | None:
    """Norms at the hardest rung of each task; None without any."""
    steps = sweep.table("steps")
    steps = steps[steps["gradient_norm"].gt(0) & steps["step"].notna()]
    places = [
        (task, task.rungs[-1])
        for task in sweep.tasks
        if ((steps["task"] == task.key) & same(steps["rung"], task.rungs[-1])).any()
    ]
    if not places:
        return None
    limits = set(clip_limits(sweep).values())
    clip = limits.pop() if len(limits) == 1 else None
    line = f"; above the dotted line, {clip:g}, it is scaled down to it before the update" if clip else ""
    return Plot(
        key="norms",
        title="Gradient norm during training, before clipping",
        draw=lambda: draw(steps, places, sweep.labels, clip),
        how=(
            "norm of the gradient of all weights together, median over seeds and over "
            f"{_SMOOTH} neighbouring steps{line}"
        ),
        shows=shows(steps, places, sweep.labels, clip),
    )


def draw(
    steps: pd.DataFrame, places: list[tuple[Task, int | None]], labels: list[str], clip: float | None
) -> Figure:
    """Draw ``label, task, rung, seed, step, gradient_norm``, one panel per place."""
    present = set(steps["label"].unique())
    chosen = {label: style for label, style in theme.styles(labels).items() if label in present}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    figure, axes = theme.panels(len(places), 2.5, chosen)
    for panel, (task, rung) in zip(axes, places, strict=True):
        here = steps[(steps["task"] == task.key) & same(steps["rung"], rung)]
        for label, style in chosen.items():
            _curve(panel, here[here["label"] == label], style)
        _scale(panel)
        panel.set_title(task.at(rung))
        if clip:
            theme.level(panel, clip, "clipped above")
    figure.supxlabel("training step", fontsize=9)
    figure.supylabel("gradient norm", fontsize=9)
    theme.legend(figure, chosen)
    return figure


def _curve(panel: Axes, curves: pd.DataFrame, style: theme.Style) -> None:
    middle = curves.groupby("step")["gradient_norm"].median()
    smooth = middle.rolling(_SMOOTH, center=True, min_periods=1).median()
    if len(smooth):
        thin = smooth.iloc[:: max(1, len(smooth) // 130)]
        panel.plot(thin.index, thin, **style.line(), linewidth=1.3)


def _scale(panel: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(FuncFormatter(theme.power_of_ten))
    panel.minorticks_off()


def clipped_share(steps: pd.DataFrame, clip: float) -> float:
    """Share of steps whose norm was above the clipping norm."""
    return float((steps["gradient_norm"] > clip).mean())


def shows(
    steps: pd.DataFrame, places: list[tuple[Task, int | None]], labels: list[str], clip: float | None
) -> str:
    """How often each model was clipped."""
    if clip is None:
        return "nothing was clipped, or the runs were clipped at different norms."
    sentences = []
    for task, rung in places:
        here = steps[(steps["task"] == task.key) & same(steps["rung"], rung)]
        shares = [
            f"{label} {clipped_share(here[here['label'] == label], clip):.0%}"
            for label in labels
            if (here["label"] == label).any()
        ]
        sentences.append(f"Share of steps clipped at {task.at(rung)}: {', '.join(shares)}.")
    return " ".join(sentences)
