"""Recurrences with a matrix for a state: linear attention, retention, mLSTM, Mamba-2 and 3, DeltaNet.

What a head forgets at the start decides what can be learned (recall fails when the memory is gone before the
question comes), so every model that forgets declares it as a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from seqbench.errors import UsageError
from seqbench.models.base import Blocks, Convolving, ordered
from seqbench.registry import register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder
    from seqbench.layers.state_space import InitialDecay


@dataclass
class Heads(Blocks):
    """Settings of blocks whose mixer has heads of equal width."""

    heads: int = setting(2, "heads, each with a matrix of its own; the width is a multiple of it", minimum=1)

    @property
    def width_multiple(self) -> int:
        return self.heads

    def check(self) -> None:
        """Refuse a width that the heads cannot share.

        Raises:
            UsageError: with the setting to change.
        """
        multiple = self.width_multiple
        if self.hidden is not None and self.hidden % multiple:
            raise UsageError(
                f"model.hidden={self.hidden}: must be a multiple of {multiple} (model.heads={self.heads})"
            )


@dataclass
class Timed(Heads):
    """Settings of heads that keep exp(-rate x dt) per step, where dt depends on the input."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"dt_max": (0.1, 0.01)}

    dt_min: float = setting(
        0.001, "smallest dt of a head at the start; it remembers 1/(rate x dt) steps", minimum=1e-6
    )
    dt_max: float = setting(0.1, "largest dt of a head at the start", minimum=1e-6)

    def check(self) -> None:
        """Refuse a width that the heads cannot share, and a range that ends before it begins."""
        super().check()
        ordered(self, "dt_min", "dt_max")


