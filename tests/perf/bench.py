"""What the benchmarks share: a process like that of a run, a training step, a figure beside its goal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqbench import environment
from seqbench.cli import compose
from seqbench.config import Job
from seqbench.match import Place, solve_width
from seqbench.stepper import Stepper
from seqbench.tasks.base import Data


@pytest.fixture(scope="module", autouse=True)
def like_a_run():
    """One thread and the allocator setting of every run."""
    torch.set_num_threads(1)
    environment.keep_freed_memory()


@pytest.fixture
def tell(benchmark, capsys) -> Callable[..., None]:
    """Print a line and keep its figures with the benchmark; a goal stands beside its figure, unjudged."""

    def tell_now(line: str, goal: str = "", **figures: float) -> None:
        benchmark.extra_info.update(figures | ({"goal": goal} if goal else {}))
        with capsys.disabled():
            print(f"\n{line}{f' (goal: {goal})' if goal else ''}")  # noqa: T201

    return tell_now


def no_timing(benchmark) -> None:
    """For a test that has taken its own time: pytest-benchmark wants to have run something."""
    benchmark.pedantic(lambda: None, rounds=1)


def training_step(job: Job, data: Data) -> Callable[[], None]:
    """A training step with its logging, on batches that lie ready."""
    place = Place.of(data)
    network = place.network(job, solve_width(job, place))
    stepper = Stepper(network, job.train, steps=1_000_000)
    ready = [batch.tensors() for batch in itertools.islice(data.train(job.train.batch_size), 8)]
    batches = itertools.cycle(ready)

    def step() -> None:
        stepper.step(next(batches))
        if stepper.done % job.train.log_every == 0:
            stepper.drain()

    return step


def at_128(model: str) -> tuple[Job, Data]:
    """The built-in default at T=128 and its data."""
    [job] = compose([f"model={model}", "task=temporal_order", "task.lengths=[128]"])
    return job, job.task.open(0, Path())
