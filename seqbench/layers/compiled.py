"""The scans of :mod:`seqbench.layers.scan` with their loop in C (``scan.c``), for float32 on CPU.

Equal to them, and to ``nn.RNN`` and ``nn.GRU``, up to rounding (``tests/test_compiled.py``). The products are
those that torch brings along; what stands between two of them is one pass over memory instead of six to ten.
There are none without a C compiler (:mod:`seqbench.native`), or where torch hides its BLAS.

Shape letters: T time, B batch, D width in, H hidden, G all gates; every array is time-major and contiguous.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqbench import native
from seqbench.layers.linear import is_plain, product

_POINTERS = {"elman_forward": 3, "elman_backward": 5, "gru_forward": 7, "gru_backward": 9}
_FLAGS = {"elman_forward": 1, "elman_backward": 1, "gru_forward": 0, "gru_backward": 0}
calls: Counter[str] = Counter()  # how often each function of the library has run, for :mod:`seqbench.kernel`


@cache
def _product() -> ctypes.c_void_p | None:
    """Address of the single-precision matrix product that torch itself uses, or None."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.cast(ctypes.CDLL(str(path)).sgemm_, ctypes.c_void_p)
    except (OSError, AttributeError):
        return None


@cache
def _functions() -> dict[str, Any] | None:
    library = native.library()
    if library is None or _product() is None:
        return None
    for name, pointers in _POINTERS.items():
        function = getattr(library, name)
        sizes = [ctypes.c_int] * (3 + _FLAGS[name])
        function.argtypes, function.restype = [ctypes.c_void_p, *sizes, *[ctypes.c_void_p] * pointers], None
    return {name: getattr(library, name) for name in _POINTERS}


def usable(x: Tensor) -> bool:
    """Whether the compiled scans run on a tensor of this kind, here."""
    right = x.device.type == "cpu" and x.dtype == torch.float32
    return right and not is_plain() and _functions() is not None


def _call(name: str, sizes: tuple[int, ...], *arrays: Tensor) -> None:
    """Run one function of the library; the arrays live until it returns."""
    found = _functions()
    if found is None:
        raise RuntimeError("there is no compiled library; ask usable() first")
    calls[name] += 1
    found[name](_product(), *sizes, *(array.data_ptr() for array in arrays))


def _projected(x_TBD: Tensor, weight_GD: Tensor, bias_G: Tensor) -> Tensor:
    """Input projection x W^T + b in an array of its own, which the scans then write over."""
    steps, batch, _ = x_TBD.shape
    return product(x_TBD.flatten(0, 1), weight_GD, bias_G).view(steps, batch, -1)


def _projection_gradients(
    x_TBD: Tensor, weight_GD: Tensor, dpre_TBG: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, W and b of :func:`_projected`."""
    flat, x = dpre_TBG.flatten(0, 1), x_TBD.flatten(0, 1)
    return product(flat, weight_GD.t()).view(x_TBD.shape), product(x.t(), flat.t()).t(), flat.sum(0)


def _recurrent_gradient(drec_TBG: Tensor, h0_BH: Tensor, h_TBH: Tensor) -> Tensor:
    """Gradient of the recurrent matrix: each step's with the state before it."""
    later = product(h_TBH[:-1].flatten(0, 1).t(), drec_TBG[1:].flatten(0, 1).t()).t()
    return torch.addmm(later, drec_TBG[0].t(), h0_BH)


class CompiledElman(torch.autograd.Function):
    """h_t = f(W x_t + b + U h_{t-1}) with f = tanh or relu (Elman 1990, Cognitive Science 14, section 2)."""

    @staticmethod
    def forward(
        ctx: Any, x_TBD: Tensor, weight_HD: Tensor, bias_H: Tensor, h0_BH: Tensor, u_HH: Tensor, relu: bool
    ) -> Tensor:
        x_TBD, h0_BH = x_TBD.contiguous(), h0_BH.contiguous()
        h_TBH = _projected(x_TBD, weight_HD, bias_H)
        _call("elman_forward", (*h_TBH.shape, relu), h0_BH, u_HH.t().contiguous(), h_TBH)
        ctx.relu = relu
        ctx.save_for_backward(x_TBD, weight_HD, h0_BH, u_HH, h_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor | None, ...]:
        x_TBD, weight_HD, h0_BH, u_HH, h_TBH = ctx.saved_tensors
        dpre_TBH, carry_BH = torch.empty_like(h_TBH), torch.empty_like(h0_BH)
        arrays = (grad_TBH.contiguous(), h_TBH, u_HH.contiguous(), dpre_TBH, carry_BH)
        _call("elman_backward", (*h_TBH.shape, ctx.relu), *arrays)
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
        arrays = (h0_BH, u_GH.t().contiguous(), b_G.contiguous(), gates_TBG, inner_TBH, h_TBH)
        _call("gru_forward", (steps, batch, hidden), *arrays, gates_TBG.new_empty(batch, width))
        ctx.save_for_backward(x_TBD, weight_GD, h0_BH, u_GH, h_TBH, gates_TBG, inner_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, ...]:
        x_TBD, weight_GD, h0_BH, u_GH, h_TBH, gates_TBG, inner_TBH = ctx.saved_tensors
        drec_TBG, dpre_TBG, carry_BH = (torch.empty_like(x) for x in (gates_TBG, gates_TBG, h0_BH))
        known = (grad_TBH.contiguous(), h0_BH, h_TBH, gates_TBG, inner_TBH, u_GH.contiguous())
        _call("gru_backward", tuple(h_TBH.shape), *known, drec_TBG, dpre_TBG, carry_BH)
        dx, dweight, dbias = _projection_gradients(x_TBD, weight_GD, dpre_TBG)
        du = _recurrent_gradient(drec_TBG, h0_BH, h_TBH)
        return dx, dweight, dbias, carry_BH, du, drec_TBG.flatten(0, 1).sum(0)
