"""What things cost on this machine: `make perf`. Nothing here judges a wall time; the table is for reading.

Groups hold what belongs beside each other: our layer and torch's own on the same input, padded and packed, a
training step of each model, and what drawing its data costs.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqbench import environment
from seqbench.batch import TensorBatch, TokenRows, bucketed, pad
from seqbench.cli import compose
from seqbench.config import Job
from seqbench.layers.base import Bidirectional
from seqbench.layers.recurrent import ElmanLayer, GRULayer, LSTMLayer
from seqbench.match import Place, solve_width
from seqbench.network import answer_loss
from seqbench.probes.base import NotApplicable
from seqbench.registry import plugins
from seqbench.tasks.base import Data, GeneratedTask
from seqbench.train import Stepper, rate

pytestmark = pytest.mark.perf
GENERATED = [name for name, cls in plugins("task").items() if issubclass(cls, GeneratedTask)]

B, T, D, H = 32, 128, 48, 128
LENGTHS = torch.tensor(np.random.default_rng(0).integers(T // 4, T + 1, B))


@pytest.fixture(scope="module", autouse=True)
def _like_a_run():
    """One thread and the allocator setting of every run."""
    torch.set_num_threads(1)
    environment.keep_freed_memory()


def forward_and_backward(module: nn.Module, call):
    x = torch.randn(B, T, D, requires_grad=True)

    def step() -> None:
        call(module, x).sum().backward()
        module.zero_grad()
        x.grad = None

    return step


def padded(module, x):
    return module(x, mask_BT=torch.arange(T) < LENGTHS[:, None])[0]


def plain(module, x):
    return module(x)[0]


def packed(module, x):
    sequence = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(module(sequence)[0], batch_first=True)[0]


LAYERS = {
    "rnn": {
        "seqbench scan": (lambda: ElmanLayer(D, H, "tanh", "default"), padded),
        "nn.RNN padded": (lambda: nn.RNN(D, H, batch_first=True), plain),
        "nn.RNN packed": (lambda: nn.RNN(D, H, batch_first=True), packed),
    },
    "gru": {
        "seqbench scan": (lambda: GRULayer(D, H, None), padded),
        "nn.GRU padded": (lambda: nn.GRU(D, H, batch_first=True), plain),
        "nn.GRU packed": (lambda: nn.GRU(D, H, batch_first=True), packed),
    },
    "bilstm": {
        "seqbench flip and gather": (
            lambda: Bidirectional(LSTMLayer(D, H, None, None), LSTMLayer(D, H, None, None)),
            padded,
        ),
        "nn.LSTM packed": (lambda: nn.LSTM(D, H, batch_first=True, bidirectional=True), packed),
    },
}
CASES = [(group, name) for group, cases in LAYERS.items() for name in cases]


@pytest.mark.parametrize(("group", "name"), CASES)
def test_layer(benchmark, group, name):
    """Forward and backward of one layer, H=128, T=128, B=32, lengths from T/4 to T."""
    benchmark.group = f"layer: {group}"
    make, call = LAYERS[group][name]
    benchmark(forward_and_backward(make(), call))


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


@pytest.mark.parametrize("name", plugins("model"))
def test_training_step(benchmark, name):
    """One training step of the built-in default at T=128, logging included."""
    benchmark.group = "training step, temporal_order T=128"
    [job] = compose([f"model={name}", "task=temporal_order", "task.lengths=[128]"])
    benchmark(training_step(job, job.task.open(0, Path())))


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
def test_what_logging_costs(benchmark, name, length, capsys):
    """Norms of every gradient at every step, and of every update at every tenth: a share of training time."""
    bare, logged = paired_seconds(name, length)
    share = statistics.median(b / a for a, b in zip(bare, logged, strict=True)) - 1
    with capsys.disabled():
        print(f"\nlogging costs {share:+.1%} of ten steps: {name} T={length} (median of 40 pairs)")  # noqa: T201
    benchmark.extra_info["share"] = share
    benchmark.group = "logging: ten steps"
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.parametrize("probe", plugins("probe"))
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "bilstm", "transformer"])
def test_a_probe_beside_training_steps(name, probe, capsys):
    """A snapshot of 16 sequences in training steps of the same network, at T=128."""
    [job] = compose([f"model={name}", "task=temporal_order", "task.lengths=[128]"])
    data = job.task.open(0, Path())
    step = training_step(job, data)
    place, batch = Place.of(data), data.probe(16)
    network, batch = place.network(job, solve_width(job, place)), batch.marked(job.task.relevant(batch))
    try:
        ratios = []
        for _ in range(5):
            start = time.process_time()
            for _ in range(5):
                step()
            middle = time.process_time()
            plugins("probe")[probe]().measure(network, batch)
            ratios.append((time.process_time() - middle) / ((middle - start) / 5))
    except NotApplicable as reason:
        pytest.skip(str(reason))
    with capsys.disabled():
        print(f"\n{probe}: {statistics.median(ratios):.1f} training steps: {name} T=128 (median of 5)")  # noqa: T201


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
