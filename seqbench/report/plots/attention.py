"""Where attention looks: how far back each head reads, and what the answer of one example reads."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from seqbench.report import theme
from seqbench.report.attention import Head, Look, chosen, largest
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.plots.gradient import MOMENTS
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Doubles = npt.NDArray[np.float64]

_MOST_HEADS = 8
_AFTER, _BEFORE, _EQUAL = MOMENTS["final"], MOMENTS["init"], "equal attention"
_DECIDES = "decides the answer"
_BEFORE_LOOK: dict[str, Any] = {"color": theme.INK, "linewidth": 0.9, "linestyle": (0, (3, 1.5))}
_EQUAL_LOOK: dict[str, Any] = {"facecolor": theme.INK, "alpha": 0.16}
_HARDLY, _CLEAR, _NEARLY_ALL = 0.1, 0.5, 0.8  # the last two: most of a head's attention rests on it
_FEW = MappingProxyType(
    {
        1: "One token decides this answer (triangle), at position",
        2: "Two tokens decide this answer (triangles), at positions",
        3: "Three tokens decide this answer (triangles), at positions",
    }
)


def plot(sweep: Sweep) -> Plot | None:
    """The first model that attends, where it solved the most; None without such a trained run."""
    look = chosen(sweep)
    if look is None:
        return None
    return Plot(
        key="attention",
        title=f"Where attention looks: {look.place}",
        draw=lambda: draw(look),
        how=how(look),
        shows=shows(look),
    )


# The figure


def draw(look: Look) -> Figure:
    """A row for each head: weight by distance, and by position in one example."""
    heads = shown(look)
    names = [_AFTER, _BEFORE, _EQUAL, *([_DECIDES] if look.deciding() else [])]
    figure, axes = theme.panels(
        2 * len(heads), max(0.8, 2.0 / len(heads)), names, sharex="col", gridspec_kw={"width_ratios": [2, 3]}
    )
    colour = theme.styles([look.label])[look.label].colour
    top = max(binned(look.by_key("distance", m, h)).max(initial=0.0) for m in MOMENTS for h in heads)
    for number, head in enumerate(heads):
        left, right = axes[2 * number : 2 * number + 2]
        _distances(left, look, head, colour)
        left.set_ylim(0, 1.1 * top or 1)
        _positions(right, look, head, colour)
    axes[0].set_title("weight by distance, all positions")
    axes[1].set_title(
        "one example: what " + ("all positions read" if look.query() < 0 else "the answer reads")
    )
    for panel in axes[-2:] if look.deciding() else ():
        panel.tick_params(axis="x", pad=9)  # below the triangles
    axes[-2].set_xlabel("steps between query and key")
    axes[-1].set_xlabel("position in the sequence")
    _legend(figure, names, colour)
    return figure


def shown(look: Look) -> list[Head]:
    """The heads that are drawn: all, or those that put the most on one position of the example."""
    heads = look.heads()
    sharpest = sorted(heads, key=lambda head: -look.by_key("map", "final", head).max())
    return sorted(sharpest[:_MOST_HEADS])


def _distances(panel: Axes, look: Look, head: Head, colour: str) -> None:
    """Weight by distance in bins that double in width."""
    rows = [binned(look.by_key(*row)) for row in _rows("distance", head)]
    _shares(panel, rows, np.arange(1.0 + max(1, *(len(row) for row in rows))), colour)
    count = int(panel.get_xlim()[1]) + 1
    panel.set_xticks(range(count), ["0", *(str(1 << power) for power in range(count - 1))])
    evenness = [look.evenness(moment, head) for moment in ("init", "final")]
    known = [f"{value:.2f}" for value in evenness if math.isfinite(value)]
    name = f"layer {head.layer}, head {head.head}\nentropy " + " \N{RIGHTWARDS ARROW} ".join(known)
    panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def _rows(kind: str, head: Head) -> list[tuple[str, str, Head]]:
    """What is drawn of a head: after training, before, and equal attention."""
    equal = (f"uniform {kind}", "final", Head(head.layer, 0))
    return [(kind, "final", head), (kind, "init", head), equal]


def _shares(panel: Axes, rows: list[Doubles], edges: Doubles, colour: str) -> None:
    """Filled bars after training, an outline before, a shade for equal attention."""
    after, before, equal = (np.pad(row, (0, len(edges) - 1 - len(row))) for row in rows)
    panel.stairs(equal, edges, fill=True, linewidth=0, **_EQUAL_LOOK)
    panel.stairs(after, edges, fill=True, color=colour, linewidth=0)
    if before.any():
        panel.stairs(before, edges, baseline=None, **_BEFORE_LOOK)
    panel.set_xlim(edges[0], edges[-1])


def _positions(panel: Axes, look: Look, head: Head, colour: str) -> None:
    """Weight by position of the example, and the tokens of which the task says that they decide."""
    size = int(look.example().index.max()) + 1
    rows = [look.by_key(*row).reindex(range(size), fill_value=0.0) for row in _rows("map", head)]
    _shares(panel, [row.to_numpy(dtype=float) for row in rows], np.arange(-0.5, size), colour)
    for key in look.deciding():
        panel.plot(key, -0.14, "^", color=theme.INK, markersize=4, clip_on=False)
    panel.set_ylim(0, 1.1)
    panel.set_yticks([0, 0.5, 1])
    most, place = largest(rows[0])
    left = place < size / 2
    panel.annotate(
        f"{most:.2f}", (place, most), xytext=(5 if left else -5, 0), textcoords="offset points",
        ha="left" if left else "right", va="top" if most > 0.5 else "bottom", fontsize=7.5, gid="halo",
    )  # fmt: skip


def _legend(figure: Figure, names: list[str], colour: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour),
        Line2D([], [], **_BEFORE_LOOK),
        Patch(**_EQUAL_LOOK),
        Line2D([], [], color=theme.INK, marker="^", linestyle=""),
    ]
    figure.legend(handles[: len(names)], names, loc="outside upper left", ncols=len(names))


def binned(by_distance: pd.Series) -> Doubles:
    """Sums over distances 0, 1, 2 to 3, 4 to 7 and so on.

    >>> binned(pd.Series([0.1, 0.2, 0.3, 0.3, 0.1])).round(1).tolist()
    [0.1, 0.2, 0.6, 0.1]
    """
    place = np.frexp(by_distance.index.to_numpy(dtype=float))[1]
    return np.bincount(place.clip(0), by_distance.to_numpy(dtype=float)).astype(np.float64)


# The words


def how(look: Look) -> str:
    """How to read the figure."""
    query = look.query()
    reads = (
        f"what position {query} reads, where the last answer of a held-out example is given"
        if query >= 0
        else "the mean of what all positions of a held-out example read, since the answer is read from all"
    )
    heads = len(look.heads())
    only = f"; of {heads} heads the {_MOST_HEADS} with the highest peak there" if heads > _MOST_HEADS else ""
    return (
        "one row for each head; left: the share of its weight by the number of steps between the position "
        "that reads and the one that is read, over all positions of the probe's sequences, in bars that "
        "double in width; beside it the mean entropy of the weights before and after training: 1 is equal "
        f"attention to all that is visible, 0 a single position; right: {reads}{only}{_triangles(look)}; a "
        "weight says what is read, not what is made of it"
    )


def _triangles(look: Look) -> str:
    if not look.deciding():
        return ""
    return (
        "; triangles mark the tokens that decide this answer by the definition of the task (the question "
        "itself is not marked)"
    )


def shows(look: Look) -> str:
    """What the answer reads, what the marked tokens get, and how attention sharpened."""
    sentences = [_peak(look), _follows(look), _marked(look), _nearby(look), _sharpened(look)]
    return " ".join(sentence for sentence in sentences if sentence)


def _peak(look: Look) -> str:
    """The most that the answer's position puts on one position, the most before, and where others look."""
    after, key, head = look.sharpest("final")
    before, query = look.sharpest("init")[0], look.query()
    earlier = f"; before, the most that any head put on one was {before:.2f}" if before >= 0 else ""
    if query < 0 or after < _CLEAR or not after > 2 * before:
        return f"After training the most that any head puts on one position is {after:.2f}{earlier}."
    peaks = [largest(look.by_key("map", "final", head)) for head in look.heads()]
    places = sorted({place for most, place in peaks if most >= _CLEAR})
    listed = words_list([str(place) for place in places[:_MOST_HEADS]])
    several = f" Heads rest most of their weight on the positions {listed}." if len(places) > 1 else ""
    where = steps(query - key)
    return f"After training {head} puts {after:.2f} of its weight on one position, {where}{earlier}.{several}"


