"""What a speed unit measures: the task's own batches on every rung, then the grid of lengths and sizes."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from seqbench import environment, kernel
from seqbench.batch import TensorBatch
from seqbench.build import build
from seqbench.config import Job
from seqbench.cost import at_length, forward_flops
from seqbench.grid import Grid
from seqbench.kernel import stretched
from seqbench.match import Place, counted_costs, on_meta
from seqbench.network import Network
from seqbench.plan import Unit, cache_folder
from seqbench.records import Scalar
from seqbench.speed import load_average, time_rung
from seqbench.stepper import Columns, extend
from seqbench.tasks.base import Data
from seqbench.timing import peak_flops_per_s

_PROBE_EXAMPLES = 16
Harmless = Callable[[str, Callable[[], None]], None]  # does what must not cost the record


@dataclass
class Found:
    """What goes into the record."""

    tables: dict[str, Columns] = field(default_factory=dict)
    metrics: dict[str, Scalar] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


def time_unit(
    unit: Unit, device: torch.device, ready: Callable[[Network, int], None], harmless: Harmless
) -> Found:
    """Time everything that a unit asks for.

    Args:
        ready: called with every network and its width before it is timed.
        harmless: does what may fail without costing the record, under a name.
    """
    found = Found(environment={"load_average_before": load_average()})
    busy_s, own_s, wall_s = environment.busy_core_s(), time.process_time(), time.perf_counter()
    jobs = unit.jobs[:1] if unit.job.speed.grid_alone else unit.jobs
    peak = peak_flops_per_s(device, unit.job.train.precision)
    for job in jobs:
        data = job.task.open(unit.seed, cache_folder(job))
        network, width = build(job, data, unit.seed, device, unit.folder.parent)
        ready(network, width)
        harmless("kernel", functools.partial(_find_kernel, found, network, data, device))
        if not job.speed.grid_alone:
            counted = _counted(job, data, width, harmless) | {"peak_flops_per_s": peak}
            timed = time_rung(network, data, job.train, job.speed, device, job.task.rung())
            rows = len(timed["step_s"])
            columns = {**timed, **{name: [value] * rows for name, value in counted.items()}}
            extend(found.tables.setdefault("speed", {}), columns)
        if job is jobs[-1] and job.speed.has_grid:
            _time_grid(found, job, data, network, width, device, harmless)
    found.environment["load_average_after"] = load_average()
    now_s = environment.busy_core_s()
    if busy_s is not None and now_s is not None:
        others_s = now_s - busy_s - (time.process_time() - own_s)
        found.metrics["others_busy_cores"] = max(0.0, others_s / (time.perf_counter() - wall_s))
    return found


def _find_kernel(found: Found, network: Network, data: Data, device: torch.device) -> None:
    found.metrics |= kernel.found(network, data.probe(1).tensors(device))


def _counted(job: Job, data: Data, width: int, harmless: Harmless) -> dict[str, float]:
    """Operations and numbers kept of one sequence, and its steps; NaN where that cannot be counted."""
    found = {"flops": math.nan, "state_values": math.nan}
    place = Place.of(data, data.probe(_PROBE_EXAMPLES))
    harmless("costs", lambda: found.update(counted_costs(job, place, width)))
    return found | {"flops_steps": float(place.batch("cpu", 1).ids_BT.shape[1])}


def _time_grid(
    found: Found, job: Job, data: Data, network: Network, width: int, device: torch.device, harmless: Harmless
) -> None:
    """Time lengths and batch sizes of full sequences."""
    count = functools.cache(functools.partial(_flops, job, Place.of(data, data.probe(1)), width))

    def flops(steps: int) -> float:
        counted = [math.nan]
        harmless("costs", lambda: counted.append(float(at_length(count, steps))))
        return counted[-1]

    grid = Grid(network, data, job.train, job.speed, device, flops)
    grid.run()
    tables = {"grid": grid.table, "left_out": grid.left_out}
    found.tables |= {name: table for name, table in tables.items() if table}


def _flops(job: Job, place: Place, width: int, steps: int) -> int:
    """Operations of a forward pass over one full sequence."""
    batch = stretched(place.batch("cpu", 1), steps)

    def count(network: Network, device: str) -> int:
        there = {name: part.to(device) for name, part in vars(batch).items() if part is not None}
        return forward_flops(network, TensorBatch(**there))

    return on_meta(job, place, width, count)
