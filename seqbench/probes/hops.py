"""The way from the cue to the answer: in how many hops, and how much of the gradient makes it."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from seqbench.batch import Batch, Ints
from seqbench.cost import leaves
from seqbench.layers.base import Bidirectional, Encoder
from seqbench.network import Network
from seqbench.probes.base import NotApplicable, input_gradients
from seqbench.registry import register
from seqbench.replay import directions, keeps_state


@register("probe")
class Hops:
    """|dL/dx| at the cue and at the answer, beside the number of hops between them, a row per sequence.

    The cue is, of the tokens that decide the last answer, the one farthest from it. A hop is a step from one
    position of the sequence to another: a recurrence takes one for every step in between, attention a single
    one (Vaswani et al. 2017, section 4, "maximum path length"), a convolution one as far as it sees; an
    encoder with a method ``hops(distance)`` says so itself. Of several ways the shortest counts: a
    bidirectional encoder that is read at both ends reaches a cue from the nearer one.
    """

    name: ClassVar[str] = "hops"
    in_training: ClassVar[bool] = True

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        if batch.relevant_BT is None:
            raise NotApplicable("the task does not say which tokens decide the answer")
        if batch.targets.ndim == 1 and network.readout != "last":
            raise NotApplicable(f"the {network.readout} over all steps is read: no way to go")
        norms_BT, anchors_B = input_gradients(network, batch)
        if not norms_BT.any():
            raise NotApplicable("the answer does not depend on the input")
        cue_B = farthest(batch.relevant_BT, anchors_B)
        rows_B = np.flatnonzero(batch.relevant_BT.any(1))
        counted_B = hops(network, batch, np.abs(anchors_B - cue_B), cue_B)
        return {
            "distance": np.abs(anchors_B - cue_B)[rows_B].tolist(),
            "hops": counted_B[rows_B].tolist(),
            "at_cue": norms_BT[rows_B, cue_B[rows_B]].tolist(),
            "at_answer": norms_BT[rows_B, anchors_B[rows_B]].tolist(),
        }


def farthest(relevant_BT: np.ndarray, anchors_B: Ints) -> Ints:
    """The marked position farthest from each anchor, ``(B,)``; where none is marked, the anchor.

    >>> farthest(np.array([[False, True, True, False]]), np.array([3])).tolist()
    [1]
    """
    distance_BT = np.abs(anchors_B[:, None] - np.arange(relevant_BT.shape[1]))
    found_B: Ints = np.where(relevant_BT, distance_BT, -1).argmax(1)
    return np.where(relevant_BT.any(1), found_B, anchors_B)


def hops(network: Network, batch: Batch, distance_B: Ints, cue_B: Ints) -> np.ndarray:
    """The fewest hops from each answer to its cue, ``(B,)``.

    Raises:
        NotApplicable: nothing about the encoder tells.
    """
    encoder = network.encoder
    own: Any = getattr(encoder, "hops", None)
    if callable(own):
        return np.array([float(own(int(distance))) for distance in distance_B])
    if encoder.receptive_field is not None:
        return np.array([layers_needed(encoder, int(distance)) for distance in distance_B])
    if attends(encoder):
        return np.minimum(distance_B, 1).astype(float)
    asked = batch.rows(0, 1).tensors(next(network.parameters()).device)
    with torch.no_grad():
        ways = directions(encoder, network.embed(asked), asked.mask_BT)
    if not all(keeps_state(way.encoder, way.x_BTD) for way in ways):
        raise NotApplicable("neither a state nor attention: nothing says how many hops lie between")
    if isinstance(encoder, Bidirectional):
        return np.minimum(distance_B, cue_B if batch.targets.ndim == 1 else distance_B).astype(float)
    return distance_B.astype(float)


def layers_needed(encoder: Encoder, distance: int) -> float:
    """The fewest layers of a limited view that together reach so far; infinite where all of them do not."""
    reaches = sorted(
        (leaf.receptive_field - 1 for leaf in leaves(encoder) if leaf.receptive_field), reverse=True
    )
    covered = [0, *itertools.accumulate(reaches)]
    return float(next((count for count, reach in enumerate(covered) if reach >= distance), math.inf))


def attends(encoder: nn.Module) -> bool:
    """Whether any part of the encoder can say how it attends."""
    return any(callable(getattr(module, "weights", None)) for module in encoder.modules())
