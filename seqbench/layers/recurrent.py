"""Recurrent layers.

Sequences are padded, never packed: packing leaves the fused CPU kernels and its per-step backward pass is
quadratic in length (pytorch#149194); right padding is exact for a causal layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.layers import compiled
from seqbench.layers.base import Chain, Encoder
from seqbench.layers.scan import ElmanScan, GRUScan, LSTMScan
from seqbench.layers.stacking import is_stacked, run_scan
from seqbench.precision import by_cudnn, in_float32

_LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def stack(layers: int, width_in: int, layer: Callable[[int], Encoder], residual: bool = False) -> Encoder:
    """Stack ``layers`` layers, each built from the width it reads."""
    built: list[Encoder] = []
    for _ in range(layers):
        built.append(layer(built[-1].width_out if built else width_in))
    return built[0] if layers == 1 else Chain(built, residual=residual)


def delayed(y_BTH: Tensor) -> Tensor:
    """The state that each step reads: zero at the first, then the output one step before."""
    return F.pad(y_BTH[:, :-1], (0, 0, 1, 0))


class _ScanLayer(Encoder):
    """Weights of a scan: an input projection with bias and a recurrent matrix.

    Args:
        kernel: "compiled" runs the loop in C, "torch" on torch's operators, "auto" the first where it can.
            On a GPU it is always cuDNN, but for several networks at once.
    """

    gates: int

    def __init__(self, width_in: int, hidden: int, kernel: str) -> None:
        super().__init__()
        self.width_out, self.wanted = hidden, kernel
        self.project = nn.Linear(width_in, self.gates * hidden)
        self.recurrent = nn.Parameter(torch.empty(self.gates * hidden, hidden))
        bound = 1 / math.sqrt(hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @property
    def kernel(self) -> str:
        if self.recurrent.is_cuda and not is_stacked():
            return "cuDNN"
        return f"time-major scan ({'compiled' if self.runs_compiled(self.recurrent) else 'torch'})"

    def runs_compiled(self, x: Tensor) -> bool:
        """Whether the loop over the steps of such an input is the compiled one."""
        return self.wanted != "torch" and compiled.usable(x)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        h0_BH = x_BTD.new_zeros(x_BTD.shape[0], self.width_out) if state is None else state
        if x_BTD.is_cuda and not is_stacked():
            y_BTH, last_1BH = self.fused(x_BTD, h0_BH.unsqueeze(0))
            return y_BTH, last_1BH[0]
        return self.scanned(x_BTD, h0_BH)

    @in_float32
    def scanned(self, x_BTD: Tensor, h0_BH: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and last state by a scan of our own."""
        x_TBD = x_BTD.transpose(0, 1)
        run = self.compiled if self.runs_compiled(x_BTD) else self.scan
        h_TBH = run(x_TBD, h0_BH)
        return h_TBH.transpose(0, 1), h_TBH[-1]

    def scan(self, x_TBD: Tensor, h0_BH: Tensor) -> Tensor:
        """All states ``(T, B, H)``."""
        raise NotImplementedError

    def compiled(self, x_TBD: Tensor, h0_BH: Tensor) -> Tensor:
        """The same by the compiled loop."""
        raise NotImplementedError

    def fused(self, x_BTD: Tensor, h0_1BH: Tensor) -> tuple[Tensor, Tensor]:
        """The same by torch's own kernel, which is cuDNN's on a GPU."""
        raise NotImplementedError

    def fused_arguments(self, recurrent_bias: Tensor) -> tuple[Any, ...]:
        """Weights and flags (biases, layers, dropout, training, bidirectional, batch first) for torch."""
        weights = [self.project.weight, self.recurrent, self.project.bias, recurrent_bias]
        return weights, True, 1, 0.0, self.training, False, True


class ElmanLayer(_ScanLayer):
    """One Elman layer over :class:`ElmanScan`; equals ``nn.RNN`` (whose two biases only ever add up)."""

    gates = 1

    def __init__(
        self, width_in: int, hidden: int, nonlinearity: str, init: str, kernel: str = "auto"
    ) -> None:
        super().__init__(width_in, hidden, kernel)
        self.relu = nonlinearity == "relu"
        if init == "orthogonal":
            nn.init.orthogonal_(self.recurrent)
        elif init == "identity":
            nn.init.eye_(self.recurrent)
            nn.init.zeros_(self.project.bias)

    def scan(self, x_TBD: Tensor, h0_BH: Tensor) -> Tensor:
        arguments = self.project(x_TBD), h0_BH, self.recurrent
        return run_scan(ElmanScan, *arguments, self.relu, axes=(1, 0, 0))  # type: ignore[no-any-return]

    def compiled(self, x_TBD: Tensor, h0_BH: Tensor) -> Tensor:
        enter = self.project
        return compiled.CompiledElman.apply(  # type: ignore[no-any-return]
            x_TBD, enter.weight, enter.bias, h0_BH, self.recurrent, self.relu
        )

    @by_cudnn
    def fused(self, x_BTD: Tensor, h0_1BH: Tensor) -> tuple[Tensor, Tensor]:
        kernel = torch.rnn_relu if self.relu else torch.rnn_tanh
        return kernel(x_BTD, h0_1BH, *self.fused_arguments(torch.zeros_like(self.project.bias)))

    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """The states ``(B, T, H)``, for probes; what stands at padding means nothing."""
        with torch.no_grad():
            return {"state": self.forward(x_BTD)[0]}


