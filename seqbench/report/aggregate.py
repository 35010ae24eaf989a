"""Several tasks together: scores brought to a common scale, and their interquartile mean.

A score becomes the share of the way from the task's worst floor (0) to the best possible score (1), cut at
both. Tasks without an exact floor, and those whose best possible score nobody knows, have no such scale and
are left out. Every task weighs the same, and within a task every rung.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". Its
bootstrap is not used: with a few seeds a percentile interval covers too seldom. The interquartile mean is
taken over tasks within each seed, and Student's t interval over the seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seqbench import stats
from seqbench.metric import BITS
from seqbench.report import premises
from seqbench.report.frame import Sweep
from seqbench.report.summary import seed_scores
from seqbench.report.tables import Entry, Table, model, number, p_value, span, text
from seqbench.report.task import Task
from seqbench.report.verdict import barred, words_list

FEWEST_TASKS = 2
_FEWEST_FOR_WILCOXON = 6  # with five tasks its p cannot be below 0.06
_NOTHING_CUT = 4  # of fewer tasks the interquartile mean is the mean
_COLUMNS = ["label", "task", "rung", "seed", "value"]


@dataclass(frozen=True)
class Standing:
    """One model over all tasks.

    Attributes:
        score: interquartile mean over tasks, averaged over seeds with its interval.
        p: Wilcoxon's signed-rank test over tasks against the reference, after Holm's correction; NaN for the
            reference, and for fewer than six tasks.
        remark: why it is not comparable with the reference, in words.
    """

    label: str
    score: stats.Interval
    p: float
    remark: str


def on_scale(sweep: Sweep) -> tuple[list[Task], list[Task]]:
    """The tasks whose scores can be brought to a common scale, and those that cannot."""
    known = [task for task in sweep.tasks if all(_scale(task, rung) is not None for rung in task.rungs)]
    return known, [task for task in sweep.tasks if task not in known]


def _scale(task: Task, rung: int | None) -> tuple[float, float] | None:
    """The scores that become 0 and 1 on a rung; None where they are not known."""
    floor = next(iter(task.exact(rung).values()), math.nan)
    best = task.metric.best
    return None if task.metric is BITS or not math.isfinite(floor) or floor == best else (floor, best)


def normalised(sweep: Sweep) -> pd.DataFrame:
    """The score of every run on the common scale as ``label, task, rung, seed, value``; NaN: none ended."""
    parts = []
    for task in on_scale(sweep)[0]:
        scores = seed_scores(sweep, task)
        for place, rung in enumerate(task.rungs):
            floor, best = _scale(task, rung) or (math.nan, math.nan)
            value = ((scores.iloc[:, place] - floor) / (best - floor)).clip(0.0, 1.0)
            named = value.rename("value").reset_index().assign(task=task.key, rung=rung)
            parts.append(named[_COLUMNS])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)


def standings(sweep: Sweep) -> list[Standing]:
    """Every model that has a result on every task, in the order of the plan; none for fewer than two."""
    runs = normalised(sweep)
    if runs["task"].nunique() < FEWEST_TASKS:
        return []
    by_task = runs.groupby(["label", "seed", "task"], sort=False)["value"]
    wide = by_task.agg(lambda values: values.mean(skipna=False)).unstack("task").dropna()
    present = set(wide.index.get_level_values("label"))
    labels = [label for label in sweep.labels if label in present]
    means = {label: wide.loc[[label]].mean().to_numpy(dtype=float) for label in labels}
    p = _wilcoxon(means, sweep.reference or "")
    against = premises.premises(sweep)
    return [
        Standing(
            label,
            stats.mean_interval(
                [stats.interquartile_mean(row) for row in wide.loc[[label]].to_numpy(dtype=float)]
            ),
            p.get(label, math.nan),
            _remark(sweep, against, label),
        )
        for label in labels
    ]


def _wilcoxon(
    means: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]], reference: str
) -> dict[str, float]:
    """Wilcoxon's p over tasks of each model against the reference, after Holm's correction."""
    from scipy.stats import wilcoxon

    base = means.get(reference)
    if base is None or len(base) < _FEWEST_FOR_WILCOXON:
        return {}
    differences = {label: values - base for label, values in means.items() if label != reference}
    raw = [float(wilcoxon(d).pvalue) if np.any(d) else 1.0 for d in differences.values()]
    return dict(zip(differences, stats.holm(raw), strict=True))


def _remark(sweep: Sweep, against: list[premises.Finding], label: str) -> str:
    refused = [f for f in against if f.separates(label, sweep.reference or "")]
    return "; ".join(f"not comparable on {finding.task}: {finding.what}" for finding in refused)


def table(sweep: Sweep, found: list[Standing]) -> Table | None:
    """The models over all tasks; None without any."""
    if not found:
        return None
    tested = any(math.isfinite(one.p) for one in found)
    heads = [("model", False), ("IQM of normalised score", True), ("95 % interval", True), ("seeds", True)]
    heads += [(f"p against {sweep.reference} (Wilcoxon, Holm)", True)] if tested else []
    heads += [("remark", False)] if any(one.remark for one in found) else []
    rows: list[list[Entry]] = []
    for one in found:
        s = one.score
        row = [model(one.label), number(s.mean, "{:.3f}"), span(s.low, s.high, _ends(s)), number(s.n, "{}")]
        row += [p_value(one.p)] if tested else []
        rows.append(row + ([text(one.remark, "note")] if len(heads) > len(row) else []))
    count = len(on_scale(sweep)[0])
    scale = "0: worst floor, 1: best possible score"
    caption = f"Over {count} tasks: interquartile mean (IQM) of normalised scores ({scale})"
    return Table(caption, heads, rows)


def _ends(score: stats.Interval) -> str:
    return f"[{max(0.0, score.low):.3f}, {min(1.0, score.high):.3f}]"


def words(sweep: Sweep, found: list[Standing]) -> str:
    """Who stands highest over all tasks, on what scale, and what was left out; empty without any."""
    if not found:
        return ""
    known, others = on_scale(sweep)
    top = max(found, key=lambda one: one.score.mean)
    tasks, way = words_list([task.key for task in known]), f"{100 * top.score.mean:.0f} % of the way"
    apart = barred(premises.premises(sweep), top.label, [one.label for one in found])
    rank = f" ({apart})" if apart else ", the most"
    told = [f"Over {tasks}, {top.label} gets {way} from the worst floor to the best possible score{rank}."]
    rivals = [one.label for one in found if one is not top and not one.score.high < top.score.low]
    if rivals and math.isfinite(top.score.low):
        told.append(f"Its interval overlaps with that of {words_list(rivals)}.")
    if len(known) < _NOTHING_CUT:
        told.append(f"The interquartile mean of {len(known)} tasks is their mean: nothing is cut.")
    if others:
        told.append(f"Left out, having no common scale: {words_list([task.key for task in others])}.")
    return " ".join(told)
