"""The grid of full sequences: time, memory and use of the machine against length and batch size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot, doubling
from seqbench.report.scaling import (
    Law,
    Meeting,
    crossings,
    duration,
    laws,
    left_out,
    lengths,
    met,
    power_in_words,
    sizes,
)
from seqbench.report.speeds import FEWEST_FOR_P90
from seqbench.report.verdict import words_list
from seqbench.stats import Power

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LIMIT = 0.15  # a power that is nearer than this to its limit needs no comment
_POINTS = (
    "times are CPU seconds of the one thread that works, which other programs disturb least (on a GPU those "
    "of its own clock); points are medians of single timed steps, and the bar above one reaches to the 90th "
    f"percentile of at least {FEWEST_FOR_P90} steps, and to the slowest of fewer"
)
_LENGTH, _SIZE = "T (sequence length)", "sequences at once (batch size)"


def plots(sweep: Sweep, task: str, points: pd.DataFrame, number: int) -> Iterator[Plot]:
    """The figures of a task that have at least two points on their axis.

    Args:
        points: of the grid, by :func:`seqbench.report.speeds.points`.
    """
    here = points[points["task"] == task]
    long, wide = lengths(here), sizes(here)
    found = laws(sweep, task)
    labels = sweep.labels
    if len(long):
        yield Plot(
            key=f"growth-time{number}",
            title=f"Time of a step against length: {task}{_fixed(long, 'batch_size', 'batch')}",
            draw=lambda: _two(long, labels, "steps", _LENGTH, _TIMES),
            how=f"both axes are logarithmic, so a slope is a power of the length; {_POINTS}",
            shows=time_in_words(sweep, task, found),
        )
        yield Plot(
            key=f"growth-memory{number}",
            title=f"Memory of a training step against length: {task}{_fixed(long, 'batch_size', 'batch')}",
            draw=lambda: _two(long, labels, "steps", _LENGTH, _MEMORIES),
            how=(
                "both axes are logarithmic; what is saved is counted exactly: every byte that autograd keeps "
                "of a forward pass for the backward pass, parameters and inputs not counted; the peak is "
                "what a training step adds to the process, and is blurred by the allocator where it is small"
            ),
            shows=memory_in_words(found),
        )
    if len(wide):
        yield Plot(
            key=f"growth-batch{number}",
            title=f"Training step against batch size: {task}{_fixed(wide, 'steps', 'T')}",
            draw=lambda: _two(wide, labels, "batch_size", _SIZE, _BATCHES),
            how=f"both axes are logarithmic; {_POINTS}; a level line of times means that more sequences cost "
            "nothing",
            shows=batch_in_words(wide, labels),
        )
    used = [
        (axis, x, name)
        for axis, x, name in ((long, "steps", _LENGTH), (wide, "batch_size", _SIZE))
        if len(axis)
    ]
    if any(axis["peak_share"].notna().any() for axis, _, _ in used):
        yield Plot(
            key=f"growth-share{number}",
            title=f"Share of this machine's peak in a training step: {task}",
            draw=lambda: _shares(used, labels),
            how=(
                "operations per second that the model needs, relative to a float32 matrix product timed in "
                "the same process (the best of those right before each point); a training step counts as "
                "three forward passes, attention with its full square also where a causal kernel skips half "
                "of it, and work element by element not at all"
            ),
            shows=share_in_words(pd.concat([axis for axis, _, _ in used]), labels),
        )


_Panel = tuple[str, str, str, float]  # mode, column, title, scale
_TIMES: tuple[_Panel, ...] = (
    ("train", "median_s", "training step, milliseconds", 1e3),
    ("forward", "median_s", "forward pass, milliseconds", 1e3),
)
_MEMORIES: tuple[_Panel, ...] = (
    ("train", "saved_bytes", "saved for the backward pass, MB", 1e-6),
    ("train", "memory_bytes", "peak of the process, MB", 1e-6),
)
_BATCHES: tuple[_Panel, ...] = (
    ("train", "valid_tokens_per_s", "valid tokens per second", 1.0),
    ("train", "median_s", "milliseconds for a step", 1e3),
)


def _fixed(line: pd.DataFrame, column: str, name: str) -> str:
    """What does not change along the axis, for a title."""
    return f", {name}={line[column].iloc[0]:.0f}" if len(line) else ""


def _styles(labels: Sequence[str], there: set[str]) -> dict[str, theme.Style]:
    every = theme.styles(labels)
    return {label: every[label] for label in labels if label in there}


def _two(line: pd.DataFrame, labels: Sequence[str], x: str, name: str, panels: tuple[_Panel, ...]) -> Figure:
    """Panels of one axis each, on two logarithmic scales."""
    chosen = _styles(labels, set(line["label"]))
    figure, axes = theme.panels(len(panels), 2.7, chosen)
    for panel, (mode, column, title, scale) in zip(axes, panels, strict=True):
        for label, style in chosen.items():
            mine = line[(line["label"] == label) & (line["mode"] == mode) & line[column].gt(0)]
            panel.plot(mine[x].astype(float), scale * mine[column], **style.marked())
            if column == "median_s":
                ends = scale * mine["median_s"], scale * mine["slow_s"]
                panel.vlines(mine[x].astype(float), *ends, color=style.colour, linewidth=1)
        panel.set_yscale("log")
        panel.set_title(title)
        doubling(panel, sorted(set(line[x].astype(int))))
        theme.one_two_five(panel.yaxis)
    figure.supxlabel(name, fontsize=9)
    theme.legend(figure, chosen)
    return figure


def _shares(used: list[tuple[pd.DataFrame, str, str]], labels: Sequence[str]) -> Figure:
    """One panel for each axis, with the share in percent from nothing upwards."""
    chosen = _styles(labels, {label for axis, _, _ in used for label in axis["label"]})
    figure, axes = theme.panels(len(used), 2.7, chosen, sharey=True)
    for panel, (axis, x, name) in zip(axes, used, strict=True):
        for label, style in chosen.items():
            mine = axis[(axis["label"] == label) & (axis["mode"] == "train") & axis["peak_share"].notna()]
            panel.plot(mine[x].astype(float), 100 * mine["peak_share"], **style.marked())
        panel.set_xlabel(name)
        doubling(panel, sorted(set(axis[x].astype(int))))
    axes[0].set_title("percent of the peak")
    axes[0].set_ylim(bottom=0)
    theme.legend(figure, chosen)
    return figure


def time_in_words(sweep: Sweep, task: str, found: list[Law]) -> str:
    """By which power each model's time grows, where attention wins and loses, and what was left out."""
    known = [law for law in found if math.isfinite(law.time.value)]
    if not known:
        return " ".join(["too few lengths were timed to tell how time grows.", *left_out(sweep, task)])
    usual = known[0].time.first, known[0].time.last
    told = [_power(law.label, law.time, usual) for law in known]
    span = f"From T={usual[0]:.0f} to T={usual[1]:.0f}"
    sentences = [
        f"{span} the time of a training step grows like T to the power (95 % intervals): {words_list(told)}.",
        *(_short_of_square(law) for law in known if law.square and law.time.value < 2 - _LIMIT),
        *attention_in_words(crossings(sweep, task, known)),
        *left_out(sweep, task),
    ]
    return " ".join(sentences)


