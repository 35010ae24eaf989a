"""How training went, step by step: clipped, exploding or vanishing gradients, and the size of the updates."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.summary import same
from seqbench.report.task import Task

_EXPLODES = 100.0  # a gradient norm so many times the median of the steps before it
_BEFORE = 50  # so many steps; a run that has converged has small norms, and its first ones were no explosion
_TINY = 0.1  # of the median norm of a run's first steps: what lies below it is of a run that has converged
_LASTS = 0.1  # of the loss of a run's first steps: if the loss stays up by more than that, training suffered
_NEAR_ZERO = 0.05  # of the loss of a run's first steps
_ROUND = 1e5  # ratios from here on are told by their power of ten
_FEWEST = 10  # steps before one that can be told from them
_VANISHES = 1e-7
_KEYS = ("step", "label", "task", "rung", "seed")


@dataclass(frozen=True)
class Jump:
    """A step whose gradient is clipped and far larger than those before it; the largest of a model.

    Attributes:
        before, steps: median norm of the steps before it, and how many these were.
        many: how many such steps there are in all runs.
        hurts: whether it came while gradients were still large, or the loss stayed up after it.
        learned: whether the loss was near zero before it.
    """

    step: int
    norm: float
    before: float
    steps: int
    many: int
    hurts: bool
    learned: bool

    @property
    def ratio(self) -> float:
        """How many times the median of the steps before it."""
        return self.norm / self.before

    @property
    def words(self) -> str:
        """An explosion, or a spike that did no harm."""
        times = f"{self.ratio:.0f} times" if self.ratio < _ROUND else f"{self.ratio:.0e} times"
        if self.hurts:
            return f"explodes: at one step {times} what it was before"
        count = "one spike: " if self.many == 1 else f"{self.many} spikes, the largest "
        loss = "; the loss was near zero" if self.learned else ""
        return (
            f"{count}{self.norm:.2f} at step {self.step}, {times} the median of the {self.steps} steps "
            f"before ({self.before:.1g}{loss})"
        )


@dataclass(frozen=True)
class Health:
    """One model on one rung, over its seeds.

    Attributes:
        clipped: share of the steps whose gradient was clipped; None where nothing is ever clipped.
        median_norm, largest_norm: of all gradients together, before clipping.
        jump: the worst step that is more than a hundred times the median of those before it; None without.
        start: median norm of the first steps.
        update: median over parameters and steps of the update's norm relative to the parameter's.
    """

    label: str
    task: Task
    rung: int | None
    clipped: float | None
    median_norm: float
    largest_norm: float
    jump: Jump | None
    start: float
    update: float

    @property
    def flags(self) -> str:
        """What should worry a reader, in words."""
        found = [self.jump.words] if self.jump is not None else []
        if self.start < _VANISHES:
            found.append("vanishes from the start")
        return "; ".join(found)


def health(sweep: Sweep) -> list[Health]:
    """Every model on every rung that has a log of its steps."""
    steps, updates = sweep.table("steps"), sweep.table("updates")
    found = []
    for task in sweep.tasks:
        for rung in task.rungs:
            by_label, updated = _by_label(steps, task, rung), _by_label(updates, task, rung)
            for label in [label for label in sweep.labels if label in by_label]:
                mine = by_label[label]
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
                            jump=_worst(mine, max(clip, 1.0), _diverged(sweep, task, rung, label)),
                            start=float(mine[mine["step"] <= _BEFORE]["gradient_norm"].median()),
                            update=_update(updated.get(label, updates.head(0))),
                        )
                    )
    return found


def _worst(mine: pd.DataFrame, above: float, diverged: set[int]) -> Jump | None:
    """The worst step over all seeds: one that did harm, or else the largest for what was before it."""
    ordered = mine[mine["step"].notna()].sort_values("step", kind="stable").reset_index(drop=True)
    jumped = _jumped(ordered, above)
    runs = ordered[ordered["seed"].isin(ordered["seed"][jumped])].groupby("seed")
    if not (jumps := [_jumps(run, jumped[run.index], seed in diverged) for seed, run in runs]):
        return None
    found = pd.concat(jumps)
    worst = found.sort_values(["hurts", "ratio"], kind="stable").iloc[-1]
    return Jump(
        step=int(worst["step"]),
        norm=float(worst["norm"]),
        before=float(worst["before"]),
        steps=int(worst["steps"]),
        many=len(found),
        hurts=bool(worst["hurts"]),
        learned=bool(worst["learned"]),
    )


def _jumped(runs: pd.DataFrame, above: float) -> pd.Series:
    """Which steps of several runs are above a level and far above the median of the steps before them."""
    norms = runs["gradient_norm"]
    before = norms.groupby(runs["seed"]).shift().groupby(runs["seed"]).rolling(_BEFORE, min_periods=_FEWEST)
    usual = before.median().droplevel(0).reindex(runs.index)
    jumped: pd.Series = (norms > above) & (norms / usual.where(usual > 0) > _EXPLODES)
    return jumped


def _jumps(run: pd.DataFrame, jumped: pd.Series, diverged: bool) -> pd.DataFrame:
    """What is to be told of the steps of one run that jumped.

    Returns:
        ``step, norm, before, steps, ratio, hurts, learned``.
    """
    norms, loss = run["gradient_norm"], run["loss"]
    before = norms.shift().rolling(_BEFORE, min_periods=_FEWEST).median()
    earlier = loss.shift().rolling(_BEFORE, min_periods=1).median()
    later = loss[::-1].shift().rolling(_BEFORE, min_periods=1).median()[::-1]  # NaN: nothing is known
    early, first = norms.head(_BEFORE).median(), abs(loss.head(_BEFORE).median())
    lasts = (later - earlier > _LASTS * first) | (later.isna() & diverged)
    table = pd.DataFrame(
        {
            "step": run["step"],
            "norm": norms,
            "before": before,
            "steps": norms.shift().rolling(_BEFORE, min_periods=1).count(),
            "ratio": norms / before.where(before > 0),
            "hurts": lasts | (before >= _TINY * early),
            "learned": earlier.abs() < _NEAR_ZERO * first,
        }
    )
    return table[jumped]


def _diverged(sweep: Sweep, task: Task, rung: int | None, label: str) -> set[int]:
    """Seeds of the runs that diverged."""
    runs = _of(sweep.training, task, rung, label)
    return {int(seed) for seed in runs["seed"][runs["status"] == "diverged"].dropna()}


def _by_label(table: pd.DataFrame, task: Task, rung: int | None) -> dict[str, pd.DataFrame]:
    here = table[(table["task"] == task.key) & same(table["rung"], rung)]
    return {str(label): rows for label, rows in here.groupby("label", sort=False)}


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
