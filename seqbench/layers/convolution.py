"""The short causal convolution that modern recurrences put in front of their state.

Shape letters: B batch, T time, C channels, W width of the filter in steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.layers.base import Encoder


class ShortConvolution(nn.Module):
    """y_t = bias + sum_i weight_i x_{t-W+1+i}: each channel on its own, over the last W steps.

    Source: the convolution of width 4 in Mamba (Gu & Dao 2023, 2312.00752, figure 3).

    Its state is the last W - 1 inputs, ``(B, W - 1, C)``; zeros before the first step.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.width = width
        self.weight = nn.Parameter(torch.empty(channels, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x_BTC: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The convolved sequence ``(B, T, C)``, and the state after it."""
        if state is None:
            state = x_BTC.new_zeros(x_BTC.shape[0], self.width - 1, x_BTC.shape[2])
        seen_BSC = torch.cat([state, x_BTC], dim=1)
        # As an image one pixel high, channels last: on CPU less than half the time of F.conv1d.
        image_BC1S, filters_C11W = seen_BSC.transpose(1, 2).unsqueeze(2), self.weight[:, None, None]
        # Under vmap autocast does not reach the convolution, whose inputs may be of half precision by then.
        filters_C11W, bias_C = filters_C11W.to(x_BTC.dtype), self.bias.to(x_BTC.dtype)
        y_BC1T = F.conv2d(image_BC1S, filters_C11W, bias_C, groups=len(bias_C))
        return y_BC1T.squeeze(2).transpose(1, 2), seen_BSC[:, x_BTC.shape[1] :]


def convolved(
    convolution: ShortConvolution | None, x_BTC: Tensor, state: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The convolved sequence and the state after it; the sequence alone where there is no convolution."""
    return (x_BTC,) if convolution is None else convolution(x_BTC, state)


class Convolution(Encoder):
    """The same as a layer of its own, which any mixer can follow."""

    kernel = "convolution of each channel"
    state_names = ("recent inputs",)

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.width_out, self.receptive_field = hidden, width
        self.short = ShortConvolution(hidden, width)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        convolved: tuple[Tensor, Tensor] = self.short(x_BTD, state)
        return convolved
