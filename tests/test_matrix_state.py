"""Matrix-state layers equal their equations, one step at a time in numpy, also from a state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matrix_equations import E, H, K, deltanet, linear_attention, mamba2, mamba3, mlstm, retnet
from torch import Tensor

from seqbench.errors import UsageError
from seqbench.layers.base import Encoder
from seqbench.registry import lookup
from seqbench.schema import check

B, T = 2, 37

CASES: dict[str, tuple[str, dict[str, Any], Callable[..., Any], dict[str, Any]]] = {
    "linear_attention": ("linear_attention", {}, linear_attention, {}),
    "retnet": ("retnet", {}, retnet, {"rotary": True, "offset": 5.0}),
    "retnet, no positions": (
        "retnet", {"rotary": False, "decay_offset": 1.0}, retnet, {"rotary": False, "offset": 1.0},
    ),
    "mlstm": ("mlstm", {}, mlstm, {"exponential": False}),
    "mlstm, exp": (
        "mlstm", {"forget_gate": "exp", "forget_bias_min": -0.2, "forget_bias_max": 0.1}, mlstm,
        {"exponential": True},
    ),
    "mamba2": ("mamba2", {"state_size": 3}, mamba2, {}),
    "mamba3": ("mamba3", {"state_size": 6, "rotary": 0.7}, mamba3, {"pairs": 2}),
    "mamba3, no angles": ("mamba3", {"state_size": 3, "rotary": 0.0}, mamba3, {"pairs": 0}),
    "mamba3, all angles": (
        "mamba3", {"state_size": 4, "rotary": 1.0, "dt_min": 0.5, "dt_max": 2.0}, mamba3, {"pairs": 2},
    ),
    "deltanet": (
        "deltanet", {}, deltanet, {"negative": False, "gated": False, "convolution": True},
    ),
    "deltanet, bare": (
        "deltanet", {"convolution": 0, "negative_eigenvalues": True}, deltanet,
        {"negative": True, "gated": False, "convolution": False},
    ),
    "gated_deltanet": (
        "gated_deltanet", {"negative_eigenvalues": True}, deltanet,
        {"negative": True, "gated": True, "convolution": True},
    ),
    "gated_deltanet, bare": (
        "gated_deltanet", {"convolution": 0}, deltanet,
        {"negative": False, "gated": True, "convolution": False},
    ),
}  # fmt: skip
MODELS = ["linear_attention", "retnet", "mlstm", "mamba2", "mamba3", "deltanet", "gated_deltanet"]
every = pytest.mark.parametrize("case", CASES)


def mixer(name: str, hidden: int = H, **options: Any) -> Encoder:
    """A layer in float64, all of its weights moved a little so that none hides behind a special value."""
    torch.manual_seed(0)
    layer: Encoder = lookup("model", name)(**options).mixer(hidden, 0).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def built(case: str) -> Encoder:
    name, options, _, _ = CASES[case]
    return mixer(name, **options)


def random_state(layer: Encoder) -> tuple[Tensor, ...]:
    """A state as the layer hands it on, with other numbers."""
    _, state = layer(torch.randn(B, 1, H, dtype=torch.float64))
    return tuple(torch.randn_like(leaf) for leaf in state)


@every
@pytest.mark.parametrize("begun", [False, True], ids=["from nothing", "from a state"])
def test_a_layer_equals_its_equations_step_by_step(case, begun):
    layer = built(case)
    _, _, equations, options = CASES[case]
    x = torch.randn(B, T, H, dtype=torch.float64)
    before = random_state(layer) if begun else None
    with torch.no_grad():
        y, after = layer(x, state=before)
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    for row in range(B):
        start = [torch.zeros_like(leaf) for leaf in after] if before is None else before
        state = [leaf[row].clone().numpy() for leaf in start]
        expected = np.stack(list(equations(weights, x[row].numpy(), state, **options)))
        np.testing.assert_allclose(y[row].numpy(), expected, rtol=1e-9, atol=1e-9)
        for ours, theirs in zip(after, state, strict=True):
            np.testing.assert_allclose(ours[row].numpy(), theirs, rtol=1e-9, atol=1e-9)


@every
@pytest.mark.parametrize("parts", [[18, 19], [1] * T, [33, 1, 3]], ids=["halves", "steps", "parts"])
def test_a_sequence_is_continued_exactly(case, parts):
    layer = built(case)
    x = torch.randn(B, T, H, dtype=torch.float64)
    whole, last = layer(x)
    pieces, state = [], None
    for piece in x.split(parts, dim=1):
        y, state = layer(piece, state=state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-9, atol=1e-10)
    for ours, theirs in zip(state, last, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@every
def test_state_tensors_have_a_batch_axis_and_a_name_each(case):
    layer = built(case)
    _, state = layer(torch.randn(3, 5, H, dtype=torch.float64))
    assert [leaf.shape[0] for leaf in state] == [3] * len(layer.state_names)
    assert all(leaf.dtype == torch.float64 for leaf in state)
    assert layer.kernel == "chunked, 32 steps (torch)"


@every
def test_float32_is_close_to_float64(case):
    layer = built(case)
    x = torch.randn(B, 200, H, dtype=torch.float64)
    exact = layer(x)[0]
    single = layer.float()(x.float())[0]
    assert (single - exact).abs().max() <= 1e-4 * exact.abs().max()


# What is forgotten at the start


@pytest.mark.parametrize("name", ["mamba2", "gated_deltanet"])
def test_the_initial_decay_is_the_declared_one(name):
    def decays(**options: float) -> Tensor:
        layer = lookup("model", name)(heads=64, **options).mixer(64, 0).double()
        return layer.activations(torch.zeros(1, 1, 64, dtype=torch.float64))["forget gate"].flatten()

    pinned = {"rate_min": 2.0, "rate_max": 2.0, "dt_min": 0.05, "dt_max": 0.05}
    torch.testing.assert_close(
        decays(**pinned), torch.full((64,), math.exp(-0.1)).double(), rtol=1e-5, atol=0
    )
    usual, slow = decays(), decays(rate_max=1.0, dt_max=0.01)
    assert math.exp(-16 * 0.1) <= usual.min() < usual.max() <= math.exp(-0.001)
    assert math.exp(-0.01) - 1e-6 <= slow.min() < slow.max() <= math.exp(-0.001)


def test_the_initial_decay_of_mamba3_follows_dt():
    layer = lookup("model", "mamba3")(dt_min=0.05, dt_max=0.05).mixer(H, 0)
    found = layer.activations(torch.zeros(1, 1, H))["forget gate"]
    torch.testing.assert_close(found, torch.full((1, 1, K), math.exp(-math.log(2) * 0.05)))


@pytest.mark.parametrize("gate", ["sigmoid", "exp"])
def test_the_initial_forget_gate_of_mlstm_is_the_declared_one(gate):
    config = lookup("model", "mlstm")(heads=4, forget_bias_min=-2.0, forget_bias_max=4.0, forget_gate=gate)
    found = config.mixer(8, 0).activations(torch.randn(2, 3, 8))["forget gate"]
    bias = torch.tensor([-2.0, 0.0, 2.0, 4.0])
    expected = bias.sigmoid() if gate == "sigmoid" else bias.exp()
    torch.testing.assert_close(found, expected.expand(2, 3, 4))


@pytest.mark.parametrize(("dtype", "steps"), [(torch.float64, 500), (torch.float32, 120)])
@pytest.mark.parametrize("name", ["retnet", "mamba2", "gated_deltanet"])
def test_what_half_forgetting_leaves_has_no_false_floor(name, dtype, steps):
    """With decay 1/2 pinned, the state is worth exactly 2^-d after d steps, however small that is."""
    half = {"rate_min": 1.0, "rate_max": 1.0, "dt_min": math.log(2), "dt_max": math.log(2)}
    options = {"decay_offset": 1.0, "rotary": False} if name == "retnet" else half
    layer = lookup("model", name)(heads=1, **options).mixer(H, 0).to(dtype)
    with torch.no_grad():
        if name != "retnet":
            layer.forgetting.log_rate.zero_()
            layer.forgetting.bias.zero_()  # dt = softplus(0) = log 2
        if name == "mamba2":
            layer.enter.weight[-1].zero_()
        if name == "gated_deltanet":
            layer.dt.weight.zero_()
            layer.qkv.weight[H : 2 * H].zero_()  # keys of zero write nothing and turn nothing
            layer.convolution.bias[H : 2 * H].zero_()
    x = torch.randn(1, steps, H, dtype=dtype)
    _, state = layer(x)
    before = torch.zeros_like(state[0]).requires_grad_()
    _, (after, *_) = layer(x, state=(before, *state[1:]))
    (found,) = torch.autograd.grad(after.sum(), before)
    expected = torch.full_like(found, 0.5**steps)
    torch.testing.assert_close(found, expected, rtol=1e-11 if dtype == torch.float64 else 1e-4, atol=0)


# Eigenvalues, and numbers that would overflow


@pytest.mark.parametrize("name", ["deltanet", "gated_deltanet"])
@pytest.mark.parametrize("negative", [False, True], ids=["0 to 1", "-1 to 1"])
def test_only_beta_above_one_gives_a_negative_eigenvalue(name, negative):
    layer = mixer(name, negative_eigenvalues=negative, convolution=0, heads=1)
    x = torch.randn(1, 1, H, dtype=torch.float64)
    x = x if layer.beta(x) > 0 else -x  # sigmoid above a half
    start = torch.zeros(1, 1, H, H, dtype=torch.float64)
    moved = torch.autograd.functional.jacobian(lambda s: layer(x, state=(s,))[1][0], start)
    eigenvalues = torch.linalg.eigvals(moved[0, 0, :, 0, 0, 0, :, 0]).real
    assert (eigenvalues.min() < -0.01) == negative
    assert eigenvalues.min() > -1
    assert eigenvalues.max() <= 1 + 1e-12


@pytest.mark.parametrize("enter", [-200.0, -50.0, 50.0, 200.0])
@pytest.mark.parametrize("forget", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("gate", ["sigmoid", "exp"])
def test_mlstm_does_not_overflow(enter, forget, gate):
    options = {"forget_bias_min": forget, "forget_bias_max": forget, "forget_gate": gate}
    layer = lookup("model", "mlstm")(**options).mixer(H, 0)
    with torch.no_grad():
        layer.gates.bias[:K] = enter
    x = torch.randn(B, 100, H, requires_grad=True)
    y, state = layer(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(leaf.isfinite().all() for leaf in (y, *state, *gradients))


@pytest.mark.parametrize(("low", "high"), [(-50.0, -50.0), (50.0, 50.0), (-50.0, 50.0)])
def test_mlstm_is_right_where_exp_would_overflow(low, high):
    """Gates of exp(+-50) in float32 equal float64, where the equations hold without a stabiliser."""
    layer = mixer("mlstm")
    with torch.no_grad():
        layer.gates.weight.mul_(0.1)
        layer.gates.bias[:K] = torch.tensor([low, high], dtype=torch.float64)
    x = torch.randn(1, 40, H, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    state = [np.zeros((K, E, E)), np.zeros((K, E)), np.zeros(K)]
    expected = torch.tensor(np.stack(list(mlstm(weights, x[0].numpy(), state, exponential=False))))
    torch.testing.assert_close(layer(x)[0][0], expected, rtol=1e-8, atol=1e-8)
    single = layer.float()(x.float())[0][0]
    assert (single - expected).abs().max() <= 1e-3 * expected.abs().max()


# Settings


@pytest.mark.parametrize("name", MODELS)
def test_what_tuning_varies_can_be_built(name):
    model = lookup("model", name)
    for setting, values in model.tuned_settings.items():
        assert values[0] == getattr(model(), setting)
        for value in values:
            config = model(**{setting: value})
            check(config)
            config.mixer(H, 0)


@pytest.mark.parametrize("name", MODELS)
def test_a_width_that_heads_cannot_share_is_refused_in_one_line(name):
    config = lookup("model", name)(hidden=9)
    with pytest.raises(UsageError, match=rf"model\.hidden=9: must be a multiple of {config.width_multiple} "):
        check(config)
    with pytest.raises(ValueError, match="9 channels cannot be shared by 2 heads"):
        config.mixer(9, 0)


@pytest.mark.parametrize("name", ["mamba2", "mamba3", "gated_deltanet"])
def test_a_range_that_ends_before_it_begins_is_refused(name):
    with pytest.raises(UsageError, match=r"model\.dt_min=0\.2: must be at most model\.dt_max=0\.1"):
        check(lookup("model", name)(dt_min=0.2))


@pytest.mark.parametrize("name", ["mlstm", "mamba2", "mamba3", "deltanet", "gated_deltanet"])
def test_gates_are_shown_to_probes(name):
    shown = lookup("model", name)().mixer(H, 0).activations(torch.randn(B, 5, H))
    assert shown
    for gate, values in shown.items():
        assert gate.endswith("gate")
        assert values.shape[:2] == (B, 5)
        assert 0 <= values.min() <= values.max() <= 1
