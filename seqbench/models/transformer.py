"""The Transformer encoder, and the steps of attention that lead to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqbench.errors import UsageError
from seqbench.models.base import Blocks, ModelConfig
from seqbench.registry import register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder

_POSITIONS = ("none", "sinusoidal", "learned", "rotary", "alibi")
_STAGES: dict[str, dict[str, Any]] = {  # how each step of the ladder differs from a Transformer
    "parameter_free": {"residual": False, "norm": "none", "feedforward_ratio": 0.0},
    "query_key_value": {"residual": False, "norm": "none", "feedforward_ratio": 0.0, "heads": 1},
    "multi_head": {"residual": False, "norm": "none", "feedforward_ratio": 0.0},
    "residual": {"norm": "none", "feedforward_ratio": 0.0},
    "block": {},
}


class Attending:
    """What the settings ``heads`` and ``causal`` mean to a model."""

    name: str
    heads: int
    causal: bool
    hidden: int | None
    bidirectional: bool

    @property
    def looks_ahead(self) -> bool:
        """Whether an output may depend on later inputs."""
        return not self.causal

    @property
    def width_multiple(self) -> int:
        """Heads share the width, and rotary positions turn pairs of channels."""
        return 2 * self.heads

    def check(self) -> None:
        """Refuse a second direction, and a width that heads cannot share.

        Raises:
            UsageError: with the setting to change.
        """
        if self.bidirectional:
            raise UsageError(
                "model.bidirectional=true: attention reads both directions with model.causal=false"
            )
        if self.hidden is not None and self.hidden % self.width_multiple:
            raise UsageError(
                f"model.hidden={self.hidden}: must be a multiple of {self.width_multiple} "
                f"(2 x model.heads={self.heads})"
            )


@register("model")
@dataclass
class Transformer(Attending, Blocks):
    """Transformer encoder, pre-norm by default (Vaswani et al. 2017; Xiong et al. 2020).

    GELU in the feed-forward part, rotary positions and the usual start of ``nn.Linear``; the first paper has
    ReLU, sinusoidal positions and Glorot's.
    """

    name: str = "transformer"
    heads: int = setting(2, "attention heads; the width is a multiple of 2 x heads", minimum=1)
    causal: bool = setting(True, "each position sees only itself and what came before")
    positions: str = setting("rotary", "how positions enter", choices=_POSITIONS)

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.attention import Attention

        return Attention(hidden, heads=self.heads, causal=self.causal, positions=self.positions)


@register("model")
@dataclass
class AttentionLadder(Attending, ModelConfig):
    """Self-attention in five steps, from no parameters to a Transformer block (Raschka et al. 2022)."""

    name: str = "attention"
    stage: str = setting(
        "multi_head",
        "parameter_free: means weighted by dot products; query_key_value: one learned head; multi_head: "
        "several and a map that joins them; residual: each layer added to its input; block: norm and "
        "feed-forward too",
        choices=tuple(_STAGES),
    )
    heads: int = setting(2, "heads from multi_head on; the width is a multiple of 2 x heads", minimum=1)
    layers: int = setting(2, "attention layers", minimum=1)
    causal: bool = setting(True, "each position sees only itself and what came before")
    positions: str = setting("rotary", "how positions enter", choices=_POSITIONS)
    longest: int = setting(
        128, "learned positions in the table; later steps share the last", unit="steps", minimum=1
    )

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.attention import Attention, ParameterFree
        from seqbench.layers.blocks import BlockEncoder

        shared = {name: getattr(self, name) for name in ("layers", "heads", "causal", "positions", "longest")}
        config = Transformer(**(shared | _STAGES[self.stage]))
        kind: dict[str, Any] = {"causal": self.causal, "positions": self.positions}

        def mixer(number: int) -> Encoder:
            if self.stage == "parameter_free":
                return ParameterFree(hidden, **kind)
            return Attention(hidden, heads=config.heads, out=self.stage != "query_key_value", **kind)

        return BlockEncoder(width_in, hidden, config, mixer)
