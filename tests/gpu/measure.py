"""The measurements: each section gives rows of figures, units in their names, beside a goal where it has one.

Shape letters: B batch, T time, D channels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gpu.clock import busy_s, middle_s, steps_s, training
from gpu.work import Size, network, ready, settings
from seqbench.config import TrainConfig
from seqbench.errors import UsageError
from seqbench.layers.linrec import linrec
from seqbench.stepper import Stepper
from seqbench.timing import peak_flops_per_s

Row = dict[str, Any]
MODELS = ("rnn", "lstm", "gru", "bilstm", "transformer", "mingru", "mamba2")
PRECISIONS = ("float32", "bfloat16", "float16")
_STANDARD = Size(batch=64, steps=128, hidden=128)
_WIDE = Size(batch=64, steps=512, hidden=512)
_MOST_OVER_KERNEL, _MOST_SCAN_S = 1.2, 0.8e-3
_TINY = Size(batch=2, steps=8, hidden=16, vocabulary=11, embedding=6)  # for a try without a GPU


@dataclass
class Section:
    """What one measurement found.

    Attributes:
        goal: what a figure is held against, in words; empty: none.
        missed: what could not be measured, and why.
    """

    title: str
    about: str
    goal: str = ""
    rows: list[Row] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def tried(self, what: str) -> Iterator[None]:
        """Say what went wrong instead of a figure, and go on with the next."""
        try:
            yield
        except (RuntimeError, UsageError, ImportError, NotImplementedError) as error:
            told = " ".join(str(error).split())[:300]
            self.missed.append(f"{what}: {type(error).__name__}: {told}")


def _stepper(name: str, size: Size, device: torch.device, **train: Any) -> Stepper:
    config = TrainConfig(batch_size=size.batch, **train)
    return Stepper(network(settings(name), size, device), config, steps=1_000_000)


def trainer(device: torch.device, tiny: bool) -> Section:
    """A whole training step against the kernels in it, eager and as a CUDA graph."""
    size = _TINY if tiny else _STANDARD
    found = Section(
        "Training step against its kernels",
        f"{size.words}, vocabulary {size.vocabulary:,}, float32, all default logging. step_ms: wall time; "
        "kernel_ms: time in which the device ran kernels (profiler); graph_ms: wall time with "
        "train.cuda_graph=true.",
        goal="step_ms / kernel_ms at most 1.2",
    )
    for name in MODELS:
        batches = ready(size, device)
        with found.tried(name):
            one = _stepper(name, size, device)
            row: Row = {"model": name, "kernel": one.network.encoder.kernel}
            row["step_ms"] = 1e3 * steps_s(one, batches)
            busy = busy_s(training(one, batches), device)
            if busy is None:
                found.missed.append(f"{name}: kernel_ms: the profiler saw no kernel (is CUPTI usable here?)")
            else:
                row |= {"kernel_ms": 1e3 * busy, "step_over_kernel": row["step_ms"] / (1e3 * busy)}
                row |= {} if tiny else {"goal_met": row["step_over_kernel"] <= _MOST_OVER_KERNEL}
            found.rows.append(row)
            with found.tried(f"{name}: graph_ms"):
                graphed = _stepper(name, size, device, cuda_graph=True)
                row["graph_ms"] = 1e3 * steps_s(graphed, batches)
                if busy is not None:
                    row["graph_over_kernel"] = row["graph_ms"] / (1e3 * busy)
    return found


def scan(device: torch.device, tiny: bool) -> Section:
    """The linear recurrence alone, forward and backward."""
    shape = (2, 64, 8) if tiny else (64, 2048, 512)
    found = Section(
        "Linear recurrence, forward and backward",
        f"h_t = a_t h_(t-1) + b_t at B={shape[0]} T={shape[1]} D={shape[2]}, float32; copy_ms: to copy three "
        "such arrays, less than what must be read and written at least.",
        goal="at most 0.8 ms at B=64 T=2048 D=512 on an H200",
    )
    with found.tried("scan"):
        a, b = (torch.rand(shape, device=device, requires_grad=True) for _ in range(2))
        gradient = torch.ones(shape, device=device)

        def both() -> None:
            torch.autograd.grad(linrec(a, b), (a, b), gradient)

        took_s = middle_s(both, device)
        source, target = torch.empty((3, *shape), device=device), torch.empty((3, *shape), device=device)
        copy_s = middle_s(lambda: target.copy_(source), device)
        met: Row = {} if tiny else {"goal_met": took_s <= _MOST_SCAN_S}
        found.rows.append({"scan_ms": 1e3 * took_s, "copy_ms": 1e3 * copy_s, **met})
    return found


def cudnn(device: torch.device, tiny: bool) -> Section:
    """Torch's own recurrent layers."""
    found = Section(
        "torch's recurrent layers, forward and backward",
        "nn.RNN, nn.GRU and nn.LSTM (cuDNN on a GPU), one layer, full sequences. Published for an LSTM at "
        "H=768, B=16, T=1024 in half precision on an H100: 5.2 ms (FlashRNN).",
    )
    sizes = [(2, 8, 16)] if tiny else [(64, 128, 128), (64, 512, 128), (64, 512, 512), (16, 1024, 768)]
    for batch, steps, hidden in sizes:
        for kind in (nn.RNN, nn.GRU, nn.LSTM):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                what = f"{kind.__name__} B={batch} T={steps} H={hidden} {str(dtype).removeprefix('torch.')}"
                with found.tried(what):
                    layer = kind(hidden, hidden, batch_first=True).to(device, dtype)
                    x = torch.randn(batch, steps, hidden, device=device, dtype=dtype, requires_grad=True)
                    leaves = (x, *layer.parameters())

                    def both(layer: Any = layer, x: Any = x, leaves: Any = leaves) -> None:
                        torch.autograd.grad(layer(x)[0].sum(), leaves)

                    found.rows.append({"layer": what, "both_ms": 1e3 * middle_s(both, device)})
    return found


