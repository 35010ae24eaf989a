"""What the tests share: one thread, small networks and batches, the command line in its own process."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from torch import Tensor

from seqbench.batch import Batch, pad
from seqbench.config import Job, NetworkConfig, checked
from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.network import Network
from seqbench.registry import lookup, plugins

VOCABULARY, CLASSES, HIDDEN = 13, 5, 8
ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)
# A shell that starts the tests in the background ignores Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def model_variants() -> dict[str, ModelConfig]:
    """Every registered model, again in both directions where that is allowed, and the options that matter."""
    variants: dict[str, ModelConfig] = {}
    for name, cls in plugins("model").items():
        variants[name] = cls()
        for options in ({"bidirectional": True}, {"layers": 2}, {"bidirectional": True, "layers": 2}):
            label = "+".join([name, *(f"{key}={value}" for key, value in options.items())])
            config = cls(**options)
            try:
                config.check() if hasattr(config, "check") else None
            except UsageError:
                continue
            if config not in variants.values() and not (config.canary and "layers" in options):
                variants[label] = config
    transformer = lookup("model", "transformer")
    for options in (
        {"causal": False},
        {"causal": False, "positions": "none", "layers": 1},
        {"causal": False, "positions": "sinusoidal", "norm": "post"},
        {"positions": "sinusoidal", "norm": "post"},
        {"residual": False},
        {"positions": "learned", "longest": 4, "norm": "none"},
        {"positions": "alibi", "feedforward_ratio": 0.0},
        {"positions": "alibi", "causal": False},
    ):
        variants["transformer+" + "+".join(f"{k}={v}" for k, v in options.items())] = transformer(**options)
    for stage in ("parameter_free", "query_key_value", "residual", "block"):
        variants[f"attention+stage={stage}"] = lookup("model", "attention")(stage=stage)
    variants["tcn+kernel_size=2"] = lookup("model", "tcn")(kernel_size=2, layers=3)
    variants["hybrid+jordan+tcn"] = lookup("model", "hybrid")(mixers=["jordan", "tcn", "attention"])
    variants["hybrid+stateful"] = lookup("model", "hybrid")(mixers=["lstm", "slstm"], layers=2)
    for name in ("rglru", "mamba2", "deltanet"):
        variants[f"{name}+convolution=0"] = lookup("model", name)(convolution=0)
    for name in ("mlstm", "transformer", "tcn"):
        variants[f"{name}+convolution=3"] = lookup("model", name)(convolution=3, layers=2)
    variants["hybrid+convolution"] = lookup("model", "hybrid")(mixers=["gru", "mamba2"], convolution=2)
    variants["rnn+relu"] = lookup("model", "rnn")(nonlinearity="relu", init="identity")
    return variants


VARIANTS = model_variants()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``model`` runs for every variant, so a new model is tested by existing."""
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", VARIANTS.values(), ids=VARIANTS.keys())


def gradients(output: Tensor, *wanted: Tensor) -> list[Tensor]:
    """Gradients of a random (but reproducible) linear functional of ``output``, zero where there is none."""
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    scalar = (output * weights).sum()
    scalar = scalar.real if scalar.is_complex() else scalar
    return list(torch.autograd.grad(scalar, wanted, allow_unused=True, materialize_grads=True))


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything in double precision, from the same random numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def make_network() -> Callable[..., Network]:
    """A small network of a model with weights that depend on ``seed`` alone."""

    def make(model: ModelConfig, readout: str = "last", seed: int = 0, **options: Any) -> Network:
        torch.manual_seed(seed)
        config = NetworkConfig(embedding_width=6, readout=readout, **options)
        return Network(model, config, VOCABULARY, CLASSES, HIDDEN)

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Random rows of the given lengths with one answer each, or an answer at about half of the tokens."""

    def make(lengths: list[int], *, many: bool = False, seed: int = 0, extra: int = 0) -> Batch:
        rng = np.random.default_rng(seed)
        rows = [rng.integers(1, VOCABULARY, length) for length in lengths]
        if not many:
            return pad(rows, rng.integers(0, CLASSES, len(rows)), extra=extra)
        answers = []
        for length in lengths:
            answer = np.where(rng.random(length) < 0.5, rng.integers(0, CLASSES, length), -1)
            answer[-1] = rng.integers(0, CLASSES)
            answers.append(answer)
        return pad(rows, answers, extra=extra)

    return make


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """A job from a model's and a task's names; ``train={...}`` and the like change single settings."""

    def make(model: str = "rnn", task: str = "temporal_order", **options: Any) -> Job:
        settings = {
            name: dataclasses.replace(getattr(Job(), name), **value) if isinstance(value, dict) else value
            for name, value in options.items()
            if name not in ("model_options", "task_options")
        }
        job = Job(
            model=lookup("model", model)(**options.get("model_options", {})),
            task=lookup("task", task)(**options.get("task_options", {})),
            **{"canaries": False, **settings},
        )
        return checked(job)

    return make


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(temporary: Path) -> dict[str, str]:
    """Plain output and a machine lock of the tests' own: they neither wait for others nor hold them up."""
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "SEQBENCH_LOCKS": str(temporary)}


@pytest.fixture(scope="session")
def python_in(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run Python in a folder with these arguments; ``cold=True``: with a start of its own (see ``warm``)."""
    temporary = tmp_path_factory.mktemp("tmp")

    def run(
        folder: Path, *args: str, timeout: float = 100, cold: bool = False, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        env = {**environment(temporary), **variables}
        if warm.can_run(args, variables) and not cold:
            return warm.shared().run(args, folder, env, timeout)
        return subprocess.run(
            [sys.executable, *args],
            cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def run_python(python_in: Command, tmp_path: Path) -> Command:
    """Run Python in ``tmp_path``."""
    return functools.partial(python_in, tmp_path)


@pytest.fixture
def seqbench(run_python: Command) -> Command:
    """Run ``python -m seqbench`` in ``tmp_path``."""
    return functools.partial(run_python, "-m", "seqbench")
