"""Encoders of the canaries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqbench.layers.base import Encoder


class BagLayer(Encoder):
    """y_t = mean of x_1 .. x_t: knows which tokens were read, not their order."""

    kernel = "cumulative mean"
    readout = "last"

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.width_out = width_in

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        total_BD, count = state if state is not None else (torch.zeros_like(x_BTD[:, 0]), 0)
        sum_BTD = x_BTD.cumsum(1) + total_BD.unsqueeze(1)
        steps_T1 = torch.arange(1, x_BTD.shape[1] + 1, device=x_BTD.device).unsqueeze(1) + count
        return sum_BTD / steps_T1, (sum_BTD[:, -1], count + x_BTD.shape[1])


class ConstantLayer(Encoder):
    """y_t = 1: the head can learn only the frequency of each answer."""

    kernel = "none"
    readout = "last"
    width_out = 1

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        return x_BTD.new_ones(x_BTD.shape[0], x_BTD.shape[1], 1), None
