"""Dilated causal convolutions.

Shape letters: B batch, T time, H width, P steps of the past that a convolution still reads.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from seqbench.layers.base import Encoder


class CausalConvolution(nn.Conv1d):
    """y_t = b + sum_k W_k x_{t - k d} for k = 0 .. K - 1, with zeros before the first step."""

    def __init__(self, hidden: int, kernel_size: int, dilation: int) -> None:
        super().__init__(hidden, hidden, kernel_size, dilation=dilation)
        self.past = (kernel_size - 1) * dilation  # P
        bound = math.sqrt(6 / (kernel_size * hidden))  # He et al. 2015: what a ReLU follows
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def after(self, x_BHT: Tensor, before_BHP: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs ``(B, H, T)``, and the last P inputs, from which a later call goes on."""
        if before_BHP is None:
            before_BHP = x_BHT.new_zeros(*x_BHT.shape[:2], self.past)
        seen_BHS = torch.cat([before_BHP, x_BHT], dim=2)
        return self(seen_BHS), seen_BHS[:, :, x_BHT.shape[2] :]


class TCNLayer(Encoder):
    """What a block of a temporal convolutional network adds to its input (Bai et al. 2018, 1803.01271).

    Two causal convolutions of one dilation, each with a ReLU behind it. Left out of the paper's block: weight
    normalisation, dropout inside, and the ReLU after the sum, which changes only the first block (later ones
    add what is never negative). Weights start as large as a ReLU needs (He et al. 2015), not with the 0.01
    of the authors' code.

    Args:
        hidden: H, read and written.
        kernel_size: taps of each convolution.
        dilation: steps between taps.
    """

    kernel = "nn.Conv1d"
    state_names = ("inputs of convolution 1", "inputs of convolution 2")

    def __init__(self, hidden: int, *, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.width_out = hidden
        self.convolutions = nn.ModuleList(CausalConvolution(hidden, kernel_size, dilation) for _ in range(2))
        self.receptive_field = 1 + 2 * (kernel_size - 1) * dilation

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        y_BHT, after = x_BTD.transpose(1, 2), []
        for convolution, before in zip(self.convolutions, state or (None, None), strict=True):
            y_BHT, last = cast(CausalConvolution, convolution).after(y_BHT, before)
            y_BHT = y_BHT.relu()
            after.append(last)
        return y_BHT.transpose(1, 2), tuple(after)
