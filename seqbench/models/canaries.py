"""Canaries: baselines that show how far a task can be solved without reading order, or at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.registry import register

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@dataclass
class Canary(ModelConfig):
    """A baseline without settings: any would make it something else."""

    canary: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-2  # where it runs beside a comparison; high, as nothing can explode

    def check(self) -> None:
        """Refuse what would let a canary read order, or would do nothing."""
        given = {"bidirectional": self.bidirectional, "layers": self.layers, "hidden": self.hidden}
        for key, only in (("bidirectional", False), ("layers", 1), ("hidden", None)):
            if given[key] != only:
                raise UsageError(f"model.{key}={given[key]}: the canary '{self.name}' has no such choice")


@register("model")
@dataclass
class Bag(Canary):
    """Bag of embeddings: the mean of the embeddings read so far; order is lost (canary)."""

    name: str = "bag"

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.canaries import BagLayer

        return BagLayer(width_in)


@register("model")
@dataclass
class Constant(Canary):
    """Reads nothing; learns only how frequent each answer is (canary)."""

    name: str = "constant"

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.canaries import ConstantLayer

        return ConstantLayer()
