"""Tuning: the same trials from the same space for every model, on validation, by successive halving.

All points start on a part of the budget, the better half goes on with twice as much, and the last round has
all of it. Every round starts anew, since the learning-rate schedule spans a trial's own steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import schema, store, tuned_file
from seqbench.config import Job, TrainConfig, reference_of, settings
from seqbench.errors import UsageError
from seqbench.metric import Scale
from seqbench.models.base import ModelConfig
from seqbench.plan import Unit, finished, plan, trial_units
from seqbench.trials import Trial, ranked, scale_of, trial_of

_KEPT_TO_THE_END = 2  # a choice needs two
_EPOCHS_AT_LEAST = 0.001
Stage = Callable[[list[Unit], str], bool]  # runs what is planned, says what it is; False: stop


@dataclass(frozen=True)
class Point:
    """One point of the space: a learning rate, and values of what else the model declares."""

    lr: float
    others: Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """How many trials of each model run, and on which share of the steps."""

    trials: int
    share: float


@dataclass(frozen=True)
class Study:
    """The search for one job.

    Attributes:
        given: the job as it was composed.
        job: the same without what is searched: the default learning rate, and defaults for ``free``.
        free: settings of the model that are varied beside the learning rate, with their values.
    """

    given: Job
    job: Job
    free: Mapping[str, tuple[Any, ...]]

    @property
    def base(self) -> str:
        """What the trials and the runs of the comparison have in common, as a hash."""
        return store.digest({"job": settings(self.job)})[:16]

    @property
    def space(self) -> list[Point]:
        """The points, by rising learning rate."""
        job = self.job
        return points(job.tune, job.tuning.low, job.tuning.high, self.free)

    def at(self, point: Point, share: float = 1.0) -> Job:
        """The job at a point of the space, on a share of its budget."""
        train = dataclasses.replace(budget(self.job.train, share), lr=point.lr)
        model = dataclasses.replace(self.job.model, **point.others)
        return dataclasses.replace(self.job, train=train, model=model)


@dataclass
class Finding:
    """What a search found.

    Attributes:
        rounds: of each round the job's training settings and its trials, the best first.
        best: number of the chosen point; None when no trial ended well.
    """

    study: Study
    scale: Scale
    rounds: list[tuple[TrainConfig, list[Trial]]]

    @property
    def best(self) -> int | None:
        """The best of the last round that has a trial which did not fail then or later."""
        failed: set[int] = set()
        for _, trials in reversed(self.rounds):
            failed |= {trial.point for trial in trials if trial.lost}
            for trial in trials:
                if trial.point not in failed:
                    return trial.point
        return None

    @property
    def at_edge(self) -> bool:
        """Whether the best is the lowest or the highest learning rate, and one beyond may be better.

        That is where the model learned something, and clearly more than at the next rate, on the largest
        budget that both got.
        """
        last = self.study.job.tune - 1
        if self.best is None or self.best not in (0, last):
            return False
        inner = 1 if self.best == 0 else last - 1
        scores = [{trial.point: trial.score for trial in trials} for _, trials in self.rounds]
        mine = [one for one in scores if self.best in one]
        both = [one for one in mine if inner in one]
        if not both or self.scale.at_floor(mine[-1][self.best]):
            return False
        return self.scale.clearly_better(both[-1][self.best], both[-1][inner])

    @property
    def job(self) -> Job:
        """The job with what was found; as it was given when nothing was."""
        if self.best is None:
            return self.study.given
        found = self.study.at(self.study.space[self.best])
        return dataclasses.replace(found, train=dataclasses.replace(found.train, tuned=True))

    def at_seeds(self, seeds: list[int]) -> Finding:
        """The same for a comparison at other seeds."""
        given, job = (dataclasses.replace(one, seeds=seeds) for one in (self.study.given, self.study.job))
        return dataclasses.replace(self, study=dataclasses.replace(self.study, given=given, job=job))


def points(count: int, low: float, high: float, others: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    """The points of a search, a function of the space alone.

    The learning rates are evenly spaced on a logarithmic axis, to three digits (more where two would be
    equal), and the same for every model. What else a model declares is spread over them by a low-discrepancy
    sequence (Halton's; together they are a Hammersley set).

    >>> [point.lr for point in points(5, 3e-4, 3e-2, {})]
    [0.0003, 0.000949, 0.003, 0.00949, 0.03]
    >>> [point.others["bias"] for point in points(6, 3e-4, 3e-2, {"bias": (None, 1.0, 3.0)})]
    [None, 1.0, None, 3.0, None, 1.0]
    """
    exact = [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    digits = next((d for d in range(3, 17) if len({f"{lr:.{d}g}" for lr in exact}) == count), 17)
    rates = [float(f"{lr:.{digits}g}") for lr in exact]
    if not others:
        return [Point(lr, {}) for lr in rates]
    from scipy.stats import qmc

    spread = qmc.Halton(len(others), scramble=False).random(count).T.tolist()
    columns = {
        name: [values[int(u * len(values))] for u in column]
        for (name, values), column in zip(others.items(), spread, strict=True)
    }
    return [Point(lr, {name: column[i] for name, column in columns.items()}) for i, lr in enumerate(rates)]


def rounds(trials: int, halvings: int) -> list[Round]:
    """How a search goes: each round half of the trials, twice the steps; two at least reach the end.

    >>> [(one.trials, one.share) for one in rounds(8, 2)]
    [(8, 0.25), (4, 0.5), (2, 1.0)]
    """
    return [
        Round(max(_KEPT_TO_THE_END, math.ceil(trials / 2**number)), 0.5 ** (halvings - number))
        for number in range(halvings + 1)
    ]


def budget(train: TrainConfig, share: float) -> TrainConfig:
    """A share of the steps, or of the passes over a fixed data set."""
    epochs = None if train.epochs is None else max(_EPOCHS_AT_LEAST, train.epochs * share)
    return dataclasses.replace(train, steps=max(1, round(train.steps * share)), epochs=epochs)


def studies(jobs: Sequence[Job], words: Sequence[str]) -> list[Study]:
    """The searches that a command asks for; none where it does not tune.

    Raises:
        UsageError: what cannot be tuned, before anything runs.
    """
    if not any(job.tune for job in jobs):
        return []
    if len({(job.tune, repr(job.tuning)) for job in jobs}) > 1:
        raise UsageError("tune and tuning.*: give one value, the same trials for every model")
    keys = {word.split("=")[0].lstrip("+~") for word in words}
    if fixed := keys & {"train.lr", "train.tuned"}:
        raise UsageError(
            f"tune={jobs[0].tune} with {min(fixed)}: tuning chooses the learning rate: leave one of them out"
        )
    tuned_file.check_folder(jobs[0])
    found = []
    for job in jobs:
        names = (job.task.name, job.model.name)
        alike = [one.model for one in jobs if (one.task.name, one.model.name) == names]
        _check_rounds(job)
        found.append(_study(job, alike, keys))
    neutral = _matched([study.job for study in found])
    found = [dataclasses.replace(study, job=job) for study, job in zip(found, neutral, strict=True)]
    return list({study.base: study for study in reversed(found)}.values())[::-1]


def _check_rounds(job: Job) -> None:
    """Refuse rounds of equal length: a second one would only repeat the first.

    Raises:
        UsageError: with the most halvings that the budget allows.
    """
    most = job.tuning.halvings
    spent = [budget(job.train, 0.5**number) for number in range(most + 1)]
    lengths = [one.steps if one.epochs is None else one.epochs for one in spent]
    fine = next((number for number in range(most) if lengths[number] == lengths[number + 1]), most)
    if fine < most:
        raise UsageError(
            f"tuning.halvings={most}: {_budget_in_words(job.train)} can be halved {fine} times, then rounds "
            f"are equally long: choose tuning.halvings={fine}, or train longer"
        )


def _study(job: Job, alike: Sequence[ModelConfig], keys: set[str]) -> Study:
    """The search for a job.

    A setting that was typed, or that the sweep or an experiment chose, is not varied.

    Args:
        alike: the model in every job of its name and task.
        keys: the settings that were typed.

    Raises:
        UsageError: the model declares values that it does not take.
    """
    model, usual = job.model, tuned_file.usual_settings(job)
    declared = type(model).tuned_settings if job.tuning.others else {}
    schema.check_varied(type(model)(), declared, f"model '{model.name}': tuned_settings", "model.")
    free = {
        name: tuple(values)
        for name, values in declared.items()
        if f"model.{name}" not in keys
        and all(getattr(one, name) == getattr(model, name) for one in alike)
        and getattr(model, name) in usual(name)
    }
    default = type(model)()
    neutral = dataclasses.replace(model, **{name: getattr(default, name) for name in free})
    for name, values in free.items():
        for value in values:
            schema.check(dataclasses.replace(neutral, **{name: value}), "model.")
    train = dataclasses.replace(job.train, lr=TrainConfig.lr, tuned=False)
    return Study(job, dataclasses.replace(job, model=neutral, train=train), free)


def search(wanted: Sequence[Study], stage: Stage, sweep: Path) -> list[Finding] | None:
    """Run the trials of all studies round by round; None where ``stage`` was stopped."""
    found = [Finding(study, Scale(), []) for study in wanted]
    left = [list(range(study.job.tune)) for study in wanted]
    schedule = rounds(wanted[0].job.tune, wanted[0].job.tuning.halvings)
    for number, round_ in enumerate(schedule):
        units = [
            {point: _units(study, point, round_.share, sweep) for point in points_left}
            for study, points_left in zip(wanted, left, strict=True)
        ]
        flat = [unit for mine in units for some in mine.values() for unit in some]
        if not stage(flat, _announcement(wanted, number, schedule)):
            return None
        following = schedule[number + 1].trials if number + 1 < len(schedule) else 0
        for finding, mine in zip(found, units, strict=True):
            _judge(finding, mine, round_.share)
        left = [[t.point for t in f.rounds[-1][1] if not t.lost][:following] for f in found]
    return found


def _units(study: Study, point: int, share: float, sweep: Path) -> list[Unit]:
    return trial_units(study.at(study.space[point], share), sweep, study.base)


def _announcement(wanted: Sequence[Study], number: int, schedule: Sequence[Round]) -> str:
    """What a round does, in a line."""
    steps = dict.fromkeys(_budget_in_words(budget(s.job.train, schedule[number].share)) for s in wanted)
    tasks = {study.job.task.name for study in wanted}
    count = len(wanted) / len(tasks)
    models = f"each of {count:g} models" if count > 1 else wanted[0].job.model.name
    models += f" on {len(tasks)} tasks" if len(tasks) > 1 else ""
    trials = schedule[number].trials
    return f"tuning {number + 1} of {len(schedule)}: {trials} trials for {models}, {' or '.join(steps)}"


def _budget_in_words(train: TrainConfig) -> str:
    return f"{train.steps} steps" if train.epochs is None else f"{train.epochs:g} passes"


def _judge(finding: Finding, units: Mapping[int, list[Unit]], share: float) -> None:
    """Add a round's trials to a finding, from their records."""
    runs = {point: [finished(unit) for unit in some] for point, some in units.items()}
    whole = [run for some in runs.values() for run in some if run is not None and run.status == "done"]
    if whole:
        finding.scale = scale_of(whole)
    trials = [trial_of(point, some, finding.scale.metric) for point, some in runs.items()]
    finding.rounds.append((budget(finding.study.job.train, share), ranked(trials, finding.scale)))


def compared(found: Sequence[Finding]) -> list[Job]:
    """The jobs of the comparison, matched (where another's cost counts) to the first as it was tuned."""
    return _matched([finding.job for finding in found])


def _matched(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that are matched to the first of them, instead of to a model as it was before."""
    return [
        dataclasses.replace(job, match=dataclasses.replace(job.match, reference=reference_of(job, jobs)))
        for job in jobs
    ]


def marked(units: list[Unit], found: Sequence[Finding], sweep: Path) -> list[Unit]:
    """The units of a comparison, with what each has in common with its trials."""
    bases = {
        unit.identity: finding.study.base
        for finding, job in zip(found, compared(found), strict=True)
        for unit in plan([dataclasses.replace(job, canaries=False)], sweep)
    }
    return [dataclasses.replace(unit, base=bases.get(unit.identity, "")) for unit in units]
