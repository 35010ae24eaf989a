"""The textbook way: the same loop with packed sequences (as in Raschka et al. 2022, chapter 15)."""

from __future__ import annotations

from peers import torch_loop
from peers.gate import Gate
from peers.work import Cell


def train(cell: Cell, gate: Gate) -> None:
    """Train for ever."""
    torch_loop.train(cell, gate, packed=True)
