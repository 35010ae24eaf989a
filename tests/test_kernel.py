"""Which kernels ran is seen, not believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made import settings, timing, training, write_sweep
from torch import nn

from seqbench import kernel
from seqbench.batch import UNSCORED, pad
from seqbench.layers import compiled
from seqbench.layers.base import Encoder
from seqbench.report.fairness import kernels
from seqbench.report.frame import read_sweep

needs_compiler = pytest.mark.skipif(not compiled.usable(torch.zeros(1)), reason="needs a C compiler")


@pytest.mark.parametrize(
    ("name", "options", "seen", "loops"),
    [
        ("rnn", {"kernel": "torch"}, "a loop of", True),
        ("gru", {"kernel": "torch", "layers": 3}, "a loop of", True),
        pytest.param("rnn", {}, "scan compiled in C", False, marks=needs_compiler),
        pytest.param("gru", {"layers": 3}, "scan compiled in C", False, marks=needs_compiler),
        ("lstm", {}, "fused (oneDNN)", False),
        ("bilstm", {}, "fused (oneDNN)", False),
        ("transformer", {}, "flash attention (CPU)", False),
        ("mingru", {}, "in blocks of steps", False),
        ("mamba2", {"bidirectional": True}, "in blocks of steps", False),
        ("tcn", {}, "convolution", False),
        ("bag", {}, "all steps at once", False),
    ],
)
def test_kernels_are_told_apart(make_network, make_batch, name, options, seen, loops):
    from seqbench.registry import lookup

    found = kernel.found(make_network(lookup("model", name)(**options)), make_batch([9, 5]).tensors())
    assert seen in found["kernel_found"]
    assert (found["calls_per_step"] >= kernel.LOOP) == loops


class Loop(Encoder):
    """A layer that says that it is fast, and loops in Python."""

    kernel = "a very fast kernel"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width_out = width
        self.step = nn.Linear(width, width)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        h_BD, found = torch.zeros_like(x_BTD[:, 0]), []
        for x_BD in x_BTD.unbind(1):
            h_BD = torch.tanh(x_BD + self.step(h_BD))
            found.append(h_BD)
        return torch.stack(found, dim=1), h_BD


def test_a_layer_is_not_believed(make_network, make_batch, monkeypatch):
    from seqbench.registry import lookup

    network = make_network(lookup("model", "rnn")())
    network.encoder = Loop(6)
    network.head = nn.Linear(6, 5)
    found = kernel.found(network, make_batch([9]).tensors())
    assert "a loop of" in found["kernel_found"]
    assert found["calls_per_step"] > 5


@pytest.mark.parametrize("many", [False, True], ids=["many-to-one", "many-to-many"])
def test_looking_leaves_no_gradient_behind(make_network, make_batch, model, many):
    network = make_network(model)
    assert kernel.found(network, make_batch([3, 7], many=many).tensors())["kernel_found"]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_answer_that_nobody_asks_for_is_no_obstacle(make_network):
    from seqbench.registry import lookup

    batch = pad([[1, 2, 3]], [[UNSCORED, UNSCORED, 2]])
    assert kernel.found(make_network(lookup("model", "lstm")()), batch.tensors())["calls_per_step"] == 0


def swept(folder: Path, calls: dict[str, object]):
    work = []
    for name, count in calls.items():
        run, columns = timing(name)
        run = run.__class__(**{**vars(run), "metrics": {**run.metrics, "calls_per_step": count}})
        work += [(training(name, 16, 0, 0.5, config=settings(name, 16)), {}), (run, columns)]
    return read_sweep(write_sweep(folder, work))


def test_a_mixed_ranking_is_warned_of(tmp_path):
    told = kernels(swept(tmp_path / "s", {"rnn": 5.0, "lstm": 0.0, "gru": 10.0, "old": None}))
    assert told.startswith("These times mix kernels: rnn (5) and gru (10) ran as a loop of small")
    assert "lstm did many steps per call" in told
    assert "old" not in told


@pytest.mark.parametrize("calls", [{"rnn": 5.0, "gru": 9.0}, {"lstm": 0.0, "transformer": 0.1}, {"x": "?"}])
def test_one_kind_of_kernel_needs_no_warning(tmp_path, calls):
    assert kernels(swept(tmp_path / "s", calls)) == ""