def _power(label: str, power: Power, usual: tuple[float, float]) -> str:
    """A model's power, with the lengths that it is read from where they are not the usual ones."""
    apart = "" if (power.first, power.last) == usual else f" from T={power.first:.0f} to T={power.last:.0f}"
    return f"{label} {power_in_words(power)}{apart}"


def attention_in_words(found: list[Meeting]) -> list[str]:
    """Where models with a square cost are quicker than others, where slower, and why."""
    sentences = [f"{words[:1].upper()}{words[1:]}." for words in met(found)]
    for label in dict.fromkeys(one.label for one in found):
        wins = [one for one in found if one.label == label and any(one.quicker)]
        few = f"{label} takes a fixed number of sequential steps at any length, a recurrence one for each"
        if not wins:
            sentences.append(f"Although {few}, that wins at none of these lengths on this device.")
        else:
            sentences.append(
                f"Where {label} wins, it is because {few}; where it loses, the square of the length "
                "outweighs that."
            )
    return sentences


def _short_of_square(law: Law) -> str:
    """Why a model with a square cost has not reached the power two."""
    return (
        f"In the limit {law.label} reaches 2; at T={law.time.last:.0f} {law.pairs:.0%} of its operations are "
        "those of pairs of steps."
    )


def memory_in_words(found: list[Law]) -> str:
    """By which power memory grows, and whether the scores of attention are stored."""
    told = [f"{law.label} {law.saved.value:.2f}" for law in found if math.isfinite(law.saved.value)]
    if not told:
        return "what is saved for the backward pass was not recorded."
    sentences = [
        f"What a training step keeps for its backward pass grows like T to the power: {words_list(told)}."
    ]
    flat = [law.label for law in found if law.square and law.saved.value < 1 + _LIMIT]
    full = [law.label for law in found if law.square and law.saved.value >= 1 + _LIMIT]
    if flat:
        sentences.append(
            f"Also with {words_list(flat)} it grows in proportion to the length although the time does not: "
            "the scores, one for every pair of steps, are not kept but computed again on the way back, as "
            "flash attention does."
        )
    if full:
        sentences.append(f"{words_list(full)} keeps its scores, one for every pair of steps.")
    return " ".join(sentences)


def batch_in_words(line: pd.DataFrame, labels: Sequence[str]) -> str:
    """How many more tokens per second larger batches give."""
    train = line[line["mode"] == "train"]
    told = []
    for label in labels:
        mine = train[train["label"] == label].sort_values("batch_size")
        if len(mine) >= 2:
            few, many = mine.iloc[0], mine.iloc[-1]
            gain = many["valid_tokens_per_s"] / few["valid_tokens_per_s"]
            told.append((label, gain, few, many))
    if not told:
        return "too few batch sizes were timed."
    ends = f"From {told[0][2]['batch_size']:.0f} to {told[0][3]['batch_size']:.0f} sequences at once"
    gains = words_list([f"{label} {gain:.3g} times" for label, gain, _, _ in told])
    largest = train["batch_size"].max()
    best = train[train["batch_size"] == largest].sort_values("valid_tokens_per_s").iloc[-1]
    return (
        f"{ends}, tokens per second grow: {gains}. At {largest:.0f}, {best['label']} has the most: "
        f"{best['valid_tokens_per_s']:,.0f} ({duration(best['median_s'])} for a step)."
    )


def share_in_words(line: pd.DataFrame, labels: Sequence[str]) -> str:
    """The best share of each model, and where it is reached."""
    train = line[(line["mode"] == "train") & line["peak_share"].notna()]
    told = []
    for label in labels:
        mine = train[train["label"] == label]
        if len(mine):
            best = mine.sort_values("peak_share", kind="stable").iloc[-1]
            place = f"T={best['steps']:.0f}, batch {best['batch_size']:.0f}"
            told.append(
                f"{label} {best['peak_share']:.0%} ({best['flops_per_s'] / 1e9:.3g} GFLOP/s, {place})"
            )
    return f"The most that each model reaches: {words_list(told)}." if told else "not recorded."
