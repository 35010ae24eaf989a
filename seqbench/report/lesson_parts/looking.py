"""Attention in numbers: the run's own example, and how many hops lie between answer and cue."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seqbench.report.attention import chosen
from seqbench.report.frame import Sweep
from seqbench.report.plots import hops
from seqbench.report.verdict import words_list

_MOST_TOKENS = 160
_MOST_NAMED = 6


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
    """From the answer back to the farthest token that decides it, before training."""

    place: str
    distance: float
    hops: dict[str, float]

    @property
    def words(self) -> str:
        """How many hops each model's gradient takes."""
        some = list(self.hops.items())[:_MOST_NAMED]
        named = [
            f"{count:g}{'' if number else f' hop{_s(count)}'} in {label}"
            for number, (label, count) in enumerate(some)
        ]
        return words_list(named)


def way(sweep: Sweep) -> Way | None:
    """The longest way of the first task whose deciding tokens are known."""
    table = sweep.table("hops")
    for task in sweep.tasks:
        points = hops.medians(table[table["task"] == task.key], sweep.labels)
        points = points[(points["moment"] == "init") & points["distance"].gt(0)]
        if len(points):
            far = points[points["distance"] == points["distance"].max()]
            rung = far["rung"].iloc[0]
            place = task.at(None if rung != rung else int(rung))  # noqa: PLR0124
            counts = dict(zip(far["label"], far["hops"], strict=True))
            ordered = {label: float(counts[label]) for label in sweep.labels if label in counts}
            return Way(place, float(far["distance"].iloc[0]), ordered)
    return None


def _s(count: float) -> str:
    return "" if count == 1 else "s"
