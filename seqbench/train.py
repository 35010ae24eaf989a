"""The one training loop, the same for every model and task."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqbench.batch import Batch
from seqbench.checkpoint import Checkpoint
from seqbench.config import TrainConfig
from seqbench.evaluate import Score, evaluate
from seqbench.metric import Goal
from seqbench.network import Network
from seqbench.stepper import Columns, Diverged, Stepper, extend
from seqbench.tasks.base import Data

_HASHED_BATCHES = 10
_TABLES = ("steps", "parameters", "updates", "evaluations")
Snapshot = Callable[[Network], dict[str, Columns]]  # the tables of some probes, by name


@dataclass
class Outcome:
    """What training left: curves, and whether and when the task was solved."""

    steps: Columns = field(default_factory=dict)
    parameters: Columns = field(default_factory=dict)
    updates: Columns = field(default_factory=dict)
    evaluations: Columns = field(default_factory=dict)
    snapshots: dict[str, Columns] = field(default_factory=dict)  # what probes found on the way, with "step"
    steps_done: int = 0
    train_cpu_s: float = 0.0
    train_wall_s: float = 0.0
    valid_tokens: int = 0
    solved_step: int | None = None
    solved_cpu_s: float | None = None
    best_score: float | None = None
    first_batch_sha256: str = ""
    data_sha256: str = ""
    resumed_step: int = 0


def planned_steps(config: TrainConfig, data: Data) -> int:
    """Steps of the budget; epochs count only where the data has an end."""
    if config.epochs is None or data.examples_per_epoch is None:
        return config.steps
    return max(1, math.ceil(config.epochs * data.examples_per_epoch / config.batch_size))


def fit(
    network: Network,
    data: Data,
    config: TrainConfig,
    goal: Goal,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    checkpoint: Checkpoint | None = None,
    snapshot: Snapshot | None = None,
) -> Outcome:
    """Train until the budget is spent or the task is solved.

    Args:
        goal: what counts as better, and as solved.
        report: called with the progress after every logging interval.
        checkpoint: where to go on from, and to leave the state from time to time.
        snapshot: looks at the network after 10, 30, 100, 300, ... steps and gives tables.

    Raises:
        Diverged: with what was logged so far in its ``outcome`` attribute.
    """
    total = planned_steps(config, data)
    run = Training(Stepper(network, config, total), device, goal)
    state = checkpoint.load() if checkpoint is not None else None
    if state is not None:
        run.restore(state)
    outcome = run.outcome
    batches = _fingerprinted(data, config.batch_size, outcome)
    skip(batches, run.stepper.done)
    sizes = (data.vocabulary_size, data.classes, data.features)
    valid = [batch.checked(*sizes).tensors(device) for batch in data.held_out("valid", config.eval_examples)]
    if state is not None:
        run.restore_random(state)  # last: drawing the data again may have used it
    network.train()
    try:
        while run.stepper.done < total:
            pause = min(next_stop(run.stepper.done, config), total)
            _steps(run.stepper, batches, pause, device, outcome)
            if snapshot is not None and is_snapshot(pause) and pause < total:
                run.look(snapshot)
            if pause % config.eval_every == 0 or pause == total:
                run.judge(evaluate(network, valid))
            report(run.progress(total))
            if outcome.solved_step is not None and config.stop_when_solved:
                break
            if checkpoint is not None and checkpoint.due() and pause < total:
                checkpoint.save(run.state())
    except Diverged as error:
        error.outcome = outcome
        raise
    if run.best is not None:
        network.load_state_dict(run.best)
    return outcome


class Training:
    """All that changes while a network is trained, so that it can be left and taken up again bit for bit."""

    def __init__(self, stepper: Stepper, device: torch.device, goal: Goal) -> None:
        self.stepper, self.device, self.goal = stepper, device, goal
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None  # weights, kept where the configuration asks for them
        self.score: float | None = None

    def judge(self, score: Score) -> None:
        """Note an evaluation, and keep the weights if they are the best so far."""
        outcome, metric = self.outcome, self.goal.metric
        self.score = metric.of(score.loss, score.accuracy)
        if outcome.best_score is None or metric.reaches(self.score, outcome.best_score):
            outcome.best_score = self.score
            if self.stepper.config.keep_best:
                self.best = copy.deepcopy(self.stepper.network.state_dict())
        _note_evaluation(outcome, score, self.goal)

    def look(self, snapshot: Snapshot) -> None:
        """Keep what probes find now."""
        for name, columns in snapshot(self.stepper.network).items():
            if rows := len(next(iter(columns.values()), [])):
                table = self.outcome.snapshots.setdefault(name, {})
                extend(table, {"step": [self.stepper.done] * rows, **columns})

    def progress(self, total: int) -> dict[str, Any]:
        """Where training is, for the display."""
        return {
            "step": self.stepper.done, "steps": total, "first_step": self.outcome.resumed_step,
            "loss": self.outcome.steps["loss"][-1], "score": self.score, "metric": self.goal.metric.short,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Everything as tensors and plain values. The data's place follows from the number of steps."""
        outcome = dataclasses.asdict(self.outcome)
        tables = {name: outcome.pop(name) for name in _TABLES}
        outcome.pop("snapshots")
        on_cuda = self.device.type == "cuda"
        return {
            "network": self.stepper.network.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if on_cuda else None,
            "best": self.best,
            "score": self.score,
            "done": self.stepper.done,
            "outcome": outcome,
            "tables": {name: _packed(columns) for name, columns in tables.items()},
            "snapshots": {name: _packed(columns) for name, columns in self.outcome.snapshots.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of :meth:`state`, but for the random generators."""
        self.stepper.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.done = state["done"]
        self.best, self.score = state["best"], state["score"]
        tables = {name: _unpacked(columns) for name, columns in state["tables"].items()}
        looks = {name: _unpacked(columns) for name, columns in state["snapshots"].items()}
        whole = state["outcome"] | tables | {"snapshots": looks, "resumed_step": state["done"]}
        self.outcome = Outcome(**whole)

    def restore_random(self, state: dict[str, Any]) -> None:
        """Set torch's random generators, so that dropout goes on where it was."""
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)


def _packed(columns: Columns) -> dict[str, Tensor | list[Any]]:
    """Columns of numbers as tensors that give back the same bits; texts as they are."""
    kinds = {int: torch.int64, float: torch.float64}
    return {
        name: values if isinstance(values[0], str) else torch.tensor(values, dtype=kinds[type(values[0])])
        for name, values in columns.items()
    }


def _unpacked(columns: dict[str, Tensor | list[Any]]) -> Columns:
    return {n: values.tolist() if isinstance(values, Tensor) else values for n, values in columns.items()}


def skip(batches: Iterator[Batch], count: int) -> None:
    """Draw the batches that an earlier process trained on, so that the next one is the same as without it."""
    for _ in itertools.islice(batches, count):
        pass


def next_stop(done: int, config: TrainConfig) -> int:
    """The next step at which to log, evaluate or look.

    >>> [next_stop(done, TrainConfig(log_every=20, eval_every=50)) for done in (0, 10, 40)]
    [10, 20, 50]
    """
    stops = [(done // every + 1) * every for every in (config.log_every, config.eval_every)]
    return min([*stops, next(step for step in snapshot_steps() if step > done)])


def snapshot_steps() -> Iterator[int]:
    """Steps spaced evenly on a logarithmic axis.

    >>> list(itertools.islice(snapshot_steps(), 5))
    [10, 30, 100, 300, 1000]
    """
    return (lead * 10**power for power in itertools.count(1) for lead in (1, 3))


def is_snapshot(step: int) -> bool:
    """Whether a step is one of :func:`snapshot_steps`."""
    return step in itertools.takewhile(lambda one: one <= step, snapshot_steps())


def _steps(
    stepper: Stepper, batches: Iterator[Batch], until: int, device: torch.device, outcome: Outcome
) -> None:
    """Train up to step ``until`` and fetch the log; this is the timed region."""
    cpu, wall = time.process_time(), time.perf_counter()
    while stepper.done < until:
        batch = next(batches)
        outcome.valid_tokens += batch.valid_tokens
        stepper.step(batch.tensors(device))
    steps, parameters, updates = stepper.drain()
    outcome.train_cpu_s += time.process_time() - cpu
    outcome.train_wall_s += time.perf_counter() - wall
    outcome.steps_done = stepper.done
    extend(outcome.steps, steps)
    extend(outcome.parameters, parameters)
    extend(outcome.updates, updates)


def _note_evaluation(outcome: Outcome, score: Score, goal: Goal) -> None:
    """Keep an evaluation; the task counts as solved from the first of two scores in a row."""
    row = {
        "step": outcome.steps_done, "loss": score.loss, "accuracy": score.accuracy,
        "train_cpu_s": outcome.train_cpu_s, "train_wall_s": outcome.train_wall_s,
    }  # fmt: skip
    extend(outcome.evaluations, {key: [value] for key, value in row.items()})
    pairs = zip(outcome.evaluations["loss"][-2:], outcome.evaluations["accuracy"][-2:], strict=True)
    if outcome.solved_step is None and goal.solves([goal.metric.of(*pair) for pair in pairs]):
        outcome.solved_step = outcome.evaluations["step"][-2]
        outcome.solved_cpu_s = outcome.evaluations["train_cpu_s"][-2]


def _fingerprinted(data: Data, batch_size: int, outcome: Outcome) -> Iterator[Batch]:
    """Training batches; the first ten are checked, and hashed to prove that models saw equal data."""
    digest = hashlib.sha256()
    for number, batch in enumerate(data.train(batch_size)):
        if number < _HASHED_BATCHES:
            one = batch.checked(data.vocabulary_size, data.classes, data.features).digest()
            digest.update(one.encode())
            outcome.first_batch_sha256 = outcome.first_batch_sha256 or one
            outcome.data_sha256 = digest.hexdigest()
        yield batch