class GRULayer(_ScanLayer):
    """One GRU layer over :class:`GRUScan`; equals ``nn.GRU``."""

    gates = 3

    def __init__(self, width_in: int, hidden: int, update_bias: float | None, kernel: str = "auto") -> None:
        super().__init__(width_in, hidden, kernel)
        bound = 1 / math.sqrt(hidden)
        self.recurrent_bias = nn.Parameter(torch.empty(3 * hidden).uniform_(-bound, bound))
        if update_bias is not None:
            with torch.no_grad():
                self.project.bias[hidden : 2 * hidden] = update_bias
                self.recurrent_bias[hidden : 2 * hidden] = 0

    def scan(self, x_TBD: Tensor, h0_BH: Tensor) -> Tensor:
        arguments = self.project(x_TBD), h0_BH, self.recurrent, self.recurrent_bias
        return run_scan(GRUScan, *arguments, axes=(1, 0, 0, 0))  # type: ignore[no-any-return]

    def compiled(self, x_TBD: Tensor, h0_BH: Tensor) -> Tensor:
        enter = self.project
        return compiled.CompiledGRU.apply(  # type: ignore[no-any-return]
            x_TBD, enter.weight, enter.bias, h0_BH, self.recurrent, self.recurrent_bias
        )

    @by_cudnn
    def fused(self, x_BTD: Tensor, h0_1BH: Tensor) -> tuple[Tensor, Tensor]:
        return torch.gru(x_BTD, h0_1BH, *self.fused_arguments(self.recurrent_bias))

    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Gates, candidate and state, each ``(B, T, H)``, for probes; an open update gate keeps the state.

        Every step at once, from the kernel's own states (Cho et al. 2014, 1406.1078, eq. 5-8).
        """
        with torch.no_grad():
            h_BTH = self.forward(x_BTD)[0]
            recurrent_BTG = F.linear(delayed(h_BTH), self.recurrent, self.recurrent_bias)
            reset, update, candidate = self.project(x_BTD).chunk(3, dim=2)
            to_reset, to_update, to_candidate = recurrent_BTG.chunk(3, dim=2)
            reset = (reset + to_reset).sigmoid()
            return {
                "reset gate": reset,
                "update gate": (update + to_update).sigmoid(),
                "candidate": (candidate + reset * to_candidate).tanh(),
                "state": h_BTH,
            }


class LSTMLayer(Encoder):
    """One LSTM layer on torch's fused kernel (oneDNN on CPU, cuDNN on GPU); several at once on a scan."""

    state_names = ("state", "cell")

    def __init__(self, width_in: int, hidden: int, forget_bias: float | None, chrono: int | None) -> None:
        super().__init__()
        self.width_out = hidden
        self.lstm = nn.LSTM(width_in, hidden, batch_first=True)
        input_bias = self.lstm.get_parameter("bias_ih_l0")
        recurrent_bias = self.lstm.get_parameter("bias_hh_l0")
        forget = slice(hidden, 2 * hidden)
        with torch.no_grad():
            if chrono is not None:
                spans_H = torch.empty(hidden, device=input_bias.device).uniform_(1, chrono - 1)
                recurrent_bias[: 2 * hidden] = 0
                input_bias[forget] = spans_H.log()
                input_bias[:hidden] = -spans_H.log()
            elif forget_bias is not None:
                input_bias[forget] = forget_bias
                recurrent_bias[forget] = 0

    @property
    def kernel(self) -> str:
        return "time-major scan (torch)" if is_stacked() else "nn.LSTM (fused)"

    @by_cudnn
    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        run = self.scan if is_stacked() else self.lstm
        return run(x_BTD, state)

    @in_float32
    def scan(self, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The same by :class:`LSTMScan`, also for several networks at once."""
        enter, recurrent, enter_bias, recurrent_bias = (getattr(self.lstm, f"{n}_l0") for n in _LSTM_WEIGHTS)
        pre_TBG = F.linear(x_BTD.transpose(0, 1), enter, enter_bias + recurrent_bias)
        zeros_1BH = x_BTD.new_zeros(1, len(x_BTD), self.width_out)
        h0_1BH, c0_1BH = (zeros_1BH, zeros_1BH) if state is None else state
        arguments = pre_TBG, h0_1BH[0], c0_1BH[0], recurrent
        h_TBH, c_TBH = run_scan(LSTMScan, *arguments, axes=(1, 0, 0, 0), outputs=(1, 1))
        return h_TBH.transpose(0, 1), (h_TBH[-1:], c_TBH[-1:])

    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Gates, candidate, cell and state, each ``(B, T, H)``, for probes; equations of :class:`nn.LSTM`.

        The gates of every step at once, from the kernel's own outputs; only the cell needs a loop.
        """
        with torch.no_grad():
            h_BTH = self.lstm(x_BTD)[0]
            weights = (self.lstm.get_parameter(f"{name}_l0") for name in _LSTM_WEIGHTS)
            enter, recurrent, enter_bias, recurrent_bias = weights
            pre_BTG = F.linear(x_BTD, enter, enter_bias) + F.linear(delayed(h_BTH), recurrent, recurrent_bias)
            i, f, g, o = pre_BTG.chunk(4, dim=2)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            found = {"input gate": i, "forget gate": f, "output gate": o, "candidate": g}
            return {**found, "cell": cells(f, i * g), "state": h_BTH}


def cells(forget_BTH: Tensor, written_BTH: Tensor) -> Tensor:
    """c_t = f_t c_{t-1} + written_t from c_0 = 0, for every step."""
    c_BH, found = torch.zeros_like(written_BTH[:, 0]), []
    for forget, written in zip(forget_BTH.unbind(1), written_BTH.unbind(1), strict=True):
        c_BH = torch.addcmul(written, forget, c_BH)
        found.append(c_BH)
    return torch.stack(found, dim=1)
