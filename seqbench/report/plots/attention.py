"""Where attention looks: how far back each head reads, and what the answer of one example reads."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.plots.gradient import MOMENTS
from seqbench.report.summary import same
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Doubles = npt.NDArray[np.float64]

_MOST_HEADS, _FARTHEST, _MOST_ROWS = 8, 1 << 11, 1 << 15
_SERIES = ["kind", "moment", "layer", "head", "sequence"]
_WHOLE = ["layer", "head", "sequence", "key", "token"]
_AFTER, _BEFORE, _EQUAL = MOMENTS["final"], MOMENTS["init"], "equal attention"
_DECIDES = "decides the answer"
_BEFORE_LOOK: dict[str, Any] = {"color": theme.INK, "linewidth": 0.9, "linestyle": (0, (3, 1.5))}
_EQUAL_LOOK: dict[str, Any] = {"facecolor": theme.INK, "alpha": 0.16}
_CLEAR, _NEARLY_ALL = 0.5, 0.8  # a weight that most of a head's attention rests on


class Head(NamedTuple):
    """A head of a layer, both counted from 1."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"head {self.head} of layer {self.layer}"


@dataclass(frozen=True)
class Look:
    """The attention of one run.

    Attributes:
        place: model, task, rung and seed in words.
        table: ``moment, kind, layer, head, sequence, query, key, value, token, relevant``.
    """

    label: str
    place: str
    table: pd.DataFrame

    def by_key(self, kind: str, moment: str, head: Head, sequence: int = 0) -> pd.Series:
        """Values by distance or position, of a head (0: of equal attention)."""
        return self._series.get((kind, moment, *head, sequence), pd.Series(dtype=float))

    @cached_property
    def _series(self) -> dict[Any, pd.Series]:
        rows = self.table.drop_duplicates([*_SERIES, "key"]).set_index("key").sort_index()
        return dict(iter(rows.groupby(_SERIES)["value"]))

    def heads(self) -> list[Head]:
        """Every head that has a map of the first example after training."""
        pairs = maps(self.table)[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
        return [Head(int(layer), int(head)) for layer, head in pairs.itertuples(index=False)]

    def evenness(self, moment: str, head: Head) -> float:
        """Entropy as a share of that of equal attention; NaN where there is none."""
        found = [
            self.by_key(name, moment, Head(head.layer, number)).get(0, math.nan)
            for name, number in (("entropy", head.head), ("uniform entropy", 0))
        ]
        return float(found[0] / found[1]) if found[0] >= 0 and found[1] > 0 else math.nan

    def sharpest(self, moment: str, sequence: int = 0) -> tuple[float, int, Head]:
        """The most that any head puts on one position of an example, on which, and which head."""
        found = [(head, self.by_key("map", moment, head, sequence)) for head in self.heads()]
        peaks = [(*largest(row), head) for head, row in found if len(row)]
        return max(peaks, key=lambda peak: peak[0], default=(math.nan, 0, Head(0, 0)))

    def example(self, sequence: int = 0) -> pd.DataFrame:
        """Token and relevance of each known position of an example."""
        rows = self.table[self.table["kind"].isin(["map", "uniform map"])]
        return rows[rows["sequence"] == sequence].drop_duplicates("key").set_index("key").sort_index()

    def query(self, sequence: int = 0) -> int:
        """The position whose attention an example shows; -1 for the mean over all."""
        found = self.example(sequence)["query"]
        return int(found.iloc[0]) if len(found) else -1


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


def chosen(sweep: Sweep) -> Look | None:
    """The run to show: of the first model that attends, a solved one, the highest rung, the first seed."""
    table = usable(sweep.table("attention"))
    after = maps(table)
    order = [task.key for task in sweep.tasks]
    for label in sweep.labels:
        runs = sweep.training[sweep.training["label"].eq(label) & sweep.training["task"].isin(order)]
        found = [
            run
            for run in runs.to_dict("records")
            if len(rows_of(after, run)) and len(rows_of(table, run)) <= _MOST_ROWS
        ]
        if found:
            run = min(
                found, key=lambda run: (run["solved"] is not True, order.index(run["task"]), *rank(run))
            )
            place = sweep.tasks[order.index(run["task"])].at(rung_of(run))
            unsolved = " (not solved)" if run["solved"] is False else ""
            return Look(label, f"{label} on {place}, seed {run['seed']}{unsolved}", rows_of(table, run))
    return None


def rank(run: dict[Hashable, Any]) -> tuple[int, int]:
    """The highest rung first, then the first seed."""
    return -(rung_of(run) or 0), int(run["seed"])


def rung_of(run: dict[Hashable, Any]) -> int | None:
    """A run's rung; None without a ladder."""
    return None if pd.isna(run["rung"]) else int(run["rung"])


def rows_of(table: pd.DataFrame, run: dict[Hashable, Any]) -> pd.DataFrame:
    """The rows of one run."""
    mine = (table["label"] == run["label"]) & (table["task"] == run["task"]) & (table["seed"] == run["seed"])
    rows: pd.DataFrame = table[mine & same(table["rung"], rung_of(run))]
    return rows


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows whose numbers can be what they should be; files are not trusted."""
    whole = table[_WHOLE].apply(lambda column: column.between(0, _FARTHEST) & (column % 1 == 0)).all(axis=1)
    whole &= table["query"].between(-1, _FARTHEST) & (table["query"] % 1 == 0)
    most = np.where(table["kind"].str.endswith("entropy"), math.log(_FARTHEST), 1 + 1e-6)
    rows: pd.DataFrame = table[whole & table["value"].between(0, most)]
    return rows


def maps(table: pd.DataFrame) -> pd.DataFrame:
    """The maps of the first example after training."""
    kept = table["kind"].eq("map") & table["moment"].eq("final") & table["sequence"].eq(0)
    rows: pd.DataFrame = table[kept]
    return rows


def largest(values: pd.Series) -> tuple[float, int]:
    """The largest value and its key."""
    place = int(values.to_numpy().argmax())
    return float(values.iloc[place]), int(values.index.to_numpy()[place])


# The figure


def draw(look: Look) -> Figure:
    """A row for each head: weight by distance, and by position in one example."""
    heads = shown(look)
    marked = bool(look.example()["relevant"].eq(1).any())
    names = [_AFTER, _BEFORE, _EQUAL, *([_DECIDES] if marked else [])]
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
    example = look.example()
    size = int(example.index.max()) + 1
    rows = [look.by_key(*row).reindex(range(size), fill_value=0.0) for row in _rows("map", head)]
    _shares(panel, [row.to_numpy(dtype=float) for row in rows], np.arange(-0.5, size), colour)
    for key in example.index[example["relevant"].eq(1)]:
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
        f"attention to all that is visible, 0 a single position; right: {reads}{only}; a weight says what is "
        "read, not what is made of it"
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
    """What lies on the tokens that decide, where the task marks them and the table holds every weight."""
    marks = look.example()["relevant"]
    deciding = marks.index[marks.eq(1)]
    shares = {}
    for moment in ("final", "init"):
        rows = {head: look.by_key("map", moment, head) for head in look.heads()}
        if not len(deciding) or any(abs(row.sum() - 1) > 1e-3 for row in rows.values()):
            return ""
        shares[moment] = {head: float(row.reindex(deciding).sum()) for head, row in rows.items()}
    best = max(shares["final"], key=lambda head: shares["final"][head])
    return (
        f"The tokens that decide the answer get {shares['final'][best]:.2f} of the weight of {best}; before "
        f"training no head gave them more than {max(shares['init'].values()):.2f}."
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
