"""How long steps take: on the wall with their logging, and how much of that the device was at work."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from seqbench.batch import TensorBatch
from seqbench.stepper import Stepper
from seqbench.timing import synchronise, time_steps

ROUNDS = 7
_WARM_UP = 5


def steps_s(stepper: Stepper, batches: Sequence[TensorBatch], rounds: int = ROUNDS) -> float:
    """Median seconds per training step, wall time, with the log fetched at every logging interval."""
    step = training(stepper, batches)
    for _ in range(max(_WARM_UP, len(batches))):
        step()
    synchronise(stepper.device)
    found = []
    count = 2 * stepper.config.log_every
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            step()
        synchronise(stepper.device)
        found.append((time.perf_counter() - start) / count)
    return statistics.median(found)


def training(stepper: Stepper, batches: Sequence[TensorBatch]) -> Callable[[], None]:
    """One training step after another, as in a run."""
    turns = itertools.cycle(batches)

    def step() -> None:
        stepper.step(next(turns))
        if stepper.done % stepper.config.log_every == 0:
            stepper.drain()

    return step


def busy_s(step: Callable[[], None], device: torch.device, count: int = 10) -> float | None:
    """Seconds per step in which the device ran kernels, by torch's profiler; None where it saw none."""
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    step()
    synchronise(device)
    with profile(activities=[kind]) as profiler:
        for _ in range(count):
            step()
        synchronise(device)
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    total = sum(float(getattr(event, name)) for event in profiler.key_averages())
    return 1e-6 * total / count if total else None


def middle_s(step: Callable[[], Any], device: torch.device, fewest: int = 30) -> float:
    """Median seconds of a step by the device's own clock."""
    return statistics.median(step_s for _, step_s, _ in time_steps([step], device, 0.2, fewest))
