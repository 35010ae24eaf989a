"""Tuning: the same trials from the same space for every model, on validation, by successive halving.

All points start on a part of the budget, the better half goes on with twice as much, and the last round has
all of it. Every round starts anew, since the learning-rate schedule spans a trial's own steps.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import schema, store, tuned_file
from seqbench.config import Job, TrainConfig, settings
from seqbench.errors import UsageError
from seqbench.metric import ACCURACY, METRICS, Metric
from seqbench.models.base import ModelConfig
from seqbench.plan import Unit, finished, plan, trial_units
from seqbench.records import Run

_KEPT_TO_THE_END = 2  # a choice needs two
_EPOCHS_AT_LEAST = 0.001
_CLEAR_LOSS = 0.01  # a share of the loss at the floor
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
class Trial:
    """What came of one point in one round, over the task's rungs and the tuning seeds.

    Attributes:
        point: its number in the space.
        score: mean of the runs' best validation scores; ``loss``: of their lowest validation losses.
        steps: mean steps to solve; a run that did not solve counts with all of its steps.
        solved: how many runs solved the task.
        lost: why it counts as the worst, in words ("2 diverged"); empty when all runs are whole.
    """

    point: int
    score: float = math.nan
    loss: float = math.nan
    steps: float = math.nan
    solved: int = 0
    lost: str = ""


@dataclass(frozen=True)
class Scale:
    """How scores compare: ``floors`` are levels that need no learning, differences up to ``tie`` are none."""

    metric: Metric = ACCURACY
    floors: tuple[float, ...] = ()
    tie: float = ACCURACY.margin


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
        """Whether the lowest or the highest learning rate is the best."""
        return self.best in (0, self.study.job.tune - 1)

    @property
    def job(self) -> Job:
        """The job with what was found; as it was given when nothing was."""
        if self.best is None:
            return self.study.given
        found = self.study.at(self.study.space[self.best])
        return dataclasses.replace(found, train=dataclasses.replace(found.train, tuned=True))


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


def ranked(trials: Sequence[Trial], scale: Scale) -> list[Trial]:
    """Trials, the best first; those that failed stand at the end.

    The better validation score wins. Scores within the metric's margin of the best are told apart by what
    says more there: by the steps to solve where any run solved the task; at a floor as :func:`_at_the_floor`
    says, so that noise does not drop who has not begun to learn.
    """
    sign = -1 if scale.metric.higher else 1
    left = sorted((t for t in trials if not t.lost), key=lambda t: (sign * t.score, t.loss, t.point))
    found: list[Trial] = []
    while left:
        tied = [t for t in left if abs(t.score - left[0].score) <= scale.tie]
        if any(t.solved for t in tied):
            tied.sort(key=lambda t: (t.steps, t.loss, t.point))
        elif _is_floor(left[0].score, scale):
            tied = _at_the_floor(tied, found)
        else:
            tied = left[:1]
        found += tied
        left = [t for t in left if t not in tied]
    return found + [t for t in trials if t.lost]


def _at_the_floor(tied: Sequence[Trial], better: Sequence[Trial]) -> list[Trial]:
    """Trials whose scores say nothing, in the order in which to go on with them.

    A clearly lower loss says that learning has begun. Of the others those nearest to the best come first;
    where nothing has begun at all, they are taken from all over the range, its middle first.
    """
    usual = statistics.median(t.loss for t in tied)
    found = sorted((t for t in tied if t.loss < (1 - _CLEAR_LOSS) * usual), key=lambda t: (t.loss, t.point))
    left = sorted((t for t in tied if t not in found), key=lambda t: t.point)
    if best := [*better, *found][:1]:
        return found + sorted(left, key=lambda t: (abs(t.point - best[0].point), t.point))
    found = [left.pop((len(left) - 1) // 2)]
    while left:
        apart = [min(abs(t.point - other.point) for other in found) for t in left]
        found.append(left.pop(apart.index(max(apart))))
    return found


def _is_floor(score: float, scale: Scale) -> bool:
    """Whether a score is that of a floor, or below all of them."""
    worse = bool(scale.floors) and all(scale.metric.reaches(level, score) for level in scale.floors)
    return worse or any(abs(score - level) <= scale.tie for level in scale.floors)


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
    found: dict[str, Study] = {}
    for job in jobs:
        names = (job.task.name, job.model.name)
        alike = [one.model for one in jobs if (one.task.name, one.model.name) == names]
        study = _study(job, alike, keys)
        found.setdefault(study.base, study)
    return list(found.values())


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


def trial_of(point: int, runs: Sequence[Run | None], metric: Metric) -> Trial:
    """A trial from the records of its runs; None stands for one that failed."""
    scores = [_number(run, "best_valid_score") for run in runs]
    lost = [_loss_in_words(run, score) for run, score in zip(runs, scores, strict=True)]
    counts = {words: lost.count(words) for words in lost if words}
    told = ", ".join(f"{count} of {len(runs)} {words}" for words, count in counts.items())
    if told or not runs:
        return Trial(point, lost=told or "no runs")
    solved = [run.metrics.get("solved_step") for run in runs if run is not None]
    steps = [_number(r, "steps") if s is None else float(s) for r, s in zip(runs, solved, strict=True)]
    return Trial(
        point,
        score=_mean(scores),
        loss=_mean([_number(run, "best_valid_loss") for run in runs]),
        steps=_mean(steps),
        solved=sum(step is not None for step in solved),
    )


def _loss_in_words(run: Run | None, score: float) -> str:
    if run is None or run.status != "done":
        return "diverged" if run is not None else "failed"
    return "" if math.isfinite(score) else "without a score"


def _number(run: Run | None, name: str) -> float:
    value = run.metrics.get(name) if run is not None else None
    return math.nan if value is None or isinstance(value, str) else float(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def scale_of(runs: Sequence[Run]) -> Scale:
    """How to compare scores on a task, from the cards of runs on its rungs; floors are means over rungs."""
    cards = {run.rung: run.card for run in runs}
    metric = METRICS.get(str(next(iter(cards.values())).get("metric")), ACCURACY)
    levels = [card.get("floors") or {} for card in cards.values()]
    names = [name for name in levels[0] if all(name in one for one in levels)]
    tie = _mean([metric.tolerance(one) for one in levels])
    return Scale(metric, tuple(_mean([float(one[name]) for one in levels]) for name in names), tie)


def marked(units: list[Unit], found: Sequence[Finding], sweep: Path) -> list[Unit]:
    """The units of a comparison, with what each has in common with its trials."""
    bases = {
        unit.identity: finding.study.base
        for finding in found
        for unit in plan([dataclasses.replace(finding.job, canaries=False)], sweep)
    }
    return [dataclasses.replace(unit, base=bases.get(unit.identity, "")) for unit in units]
