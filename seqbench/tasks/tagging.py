"""Tagging: a label for every token, and the label depends on all tokens before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seqbench.batch import PADDING, UNSCORED, Batch, Ints
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask

_WORD, _OPEN, _CLOSE = range(3)  # kinds of token


@register("task")
@dataclass
class Tagging(GeneratedTask):
    """Tag each token with the number of brackets that are open after it (many-to-many).

    Ids: the words from 1 on, then the opening and the closing bracket; class = tag.

    Example, T=16, at most 3 brackets open, words a..d:

        reads    ( c ( ( b ) b ( a c ) c c ) a b
        answers  1 1 2 3 3 2 2 3 3 3 2 2 2 1 1 1
    """

    ladder: ClassVar[str | None] = "lengths"
    ladder_symbol: ClassVar[str] = "T"

    batches_at_once: ClassVar[int] = 8

    name: str = "tagging"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    lengths: list[int] = setting(
        [32], "longest sequence of each rung; lengths vary in [0.75 T, T]", unit="tokens", minimum=4
    )
    depth: int = setting(3, "most brackets open at a time; tags go from 0 to this", minimum=1, maximum=100)
    words: int = setting(4, "different words between the brackets", minimum=1, maximum=100_000)

    @property
    def vocabulary_size(self) -> int:
        return 1 + self.words + 2

    @property
    def classes(self) -> int:
        return self.depth + 1

    def cost(self) -> float:
        return float(self.lengths[0])

    def card(self) -> Card:
        return Card(
            id=f"tagging/depth{self.depth}",
            tests=(
                "keeping track of a small state at every token, as a parser does (the counts of brackets so "
                "far would do; a bag, which knows their shares only, is right in part, above the floors)"
            ),
            definition=(
                f"length uniform in [0.75 T, T], T={self.lengths[0]}; each token is a word (uniform from "
                f"{self.words}) or a bracket, half of the time each; a bracket opens when none is open, "
                f"closes when {self.depth} are, and does either with equal chance in between; brackets need "
                "not all close; the tag of a token is the number of brackets open after it"
            ),
            source=(
                "seqbench; bounded nesting (Dyck-1, depth at most D) after Hewitt et al. 2020 (2010.07515) "
                "and Yao et al. 2021 (2105.11115)"
            ),
            floors=self._floors(),
            answers="many-to-many",
            loss="cross-entropy at every token",
            slice_axis="length",
            trained_to=self.lengths[0],
        )

    def _floors(self) -> dict[str, float]:
        """Best scores of players who see nothing, the token, and the token with its position; exact."""
        joint_TKD = joint(self.lengths[0], self.depth)
        shortest = _shortest(self.lengths[0])
        longer_T = [
            1 - max(0, t + 1 - shortest) / (self.lengths[0] - shortest + 1) for t in range(len(joint_TKD))
        ]
        weighed_TKD = joint_TKD * np.array(longer_T)[:, None, None]
        tokens = weighed_TKD.sum()
        return {
            "chance": 1 / self.classes,
            "majority class": float(weighed_TKD.sum((0, 1)).max() / tokens),
            "majority per token": float(weighed_TKD.sum(0).max(1).sum() / tokens),
            "majority per token and position": float(weighed_TKD.max(2).sum() / tokens),
        }

    def slice_values(self) -> list[int]:
        """The training length, and up to eight times as much."""
        return [factor * self.lengths[0] for factor in (1, 2, 4, 8)]

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        longest = self.lengths[0]
        return self._draw(rng, rng.integers(_shortest(longest), longest + 1, examples))

    def sample_slice(self, rng: np.random.Generator, examples: int, value: int) -> Batch:
        return self._draw(rng, np.full(examples, value))

    def _draw(self, rng: np.random.Generator, lengths_B: np.ndarray) -> Batch:
        shape = (len(lengths_B), int(lengths_B.max()))
        bracket_BT = rng.random(shape) < 0.5
        coin_BT = rng.random(shape) < 0.5
        ids_BT = rng.integers(1, 1 + self.words, shape)
        tags_BT = np.zeros(shape, dtype=np.int64)
        open_B = np.zeros(len(lengths_B), dtype=np.int64)
        for t in range(shape[1]):
            opens_B = (open_B == 0) | ((open_B < self.depth) & coin_BT[:, t])
            open_B = open_B + bracket_BT[:, t] * np.where(opens_B, 1, -1)
            tags_BT[:, t] = open_B
        before_BT = np.pad(tags_BT, ((0, 0), (1, 0)))[:, :-1]
        ids_BT[tags_BT > before_BT] = self.words + _OPEN
        ids_BT[tags_BT < before_BT] = self.words + _CLOSE
        padding_BT = np.arange(shape[1]) >= lengths_B[:, None]
        ids_BT[padding_BT], tags_BT[padding_BT] = PADDING, UNSCORED
        return Batch(ids_BT, lengths_B, tags_BT)

    def oracle(self, batch: Batch) -> Ints:
        """Brackets opened so far less brackets closed so far."""
        open_BT: Ints = np.cumsum(batch.ids_BT == self.words + _OPEN, axis=1)
        open_BT -= np.cumsum(batch.ids_BT == self.words + _CLOSE, axis=1)
        return open_BT


def _shortest(longest: int) -> int:
    return int(np.ceil(0.75 * longest))


def joint(length: int, depth: int) -> np.ndarray:
    """Probability ``(T, 3, depth + 1)`` of each kind of token (word, open, close) with each tag.

    >>> joint(2, 1)[1].tolist()
    [[0.25, 0.25], [0.0, 0.25], [0.25, 0.0]]
    """
    table_TKD = np.zeros((length, 3, depth + 1))
    now_D = np.eye(depth + 1)[0]
    opens_D = np.full(depth + 1, 0.5)  # chance that a bracket opens
    opens_D[0], opens_D[-1] = 1, 0
    for table_KD in table_TKD:
        table_KD[_WORD] = now_D / 2
        table_KD[_OPEN, 1:] = (now_D * opens_D / 2)[:-1]
        table_KD[_CLOSE, :-1] = (now_D * (1 - opens_D) / 2)[1:]
        now_D = table_KD.sum(0)
    return table_TKD
