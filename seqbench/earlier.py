"""What records of earlier runs tell about those to come: how many steps they did, how scores spread."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import records, stats, store
from seqbench.metric import ACCURACY, METRICS
from seqbench.records import Run
from seqbench.store import DamagedFile

_MOST_RUNS = 3_000  # read for it, those of the newest sweeps first
_ENOUGH = 3  # runs, to expect no longer one
_NO_PART = ("speed", "stack", "device")


@dataclass(frozen=True)
class Spread:
    """How much paired differences on a task vary from seed to seed: a standard deviation, from some runs."""

    sd: float
    runs: int


@dataclass
class Earlier:
    """Finished training runs, by their settings.

    Attributes:
        steps: of each kind of run, the steps that runs of it did before they stopped.
        scores: of each task, the scores by model settings, seed and rung.
    """

    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    scores: dict[str, dict[str, dict[int, list[float]]]] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Iterator[Path]) -> Earlier:
        """What the runs of some sweeps tell."""
        found = cls()
        for run in itertools.islice(_runs(folders), _MOST_RUNS):
            found.add(run)
        return found

    def learn(self, runs: Iterable[Run]) -> None:
        """Take in runs that have just ended."""
        for run in runs:
            self.add(run)

    def add(self, run: Run) -> None:
        """Take in a run that ended well."""
        steps = run.metrics.get("steps")
        if run.status != "done" or isinstance(steps, str | bool | None):
            return
        if run.kind == "train":
            self.steps[kind_of(run.config)].append(float(steps))
            model = store.digest({key: run.config.get(key) for key in ("model", "network", "match", "train")})
            mine = self.scores.setdefault(run.task, {}).setdefault(model, {})
            mine.setdefault(run.seed, []).append(_score(run))

    def usual_steps(self, kind: str) -> float | None:
        """The mean steps of earlier runs of a kind (:func:`kind_of`); None without one."""
        known = self.steps.get(kind)
        return statistics.fmean(known) if known else None

    def most_steps(self, kind: str) -> float | None:
        """The most steps of earlier runs of a kind; None where they are too few to tell."""
        known = self.steps.get(kind, [])
        return max(known) if len(known) >= _ENOUGH else None

    def spread(self, task: str) -> Spread | None:
        """The spread of a paired difference on a task; None where records cannot tell it."""
        rows = [_whole(row) for row in self.scores.get(task, {}).values()]
        rows = [row for row in rows if len(row) > 1]
        seeds = sorted({seed for row in rows for seed in row})
        table = [[_mean(row.get(seed, [])) for seed in seeds] for row in rows]
        runs = sum(len(scores) for row in rows for scores in row.values())
        pooled = stats.pooled_spread(table) if rows else None
        sd = pooled.sd if pooled is not None else 0.0
        if len(table) == 2:
            sd = stats.paired(table[0], table[1]).sd
        return Spread(sd, runs) if sd > 0 else None


def kind_of(config: Mapping[str, Any]) -> str:
    """A hash of what runs have in common that differ in their seeds alone."""
    return store.digest({key: value for key, value in config.items() if key not in _NO_PART})


def _score(run: Run) -> float:
    loss, accuracy = (run.metrics.get(f"test_{name}") for name in ("loss", "accuracy"))
    metric = METRICS.get(str(run.card.get("metric")), ACCURACY)
    return metric.of(*(float(v) if isinstance(v, int | float) else math.nan for v in (loss, accuracy)))


def _whole(row: dict[int, list[float]]) -> dict[int, list[float]]:
    """The seeds of a model that have scores on all of its rungs."""
    rungs = max((len(scores) for scores in row.values()), default=0)
    return {seed: scores for seed, scores in row.items() if len(scores) == rungs}


def _mean(scores: list[float]) -> float:
    return statistics.fmean(scores) if scores else math.nan


def sweeps(runs_dir: Path, first: Path) -> Iterator[Path]:
    """The folders of sweeps, one of them first, then the newest."""
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError), os.scandir(runs_dir) as places:
        found = [(place.stat().st_mtime, Path(place.path)) for place in places if place.is_dir()]
    yield first
    yield from (path for _, path in sorted(found, reverse=True) if path != first)


def _runs(folders: Iterator[Path]) -> Iterator[Run]:
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as places:
            for place in sorted(places, key=lambda one: one.name):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, DamagedFile):
                    yield records.read_run(Path(place.path))
