"""Induction: what followed this token the last time? How it is trained decides who is good at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from seqbench.batch import UNSCORED, Batch, Bools, Ints, TokenRows
from seqbench.floors import most_frequent_share
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.seeds import stream
from seqbench.tasks.base import Card, Data, FixedData, GeneratedTask


@register("task")
@dataclass
class Induction(GeneratedTask):
    """A trigger, the token after it, noise, the trigger again: which token followed? (many-to-one).

    ``protocol=answer`` draws every sequence afresh and trains on the answer alone. ``protocol=all`` trains on
    the next token at every position of a fixed set, as language models are trained (many-to-many); what
    counts is still the answer. The two rank architectures differently, so they have different ids.

    Ids: the ordinary tokens from 1 on, then the trigger; class = id - 1.

    Example, protocol=answer, T=12, ordinary tokens a..r, trigger ``$``, ``-`` where nothing is asked:

        reads    o q a f n n d c r $ m $
        answers  - - - - - - - - - - - m
    """

    ladder: ClassVar[str | None] = "lengths"
    ladder_symbol: ClassVar[str] = "T"

    name: str = "induction"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    protocol: str = setting(
        "answer",
        "answer: fresh sequences, loss at the answer; all: a fixed set, loss on the next token everywhere",
        choices=("answer", "all"),
    )
    lengths: list[int] = setting(
        [32], "tokens of a sequence of each rung, both triggers included", unit="tokens", minimum=3
    )
    symbols: int = setting(18, "different ordinary tokens: V - 2 of the papers", minimum=2, maximum=100_000)
    examples: int = setting(5_000, "sequences of the fixed training set (protocol=all)", minimum=1)
    held_out_examples: int = setting(
        500, "sequences of the fixed validation and test sets each (protocol=all)", minimum=1
    )

    @property
    def vocabulary_size(self) -> int:
        return 1 + self.symbols + 1

    @property
    def classes(self) -> int:
        """The ordinary tokens; as next token everywhere the trigger is possible too."""
        return self.symbols if self.protocol == "answer" else self.symbols + 1

    def cost(self) -> float:
        return float(self.lengths[0])

    def card(self) -> Card:
        fresh = self.protocol == "answer"
        length = self.lengths[0]
        floors = {
            "chance": 1 / self.classes,
            "ordinary tokens": 1 / self.symbols,
            "bag of tokens": most_frequent_share(length - 2, self.symbols),
        }
        if fresh:
            del floors["ordinary tokens"]  # the same as chance
        return Card(
            id=f"induction/{self.protocol}/{self.symbols}tokens"
            + ("" if fresh else f"-{self.examples}examples"),
            tests="looking up what followed the same token before",
            definition=(
                f"{length} tokens, uniform from {self.symbols}; a trigger token replaces one of the first "
                f"{length - 2} and the last; the answer, asked at the last, is the token after the first "
                "trigger" + ("" if fresh else self._fixed())
            ),
            source=(
                "Olsson et al. 2022, In-context Learning and Induction Heads; "
                + (
                    "fresh data and answer only as in Mamba (2312.00752), section 4.1.2"
                    if fresh
                    else "fixed data as in H3 (2212.14052), section 3.1, and safari, with one trigger"
                )
                + ", at small size"
            ),
            floors=floors,
            answers="many-to-one" if fresh else "many-to-many",
            loss="cross-entropy at the answer"
            if fresh
            else "cross-entropy of the next token at every position; held-out scores count the answer alone",
            slice_axis="length" if fresh else "",
            trained_to=length if fresh else None,
        )

    def _fixed(self) -> str:
        return (
            f". {self.examples:,} training sequences and {self.held_out_examples:,} each for validation and "
            "test are drawn once from the run's seed. An encoder that reads both directions sees the next "
            "token while it is trained, but not at the answer"
        )

    def slice_values(self) -> list[int]:
        """The training length, and up to eight times as much."""
        return [factor * self.lengths[0] for factor in (1, 2, 4, 8)] if self.protocol == "answer" else []

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        return self.sample_slice(rng, examples, self.lengths[0])

    def sample_slice(self, rng: np.random.Generator, examples: int, value: int) -> Batch:
        ids_BT, answers_B = self._draw(rng, examples, value)
        return Batch(ids_BT, np.full(examples, value), answers_B)

    def _draw(self, rng: np.random.Generator, examples: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids ``(B, T)`` and the class of the token after the first trigger ``(B,)``."""
        rows, trigger = np.arange(examples), self.symbols + 1
        ids_BT = rng.integers(1, trigger, (examples, length))
        first_B = rng.integers(0, length - 2, examples)
        ids_BT[rows, first_B] = trigger
        ids_BT[:, -1] = trigger
        return ids_BT, ids_BT[rows, first_B + 1] - 1

    def oracle(self, batch: Batch) -> Ints:
        """Look back for the trigger; with ``protocol=all`` read ahead everywhere else."""
        ids_BT = batch.ids_BT
        first_B1 = (ids_BT == self.symbols + 1).argmax(1)[:, None]
        answers_B1 = np.take_along_axis(ids_BT, first_B1 + 1, axis=1) - 1
        if self.protocol == "answer":
            return answers_B1[:, 0]
        return np.concatenate([ids_BT[:, 1:] - 1, answers_B1], axis=1)

    def relevant(self, batch: Batch) -> Bools:
        """The first trigger and the token after it."""
        trigger_BT = batch.ids_BT == self.symbols + 1
        first_BT = trigger_BT & (np.cumsum(trigger_BT, axis=1) == 1)
        relevant_BT: Bools = first_BT | np.pad(first_BT[:, :-1], ((0, 0), (1, 0)))
        return relevant_BT

    def open(self, seed: int, cache: Path) -> Data:
        if self.protocol == "answer":
            return super().open(seed, cache)
        splits = {
            "train": self._rows(stream(seed, "train"), self.examples, everywhere=True),
            "valid": self._rows(stream(seed, "valid"), self.held_out_examples, everywhere=False),
            "test": self._rows(stream(seed, "test"), self.held_out_examples, everywhere=False),
        }
        return FixedData(splits, self.vocabulary_size, self.classes, seed)

    def _rows(self, rng: np.random.Generator, examples: int, *, everywhere: bool) -> TokenRows:
        """Sequences of one length with a target per position: the next token, or at the end alone."""
        length = self.lengths[0]
        ids_NT, answers_N = self._draw(rng, examples, length)
        targets_NT = np.full_like(ids_NT, UNSCORED)
        if everywhere:
            targets_NT[:, :-1] = ids_NT[:, 1:] - 1
        targets_NT[:, -1] = answers_N
        return TokenRows(ids_NT.reshape(-1), np.arange(examples + 1) * length, targets_NT)
