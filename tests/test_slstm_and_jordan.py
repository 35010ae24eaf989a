"""The Jordan and sLSTM layers against slow loops of their equations, their gradients and their ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import gradients
from torch import Tensor

from seqbench.errors import UsageError
from seqbench.layers.jordan import JordanLayer
from seqbench.layers.slstm import SLSTMLayer, SLSTMScan
from seqbench.registry import lookup
from seqbench.schema import check

B, T, D, H, HEADS = 3, 7, 4, 6, 2
E = H // HEADS
EXACT = {"rtol": 0.0, "atol": 1e-12}


pytestmark = pytest.mark.usefixtures("float64")


# Jordan


def jordan_steps(layer: JordanLayer, x_BTD: Tensor, o_BH: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and outputs, straight from the equations."""
    hidden, outputs = [], []
    for x in x_BTD.unbind(1):
        h = torch.tanh(x @ layer.project.weight.T + layer.project.bias + o_BH @ layer.feedback.T)
        o_BH = h @ layer.out.weight.T + layer.out.bias
        hidden.append(h)
        outputs.append(o_BH)
    return torch.stack(hidden, 1), torch.stack(outputs, 1)


@pytest.mark.parametrize("init", ["default", "orthogonal", "identity"])
@pytest.mark.parametrize("time", [1, 2, T])
def test_jordan_equals_its_equations_step_by_step(init, time):
    layer = JordanLayer(D, H, init)
    x, o0 = torch.randn(B, time, D, requires_grad=True), torch.randn(B, H, requires_grad=True)
    ours, state = layer(x, state=o0)
    _, theirs = jordan_steps(layer, x, o0)
    torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(state, theirs[:, -1], **EXACT)
    wanted = [x, o0, *layer.parameters()]
    for mine, reference in zip(gradients(ours, *wanted), gradients(theirs, *wanted), strict=True):
        torch.testing.assert_close(mine, reference, **EXACT)
    shown = layer.activations(x)
    fresh_hidden, fresh = jordan_steps(layer, x, torch.zeros(B, H))
    torch.testing.assert_close(shown["hidden"], fresh_hidden, **EXACT)
    torch.testing.assert_close(shown["state"], fresh, **EXACT)
    torch.testing.assert_close(layer(x)[0], fresh, **EXACT)


def test_jordan_satisfies_gradcheck():
    layer = JordanLayer(D, H, "default")
    inputs = [torch.randn(2, 4, D, requires_grad=True), torch.randn(2, H, requires_grad=True)]
    assert torch.autograd.gradcheck(lambda x, o0: layer(x, state=o0)[0], inputs)


def test_the_kernel_used_on_a_gpu_computes_the_same_as_jordans_scan():
    layer = JordanLayer(D, H, "default")
    pre, recurrent = torch.randn(T, B, H), torch.randn(H, H)
    torch.testing.assert_close(layer.fused(pre, recurrent), layer.scan(pre, recurrent), **EXACT)


def test_jordans_initialisations_are_what_their_names_say():
    orthogonal = JordanLayer(D, H, "orthogonal")
    for matrix in (orthogonal.feedback, orthogonal.out.weight):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(H), **EXACT)
    identity = JordanLayer(D, H, "identity")
    assert torch.equal(identity.feedback, torch.eye(H))
    assert torch.equal(identity.out.weight, torch.eye(H))
    assert not identity.project.bias.any()
    assert not identity.out.bias.any()
    default = JordanLayer(D, H, "default")
    assert all(parameter.abs().max() <= 1 / np.sqrt(H) for parameter in default.parameters())


# sLSTM


def slstm_steps(layer: SLSTMLayer, x_TD: np.ndarray) -> dict[str, np.ndarray]:
    """One sequence by the equations without a stabiliser, head by head, gates as plain exponentials."""
    weight = layer.project.weight.detach().numpy().reshape(HEADS, 4, E, D)
    bias = layer.project.bias.detach().numpy().reshape(HEADS, 4, E)
    recurrent = layer.recurrent.detach().numpy().reshape(HEADS, E, 4, E)
    h, c, n = (np.zeros((HEADS, E)) for _ in range(3))
    found: dict[str, list[np.ndarray]] = {}
    for x in x_TD:
        new = np.zeros_like(h)
        row = {name: np.zeros(H) for name in ("forget gate", "output gate", "candidate", "memory", "state")}
        for k in range(HEADS):
            i, f, z, o = (weight[k, g] @ x + bias[k, g] + h[k] @ recurrent[k, :, g] for g in range(4))
            kept = 1 / (1 + np.exp(-f))
            before = n[k].copy()
            c[k] = kept * c[k] + np.exp(i) * np.tanh(z)
            n[k] = kept * n[k] + np.exp(i)
            new[k] = c[k] / n[k] / (1 + np.exp(-o))
            one = slice(k * E, (k + 1) * E)
            row["forget gate"][one] = kept * before / n[k]
            row["output gate"][one], row["candidate"][one] = 1 / (1 + np.exp(-o)), np.tanh(z)
            row["memory"][one], row["state"][one] = c[k] / n[k], new[k]
        h = new
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in found.items()}


