"""What the formal-language tasks share: short strings in training, longer ones in extra test sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqbench.batch import PADDING, Batch, Ints
from seqbench.schema import setting
from seqbench.tasks.base import GeneratedTask

SOURCE = "Deletang et al. 2023 (2207.02098), appendix A.3"


@dataclass
class FormalTask(GeneratedTask):
    """Lengths are uniform in 1..longest; the slices have one length each, up to four times the longest.

    A subclass implements :meth:`draw`, the two sizes and the card.
    """

    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    longest: int = setting(
        40,
        "longest string in training; lengths are uniform in 1..longest",
        unit="tokens",
        minimum=4,
        maximum=1000,
    )

    def draw(self, rng: np.random.Generator, lengths_B: Ints) -> Batch:
        """Draw one example of each length."""
        raise NotImplementedError

    def cost(self) -> float:
        return self.longest / 2

    def slice_values(self) -> list[int]:
        """Lengths from a quarter of the longest to eight times it."""
        return [self.longest * quarters // 4 for quarters in (1, 2, 4, 6, 8, 12, 16, 32)]

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        return self.draw(rng, rng.integers(1, self.longest + 1, examples))

    def sample_slice(self, rng: np.random.Generator, examples: int, value: int) -> Batch:
        return self.draw(rng, np.full(examples, value, dtype=np.int64))


def symbols(rng: np.random.Generator, lengths_B: Ints, kinds: int) -> Ints:
    """Strings of ids 1..kinds, each id equally likely, with padding after them."""
    longest = int(lengths_B.max())
    ids_BT = rng.integers(1, kinds + 1, (len(lengths_B), longest))
    ids_BT[np.arange(longest) >= lengths_B[:, None]] = PADDING
    return ids_BT


def coin_tosses(longest: int) -> Iterator[npt.NDArray[np.float64]]:
    """For n = 1..longest the probabilities of 0..n heads in n tosses of a fair coin.

    >>> [row.tolist() for row in coin_tosses(2)]
    [[0.5, 0.5], [0.25, 0.5, 0.25]]
    """
    row = np.ones(1)
    for _ in range(longest):
        row = np.convolve(row, [0.5, 0.5])
        yield row
