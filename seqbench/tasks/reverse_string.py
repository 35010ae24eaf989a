"""Reverse string: read a string, then say it backwards. A stack solves it, a finite memory does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqbench.batch import PADDING, UNSCORED, Batch, Bools, Ints
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card
from seqbench.tasks.formal_base import SOURCE, FormalTask, coin_tosses

ASK = 3


@register("task")
@dataclass
class ReverseString(FormalTask):
    """A string, then a query per symbol: each asks for one symbol, last one first (many-to-many).

    Example: ``a b b ? ? ?`` asks for b, b, a: classes 1 1 0 at the queries; only they are scored.
    Ids: 1 a, 2 b, 3 the query.

    >>> batch = ReverseString().sample_slice(np.random.default_rng(0), 1, value=4)
    >>> batch.ids_BT.tolist(), batch.targets.tolist()
    ([[2, 2, 2, 1, 3, 3, 3, 3]], [[-1, -1, -1, -1, 0, 1, 1, 1]])
    """

    name: str = "reverse_string"
    longest: int = setting(
        40,
        "longest string in training; lengths are uniform in 1..longest; as many queries follow",
        unit="symbols",
        minimum=4,
        maximum=1000,
    )

    @property
    def vocabulary_size(self) -> int:
        return 4

    @property
    def classes(self) -> int:
        return 2

    def cost(self) -> float:
        return float(self.longest)

    def card(self) -> Card:
        return Card(
            id=f"reverse_string/to{self.longest}",
            tests="a stack: keeping a whole string and taking it back last in, first out",
            definition=(
                f"a string of a and b, each with probability 1/2; length (symbols) uniform in "
                f"1..{self.longest}; as many query tokens follow, all alike, and the j-th asks for the j-th "
                "symbol from the end; earlier answers are not shown; loss and accuracy at the queries only, "
                "every query counts alike"
            ),
            source=f"{SOURCE}, Reverse String",
            floors={"chance": 1 / 2, "symbol counts without order": most_frequent_symbol(self.longest)},
            answers="many-to-many",
            slice_axis="length",
            trained_to=self.longest,
        )

    def draw(self, rng: np.random.Generator, lengths_B: Ints) -> Batch:
        steps_T = np.arange(2 * int(lengths_B.max()))
        n_B1 = lengths_B[:, None]
        asked_BT = (steps_T >= n_B1) & (steps_T < 2 * n_B1)
        ids_BT = rng.integers(1, 3, asked_BT.shape)
        source_BT = np.where(asked_BT, 2 * n_B1 - 1 - steps_T, 0)
        targets_BT = np.where(asked_BT, np.take_along_axis(ids_BT, source_BT, 1) - 1, UNSCORED)
        ids_BT[asked_BT] = ASK
        ids_BT[steps_T >= 2 * n_B1] = PADDING
        return Batch(ids_BT, 2 * lengths_B, targets_BT)

    def oracle(self, batch: Batch) -> Ints:
        """As many symbols as are left on the stack after taking one for each query so far."""
        ids_BT = batch.ids_BT
        query_BT = ids_BT == ASK
        left_BT = np.count_nonzero((ids_BT > 0) & ~query_BT, axis=1)[:, None] - np.cumsum(query_BT, axis=1)
        return np.take_along_axis(ids_BT, np.maximum(left_BT, 0), axis=1) - 1

    def relevant(self, batch: Batch) -> Bools:
        """The first symbol, which is said last."""
        relevant_BT: Bools = (batch.ids_BT != PADDING) & (np.arange(batch.ids_BT.shape[1]) == 0)
        return relevant_BT


def most_frequent_symbol(longest: int) -> float:
    """Exact best accuracy of a model that knows how many a's and b's there are, but not their order.

    All orders are equally likely, so the best answer to every query is the more frequent symbol: the
    expected max(k, n - k) over the expected n, as every query counts alike.

    >>> most_frequent_symbol(2)  # 1 of 1 and, on average, 1.5 of 2
    0.8333333333333334
    """
    right = asked = 0.0
    for heads_K in coin_tosses(longest):
        n = len(heads_K) - 1
        k = np.arange(n + 1)
        right += float(heads_K @ np.maximum(k, n - k))
        asked += n
    return right / asked
