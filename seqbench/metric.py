"""What a task is scored by: how the score follows from loss and accuracy, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Metric:
    """A score of held-out answers.

    Attributes:
        name, short: in words, and as a column's title.
        higher: whether more is better.
        best: what a perfect player scores.
        most: larger numbers are no score.
        margin: differences up to this count as none.
        digits: after the point, in tables; one less in sentences.
        relative: the margin is a share of what the worst floor scores, for scores that have a scale.
        log: drawn on a logarithmic axis.
    """

    name: str
    short: str
    higher: bool
    best: float
    most: float
    margin: float
    digits: int = 3
    relative: bool = False
    log: bool = False

    def of(self, loss: float, accuracy: float) -> float:
        """The score, from the mean loss (cross-entropy in nats, or squared error) and the accuracy."""
        if self is BITS:
            return loss / math.log(2)
        return accuracy if self is ACCURACY else loss

    def reaches(self, score: float, level: float) -> bool:
        """Whether a score is at least as good as a level.

        >>> ACCURACY.reaches(0.9, 0.8), SQUARED_ERROR.reaches(0.9, 0.8)
        (True, False)
        """
        return score >= level if self.higher else score <= level

    def shown(self, score: float, fewer: int = 0) -> str:
        """A score as it stands in a table, or with fewer digits.

        >>> ACCURACY.shown(0.5), SQUARED_ERROR.shown(1 / 6, fewer=1)
        ('0.500', '0.167')
        """
        return f"{score:.{self.digits - fewer}f}"

    def tolerance(self, floors: Mapping[str, float]) -> float:
        """The margin, where a task has these exact floors; none where it has no scale."""
        if not self.relative:
            return self.margin
        return self.margin * max(floors.values(), default=0.0)

    def noise(self, score: float, answers: float) -> float:
        """How far chance alone may move a score over so many answers (2.5 standard errors); 0: not known."""
        if self is not ACCURACY or not (answers >= 1 and 0 <= score <= 1):
            return 0.0
        return 2.5 * math.sqrt(max(score * (1 - score), 1 / answers) / answers)

    def ordered(self, floors: Mapping[str, float]) -> dict[str, float]:
        """Levels by name, the worst first."""
        return dict(sorted(floors.items(), key=lambda item: item[1] if self.higher else -item[1]))


ACCURACY = Metric("accuracy", "accuracy", higher=True, best=1.0, most=1.0, margin=0.02)
SQUARED_ERROR = Metric(
    "mean squared error", "MSE", higher=False, best=0.0, most=1e6, margin=0.02, digits=4, relative=True,
    log=True,
)  # fmt: skip
BITS = Metric("bits per character", "bits/char", higher=False, best=0.0, most=1e3, margin=0.02)
METRICS: Mapping[str, Metric] = MappingProxyType({m.name: m for m in (ACCURACY, SQUARED_ERROR, BITS)})


@dataclass(frozen=True)
class Scale:
    """How scores compare: ``floors`` are levels that need no learning, differences up to ``tie`` are none."""

    metric: Metric = ACCURACY
    floors: tuple[float, ...] = ()
    tie: float = ACCURACY.margin

    @classmethod
    def over(cls, metric: Metric, rungs: Sequence[Mapping[str, float]]) -> Scale:
        """The scale of scores that are means over rungs, from the exact floors of each rung, by name."""
        names = [name for name in (rungs[0] if rungs else {}) if all(name in levels for levels in rungs)]
        floors = tuple(sum(levels[name] for levels in rungs) / len(rungs) for name in names)
        ties = [metric.tolerance(levels) for levels in rungs] or [metric.tolerance({})]
        return cls(metric, floors, sum(ties) / len(ties))

    def at_floor(self, score: float) -> bool:
        """Whether a score is that of a floor, or below all of them."""
        worse = bool(self.floors) and all(self.metric.reaches(level, score) for level in self.floors)
        return worse or any(abs(score - level) <= self.tie for level in self.floors)

    def learned_nothing(self, score: float) -> bool:
        """Whether a score is not clearly better than the worst floor."""
        worst = (min if self.metric.higher else max)(self.floors, default=math.nan)
        return not math.isnan(worst) and not self.clearly_better(score, worst)

    def clearly_better(self, score: float, other: float) -> bool:
        """Whether a score is better by more than a tie; any is better than none (NaN).

        >>> Scale().clearly_better(0.53, 0.5), Scale().clearly_better(0.51, 0.5)
        (True, False)
        """
        if math.isnan(score) or math.isnan(other):
            return math.isnan(other) and not math.isnan(score)
        return (score - other if self.metric.higher else other - score) > self.tie


@dataclass(frozen=True)
class Goal:
    """What a training run is after: a metric, and the level that counts as solved (None: never)."""

    metric: Metric = ACCURACY
    solved_at: float | None = None

    def solves(self, scores: list[float]) -> bool:
        """Whether the last two scores both reach the level."""
        last = scores[-2:]
        level = self.solved_at
        return level is not None and len(last) == 2 and all(self.metric.reaches(s, level) for s in last)
