"""Speed on a grid of its own: sequence lengths and batch sizes, whatever the task's ladder is.

The sequences are full: made of the task's own, over and over, without padding. How long a point takes and
how much memory it needs is predicted from the two before it; what goes beyond the limits is left out, and
the record says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from seqbench.config import SpeedConfig, TrainConfig
from seqbench.kernel import stretched
from seqbench.memory import available_bytes, is_out_of_memory
from seqbench.network import Network
from seqbench.speed import WARM_UP, saved_activations, time_both
from seqbench.stepper import Columns, extend
from seqbench.tasks.base import Data
from seqbench.timing import peak_flops_per_s, work_s

_LEAST_POWER, _MOST_POWER = 1.0, 3.0  # how time and memory are taken to grow with the tokens of a point
_SHARE_OF_FREE = 0.5
_FEWEST = 5  # timed steps without which a point is left out; speed.min_steps is what it gets where it may
_MOST_ROWS = 64  # sequences of the task that a batch is made of


class Point(NamedTuple):
    """One place of the grid."""

    steps: int
    batch_size: int


class Need(NamedTuple):
    """What a point takes: seconds with as few steps as say anything, and bytes; NaN: not known."""

    seconds: float
    bytes: float


_UNKNOWN = Need(math.nan, math.nan)


def axes(train: TrainConfig, speed: SpeedConfig) -> list[list[Point]]:
    """The points that are asked for: along the lengths, and along the batch sizes."""
    lengths = [Point(steps, train.batch_size) for steps in sorted(speed.steps)]
    sizes = [Point(speed.batch_steps, size) for size in sorted(speed.batch_sizes)]
    return [axis for axis in (lengths, sizes) if axis]


def predicted(known: Sequence[tuple[int, Need]], tokens: int) -> Need:
    """What a point with so many tokens takes: the power between the last two points goes on.

    At least in proportion to the tokens, and like their cube at most; unknown before the first point.

    >>> predicted([(32, Need(1.0, 1e6)), (64, Need(4.0, 2e6))], 128)
    Need(seconds=16.0, bytes=4000000.0)
    """
    if not known:
        return _UNKNOWN
    (before, less), (last, more) = (known[-2], known[-1]) if len(known) > 1 else (known[-1], known[-1])
    found = []
    for low, high in zip(less, more, strict=True):
        grows = math.log(high / low) / math.log(last / before) if last > before and low > 0 else 0.0
        power = min(_MOST_POWER, max(_LEAST_POWER, grows))
        found.append(high * (tokens / last) ** power)
    return Need(*found)


class Grid:
    """Times a training step and a forward pass at every point that its limits allow.

    Args:
        flops: operations of a forward pass over one sequence of so many steps.

    Attributes:
        table: what was measured, a row per timed step: ``steps, batch_size, mode, step_s, cpu_s, work_s``
            (see :func:`seqbench.timing.work_s`), ``valid_tokens, memory_bytes, saved_bytes, flops`` (of a
            forward pass over one sequence) and ``peak_flops_per_s`` (of a matrix product, right before).
        left_out: ``steps, batch_size, reason`` ("time", or "memory"; "out of memory" where it was tried),
            ``about_s, about_bytes, limit_s, limit_bytes``.
    """

    def __init__(
        self, network: Network, data: Data, train: TrainConfig, speed: SpeedConfig, device: torch.device,
        flops: Callable[[int], float],
    ) -> None:  # fmt: skip
        self.network, self.data, self.train, self.speed = network, data, train, speed
        self.device, self.flops = device, flops
        free = available_bytes(device) * _SHARE_OF_FREE
        self.limit = Need(speed.point_s, free if speed.memory_mib is None else speed.memory_mib * 2**20)
        self.table: Columns = {}
        self.left_out: Columns = {}
        self._done: dict[Point, Need] = {}

    def run(self) -> None:
        """Time everything that is asked for."""
        for axis in axes(self.train, self.speed):
            known: list[tuple[int, Need]] = []
            for point in axis:
                tokens = point.steps * point.batch_size
                need = self._done.get(point) or self._tried(point, predicted(known, tokens))
                if need is not None:
                    self._done[point] = need
                    known.append((tokens, need))

    def _tried(self, point: Point, about: Need) -> Need | None:
        """Time a point; None where it is left out."""
        reason = beyond(about, self.limit)
        if not reason:
            try:
                return self._timed(point)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = "out of memory"
        row = {
            **point._asdict(), "reason": reason, "about_s": about.seconds, "about_bytes": about.bytes,
            "limit_s": self.limit.seconds, "limit_bytes": self.limit.bytes,
        }  # fmt: skip
        extend(self.left_out, _repeated(row, 1))
        return None

    def _timed(self, point: Point) -> Need:
        """Time a point and keep its rows."""
        counted = {
            "flops": self.flops(point.steps),
            "peak_flops_per_s": peak_flops_per_s(self.device, self.train.precision),
        }
        rows = self.data.probe(min(point.batch_size, _MOST_ROWS)).tensors(self.device)
        batch = stretched(rows, point.steps, point.batch_size)
        kept = saved_activations(self.network, batch, self.train.precision)
        columns: Columns = {}
        step_s, most = 0.0, float(kept)
        for timed in time_both(self.network, self.train, self.speed, self.device, [lambda: batch]):
            fixed = {
                **point._asdict(), "mode": timed.mode, "valid_tokens": point.steps * point.batch_size,
                "memory_bytes": timed.memory_bytes, "saved_bytes": kept, **counted,
            }  # fmt: skip
            for _, took_s, cpu_s in timed.steps:
                times = {"step_s": took_s, "cpu_s": cpu_s, "work_s": work_s(self.device, took_s, cpu_s)}
                extend(columns, _repeated({**fixed, **times}, 1))
            step_s += statistics.median(took_s for _, took_s, _ in timed.steps)
            most = max(most, timed.memory_bytes)
        extend(self.table, columns)
        return Need((WARM_UP + min(_FEWEST, self.speed.min_steps)) * step_s, most)


def beyond(about: Need, limit: Need) -> str:
    """Which limit a point would break; empty where it breaks none, as far as is known."""
    return "time" if about.seconds > limit.seconds else "memory" if about.bytes > limit.bytes else ""


def _repeated(row: dict[str, Any], rows: int) -> Columns:
    return {name: [value] * rows for name, value in row.items()}
