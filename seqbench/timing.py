"""Clocks of a device: how long single steps took, and how fast its matrix products are."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from seqbench.layers import linear
from seqbench.precision import DTYPES

_WARM_UP = 2
_BLOCK = 8  # steps that a GPU gets before anybody waits for it
_PEAK_SIZE = {"cpu": 1024, "cuda": 4096}
_PEAK_TRIES = 7


class StepTimer:
    """Times single steps: by the process's clocks on a CPU, by events in the stream on a GPU.

    On a GPU nothing waits between the steps: :meth:`read` waits once for all steps since it was last called.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_cuda = device, device.type == "cuda"
        self._marks: list[tuple[Any, Any, float]] = []

    @property
    def block(self) -> int:
        """Steps to take before :meth:`read` is called."""
        return _BLOCK if self.on_cuda else 1

    def time(self, step: Callable[[], object]) -> None:
        """Take one step."""
        cpu, start = time.process_time(), self._now()
        step()
        end = self._now()
        self._marks.append((start, end, time.process_time() - cpu))

    def read(self) -> list[tuple[float, float]]:
        """Seconds on the device and CPU seconds of every step since the last call; waits for the device."""
        synchronise(self.device)
        marks, self._marks = self._marks, []
        return [(self._between(start, end), cpu_s) for start, end, cpu_s in marks]

    def _now(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _between(self, start: Any, end: Any) -> float:
        return 1e-3 * float(start.elapsed_time(end)) if self.on_cuda else float(end - start)


def time_steps(
    steps: Sequence[Callable[[], object]],
    device: torch.device,
    seconds: float,
    fewest: int,
    most_s: float = math.inf,
) -> list[tuple[int, float, float]]:
    """Take steps in turn, after two to warm up, until both the time and the fewest steps are reached.

    Args:
        seconds: time that is spent on them, at least.
        fewest: timed steps, at least.
        most_s: time after which no further step is taken, however few there were; one is always timed.

    Returns:
        Of each timed step which of ``steps`` it was, its seconds, and its CPU seconds.
    """
    timer, turns = StepTimer(device), itertools.cycle(range(len(steps)))
    found: list[tuple[int, float, float]] = []
    opened = time.perf_counter()
    for number in itertools.islice(turns, _WARM_UP):
        steps[number]()
    synchronise(device)
    start = time.perf_counter()
    while True:
        block = list(itertools.islice(turns, timer.block))
        for number in block:
            timer.time(steps[number])
        found += [(number, *took) for number, took in zip(block, timer.read(), strict=True)]
        now = time.perf_counter()
        if (len(found) >= fewest and now - start >= seconds) or now - opened >= most_s:
            return found


def work_s(device: torch.device, step_s: float, cpu_s: float) -> float:
    """Seconds of work: those of the one thread on a CPU, which other programs disturb least; else all."""
    return cpu_s if device.type == "cpu" and torch.get_num_threads() == 1 else step_s


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock reads the work and not its launch."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_flops_per_s(device: torch.device, precision: str = "float32") -> float:
    """Floating-point operations per second of a large matrix product in a precision, here and now.

    The median of a few products of 1024 x 1024 matrices (4096 on a GPU) by :func:`work_s`, on as many threads
    as torch has, float32 as exact as torch is set to be (TF32 or not), by the quickest way that torch has:
    what a network here can be measured by, not the vendor's figure.
    """
    size = _PEAK_SIZE.get(device.type, _PEAK_SIZE["cpu"])
    a, b, out = (torch.rand(size, size, device=device, dtype=DTYPES[precision]) for _ in range(3))
    ways: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=out)]
    if linear.quick():
        ways.append(lambda: linear.product(a, b))
    fastest_s = min(_median_s(way, device) for way in ways)
    return 2.0 * size**3 / fastest_s


def _median_s(step: Callable[[], object], device: torch.device) -> float:
    took = time_steps([step], device, 0.0, _PEAK_TRIES)
    return statistics.median(work_s(device, step_s, cpu_s) for _, step_s, cpu_s in took)
