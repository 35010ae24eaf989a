"""Held-out quality: loss and accuracy over scored answers only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from seqbench.batch import TensorBatch
from seqbench.network import Network, answer_loss
from seqbench.precision import computing_in, widened


@dataclass(frozen=True)
class Score:
    """Mean loss (cross-entropy in nats, or squared error) and accuracy over ``answers`` scored answers.

    The accuracy is NaN where the answers are numbers.
    """

    loss: float
    accuracy: float
    answers: int


def evaluate(network: Network, batches: Iterable[TensorBatch], precision: str = "float32") -> Score:
    """Score a network in a precision (``train.precision``); its training mode is restored afterwards."""
    was_training = network.training
    network.eval()
    sums = []
    answers = 0
    with torch.no_grad():
        for batch in batches:
            with computing_in(precision, batch.ids_BT.device):
                outputs_NC, targets_N = network(batch)
            outputs_NC = widened(outputs_NC)
            loss = answer_loss(outputs_NC, targets_N, reduction="sum")
            classes = not targets_N.is_floating_point()
            right = (outputs_NC.argmax(1) == targets_N).sum() if classes else torch.full_like(loss, torch.nan)
            sums.append(torch.stack([loss.double(), right.double()]))
            answers += len(targets_N)
    network.train(was_training)
    loss_sum, right_sum = torch.stack(sums).sum(0).tolist()
    return Score(loss_sum / answers, right_sum / answers, answers)