def slstm(scale: float = 1.0) -> SLSTMLayer:
    layer = SLSTMLayer(D, H, heads=HEADS, forget_bias=1.0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)
        layer.project.bias.add_(torch.randn(4 * H))
    return layer


@pytest.mark.parametrize("time", [1, 2, T])
def test_slstm_equals_its_equations_step_by_step(time):
    layer, x = slstm(2.0), torch.randn(B, time, D)
    y, shown = layer(x)[0], layer.activations(x)
    for row in range(B):
        expected = slstm_steps(layer, x[row].numpy())
        np.testing.assert_allclose(y[row].detach().numpy(), expected["state"], rtol=0, atol=1e-10)
        assert list(shown) == list(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(shown[name][row].numpy(), values, rtol=0, atol=1e-10)


def test_heads_of_an_slstm_do_not_see_each_others_states():
    layer = slstm()
    x = torch.randn(B, T, D)
    with torch.no_grad():
        before = layer(x)[0]
        layer.project.weight[: 4 * E] += 1.0  # the first head's gates alone
        after = layer(x)[0]
    assert torch.equal(before[..., E:], after[..., E:])
    assert (before[..., :E] - after[..., :E]).abs().min() > 0


@pytest.mark.parametrize("continued", [False, True], ids=["from nothing", "from a state"])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (4, 2)])
def test_slstm_scan_satisfies_gradcheck_in_outputs_and_in_every_state(steps, batch, continued):
    shape = (HEADS, batch, E)
    pre, weight = 2 * torch.randn(steps, HEADS, batch, 4 * E), torch.randn(HEADS, E, 4 * E)
    state = [torch.zeros(shape), torch.zeros(2, *shape), torch.full(shape, -torch.inf)]
    if continued:
        state = [torch.randn(shape), torch.rand(2, *shape) + 0.5, torch.randn(shape)]
    wanted = [tensor.requires_grad_() for tensor in (pre, weight, *(state if continued else state[:1]))]
    fixed = [] if continued else state[1:]
    assert torch.autograd.gradcheck(lambda *args: SLSTMScan.apply(*args, *fixed), wanted)
    assert torch.autograd.gradcheck(lambda *args: SLSTMScan.apply(*args, *fixed)[0], wanted)


def test_slstm_goes_on_where_it_was_cut_whatever_its_stabiliser():
    layer, x = slstm(), torch.randn(B, T, D)
    whole, end = layer(x)
    first, (h, c, n, m) = layer(x[:, :3])
    second, last = layer(x[:, 3:], state=(h, c, n, m))
    torch.testing.assert_close(torch.cat([first, second], 1), whole, **EXACT)
    for one, other in zip(end, last, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    moved, _ = layer(x[:, 3:], state=(h, c * np.exp(-2), n * np.exp(-2), m + 2))
    torch.testing.assert_close(moved, second, **EXACT)


@pytest.mark.parametrize("size", [50.0, 300.0])
def test_slstm_stays_finite_where_plain_exponentials_overflow(size):
    layer = SLSTMLayer(D, H, heads=HEADS, forget_bias=3.0).float()
    signs = torch.where(torch.rand(B, 40, 4 * H) < 0.5, -size, size).float()
    with torch.no_grad():
        layer.project.weight.zero_()
    x = torch.randn(B, 40, D).float().requires_grad_()
    pre = (layer.project(x) + signs).transpose(0, 1).unflatten(2, (HEADS, -1)).transpose(1, 2)
    zeros = torch.zeros(HEADS, B, E).float()
    h, cn, m = SLSTMScan.apply(pre, layer.recurrent, zeros, torch.stack([zeros, zeros]), zeros - torch.inf)
    h.square().sum().backward()
    for tensor in (h, cn, m, x.grad, layer.recurrent.grad, layer.project.bias.grad):
        assert tensor is not None
        assert tensor.isfinite().all()
    assert h.abs().max() <= 1
    assert cn[1].min() >= 1


def test_a_pinned_slstm_keeps_what_its_forget_gate_says():
    layer = SLSTMLayer(D, H, heads=HEADS, forget_bias=float(np.log(0.9 / 0.1)))
    with torch.no_grad():
        layer.project.weight.zero_()
        layer.recurrent.zero_()
    n = np.cumsum(0.9 ** np.arange(T))
    expected = np.concatenate([[0.0], 0.9 * n[:-1] / n[1:]])
    shown = layer.activations(torch.randn(B, T, D))["forget gate"]
    np.testing.assert_allclose(shown.numpy(), np.broadcast_to(expected[:, None], (B, T, H)), atol=1e-12)


def test_an_slstm_whose_heads_do_not_divide_its_width_is_refused():
    with pytest.raises(UsageError, match=r"model.hidden=9: must be a multiple of model.heads=2"):
        check(lookup("model", "slstm")(hidden=9))
