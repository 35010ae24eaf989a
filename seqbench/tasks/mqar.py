"""Multi-query associative recall: look up the values of keys seen before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seqbench.batch import PADDING, UNSCORED, Batch, Bools, Ints, trim
from seqbench.errors import UsageError
from seqbench.floors import most_frequent_share
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask


@register("task")
@dataclass
class MQAR(GeneratedTask):
    """Key-value pairs, then queries; each query asks for its key's value (many-to-many).

    Example with 3 pairs: ``k7 v2  k1 v5  k4 v2 | k1 k7 k7 k4 ...`` asks ``v5 v2 v2 v2 ...``; only the
    queries are scored.
    """

    ladder: ClassVar[str | None] = "pairs"
    ladder_symbol: ClassVar[str] = "K"

    name: str = "mqar"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    pairs: list[int] = setting([8], "key-value pairs of each rung", minimum=1, maximum=500)
    keys: int = setting(16, "different keys", minimum=1)
    values: int = setting(8, "different values, drawn with replacement", minimum=2)
    queries: int = setting(
        32, "most queries in a sequence; their number varies in [0.75, 1] of it", minimum=1
    )

    @property
    def vocabulary_size(self) -> int:
        return 1 + self.keys + self.values

    @property
    def classes(self) -> int:
        return self.values

    def check(self) -> None:
        """A key is used once per sequence, so there must be enough of them."""
        if max(self.pairs, default=0) > self.keys:
            raise UsageError(
                f"task.pairs={max(self.pairs)}: needs as many keys; raise task.keys (now {self.keys})"
            )

    def cost(self) -> float:
        return float(2 * self.pairs[0] + self.queries)

    def card(self) -> Card:
        return Card(
            id=f"mqar/{self.pairs[0]}pairs",
            tests="recall: binding each value to its key",
            definition=(
                f"{self.pairs[0]} pairs of {self.keys} keys (without replacement) and {self.values} values "
                f"(with), then up to {self.queries} queries drawn from the keys shown; loss and accuracy "
                "at the queries only"
            ),
            source="Zoology, Arora et al. 2023 (2312.04927), section 3, at small size",
            floors={
                "chance": 1 / self.values,
                "values without binding": most_frequent_share(self.pairs[0], self.values),
            },
            answers="many-to-many",
            slice_axis="number of pairs",
            trained_to=self.pairs[0],
        )

    def slice_values(self) -> list[int]:
        """Half and double as many pairs, and so on, as far as there are keys."""
        return [
            pairs
            for pairs in (1, 2, 4, 8, 16, 32, 64, 128, 256)
            if pairs <= min(self.keys, 4 * self.pairs[0])
        ]

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        return self.sample_slice(rng, examples, self.pairs[0])

    def sample_slice(self, rng: np.random.Generator, examples: int, value: int) -> Batch:
        pairs = value
        keys_BK = rng.permuted(np.tile(np.arange(self.keys), (examples, 1)), axis=1)[:, :pairs]
        values_BK = rng.integers(0, self.values, (examples, pairs))
        queries_B = rng.integers(int(np.ceil(0.75 * self.queries)), self.queries + 1, examples)
        asked_BQ = rng.integers(0, pairs, (examples, self.queries))
        valid_BQ = np.arange(self.queries) < queries_B[:, None]
        shown_BT = np.stack([1 + keys_BK, 1 + self.keys + values_BK], axis=2).reshape(examples, -1)
        rows = np.arange(examples)[:, None]
        ids_BQ = np.where(valid_BQ, 1 + keys_BK[rows, asked_BQ], PADDING)
        answers_BQ = np.where(valid_BQ, values_BK[rows, asked_BQ], UNSCORED)
        ids_BT = np.concatenate([shown_BT, ids_BQ], axis=1)
        targets_BT = np.concatenate([np.full_like(shown_BT, UNSCORED), answers_BQ], axis=1)
        return trim(Batch(ids_BT, 2 * pairs + queries_B, targets_BT))

    def oracle(self, batch: Batch) -> Ints:
        """Write down each value under the key before it, then look every key up."""
        ids_BT, rows = batch.ids_BT, np.arange(len(batch.ids_BT))[:, None]
        row, place = np.nonzero(ids_BT > self.keys)
        table_BK = np.zeros((len(ids_BT), self.vocabulary_size), dtype=np.int64)
        table_BK[row, ids_BT[row, place - 1]] = ids_BT[row, place] - 1 - self.keys
        return table_BK[rows, ids_BT]

    def relevant(self, batch: Batch) -> Bools:
        """The pair whose key is the last query: its key and its value."""
        ids_BT = batch.ids_BT
        last_B1 = np.take_along_axis(ids_BT, batch.lengths_B[:, None] - 1, axis=1)
        before_value_BT = np.pad(ids_BT[:, 1:] > self.keys, ((0, 0), (0, 1)))
        key_BT = (ids_BT == last_B1) & before_value_BT
        relevant_BT: Bools = key_BT | np.pad(key_BT[:, :-1], ((0, 0), (1, 0)))
        return relevant_BT
