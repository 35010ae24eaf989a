"""Linear recurrences: minGRU and minLSTM, LRU, S4D and RG-LRU, each the mixer of a block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from seqbench.errors import UsageError
from seqbench.models.base import Blocks, Convolving, ordered
from seqbench.registry import register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@register("model")
@dataclass
class MinGRU(Blocks):
    """Minimal GRU: its gate and its candidate see the input alone (Feng et al. 2024, 2410.01201)."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"forget_bias": (None, 1.0, 3.0)}

    name: str = "mingru"
    forget_bias: float | None = setting(
        None, "what is kept, 1 - z, starts at its sigmoid; null keeps torch's small random bias"
    )

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.linear_recurrent import MinGRULayer

        return MinGRULayer(hidden, forget_bias=self.forget_bias)


@register("model")
@dataclass
class MinLSTM(Blocks):
    """Minimal LSTM: gates that see the input alone and add up to 1 (Feng et al. 2024, 2410.01201)."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"forget_bias": (None, 1.0, 3.0)}

    name: str = "minlstm"
    forget_bias: float | None = setting(
        None,
        "bias of the forget gate, and minus that of the input gate: what is kept starts at its sigmoid; null "
        "keeps torch's small random ones",
    )

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.linear_recurrent import MinLSTMLayer

        return MinLSTMLayer(hidden, forget_bias=self.forget_bias)


@register("model")
@dataclass
class LRU(Blocks):
    """Linear Recurrent Unit, complex eigenvalues on a ring (Orvieto et al. 2023, 2303.06349)."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"r_min": (0.0, 0.9)}

    name: str = "lru"
    r_min: float = setting(0.0, "smallest initial radius: what a step keeps", minimum=0.0, maximum=1.0)
    r_max: float = setting(1.0, "largest initial radius: what a step keeps", minimum=0.0, maximum=1.0)
    max_phase: float = setting(
        2 * math.pi, "largest initial angle by which a step turns the state", unit="rad", minimum=1e-6
    )

    def check(self) -> None:
        """Refuse an empty ring."""
        ordered(self, "r_min", "r_max")

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.linear_recurrent import LRULayer

        return LRULayer(hidden, min_radius=self.r_min, max_radius=self.r_max, max_phase=self.max_phase)


@register("model")
@dataclass
class S4D(Blocks):
    """Diagonal state space model, S4D-Lin with zero-order hold (Gu et al. 2022, 2206.11893)."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"dt_max": (0.1, 0.01)}

    name: str = "s4d"
    state_size: int = setting(64, "size of the state of each channel; even", minimum=2)
    dt_min: float = setting(0.001, "smallest initial time step dt", minimum=1e-6)
    dt_max: float = setting(
        0.1, "largest initial time step dt: half of a memory is left after 1.4 / dt tokens"
    )

    def check(self) -> None:
        """Refuse an odd state (units come in conjugate pairs) and an empty range."""
        if self.state_size % 2:
            raise UsageError(
                f"model.state_size={self.state_size}: must be even, units come in conjugate pairs"
            )
        ordered(self, "dt_min", "dt_max")

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.linear_recurrent import S4DLayer

        return S4DLayer(hidden, units=self.state_size, min_step=self.dt_min, max_step=self.dt_max)


@register("model")
@dataclass
class RGLRU(Convolving):
    """Real-Gated LRU after a short convolution, as in Griffin (De et al. 2024, 2402.19427)."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"min_decay": (0.9, 0.99)}

    name: str = "rglru"
    min_decay: float = setting(
        0.9,
        "smallest initial share kept by a step whose recurrence gate is open",
        minimum=1e-6,
        maximum=0.999999,
    )
    max_decay: float = setting(
        0.999,
        "largest initial share kept by a step whose recurrence gate is open",
        minimum=1e-6,
        maximum=0.999999,
    )

    def check(self) -> None:
        """Refuse an empty range."""
        ordered(self, "min_decay", "max_decay")

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.linear_recurrent import RGLRULayer

        return RGLRULayer(
            hidden, min_decay=self.min_decay, max_decay=self.max_decay, convolution=self.convolution
        )
