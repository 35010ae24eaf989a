"""The tasks of a sweep, as their records describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from seqbench.metric import ACCURACY, METRICS, Metric
from seqbench.records import Run
from seqbench.report.label import clean

_MOST_NOTES = 40


@dataclass(frozen=True)
class Task:
    """A task of the sweep, as its records describe it.

    Attributes:
        key: name, with the settings that differ where the sweep varied them.
        solved_at: score that counts as solved, or None when the task has no such line.
        rungs: its ladder; ``[None]`` for a task without one.
        cards: the definition card of each rung that has a record.
        measured: what the canaries beside the comparison scored on each rung, by name, and how far chance
            alone may have moved it.
    """

    key: str
    symbol: str
    solved_at: float | None
    rungs: list[int | None]
    cards: dict[int | None, Mapping[str, Any]]
    measured: Mapping[int | None, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """What its scores are."""
        return metric_of(self.card)

    @property
    def card(self) -> Mapping[str, Any]:
        """The card of the highest rung that has one."""
        return next((self.cards[rung] for rung in reversed(self.rungs) if rung in self.cards), {})

    def floors(self, rung: int | None) -> dict[str, float]:
        """Scores that need no learning of the point, the worst first: those of the card, and measured ones.

        What a canary scored is left out where it tells nothing new beside the levels of the card.
        """
        exact = self.exact(rung)
        new = {
            f"{name} (measured)": score
            for name, (score, noise) in self.measured.get(rung, {}).items()
            if self._tells(score, noise, exact)
        }
        return self.metric.ordered(exact | new)

    def exact(self, rung: int | None) -> dict[str, float]:
        """The floors of the card alone, the worst first."""
        return self._levels(rung, "floors")

    def tolerance(self, rung: int | None) -> float:
        """Differences up to this count as none."""
        return self.metric.tolerance(self.exact(rung))

    def _tells(self, score: float, noise: float, exact: Mapping[str, float]) -> bool:
        """Whether a measured floor is clearly better than the worst exact one, and close to none."""
        if not exact:
            return True
        near = max(self.metric.tolerance(exact), noise)
        worst = next(iter(exact.values()))
        return self.metric.reaches(score, worst) and all(
            abs(score - value) > near for value in exact.values()
        )

    def points(self, rung: int | None) -> dict[str, float]:
        """Published scores to read a result against, the worst first."""
        return self._levels(rung, "reference_points")

    def _levels(self, rung: int | None, key: str) -> dict[str, float]:
        """Named scores of a rung's card, the worst first."""
        raw = mapping(self.cards.get(rung, {}).get(key))
        levels = {clean(name, 120): float(v) for name, v in raw.items() if isinstance(v, int | float)}
        return self.metric.ordered({name: v for name, v in levels.items() if 0 <= v <= self.metric.most})

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What was counted about the data, in words."""
        raw = list(mapping(self.card.get("notes")).items())[:_MOST_NOTES]
        return [
            (clean(name, 80).replace("_", " "), f"{v:,}") for name, v in raw if isinstance(v, int | float)
        ]

    def at(self, rung: int | None) -> str:
        """The task and rung in words."""
        return self.key if rung is None else f"{self.key} {self.symbol}={rung}"


def metric_of(card: Mapping[str, Any]) -> Metric:
    """The metric that a card names; accuracy where it names none that is known."""
    return METRICS.get(str(card.get("metric")), ACCURACY)


def mapping(value: object) -> Mapping[str, Any]:
    """A value from a record where a mapping should be; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def read_tasks(runs: pd.DataFrame, found: dict[str, Run]) -> list[Task]:
    """The tasks in an order that reads well: as planned, ladders first."""
    tasks = []
    training = runs[runs["kind"] == "train"]
    training = runs if training.empty else training  # nothing but speed
    canaries = training["companion"].eq(True)
    for key, group in training[~canaries].groupby("task", sort=False):
        cards: dict[int | None, Mapping[str, Any]] = {}
        config: Mapping[str, Any] = {}
        best = group.loc[group["status"].ne("done").sort_values(kind="stable").index]
        for name, rung in zip(best["folder"], best["rung"], strict=True):  # who failed early knows less
            if name in found:
                cards.setdefault(None if rung is pd.NA else int(rung), _card(found[name].card))
                config = config or mapping(mapping(found[name].config).get("task"))
        rungs: list[int | None] = [int(rung) for rung in sorted(group["rung"].dropna().unique())]
        symbol = next((card.get("rung_symbol") for card in cards.values()), None)
        solved_at = config.get("solved_at")
        metric = metric_of(next(iter(cards.values()), {}))
        tasks.append(
            Task(
                key=str(key),
                symbol=clean(symbol or "rung", 12),
                solved_at=float(solved_at) if isinstance(solved_at, int | float) else None,
                rungs=rungs or [None],
                cards=cards,
                measured=_measured(training[canaries & (training["task"] == key)], metric),
            )
        )
    return sorted(tasks, key=lambda task: -len(task.rungs))


def _card(raw: object) -> dict[str, Any]:
    """A definition card with printable texts; its levels are read by :func:`_levels`."""
    kept = {str(key): value for key, value in mapping(raw).items()}
    return {key: clean(value, 800) if isinstance(value, str) else value for key, value in kept.items()}


def _measured(canaries: pd.DataFrame, metric: Metric) -> dict[int | None, dict[str, tuple[float, float]]]:
    """Mean score of each canary on each rung of a task, with its noise."""
    found: dict[int | None, dict[str, tuple[float, float]]] = {}
    ended = canaries[canaries["status"] == "done"]
    for (label, _), group in ended.groupby(["label", "rung"], sort=False, dropna=False):
        score = float(pd.to_numeric(group["test_score"], errors="coerce").astype(float).mean())
        if score == score:  # noqa: PLR0124
            rung = group["rung"].iloc[0]
            answers = float(pd.to_numeric(group["test_answers"], errors="coerce").astype(float).sum())
            place = None if rung is pd.NA else int(rung)
            found.setdefault(place, {})[str(label)] = (score, metric.noise(score, answers))
    return found
