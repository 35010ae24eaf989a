"""Cycle navigation: where does a walk on a cycle of five places end?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqbench.batch import Batch, Ints
from seqbench.registry import register
from seqbench.tasks.base import Card
from seqbench.tasks.formal_base import SOURCE, FormalTask, symbols

PLACES = 5
MOVES = (0, 0, 1, -1)  # by id: padding, stay, forward, back


@register("task")
@dataclass
class CycleNavigation(FormalTask):
    """Where on a cycle of 5 does a walk of steps 0, +1 and -1 end that starts at 0 (many-to-one)?

    Example: ``0 +1 0 -1 -1`` ends at -1, which is place 4 of 0..4. Ids: 1 stay (0), 2 forward (+1),
    3 back (-1).

    >>> batch = CycleNavigation().sample_slice(np.random.default_rng(1), 1, value=5)
    >>> batch.ids_BT.tolist(), batch.targets.tolist()
    ([[2, 2, 3, 3, 1]], [0])
    """

    name: str = "cycle_navigation"

    @property
    def vocabulary_size(self) -> int:
        return len(MOVES)

    @property
    def classes(self) -> int:
        return PLACES

    def card(self) -> Card:
        return Card(
            id=f"cycle_navigation/to{self.longest}",
            tests="counting modulo 5 in both directions, at any length",
            definition=(
                "a string of moves 0, +1 and -1, each with probability 1/3; length uniform in "
                f"1..{self.longest}; the class is the sum of the moves modulo 5; one answer, at the last "
                "move (no end marker)"
            ),
            source=f"{SOURCE}, Cycle Navigation",
            floors={"chance": 1 / PLACES, "majority class": share_at_start(self.longest)},
            slice_axis="length",
            trained_to=self.longest,
        )

    def draw(self, rng: np.random.Generator, lengths_B: Ints) -> Batch:
        ids_BT = symbols(rng, lengths_B, 3)
        return Batch(ids_BT, lengths_B, np.take(MOVES, ids_BT).sum(1) % PLACES)

    def oracle(self, batch: Batch) -> Ints:
        """Steps forward less steps back."""
        place_B: Ints = np.count_nonzero(batch.ids_BT == 2, axis=1)
        place_B -= np.count_nonzero(batch.ids_BT == 3, axis=1)
        return place_B % PLACES


def share_at_start(longest: int) -> float:
    """Exact share of walks that end where they began: the likeliest place at every length.

    So it is also the best that a model can do that knows only the length.

    >>> round(share_at_start(2), 6)  # 1/3 after one move, 3/9 after two
    0.333333
    """
    place_P = np.eye(PLACES)[0]
    total = 0.0
    for _ in range(longest):
        place_P = (place_P + np.roll(place_P, 1) + np.roll(place_P, -1)) / 3
        total += float(place_P[0])
    return total / longest
