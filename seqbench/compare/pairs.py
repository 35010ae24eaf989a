"""Runs of two sweeps in pairs: the same task, rung, model and seed, where a comparison is fair at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from seqbench.records import Run
from seqbench.report import summary
from seqbench.report.frame import Sweep
from seqbench.report.label import clean, flat
from seqbench.report.summary import same, scored
from seqbench.report.task import Task, mapping
from seqbench.report.varied import MODEL_SETTINGS

ENDED = ("done", "diverged")
BROKEN = ("failed", "oom", "timeout", "killed")
_BUDGET = ("train.steps", "train.epochs", "train.batch_size", "match.by")
_PLACES = ("task.path",)  # where data lies; what it is shows in its hashes
_SIZE_WITHIN = 0.03  # what the widths of matched models may leave
_HASHED_BATCHES = 10
_MOST_SEEDS = 5


@dataclass(frozen=True)
class Contest:
    """One model on one task, planned in both sweeps.

    Attributes:
        task, label: as the first sweep names them.
        theirs, their_label: as the second one does, where other settings were varied.
        a, b: their training runs, whatever became of them.
    """

    task: Task
    label: str
    theirs: Task
    their_label: str
    a: pd.DataFrame
    b: pd.DataFrame

    @property
    def rungs(self) -> list[int | None]:
        """The rungs that both sweeps planned."""
        return [
            rung for rung in self.task.rungs if self._planned(self.a, rung) and self._planned(self.b, rung)
        ]

    @staticmethod
    def _planned(runs: pd.DataFrame, rung: int | None) -> bool:
        return bool(same(runs["rung"], rung).any())

    def scores(self, rung: int | None) -> pd.DataFrame:
        """The test scores of the seeds that ended in both sweeps: columns ``a`` and ``b``, rows by seed."""
        return pd.concat(
            {"a": _scores(self.task, rung, self.a), "b": _scores(self.theirs, rung, self.b)}, axis=1
        ).dropna()


def _scores(task: Task, rung: int | None, runs: pd.DataFrame) -> pd.Series:
    ended = runs[same(runs["rung"], rung) & runs["status"].isin(ENDED)]
    found: pd.Series = ended.assign(score=scored(task, rung, ended)).groupby("seed")["score"].mean()
    return found


@dataclass(frozen=True)
class Pair:
    """The records of two runs that differ in their sweep alone."""

    rung: int | None
    seed: int
    a: Run
    b: Run


def pairs(a: Sweep, b: Sweep, contest: Contest) -> Iterator[Pair]:
    """The pairs of a contest that ended in both sweeps, by rung and seed."""
    for rung in contest.rungs:
        ours, theirs = _ended(a, contest.a, rung), _ended(b, contest.b, rung)
        for seed in sorted(set(ours) & set(theirs)):
            yield Pair(rung, seed, ours[seed], theirs[seed])


def _ended(sweep: Sweep, runs: pd.DataFrame, rung: int | None) -> dict[int, Run]:
    chosen = runs[same(runs["rung"], rung) & runs["status"].isin(ENDED)]
    return {
        int(seed): sweep.records[str(name)]
        for seed, name in zip(chosen["seed"], chosen["folder"], strict=True)
    }


def contests(a: Sweep, b: Sweep) -> list[Contest]:
    """Every model on every task that both sweeps planned, in the order of the first."""
    theirs = {task.key: task for task in b.tasks}
    ours = {task.key: task for task in a.tasks}
    tasks = matched(ours, theirs, lambda x, y: _same_task(a, ours[x], b, theirs[y]))
    found = []
    for key, other in tasks.items():
        left, right = (s.training[s.training["task"] == k] for s, k in ((a, key), (b, other)))
        found += [
            Contest(ours[key], label, theirs[other], its, _of(left, label), _of(right, its))
            for label, its in _labels(a, left, b, right).items()
        ]
    return found


def _of(runs: pd.DataFrame, label: str) -> pd.DataFrame:
    chosen: pd.DataFrame = runs[runs["label"] == label]
    return chosen


def _labels(a: Sweep, left: pd.DataFrame, b: Sweep, right: pd.DataFrame) -> dict[str, str]:
    """The models of a task that both sweeps have, each as the first and as the second names it."""
    ours, theirs = ([x for x in s.labels if x in set(runs["label"])] for s, runs in ((a, left), (b, right)))

    def alike(x: str, y: str) -> bool:
        mine, its = _of(left, x), _of(right, y)
        named = set(mine["model"]) == set(its["model"])
        return named and _agree(_settings(a, mine, MODEL_SETTINGS), _settings(b, its, MODEL_SETTINGS))

    return matched(ours, theirs, alike)


def matched(ours: Iterable[str], theirs: Iterable[str], alike: Callable[[str, str], bool]) -> dict[str, str]:
    """Names of the first with their partners: the same name, or else the only other one that is alike.

    >>> matched(["gru", "lstm (bias=1)"], ["lstm", "gru"], lambda x, y: x[:4] == y[:4])
    {'gru': 'gru', 'lstm (bias=1)': 'lstm'}
    """
    free = dict.fromkeys(theirs)
    found = {name: name if name in free else "" for name in ours}
    for partner in found.values():
        free.pop(partner, None)
    for name in [name for name, partner in found.items() if not partner]:
        candidates = [other for other in free if alike(name, other)]
        if len(candidates) == 1:
            found[name] = candidates[0]
            del free[candidates[0]]
    return {name: partner for name, partner in found.items() if partner}


def _same_task(a: Sweep, ours: Task, b: Sweep, theirs: Task) -> bool:
    """Whether two tasks of different names are the same variant with the same settings."""
    left, right = (s.training[s.training["task"] == t.key] for s, t in ((a, ours), (b, theirs)))
    known = "id" in ours.card and ours.card.get("id") == theirs.card.get("id")
    return known and _agree(_settings(a, left, ["task"]), _settings(b, right, ["task"]))


def _settings(sweep: Sweep, runs: pd.DataFrame, groups: Iterable[str]) -> dict[str, str]:
    """The settings of the first run that has a record, without ladders; empty without one."""
    for name in runs["folder"]:
        if name in sweep.records:
            config = sweep.records[name].config
            plain = {g: _plain(mapping(config.get(g))) for g in groups}
            return {key: value for key, value in flat(plain, groups).items() if key != "train.tuned"}
    return {}


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if not isinstance(value, list)}


def _agree(x: Mapping[str, str], y: Mapping[str, str]) -> bool:
    """Whether two settings are the same as far as both know them; a version may have new ones."""
    common = set(x) & set(y)
    return bool(common) and all(x[key] == y[key] for key in common)


def refusals(found: list[Pair]) -> list[str]:
    """Why scores of these pairs must not be compared, in words; empty where they may be."""
    told: dict[str, None] = {}
    for reason in (_variant, _task_settings, _data, _test_set, _budget, _size):
        told |= dict.fromkeys(reason(found))
    return list(told)


def unscored(a: Sweep, b: Sweep, contest: Contest, found: list[Pair]) -> Iterator[str]:
    """Diverged runs among pairs that no floor gives a score: leaving them out would hide what went wrong."""
    rungs = list(dict.fromkeys(pair.rung for pair in found))
    sides = (
        ("A", a, contest.task, contest.label, {pair.a.status for pair in found}),
        ("B", b, contest.theirs, contest.their_label, {pair.b.status for pair in found}),
    )
    for name, sweep, task, label, statuses in sides:
        if "diverged" in statuses and (words := summary.unscored(sweep, task, rungs).get(label)):
            yield f"{name}: {words}"


def _variant(found: list[Pair]) -> Iterator[str]:
    for pair in found:
        ids = [clean(run.card.get("id", "?"), 60) for run in (pair.a, pair.b)]
        if ids[0] != ids[1]:
            yield f"other variants of the task ({ids[0]} and {ids[1]})"


def _task_settings(found: list[Pair]) -> Iterator[str]:
    yield from _unequal(
        found, "other settings of the task", lambda key: key.startswith("task.") and key not in _PLACES
    )


def _budget(found: list[Pair]) -> Iterator[str]:
    yield from _unequal(found, "other budgets", lambda key: key in _BUDGET)


def _unequal(found: list[Pair], what: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Settings of which both records have one, and not the same."""
    for pair in found:
        x, y = (flat(run.config, ("task", "train", "match")) for run in (pair.a, pair.b))
        for key in x:
            if wanted(key) and key in y and x[key] != y[key]:
                yield f"{what} ({key} {clean(x[key], 40)} and {clean(y[key], 40)})"


