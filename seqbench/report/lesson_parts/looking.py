"""Attention in numbers: the run's own example, and how many hops lie between answer and cue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from seqbench.report.attention import chosen
from seqbench.report.frame import Sweep
from seqbench.report.lesson_parts import cast
from seqbench.report.lesson_parts.amounts import amount
from seqbench.report.lesson_parts.fading import Fade, of
from seqbench.report.plots import hops
from seqbench.report.verdict import words_list

_MOST_TOKENS = 160
_MOST_NAMED = 6
_NEAR = 2.5  # times as much or as little as 1/T is still about 1/T


@dataclass(frozen=True)
class Token:
    """A position of the example: its id, whether it decides, and the most that any head puts there."""

    id: int
    decides: bool
    weight: float


@dataclass(frozen=True)
class Example:
    """A held-out sequence and what its answer reads.

    Attributes:
        place: model, task, rung and seed in words.
        reader: position that reads, or -1 where it is the mean over all of them.
    """

    place: str
    reader: int
    tokens: list[Token]

    @property
    def marked(self) -> bool:
        """Whether the task says which tokens decide."""
        return any(token.decides for token in self.tokens)

    @property
    def read(self) -> str:
        """What the tokens that decide get, in words."""
        weights = [f"{token.weight:.2f}" for token in self.tokens if token.decides]
        return words_list(weights[:_MOST_NAMED])


def example(sweep: Sweep) -> Example | None:
    """The example of the run whose attention is drawn; None without the probe, or for a long text."""
    look = chosen(sweep)
    if look is None:
        return None
    rows = look.example()
    known = rows["token"].notna() & rows["token"].abs().lt(1e9)
    if not known.all() or not 0 < len(rows) <= _MOST_TOKENS:
        return None
    decides = set(look.deciding())
    peaks = [look.by_key("map", "final", head) for head in look.heads()]
    tokens = [
        Token(int(token), key in decides, max((float(p.get(key, 0.0)) for p in peaks), default=math.nan))
        for key, token in zip(rows.index, rows["token"], strict=True)
    ]
    return Example(look.place, look.query(), tokens)


@dataclass(frozen=True)
class Way:
    """From the answer back to the farthest token that decides it, before training.

    Attributes:
        both_ways: models that also read from the end, for which the way to either end counts.
    """

    place: str
    distance: float
    hops: dict[str, float]
    both_ways: frozenset[str] = frozenset()

    @property
    def words(self) -> str:
        """How many hops each model's gradient takes."""
        some = list(self.hops.items())[:_MOST_NAMED]
        named = [
            f"{count:g}{'' if number else f' hop{_s(count)}'} in {label}{self._end(label, count)}"
            for number, (label, count) in enumerate(some)
        ]
        return words_list(named)

    def _end(self, label: str, count: float) -> str:
        """What a short way in a model that reads from both ends does not say."""
        if label not in self.both_ways or count >= self.distance:
            return ""
        return " (to the nearer end; a token in the middle is about T/2 hops from either end)"


def way(sweep: Sweep) -> Way | None:
    """The longest way of the first task whose deciding tokens are known."""
    table = sweep.table("hops")
    for task in sweep.tasks:
        points = hops.medians(table[table["task"] == task.key], sweep.labels)
        points = points[(points["moment"] == "init") & points["distance"].gt(0)]
        if len(points):
            far = points[points["distance"] == points["distance"].max()]
            rung = far["rung"].iloc[0]
            place = task.at(None if pd.isna(rung) else int(rung))
            counts = dict(zip(far["label"], far["hops"], strict=True))
            ordered = {label: float(counts[label]) for label in sweep.labels if label in counts}
            both = [name for name in ordered if cast.setting(sweep, name, "bidirectional") is True]
            return Way(place, float(far["distance"].iloc[0]), ordered, frozenset(both))
    return None


@dataclass(frozen=True)
class Glance:
    """What the farthest token that decides gets of the gradient at the answer, one hop away.

    Attributes:
        before, after: that share before and after training; NaN where it was not looked at.
        even: before training about one of as many parts as there are tokens, at every length that was run.
        flat: before training it does not fall with distance.
    """

    place: str
    label: str
    before: float
    after: float
    even: bool
    flat: bool

    @property
    def percent(self) -> tuple[str, str]:
        """Both shares in per cent; empty where it is not known."""
        first, second = (
            f"{amount(100 * share)} %" if share > 0 else "" for share in (self.before, self.after)
        )
        return first, second


def glance(sweep: Sweep, fades: list[Fade]) -> Glance | None:
    """The first model with attention that is one hop from the cue, at the longest way of :func:`way`."""
    attends = cast.attends(sweep)
    table = sweep.table("hops")
    for task in sweep.tasks:
        points = hops.medians(table[table["task"] == task.key], attends)
        points = points[points["hops"].eq(1) & points["distance"].gt(0) & points["share"].gt(0)]
        start = points[points["moment"] == "init"]
        label = next((one for one in attends if (start["label"] == one).any()), None)
        if label is not None:
            start = start[start["label"] == label].sort_values("distance")
            ends = points[(points["moment"] == "final") & (points["label"] == label)]
            ends = ends[ends["distance"] == start["distance"].iloc[-1]]
            parts = start["share"] * (start["distance"] + 1)
            fade = of(fades, label)
            rung = start["rung"].iloc[-1]
            return Glance(
                place=task.at(None if pd.isna(rung) else int(rung)),
                label=label,
                before=float(start["share"].iloc[-1]),
                after=float(ends["share"].iloc[0]) if len(ends) else math.nan,
                even=bool(parts.between(1 / _NEAR, _NEAR).all()),
                flat=fade is not None and not fade.pooled and fade.way == "stays",
            )
    return None


def _s(count: float) -> str:
    return "" if count == 1 else "s"