@dataclass
class Decaying(Timed):
    """The same where the rate is a weight of the head."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"dt_max": (0.1, 0.01), "rate_max": (16.0, 1.0)}

    rate_min: float = setting(1.0, "smallest rate of a head at the start", unit="1/dt", minimum=1e-6)
    rate_max: float = setting(16.0, "largest rate of a head at the start", unit="1/dt", minimum=1e-6)

    def check(self) -> None:
        """Refuse a width that the heads cannot share, and ranges that end before they begin."""
        super().check()
        ordered(self, "rate_min", "rate_max")

    def initial(self) -> InitialDecay:
        """The ranges for the layer."""
        from seqbench.layers.state_space import InitialDecay

        return InitialDecay((self.rate_min, self.rate_max), (self.dt_min, self.dt_max))


@register("model")
@dataclass
class LinearAttentionModel(Heads):
    """Causal linear attention with a normaliser; forgets nothing (Katharopoulos et al. 2020).

    S_t = S_{t-1} + f(k_t) v_t^T, z_t = z_{t-1} + f(k_t), y_t = S_t^T f(q_t) / (z_t . f(q_t)), f = elu + 1.

    Source: 2006.16236, eq. 16-20. The paper adds positions to the input (model.positions), here left to you.
    """

    name: str = "linear_attention"

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.matrix_state import LinearAttention

        return LinearAttention(hidden, heads=self.heads)


@register("model")
@dataclass
class RetNet(Heads):
    """Retentive network: fixed decay per head, rotated keys, gate (Sun et al. 2023).

    S_t = g S_{t-1} + k_t v_t^T, y_t = S_t^T q_t, g = 1 - 2^(-5-i) for head i; output swish(W x) * norm(y).

    Source: 2307.08621, eq. 5-8.
    """

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"decay_offset": (5.0, 3.0, 7.0)}

    name: str = "retnet"
    decay_offset: float = setting(
        5.0, "head i forgets 2^-(offset + i) of its memory at every step", minimum=0.1, maximum=20.0
    )
    rotary: bool = setting(True, "turn queries and keys by their position")

    @property
    def width_multiple(self) -> int:
        return 2 * self.heads

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.matrix_state import Retention

        return Retention(hidden, heads=self.heads, offset=self.decay_offset, rotary=self.rotary)


@register("model")
@dataclass
class MatrixLSTMModel(Heads):
    """mLSTM: matrix memory, exponential input gate, normaliser, stabiliser (Beck et al. 2024).

    C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t, h_t = C_t^T q_t / max(|n_t . q_t|, 1).

    Source: 2405.04517, eq. 19-27.
    """

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"forget_bias_min": (3.0, 1.0, 5.0)}

    name: str = "mlstm"
    forget_bias_min: float = setting(3.0, "bias of the first head's forget gate; 3 forgets 5 % per step")
    forget_bias_max: float = setting(6.0, "bias of the last head's forget gate; 6 forgets 0.25 % per step")
    forget_gate: str = setting("sigmoid", "how the forget gate is opened", choices=("sigmoid", "exp"))

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.matrix_state import MatrixLSTM

        bias = (self.forget_bias_min, self.forget_bias_max)
        return MatrixLSTM(hidden, heads=self.heads, forget_bias=bias, exponential=self.forget_gate == "exp")


@register("model")
@dataclass
class Mamba2(Convolving, Decaying):
    """Mamba-2: state space with a scalar decay per head, short convolution, gate (Dao & Gu 2024).

    S_t = exp(-rate dt_t) S_{t-1} + dt_t B_t v_t^T, y_t = S_t^T C_t + d v_t; output norm(y * silu(z)).

    Source: 2405.21060, section 7.
    """

    name: str = "mamba2"
    state_size: int = setting(16, "width of B and C: rows of every head's matrix", minimum=1)
    expand: int = setting(2, "channels inside the mixer / width", minimum=1)

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.state_space import Mamba2Layer

        return Mamba2Layer(
            hidden,
            heads=self.heads,
            initial=self.initial(),
            state_size=self.state_size,
            expand=self.expand,
            convolution=self.convolution,
        )


@register("model")
@dataclass
class Mamba3(Timed):
    """Mamba-3 (SISO): trapezoid rule, keys turned by angles from the input (Lahoti et al. 2026).

    S_t = g_t S_{t-1} + g_t (1 - l_t) dt_t k_{t-1} v_{t-1}^T + l_t dt_t k_t v_t^T, y_t = S_t^T q_t + d v_t,
    g_t = exp(-softplus(a_t) dt_t); output y * silu(z).

    Source: 2603.15569, and the authors' state-spaces/mamba, modules/mamba3.py.
    """

    name: str = "mamba3"
    state_size: int = setting(16, "width of B and C: rows of every head's matrix", minimum=2)
    expand: int = setting(2, "channels inside the mixer / width", minimum=1)
    rotary: float = setting(0.5, "share of B's and C's channels that are turned", minimum=0.0, maximum=1.0)

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.state_space import Mamba3Layer

        return Mamba3Layer(
            hidden,
            heads=self.heads,
            dt=(self.dt_min, self.dt_max),
            state_size=self.state_size,
            expand=self.expand,
            rotary=self.rotary,
        )


@dataclass
class Delta(Convolving, Heads):
    """Settings of the delta rule, which replaces what the memory holds at a key."""

    negative_eigenvalues: bool = setting(
        False, "beta in (0, 2), so that the memory at a key can flip its sign"
    )


@register("model")
@dataclass
class DeltaNet(Delta):
    """DeltaNet: the value at a key is replaced, not added to (Yang et al. 2024).

    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, y_t = S_t^T q_t, |k_t| = 1.

    Source: 2406.06484, section 3; negative eigenvalues: Grazzi et al. 2024, 2411.12537.
    """

    name: str = "deltanet"

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.state_space import DeltaNetLayer

        return DeltaNetLayer(
            hidden, heads=self.heads, convolution=self.convolution, negative=self.negative_eigenvalues
        )


@register("model")
@dataclass
class GatedDeltaNet(Delta, Decaying):
    """Gated DeltaNet: the delta rule with Mamba-2's decay and an output gate (Yang et al. 2024).

    S_t = (I - beta_t k_t k_t^T) g_t S_{t-1} + beta_t k_t v_t^T, y_t = S_t^T q_t, |k_t| = 1.

    Source: 2412.06464, eq. 10; negative eigenvalues: Grazzi et al. 2024, 2411.12537.
    """

    name: str = "gated_deltanet"

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.state_space import DeltaNetLayer

        return DeltaNetLayer(
            hidden,
            heads=self.heads,
            convolution=self.convolution,
            negative=self.negative_eigenvalues,
            initial=self.initial(),
        )
