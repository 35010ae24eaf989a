"""Linear recurrences equal a slow loop over their equations: outputs, states, gradients, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gradients
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from seqbench.errors import UsageError
from seqbench.layers import linrec as module
from seqbench.layers.base import Encoder
from seqbench.layers.linear_recurrent import LRULayer, MinGRULayer, MinLSTMLayer, RGLRULayer, S4DLayer
from seqbench.layers.linrec import linrec
from seqbench.registry import lookup
from seqbench.replay import tensors
from seqbench.schema import check

B, H = 3, 5
NAMES = ["mingru", "minlstm", "lru", "s4d", "rglru"]
REAL, COMPLEX = torch.float64, torch.complex128


pytestmark = pytest.mark.usefixtures("float64")


def assert_same(ours: list[Tensor], theirs: list[Tensor], atol: float = 1e-12, rtol: float = 0.0) -> None:
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=atol, rtol=rtol)


# The operation


def loop(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    found = []
    for keep, add in zip(a.unbind(1), b.unbind(1), strict=True):
        h = keep * h + add
        found.append(h)
    return torch.stack(found, dim=1)


def operands(time: int, dtype: torch.dtype, batch: int = 2, width: int = 3) -> list[Tensor]:
    a = 0.6 * torch.randn(batch, time, width, dtype=dtype)
    b, h0 = torch.randn(batch, time, width, dtype=dtype), torch.randn(batch, width, dtype=dtype)
    return [x.requires_grad_() for x in (a, b, h0)]


@pytest.fixture(params=["chunks", "steps"])
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to walk, at every length."""
    monkeypatch.setattr(module, "LONG", 1 if request.param == "chunks" else 10**9)
    return request.param


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("time", [1, 2, 15, 16, 17, 100, 511])
def test_the_recurrence_equals_a_loop(time, dtype, plan):
    inputs = operands(time, dtype)
    found, expected = linrec(*inputs), loop(*inputs)
    assert_same([found], [expected])
    assert_same(gradients(found, *inputs), gradients(expected, *inputs))
    without = linrec(*inputs[:2])
    assert_same([without], [loop(*inputs[:2], torch.zeros_like(inputs[2]))])


@pytest.mark.parametrize("width", [3, 2048], ids=["narrow", "wide"])
def test_width_and_length_choose_the_way_and_change_nothing(width):
    assert (2 * width * 8 < module.WORTH_A_CALL) == (width == 3)
    inputs = operands(module.LONG + 3, REAL, width=width)
    assert_same([linrec(*inputs)], [loop(*inputs)])


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("time", [1, 2, 18])
def test_first_and_second_derivatives_are_exact(time, dtype, plan):
    inputs = operands(time, dtype, width=1)
    assert gradcheck(linrec, inputs)
    assert gradgradcheck(linrec, inputs)


def test_a_state_forgotten_entirely_is_exact_with_its_gradients(plan):
    a, b, h0 = operands(40, REAL)
    with torch.no_grad():
        a[:, ::7] = 0.0
        a[:, 3::7] = 1e-300
    assert_same([linrec(a, b, h0)], [loop(a, b, h0)])
    assert_same(gradients(linrec(a, b, h0), a, b, h0), gradients(loop(a, b, h0), a, b, h0))


def test_what_is_kept_may_be_an_expanded_view(plan):
    a, b, h0 = operands(40, COMPLEX)
    one = a.detach()[0, 0].clone().requires_grad_()
    found, expected = linrec(one.expand_as(b), b, h0), loop(one.expand_as(b), b, h0)
    assert_same(gradients(found, one, b, h0), gradients(expected, one, b, h0))


