"""Transformer blocks over ``scaled_dot_product_attention``.

Shape letters: B batch, T time, H width, K heads, E width of a head (H = K E).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.layers.base import Encoder

if TYPE_CHECKING:
    from seqbench.models.transformer import Transformer


class TransformerEncoder(Encoder):
    """Input projection (only where widths differ), positions, blocks, final norm (pre-norm only)."""

    kernel = "scaled_dot_product_attention"

    def __init__(self, width_in: int, hidden: int, config: Transformer) -> None:
        super().__init__()
        self.width_out = hidden
        self.causal = config.causal
        self.positions = config.positions
        self.enter = nn.Identity() if width_in == hidden else nn.Linear(width_in, hidden)
        self.blocks = nn.ModuleList([Block(hidden, config) for _ in range(config.layers)])
        self.leave = nn.LayerNorm(hidden) if config.norm == "pre" else nn.Identity()

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        x_BTH = self.enter(x_BTD)
        if self.positions == "sinusoidal":
            x_BTH = x_BTH + sinusoids(x_BTH.shape[1], self.width_out, x_BTH)
        # With right padding a causal mask already hides padding; otherwise the keys are masked.
        keys_B11T = None if self.causal or mask_BT is None else mask_BT[:, None, None, :]
        for block in self.blocks:
            x_BTH = block(x_BTH, keys_B11T)
        return self.leave(x_BTH), None


class Block(nn.Module):
    """Multi-head self-attention and a feed-forward part, each with norm and (optionally) residual."""

    def __init__(self, hidden: int, config: Transformer) -> None:
        super().__init__()
        inner = max(1, round(hidden * config.feedforward_ratio))
        self.attention = Attention(hidden, config)
        self.feedforward = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.drop = nn.Dropout(config.dropout)
        self.pre, self.residual = config.norm == "pre", config.residual

    def forward(self, x_BTH: Tensor, keys_B11T: Tensor | None) -> Tensor:
        x_BTH = self._sublayer(0, x_BTH, lambda y: self.attention(y, keys_B11T))
        return self._sublayer(1, x_BTH, self.feedforward)

    def _sublayer(self, index: int, x_BTH: Tensor, function: Any) -> Tensor:
        norm = self.norms[index]
        y_BTH: Tensor = self.drop(function(norm(x_BTH) if self.pre else x_BTH))
        if self.residual:
            y_BTH = x_BTH + y_BTH
        if not self.pre:
            y_BTH = norm(y_BTH)
        return y_BTH


class Attention(nn.Module):
    """Multi-head scaled dot-product self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, hidden: int, config: Transformer) -> None:
        super().__init__()
        self.heads, self.causal, self.rotary = config.heads, config.causal, config.positions == "rotary"
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, x_BTH: Tensor, keys_B11T: Tensor | None) -> Tensor:
        q_BKTE, k_BKTE, v_BKTE = self.project(x_BTH)
        y_BKTE = F.scaled_dot_product_attention(
            q_BKTE, k_BKTE, v_BKTE, attn_mask=keys_B11T, is_causal=self.causal
        )
        return self.out(y_BKTE.transpose(1, 2).reshape(x_BTH.shape))  # type: ignore[no-any-return]

    def project(self, x_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both turned where positions are rotary) and values, ``(B, K, T, E)`` each."""
        batch, time, hidden = x_BTH.shape
        qkv = self.qkv(x_BTH).view(batch, time, 3, self.heads, hidden // self.heads)
        qkv_3BKTE = qkv.permute(2, 0, 3, 1, 4)
        q_BKTE, k_BKTE = rotate(qkv_3BKTE[:2]) if self.rotary else qkv_3BKTE[:2]
        return q_BKTE, k_BKTE, qkv_3BKTE[2]

    @torch.no_grad()
    def weights(self, x_BTH: Tensor, keys_B11T: Tensor | None) -> Tensor:
        """The probabilities ``(B, K, T, T)`` that :meth:`forward` averages the values with, for probes.

        Row t is what query t puts on every key. The fused kernel does not give them away, so they are
        computed again: T x T numbers per head, which :meth:`forward` never holds.
        """
        q_BKTE, k_BKTE, _ = self.project(x_BTH)
        scores_BKTT = q_BKTE @ k_BKTE.transpose(2, 3) / math.sqrt(q_BKTE.shape[3])
        if keys_B11T is not None:
            scores_BKTT = scores_BKTT.masked_fill(~keys_B11T, -math.inf)
        if self.causal:
            future_TT = scores_BKTT.new_ones(scores_BKTT.shape[2:], dtype=torch.bool).triu(1)
            scores_BKTT = scores_BKTT.masked_fill(future_TT, -math.inf)
        return scores_BKTT.softmax(3)


def angles(time: int, width: int, like: Tensor) -> Tensor:
    """Position times frequency, ``(T, width / 2)`` (Vaswani et al. 2017, section 3.5)."""
    exponent = torch.arange(0, width, 2, device=like.device, dtype=like.dtype) / width
    frequency = torch.exp(-math.log(10_000.0) * exponent)
    return torch.arange(time, device=like.device, dtype=like.dtype)[:, None] * frequency


def sinusoids(time: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal positions ``(T, width)``: sines in the first half, cosines in the second."""
    turn = angles(time, width, like)
    return torch.cat([turn.sin(), turn.cos()], dim=1)


def rotate(x_TE: Tensor) -> Tensor:
    """Rotary positions for ``(..., T, E)`` (Su et al. 2021, 2104.09864, section 3.2).

    Each pair of neighbouring channels is a complex number, turned by position times frequency.
    """
    turn = angles(x_TE.shape[-2], x_TE.shape[-1], x_TE)
    pairs = torch.view_as_complex(x_TE.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(turn), turn)).flatten(-2)
