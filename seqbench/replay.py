"""An encoder run step by step, so that every state on the way is a tensor to differentiate by.

Works for every encoder that keeps a state, also a user's: it needs nothing but the contract of
:class:`seqbench.layers.base.Encoder`. Shape letters: B batch, T time, D width in, H width out, S units of the
whole state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from seqbench.layers.base import Bidirectional, Chain, Encoder, permute_time, reversal


@dataclass(frozen=True)
class Direction:
    """One way of reading: a causal encoder, its input in the order it reads, and its name."""

    name: str
    encoder: Encoder
    x_BTD: Tensor


def directions(encoder: Encoder, x_BTD: Tensor, mask_BT: Tensor) -> list[Direction]:
    """An encoder's ways of reading: one, or two for a bidirectional one, the second on reversed sequences."""
    if not isinstance(encoder, Bidirectional):
        return [Direction("", encoder, x_BTD)]
    order_BT = reversal(x_BTD.shape[0], x_BTD.shape[1], mask_BT, x_BTD.device)
    return [
        Direction("forwards", encoder.forwards, x_BTD),
        Direction("backwards", encoder.backwards, permute_time(x_BTD, order_BT)),
    ]


def keeps_state(encoder: Encoder, x_BTD: Tensor) -> bool:
    """Whether the encoder hands on a state from which it can be continued."""
    with torch.no_grad():
        _, state = encoder(x_BTD[:1, :1])
    return encoder.causal and bool(tensors(state))


def steps(encoder: Encoder, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, list[Any]]:
    """Outputs ``(B, T, H)``, and the state after each step; from a state, if one is given."""
    outputs, states = [], []
    for t in range(x_BTD.shape[1]):
        y_B1H, state = encoder(x_BTD[:, t : t + 1], state=state)
        outputs.append(y_B1H)
        states.append(state)
    return torch.cat(outputs, dim=1), states


def tensors(state: Any) -> list[Tensor]:
    """The floating-point tensors of a nested state, in order."""
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() else []
    if isinstance(state, dict):
        return tensors(list(state.values()))
    return [leaf for part in state for leaf in tensors(part)] if isinstance(state, list | tuple) else []


def names(state: Any, encoder: Encoder) -> list[str]:
    """A name for each of :func:`tensors`: those that the encoder gives, after the layer in a stack."""
    if isinstance(encoder, Chain):
        pairs = enumerate(zip(state, encoder.encoders, strict=True), start=1)
        return [f"{n} {name}" for n, (part, one) in pairs for name in names(part, cast(Encoder, one))]
    found = len(tensors(state))
    given = list(encoder.state_names)
    return given if len(given) == found else [f"state {n}" for n in range(1, found + 1)]


def batch_axes(encoder: Encoder, x_BTD: Tensor) -> list[int]:
    """Which axis of each state tensor is the batch: the one whose size follows it."""
    with torch.no_grad():
        shapes = [
            [leaf.shape for leaf in tensors(encoder(x_BTD[:1, :1].expand(size, -1, -1))[1])]
            for size in (2, 3)
        ]
    return [
        next(axis for axis, pair in enumerate(zip(two, three, strict=True)) if pair == (2, 3))
        for two, three in zip(*shapes, strict=True)
    ]


def flat(leaves: list[Tensor], axes: list[int]) -> Tensor:
    """State tensors side by side, ``(B, S)``."""
    return torch.cat(
        [leaf.movedim(axis, 0).flatten(1) for leaf, axis in zip(leaves, axes, strict=True)], dim=1
    )


def state_jacobians(encoder: Encoder, x_TD: Tensor, distances: list[int]) -> Iterator[tuple[int, Tensor]]:
    """D s_T / d s_{T-d} of the whole state of one sequence, ``(S, S)``, for each distance d.

    The sequence is repeated once per unit and the i-th copy is asked for the i-th unit of its last state:
    copies do not meet, so that a single backward pass gives row i of every Jacobian in copy i. What lies
    before the largest distance is run without a gradient.
    """
    axes = batch_axes(encoder, x_TD[None])
    start = len(x_TD) - 1 - max(distances)
    with torch.no_grad():
        units = flat(tensors(encoder(x_TD[None, :1])[1]), axes).shape[1]
        copies_STD = x_TD.expand(units, -1, -1)
        before = encoder(copies_STD[:, :start])[1] if start else None
    _, states = steps(encoder, copies_STD[:, start:].clone().requires_grad_(), before)
    asked = [states[-1 - distance] for distance in distances]
    leaves = [leaf for state in asked for leaf in tensors(state)]
    last = flat(tensors(states[-1]), axes).diagonal().sum()
    found = torch.autograd.grad(last, leaves, allow_unused=True)
    for number, distance in enumerate(distances):
        some = slice(number * len(axes), (number + 1) * len(axes))
        rows = [
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(leaves[some], found[some], strict=True)
        ]
        yield distance, flat(rows, axes)


def output_jacobians(
    run: Callable[[Tensor], Tensor], x_TD: Tensor, units: int, distances: list[int]
) -> Iterator[tuple[int, Tensor]]:
    """D y_T / d x_{T-d} of one sequence, ``(H, D)``, for each distance d; any encoder has it.

    Args:
        run: from inputs ``(B, T, D)`` to the output at the last step, ``(B, H)``.
        units: H.
    """
    x_HTD = x_TD.expand(units, -1, -1).clone().requires_grad_()
    last = run(x_HTD).diagonal().sum()
    if not last.requires_grad:
        return
    (grad_HTD,) = torch.autograd.grad(last, x_HTD)
    for distance in distances:
        yield distance, grad_HTD[:, -1 - distance]
