"""Even pairs: is the number of changes even? Only the first and the last symbol matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqbench.batch import PADDING, Batch, Bools, Ints
from seqbench.registry import register
from seqbench.tasks.base import Card
from seqbench.tasks.formal_base import SOURCE, FormalTask, coin_tosses, symbols


@register("task")
@dataclass
class EvenPairs(FormalTask):
    """Is the number of pairs ab and ba even, that is, are first and last symbol equal (many-to-one)?

    Example: ``a a b b a`` holds one ab and one ba, so its class is 0 (even). Ids: 1 a, 2 b.

    >>> batch = EvenPairs().sample_slice(np.random.default_rng(0), 1, value=5)
    >>> batch.ids_BT.tolist(), batch.targets.tolist()
    ([[2, 2, 2, 1, 1]], [1])
    """

    name: str = "even_pairs"

    @property
    def vocabulary_size(self) -> int:
        return 3

    @property
    def classes(self) -> int:
        return 2

    def card(self) -> Card:
        return Card(
            id=f"even_pairs/to{self.longest}",
            tests="keeping the first symbol to the end, whatever comes between",
            definition=(
                f"a string of a and b, each with probability 1/2; length uniform in 1..{self.longest}; class "
                "0 if the number of neighbours ab and ba is even (first and last symbol are equal), else 1; "
                "one answer, at the last symbol (no end marker)"
            ),
            source=f"{SOURCE}, Even Pairs",
            floors={
                "chance": 1 / 2,
                "majority class": (1 + 1 / self.longest) / 2,  # a single symbol equals itself
                "symbol counts without order": equal_ends_from_counts(self.longest),
            },
            slice_axis="length",
            trained_to=self.longest,
        )

    def draw(self, rng: np.random.Generator, lengths_B: Ints) -> Batch:
        ids_BT = symbols(rng, lengths_B, 2)
        last_B = ids_BT[np.arange(len(lengths_B)), lengths_B - 1]
        return Batch(ids_BT, lengths_B, (ids_BT[:, 0] != last_B).astype(np.int64))

    def oracle(self, batch: Batch) -> Ints:
        """Count the changes."""
        here_BT, next_BT = batch.ids_BT[:, :-1], batch.ids_BT[:, 1:]
        changes_B: Ints = np.count_nonzero((here_BT != next_BT) & (next_BT != PADDING), axis=1)
        return changes_B % 2

    def relevant(self, batch: Batch) -> Bools:
        """The first and the last symbol; none where they are one, which equals itself whatever it is."""
        steps_T, last_B1 = np.arange(batch.ids_BT.shape[1]), batch.lengths_B[:, None] - 1
        relevant_BT: Bools = ((steps_T == 0) | (steps_T == last_B1)) & (last_B1 > 0)
        return relevant_BT


def equal_ends_from_counts(longest: int) -> float:
    """Exact best accuracy of a model that knows how many a's and b's there are, but not their order.

    All orders of k b's among n symbols are equally likely, so P(ends equal) = (k(k-1) + (n-k)(n-k-1)) /
    (n(n-1)); the best answer is the likelier one. Averaged over k (coin tosses) and n in 1..longest.

    >>> equal_ends_from_counts(3)  # n = 1 and 2 are certain; of n = 3, counts 1 and 2 are right in 2/3
    0.9166666666666666
    """
    total = 1.0  # a single symbol
    for heads_K in list(coin_tosses(longest))[1:]:
        n = len(heads_K) - 1
        k = np.arange(n + 1)
        equal_K = (k * (k - 1) + (n - k) * (n - k - 1)) / (n * (n - 1))
        total += float(heads_K @ np.maximum(equal_K, 1 - equal_K))
    return total / longest
