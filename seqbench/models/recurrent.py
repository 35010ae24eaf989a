"""Recurrent models: the RNNs of Elman and Jordan, LSTM, GRU and the bidirectional LSTM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from seqbench import native
from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@dataclass
class Recurrent(ModelConfig):
    """What all recurrent models share."""

    residual: bool = setting(False, "from the second layer on, add the input of each layer to its output")

    def check(self) -> None:
        """A residual needs something to skip."""
        if self.residual and self.layers == 1:
            raise UsageError(
                "model.residual=true: one layer has nothing to add to: set model.layers=2 or more"
            )


@dataclass
class Scanned(Recurrent):
    """What the models share whose loop over the steps is seqbench's own."""

    kernel: str = setting(
        "auto",
        "what runs the steps on a CPU: torch's operators, a loop compiled in C, or that one where there is a "
        "C compiler",
        choices=("auto", "torch", "compiled"),
    )

    def check(self) -> None:
        """A compiled loop needs a compiler."""
        super().check()
        if self.kernel == "compiled" and native.fingerprint() is None:
            raise UsageError(
                "model.kernel=compiled: no C compiler was found, or it failed: install gcc or clang, or take "
                "model.kernel=torch"
            )


@register("model")
@dataclass
class RNN(Scanned):
    """Vanilla recurrent network, h_t = tanh(W x_t + U h_{t-1} + b) (Elman 1990)."""

    name: str = "rnn"
    nonlinearity: str = setting("tanh", "activation of the state", choices=("tanh", "relu"))
    init: str = setting(
        "default",
        "recurrent matrix: U(-1/sqrt(H), 1/sqrt(H)), orthogonal, or identity (Le et al. 2015)",
        choices=("default", "orthogonal", "identity"),
    )

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.recurrent import ElmanLayer, stack

        return stack(
            self.layers,
            width_in,
            lambda width: ElmanLayer(width, hidden, self.nonlinearity, self.init, self.kernel),
            residual=self.residual,
        )


@register("model")
@dataclass
class Jordan(Recurrent):
    """Output fed back: h_t = tanh(W x_t + U o_{t-1} + b), o_t = V h_t + c (Jordan 1986)."""

    name: str = "jordan"
    init: str = setting(
        "default",
        "feedback and output matrix: U(-1/sqrt(H), 1/sqrt(H)), orthogonal, or identity",
        choices=("default", "orthogonal", "identity"),
    )

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.jordan import JordanLayer
        from seqbench.layers.recurrent import stack

        return stack(
            self.layers,
            width_in,
            lambda width: JordanLayer(width, hidden, self.init),
            residual=self.residual,
        )


@register("model")
@dataclass
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000)."""

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"forget_bias": (None, 1.0, 3.0)}

    name: str = "lstm"
    forget_bias: float | None = setting(
        None, "initial bias of the forget gate; null keeps torch's small random one"
    )
    chrono: int | None = setting(
        None, "chrono initialisation for dependencies up to this length (1804.11188)", unit="steps", minimum=3
    )

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.recurrent import LSTMLayer, stack

        return stack(
            self.layers,
            width_in,
            lambda width: LSTMLayer(width, hidden, self.forget_bias, self.chrono),
            residual=self.residual,
        )


@register("model")
@dataclass
class BiLSTM(LSTM):
    """Two LSTMs, one reading left to right and one right to left (Graves & Schmidhuber 2005)."""

    name: str = "bilstm"
    bidirectional: bool = setting(True, "read in both directions")


@register("model")
@dataclass
class GRU(Scanned):
    """Gated recurrent unit (Cho et al. 2014, 1406.1078).

    In the form of cuDNN and torch: the reset gate multiplies U h + b, not h.
    """

    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {"update_bias": (None, 1.0, 3.0)}

    name: str = "gru"
    update_bias: float | None = setting(
        None, "initial bias of the update gate; null keeps torch's small random one"
    )

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.recurrent import GRULayer, stack

        return stack(
            self.layers,
            width_in,
            lambda width: GRULayer(width, hidden, self.update_bias, self.kernel),
            residual=self.residual,
        )
