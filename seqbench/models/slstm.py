"""The sLSTM: a recurrence with exponential gates, in blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from seqbench.errors import UsageError
from seqbench.models.base import Blocks
from seqbench.registry import register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@register("model")
@dataclass
class SLSTM(Blocks):
    """LSTM with exponential gates and a normaliser, in heads (Beck et al. 2024, 2405.04517)."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"forget_bias": (3.0, 1.0, 5.0)}

    name: str = "slstm"
    heads: int = setting(
        2, "blocks of the block-diagonal recurrent matrices; the width is a multiple of it", minimum=1
    )
    forget_bias: float = setting(3.0, "initial bias of the forget gate; 3 keeps 0.95 per step")

    @property
    def width_multiple(self) -> int:
        return self.heads

    def check(self) -> None:
        """Refuse a width that heads cannot share."""
        if self.hidden is not None and self.hidden % self.heads:
            raise UsageError(f"model.hidden={self.hidden}: must be a multiple of model.heads={self.heads}")

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.slstm import SLSTMLayer

        return SLSTMLayer(hidden, hidden, heads=self.heads, forget_bias=self.forget_bias)
