"""The tasks of a sweep, as their records describe them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from seqbench.records import Run
from seqbench.report.label import clean


@dataclass(frozen=True)
class Task:
    """A task of the sweep, as its records describe it.

    Attributes:
        key: name, with the settings that differ where the sweep varied them.
        solved_at: accuracy that counts as solved, or None when the task has no such line.
        rungs: its ladder; ``[None]`` for a task without one.
        cards: the definition card of each rung that has a record.
    """

    key: str
    symbol: str
    solved_at: float | None
    rungs: list[int | None]
    cards: dict[int | None, Mapping[str, Any]]

    @property
    def card(self) -> Mapping[str, Any]:
        """The card of the highest rung that has one."""
        return next((self.cards[rung] for rung in reversed(self.rungs) if rung in self.cards), {})

    def floors(self, rung: int | None) -> dict[str, float]:
        """Accuracies that need no learning of the point, lowest first."""
        return _levels(self.cards.get(rung, {}).get("floors"))

    def points(self, rung: int | None) -> dict[str, float]:
        """Published scores to read a result against, lowest first."""
        return _levels(self.cards.get(rung, {}).get("reference_points"))

    def at(self, rung: int | None) -> str:
        """The task and rung in words."""
        return self.key if rung is None else f"{self.key} {self.symbol}={rung}"


def mapping(value: object) -> Mapping[str, Any]:
    """A value from a record where a mapping should be; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def read_tasks(runs: pd.DataFrame, found: dict[str, Run]) -> list[Task]:
    """The tasks in an order that reads well: as planned, ladders first."""
    tasks = []
    for key, group in runs[runs["kind"] == "train"].groupby("task", sort=False):
        cards: dict[int | None, Mapping[str, Any]] = {}
        config: Mapping[str, Any] = {}
        for name, rung in zip(group["folder"], group["rung"], strict=True):
            if name in found:
                cards.setdefault(None if rung is pd.NA else int(rung), _card(found[name].card))
                config = config or mapping(mapping(found[name].config).get("task"))
        rungs: list[int | None] = [int(rung) for rung in sorted(group["rung"].dropna().unique())]
        symbol = next((card.get("rung_symbol") for card in cards.values()), None)
        solved_at = config.get("solved_at")
        tasks.append(
            Task(
                key=str(key),
                symbol=clean(symbol or "rung", 12),
                solved_at=float(solved_at) if isinstance(solved_at, int | float) else None,
                rungs=rungs or [None],
                cards=cards,
            )
        )
    return sorted(tasks, key=lambda task: -len(task.rungs))


def _card(raw: object) -> dict[str, Any]:
    """A definition card with printable texts; its levels are read by :func:`_levels`."""
    kept = {str(key): value for key, value in mapping(raw).items()}
    return {key: clean(value, 800) if isinstance(value, str) else value for key, value in kept.items()}


def _levels(value: object) -> dict[str, float]:
    """Named accuracies, lowest first."""
    levels = {clean(key, 120): float(v) for key, v in mapping(value).items() if isinstance(v, int | float)}
    usable = {key: v for key, v in levels.items() if math.isfinite(v) and 0 <= v <= 1}
    return dict(sorted(usable.items(), key=lambda item: item[1]))
