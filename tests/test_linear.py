"""Linear maps by oneDNN equal nn.Linear, and stand aside where they must."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seqbench.config import NetworkConfig
from seqbench.layers import linear
from seqbench.models.transformer import Transformer
from seqbench.network import Network

there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
needs_onednn = pytest.mark.skipif(not there, reason="this build of torch has no oneDNN")


class Seen:
    """Counts products that oneDNN was asked for."""

    def __init__(self, monkeypatch):
        self.count = 0
        plain = linear._Product.forward

        def forward(ctx, *arrays):
            self.count += 1
            return plain(ctx, *arrays)

        monkeypatch.setattr(linear._Product, "forward", staticmethod(forward))


@pytest.fixture
def asked(monkeypatch) -> Seen:
    """OneDNN is used whatever the processor."""
    monkeypatch.setattr(linear, "quick", lambda: True)
    return Seen(monkeypatch)


def same(found: torch.Tensor, exact: torch.Tensor) -> None:
    found, exact = found.detach(), exact.detach()
    scale = float(exact.abs().max())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=4e-6 * scale)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4096, 64), (8, 512, 64), (2, 3, 700, 64)], ids=str)
def test_outputs_and_gradients_equal_nn_linear_in_float64(asked, shape, bias):
    torch.manual_seed(0)
    one = nn.Linear(64, 96, bias=bias)
    reference = nn.Linear(64, 96, bias=bias).double()
    reference.load_state_dict(one.state_dict())
    linear.quicken(one)
    x = torch.randn(shape, requires_grad=True)
    exact_x = x.detach().double().requires_grad_()
    up = torch.randn(*shape[:-1], 96)
    found = torch.autograd.grad((one(x) * up).sum(), (x, *one.parameters()))
    exact = torch.autograd.grad((reference(exact_x) * up).sum(), (exact_x, *reference.parameters()))
    same(one(x), reference(exact_x))
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.shape == theirs.shape
        same(ours, theirs)
    assert asked.count == 4  # forwards twice, and the gradients of both factors


@needs_onednn
@pytest.mark.parametrize("turned", ["neither", "left", "right", "both"])
def test_transposed_views_are_multiplied_right(asked, turned):
    a = torch.randn(128, 256).t() if turned in ("left", "both") else torch.randn(256, 128)
    w = torch.randn(128, 64).t() if turned in ("right", "both") else torch.randn(64, 128)
    same(linear.product(a, w), a.double() @ w.double().t())
    assert asked.count == 1


@needs_onednn
def test_it_can_be_differentiated_twice(asked):
    x, w = torch.randn(512, 64, requires_grad=True), torch.randn(64, 64, requires_grad=True)
    [first] = torch.autograd.grad(linear.product(x, w).pow(3).sum(), x, create_graph=True)
    found = torch.autograd.grad(first.pow(2).sum(), (x, w))
    exact_x, exact_w = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    loss = F.linear(exact_x, exact_w).pow(3).sum()
    [exact_first] = torch.autograd.grad(loss, exact_x, create_graph=True)
    for ours, theirs in zip(
        found, torch.autograd.grad(exact_first.pow(2).sum(), (exact_x, exact_w)), strict=True
    ):
        same(ours, theirs)


@pytest.mark.parametrize("why", ["float64", "small", "meta", "counting", "autocast"])
def test_it_stands_aside(asked, why):
    x, one = torch.randn(4096, 64), nn.Linear(64, 64)
    linear.quicken(one)
    assert type(one) is linear.Linear
    if why == "float64":
        x, one = x.double(), one.double()
    elif why == "small":
        x = x[:8]
    elif why == "meta":
        x, one = x.to("meta"), one.to("meta")
    if why == "counting":
        with linear.plainly():
            one(x)
    elif why == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert one(x).dtype == torch.bfloat16
    else:
        assert one(x).shape == (len(x), 64)
    assert asked.count == 0
    assert not linear.is_plain()


def test_vectors_are_mapped_too():
    one = linear.Linear(4, 3)
    x = torch.randn(4)
    torch.testing.assert_close(one(x), F.linear(x, one.weight, one.bias))


def test_every_plain_linear_map_of_a_network_is_one_and_keeps_its_name():
    network = Network(Transformer(layers=1), NetworkConfig(), 9, 3, 8)
    maps = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    assert len(maps) > 3
    assert {type(part) for part in maps.values()} == {linear.Linear}
    assert "head.weight" in network.state_dict()


def test_the_rule_needs_the_processor_that_is_slow(monkeypatch):
    monkeypatch.setattr(linear, "instruction_set", lambda: "x86_64 avx2 avx512f")
    for vendor, quick in (("AuthenticAMD", there), ("GenuineIntel", False), ("", False)):
        monkeypatch.setattr(linear, "vendor", lambda vendor=vendor: vendor)
        assert linear.quick.__wrapped__() is quick
    monkeypatch.setattr(linear, "vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(linear, "instruction_set", lambda: "x86_64 avx2")
    assert linear.quick.__wrapped__() is False
