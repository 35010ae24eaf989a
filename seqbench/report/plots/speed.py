"""Speed against sequence length: time of a training step and of a forward pass, and tokens per second."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.plots.base import Plot, doubling
from seqbench.report.speeds import FEWEST_FOR_P90
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEWEST_FOR_POWER = 8
_MODES = {"train": "training step", "forward": "forward pass"}


def plot(task: Task, speeds: pd.DataFrame, labels: list[str], number: int) -> Plot | None:
    """Speed over the task's rungs; None when fewer than two were timed."""
    here = speeds[(speeds["task"] == task.key) & speeds["rung"].notna()]
    if here["rung"].nunique() < 2:
        return None
    return Plot(
        key=f"speed{number}",
        title=f"Speed and memory against length: {task.key}",
        draw=lambda: draw(here, task, labels),
        how=(
            "both axes are logarithmic, so equal slopes are equal powers of the length; points are medians "
            "of single timed steps, the bar above a point reaches to the 90th percentile of at least "
            f"{FEWEST_FOR_P90} steps, and to the slowest of fewer; tokens per second count real tokens only, "
            "never padding; peak memory is what a step adds to the process"
        ),
        shows=shows(here, task, labels),
    )


def draw(speeds: pd.DataFrame, task: Task, labels: list[str]) -> Figure:
    """Draw ``label, rung, mode, median_s, slow_s, valid_tokens_per_s, memory_bytes``."""
    chosen = {label: style for label, style in theme.styles(labels).items() if label in set(speeds["label"])}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    figure, axes = theme.panels(4, 2.2, chosen, sharex=True)
    rungs = sorted(set(speeds["rung"].astype(int)))
    for column, (mode, title) in enumerate(_MODES.items()):
        here = speeds[speeds["mode"] == mode]
        for label, style in chosen.items():
            line = here[here["label"] == label].sort_values("rung")
            _times(axes[column], line, style)
        axes[column].set_title(f"{title}, milliseconds")
    train = speeds[speeds["mode"] == "train"]
    for panel, name, scale in zip(axes[2:], ("valid_tokens_per_s", "memory_bytes"), (1, 1e-6), strict=True):
        for label, style in chosen.items():
            line = train[(train["label"] == label) & train[name].gt(0)].sort_values("rung")
            panel.plot(line["rung"], line[name] * scale, **style.marked())
    axes[2].set_title("training step, valid tokens per second")
    axes[3].set_title("training step, peak memory in MB")
    for panel in axes:
        _scale(panel, rungs)
    figure.supxlabel(f"{task.symbol} (sequence length)" if task.symbol == "T" else task.symbol, fontsize=9)
    theme.legend(figure, chosen)
    return figure


def _times(panel: Axes, line: pd.DataFrame, style: theme.Style) -> None:
    """Median with a bar to the slow steps, in milliseconds."""
    middle, slow = 1e3 * line["median_s"], 1e3 * line["slow_s"]
    panel.plot(line["rung"], middle, **style.marked())
    panel.vlines(line["rung"], middle, slow, color=style.colour, linewidth=1)


def _scale(panel: Axes, rungs: list[int]) -> None:
    panel.set_yscale("log")
    doubling(panel, rungs)
    theme.one_two_five(panel.yaxis)


def exponent(line: pd.DataFrame) -> float:
    """How the median step time grows between the two longest lengths: the power of the length.

    NaN when either was timed for too few steps.
    """
    last = line.sort_values("rung").tail(2)
    if len(last) < 2 or (last["median_s"] <= 0).any() or (last["timed"] < _FEWEST_FOR_POWER).any():
        return math.nan
    times, rungs = last["median_s"].tolist(), last["rung"].astype(float).tolist()
    return math.log(times[1] / times[0]) / math.log(rungs[1] / rungs[0])


def shows(speeds: pd.DataFrame, task: Task, labels: list[str]) -> str:
    """Who is quickest at both ends, and how the time grows."""
    train = speeds[speeds["mode"] == "train"]
    if train.empty:
        return "no training step was timed."
    sentences = []
    for rung in sorted({int(train["rung"].min()), int(train["rung"].max())}):
        here = train[train["rung"] == rung].sort_values("median_s")
        quick, slow = here.iloc[0], here.iloc[-1]
        ratio = f", {slow['median_s'] / quick['median_s']:.3g} times as long" if len(here) > 1 else ""
        other = f", {slow['label']} slowest ({1e3 * slow['median_s']:.1f} ms{ratio})" if len(here) > 1 else ""
        sentences.append(
            f"At {task.symbol}={rung} a training step is quickest with {quick['label']} "
            f"({1e3 * quick['median_s']:.1f} ms){other}."
        )
    powers = [(label, exponent(train[train["label"] == label])) for label in labels]
    known = [f"{label} {power:.1f}" for label, power in powers if math.isfinite(power)]
    if known:
        powers_named = words_list(known)
        sentences.append(
            f"Between the two longest lengths time grows like a power of the length: {powers_named}."
        )
    return " ".join(sentences)
