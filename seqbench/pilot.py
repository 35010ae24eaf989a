"""What runs cost on this machine: each kind of run of a sweep, done with a few training steps, and timed.

A pilot is a run like any other (the same recorder, in a child process, beside as many others), so that
whatever a run does is in its time; held-out sets are read in part and counted whole. Its records are thrown
away.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from seqbench import store
from seqbench.batch import Batch
from seqbench.budget import UNKNOWN, Cost
from seqbench.config import Job
from seqbench.evaluate import evaluate
from seqbench.plan import Unit
from seqbench.recorder import Recorder
from seqbench.records import Run
from seqbench.tasks.base import Data, Writer
from seqbench.train import Training, planned_steps

_WARM_UP = 2  # steps that are not timed
_FEWEST_STEPS, _MOST_STEPS = 3, 200
_STEPS_S = 0.15  # time spent on steps, where they are quick
_HELD_OUT = 256  # rows of each held-out set


def time_runs(units: Sequence[Unit], allocator: bool, folder: Path, start_s: float) -> None:
    """Time the units that no process beside this one has taken; each leaves ``NUMBER.json``, a :class:`Cost`.

    Args:
        units: one of each kind; of a speed unit one rung is timed.
        allocator: whether glibc keeps freed memory.
        start_s: what it takes to start a process for a run.
    """
    for number, unit in enumerate(units):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(folder / f"{number}.taken", os.O_CREAT | os.O_EXCL))
            try:
                cost = _timed(_shortened(unit), allocator, start_s)
            except Exception as error:  # its run will fail the same way, and its record say how
                cost = dataclasses.replace(UNKNOWN, error=f"{unit.label}: {type(error).__name__}: {error}")
            store.write_file(folder / f"{number}.json", json.dumps(dataclasses.asdict(cost)).encode())


def _shortened(unit: Unit) -> Unit:
    """What the pilot does of a unit: of a speed unit one rung, and as few steps as are timed."""
    job = unit.job
    speed = dataclasses.replace(job.speed, seconds=0.0, min_steps=_FEWEST_STEPS, steps=[], batch_sizes=[])
    limit = dataclasses.replace(job.limit, memory_mib=None)
    job = dataclasses.replace(job, limit=limit, speed=speed if unit.kind == "speed" else job.speed)
    return dataclasses.replace(unit, jobs=(job,), stack="")


def _timed(unit: Unit, allocator: bool, start_s: float) -> Cost:
    store.make_folder(unit.folder)
    seen = Seen()
    unit = dataclasses.replace(unit, jobs=tuple(seen.watched(job) for job in unit.jobs))
    began = time.perf_counter()
    stages = Recorder(unit, allocator).stages()
    try:
        training = next(stages)
    except StopIteration as end:  # a speed unit, or a run that failed
        return _whole(end.value, start_s + time.perf_counter() - began)
    opened_s = time.perf_counter() - began
    parts = _parts(training)
    began = time.perf_counter()
    run = _ended(stages)
    closed_s = time.perf_counter() - began
    if run.status != "done":
        return _whole(run, math.nan)
    train, rows = unit.job.train, seen.rows
    row_s = parts["eval_s"] / max(1, rows["valid"][0])
    tested = [whole - kept for split, (kept, whole) in rows.items() if split != "valid"]
    rest_s = seen.left_out_s + sum(tested) * row_s
    peak = run.metrics.get("peak_memory_bytes")
    return Cost(
        fixed_s=start_s + opened_s + closed_s + (rest_s if unit.kind == "train" else 0.0),
        step_s=parts["step_s"],
        eval_s=row_s * rows["valid"][1],
        look_s=parts["look_s"],
        steps=seen.steps(training),
        every=train.eval_every,
        peak_bytes=int(peak) if isinstance(peak, int | float) else 0,
    )


def _whole(run: Run, seconds: float) -> Cost:
    """The cost of what has no parts, or why there is none."""
    if run.status == "done":
        return dataclasses.replace(UNKNOWN, fixed_s=seconds)
    error = run.error or {}
    return dataclasses.replace(UNKNOWN, error=f"{run.label}: {error.get('type')}: {error.get('message')}")


def _ended(stages: Generator[Training, None, Run]) -> Run:
    while True:
        try:
            next(stages)
        except StopIteration as end:
            run: Run = end.value
            return run


def _parts(training: Training) -> dict[str, float]:
    """Seconds of an evaluation, of a look of the probes and of a step; then training has come to its end."""
    began = time.perf_counter()
    evaluate(training.network, training.valid, training.config.precision)
    evaluated = time.perf_counter()
    if training.snapshot is not None:
        training.snapshot(training.network)
    looked = time.perf_counter()
    _steps(training, _WARM_UP)
    steps, start = 0, time.perf_counter()
    while steps < _FEWEST_STEPS or (time.perf_counter() - start < _STEPS_S and steps < _MOST_STEPS):
        _steps(training, 1)
        steps += 1
    step_s = (time.perf_counter() - start) / steps
    training.total = training.stepper.done
    look_s = looked - evaluated if training.snapshot is not None else 0.0
    return {"eval_s": evaluated - began, "look_s": look_s, "step_s": step_s}


def _steps(training: Training, count: int) -> None:
    for _ in range(count):
        training.stepper.step(training.draw().tensors(training.device))
    training.stepper.drain()


class Seen:
    """The data of a run, held-out sets in part; and what was left out of them.

    Attributes:
        rows: of each held-out set, how many rows were given and how many there are.
        left_out_s: what making the others takes.
    """

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, int]] = {}
        self.left_out_s = 0.0
        self._data: Data | None = None

    def watched(self, job: Job) -> Job:
        """A job whose task gives such data."""
        task = copy.copy(job.task)

        def opened(seed: int, cache: Path) -> Data:
            self._data = job.task.open(seed, cache)
            return Part(self._data, self)

        object.__setattr__(task, "open", opened)
        return dataclasses.replace(job, task=task)

    def steps(self, training: Training) -> int:
        """Steps of a whole run."""
        assert self._data is not None
        return planned_steps(training.config, self._data)

    def part(self, split: str, examples: int, given: list[Batch], seconds: float) -> list[Batch]:
        """Some of the batches of a set, from all over it; notes what is left out.

        Args:
            examples: rows that a run asks for; a fixed set gives all that it has.
            seconds: what making the batches took.
        """
        there = sum(len(batch.lengths_B) for batch in given)
        made = there == min(examples, _HELD_OUT)
        kept = given if made else given[:: max(1, there // _HELD_OUT)]
        rows = sum(len(batch.lengths_B) for batch in kept)
        whole = examples if made else there
        before = self.rows.get(split, (0, 0))
        self.rows[split] = (before[0] + rows, before[1] + whole)
        self.left_out_s += seconds * (whole / max(1, rows) - 1) if made else 0.0
        return kept


class Part(Data):
    """Data whose held-out sets are read in part."""

    def __init__(self, data: Data, seen: Seen) -> None:
        self._data, self._seen = data, seen
        self.vocabulary_size, self.classes, self.features = data.vocabulary_size, data.classes, data.features
        self.examples_per_epoch, self.floors, self.notes = data.examples_per_epoch, data.floors, data.notes

    def train(self, batch_size: int) -> Iterator[Batch]:
        return self._data.train(batch_size)

    def held_out(self, split: str, examples: int) -> list[Batch]:
        began = time.perf_counter()
        given = self._data.held_out(split, min(examples, _HELD_OUT))
        return self._seen.part(split, examples, given, time.perf_counter() - began)

    def probe(self, examples: int) -> Batch:
        return self._data.probe(examples)

    def writer(self) -> Writer | None:
        return self._data.writer()

    def slices(self, examples: int) -> Iterator[tuple[int, list[Batch]]]:
        began = time.perf_counter()
        for value, given in self._data.slices(min(examples, _HELD_OUT)):
            yield value, self._seen.part("slices", examples, given, time.perf_counter() - began)
            began = time.perf_counter()
