"""The one training loop, the same for every model and task."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqbench.batch import Batch, TensorBatch
from seqbench.config import TrainConfig
from seqbench.evaluate import Score, evaluate
from seqbench.network import Network
from seqbench.tasks.base import Data

Columns = dict[str, list[Any]]
_HASHED_BATCHES = 10
_EXPLODED_LOSS = 1e4


class Diverged(Exception):
    """The loss or the gradient stopped being a finite, sensible number.

    Attributes:
        outcome: what had been logged until then.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome()


@dataclass
class Outcome:
    """What training left: curves, and whether and when the task was solved."""

    steps: Columns = field(default_factory=dict)
    parameters: Columns = field(default_factory=dict)
    evaluations: Columns = field(default_factory=dict)
    steps_done: int = 0
    train_cpu_s: float = 0.0
    train_wall_s: float = 0.0
    valid_tokens: int = 0
    solved_step: int | None = None
    solved_cpu_s: float | None = None
    best_accuracy: float = 0.0
    first_batch_sha256: str = ""
    data_sha256: str = ""


class Stepper:
    """One optimiser step with default logging: forward, backward, norms, clip, update.

    Nothing here waits for the device; :meth:`drain` does, once per logging interval.
    """

    def __init__(self, network: Network, config: TrainConfig, steps: int) -> None:
        self.network, self.config, self.total = network, config, steps
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.done = 0
        self._pending: list[tuple[float, Tensor, Tensor, Tensor]] = []

    def step(self, batch: TensorBatch) -> None:
        """Train on one batch."""
        lr = self.config.lr * rate(self.done, self.total, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        logits_NC, targets_N = self.network(batch)
        loss = F.cross_entropy(logits_NC, targets_N)
        loss.backward()
        norms_P, total = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self._pending.append((lr, loss.detach(), total, norms_P))

    def _clip(self) -> tuple[Tensor, Tensor]:
        """Norm of each parameter's gradient and of all together, before clipping; then clip."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        norms_P = torch.stack(torch._foreach_norm(grads))
        total = torch.linalg.vector_norm(norms_P)
        if self.config.clip > 0:
            torch._foreach_mul_(grads, (self.config.clip / (total + 1e-6)).clamp(max=1.0))
        return norms_P, total

    def drain(self) -> tuple[Columns, Columns]:
        """Fetch what was logged since the last call: per-step columns and per-parameter norms.

        Raises:
            Diverged: a logged loss or gradient norm is not finite, or the loss exploded.
        """
        rates, losses, totals, norms = zip(*self._pending, strict=True)
        self._pending = []
        table = torch.cat(
            [torch.stack(losses)[:, None], torch.stack(totals)[:, None], torch.stack(norms)], dim=1
        ).tolist()
        numbers = list(range(self.done - len(table) + 1, self.done + 1))
        steps: Columns = {
            "step": numbers,
            "loss": [row[0] for row in table],
            "gradient_norm": [row[1] for row in table],
            "learning_rate": list(rates),
        }
        for number, loss, norm in zip(numbers, steps["loss"], steps["gradient_norm"], strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)) or loss > _EXPLODED_LOSS:
                raise Diverged(f"step {number}: loss {loss:.4g}, gradient norm {norm:.4g}")
        columns = {name: [row[2 + i] for row in table] for i, name in enumerate(self.names)}
        return steps, {"step": numbers, **columns}


def rate(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate at ``step`` (from 0) relative to its peak: linear warm-up, then the schedule.

    >>> config = TrainConfig(warmup=0.1)
    >>> [round(rate(s, 100, config), 3) for s in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warm = round(config.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def planned_steps(config: TrainConfig, data: Data) -> int:
    """Steps of the budget; epochs count only where the data has an end."""
    if config.epochs is None or data.examples_per_epoch is None:
        return config.steps
    return max(1, math.ceil(config.epochs * data.examples_per_epoch / config.batch_size))


def fit(
    network: Network,
    data: Data,
    config: TrainConfig,
    solved_at: float | None,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
) -> Outcome:
    """Train until the budget is spent or the task is solved.

    Args:
        report: called with the progress after every logging interval.

    Raises:
        Diverged: with what was logged so far in its ``outcome`` attribute.
    """
    total = planned_steps(config, data)
    outcome = Outcome()
    stepper = Stepper(network, config, total)
    batches = _fingerprinted(data, config.batch_size, outcome)
    valid = [batch.tensors(device) for batch in data.held_out("valid", config.eval_examples)]
    best: dict[str, Tensor] | None = None
    accuracy: float | None = None
    network.train()
    try:
        while stepper.done < total:
            pause = min(next_stop(stepper.done, config), total)
            _steps(stepper, batches, pause, device, outcome)
            if pause % config.eval_every == 0 or pause == total:
                score = evaluate(network, valid)
                accuracy = score.accuracy
                if config.keep_best and score.accuracy >= outcome.best_accuracy:
                    best = copy.deepcopy(network.state_dict())
                _note_evaluation(outcome, score, solved_at)
            report({"step": pause, "steps": total, "loss": outcome.steps["loss"][-1], "accuracy": accuracy})
            if outcome.solved_step is not None and config.stop_when_solved:
                break
    except Diverged as error:
        error.outcome = outcome
        raise
    if best is not None:
        network.load_state_dict(best)
    return outcome


def next_stop(done: int, config: TrainConfig) -> int:
    """The next step at which to log or evaluate.

    >>> next_stop(40, TrainConfig(log_every=20, eval_every=50))
    50
    """
    return min((done // every + 1) * every for every in (config.log_every, config.eval_every))


def _steps(
    stepper: Stepper, batches: Iterator[Batch], until: int, device: torch.device, outcome: Outcome
) -> None:
    """Train up to step ``until`` and fetch the log; this is the timed region."""
    cpu, wall = time.process_time(), time.perf_counter()
    while stepper.done < until:
        batch = next(batches)
        outcome.valid_tokens += batch.valid_tokens
        stepper.step(batch.tensors(device))
    steps, parameters = stepper.drain()
    outcome.train_cpu_s += time.process_time() - cpu
    outcome.train_wall_s += time.perf_counter() - wall
    outcome.steps_done = stepper.done
    extend(outcome.steps, steps)
    extend(outcome.parameters, parameters)


def _note_evaluation(outcome: Outcome, score: Score, solved_at: float | None) -> None:
    """Keep an evaluation; the task counts as solved from the first of two scores in a row."""
    row = {
        "step": outcome.steps_done, "loss": score.loss, "accuracy": score.accuracy,
        "train_cpu_s": outcome.train_cpu_s, "train_wall_s": outcome.train_wall_s,
    }  # fmt: skip
    extend(outcome.evaluations, {key: [value] for key, value in row.items()})
    outcome.best_accuracy = max(outcome.best_accuracy, score.accuracy)
    last = outcome.evaluations["accuracy"][-2:]
    if outcome.solved_step is None and solved_at is not None and len(last) == 2 and min(last) >= solved_at:
        outcome.solved_step = outcome.evaluations["step"][-2]
        outcome.solved_cpu_s = outcome.evaluations["train_cpu_s"][-2]


def extend(columns: Columns, more: Columns) -> None:
    """Append rows to a table of columns."""
    for name, values in more.items():
        columns.setdefault(name, []).extend(values)


def _fingerprinted(data: Data, batch_size: int, outcome: Outcome) -> Iterator[Batch]:
    """Training batches; the first ten are checked, and hashed to prove that models saw equal data."""
    digest = hashlib.sha256()
    for number, batch in enumerate(data.train(batch_size)):
        if number < _HASHED_BATCHES:
            one = batch.checked(data.vocabulary_size, data.classes).digest()
            digest.update(one.encode())
            outcome.first_batch_sha256 = outcome.first_batch_sha256 or one
            outcome.data_sha256 = digest.hexdigest()
        yield batch
