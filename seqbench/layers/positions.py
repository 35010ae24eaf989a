"""Ways in which positions enter a network that has no order of its own.

Shape letters: T time, H width, K heads, E width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seqbench.precision import in_float32


class Learned(nn.Module):
    """A learned vector for each of the first ``longest`` positions; later ones share the last."""

    def __init__(self, longest: int, hidden: int) -> None:
        super().__init__()
        self.table = nn.Embedding(longest, hidden)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, x_BTH: Tensor) -> Tensor:
        steps_T = torch.arange(x_BTH.shape[1], device=x_BTH.device)
        added_BTH: Tensor = x_BTH + self.table(steps_T.clamp_max(self.table.num_embeddings - 1))
        return added_BTH


class Sinusoidal(nn.Module):
    """Fixed sines and cosines of every position (Vaswani et al. 2017, section 3.5)."""

    def forward(self, x_BTH: Tensor) -> Tensor:
        return x_BTH + sinusoids(x_BTH.shape[1], x_BTH.shape[2], x_BTH)


def angles(time: int, width: int, like: Tensor) -> Tensor:
    """Position times frequency, ``(T, width / 2)`` (Vaswani et al. 2017, section 3.5)."""
    exponent = torch.arange(0, width, 2, device=like.device, dtype=like.dtype) / width
    frequency = torch.exp(-math.log(10_000.0) * exponent)
    return torch.arange(time, device=like.device, dtype=like.dtype)[:, None] * frequency


@in_float32
def sinusoids(time: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal positions ``(T, width)``: sines in the first half, cosines in the second."""
    turn = angles(time, width + width % 2, like)
    return torch.cat([turn.sin(), turn.cos()], dim=1)[:, :width]


@in_float32
def rotate(x_TE: Tensor) -> Tensor:
    """Rotary positions for ``(..., T, E)`` (Su et al. 2021, 2104.09864, section 3.2).

    Each pair of neighbouring channels is a complex number, turned by position times frequency.
    """
    turn = angles(x_TE.shape[-2], x_TE.shape[-1], x_TE)
    pairs = torch.view_as_complex(x_TE.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(turn), turn)).flatten(-2)


@in_float32
def distance_penalty(time: int, heads: int, like: Tensor) -> Tensor:
    """ALiBi: what is added to the score of each pair, ``(K, T, T)`` (Press et al. 2021, 2108.12409).

    Minus the distance times a slope per head, 2^(-8 k / K) for k = 1 .. K.
    """
    steps_T = torch.arange(time, device=like.device, dtype=like.dtype)
    slopes_K = torch.exp2(-8 * torch.arange(1, heads + 1, device=like.device, dtype=like.dtype) / heads)
    return -slopes_K[:, None, None] * (steps_T[:, None] - steps_T).abs()
