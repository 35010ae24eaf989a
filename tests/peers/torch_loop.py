"""The loop that every tutorial has: DataLoader, forward, backward, Adam, loss.item()."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from peers.gate import Gate
from peers.torch_nets import Classifier, collate, dataset
from peers.work import BATCH, LEARNING_RATE, Cell


def train(cell: Cell, gate: Gate, *, packed: bool = False) -> None:
    """Train for ever."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loader = DataLoader(dataset(cell), batch_size=BATCH, shuffle=True, collate_fn=collate)
    network = Classifier(cell.model, packed=packed)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    while True:
        for ids_BT, lengths_B, labels_B in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(ids_BT, lengths_B), labels_B)
            loss.backward()
            optimizer.step()
            value = loss.item()
            gate.tick(lambda value=value: value)
