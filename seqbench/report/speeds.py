"""What was timed, point by point: medians and slow steps, tokens, memory, and the share of the peak."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from seqbench.report.frame import Sweep

FEWEST_FOR_P90 = 20
_LONGEST = 1 << 40
_FORWARDS = {"train": 3.0, "forward": 1.0}  # a backward pass counts as two forward passes
_COLUMNS = (
    "median_s", "slow_s", "valid_tokens_per_s", "memory_bytes", "timed", "saved_bytes", "flops_per_s",
    "peak_share",
)  # fmt: skip


def speeds(sweep: Sweep) -> pd.DataFrame:
    """What was timed on the tasks' own batches: one row per task, model, rung and mode.

    Returns:
        ``task, label, rung, mode`` and what :func:`summed` gives.
    """
    table = sweep.table("speed")
    if {"flops", "flops_steps"} <= set(table):
        table = table.assign(step_flops=table["flops"] / table["flops_steps"] * table["valid_tokens"])
    return _grouped(table, ["task", "label", "rung", "mode"])


def points(sweep: Sweep) -> pd.DataFrame:
    """The same of the grid of full sequences: one row per task, model, steps, batch size and mode."""
    table = grid(sweep)
    if "flops" in table:
        table = table.assign(step_flops=table["flops"] * table["batch_size"])
    if "peak_flops_per_s" in table:  # measured before every point: the best is the least disturbed
        best = table.groupby(["task", "label"])["peak_flops_per_s"].transform("max")
        table = table.assign(peak_flops_per_s=best)
    return _grouped(table, ["task", "label", "steps", "batch_size", "mode"])


def grid(sweep: Sweep) -> pd.DataFrame:
    """Single steps of full sequences; ``step_s`` is the time of the work alone, where that is known."""
    table = sweep.table("grid")
    table = table[placed(table)]
    return table.assign(step_s=_work_s(table))


def _work_s(steps: pd.DataFrame) -> pd.Series:
    """CPU seconds of steps on one thread, which other programs disturb least; seconds elsewhere."""
    if "work_s" not in steps:
        return steps["step_s"]
    return steps["work_s"].where(steps["work_s"] > 0, steps["step_s"])


def placed(table: pd.DataFrame) -> pd.Series:
    """Which rows of a grid stand at a place that there can be."""
    inside: pd.Series = table["steps"].between(1, _LONGEST) & table["batch_size"].between(1, _LONGEST)
    return inside


def _grouped(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    table = table[table["step_s"].gt(0) & table["valid_tokens"].gt(0)]
    rows = [
        {**dict(zip(keys, place, strict=True)), **summed(group)}
        for place, group in table.groupby(keys, sort=False, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*keys, *_COLUMNS])


def summed(steps: pd.DataFrame) -> dict[str, Any]:
    """Single steps of one kind at one place, summed up; NaN for what older records do not have.

    Returns:
        Medians of single steps (``median_s, valid_tokens_per_s``); ``slow_s``, their 90th percentile, or the
        maximum of fewer than :data:`FEWEST_FOR_P90`; how many there were (``timed``); the most of any
        (``memory_bytes``, ``saved_bytes``); ``flops_per_s``, operations that the model needs per second: of a
        training step those of three forward passes, the usual convention; and ``peak_share``, that relative
        to a matrix product timed beside it; along the grid the best of those timed before its points.
    """
    rate = peak = pd.Series(math.nan, index=steps.index)
    if "step_flops" in steps:
        rate = steps["step_flops"] * steps["mode"].map(_FORWARDS) / _work_s(steps)
    if "peak_flops_per_s" in steps:
        peak = steps["peak_flops_per_s"].where(steps["peak_flops_per_s"] > 0)
    return {
        "median_s": steps["step_s"].median(),
        "slow_s": steps["step_s"].quantile(0.9 if len(steps) >= FEWEST_FOR_P90 else 1.0),
        "valid_tokens_per_s": (steps["valid_tokens"] / steps["step_s"]).median(),
        "memory_bytes": steps["memory_bytes"].max(),
        "timed": len(steps),
        "saved_bytes": steps["saved_bytes"].max() if "saved_bytes" in steps else math.nan,
        "flops_per_s": _median(rate),
        "peak_share": _median(rate / peak),
    }


def _median(values: pd.Series) -> float:
    known = values[np.isfinite(values) & (values > 0)]
    return float(known.median()) if len(known) else math.nan
