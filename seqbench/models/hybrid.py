"""Blocks whose mixers are other models' layers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqbench.errors import UsageError, nearest
from seqbench.models.base import Blocks, ModelConfig
from seqbench.registry import lookup, plugins, register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@register("model")
@dataclass
class Hybrid(Blocks):
    """A list of other models' layers, one per block, each with its own model's defaults.

    What stands around a layer (norm, residual, feed-forward part) is the hybrid's own, for all alike; so is
    a convolution before it, but for layers that have one inside.
    """

    name: str = "hybrid"
    layers: int = setting(1, "how often the list of mixers is stacked", minimum=1)
    mixers: list[str] = setting(["gru", "transformer"], "models whose layers mix steps, one block each")

    @property
    def width_multiple(self) -> int:
        return math.lcm(*(config.width_multiple for config in self.parts()))

    def variant(self) -> str:
        own = dataclasses.replace(self, mixers=[])
        words = [word for word in ModelConfig.variant(own).split() if not word.startswith("mixers=")]
        return " ".join([words[0], "+".join(self.mixers), *words[1:]])

    def parts(self) -> list[ModelConfig]:
        """The configuration behind each mixer of the list: its model's defaults, one layer."""
        return [self.part(number) for number in range(len(self.mixers))]

    def part(self, number: int) -> ModelConfig:
        """The configuration behind the mixer of one block."""
        found: ModelConfig = lookup("model", self.mixers[number % len(self.mixers)])(layers=1)
        return found

    def convolved(self, number: int) -> int:
        return 0 if getattr(self.part(number), "convolves_inside", False) else self.convolution

    def check(self) -> None:
        """Refuse what is no mixer, and a width that a part cannot have."""
        if not self.mixers:
            raise UsageError(
                f"model.mixers=[]: expected a list like [gru,transformer]; {nearest('', mixers())}"
            )
        for name in self.mixers:
            if name not in mixers():
                raise UsageError(f"model.mixers: no mixer '{name}'; {nearest(name, mixers())}")
        if self.hidden is not None and self.hidden % self.width_multiple:
            raise UsageError(
                f"model.hidden={self.hidden}: must be a multiple of {self.width_multiple}, as "
                f"model.mixers=[{','.join(self.mixers)}] need"
            )

    def mixer(self, hidden: int, number: int) -> Encoder:
        rounds, place = divmod(number, len(self.mixers))
        config, name = self.part(number), self.mixers[place]
        if not isinstance(config, Blocks):
            return config.build(hidden, hidden)
        like = rounds * self.mixers.count(name) + self.mixers[:place].count(name)  # blocks of its kind before
        return config.mixer(hidden, like)

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.blocks import BlockEncoder

        stacked = dataclasses.replace(self, layers=self.layers * len(self.mixers))
        return BlockEncoder(width_in, hidden, stacked, lambda number: self.mixer(hidden, number))


def mixers() -> list[str]:
    """Models whose layer can stand in a block: contestants that read left to right and are no hybrid."""
    known: dict[str, ModelConfig] = {name: cls() for name, cls in plugins("model").items()}
    return [
        name
        for name, config in known.items()
        if not (config.canary or config.looks_ahead or isinstance(config, Hybrid))
    ]
