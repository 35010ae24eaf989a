"""The best floor of a task beyond training: what it is at each size, and who never got above it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pandas as pd

from seqbench.metric import Metric
from seqbench.report.frame import Sweep
from seqbench.report.summary import same, seed_scores
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

_WAYS = {  # where a model stands to the floor in training's range, and at the far end
    (0, 0): "stay{s} about at",
    (-1, -1): "stay{s} below",
    (0, -1): "fall{s} below",
    (-1, 0): "end{s} about at",
    (0, 1): "end{s} above",
    (-1, 1): "end{s} above",
}


@dataclass(frozen=True)
class Floor:
    """The best floor of a task at its highest rung.

    Attributes:
        level: its score on the task's own test sets.
        near: differences up to this count as none.
        canary: who measured it on the extra test sets; empty where none did.
        curve: mean score of that canary by value of the slice axis.
        reached: mean score of each model on the task's own test sets.
    """

    name: str
    level: float
    metric: Metric
    near: float
    canary: str = ""
    curve: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    reached: dict[str, float] = field(default_factory=dict)

    def learned(self, label: str, score: float, value: float) -> bool:
        """Whether a model got above the floor in training's range.

        Args:
            score: what it scores on the extra test set of ``value``; compared where the floor is known there,
                else its score on the task's own test sets is.
        """
        if value in self.curve.index:
            return self._side(score, float(self.curve[value]), self.near) > 0
        mine = self.reached.get(label, math.nan)
        return not math.isfinite(mine) or self._side(mine, self.level, self.near) > 0

    def words(self, ends: dict[str, tuple[float, float]], value: float, far: float, near: float) -> str:
        """What becomes of the models that had not learned more, beside what becomes of the floor.

        Args:
            ends: score of each at ``value``, the largest in training's range, and at the far end.
            near: scores at the far end so close to the floor are about at it.
        """
        labels = list(ends)
        if value not in self.curve.index or far not in self.curve.index:
            verb, level = "is" if len(labels) == 1 else "are", self.metric.shown(self.level, fewer=1)
            place = f'in training\'s range {verb} at the floor "{self.name}" ({level}) or below it'
            return f"{words_list(labels)} {place}: {_no_more(labels)}."
        start, end = float(self.curve[value]), float(self.curve[far])
        groups: dict[str, list[str]] = {}
        for way, phrase in _WAYS.items():
            for label, (inside, last) in ends.items():
                stands = self._side(inside, start, self.near), self._side(last, end, near)
                if stands == way:
                    groups.setdefault(phrase, []).append(label)
        told = [f"{words_list(names)} {_verb(phrase, names)}" for phrase, names in groups.items()]
        others = "".join(f", and {one} it" for one in told[1:])
        course = self._course(start, end)
        return f'{told[0]} the floor "{self.name}", {course}{others}: {_no_more(labels)}.'

    def _course(self, start: float, end: float) -> str:
        """How the floor itself goes from training's range to the far end."""
        first, last = (self.metric.shown(level, fewer=1) for level in (start, end))
        if first == last:
            return f"which stays at {first}"
        return f"which itself {'falls' if end < start else 'rises'} from {first} to {last}"

    def _side(self, score: float, level: float, near: float) -> int:
        """1 for better than a level by more than ``near``, -1 for worse, 0 for neither."""
        gap = score - level if self.metric.higher else level - score
        return (gap > near) - (gap < -near)


def best(sweep: Sweep, task: Task) -> Floor | None:
    """The best floor of a task's highest rung; None where it has no other than the worst."""
    rung = task.rungs[-1]
    floors = task.floors(rung)
    if len(floors) < 2:
        return None
    name, level = list(floors.items())[-1]
    near = task.tolerance(rung)
    scores = seed_scores(sweep, task)[rung].groupby("label").mean()
    floor = Floor(name, level, task.metric, near, reached={str(k): float(v) for k, v in scores.items()})
    for canary, (score, noise) in task.measured.get(rung, {}).items():
        if abs(score - level) <= max(near, noise) and len(curve := _curve(sweep, task, canary)):
            return Floor(name, level, task.metric, max(near, noise), canary, curve, floor.reached)
    return floor


def _curve(sweep: Sweep, task: Task, canary: str) -> pd.Series:
    """Mean score of a canary on the extra test sets, by value."""
    table = sweep.table("slices", companions=True)
    mine = table[(table["task"] == task.key) & same(table["rung"], task.rungs[-1])]
    known = mine[(mine["label"] == canary) & mine["score"].notna()]
    means: pd.Series = known.groupby("value")["score"].mean()
    return means


def _verb(phrase: str, names: list[str]) -> str:
    return phrase.format(s="s" if len(names) == 1 else "")


def _no_more(labels: list[str]) -> str:
    """That there is nothing to keep, of one model or several."""
    who = {1: "it had learned no more", 2: "neither had learned more"}
    told = who.get(len(labels), f"none of the {len(labels)} had learned more")
    return f"{told} than that, so there is nothing to keep"
