"""Selective copying: keep the symbols, forget the blanks between them, and say the symbols in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seqbench.batch import UNSCORED, Batch, Bools, Ints
from seqbench.errors import UsageError
from seqbench.floors import most_frequent_share
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask


@register("task")
@dataclass
class SelectiveCopy(GeneratedTask):
    """Symbols scattered among blanks, then the same symbols again in order (many-to-many).

    Ids: the symbols from 1 on, then blank, delimiter, query; class = id - 1.

    Example, T=12, 4 symbols of a..h, blank ``.``, delimiter ``|``, query ``?``, ``-`` where nothing is asked:

        reads    g . . . d . . . . c f . | ? ? ? ?
        answers  - - - - - - - - - - - - - g d c f
    """

    ladder: ClassVar[str | None] = "lengths"
    ladder_symbol: ClassVar[str] = "T"

    name: str = "selective_copy"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    lengths: list[int] = setting(
        [32], "positions of each rung among which the symbols stand", unit="tokens", minimum=1
    )
    items: int = setting(4, "symbols to copy", minimum=1, maximum=1000)
    symbols: int = setting(8, "different symbols, drawn with replacement", minimum=2, maximum=1000)

    @property
    def vocabulary_size(self) -> int:
        return 1 + self.symbols + 3

    @property
    def classes(self) -> int:
        return self.symbols

    def check(self) -> None:
        """Every symbol needs a position of its own."""
        if self.items > min(self.lengths, default=self.items):
            raise UsageError(
                f"task.lengths={min(self.lengths)}: has no room for task.items={self.items}; raise it"
            )

    def cost(self) -> float:
        return float(self.lengths[0] + 1 + self.items)

    def card(self) -> Card:
        return Card(
            id=f"selective_copy/{self.items}of{self.symbols}",
            tests="keeping what matters in order and skipping the rest, at gaps that differ each time",
            definition=(
                f"{self.items} symbols, each uniform from {self.symbols}, at distinct uniform positions "
                f"among {self.lengths[0]}, blanks at the others; a delimiter; {self.items} query tokens, at "
                "which the symbols are asked for in order"
            ),
            source=(
                "after Gu & Dao 2023, Mamba (2312.00752), section 4.1.1 (16 of 16 symbols, length 4096), and "
                "Jing et al. 2019, Gated Orthogonal Recurrent Units, denoising; at small size"
            ),
            floors={
                "chance": 1 / self.symbols,
                "bag of symbols": most_frequent_share(self.items, self.symbols),
            },
            answers="many-to-many",
            loss="cross-entropy at the query tokens; nothing before them is trained or scored",
        )

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        length = self.lengths[0]
        blank, delimiter, query = self.symbols + 1, self.symbols + 2, self.symbols + 3
        places_BT = rng.permuted(np.tile(np.arange(length), (examples, 1)), axis=1)
        places_BK = np.sort(places_BT[:, : self.items], axis=1)
        symbols_BK = rng.integers(0, self.symbols, (examples, self.items))
        ids_BT = np.full((examples, length + 1 + self.items), query)
        ids_BT[:, :length] = blank
        ids_BT[np.arange(examples)[:, None], places_BK] = 1 + symbols_BK
        ids_BT[:, length] = delimiter
        targets_BT = np.full_like(ids_BT, UNSCORED)
        targets_BT[:, length + 1 :] = symbols_BK
        return Batch(ids_BT, np.full(examples, ids_BT.shape[1]), targets_BT)

    def oracle(self, batch: Batch) -> Ints:
        """The n-th query asks for the n-th token that is a symbol."""
        ids_BT = batch.ids_BT
        symbols_first_BT = np.argsort(ids_BT > self.symbols, axis=1, kind="stable")
        nth_BT = np.cumsum(ids_BT == self.symbols + 3, axis=1) - 1
        asked_BT = np.take_along_axis(symbols_first_BT, np.maximum(nth_BT, 0), axis=1)
        return np.take_along_axis(ids_BT, asked_BT, axis=1) - 1

    def relevant(self, batch: Batch) -> Bools:
        """The last symbol."""
        symbol_BT = batch.ids_BT <= self.symbols
        relevant_BT: Bools = symbol_BT & (np.cumsum(symbol_BT, axis=1) == self.items)
        return relevant_BT
