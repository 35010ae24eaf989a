"""The Transformer encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@register("model")
@dataclass
class Transformer(ModelConfig):
    """Transformer encoder, pre-norm by default (Vaswani et al. 2017; Xiong et al. 2020)."""

    name: str = "transformer"
    layers: int = setting(2, "stacked blocks", minimum=1)
    heads: int = setting(2, "attention heads; the width is a multiple of 2 x heads", minimum=1)
    feedforward_ratio: float = setting(2.0, "inner width of the feed-forward part / width", minimum=0.25)
    causal: bool = setting(True, "each position sees only itself and what came before")
    positions: str = setting("rotary", "how positions enter", choices=("none", "sinusoidal", "rotary"))
    norm: str = setting("pre", "normalise before or after each sub-layer", choices=("pre", "post"))
    residual: bool = setting(True, "add the input of each sub-layer to its output")
    dropout: float = setting(0.0, "dropout inside the blocks", minimum=0.0, maximum=0.95)

    @property
    def looks_ahead(self) -> bool:
        return not self.causal

    @property
    def width_multiple(self) -> int:
        return 2 * self.heads

    def check(self) -> None:
        """Refuse settings that cannot be built."""
        if self.bidirectional:
            raise UsageError(
                "model.bidirectional=true: attention reads both directions with model.causal=false"
            )
        if self.hidden is not None and self.hidden % self.width_multiple:
            raise UsageError(
                f"model.hidden={self.hidden}: must be a multiple of {self.width_multiple} "
                f"(2 x model.heads={self.heads})"
            )

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.transformer import TransformerEncoder

        return TransformerEncoder(width_in, hidden, self)
