"""The Jordan network's layer: what feeds back is the output, not the hidden state.

Shape letters: T time, B batch, D width in, H hidden (and output).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from seqbench.layers.base import Encoder
from seqbench.layers.scan import ElmanScan
from seqbench.layers.stacking import is_stacked, run_scan
from seqbench.precision import in_float32


class JordanLayer(Encoder):
    """h_t = tanh(W x_t + U o_{t-1} + b), o_t = V h_t + c, from o_0 = 0 (Jordan 1986).

    Since U o_{t-1} = U V h_{t-1} + U c, the hidden states are those of an Elman network with the recurrent
    matrix U V: from the second step on. The first step reads the output it is given, so that a sequence can
    be continued from ``o`` alone.

    The form in which the network is taught today. Left out of Jordan's own: what his state units keep of
    themselves (s_t = mu s_{t-1} + o_{t-1}), and the squashing of the outputs.

    Args:
        width_in: D.
        hidden: H; outputs are as wide as the hidden state.
        init: of U and V: "default" (both uniform), "orthogonal" or "identity" (with biases of zero).
    """

    def __init__(self, width_in: int, hidden: int, init: str) -> None:
        super().__init__()
        self.width_out = hidden
        self.project = nn.Linear(width_in, hidden)  # W and b
        self.feedback = nn.Parameter(torch.empty(hidden, hidden))  # U
        self.out = nn.Linear(hidden, hidden)  # V and c
        bound = 1 / math.sqrt(hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        matrices = (self.feedback, self.out.weight)
        if init == "orthogonal":
            for matrix in matrices:
                nn.init.orthogonal_(matrix)
        elif init == "identity":
            for matrix in matrices:
                nn.init.eye_(matrix)
            for bias in (self.project.bias, self.out.bias):
                nn.init.zeros_(bias)

    @property
    def kernel(self) -> str:
        return "cuDNN" if self.feedback.is_cuda and not is_stacked() else "time-major scan (torch)"

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        o_BTH: Tensor = self.out(self.hidden_states(x_BTD, state))
        return o_BTH, o_BTH[:, -1]

    @in_float32
    def hidden_states(self, x_BTD: Tensor, o0_BH: Tensor | None = None) -> Tensor:
        """The hidden state of every step, ``(B, T, H)``, after the output ``o0_BH``."""
        pre_TBH = self.project(x_BTD.transpose(0, 1))
        first_BH = torch.zeros_like(pre_TBH[0]) if o0_BH is None else o0_BH @ self.feedback.t()
        later_BH = (self.feedback @ self.out.bias).expand_as(first_BH)
        fed_TBH = torch.stack([first_BH, *[later_BH] * (len(pre_TBH) - 1)])
        recurrent_HH = self.feedback @ self.out.weight
        scan = self.fused if x_BTD.is_cuda and not is_stacked() else self.scan
        return scan(pre_TBH + fed_TBH, recurrent_HH).transpose(0, 1)

    def scan(self, pre_TBH: Tensor, recurrent_HH: Tensor) -> Tensor:
        """All hidden states ``(T, B, H)`` from zero."""
        arguments = pre_TBH, torch.zeros_like(pre_TBH[0]), recurrent_HH
        return run_scan(ElmanScan, *arguments, False, axes=(1, 0, 0))  # type: ignore[no-any-return]

    def fused(self, pre_TBH: Tensor, recurrent_HH: Tensor) -> Tensor:
        """The same by torch's own kernel, which is cuDNN's on a GPU; it reads ``pre`` through an identity."""
        zero_H = torch.zeros_like(self.out.bias)
        one_HH = torch.eye(len(zero_H), dtype=zero_H.dtype, device=zero_H.device)
        h0_1BH = torch.zeros_like(pre_TBH[:1])
        weights = [one_HH, recurrent_HH, zero_H, zero_H]
        return torch.rnn_tanh(pre_TBH, h0_1BH, weights, True, 1, 0.0, self.training, False, False)[0]

    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Hidden state (of tanh) and output, each ``(B, T, H)``, for probes."""
        with torch.no_grad():
            h_BTH = self.hidden_states(x_BTD)
            return {"hidden": h_BTH, "state": self.out(h_BTH)}
