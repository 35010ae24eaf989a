"""Which settings a sweep varied, so that labels name them: of each model on each task, and of each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqbench.report.label import differing, flat
from seqbench.report.task import mapping

MODEL_SETTINGS = ("model", "network", "train", "match")

Settings = dict[str, str]


def varied(entries: Sequence[Mapping[str, Any]]) -> tuple[dict[Any, list[str]], dict[str, list[str]]]:
    """Settings that differ among runs of the same model (on one task), and of the same task.

    Args:
        entries: the runs of a plan.
    """
    models: dict[Any, list[tuple[Settings, str]]] = {}
    tasks: dict[str, list[Settings]] = {}
    trials: dict[str, list[Settings]] = {}
    for entry in entries:
        tasks.setdefault(entry["task"], []).append(task_settings(entry))
        mine = models.setdefault((entry["model"], entry["task"]), [])
        if entry["kind"] == "trial":
            trials.setdefault(_base(entry), []).append(flat(entry["config"], ["model"]))
        elif entry.get("companion") is not True:
            mine.append((flat(entry["config"], MODEL_SETTINGS), _base(entry)))
    searched = {base: set(differing(found)) for base, found in trials.items() if base}
    by_model = {key: _telling(found, searched) for key, found in models.items()}
    return by_model, {key: differing(found) for key, found in tasks.items()}


def task_settings(entry: Mapping[str, Any]) -> Settings:
    """The task's settings without its ladder: a list of one number."""
    task = mapping(entry["config"].get("task"))
    fixed = {key: value for key, value in task.items() if not isinstance(value, list)}
    return flat({"task": fixed}, ["task"])


def _base(entry: Mapping[str, Any]) -> str:
    """What a run has in common with its trials; empty without any."""
    base = entry.get("base")
    return base if isinstance(base, str) else ""


def _telling(found: Sequence[tuple[Settings, str]], searched: Mapping[str, set[str]]) -> list[str]:
    """The settings that differ, without what follows from others, as long as they tell all runs apart.

    Where a rate comes from and what a cost is matched to follow from others; so does what tuning found for
    each of the others, which would give one variant another name on every task.

    Args:
        found: settings of each run, with what it has in common with its trials.
        searched: settings of the model that trials varied, by what those have in common.
    """
    settings = [one for one, _ in found]
    keys = differing(settings)
    matched = ["match.target", "match.rung"] if "match.by" in keys else []
    chosen = [key for key in keys if all(key in searched.get(base, ()) for _, base in found)]
    rate = ["train.lr"] if all(one.get("train.tuned") == "true" for one in settings) else []
    for implied in ("train.tuned", "match.reference", *matched, *chosen, *rate):
        rest = [key for key in keys if key != implied]
        if rest and _count(settings, rest) == _count(settings, keys):
            keys = rest
    return keys


def _count(settings: Iterable[Settings], keys: Sequence[str]) -> int:
    """How many different values some settings have together."""
    return len({tuple(one.get(key) for key in keys) for one in settings})