def _data(found: list[Pair]) -> Iterator[str]:
    """Other training batches, or another source of them; a record that says nothing is believed."""
    other = [pair.seed for pair in found if not _same_batches(pair)]
    if other:
        seeds = ", ".join(map(str, sorted(set(other))[:_MOST_SEEDS]))
        yield f"other data (the hashes of the first training batches differ, seed {seeds})"
    if any(_differ(pair.a.ground.get("task"), pair.b.ground.get("task")) for pair in found):
        yield "other data files, or other code of a task that is not seqbench's own"


def _same_batches(pair: Pair) -> bool:
    """Whether no hash tells the data apart; that of ten batches counts where both runs had as many."""
    x, y = pair.a.metrics, pair.b.metrics
    steps = [
        min(value, _HASHED_BATCHES) if isinstance(value := m.get("steps"), int | float) else 0 for m in (x, y)
    ]
    first = _differ(x.get("first_batch_sha256"), y.get("first_batch_sha256"))
    return not first and not (steps[0] == steps[1] and _differ(x.get("data_sha256"), y.get("data_sha256")))


def _differ(x: object, y: object) -> bool:
    return isinstance(x, str) and isinstance(y, str) and x != y


def _test_set(found: list[Pair]) -> Iterator[str]:
    for pair in found:
        counts = [run.metrics.get("test_answers") for run in (pair.a, pair.b)]
        if all(isinstance(count, int | float) for count in counts) and counts[0] != counts[1]:
            yield f"other test sets ({counts[0]:g} and {counts[1]:g} answers)"


def _size(found: list[Pair]) -> Iterator[str]:
    for pair in found:
        sizes = [run.metrics.get("matched_parameters") for run in (pair.a, pair.b)]
        known = [float(size) for size in sizes if isinstance(size, int | float) and size > 0]
        if len(known) == 2 and max(known) > (1 + _SIZE_WITHIN) * min(known):
            yield f"other budgets ({known[0]:,.0f} and {known[1]:,.0f} parameters)"
