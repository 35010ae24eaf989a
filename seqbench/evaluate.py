"""Held-out quality: loss and accuracy over scored answers only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from seqbench.batch import TensorBatch
from seqbench.network import Network


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy over ``answers`` scored answers."""

    loss: float
    accuracy: float
    answers: int


def evaluate(network: Network, batches: Iterable[TensorBatch]) -> Score:
    """Score a network; its training mode is restored afterwards."""
    was_training = network.training
    network.eval()
    sums = []
    answers = 0
    with torch.no_grad():
        for batch in batches:
            logits_NC, targets_N = network(batch)
            loss = F.cross_entropy(logits_NC, targets_N, reduction="sum")
            right = (logits_NC.argmax(1) == targets_N).sum()
            sums.append(torch.stack([loss.double(), right.double()]))
            answers += len(targets_N)
    network.train(was_training)
    loss_sum, right_sum = torch.stack(sums).sum(0).tolist()
    return Score(loss_sum / answers, right_sum / answers, answers)
