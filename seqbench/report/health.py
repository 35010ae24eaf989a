"""How training went, step by step: clipped, exploding or vanishing gradients, and the size of the updates."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.summary import same
from seqbench.report.task import Task

_EXPLODES = 100.0  # a gradient norm so many times the median of the steps before it
_BEFORE = 50  # so many steps; a run that has converged has small norms, and its first ones were no explosion
_VANISHES = 1e-7
_KEYS = ("step", "label", "task", "rung", "seed")


@dataclass(frozen=True)
class Health:
    """One model on one rung, over its seeds.

    Attributes:
        clipped: share of the steps whose gradient was clipped; None where nothing is ever clipped.
        median_norm, largest_norm: of all gradients together, before clipping.
        jump: the largest norm relative to the median of the steps before it, where it was above the clip.
        start: median norm of the first steps.
        update: median over parameters and steps of the update's norm relative to the parameter's.
    """

    label: str
    task: Task
    rung: int | None
    clipped: float | None
    median_norm: float
    largest_norm: float
    jump: float
    start: float
    update: float

    @property
    def flags(self) -> str:
        """What should worry a reader, in words."""
        found = []
        if self.jump > _EXPLODES:
            found.append(f"explodes: at one step {self.jump:.0f} times what it was before")
        if self.start < _VANISHES:
            found.append("vanishes from the start")
        return "; ".join(found)


def health(sweep: Sweep) -> list[Health]:
    """Every model on every rung that has a log of its steps."""
    steps, updates = sweep.table("steps"), sweep.table("updates")
    found = []
    for task in sweep.tasks:
        for rung in task.rungs:
            for label in sweep.labels:
                mine = _of(steps, task, rung, label)
                norms = mine["gradient_norm"].dropna()
                if len(norms):
                    clip = _clip(sweep, task, rung, label)
                    found.append(
                        Health(
                            label=label,
                            task=task,
                            rung=rung,
                            clipped=float((norms > clip).mean()) if clip else None,
                            median_norm=float(norms.median()),
                            largest_norm=float(norms.max()),
                            jump=_jump(mine, max(clip, 1.0)),
                            start=float(mine[mine["step"] <= _BEFORE]["gradient_norm"].median()),
                            update=_update(_of(updates, task, rung, label)),
                        )
                    )
    return found


def _jump(mine: pd.DataFrame, above: float) -> float:
    """The largest norm above a level, relative to the median of the steps before it, over all seeds."""
    found = 0.0
    for _, steps in mine.sort_values("step").groupby("seed"):
        norms = steps["gradient_norm"]
        before = norms.shift().rolling(_BEFORE, min_periods=10).median()
        jumps = (norms / before)[(norms > above) & (before > 0)]
        found = max(found, float(jumps.max()) if len(jumps) else 0.0)
    return found


def _of(table: pd.DataFrame, task: Task, rung: int | None, label: str) -> pd.DataFrame:
    found: pd.DataFrame = table[
        (table["label"] == label) & (table["task"] == task.key) & same(table["rung"], rung)
    ]
    return found


def _clip(sweep: Sweep, task: Task, rung: int | None, label: str) -> float:
    """The largest gradient norm that the settings allow; 0 where they clip nothing."""
    runs = _of(sweep.training, task, rung, label)
    value = next((sweep.config(str(name), "train").get("clip") for name in runs["folder"]), None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _update(mine: pd.DataFrame) -> float:
    ratios = mine.drop(columns=[name for name in _KEYS if name in mine.columns])
    return float(ratios.median(axis=1).median())
