"""Temporal order: which symbol came first? A long-memory task that a bag of tokens cannot solve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seqbench.batch import PADDING, Batch, Bools, Ints, trim
from seqbench.errors import UsageError
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask

# Where the marked symbols stand, in per cent of the sequence (in the paper: of 100 tokens).
_WINDOWS = {"2": ((10, 20), (50, 60)), "3": ((10, 20), (33, 43), (66, 76))}
_KINDS = {"ladder": (3, 6), "classic": (2, 4)}  # symbols and distractors, unless chosen
_SHORTEST = {"ladder": {"2": 8, "3": 9}, "classic": {"2": 10, "3": 10}}  # below it, windows would meet
_MOST_CLASSES = 2_500


@register("task")
@dataclass
class TemporalOrder(GeneratedTask):
    """Two or three marked symbols among distractors; the class is their order (many-to-one).

    In ``variant=ladder`` the marked symbols move with the length of each sequence. ``variant=classic`` is the
    task of the paper, scaled by T; ``lengths=[100]`` is its size.

    Ids: the marked symbols from 1 on, then the distractors, the start (classic only) and the end marker.

    Example, T=16, symbols A B C, distractors a..f, end marker $:
    ``d a B f e c a b A c e d f $`` has the class (B, A): 3 of 0 to 8 (AA, AB, AC, BA, ...).
    """

    ladder: ClassVar[str | None] = "lengths"
    ladder_symbol: ClassVar[str] = "T"

    name: str = "temporal_order"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    variant: str = setting(
        "ladder",
        "ladder: windows are shares of each sequence; classic: the experiments 6a and 6b of 1997, scaled",
        choices=("ladder", "classic"),
    )
    marked: str = setting("2", "marked symbols in a sequence; the class is their order", choices=("2", "3"))
    lengths: list[int] = setting(
        [16, 32, 64, 128],
        "T of each rung: lengths vary in [0.75 T, T] (ladder) or [T, 1.1 T] (classic)",
        unit="tokens",
        minimum=8,
    )
    symbols: int | None = setting(
        None, "different marked symbols; null: 3 (ladder), 2 (classic)", minimum=2, maximum=50
    )
    distractors: int | None = setting(
        None, "different distractor tokens; null: 6 (ladder), 4 (classic)", minimum=1, maximum=1000
    )

    def __post_init__(self) -> None:
        """Fill in what the variant decides, so that records hold numbers; 3 and "3" are the same."""
        self.marked = str(self.marked)
        symbols, distractors = _KINDS.get(self.variant, (None, None))
        self.symbols = symbols if self.symbols is None else self.symbols
        self.distractors = distractors if self.distractors is None else self.distractors

    @property
    def vocabulary_size(self) -> int:
        symbols, distractors = self._kinds()
        return 1 + symbols + distractors + (2 if self.variant == "classic" else 1)

    @property
    def classes(self) -> int:
        return int(self._kinds()[0] ** int(self.marked))

    def _kinds(self) -> tuple[int, int]:
        assert self.symbols is not None
        assert self.distractors is not None
        return self.symbols, self.distractors

    def check(self) -> None:
        """Windows must not meet, the classic task is as in the paper, and classes stay countable."""
        shortest = _SHORTEST[self.variant][self.marked]
        if min(self.lengths, default=shortest) < shortest:
            raise UsageError(
                f"task.lengths={min(self.lengths)}: too short for task.variant={self.variant} "
                f"task.marked={self.marked}: must be at least {shortest}"
            )
        if self.variant == "classic":
            for key, value, fixed in zip(
                ("symbols", "distractors"), self._kinds(), _KINDS["classic"], strict=True
            ):
                if value != fixed:
                    raise UsageError(
                        f"task.{key}={value}: task.variant=classic has {fixed}; leave it out, or take "
                        "task.variant=ladder"
                    )
        if self.classes > _MOST_CLASSES:
            most = math.floor(_MOST_CLASSES ** (1 / int(self.marked)))
            raise UsageError(
                f"task.symbols={self.symbols}: task.marked={self.marked} makes {self.classes:,} classes of "
                f"them; must be at most {most}"
            )

    def cost(self) -> float:
        return float(self.lengths[0])

    def card(self) -> Card:
        three, classic = self.marked == "3", self.variant == "classic"
        own = f"temporal_order/{self.marked}" if classic else "temporal_order/ladder" + "/3marked" * three
        paper = f"Hochreiter & Schmidhuber 1997, experiment 6{'b' if three else 'a'}"
        source = f"{paper}, which is T=100" if classic else f"after {paper}, with places of our own"
        return Card(
            id=own,
            tests=f"keeping the order of {'three' if three else 'two'} symbols over a long stretch of "
            "distractors",
            definition=self._definition(),
            source=source,
            floors={"chance": 1 / self.classes, "bag of tokens": self._bag()},
        )

    def _definition(self) -> str:
        symbols, distractors = self._kinds()
        places = [f"{start}-{end} %" for start, end in _WINDOWS[self.marked]]
        the_class = "pair" if self.marked == "2" else "triple"
        if self.variant == "classic":
            longest = self.lengths[0]
            return (
                "2 symbols X and Y, 4 distractors; a start marker, then distractors up to the end marker, "
                f"except for {self.marked} symbols at uniform positions in {', '.join(places)} of "
                f"T={longest} (the start marker is position 0); length uniform in {longest}.."
                f"{self._longest()}, markers included; the class is the ordered {the_class}; one answer, at "
                "the end"
            )
        ordinals = ("first symbol stands", "second", "third")[: len(places)]
        stand = [f"the {which} in {place}" for which, place in zip(ordinals, places, strict=True)]
        return (
            f"{symbols} symbols, {distractors} distractors, an end marker; length uniform in [0.75 T, T]; "
            f"{', '.join(stand)} of the sequence; the class is the ordered {the_class}; one answer, at the "
            "end"
        )

    def _longest(self) -> int:
        """Most tokens of a sequence."""
        return self.lengths[0] * 11 // 10 if self.variant == "classic" else self.lengths[0]

    def _bag(self) -> float:
        """Knowing the symbols but not their order: all orders of a multiset are equally likely.

        So each multiset gives one right guess among the ordered tuples: count multisets, count tuples.
        """
        return math.comb(self._kinds()[0] + int(self.marked) - 1, int(self.marked)) / self.classes

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        symbols, distractors = self._kinds()
        longest, rows = self._longest(), np.arange(examples)
        classic = self.variant == "classic"
        shortest = self.lengths[0] if classic else int(np.ceil(0.75 * longest))
        lengths_B = rng.integers(shortest, longest + 1, examples)
        order_BM = rng.integers(0, symbols, (examples, int(self.marked)))
        ids_BT = rng.integers(0, distractors, (examples, longest)) + 1 + symbols
        for window, symbol_B in zip(_WINDOWS[self.marked], order_BM.T, strict=True):
            ids_BT[rows, self._positions(rng, lengths_B, *window)] = 1 + symbol_B
        if classic:
            ids_BT[:, 0] = self.vocabulary_size - 2
        ids_BT[rows, lengths_B - 1] = self.vocabulary_size - 1
        ids_BT[np.arange(longest) >= lengths_B[:, None]] = PADDING
        targets_B = np.zeros_like(lengths_B)
        for symbol_B in order_BM.T:
            targets_B = targets_B * symbols + symbol_B
        return trim(Batch(ids_BT, lengths_B, targets_B))

    def _positions(self, rng: np.random.Generator, lengths_B: Ints, start: int, end: int) -> Ints:
        """A uniform position in a window: a share of each sequence, or of T (both ends included)."""
        if self.variant == "classic":
            first, last = (self.lengths[0] * percent // 100 for percent in (start, end))
            return rng.integers(first, last + 1, len(lengths_B))
        share_B = rng.uniform(start / 100, end / 100, len(lengths_B))
        return np.floor(lengths_B * share_B).astype(np.int64)

    def oracle(self, batch: Batch) -> Ints:
        """Each marked symbol counts by how many stand after it, as digits of a number do."""
        symbols, _ = self._kinds()
        marked_BT = (batch.ids_BT >= 1) & (batch.ids_BT <= symbols)
        after_BT: Ints = np.cumsum(marked_BT[:, ::-1], axis=1)[:, ::-1] - marked_BT
        worth_BT: Ints = np.where(marked_BT, (batch.ids_BT - 1) * symbols**after_BT, 0)
        answers_B: Ints = worth_BT.sum(1)
        return answers_B

    def relevant(self, batch: Batch) -> Bools:
        """The marked symbols."""
        relevant_BT: Bools = (batch.ids_BT != PADDING) & (batch.ids_BT <= self._kinds()[0])
        return relevant_BT
