"""Undisturbed speed on the task's own batches: every training step and forward pass timed on its own."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqbench.batch import TensorBatch
from seqbench.config import SpeedConfig, TrainConfig
from seqbench.memory import PeakMeter, saved_bytes
from seqbench.network import Network, answer_loss
from seqbench.precision import computing_in, widened
from seqbench.stepper import Columns, Stepper, extend
from seqbench.tasks.base import Data
from seqbench.timing import time_steps, work_s

WARM_UP = 3  # steps that are not timed: one before memory is looked at, and two after
_BATCHES = 32
_SHARE_FORWARD = 1 / 3  # of the time that is spent on training steps


@dataclass(frozen=True)
class Timed:
    """Steps of one kind on some batches.

    Attributes:
        steps: of each timed step the number of its batch, its seconds, and its CPU seconds.
        memory_bytes: peak above what stood before: activations, gradients and temporaries; not parameters,
            optimiser state and torch itself.
    """

    mode: str
    steps: list[tuple[int, float, float]]
    memory_bytes: int


def time_rung(
    network: Network,
    data: Data,
    train: TrainConfig,
    speed: SpeedConfig,
    device: torch.device,
    rung: int | None,
) -> Columns:
    """Time the training step and the forward pass on the task's own batches.

    Returns:
        One row per timed step: ``rung, mode ("train" or "forward"), step_s, cpu_s, work_s, valid_tokens,
        padded_tokens, batch_size, memory_bytes, saved_bytes``: the last is what autograd keeps for the
        backward pass of the batch with the most padded tokens.
    """
    batches = list(itertools.islice(data.train(train.batch_size), _BATCHES))
    largest = max(batches, key=lambda batch: batch.ids_BT.size)
    kept = saved_activations(network, largest.tensors(device), train.precision)
    columns: Columns = {}
    ready = [functools.partial(batch.tensors, device) for batch in batches]
    for timed in time_both(network, train, speed, device, ready):
        for number, step_s, cpu_s in timed.steps:
            batch = batches[number]
            row: dict[str, Any] = {
                "rung": rung, "mode": timed.mode, "step_s": step_s, "cpu_s": cpu_s,
                "work_s": work_s(device, step_s, cpu_s), "valid_tokens": batch.valid_tokens,
                "padded_tokens": batch.ids_BT.size, "batch_size": len(batch.lengths_B),
                "memory_bytes": timed.memory_bytes, "saved_bytes": kept,
            }  # fmt: skip
            extend(columns, {key: [value] for key, value in row.items()})
    return columns


def time_both(
    network: Network,
    train: TrainConfig,
    speed: SpeedConfig,
    device: torch.device,
    batches: Sequence[Callable[[], TensorBatch]],
) -> Iterable[Timed]:
    """Time training steps with all default logging, then forward passes; no point longer than its limit."""
    stepper = Stepper(network, train, steps=10_000)

    def train_step(batch: TensorBatch) -> None:
        stepper.step(batch)
        if stepper.done % train.log_every == 0:
            stepper.drain()

    def forward(batch: TensorBatch) -> None:
        with torch.no_grad(), computing_in(train.precision, device):
            network(batch)

    network.train()
    train_step(batches[0]())  # the optimiser's state, which is no part of a step's memory
    for ready in batches if train.cuda_graph else ():
        stepper.step(ready())  # every shape is captured before anything is timed
    for mode, work, share in (("train", train_step, 1.0), ("forward", forward, _SHARE_FORWARD)):
        network.train(mode == "train")
        memory = PeakMeter(device)
        steps = [functools.partial(_step, work, ready) for ready in batches]
        limits = (speed.seconds * share, speed.min_steps, speed.point_s * share)
        took = time_steps(steps, device, *limits)
        yield Timed(mode, took, memory.bytes())


def _step(work: Callable[[TensorBatch], None], ready: Callable[[], TensorBatch]) -> None:
    work(ready())


def saved_activations(network: Network, batch: TensorBatch, precision: str = "float32") -> int:
    """Bytes that autograd keeps for the backward pass of a batch, parameters and the batch not counted."""
    inputs = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    known = [*network.parameters(), *network.buffers(), *inputs]

    def loss() -> Tensor:
        with computing_in(precision, batch.ids_BT.device):
            outputs_NC, targets_N = network.train()(batch)
        return answer_loss(widened(outputs_NC), targets_N)

    return saved_bytes(loss, known)


def load_average() -> float:
    """Processes that wanted a core during the last minute."""
    return os.getloadavg()[0]