@pytest.mark.parametrize("dtype", [torch.float32, REAL], ids=["float32", "float64"])
def test_a_vanishing_gradient_vanishes_truly(dtype, plan):
    b = torch.zeros(1, 512, 1, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(linrec(torch.full_like(b, 0.5).detach(), b)[0, -1, 0], b)
    by_distance = gradient[0, :, 0].flip(0).numpy()
    smallest = {torch.float32: 149, REAL: 1074}[dtype]  # 2 to minus this is the last number above 0
    assert list(by_distance) == [2.0**-d if d <= smallest else 0.0 for d in range(512)]


def test_vmap_maps_it_and_its_gradient(plan):
    a, b, h0 = torch.randn(4, 2, 20, 3), torch.randn(2, 4, 20, 3), torch.randn(2, 3)
    found = torch.func.vmap(linrec, in_dims=(0, 1, None))(a, b, h0)
    assert_same([found], [torch.stack([loop(a[i], b[:, i], h0) for i in range(4)])])

    def total(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda a, b, h: run(a, b, h).square().sum()

    found = torch.func.vmap(torch.func.grad(total(linrec), (0, 1, 2)), in_dims=(0, 1, None))(a, b, h0)
    expected = [torch.func.grad(total(loop), (0, 1, 2))(a[i], b[:, i], h0) for i in range(4)]
    assert_same(list(found), [torch.stack(parts) for parts in zip(*expected, strict=True)], atol=1e-9)


# The equations, one step at a time. Each yields outputs from one sequence, and returns the last state.


def pair(x: Tensor) -> Tensor:
    return x[..., 0] + 1j * x[..., 1]


def mingru(layer: Any, x_TH: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    (wz, wh), (bz, bh) = layer.project.weight.split(H), layer.project.bias.split(H)
    outputs = []
    for x in x_TH:
        z = 1 / (1 + torch.exp(wz @ x + bz))  # the layer holds -W_z
        h = (1 - z) * h + z * (wh @ x + bh)
        outputs.append(h)
    return outputs, [h]


def minlstm(layer: Any, x_TH: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    (wf, wi, wh), (bf, bi, bh) = layer.project.weight.split(H), layer.project.bias.split(H)
    outputs = []
    for x in x_TH:
        f, i = 1 / (1 + torch.exp(-(wf @ x + bf))), 1 / (1 + torch.exp(-(wi @ x + bi)))
        h = f / (f + i) * h + i / (f + i) * (wh @ x + bh)
        outputs.append(h)
    return outputs, [h]


def lru(layer: Any, x_TH: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    radius, angle = torch.exp(-torch.exp(layer.nu_log)), torch.exp(layer.theta_log)
    eigen = radius * (torch.cos(angle) + 1j * torch.sin(angle))
    b = layer.enter[:, 0] + 1j * layer.enter[:, 1]
    c = layer.leave[..., 0] - 1j * layer.leave[..., 1]  # kept as (real, -imaginary)
    state, outputs = pair(h), []
    for x in x_TH:
        state = eigen * state + torch.exp(layer.gamma_log) * (b @ (x + 0j))
        outputs.append((c @ state).real + layer.skip * x)
    return outputs, [torch.stack([state.real, state.imag], dim=-1)]


def s4d(layer: Any, x_TH: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    a = -torch.exp(layer.decay_log) + 1j * layer.frequency
    keep = torch.exp(torch.exp(layer.step_log)[:, None] * a)
    state, outputs = pair(h), []
    for x in x_TH:
        state = keep * state + (keep - 1) / a * x[:, None]
        y = 2 * (pair(layer.leave) * state).sum(1).real + layer.skip * x
        y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
        value, gate = layer.mix(y).split(H)
        outputs.append(value / (1 + torch.exp(-gate)))
    return outputs, [torch.stack([state.real, state.imag], dim=-1)]


def rglru(layer: Any, x_TH: Tensor, h: Tensor, seen: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    (wv, wo), (bv, bo) = layer.enter.weight.split(H), layer.enter.bias.split(H)
    (wr, wi), (br, bi) = layer.gate.weight.split(H), layer.gate.bias.split(H)
    taps, kept, outputs = layer.convolution.weight, 1 / (1 + torch.exp(-layer.decay_logit)), []
    inputs = list(seen)
    for x in x_TH:
        inputs = [*inputs[-3:], wv @ x + bv]
        u = layer.convolution.bias + sum(taps[:, k] * inputs[k] for k in range(4))
        r, i = 1 / (1 + torch.exp(-(wr @ u + br))), 1 / (1 + torch.exp(-(wi @ u + bi)))
        a = kept ** (8 * r)
        h = a * h + torch.sqrt(1 - a**2) * (i * u)
        gate = wo @ x + bo
        outputs.append(layer.leave(h * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2))
    return outputs, [h, torch.stack(inputs[-3:])]


EQUATIONS: dict[str, Callable[..., tuple[list[Tensor], list[Tensor]]]] = {
    "mingru": mingru, "minlstm": minlstm, "lru": lru, "s4d": s4d, "rglru": rglru
}  # fmt: skip


def layer_of(name: str) -> Encoder:
    """A layer in float64 throughout, whose gates all have random biases."""
    made = {
        "mingru": lambda: MinGRULayer(H, forget_bias=None),
        "minlstm": lambda: MinLSTMLayer(H, forget_bias=None),
        "lru": lambda: LRULayer(H, min_radius=0.4, max_radius=0.99, max_phase=3.0),
        "s4d": lambda: S4DLayer(H, units=6, min_step=0.01, max_step=0.5),
        "rglru": lambda: RGLRULayer(H, min_decay=0.5, max_decay=0.99),
    }
    return made[name]()


def some_state(layer: Encoder) -> Any:
    """A state of random numbers, of the form that the layer hands out."""
    state = layer(torch.zeros(B, 1, H))[1]
    made = [torch.randn(leaf.shape, requires_grad=True) for leaf in tensors(state)]
    return made[0] if isinstance(state, Tensor) else tuple(made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("time", [1, 2, 31, 32, 70, 150])
def test_a_layer_equals_its_equations(name, time):
    layer, x_BTH = layer_of(name), torch.randn(B, time, H, requires_grad=True)
    state = some_state(layer)
    y_BTH, after = layer(x_BTH, state=state)
    rows = [EQUATIONS[name](layer, x_BTH[row], *(s[row] for s in tensors(state))) for row in range(B)]
    expected_BTH = torch.stack([torch.stack(outputs) for outputs, _ in rows])
    expected = [torch.stack(parts) for parts in zip(*(last for _, last in rows), strict=True)]
    assert_same([y_BTH, *tensors(after)], [expected_BTH, *expected], atol=1e-10)
    wanted = [x_BTH, *tensors(state), *layer.parameters()]
    ours = torch.cat([part.flatten() for part in (y_BTH, *tensors(after))])
    theirs = torch.cat([part.flatten() for part in (expected_BTH, *expected)])
    assert_same(gradients(ours, *wanted), gradients(theirs, *wanted), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_no_state_is_a_state_of_zeros(name):
    layer, x_BTH = layer_of(name), torch.randn(B, 9, H)
    state = some_state(layer)
    zeros = torch.zeros_like(state) if isinstance(state, Tensor) else tuple(map(torch.zeros_like, state))
    assert_same([layer(x_BTH)[0]], [layer(x_BTH, state=zeros)[0]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [[75, 75], [1] * 20, [3, 32, 1, 64, 130]], ids=str)
def test_a_sequence_read_in_pieces_gives_what_the_whole_gives(name, pieces):
    layer, x_BTH = layer_of(name), torch.randn(B, sum(pieces), H)
    whole, last = layer(x_BTH)
    state, outputs = None, []
    for piece in x_BTH.split(pieces, dim=1):
        y_BTH, state = layer(piece, state=state)
        outputs.append(y_BTH)
    assert_same([torch.cat(outputs, dim=1), *tensors(state)], [whole, *tensors(last)])


@pytest.mark.parametrize("name", NAMES)
def test_states_and_parameters_are_real_and_named(name):
    encoder = lookup("model", name)().build(6, 8)
    for dtype in (torch.float32, torch.float64):
        y_BTH, state = encoder.to(dtype)(torch.randn(4, 7, 6, dtype=dtype))
        assert {y_BTH.dtype, *(leaf.dtype for leaf in tensors(state))} == {dtype}
        assert all(leaf.shape[0] == 4 for leaf in tensors(state))
        assert len(tensors(state)) == len(encoder.state_names)
    assert all(parameter.is_floating_point() for parameter in encoder.parameters())
    assert encoder.causal
    assert "torch" in encoder.kernel


# What is forgotten at the start, and how a gradient decays


def kept(name: str, layer: Any) -> Tensor:
    """What a step keeps of each unit, in size, when no gate looks at its input; from the parameters alone."""
    with torch.no_grad():
        if name == "lru":
            return torch.exp(-torch.exp(layer.nu_log))
        if name == "s4d":
            return torch.exp(-torch.exp(layer.step_log)[:, None] * torch.exp(layer.decay_log))
        if name == "rglru":
            layer.gate.weight.zero_()
            layer.gate.bias.zero_()
            return torch.sigmoid(layer.decay_logit) ** (8 * 0.5)
        layer.project.weight[: layer.gates * H].zero_()
        f = torch.sigmoid(layer.project.bias[:H])
        return f if name == "mingru" else f / (f + torch.sigmoid(layer.project.bias[H : 2 * H]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("distance", [1, 37, 511])
def test_a_gradient_decays_exactly_by_what_is_kept(name, distance):
    layer = layer_of(name)
    factor = kept(name, layer)
    state = some_state(layer)
    after = tensors(layer(torch.randn(B, distance, H), state=state)[1])[0]
    asked = after[..., 0] if name in ("lru", "s4d") else after
    (gradient,) = torch.autograd.grad(asked.sum(), tensors(state)[0])
    size = gradient.norm(dim=-1) if name in ("lru", "s4d") else gradient
    torch.testing.assert_close(size, (factor**distance).expand_as(size), rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
@pytest.mark.parametrize("bias", [0.0, 3.0, 60.0])
def test_the_forget_gate_starts_at_the_sigmoid_of_its_bias(name, bias):
    layer: Any = lookup("model", name)(forget_bias=bias).mixer(H, 0)
    found = layer.activations(torch.zeros(1, 2, H))
    keep = torch.full((1, 2, H), 1 / (1 + math.exp(-bias)))
    assert_same(
        [found["forget gate"], found["input gate"]], [keep, torch.full_like(keep, 1 / (1 + math.exp(bias)))]
    )
    assert found["input gate"].min() > 0  # where 1 - keep would be 0


def test_lru_starts_on_its_ring():
    layer: Any = lookup("model", "lru")(r_min=0.8, r_max=0.95, max_phase=0.5).mixer(1000, 0)
    with torch.no_grad():
        eigen = layer.eigenvalues()
        area, angle = eigen.abs() ** 2, eigen.angle()
        torch.testing.assert_close(torch.exp(layer.gamma_log), torch.sqrt(1 - area))
    assert area.min() >= 0.8**2
    assert area.max() <= 0.95**2
    assert 0 < angle.min() < angle.max() <= 0.5
    for values, low, high in ((area, 0.8**2, 0.95**2), (angle, 0.0, 0.5)):  # uniform
        deciles = np.quantile(values.numpy(), [0.1, 0.5, 0.9])
        assert deciles == pytest.approx(
            low + (high - low) * np.array([0.1, 0.5, 0.9]), abs=0.06 * (high - low)
        )
    for edge in (0.0, 1.0):
        extreme: Any = lookup("model", "lru")(r_min=edge, r_max=edge).mixer(H, 0)
        assert all(parameter.isfinite().all() for parameter in extreme.parameters())


def test_s4d_starts_from_its_frequencies_and_steps():
    layer: Any = lookup("model", "s4d")(state_size=8, dt_min=0.02, dt_max=0.3).mixer(500, 0)
    a = -torch.exp(layer.decay_log) + 1j * layer.frequency
    expected = -0.5 + 1j * math.pi * torch.arange(4)
    torch.testing.assert_close(a.detach(), expected.expand(500, 4))
    steps = torch.exp(layer.step_log.detach())
    assert 0.02 <= steps.min() < 0.022
    assert 0.28 < steps.max() <= 0.3
    assert float(steps.log().mean()) == pytest.approx((math.log(0.02) + math.log(0.3)) / 2, abs=0.1)


def test_rglru_starts_with_the_declared_decay():
    layer: Any = lookup("model", "rglru")(min_decay=0.9, max_decay=0.999).mixer(500, 0)
    decay = torch.sigmoid(layer.decay_logit.detach()) ** 8
    assert 0.9 <= decay.min() < 0.903
    assert 0.996 < decay.max() <= 0.999
    assert float(decay.mean()) == pytest.approx(0.9495, abs=0.006)


def test_rglru_has_finite_gradients_where_a_gate_shuts():
    layer: Any = RGLRULayer(H, min_decay=0.9, max_decay=0.999).float()
    with torch.no_grad():
        layer.gate.bias[:H] = -200.0  # the gate is 0 and a is 1: the root of 1 - a^2 has an infinite slope
    layer(torch.randn(B, 7, H, dtype=torch.float32))[0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("name", ["mingru", "minlstm", "rglru"])
def test_probes_see_the_gates_that_ran(name):
    layer: Any = layer_of(name)
    x_BTH = torch.randn(B, 9, H)
    found = layer.activations(x_BTH)
    state = tensors(layer(x_BTH)[1])[0]
    assert_same([found["state"][:, -1]], [state])
    assert not any(value.requires_grad for value in found.values())
    keep, before = found["forget gate"], torch.zeros(B, H)
    for t in range(9):
        if name != "rglru":
            before = keep[:, t] * before + found["input gate"][:, t] * found["candidate"][:, t]
            assert_same([before], [found["state"][:, t]])
    if name == "rglru":
        base = torch.sigmoid(layer.decay_logit)
        assert_same([keep], [base ** (8 * found["recurrence gate"])])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lru", {"r_min": 0.9, "r_max": 0.5}, "model.r_min=0.9: must be at most model.r_max=0.5"),
        ("lru", {"r_max": 1.5}, "at most 1"),
        ("s4d", {"state_size": 7}, "must be even"),
        ("s4d", {"dt_min": 0.2}, "must be at most model.dt_max=0.1"),
        ("rglru", {"min_decay": 0.9999}, "must be at most model.max_decay=0.999"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(name, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        check(lookup("model", name)(**options))
    assert "\n" not in str(caught.value)
