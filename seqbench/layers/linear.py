"""Linear maps by the quicker of the two matrix products that torch brings along.

On AMD processors torch's BLAS (MKL) leaves the AVX-512 units idle: float32 products run at less than half of
what oneDNN, which torch has on board too, reaches on the same core (``make timings`` shows both). There
:class:`Linear` asks oneDNN; everywhere else, and for small products, it is ``nn.Linear``.

Shape letters: M rows, K width in, N width out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.environment import instruction_set, vendor

_FEWEST_PRODUCTS = 1 << 20  # below that, what the call itself costs counts more
_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plainly() -> Iterator[None]:
    """Run nothing but torch's usual operators meanwhile, which counters know."""
    before = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(before)


def is_plain() -> bool:
    """Whether only torch's usual operators may run."""
    return _PLAIN.get()


@cache
def quick() -> bool:
    """Whether oneDNN's products are used here: its operator is there, and BLAS is known to be slow."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and vendor() == "AuthenticAMD" and "avx512f" in instruction_set().split()


def kernel() -> str:
    """Which product large linear maps use, in words."""
    return "oneDNN" if quick() else "BLAS"


def suits(x: Tensor, weight_NK: Tensor) -> bool:
    """Whether oneDNN multiplies these: float32 on CPU, and enough of it."""
    alike = x.dtype == weight_NK.dtype == torch.float32 and x.device.type == weight_NK.device.type == "cpu"
    return alike and x.numel() * weight_NK.shape[0] >= _FEWEST_PRODUCTS and quick() and not is_plain()


class _Product(torch.autograd.Function):
    """A W^T + b for A ``(M, K)`` and W ``(N, K)``, either of which may be a transposed view."""

    @staticmethod
    def forward(ctx: Any, a_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(a_MK, weight_NK)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(a_MK, weight_NK, bias_N, "none", [], "")
        return found

    @staticmethod
    def backward(ctx: Any, grad_MN: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        a_MK, weight_NK = ctx.saved_tensors
        to_a, to_weight, to_bias = ctx.needs_input_grad
        return (
            product(grad_MN, weight_NK.t()) if to_a else None,
            outer(grad_MN, a_MK) if to_weight else None,
            grad_MN.sum(0) if to_bias else None,
        )


def product(a_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """A W^T + b ``(M, N)`` by whichever product suits."""
    if suits(a_MK, weight_NK) and not torch.is_autocast_enabled("cpu"):
        return cast(Tensor, _Product.apply(a_MK, weight_NK, bias_N))
    return F.linear(a_MK, weight_NK, bias_N)


def outer(grad_MN: Tensor, a_MK: Tensor) -> Tensor:
    """Gradient of the weight, grad^T A ``(N, K)``; the wider factor goes second, where oneDNN is quicker."""
    if grad_MN.shape[1] > a_MK.shape[1]:
        return product(a_MK.t(), grad_MN.t()).t()
    return product(grad_MN.t(), a_MK.t())


class Linear(nn.Linear):
    """``nn.Linear``, equal to it up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2:
            return super().forward(x)
        y: Tensor = product(x.flatten(0, -2), self.weight, self.bias).unflatten(0, x.shape[:-1])
        return y


def quicken(module: nn.Module) -> None:
    """Make every plain ``nn.Linear`` inside a module a :class:`Linear`, a user's own layers included."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