def precision(device: torch.device, tiny: bool) -> Section:
    """Training steps in each precision."""
    found = Section(
        "Training step in each precision",
        "train.precision; matrix products, convolutions and attention in half precision, recurrences as "
        "seqbench.precision says; peak_tflops: of a large matrix product in that precision.",
    )
    for size in [_TINY] if tiny else [_STANDARD, _WIDE]:
        for name in ("lstm", "gru", "transformer", "mamba2"):
            first: float | None = None
            for kind in PRECISIONS:
                with found.tried(f"{name} {size.words} {kind}"):
                    one = _stepper(name, size, device, precision=kind)
                    step_ms = 1e3 * steps_s(one, ready(size, device))
                    first = step_ms if kind == "float32" else first
                    row: Row = {"model": name, "size": size.words, "precision": kind, "step_ms": step_ms}
                    row["over_float32"] = step_ms / first if first else None
                    row["skipped_steps"] = one.counts()["skipped_steps"]
                    row["peak_tflops"] = 1e-12 * peak_flops_per_s(device, kind)
                    found.rows.append(row)
    return found


def stacked(device: torch.device, tiny: bool) -> Section:
    """Several seeds as one network, by ``gpu.stacked.rows(device, tiny)`` where this checkout has it."""
    found = Section(
        "Stacked seeds",
        "eight seeds of one model trained as one network, against one.",
        goal="8 seeds at most twice the time of one at d=128",
    )
    if importlib.util.find_spec("gpu.stacked") is None:
        found.missed.append("there is no tests/gpu/stacked.py in this checkout")
        return found
    with found.tried("stacked seeds"):
        found.rows += importlib.import_module("gpu.stacked").rows(device, tiny)
    return found


SECTIONS: dict[str, Callable[[torch.device, bool], Section]] = {
    "trainer": trainer, "scan": scan, "cudnn": cudnn, "precision": precision, "stacked": stacked,
}  # fmt: skip


def plain(section: Section) -> dict[str, Any]:
    """A section as plain data."""
    return dataclasses.asdict(section)
