"""Gradient flow through time: how much of the loss reaches each input, by distance from the loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from seqbench.batch import Batch
from seqbench.network import Network, answer_loss
from seqbench.probes.base import NotApplicable, by_distance, last_answer
from seqbench.registry import register


@register("probe")
class GradientFlow:
    """|dL/dx_t|: norm of the gradient of one answer's loss at the encoder's input, for every step t.

    The derivative is total (through every path), exact for every model, and computed in float64, because
    vanished gradients underflow in float32. Distance 0 is the token at which the answer is read. The norm
    of a weight's gradient would hide vanishing: it sums over all time steps and the nearest ones dominate.
    """

    name: ClassVar[str] = "gradient_flow"

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        norms_BT, anchors_B = input_gradients(network, batch)
        if not norms_BT.any():
            raise NotApplicable("the answer does not depend on the input")
        return by_distance(norms_BT, anchors_B)


def input_gradients(network: Network, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """|dL/dx_t| in float64 for each sequence's last answer.

    Returns:
        Norms ``(B, T)``, and the position ``(B,)`` at which each answer is read.
    """
    last, anchors_B = last_answer(batch)
    double = copy.deepcopy(network).cpu().double().eval()
    tensors = last.tensors()
    x_BTD = double.embed(tensors).detach().double().requires_grad_()
    loss = answer_loss(*double.answer(x_BTD, tensors), reduction="sum")
    gradients: Sequence[Tensor | None] = torch.autograd.grad(loss, x_BTD, allow_unused=True)
    gradient_BTD = gradients[0]
    if gradient_BTD is None:
        return np.zeros(batch.ids_BT.shape), anchors_B
    return torch.linalg.vector_norm(gradient_BTD, dim=2).numpy(), anchors_B
