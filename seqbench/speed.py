"""Undisturbed speed: every training step and forward pass timed on its own, raw seconds kept."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from seqbench.batch import Batch, TensorBatch
from seqbench.config import SpeedConfig, TrainConfig
from seqbench.memory import PeakMeter
from seqbench.network import Network
from seqbench.tasks.base import Data
from seqbench.train import Columns, Stepper, extend

_WARM_UP = 2
_BATCHES = 32


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
        One row per timed step: ``rung, mode ("train" or "forward"), step_s, cpu_s, valid_tokens,
        padded_tokens, batch_size, memory_bytes``: the peak of the rung and mode above what stood before the
        step (activations, gradients and temporaries; not parameters, optimiser state and torch itself).
    """
    batches = list(itertools.islice(data.train(train.batch_size), _BATCHES))
    stepper = Stepper(network, train, steps=10_000)
    columns: Columns = {}

    def train_step(batch: TensorBatch) -> None:
        stepper.step(batch)
        if stepper.done % train.log_every == 0:
            stepper.drain()

    def forward(batch: TensorBatch) -> None:
        with torch.no_grad():
            network(batch)

    network.train()
    for batch in batches[:_WARM_UP]:
        train_step(batch.tensors(device))
    memory = PeakMeter(device)
    extend(columns, _time("train", train_step, batches, speed, speed.seconds, device, rung))
    columns["memory_bytes"] = [memory.bytes()] * len(columns["step_s"])
    network.eval()
    memory = PeakMeter(device)
    extend(columns, _time("forward", forward, batches, speed, speed.seconds / 3, device, rung))
    columns["memory_bytes"] += [memory.bytes()] * (len(columns["step_s"]) - len(columns["memory_bytes"]))
    return columns


def _time(
    mode: str,
    work: Callable[[TensorBatch], None],
    batches: list[Batch],
    speed: SpeedConfig,
    seconds: float,
    device: torch.device,
    rung: int | None,
) -> Columns:
    """Time single steps until both the time and the fewest steps are reached."""
    columns: Columns = {}
    stop_at = 0.0
    for number, batch in enumerate(itertools.cycle(batches)):
        synchronise(device)
        cpu, wall = time.process_time(), time.perf_counter()
        work(batch.tensors(device))
        synchronise(device)
        step_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        if number < _WARM_UP:
            stop_at = time.perf_counter() + seconds
            continue
        row: dict[str, Any] = {
            "rung": rung, "mode": mode, "step_s": step_s, "cpu_s": cpu_s,
            "valid_tokens": batch.valid_tokens, "padded_tokens": batch.ids_BT.size,
            "batch_size": len(batch.lengths_B),
        }  # fmt: skip
        extend(columns, {key: [value] for key, value in row.items()})
        if number + 1 >= _WARM_UP + speed.min_steps and time.perf_counter() >= stop_at:
            return columns
    raise AssertionError("unreachable: the batches cycle for ever")


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock reads the work and not its launch."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def load_average() -> float:
    """Processes that wanted a core during the last minute."""
    return os.getloadavg()[0]
