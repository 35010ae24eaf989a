"""The scans of :mod:`seqbench.layers.scan` with their loop in C (``scan.c``), for float32 on CPU.

Equal to them, and to ``nn.RNN`` and ``nn.GRU``, up to rounding (``tests/test_compiled.py``). The small matrix
that every step multiplies by is laid out once for all of them, and what stands between two products is one
pass over memory instead of six to ten. There are none without a C compiler (:mod:`seqbench.native`). An LSTM
has none: written the same way it took 1.0 times as long as oneDNN's (H = 128), 0.9 to 1.1 (H = 48).

Shape letters: T time, B batch, D width in, H hidden, G all gates; every array is time-major and contiguous.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqbench import native
from seqbench.layers.linear import is_plain, outer, product

_SIZES = {"elman": 4, "gru": 3}  # whole numbers that a function starts with: T, B, H and a flag
_POINTERS = {"elman_forward": 4, "elman_backward": 6, "gru_forward": 8, "gru_backward": 10}
calls: Counter[str] = Counter()  # how often each function of the library has run, for :mod:`seqbench.kernel`


@cache
def _functions() -> dict[str, Any] | None:
    library = native.library()
    if library is None:
        return None
    library.panel_size.argtypes, library.panel_size.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_long
    found = {"panel_size": library.panel_size}
    for name, pointers in _POINTERS.items():
        function = getattr(library, name)
        sizes = [ctypes.c_int] * _SIZES[name.partition("_")[0]]
        function.argtypes, function.restype = [*sizes, *[ctypes.c_void_p] * pointers], None
        found[name] = function
    return found


def usable(x: Tensor) -> bool:
    """Whether the compiled scans run on a tensor of this kind, here."""
    right = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return right and not is_plain() and _functions() is not None


def _call(name: str, sizes: tuple[int, ...], weight_GH: Tensor, *arrays: Tensor) -> None:
    """Run one function of the library on arrays that live until it returns, with room for its panels last."""
    found = _functions()
    if found is None:
        raise RuntimeError("there is no compiled library; ask usable() first")
    calls[name] += 1
    gates, hidden = weight_GH.shape
    inner, outer = (hidden, gates) if name.endswith("forward") else (gates, hidden)
    room = weight_GH.new_empty(found["panel_size"](inner, outer))
    found[name](*sizes, *(array.data_ptr() for array in (*arrays, room)))


def _projected(x_TBD: Tensor, weight_GD: Tensor, bias_G: Tensor) -> Tensor:
    """Input projection x W^T + b in an array of its own, which the scans then write over."""
    steps, batch, _ = x_TBD.shape
    return product(x_TBD.flatten(0, 1), weight_GD, bias_G).view(steps, batch, -1)


def _projection_gradients(
    x_TBD: Tensor, weight_GD: Tensor, dpre_TBG: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, W and b of :func:`_projected`."""
    flat, x = dpre_TBG.flatten(0, 1), x_TBD.flatten(0, 1)
    return product(flat, weight_GD.t()).view(x_TBD.shape), outer(flat, x), flat.sum(0)


def _recurrent_gradient(drec_TBG: Tensor, h0_BH: Tensor, h_TBH: Tensor) -> Tensor:
    """Gradient of the recurrent matrix: each step's with the state before it."""
    later = outer(drec_TBG[1:].flatten(0, 1), h_TBH[:-1].flatten(0, 1))
    return torch.addmm(later, drec_TBG[0].t(), h0_BH)


class CompiledElman(torch.autograd.Function):
    """h_t = f(W x_t + b + U h_{t-1}) with f = tanh or relu (Elman 1990, Cognitive Science 14, section 2)."""

    @staticmethod
    def forward(
        ctx: Any, x_TBD: Tensor, weight_HD: Tensor, bias_H: Tensor, h0_BH: Tensor, u_HH: Tensor, relu: bool
    ) -> Tensor:
        x_TBD, h0_BH = x_TBD.contiguous(), h0_BH.contiguous()
        h_TBH = _projected(x_TBD, weight_HD, bias_H)
        u_HH = u_HH.contiguous()
        _call("elman_forward", (*h_TBH.shape, relu), u_HH, h0_BH, u_HH, h_TBH)
        ctx.relu = relu
        ctx.save_for_backward(x_TBD, weight_HD, h0_BH, u_HH, h_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor | None, ...]:
        x_TBD, weight_HD, h0_BH, u_HH, h_TBH = ctx.saved_tensors
        dpre_TBH, carry_BH = torch.empty_like(h_TBH), torch.empty_like(h0_BH)
        arrays = (grad_TBH.contiguous(), h_TBH, u_HH, dpre_TBH, carry_BH)
        _call("elman_backward", (*h_TBH.shape, ctx.relu), u_HH, *arrays)
        dx, dweight, dbias = _projection_gradients(x_TBD, weight_HD, dpre_TBH)
        return dx, dweight, dbias, carry_BH, _recurrent_gradient(dpre_TBH, h0_BH, h_TBH), None


class CompiledGRU(torch.autograd.Function):
    """The gated recurrent unit of :class:`seqbench.layers.scan.GRUScan`, its input projection included."""

    @staticmethod
    def forward(
        ctx: Any, x_TBD: Tensor, weight_GD: Tensor, bias_G: Tensor, h0_BH: Tensor, u_GH: Tensor, b_G: Tensor
    ) -> Tensor:
        x_TBD, h0_BH = x_TBD.contiguous(), h0_BH.contiguous()
        gates_TBG = _projected(x_TBD, weight_GD, bias_G)
        (steps, batch, width), hidden = gates_TBG.shape, h0_BH.shape[1]
        inner_TBH, h_TBH = gates_TBG.new_empty(2, steps, batch, hidden).unbind()
        u_GH, room = u_GH.contiguous(), gates_TBG.new_empty(batch, width)
        arrays = (h0_BH, u_GH, b_G.contiguous(), gates_TBG, inner_TBH, h_TBH, room)
        _call("gru_forward", (steps, batch, hidden), u_GH, *arrays)
        ctx.save_for_backward(x_TBD, weight_GD, h0_BH, u_GH, h_TBH, gates_TBG, inner_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, ...]:
        x_TBD, weight_GD, h0_BH, u_GH, h_TBH, gates_TBG, inner_TBH = ctx.saved_tensors
        drec_TBG, dpre_TBG, carry_BH = (torch.empty_like(x) for x in (gates_TBG, gates_TBG, h0_BH))
        known = (grad_TBH.contiguous(), h0_BH, h_TBH, gates_TBG, inner_TBH, u_GH)
        _call("gru_backward", tuple(h_TBH.shape), u_GH, *known, drec_TBG, dpre_TBG, carry_BH)
        dx, dweight, dbias = _projection_gradients(x_TBD, weight_GD, dpre_TBG)
        du = _recurrent_gradient(drec_TBG, h0_BH, h_TBH)
        return dx, dweight, dbias, carry_BH, du, drec_TBG.flatten(0, 1).sum(0)
