"""What canaries and oracles say about a task: is it too easy to tell, and is it what its card says?"""

from __future__ import annotations

import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.summary import same
from seqbench.report.task import Task

_PERFECT = 1e-9


def warnings(sweep: Sweep) -> list[str]:
    """What a reader must know about the tasks before believing any ranking."""
    found = []
    if good := blind_winners(sweep):
        found.append(
            f"A canary, blind to order, is as good as the best model: {', '.join(good)}. The task hardly "
            "needs order."
        )
    if wrong := refuted_tasks(sweep):
        found.append(
            "The oracle, which follows the definition, does not get every answer right: "
            f"{', '.join(wrong)}. What was generated is not what the card says."
        )
    return found


def blind_winners(sweep: Sweep) -> list[str]:
    """Canaries that are as good as the best model of a task: it does not test what it seems to."""
    runs = sweep.runs[(sweep.runs["kind"] == "train") & (sweep.runs["status"] == "done")]
    scores = pd.to_numeric(runs["test_score"], errors="coerce").astype(float)
    runs = runs.assign(score=scores)
    return [
        words
        for task in sweep.tasks
        for rung in task.rungs
        for words in _as_good(task, rung, runs[(runs["task"] == task.key) & same(runs["rung"], rung)])
    ]


def _as_good(task: Task, rung: int | None, runs: pd.DataFrame) -> list[str]:
    metric, near = task.metric, task.tolerance(rung)
    blind = runs["canary"].eq(True)
    means = runs[~blind].groupby("label")["score"].mean().dropna()
    if means.empty:
        return []
    best = float(means.max() if metric.higher else means.min())
    return [
        f"{label} on {task.at(rung)} ({metric.shown(score)})"
        for label, score in runs[blind].groupby("label")["score"].mean().items()
        if metric.reaches(score, best - (near if metric.higher else -near))
        and _learned(task, rung, score, runs)
    ]


def _learned(task: Task, rung: int | None, score: float, runs: pd.DataFrame) -> bool:
    """Whether a score is better than every exact floor, by more than chance; else nobody learned it."""
    exact = list(task.exact(rung).values())
    if not exact:
        return True
    answers = float(pd.to_numeric(runs["test_answers"], errors="coerce").astype(float).median())
    clear = max(task.tolerance(rung), task.metric.noise(score, answers))
    return not task.metric.reaches(exact[-1] + (clear if task.metric.higher else -clear), score)


def refuted_tasks(sweep: Sweep) -> list[str]:
    """Tasks whose own oracle is not always right."""
    found: dict[str, None] = {}
    for task in sweep.tasks:
        runs = sweep.training[sweep.training["task"] == task.key]
        scores = pd.to_numeric(runs["oracle_score"], errors="coerce").astype(float).dropna()
        for score in scores[(scores - task.metric.best).abs() > _PERFECT].unique():
            found[f"{task.key} ({task.metric.shown(float(score))})"] = None
    return list(found)
