"""Chunked recurrences equal a plain loop in outputs, states and gradients; the convolution equals torch's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqbench.layers.chunk import decay_chunks, delta_chunks
from seqbench.layers.convolution import ShortConvolution

B, K, E, V = 2, 3, 5, 4
LENGTHS = [1, 2, 31, 32, 33, 100]
Inputs = dict[str, Tensor]


def decay_loop(q: Tensor, k: Tensor, v: Tensor, log_g: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written down, for each sequence and head alone."""
    outputs, states = torch.empty_like(v), torch.empty_like(state)
    for b, h in itertools.product(range(v.shape[0]), range(v.shape[1])):
        s = state[b, h]
        for t in range(v.shape[2]):
            s = s if log_g is None else torch.exp(log_g[b, h, t]) * s
            s = s + torch.outer(k[b, h % k.shape[1], t], v[b, h, t])
            outputs[b, h, t] = q[b, h % q.shape[1], t] @ s
        states[b, h] = s
    return outputs, states


def delta_loop(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for the delta rule, with the matrix that multiplies the state written out."""
    outputs, states = torch.empty_like(v), torch.empty_like(state)
    for b, h in itertools.product(range(v.shape[0]), range(v.shape[1])):
        s = state[b, h]
        for t in range(v.shape[2]):
            key, strength = k[b, h, t], beta[b, h, t]
            turn = torch.eye(len(key), dtype=key.dtype) - strength * torch.outer(key, key)
            s = turn @ s if log_g is None else torch.exp(log_g[b, h, t]) * turn @ s
            s = s + strength * torch.outer(key, v[b, h, t])
            outputs[b, h, t] = q[b, h, t] @ s
        states[b, h] = s
    return outputs, states


def inputs(time: int, *, delta: bool, decay: bool = True, heads: int = K, batch: int = B) -> Inputs:
    """Random arguments by name; decays from nearly 0 to 1 and, for the delta rule, beta in (0, 2)."""
    generator = torch.Generator().manual_seed(time)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared = K if delta else heads
    made: Inputs = {"q": draw(batch, shared, time, E), "k": draw(batch, shared, time, E)}
    made["v"] = draw(batch, K, time, V)
    if delta:
        made["k"] = nn.functional.normalize(made["k"], dim=3)
        made["beta"] = 2 * torch.sigmoid(draw(batch, K, time))
    if decay:
        made["log_g"] = -torch.exp(3 * draw(batch, K, time) - 2)
    made["state"] = draw(batch, K, E, V)
    return made


def call(function: Callable[..., Any], made: Inputs, **options: int) -> tuple[Tensor, Tensor]:
    names = ["q", "k", "v", *(["beta"] if "beta" in made else []), "log_g", "state"]
    found: tuple[Tensor, Tensor] = function(*(made.get(name) for name in names), **options)
    return found


FORMS = [(False, False, K), (False, True, K), (False, True, 1), (True, False, K), (True, True, K)]
form = pytest.mark.parametrize(
    ("delta", "decay", "heads"), FORMS, ids=["sum", "decay", "decay, shared keys", "delta", "gated delta"]
)


def pair(delta: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return (delta_chunks, delta_loop) if delta else (decay_chunks, decay_loop)


@form
@pytest.mark.parametrize("time", LENGTHS)
def test_chunks_equal_the_loop_with_every_gradient(time, delta, decay, heads):
    made = {
        name: x.requires_grad_() for name, x in inputs(time, delta=delta, decay=decay, heads=heads).items()
    }
    results = []
    for function in pair(delta):
        y, state = call(function, made)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        loss = (y * weights).sum() + state.square().sum()
        results.append([y, state, *torch.autograd.grad(loss, list(made.values()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("time", LENGTHS)
def test_reading_before_writing_lacks_just_what_the_step_writes(time, decay):
    made = inputs(time, delta=False, decay=decay)
    y, state = decay_chunks(
        made["q"], made["k"], made["v"], made.get("log_g"), made["state"], before_writing=True
    )
    whole, expected = call(decay_loop, made)
    own = (made["q"] * made["k"]).sum(3, keepdim=True) * made["v"]
    torch.testing.assert_close(y, whole - own, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, expected, rtol=1e-10, atol=1e-10)


@form
@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_the_length_of_a_chunk_changes_nothing(chunk, delta, decay, heads):
    made = inputs(33, delta=delta, decay=decay, heads=heads)
    function, _ = pair(delta)
    for ours, theirs in zip(call(function, made, chunk=chunk), call(function, made), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@form
def test_gradcheck(delta, decay, heads):
    made = inputs(5, delta=delta, decay=decay, heads=heads, batch=1)
    names, function = list(made), pair(delta)[0]
    leaves = [x.requires_grad_() for x in made.values()]
    run = lambda *args: call(function, dict(zip(names, args, strict=True)), chunk=2)  # noqa: E731
    assert torch.autograd.gradcheck(run, leaves)


@form
@pytest.mark.parametrize("time", [33, 512])
def test_float32_is_close_to_float64(time, delta, decay, heads):
    made = inputs(time, delta=delta, decay=decay, heads=heads)
    exact = call(pair(delta)[0], made)
    single = call(pair(delta)[0], {name: x.float() for name, x in made.items()})
    for ours, theirs in zip(single, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("delta", [False, True])
def test_strong_forgetting_neither_overflows_nor_divides_by_zero(delta):
    made = {name: x.float() for name, x in inputs(100, delta=delta).items()}
    made["log_g"] = torch.full_like(made["log_g"], -80.0)  # exp(+80 * 31) would be infinite
    leaves = [x.requires_grad_() for x in made.values()]
    y, state = call(pair(delta)[0], made)
    gradients = torch.autograd.grad(y.sum() + state.sum(), leaves)
    assert all(x.isfinite().all() for x in (y, state, *gradients))


@pytest.mark.parametrize(("dtype", "distances"), [(torch.float64, 500), (torch.float32, 120)])
@pytest.mark.parametrize("delta", [False, True])
def test_a_gradient_that_vanishes_has_no_false_floor(delta, dtype, distances):
    """Decay 1/2: what step t wrote arrives d steps later as exactly 2^-d, for as long as the type can say."""
    time = distances + 1
    k = torch.zeros(1, 1, time, 2, dtype=dtype)
    k[..., 0, 0] = 1  # for the delta rule: later keys are orthogonal to the first
    k[..., 1:, 1] = 1
    v = torch.ones(1, 1, time, 1, dtype=dtype, requires_grad=True)
    half = torch.full((1, 1, time), 0.5, dtype=dtype).log()
    q, state = torch.ones_like(k), torch.zeros(1, 1, 2, 1, dtype=dtype)
    if delta:
        y, _ = delta_chunks(q, k, v, torch.ones(1, 1, time, dtype=dtype), half, state)
    else:
        y, _ = decay_chunks(q, k, v, half, state)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for distance in (1, 31, 32, 33, 100, distances):
        (found,) = torch.autograd.grad(y[0, 0, distance, 0], v, retain_graph=True)
        assert float(found[0, 0, 0, 0]) == pytest.approx(0.5**distance, rel=tolerance, abs=0)


# The short convolution


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_short_convolution_equals_torchs_padded_one(width):
    ours = ShortConvolution(E, width).double()
    reference = nn.Conv1d(E, E, width, groups=E, padding=width - 1).double()
    with torch.no_grad():
        reference.weight.copy_(ours.weight.unsqueeze(1))
        reference.bias.copy_(ours.bias)
    x = torch.randn(B, 9, E, dtype=torch.float64, requires_grad=True)
    expected = reference(x.transpose(1, 2))[..., :9].transpose(1, 2)
    y, state = ours(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)
    assert torch.equal(state, x[:, 9 - (width - 1) :])
    torch.testing.assert_close(
        torch.autograd.grad(y.square().sum(), [x, ours.weight, ours.bias])[0],
        torch.autograd.grad(expected.square().sum(), x)[0],
    )


@pytest.mark.parametrize("width", [1, 4])
def test_the_short_convolution_is_continued_exactly(width):
    layer = ShortConvolution(E, width).double()
    x = torch.randn(B, 7, E, dtype=torch.float64)
    whole, last = layer(x)
    parts, state = [], None
    for piece in x.split([1, 1, 3, 2], dim=1):
        y, state = layer(piece, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-14)
    assert torch.equal(state, last)
    assert state.shape == (B, width - 1, E)


def test_the_short_convolution_satisfies_gradcheck():
    layer = ShortConvolution(2, 3).double()
    x, state = (torch.randn(1, n, 2, dtype=torch.float64, requires_grad=True) for n in (4, 2))
    assert torch.autograd.gradcheck(layer, (x, state))
