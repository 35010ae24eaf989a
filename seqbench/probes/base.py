"""What every probe declares. A probe measures a network and returns a table of columns."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from seqbench.batch import UNSCORED, Batch, Ints
from seqbench.network import Network, answer_loss


class NotApplicable(Exception):
    """This probe cannot measure this network; the message says why and is shown in the report."""


class Probe(Protocol):
    """A class registered with ``@register("probe")``; its table is stored as ``<name>.parquet``.

    Attributes:
        in_training: also look after 10, 30, 100, 300, ... steps; absent: only before and after training.
    """

    name: str

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        """Measure on one held-out batch.

        Raises:
            NotApplicable: with the reason.
        """
        ...


def by_distance(norms_BT: np.ndarray, anchors_B: Ints, nearest: int = 0) -> dict[str, list[Any]]:
    """Norms by how many steps before its answer each was taken: median and 10-90 % over sequences.

    Args:
        norms_BT: one number for every step.
        anchors_B: the step at which each sequence's answer is read: distance 0.
        nearest: distances below it are left out.
    """
    distance_BT = anchors_B[:, None] - np.arange(norms_BT.shape[1])
    distances = list(range(nearest, int(anchors_B.max()) + 1))
    groups = [norms_BT[distance_BT == distance] for distance in distances]
    low, median, high = ([float(np.quantile(group, q)) for group in groups] for q in (0.1, 0.5, 0.9))
    sequences = [len(group) for group in groups]
    return {"distance": distances, "median": median, "low": low, "high": high, "sequences": sequences}


def last_answer(batch: Batch) -> tuple[Batch, np.ndarray]:
    """The batch with only the last answer of each sequence scored, and where it is read."""
    if batch.targets.ndim == 1:
        return batch, batch.lengths_B - 1
    scored_BT = batch.targets != UNSCORED
    anchors_B = scored_BT.shape[1] - 1 - scored_BT[:, ::-1].argmax(1)
    keep_BT = np.arange(scored_BT.shape[1]) == anchors_B[:, None]
    targets_BT = np.where(keep_BT, batch.targets, UNSCORED)
    return dataclasses.replace(batch, targets=targets_BT), anchors_B


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
