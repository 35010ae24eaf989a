"""Drawing, gathering and padding batches."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from bench import like_a_run, training_step  # noqa: F401

from seqbench.batch import TokenRows, bucketed, pad
from seqbench.cli import compose
from seqbench.registry import plugins
from seqbench.tasks.base import GeneratedTask

pytestmark = pytest.mark.perf
GENERATED = [name for name, cls in plugins("task").items() if issubclass(cls, GeneratedTask)]


@pytest.mark.parametrize("what", ["drawing 8 batches", "training an LSTM on them"])
@pytest.mark.parametrize("task", GENERATED)
def test_data_beside_the_step_it_feeds(benchmark, task, what):
    """What a training step pays for its data: the second line is at least 20 times the first (5 %)."""
    benchmark.group = f"data: {task}"
    [job] = compose(["model=lstm", f"task={task}"])
    data = job.task.rungs()[0].open(0, Path())
    batches = data.train(job.train.batch_size)
    step = training_step(job, data)
    one = (lambda: next(batches).tensors()) if what == "drawing 8 batches" else step
    benchmark(lambda: [one() for _ in range(8)])  # as many as any task draws at once


def test_gathering_a_bucket_from_memory(benchmark):
    """A batch of a fixed data set: 20,000 sequences of 50 to 500 tokens."""
    benchmark.group = "data: one batch of 32"
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 501, 20_000)
    tokens = rng.integers(1, 20_000, lengths.sum())
    rows = TokenRows(tokens, np.concatenate([[0], np.cumsum(lengths)]), np.zeros(20_000, dtype=np.int64))
    batches = itertools.chain.from_iterable(bucketed(rows.lengths, 32, rng) for _ in itertools.count())
    benchmark(lambda: rows.take(next(batches)).tensors())


@pytest.mark.parametrize("width", [50, 500])
def test_padding_a_list_of_rows(benchmark, width):
    benchmark.group = "data: one batch of 32"
    rows = [np.ones(width - i, dtype=np.int64) for i in range(32)]
    targets = np.zeros(32)
    benchmark(lambda: pad(rows, targets))
