"""Gradient flow through the states: |dL/dh_t|, the total derivative, of every layer at every step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from seqbench.batch import Batch, Ints, TensorBatch
from seqbench.layers.base import permute_time, reversal
from seqbench.network import Network, answer_loss
from seqbench.probes.base import NotApplicable, by_distance, last_answer
from seqbench.registry import register
from seqbench.replay import Direction, batch_axes, directions, keeps_state, names, steps, tensors


@dataclass(frozen=True)
class Found:
    """|dL/dh_t| of one state: its name, norms ``(B, T)`` in reading order, and where it is read, ``(B,)``."""

    name: str
    norms_BT: np.ndarray
    anchors_B: Ints


@register("probe")
class StateFlow:
    """|dL/dh_t|: norm of the gradient of one answer's loss with respect to the state after every step t.

    Total derivative, through every later step; what ``retain_grad`` on the outputs of a fused layer gives is
    the partial one, which is zero wherever the loss does not touch. Recurrent encoders are run step by step
    in float64; an encoder without a state is asked for the outputs of its stacked blocks instead.
    """

    name: ClassVar[str] = "state_flow"
    in_training: ClassVar[bool] = True

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for found in state_gradients(network, batch):
            rows = by_distance(found.norms_BT, found.anchors_B, nearest=1)
            rows = {"state": [found.name] * len(rows["distance"]), **rows}
            for name, values in rows.items():
                columns.setdefault(name, []).extend(values)
        return columns


def state_gradients(network: Network, batch: Batch) -> list[Found]:
    """The gradients of every state of a network, for each sequence's last answer.

    Raises:
        NotApplicable: the encoder has neither a state nor stacked blocks.
    """
    last, anchors_B = last_answer(batch)
    double = copy.deepcopy(network).cpu().double().eval()
    asked = last.tensors()
    with torch.no_grad():
        x_BTD = double.embed(asked).double()
    x_BTD.requires_grad_()
    ways = directions(double.encoder, x_BTD, asked.mask_BT)
    if all(keeps_state(way.encoder, way.x_BTD) for way in ways):
        return list(_of_states(double, asked, anchors_B, ways))
    return list(_of_blocks(double, asked, anchors_B, x_BTD))


def _of_states(
    network: Network, asked: TensorBatch, anchors_B: Ints, ways: list[Direction]
) -> Iterator[Found]:
    runs = [steps(way.encoder, way.x_BTD) for way in ways]
    y_BTH = _joined(network, asked, [outputs for outputs, _ in runs])
    loss = answer_loss(*network.read(y_BTH, asked), reduction="sum")
    for way, (_, states) in zip(ways, runs, strict=True):
        leaves = [leaf for state in states for leaf in tensors(state)]
        grads = gradients(loss, leaves)
        axes, labels = batch_axes(way.encoder, way.x_BTD), names(states[0], way.encoder)
        read_B = _read_at(way, asked, anchors_B)
        for place, label in enumerate(labels):
            norms = [_norms(grad, axes[place], len(read_B)) for grad in grads[place :: len(labels)]]
            yield Found(f"{label} {way.name}".strip(), np.stack(norms, axis=1), read_B)


def gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor | None]:
    """Gradients of a loss; None for what it does not depend on. The graph is kept."""
    known = [leaf for leaf in leaves if leaf.requires_grad]
    found = iter(torch.autograd.grad(loss, known, allow_unused=True, retain_graph=True) if known else ())
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


def _joined(network: Network, asked: TensorBatch, outputs: list[Tensor]) -> Tensor:
    """The outputs of the whole encoder from those of its directions."""
    if len(outputs) == 1:
        return outputs[0]
    ahead, behind = outputs
    order_BT = reversal(ahead.shape[0], ahead.shape[1], asked.mask_BT, ahead.device)
    return torch.cat([ahead, permute_time(behind, order_BT)], dim=2)


def _read_at(way: Direction, asked: TensorBatch, anchors_B: Ints) -> Ints:
    """At which step of its own reading a direction's answer is read."""
    last_B: Ints = asked.lengths_B.numpy() - 1
    if way.name != "backwards":
        return anchors_B
    return last_B - anchors_B if asked.targets.ndim == 2 else last_B


def _norms(grad: Tensor | None, axis: int, batch: int) -> np.ndarray:
    """Norm of each sequence's gradient, ``(B,)``; zero where none arrives."""
    if grad is None:
        return np.zeros(batch)
    norms_B: np.ndarray = torch.linalg.vector_norm(grad.movedim(axis, 0).flatten(1), dim=1).numpy()
    return norms_B


def _of_blocks(network: Network, asked: TensorBatch, anchors_B: Ints, x_BTD: Tensor) -> Iterator[Found]:
    """The same for the outputs of stacked blocks, which have one vector per step."""
    outputs: list[Tensor] = []
    blocks = [
        block
        for part in network.encoder.modules()
        if isinstance(part, nn.ModuleList)
        for block in part
        if block is not None  # a list may hold a place for what is left out
    ]
    blocks = [block for block in blocks if _is_outermost(block, blocks)]
    hooks = [
        block.register_forward_hook(
            lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    try:
        loss = answer_loss(*network.answer(x_BTD, asked), reduction="sum")
    finally:
        for hook in hooks:
            hook.remove()
    usable = [out for out in outputs if isinstance(out, Tensor) and out.shape[:2] == x_BTD.shape[:2]]
    if not usable or len(usable) != len(blocks):
        raise NotApplicable("the encoder keeps no state and has no stacked blocks")
    for number, grad in enumerate(torch.autograd.grad(loss, usable, allow_unused=True), start=1):
        norms_BT = (
            np.zeros(x_BTD.shape[:2]) if grad is None else torch.linalg.vector_norm(grad, dim=2).numpy()
        )
        yield Found(f"block {number}", norms_BT, anchors_B)


def _is_outermost(block: nn.Module, blocks: list[nn.Module]) -> bool:
    """Whether a block is no part of another one."""
    return not any(block is part for other in blocks if other is not block for part in other.modules())
