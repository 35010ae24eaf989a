"""Letting a network go on with a text: each next token is drawn from what it predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from seqbench.batch import UNSCORED, Batch, Ints
from seqbench.network import Network


def generate(
    network: Network, prompt_T: Ints, tokens: int, window: int, next_id: Callable[[int], int], seed: int
) -> Ints:
    """Draw ``tokens`` ids after a prompt, at temperature 1.

    The network reads the last ``window`` ids anew for every token, as in training, so any causal encoder can.

    Args:
        prompt_T: ids to start from, at least one.
        next_id: the input id of an answer.
    """
    device = next(network.parameters()).device
    draw = torch.Generator().manual_seed(seed)
    ids = prompt_T.tolist()
    was_training = network.training
    network.eval()
    with torch.no_grad():
        for _ in range(tokens):
            logits_NC, _ = network(_last_asked(ids[-window:]).tensors(device))
            chosen = torch.multinomial(logits_NC[0].double().softmax(0).cpu(), 1, generator=draw)
            ids.append(next_id(int(chosen)))
    network.train(was_training)
    return np.array(ids[len(prompt_T) :], dtype=np.int64)


def _last_asked(ids: list[int]) -> Batch:
    """One sequence, asked at its last position alone."""
    ids_BT = np.array([ids], dtype=np.int64)
    targets_BT = np.full_like(ids_BT, UNSCORED)
    targets_BT[:, -1] = 0
    return Batch(ids_BT, np.array([len(ids)]), targets_BT)
