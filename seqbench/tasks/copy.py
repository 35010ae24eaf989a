"""Copying memory: hold ten symbols through a stretch of blanks, then say them in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seqbench.batch import PADDING, UNSCORED, Batch, Bools, Ints
from seqbench.floors import most_frequent_share
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask

SYMBOLS = 8
ITEMS = 10  # symbols to hold, as in every paper
BLANK, DELIMITER = SYMBOLS + 1, SYMBOLS + 2
_SOURCES = {
    "urnn": "Arjovsky, Shah & Bengio 2016 (1511.06464), section 5.1; "
    "only its last 10 positions are scored here",
    "tcn": "Bai, Kolter & Koltun 2018 (1803.01271), section 4, data as in its code "
    "(TCN/copy_memory/utils.py); only its last 10 positions are scored here",
}


@register("task")
@dataclass
class Copy(GeneratedTask):
    """Ten symbols, T blanks, then the ten symbols again in order (many-to-many).

    Ids: 1..8 the symbols, 9 blank, 10 delimiter; class = id - 1.

    Example, variant=urnn, T=4, symbols a..h, blank ``.``, delimiter ``|``, ``-`` where nothing is asked:

        reads    g h a c g f b b h d . . . | . . . . . . . . . .
        answers  - - - - - - - - - - - - - - g h a c g f b b h d
    """

    ladder: ClassVar[str | None] = "blanks"
    ladder_symbol: ClassVar[str] = "T"

    name: str = "copy"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    variant: str = setting(
        "urnn",
        "urnn: one delimiter, blanks while answering; tcn: eleven delimiters, ten of them while answering",
        choices=("urnn", "tcn"),
    )
    blanks: list[int] = setting(
        [20, 50],
        "T of the papers, for each rung: T - 1 blanks, then the delimiter; a sequence has T + 20 tokens",
        unit="tokens",
        minimum=1,
    )

    @property
    def vocabulary_size(self) -> int:
        return 1 + SYMBOLS + 2

    @property
    def classes(self) -> int:
        return SYMBOLS

    def cost(self) -> float:
        return float(self.blanks[0] + 2 * ITEMS)

    def card(self) -> Card:
        longest = self.blanks[0]
        asking = "ten blanks" if self.variant == "urnn" else "ten more delimiters"
        return Card(
            id=f"copy/{self.variant}/answers",
            tests="holding ten symbols in order over a stretch of blanks",
            definition=(
                f"10 symbols, uniform from 8; {longest - 1} blanks; a delimiter; {asking}, at which the 10 "
                f"symbols are asked for in order (T={longest}, {longest + 2 * ITEMS} tokens). Scored here: "
                "those 10 answers alone, whose cross-entropy without memory is ln 8 = 2.079. Published "
                "figures average over all T+20 positions, blanks included, where the same ignorance has "
                f"10 ln 8/(T+20) = {ITEMS * np.log(SYMBOLS) / (longest + 2 * ITEMS):.4g}: not comparable"
            ),
            source=_SOURCES[self.variant],
            floors={"chance": 1 / SYMBOLS, "bag of symbols": most_frequent_share(ITEMS, SYMBOLS)},
            answers="many-to-many",
            loss="cross-entropy at the last 10 positions; the T + 10 before are neither trained nor scored",
        )

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        symbols_BK = rng.integers(0, SYMBOLS, (examples, ITEMS))
        asking = BLANK if self.variant == "urnn" else DELIMITER
        ids_BT = np.full((examples, self.blanks[0] + 2 * ITEMS), BLANK)
        ids_BT[:, :ITEMS] = 1 + symbols_BK
        ids_BT[:, -ITEMS - 1] = DELIMITER
        ids_BT[:, -ITEMS:] = asking
        targets_BT = np.full_like(ids_BT, UNSCORED)
        targets_BT[:, -ITEMS:] = symbols_BK
        return Batch(ids_BT, np.full(examples, ids_BT.shape[1]), targets_BT)

    def oracle(self, batch: Batch) -> Ints:
        """The n-th token after the first delimiter asks for the n-th of the sequence."""
        asked_B = 1 + (batch.ids_BT == DELIMITER).argmax(1)
        nth_BT = np.arange(batch.ids_BT.shape[1]) - asked_B[:, None]
        return np.take_along_axis(batch.ids_BT, np.maximum(nth_BT, 0), axis=1) - 1

    def relevant(self, batch: Batch) -> Bools:
        """The last of the ten symbols."""
        relevant_BT: Bools = (batch.ids_BT != PADDING) & (np.arange(batch.ids_BT.shape[1]) == ITEMS - 1)
        return relevant_BT
