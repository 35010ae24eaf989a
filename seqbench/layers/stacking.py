"""Several networks of one kind as one: what ``torch.func.vmap`` has to be told about some layers.

Under vmap every weight and every input of a layer has a hidden axis S, one entry per network. Most of torch's
operators know what that means; scans written by hand and attention's fused kernel are told here.

Shape letters: S networks, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from seqbench.layers.linear import plainly

_STACKED: ContextVar[bool] = ContextVar("stacked", default=False)


@contextmanager
def stacked() -> Iterator[None]:
    """Let layers run what can be run under vmap meanwhile, which fused kernels cannot."""
    before = _STACKED.set(True)
    try:
        with plainly():
            yield
    finally:
        _STACKED.reset(before)


def is_stacked() -> bool:
    """Whether several networks run as one."""
    return _STACKED.get()


class _OverStack(torch.autograd.Function):
    """Hands what vmap has stacked to a function that knows the axis S."""

    @staticmethod
    def forward(rule: Callable[..., Any], *inputs: Any) -> Any:
        raise RuntimeError("stacked layers run under torch.func.vmap alone, not under its other transforms")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing to keep: autograd sees what the rule runs."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], rule: Callable[..., Any], *inputs: Any) -> Any:
        return rule(info.batch_size, in_dims[1:], inputs)


def run_scan(scan: Any, *inputs: Any, axes: Sequence[int], outputs: Sequence[int] = (1,)) -> Any:
    """``scan.apply(*inputs)``, also stacked.

    Args:
        scan: an autograd function whose tensors may have S as one axis more.
        axes: which axis that is of each tensor; other arguments come after them and stay as they are.
        outputs: which axis it is of each output.
    """
    if not is_stacked():
        return scan.apply(*inputs)

    def rule(size: int, in_dims: Sequence[int | None], given: Sequence[Any]) -> tuple[Any, Any]:
        tensors = in_front(size, in_dims[: len(axes)], given[: len(axes)])
        placed = [x.movedim(0, axis) for x, axis in zip(tensors, axes, strict=True)]
        found = scan.apply(*placed, *given[len(axes) :])
        return found, tuple(outputs) if isinstance(found, tuple) else outputs[0]

    return _OverStack.apply(rule, *inputs)  # type: ignore[no-untyped-call]


def join_axes(
    compute: Callable[..., Any], *inputs: Tensor, axes: Sequence[int], outputs: Sequence[int] = (0,)
) -> Any:
    """``compute(*inputs)``, also stacked: S joins an axis whose entries do not meet.

    Args:
        axes: that axis of each input; one that all networks share is handed on as it is.
        outputs: that axis of each output.
    """
    if not is_stacked():
        return compute(*inputs)

    def rule(size: int, in_dims: Sequence[int | None], given: Sequence[Tensor]) -> tuple[Any, Any]:
        joined = [
            x if dim is None else x.movedim(dim, axis).flatten(axis, axis + 1)
            for x, dim, axis in zip(given, in_dims, axes, strict=True)
        ]
        found = compute(*joined)
        if not isinstance(found, tuple):
            return found.unflatten(outputs[0], (size, -1)), outputs[0]
        parts = zip(found, outputs, strict=True)
        return tuple(x.unflatten(axis, (size, -1)) for x, axis in parts), tuple(outputs)

    return _OverStack.apply(rule, *inputs)  # type: ignore[no-untyped-call]


def in_front(size: int, in_dims: Sequence[int | None], inputs: Sequence[Tensor]) -> list[Tensor]:
    """What vmap hands over, with its axis in front, also where all networks share a tensor."""
    return [
        x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(inputs, in_dims, strict=True)
    ]
