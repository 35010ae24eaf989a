"""The one training loop, the same for every model and task."""

from __future__ import annotations

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
    skipped_steps: int = 0  # by the gradient scaler of float16
    graph_shapes: int = 0  # shapes of a batch that were captured as CUDA graphs
    eager_steps: int = 0  # steps without a graph, where there should be one


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
    """Train until the budget is spent or the task is solved: a :class:`Training`, with the same arguments.

    Raises:
        Diverged: with what was logged so far in its ``outcome`` attribute.
    """
    return Training(network, data, config, goal, device, report, checkpoint, snapshot).to_end()


class Training:
    """A network under training, from one pause to the next.

    It holds all that changes, so that it can be left and taken up again bit for bit, and be trained together
    with others (:mod:`seqbench.stacked`).

    Args:
        goal: what counts as better, and as solved.
        report: called with the progress after every logging interval.
        checkpoint: where to go on from, and to leave the state from time to time.
        snapshot: looks at the network after 10, 30, 100, 300, ... steps and gives tables.

    Attributes:
        stacked: with how many others, itself included, it began to be trained as one; 1: it was alone.
        not_stacked: why it was trained alone although it was to be trained with others; empty otherwise.
        error: what ended it while it was trained with others.
        sample: some held-out rows.
    """

    def __init__(
        self,
        network: Network,
        data: Data,
        config: TrainConfig,
        goal: Goal,
        device: torch.device,
        report: Callable[[dict[str, Any]], None],
        checkpoint: Checkpoint | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.network, self.config, self.goal, self.device = network, config, goal, device
        self.report, self.checkpoint, self.snapshot = report, checkpoint, snapshot
        self.total = planned_steps(config, data)
        self.stepper = Stepper(network, config, self.total)
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None  # weights, kept where the configuration asks for them
        self.score: float | None = None
        self.stacked, self.not_stacked = 1, ""
        self.error: Exception | None = None
        self._open(data, checkpoint.load() if checkpoint is not None else None)
        self._random = self._random_state()

    def _open(self, data: Data, state: dict[str, Any] | None) -> None:
        """Get everything ready for the first step, or for the one after the last of an earlier process."""
        if state is not None:
            self.restore(state)
        self.batches = _fingerprinted(data, self.config.batch_size, self.outcome)
        skip(self.batches, self.stepper.done)
        sizes = (data.vocabulary_size, data.classes, data.features)
        held_out = data.held_out("valid", self.config.eval_examples)
        self.sample = held_out[0].rows(0, self.config.batch_size)
        self.valid = [batch.checked(*sizes).tensors(self.device) for batch in held_out]
        if state is not None:
            self.restore_random(state)  # last: drawing the data again may have used it
        self.network.train()

    @property
    def ended(self) -> bool:
        """Whether the budget is spent, or the task is solved and that is enough."""
        solved = self.outcome.solved_step is not None and self.config.stop_when_solved
        return solved or self.stepper.done >= self.total

    @property
    def next_pause(self) -> int:
        """The step after which to look up from training."""
        return min(next_stop(self.stepper.done, self.config), self.total)

    def to_end(self) -> Outcome:
        """Train what is left to train, alone.

        Raises:
            Diverged: with what was logged so far in its ``outcome`` attribute.
            Exception: what ended it while it was trained together with others.
        """
        if self.error is not None:
            raise self.error
        if self.stacked == 1:
            self.take_random()
        try:
            while not self.ended:
                self._to_next_pause()
                self.pause()
                if self.due:
                    self.save()
        except Diverged as error:
            error.outcome = self.outcome
            raise
        if self.best is not None:
            self.network.load_state_dict(self.best)
        return self.outcome

    def _to_next_pause(self) -> None:
        """Train and fetch the log; this is the timed region."""
        cpu, wall, until = time.process_time(), time.perf_counter(), self.next_pause
        while self.stepper.done < until:
            self.stepper.step(self.draw().tensors(self.device))
        log = self.stepper.drain()
        self.note(log, self.stepper.counts(), time.process_time() - cpu, time.perf_counter() - wall)

    def draw(self) -> Batch:
        """The next batch to train on."""
        batch = next(self.batches)
        self.outcome.valid_tokens += batch.valid_tokens
        return batch

    def note(
        self, log: tuple[Columns, Columns, Columns], counts: dict[str, int], cpu_s: float, wall_s: float
    ) -> None:
        """Keep the log of the steps since the last pause, what was counted so far, and what they took."""
        outcome, (steps, parameters, updates) = self.outcome, log
        outcome.train_cpu_s += cpu_s
        outcome.train_wall_s += wall_s
        outcome.steps_done = self.stepper.done
        for name, count in counts.items():
            setattr(outcome, name, count)
        extend(outcome.steps, steps)
        extend(outcome.parameters, parameters)
        extend(outcome.updates, updates)

    def pause(self) -> None:
        """Look, evaluate and report, whatever is due after this step."""
        step, last = self.stepper.done, self.stepper.done == self.total
        if self.snapshot is not None and is_snapshot(step) and not last:
            self.look(self.snapshot)
        if step % self.config.eval_every == 0 or last:
            self.judge(evaluate(self.network, self.valid, self.config.precision))
        self.report(self.progress(self.total))

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return self.checkpoint is not None and not self.ended and self.checkpoint.due()

    def save(self) -> None:
        """Leave the state for a later process, if there is a place for it."""
        if self.checkpoint is not None:
            self.checkpoint.save(self.state())

    def judge(self, score: Score) -> None:
        """Note an evaluation, and keep the weights if they are the best so far."""
        outcome, metric = self.outcome, self.goal.metric
        self.score = metric.of(score.loss, score.accuracy)
        if outcome.best_score is None or metric.reaches(self.score, outcome.best_score):
            outcome.best_score = self.score
            if self.config.keep_best:
                self.best = _copied(self.network.state_dict())
        _note_evaluation(outcome, score, self.goal)

    def look(self, snapshot: Snapshot) -> None:
        """Keep what probes find now."""
        for name, columns in snapshot(self.network).items():
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
        return {
            **self._random_state(),
            "network": _copied(self.network.state_dict()),
            "optimizer": _copied(self.stepper.optimizer.state_dict()),
            "best": self.best,
            "score": self.score,
            "stepper": self.stepper.state(),
            "outcome": outcome,
            "tables": {name: _packed(columns) for name, columns in tables.items()},
            "snapshots": {name: _packed(columns) for name, columns in self.outcome.snapshots.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of :meth:`state`, but for the random generators."""
        self.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.restore(state["stepper"])
        self.best, self.score = state["best"], state["score"]
        tables = {name: _unpacked(columns) for name, columns in state["tables"].items()}
        looks = {name: _unpacked(columns) for name, columns in state["snapshots"].items()}
        whole = state["outcome"] | tables | {"snapshots": looks, "resumed_step": self.stepper.done}
        self.outcome = Outcome(**whole)

    def take_random(self) -> None:
        """Draw from here on what would have been drawn when this training had just been made."""
        self.restore_random(self._random)

    def _random_state(self) -> dict[str, Any]:
        on_cuda = self.device.type == "cuda"
        return {
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        }

    def restore_random(self, state: dict[str, Any]) -> None:
        """Set torch's random generators, so that dropout goes on where it was."""
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)


def _copied(state: Any) -> Any:
    """A copy of a state in memory of its own: weights may be views of several networks' together."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


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
