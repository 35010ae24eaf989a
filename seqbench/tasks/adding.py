"""The adding problem: keep two marked numbers over a long time, and add them. Three tasks of one name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from seqbench.batch import Batch, Bools, Ints
from seqbench.errors import UsageError
from seqbench.metric import SQUARED_ERROR
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask

_VALUE, _MARKER = 0, 1  # the two features of every step
_FIRST_STEPS = 10  # one of these is marked, in the variant of 1997
_SHORTEST_OF_1997 = 2 * _FIRST_STEPS  # they all lie in the first half
_DEFINITIONS = {
    "arjovsky": (
        "T steps of a value uniform in [0, 1) and a marker, 1 at one step of the first half and at one of "
        "the second, else 0; the target is the sum of the two marked values"
    ),
    "tcn": (
        "T steps of a value uniform in [0, 1) and a marker, 1 at two different steps anywhere, else 0; the "
        "target is the sum of the two marked values"
    ),
    "hochreiter": (
        "a length uniform in T..1.1 T; values uniform in [-1, 1); marked (1) are one of the first ten steps "
        "and one of the first T/2 - 1 others; the first and the last step carry the marker -1 unless marked, "
        "and a marked first step has the value 0; the target is 0.5 + (X1 + X2) / 4"
    ),
}
_SOURCES = {
    "arjovsky": "Arjovsky et al. 2016, Unitary Evolution Recurrent Neural Networks (1511.06464), section 5.2",
    "tcn": "Bai et al. 2018 (1803.01271), section 4 and its code",
    "hochreiter": "Hochreiter & Schmidhuber 1997, experiment 4",
}


@register("task")
@dataclass
class Adding(GeneratedTask):
    """Add the two marked numbers of a long sequence (many-to-one, real inputs, regression).

    Example, T=6: values ``.3 .8 .1 .5 .9 .2`` with markers ``0 1 0 0 1 0`` have the target .8 + .9 = 1.7.
    Ids are 1 at every step: they only say where a sequence ends.

    >>> batch = Adding(lengths=[8]).sample(np.random.default_rng(0), 1)
    >>> round(float(batch.values_BTF.prod(2).sum()), 4), batch.targets.round(4).tolist()
    (0.8672, [0.8672])
    """

    ladder: ClassVar[str | None] = "lengths"
    ladder_symbol: ClassVar[str] = "T"
    vocabulary_size: ClassVar[int] = 2
    classes: ClassVar[int] = 1

    name: str = "adding"
    variant: str = setting(
        "arjovsky", "where the markers stand and how values are drawn", choices=tuple(_DEFINITIONS)
    )
    solved_at: float | None = setting(
        0.01, "held-out mean squared error, twice in a row, that counts as solved; null: never",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    lengths: list[int] = setting(
        [50], "steps of each rung (hochreiter: the shortest)", unit="steps", minimum=4
    )

    @property
    def features(self) -> int:
        return 2

    def check(self) -> None:
        """Refuse lengths in which the markers have no room."""
        if self.variant == "hochreiter" and min(self.lengths, default=math.inf) < _SHORTEST_OF_1997:
            raise UsageError(
                f"task.lengths={self.lengths}: variant hochreiter marks one of the first {_FIRST_STEPS} "
                f"steps, and they lie in the first half: use {_SHORTEST_OF_1997} or more"
            )

    def cost(self) -> float:
        return float(self.lengths[0])

    def card(self) -> Card:
        return Card(
            id=f"adding/{self.variant}",
            tests="keeping two numbers exactly over a long stretch of others",
            definition=_DEFINITIONS[self.variant],
            source=_SOURCES[self.variant],
            floors={"always the mean": self._variance(), "values without markers": self._without_markers()},
            metric=SQUARED_ERROR.name,
            loss="mean squared error of the one answer, at the last step",
        )

    def _variance(self) -> float:
        """Variance of the target: what whoever always answers its mean has as mean squared error."""
        if self.variant != "hochreiter":
            return 2 / 12
        return (2 - sum(_first_marked(self.lengths[0]))) / 3 / 16

    def _without_markers(self) -> float:
        """What is left for whoever sees each value in its place, but not which ones are marked.

        Best is to weigh each value by its chance to be marked; that explains the sum of the squared weights,
        in units of a value's variance.
        """
        time = self.lengths[0]
        if self.variant == "arjovsky":
            return (2 - 1 / (time // 2) - 1 / (time - time // 2)) / 12
        if self.variant == "tcn":
            return (2 - time * (2 / time) ** 2) / 12
        return _without_markers_1997(time) / 3 / 16

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        draw = self._draw_1997 if self.variant == "hochreiter" else self._draw_unit
        return draw(rng, examples)

    def _draw_unit(self, rng: np.random.Generator, examples: int) -> Batch:
        """Values in [0, 1), all sequences of the same length."""
        time, rows = self.lengths[0], np.arange(examples)
        values_BTF = np.zeros((examples, time, 2), dtype=np.float32)
        values_BTF[:, :, _VALUE] = rng.random((examples, time), dtype=np.float32)
        if self.variant == "arjovsky":
            marked_2B = (rng.integers(0, time // 2, examples), rng.integers(time // 2, time, examples))
        else:
            first_B, second_B = rng.integers(0, time, examples), rng.integers(0, time - 1, examples)
            marked_2B = (first_B, second_B + (second_B >= first_B))
        return _batch(values_BTF, marked_2B, np.full(examples, time), rows, scale=1.0, shift=0.0)

    def _draw_1997(self, rng: np.random.Generator, examples: int) -> Batch:
        """Values in [-1, 1), sequences of different lengths, the ends marked by -1."""
        shortest, rows = self.lengths[0], np.arange(examples)
        lengths_B = rng.integers(shortest, shortest + shortest // 10 + 1, examples)
        first_B = rng.integers(0, _FIRST_STEPS, examples)
        second_B = rng.integers(0, shortest // 2 - 1, examples)
        marked_2B = (first_B, second_B + (second_B >= first_B))
        values_BTF = np.zeros((examples, int(lengths_B.max()), 2), dtype=np.float32)
        values_BTF[:, :, _VALUE] = rng.uniform(-1, 1, values_BTF.shape[:2])
        values_BTF[(marked_2B[0] == 0) | (marked_2B[1] == 0), 0, _VALUE] = 0
        values_BTF[:, 0, _MARKER] = values_BTF[rows, lengths_B - 1, _MARKER] = -1
        return _batch(values_BTF, marked_2B, lengths_B, rows, scale=0.25, shift=0.5)

    def oracle(self, batch: Batch) -> npt.NDArray[np.float64]:
        """The sum of what is marked by 1."""
        assert batch.values_BTF is not None
        value_BT, marker_BT = batch.values_BTF[..., _VALUE], batch.values_BTF[..., _MARKER]
        sum_B: npt.NDArray[np.float64] = np.where(marker_BT == 1, value_BT, 0).sum(1, dtype=np.float64)
        return 0.5 + sum_B / 4 if self.variant == "hochreiter" else sum_B

    def relevant(self, batch: Batch) -> Bools:
        """The two marked steps."""
        assert batch.values_BTF is not None
        marked_BT: Bools = batch.values_BTF[..., _MARKER] == 1
        return marked_BT


def _first_marked(shortest: int) -> tuple[float, float]:
    """The chances that the first step is marked as the one, and as the other, in the variant of 1997."""
    return 1 / _FIRST_STEPS, (1 - 1 / _FIRST_STEPS) / (shortest // 2 - 1)


def _without_markers_1997(shortest: int) -> float:
    """What is left without markers, in units of a value's variance; a 0 betrays that the first is marked."""
    half = shortest // 2
    near, far = _FIRST_STEPS - 1, half - _FIRST_STEPS  # steps after the first that both, or one, may mark
    both = 1 / near + (1 - 1 / near) / (half - 2)
    two_left = 2 - near * both**2 - far / (half - 2) ** 2
    one, other = _first_marked(shortest)
    any_of_half, any_of_near = one / (one + other) / (half - 1), other / (one + other) / near
    one_left = 1 - near * (any_of_half + any_of_near) ** 2 - far * any_of_half**2
    return two_left + (one + other) * (one_left - two_left)


def _batch(
    values_BTF: npt.NDArray[np.float32],
    marked_2B: tuple[Ints, Ints],
    lengths_B: Ints,
    rows: Ints,
    *,
    scale: float,
    shift: float,
) -> Batch:
    """Set the markers, clear the padding, and answer with the scaled sum of the marked values."""
    sum_B = np.zeros(len(rows))
    for marked_B in marked_2B:
        values_BTF[rows, marked_B, _MARKER] = 1
        sum_B += values_BTF[rows, marked_B, _VALUE]
    valid_BT = np.arange(values_BTF.shape[1]) < lengths_B[:, None]
    values_BTF[~valid_BT] = 0
    return Batch(valid_BT.astype(np.int64), lengths_B, shift + scale * sum_B, values_BTF)
