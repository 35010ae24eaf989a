"""Who is in a sweep: labels by the kind of model behind them, and their settings."""

from __future__ import annotations

import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.label import clean
from seqbench.report.verdict import words_list

_MOST_WIDTHS = 4


def kinds(sweep: Sweep) -> dict[str, str]:
    """Each label with the name of its model, in the order of the plan."""
    training = sweep.training
    found = dict(zip(training["label"], training["model"], strict=True))
    return {label: str(found[label]) for label in sweep.labels if label in found}


def first(sweep: Sweep, *names: str) -> str | None:
    """The first label of the first of these models that is in the sweep."""
    found = kinds(sweep)
    return next((label for name in names for label, kind in found.items() if kind == name), None)


def setting(sweep: Sweep, label: str, key: str) -> object:
    """A setting of a model from its first record; None without one."""
    folders = sweep.training[sweep.training["label"] == label]["folder"]
    known = (sweep.config(str(name), "model") for name in folders if name in sweep.records)
    return next(known, {}).get(key)


def attends(sweep: Sweep) -> list[str]:
    """Labels of models that have positions to choose: those with attention."""
    return [label for label in kinds(sweep) if isinstance(setting(sweep, label, "positions"), str)]


def positions(sweep: Sweep, label: str) -> tuple[str, bool]:
    """How positions enter a model, and whether each position sees only what came before."""
    return clean(setting(sweep, label, "positions"), 20), setting(sweep, label, "causal") is True


def widths(sweep: Sweep, label: str) -> str:
    """How many numbers the model's state has, in words, with the tasks where they differ among these."""
    rows = sweep.training[sweep.training["label"] == label]
    rows = rows.assign(numbers=pd.to_numeric(rows["width"], errors="coerce").astype(float))
    rows = rows[rows["numbers"].between(1, 1e9)]
    tasks: dict[int, dict[str, None]] = {}
    for width, task in sorted(zip(rows["numbers"].astype(int), rows["task"], strict=True)):
        tasks.setdefault(int(width), {})[str(task)] = None
    several = len(tasks) > 1 and rows["task"].nunique() > 1
    told = [
        f"{width:,}" + (f" ({words_list(list(where))})" if several else "") for width, where in tasks.items()
    ]
    return " or ".join(told[:_MOST_WIDTHS])
