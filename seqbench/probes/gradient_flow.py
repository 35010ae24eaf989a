"""Gradient flow through time: how much of the loss reaches each input, by distance from the loss."""

from __future__ import annotations

from typing import Any, ClassVar

from seqbench.batch import Batch
from seqbench.network import Network
from seqbench.probes.base import NotApplicable, by_distance, input_gradients
from seqbench.registry import register


@register("probe")
class GradientFlow:
    """|dL/dx_t|: norm of the gradient of one answer's loss at the encoder's input, for every step t.

    The derivative is total (through every path), exact for every model, and computed in float64, because
    vanished gradients underflow in float32. Distance 0 is the token at which the answer is read. The norm
    of a weight's gradient would hide vanishing: it sums over all time steps and the nearest ones dominate.
    """

    name: ClassVar[str] = "gradient_flow"
    in_training: ClassVar[bool] = True

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        norms_BT, anchors_B = input_gradients(network, batch)
        if not norms_BT.any():
            raise NotApplicable("the answer does not depend on the input")
        return by_distance(norms_BT, anchors_B)