def steps(back: int) -> str:
    """How far a position lies behind the one that reads it.

    >>> steps(3), steps(1), steps(0), steps(-2)
    ('3 steps back', '1 step back', 'the one that reads', '2 steps ahead')
    """
    if back == 0:
        return "the one that reads"
    return f"{abs(back)} step{'s' if abs(back) > 1 else ''} {'back' if back > 0 else 'ahead'}"


def _follows(look: Look) -> str:
    """Whether what gets nearly all the weight follows an earlier occurrence of the token that reads it."""
    found = []
    for sequence in (0, 1):
        tokens, query = look.example(sequence)["token"], look.query(sequence)
        weight, key, _ = look.sharpest("final", sequence)
        known = {query, key - 1} <= set(tokens.index) and tokens.nunique() > 2 and weight >= _NEARLY_ALL
        found.append(known and key <= query and bool(tokens[key - 1] == tokens[query]))
    if not all(found):
        return ""
    return (
        "In both examples of the probe, the position that gets the most comes right after an earlier "
        "occurrence of the same token as at the position that reads it."
    )


def _marked(look: Look) -> str:
    """What the tokens that decide get, where the task marks them and the table holds every weight."""
    places = look.deciding()
    rows = {moment: [look.by_key("map", moment, head) for head in look.heads()] for moment in MOMENTS}
    if not places or any(abs(row.sum() - 1) > 1e-3 for found in rows.values() for row in found):
        return ""
    after, before = (
        np.array([row.reindex(places, fill_value=0.0) for row in rows[m]]) for m in ("final", "init")
    )
    if len(places) not in _FEW:
        together = [f"{weights.sum(1).max():.2f}" for weights in (after, before)]
        return (
            f"{len(places)} tokens decide this answer (triangles): the most that any head puts on all of "
            f"them together is {together[0]}, before training {together[1]}."
        )
    most, earlier = (words_list([f"{most:.2f}" for most in weights.max(0)]) for weights in (after, before))
    listed = words_list([str(place) for place in places])
    return (
        f"{_FEW[len(places)]} {listed}: the most that any head puts there is {most}, before training "
        f"{earlier}." + _carried(look, after)
    )


