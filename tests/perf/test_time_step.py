"""A training step of every model, and what its log costs."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

import pytest
import torch
from bench import at_128, like_a_run, no_timing, tell, training_step  # noqa: F401

from seqbench.batch import TensorBatch
from seqbench.cli import compose
from seqbench.match import Place, solve_width
from seqbench.network import answer_loss
from seqbench.registry import plugins
from seqbench.stepper import Stepper, rate

pytestmark = pytest.mark.perf


@pytest.mark.parametrize("name", plugins("model"))
def test_training_step(benchmark, name):
    """One training step of the built-in default at T=128, logging included."""
    benchmark.group = "training step, temporal_order T=128"
    benchmark(training_step(*at_128(name)))


class Bare(Stepper):
    """The same step as a loop without any log would take it: clip, update, fetch the loss now and then."""

    def step(self, batch: TensorBatch) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate(self.done, self.total, self.config)
        loss = answer_loss(*self.network(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        if self.done % self.config.log_every == 0:
            loss.item()


def paired_seconds(model: str, length: int, rounds: int = 40) -> tuple[list[float], list[float]]:
    """CPU seconds of ten steps without and with the log, taken in turns."""
    [job] = compose([f"model={model}", "task=temporal_order", f"task.lengths=[{length}]"])
    data = job.task.open(0, Path())
    place = Place.of(data)
    width = solve_width(job, place)
    ready = [batch.tensors() for batch in itertools.islice(data.train(job.train.batch_size), 8)]
    steppers = []
    for kind in (Bare, Stepper):
        torch.manual_seed(0)
        steppers.append(kind(place.network(job, width), job.train, steps=1_000_000))
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            for batch in itertools.islice(itertools.cycle(ready), job.train.log_every):
                steppers[which].step(batch)
            if which:
                steppers[which].drain()
            seconds[which].append(time.process_time() - start)
    return seconds


@pytest.mark.parametrize("length", [16, 128])
@pytest.mark.parametrize("name", ["rnn", "lstm", "transformer"])
def test_what_logging_costs(benchmark, tell, name, length):  # noqa: F811
    """Norms of every gradient at every step, and of every update at every tenth: a share of training time."""
    bare, logged = paired_seconds(name, length)
    share = statistics.median(b / a for a, b in zip(bare, logged, strict=True)) - 1
    tell(f"logging costs {share:+.1%} of ten steps: {name} T={length} (median of 40 pairs)", share=share)
    benchmark.group = "logging: ten steps"
    no_timing(benchmark)
