"""The linear recurrence h_t = a_t h_{t-1} + b_t, real or complex, with an exact backward pass.

A plain loop costs one call per step; where a step is too small to be worth a call, chunks of the sequence
are walked side by side. First each chunk finds what it does to any state that enters it, h -> decay h + gain;
then the chunks are linked, one call per chunk; last all chunks are walked from the states that enter them.
Nothing but products and sums of a and b: no logarithm, no division, no floor below which a vanishing gradient
would seem to stop vanishing, and exact also where a is 0.

Shape letters: B batch, T time, H channels, N chunks, C steps of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqbench.layers.stacking import in_front
from seqbench.precision import in_float32

CHUNK = 16
LONG = 128  # steps from which chunks save calls: they take about 3 C + T / C of them instead of T
WORTH_A_CALL = 1 << 14  # bytes of one step from which the plain loop is as fast on a CPU, if not faster


@in_float32
def linrec(a_BTH: Tensor, b_BTH: Tensor, h0_BH: Tensor | None = None) -> Tensor:
    """All states ``(B, T, H)`` of h_t = a_t h_{t-1} + b_t, differentiable as often as one likes.

    Args:
        a_BTH: what is kept of each channel at each step; an expanded view is read as it is, never copied.
        b_BTH: what is added, of the same shape and dtype.
        h0_BH: the state before the first step; zero if None.
    """
    h0_BH = torch.zeros_like(b_BTH[:, 0]) if h0_BH is None else h0_BH
    return _Recurrence.apply(a_BTH, b_BTH, h0_BH)  # type: ignore[no-any-return,no-untyped-call]


class _Recurrence(torch.autograd.Function):
    """h_t = a_t h_{t-1} + b_t. Its adjoint is the same recurrence from the last step to the first."""

    @staticmethod
    def forward(a_BTH: Tensor, b_BTH: Tensor, h0_BH: Tensor) -> Tensor:
        h_BTH = torch.empty_like(b_BTH, memory_format=torch.contiguous_format)
        _fill(h_BTH, a_BTH.resolve_conj(), b_BTH.resolve_conj(), h0_BH.resolve_conj())
        return h_BTH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        a_BTH, _, h0_BH = inputs
        ctx.save_for_backward(a_BTH, h0_BH, output)

    @staticmethod
    def backward(ctx: Any, grad_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a_BTH, h0_BH, h_BTH = ctx.saved_tensors
        total_BTH = _Adjoint.apply(a_BTH, grad_BTH.conj())  # type: ignore[no-untyped-call]
        da_BTH = total_BTH * torch.cat([h0_BH.unsqueeze(1), h_BTH[:, :-1]], dim=1)
        return _plain(da_BTH), _plain(total_BTH), _plain(total_BTH[:, 0] * a_BTH[:, 0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _folded(_Recurrence, info.batch_size, in_dims, inputs)


class _Adjoint(torch.autograd.Function):
    """q_t = a_{t+1} q_{t+1} + g_t from q_T = g_T: how much of g at t or later reaches h_t."""

    @staticmethod
    def forward(a_BTH: Tensor, g_BTH: Tensor) -> Tensor:
        a_BTH, g_BTH = a_BTH.resolve_conj(), g_BTH.resolve_conj()
        q_BTH = torch.empty_like(g_BTH, memory_format=torch.contiguous_format)
        q_BTH[:, -1] = g_BTH[:, -1]
        _fill(q_BTH[:, :-1], a_BTH[:, 1:], g_BTH[:, :-1], g_BTH[:, -1], backwards=True)
        return q_BTH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad_BTH: Tensor) -> tuple[Tensor, Tensor]:
        a_BTH, q_BTH = ctx.saved_tensors
        total_BTH = linrec(a_BTH, grad_BTH.conj())
        da_BTH = F.pad(total_BTH[:, :-1] * q_BTH[:, 1:], (0, 0, 1, 0))
        return _plain(da_BTH), _plain(total_BTH)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _folded(_Adjoint, info.batch_size, in_dims, inputs)


def _plain(x: Tensor) -> Tensor:
    """The conjugate, as numbers in memory."""
    return x.conj().resolve_conj()


def _folded(
    function: Any, size: int, in_dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, int]:
    """Run under vmap: its axis joins the batch, whose rows do not meet either."""
    front = in_front(size, in_dims, inputs)
    return function.apply(*(x.flatten(0, 1) for x in front)).unflatten(0, (size, -1)), 0


def _fill(out_BTH: Tensor, a_BTH: Tensor, b_BTH: Tensor, h_BH: Tensor, *, backwards: bool = False) -> None:
    """Write the recurrence into ``out``: whole chunks side by side, then the steps that are left over."""
    time = b_BTH.shape[1]
    small = b_BTH.is_cuda or h_BH.numel() * h_BH.element_size() < WORTH_A_CALL
    whole = time // CHUNK * CHUNK if small and time >= LONG else 0
    first = slice(time - whole, None) if backwards else slice(whole)
    rest = slice(time - whole) if backwards else slice(whole, None)
    if whole:
        out, a, b = (x[:, first].unflatten(1, (-1, CHUNK)) for x in (out_BTH, a_BTH, b_BTH))
        h_BH = _chunks(out, a, b, h_BH, backwards=backwards)
    _walk(out_BTH[:, rest], a_BTH[:, rest], b_BTH[:, rest], h_BH, dim=1, backwards=backwards)


def _chunks(out_BNCH: Tensor, a_BNCH: Tensor, b_BNCH: Tensor, h_BH: Tensor, *, backwards: bool) -> Tensor:
    """Fill whole chunks and return the state that leaves the last."""
    steps = list(zip(_ordered(a_BNCH, 2, backwards), _ordered(b_BNCH, 2, backwards), strict=True))
    decay_BNH, gain_BNH = (x.clone(memory_format=torch.contiguous_format) for x in steps[0])
    for a_BNH, b_BNH in steps[1:]:
        decay_BNH.mul_(a_BNH)
        torch.addcmul(b_BNH, a_BNH, gain_BNH, out=gain_BNH)
    left_BNH = torch.empty_like(gain_BNH)
    last_BH = _walk(left_BNH, decay_BNH, gain_BNH, h_BH, dim=1, backwards=backwards)
    h_B1H = h_BH.unsqueeze(1)
    parts = [left_BNH[:, 1:], h_B1H] if backwards else [h_B1H, left_BNH[:, :-1]]
    _walk(out_BNCH, a_BNCH, b_BNCH, torch.cat(parts, dim=1), dim=2, backwards=backwards)
    return last_BH


def _walk(out: Tensor, a: Tensor, b: Tensor, h: Tensor, *, dim: int, backwards: bool) -> Tensor:
    """One step after another along an axis, all else side by side; returns the last state."""
    rows = (_ordered(x, dim, backwards) for x in (out, a, b))
    for into, keep, add in zip(*rows, strict=True):
        h = torch.addcmul(add, keep, h, out=into)
    return h


def _ordered(x: Tensor, dim: int, backwards: bool) -> tuple[Tensor, ...]:
    """The slices of an axis in the order of the walk; unbound once, since indexing costs more than a step."""
    rows = x.unbind(dim)
    return rows[::-1] if backwards else rows