def _carried(look: Look, after: Doubles) -> str:
    """Why a token that the answer does not read can still decide it."""
    if after.max(0).min() >= _HARDLY or len({head.layer for head in look.heads()}) < 2:
        return ""
    return (
        " A token that is hardly read here can still reach the answer through a position that read it in a "
        "lower layer."
    )


def _nearby(look: Look) -> str:
    """A head that reads at one distance over all positions."""
    found = []
    for head in look.heads():
        row = look.by_key("distance", "final", head)
        single = row[[key == 0 or key + 1 in row.index for key in row.index]]  # others may be sums
        found += [(*largest(single), head)] if len(single) else []
    share, distance, head = max(found, key=lambda peak: peak[0], default=(0.0, 0, Head(0, 0)))
    if share < _CLEAR:
        return ""
    equal = look.by_key("uniform distance", "final", Head(head.layer, 0)).get(distance, math.nan)
    return (
        f"Over all positions {head} puts {share:.2f} of its weight at distance {distance} (equal attention: "
        f"{equal:.2f})."
    )


def _sharpened(look: Look) -> str:
    """Entropy before and after, over all heads, and the lowest."""
    after, before = (
        {head: look.evenness(moment, head) for head in look.heads()} for moment in ("final", "init")
    )
    if any(math.isnan(value) for value in [*after.values(), *before.values()]):
        return ""
    means = [sum(values.values()) / len(values) for values in (before, after)]
    low = min(after, key=lambda head: after[head])
    return (
        f"On average over heads, the entropy goes from {means[0]:.2f} to {means[1]:.2f} of what equal "
        f"attention has; it is lowest in {low} ({after[low]:.2f})."
    )
