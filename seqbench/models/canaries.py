"""Canaries: baselines that show how far a task can be solved without reading order, or at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from seqbench.models.base import ModelConfig
from seqbench.registry import register

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@register("model")
@dataclass
class Bag(ModelConfig):
    """Bag of embeddings: the mean of the embeddings read so far; order is lost (canary)."""

    canary: ClassVar[bool] = True
    name: str = "bag"

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.canaries import BagLayer

        return BagLayer(width_in)


@register("model")
@dataclass
class Constant(ModelConfig):
    """Reads nothing; learns only how frequent each answer is (canary)."""

    canary: ClassVar[bool] = True
    name: str = "constant"

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.canaries import ConstantLayer

        return ConstantLayer()
