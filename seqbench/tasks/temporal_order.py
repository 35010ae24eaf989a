"""Temporal order: which symbol came first? A long-memory task that a bag of tokens cannot solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seqbench.batch import Batch, trim
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask


@register("task")
@dataclass
class TemporalOrder(GeneratedTask):
    """Two marked symbols among distractors; the class is their ordered pair (many-to-one).

    Example, T=16, symbols A B C, distractors a..f, end marker $:
    ``d a B f e c a b A c e d f $`` has the class (B, A), number 3 of 9.
    """

    ladder: ClassVar[str | None] = "lengths"
    ladder_symbol: ClassVar[str] = "T"

    name: str = "temporal_order"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    lengths: list[int] = setting(
        [16, 32, 64, 128],
        "longest sequence of each rung; lengths vary in [0.75 T, T]",
        unit="tokens",
        minimum=8,
    )
    symbols: int = setting(3, "different marked symbols; classes = symbols squared", minimum=2, maximum=50)
    distractors: int = setting(6, "different distractor tokens", minimum=1, maximum=1000)

    @property
    def vocabulary_size(self) -> int:
        return 1 + self.symbols + self.distractors + 1

    @property
    def classes(self) -> int:
        return self.symbols**2

    def cost(self) -> float:
        return float(self.lengths[0])

    def card(self) -> Card:
        return Card(
            id="temporal_order/ladder",
            tests="keeping the order of two symbols over a long stretch of distractors",
            definition=(
                f"{self.symbols} symbols, {self.distractors} distractors, an end marker; length uniform in "
                "[0.75 T, T]; the first symbol stands in 10-20 %, the second in 50-60 % of the sequence; "
                "the class is the ordered pair; one answer, at the end"
            ),
            source="after Hochreiter & Schmidhuber 1997, experiment 6a, with variable length",
            floors={"chance": 1 / self.classes, "bag of tokens": self._bag()},
        )

    def _bag(self) -> float:
        """Knowing both symbols but not their order: equal pairs are certain, others a coin toss."""
        return (1 + 1 / self.symbols) / 2

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        longest = self.lengths[0]
        lengths_B = rng.integers(int(np.ceil(0.75 * longest)), longest + 1, examples)
        pair_B2 = rng.integers(0, self.symbols, (examples, 2))
        ids_BT = rng.integers(0, self.distractors, (examples, longest)) + 1 + self.symbols
        rows = np.arange(examples)
        ids_BT[rows, _position(rng, lengths_B, 0.1, 0.2)] = 1 + pair_B2[:, 0]
        ids_BT[rows, _position(rng, lengths_B, 0.5, 0.6)] = 1 + pair_B2[:, 1]
        ids_BT[rows, lengths_B - 1] = self.vocabulary_size - 1
        ids_BT[np.arange(longest) >= lengths_B[:, None]] = 0
        return trim(Batch(ids_BT, lengths_B, pair_B2[:, 0] * self.symbols + pair_B2[:, 1]))


def _position(rng: np.random.Generator, lengths_B: np.ndarray, start: float, end: float) -> np.ndarray:
    """A uniform position in ``[start, end)`` of each sequence."""
    return np.floor(lengths_B * rng.uniform(start, end, len(lengths_B))).astype(np.int64)
