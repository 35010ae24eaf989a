"""The network that a user of PyTorch writes, padded or packed; for the loop, Lightning, the Trainer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from peers.work import BLOCKS, CLASSES, EMBEDDING, FEEDFORWARD, HEADS, HIDDEN, LOADER_EPOCHS, VOCABULARY, Cell

_RECURRENT = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU, "bilstm": nn.LSTM}


def dataset(cell: Cell) -> list[tuple[Tensor, int]]:
    """The raw sequences with their labels, as a list that a DataLoader takes."""
    rows = [torch.from_numpy(row) for row in cell.sequences]
    return list(zip(rows, cell.labels.tolist(), strict=True)) * LOADER_EPOCHS


def collate(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad to the longest of the batch: ids ``(B, T)``, lengths ``(B,)`` and labels ``(B,)``."""
    rows, labels = zip(*batch, strict=True)
    lengths_B = torch.tensor([len(row) for row in rows])
    return pad_sequence(rows, batch_first=True), lengths_B, torch.tensor(labels)


class Classifier(nn.Module):
    """Embedding, torch's own layers, a linear head on the last valid token."""

    def __init__(self, model: str, *, packed: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING, padding_idx=0)
        self.encoder: Any = TransformerLayers() if model == "transformer" else Recurrent(model, packed)
        self.head = nn.Linear(HIDDEN * (2 if model == "bilstm" else 1), CLASSES)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        logits_BC: Tensor = self.head(self.encoder(self.embedding(ids_BT), lengths_B))
        return logits_BC


class Recurrent(nn.Module):
    """One recurrent layer; a second direction is read at the first token.

    Padded, that second direction starts in the padding, which is what users get who do not pack.
    """

    def __init__(self, model: str, packed: bool) -> None:
        super().__init__()
        both = model == "bilstm"
        self.layer = _RECURRENT[model](EMBEDDING, HIDDEN, batch_first=True, bidirectional=both)
        self.packed, self.both = packed, both

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Summary of each sequence, ``(B, H)``."""
        if self.packed:
            sequence = pack_padded_sequence(x_BTD, lengths_B, batch_first=True, enforce_sorted=False)
            y_BTH, _ = pad_packed_sequence(self.layer(sequence)[0], batch_first=True)
        else:
            y_BTH, _ = self.layer(x_BTD)
        last_BH = y_BTH[torch.arange(len(y_BTH)), lengths_B - 1]
        return torch.cat([last_BH[:, :HIDDEN], y_BTH[:, 0, HIDDEN:]], dim=1) if self.both else last_BH


class TransformerLayers(nn.Module):
    """``nn.TransformerEncoder``, pre-norm, with sinusoidal positions and a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(EMBEDDING, HIDDEN)
        self.layers = encoder_layers()

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Summary of each sequence, ``(B, H)``."""
        steps = x_BTD.shape[1]
        x_BTH = self.enter(x_BTD) + sinusoids(steps)
        padding_BT = torch.arange(steps) >= lengths_B[:, None]
        y_BTH = self.layers(x_BTH, src_key_padding_mask=padding_BT)
        return y_BTH[torch.arange(len(y_BTH)), lengths_B - 1]


def encoder_layers() -> nn.TransformerEncoder:
    """Torch's own pre-norm Transformer with a norm at the end."""
    layer = nn.TransformerEncoderLayer(
        HIDDEN, HEADS, FEEDFORWARD, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, BLOCKS, norm=nn.LayerNorm(HIDDEN), enable_nested_tensor=False)


def sinusoids(steps: int) -> Tensor:
    """Positions ``(T, H)``: sine and cosine of falling frequencies (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(steps)[:, None] * torch.exp(torch.arange(0, HIDDEN, 2) * (-math.log(1e4) / HIDDEN))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
