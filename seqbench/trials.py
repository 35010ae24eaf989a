"""What came of the trials of tuning, and in which order to go on with them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from seqbench.metric import ACCURACY, METRICS, Metric, Scale
from seqbench.records import Run

_CLEAR_LOSS = 0.01  # a share of the loss at the floor


@dataclass(frozen=True)
class Trial:
    """What came of one point in one round, over the task's rungs and the tuning seeds.

    Attributes:
        point: its number in the space.
        score: mean of the runs' best validation scores; ``loss``: of their lowest validation losses.
        steps: mean steps to solve; a run that did not solve counts with all of its steps.
        solved: how many runs solved the task.
        lost: why it counts as the worst, in words ("2 diverged"); empty when all runs are whole.
    """

    point: int
    score: float = math.nan
    loss: float = math.nan
    steps: float = math.nan
    solved: int = 0
    lost: str = ""


def trial_of(point: int, runs: Sequence[Run | None], metric: Metric) -> Trial:
    """A trial from the records of its runs; None stands for one that failed."""
    scores = [_number(run, "best_valid_score") for run in runs]
    lost = [_loss_in_words(run, score) for run, score in zip(runs, scores, strict=True)]
    counts = {words: lost.count(words) for words in lost if words}
    told = ", ".join(f"{count} of {len(runs)} {words}" for words, count in counts.items())
    if told or not runs:
        return Trial(point, lost=told or "no runs")
    solved = [run.metrics.get("solved_step") for run in runs if run is not None]
    steps = [_number(r, "steps") if s is None else float(s) for r, s in zip(runs, solved, strict=True)]
    return Trial(
        point,
        score=_mean(scores),
        loss=_mean([_number(run, "best_valid_loss") for run in runs]),
        steps=_mean(steps),
        solved=sum(step is not None for step in solved),
    )


def _loss_in_words(run: Run | None, score: float) -> str:
    if run is None or run.status != "done":
        return "diverged" if run is not None else "failed"
    return "" if math.isfinite(score) else "without a score"


def _number(run: Run | None, name: str) -> float:
    value = run.metrics.get(name) if run is not None else None
    return math.nan if value is None or isinstance(value, str) else float(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def scale_of(runs: Sequence[Run]) -> Scale:
    """How to compare scores on a task, from the cards of runs on its rungs; floors are means over rungs."""
    cards = {run.rung: run.card for run in runs}
    metric = METRICS.get(str(next(iter(cards.values())).get("metric")), ACCURACY)
    return Scale.over(metric, [card.get("floors") or {} for card in cards.values()])


def ranked(trials: Sequence[Trial], scale: Scale) -> list[Trial]:
    """Trials, the best first; those that failed stand at the end.

    The better validation score wins. Scores within the metric's margin of the best are told apart by what
    says more there: by the steps to solve where any run solved the task; at a floor as :func:`_at_the_floor`
    says, so that noise does not drop who has not begun to learn.
    """
    sign = -1 if scale.metric.higher else 1
    left = sorted((t for t in trials if not t.lost), key=lambda t: (sign * t.score, t.loss, t.point))
    found: list[Trial] = []
    while left:
        tied = [t for t in left if abs(t.score - left[0].score) <= scale.tie]
        if any(t.solved for t in tied):
            tied.sort(key=lambda t: (t.steps, t.loss, t.point))
        elif scale.at_floor(left[0].score):
            tied = _at_the_floor(tied, found)
        else:
            tied = left[:1]
        found += tied
        left = [t for t in left if t not in tied]
    return found + [t for t in trials if t.lost]


def _at_the_floor(tied: Sequence[Trial], better: Sequence[Trial]) -> list[Trial]:
    """Trials whose scores say nothing, in the order in which to go on with them.

    A clearly lower loss says that learning has begun. Of the others those nearest to the best come first;
    where nothing has begun at all, they are taken from all over the range, its middle first.
    """
    usual = statistics.median(t.loss for t in tied)
    found = sorted((t for t in tied if t.loss < (1 - _CLEAR_LOSS) * usual), key=lambda t: (t.loss, t.point))
    left = sorted((t for t in tied if t not in found), key=lambda t: t.point)
    if best := [*better, *found][:1]:
        return found + sorted(left, key=lambda t: (abs(t.point - best[0].point), t.point))
    found = [left.pop((len(left) - 1) // 2)]
    while left:
        apart = [min(abs(t.point - other.point) for other in found) for t in left]
        found.append(left.pop(apart.index(max(apart))))
    return found
