"""The network around an encoder: shared embedding, encoder, shared read-out and head.

Shape letters: B batch, T time, D embedding width, H encoder width, C classes, N scored answers.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.batch import PADDING, UNSCORED, TensorBatch
from seqbench.config import NetworkConfig
from seqbench.layers.base import Bidirectional, Encoder
from seqbench.layers.linear import quicken
from seqbench.models.base import ModelConfig


class OneHot(nn.Module):
    """Token ids as one-hot vectors; padding becomes the zero vector."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size

    def forward(self, ids_BT: Tensor) -> Tensor:
        vectors_BTD = F.one_hot(ids_BT, self.vocabulary_size).to(torch.get_default_dtype())
        return vectors_BTD * (ids_BT != PADDING).unsqueeze(2)


class Values(nn.Linear):
    """Features of every step as vectors, by one linear map for all steps; padding becomes the zero vector."""

    def forward(self, values_BTF: Tensor, mask_BT: Tensor) -> Tensor:  # type: ignore[override]
        vectors_BTD = super().forward(values_BTF.to(self.weight.dtype))
        return vectors_BTD.masked_fill(~mask_BT.unsqueeze(2), 0.0)


class Network(nn.Module):
    """Ids (or values) in, logits of the scored answers (or predicted numbers) out."""

    def __init__(
        self,
        model: ModelConfig,
        config: NetworkConfig,
        vocabulary_size: int,
        classes: int,
        hidden: int,
        features: int = 0,
    ) -> None:
        super().__init__()
        self.embedding, width = build_embedding(config, vocabulary_size, features)
        self.encoder = build_encoder(model, width, hidden)
        self.head = nn.Linear(self.encoder.width_out, classes)
        self.drop = nn.Dropout(config.dropout)
        self.readout = self.encoder.readout or config.readout
        quicken(self)

    def forward(self, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """Logits ``(N, C)`` and targets ``(N,)`` of every scored answer of the batch."""
        return self.answer(self.embed(batch), batch)

    def embed(self, batch: TensorBatch) -> Tensor:
        """What the encoder reads, ``(B, T, D)``; zero at padding."""
        if batch.values_BTF is None:
            return cast(Tensor, self.embedding(batch.ids_BT))
        return cast(Tensor, self.embedding(batch.values_BTF, batch.mask_BT))

    def answer(self, x_BTD: Tensor, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The same from embedded tokens; probes differentiate with respect to them."""
        y_BTH, _ = self.encoder(self.drop(x_BTD), mask_BT=batch.mask_BT)
        return self.read(y_BTH, batch)

    def read(self, y_BTH: Tensor, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The same from the encoder's outputs."""
        if batch.targets.ndim == 2:
            scored = batch.targets != UNSCORED if batch.scored_2N is None else tuple(batch.scored_2N)
            return self.head(self.drop(y_BTH[scored])), batch.targets[scored]
        return self.head(self.drop(self._summary(y_BTH, batch))), batch.targets

    def _summary(self, y_BTH: Tensor, batch: TensorBatch) -> Tensor:
        if self.readout == "last":
            return self.encoder.last(y_BTH, batch.lengths_B)
        mask_BT1 = batch.mask_BT.unsqueeze(2)
        if self.readout == "mean":
            return y_BTH.masked_fill(~mask_BT1, 0.0).sum(1) / batch.lengths_B.unsqueeze(1)
        return y_BTH.masked_fill(~mask_BT1, -math.inf).amax(1)


def build_embedding(config: NetworkConfig, vocabulary_size: int, features: int) -> tuple[nn.Module, int]:
    """The shared embedding, and its width."""
    if config.embedding == "onehot" and not features:
        return OneHot(vocabulary_size), vocabulary_size
    width = config.embedding_width
    if features:
        return Values(features, width), width
    return nn.Embedding(vocabulary_size, width, padding_idx=PADDING), width


def answer_loss(outputs_NC: Tensor, targets_N: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy (nats) of classes, or squared error where the targets are numbers and C is 1.

    Where a target is -1, no answer is asked: it counts for nothing.
    """
    if targets_N.is_floating_point():
        return F.mse_loss(outputs_NC.squeeze(1), targets_N.to(outputs_NC.dtype), reduction=reduction)
    return F.cross_entropy(outputs_NC, targets_N, ignore_index=UNSCORED, reduction=reduction)


def build_encoder(model: ModelConfig, width_in: int, hidden: int) -> Encoder:
    """The model's encoder, doubled when both directions are asked for.

    Raises:
        TypeError: the model built something that is not an :class:`Encoder`.
    """
    encoder: Any = model.build(width_in, hidden)
    if not isinstance(encoder, Encoder):
        raise TypeError(
            f"model '{model.name}': build() returned {type(encoder).__name__}, expected an Encoder"
        )
    return Bidirectional(encoder, model.build(width_in, hidden)) if model.bidirectional else encoder


def parameter_count(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
