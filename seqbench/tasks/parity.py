"""Parity: is a symbol there an even number of times? One bit of memory, which every token may flip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqbench.batch import Batch, Ints
from seqbench.registry import register
from seqbench.tasks.base import Card
from seqbench.tasks.formal_base import SOURCE, FormalTask, symbols


@register("task")
@dataclass
class Parity(FormalTask):
    """Is the number of b's even? One missed token makes the answer a coin toss (many-to-one).

    Example: ``a b b a b`` holds three b's, so its class is 1 (odd). Ids: 1 a, 2 b.

    >>> batch = Parity().sample_slice(np.random.default_rng(0), 1, value=5)
    >>> batch.ids_BT.tolist(), batch.targets.tolist()
    ([[2, 2, 2, 1, 1]], [1])
    """

    name: str = "parity"

    @property
    def vocabulary_size(self) -> int:
        return 3

    @property
    def classes(self) -> int:
        return 2

    def card(self) -> Card:
        return Card(
            id=f"parity/to{self.longest}",
            tests="counting modulo 2: a state that every token may flip, at any length",
            definition=(
                f"a string of a and b, each with probability 1/2; length uniform in 1..{self.longest}; class "
                "0 if the number of b's is even, else 1; one answer, at the last symbol (no end marker)"
            ),
            source=f"{SOURCE}, Parity Check",
            # Whoever misses one token is at chance, exactly; whoever counts the b's has solved it.
            floors={"chance": 1 / 2},
            slice_axis="length",
            trained_to=self.longest,
        )

    def draw(self, rng: np.random.Generator, lengths_B: Ints) -> Batch:
        ids_BT = symbols(rng, lengths_B, 2)
        return Batch(ids_BT, lengths_B, (ids_BT == 2).sum(1) % 2)

    def oracle(self, batch: Batch) -> Ints:
        """Flip once for every b."""
        odd_B: Ints = np.logical_xor.reduce(batch.ids_BT == 2, axis=1).astype(np.int64)
        return odd_B
