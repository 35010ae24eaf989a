"""Self-attention over ``scaled_dot_product_attention``, from its parameter-free form to many heads.

Shape letters: B batch, T time, H width, K heads, E width of a head (H = K E).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.layers.base import Encoder
from seqbench.layers.positions import distance_penalty, rotate
from seqbench.layers.stacking import join_axes


class Attention(Encoder):
    """Multi-head scaled dot-product self-attention (Vaswani et al. 2017, section 3.2).

    Args:
        hidden: H, read and written.
        heads: K.
        causal: each position sees only itself and what came before.
        positions: "rotary" turns queries and keys, "alibi" makes far pairs score lower; anything else is
            none of attention's business.
        out: whether a linear map joins the heads.
    """

    kernel = "scaled_dot_product_attention"

    def __init__(
        self, hidden: int, *, heads: int, causal: bool, positions: str = "none", out: bool = True
    ) -> None:
        super().__init__()
        self.width_out, self.heads, self.causal = hidden, heads, causal
        self.rotary, self.alibi = positions == "rotary", positions == "alibi"
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden) if out else nn.Identity()

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        q_BKTE, k_BKTE, v_BKTE = self.project(x_BTD)
        bias = self.bias(x_BTD, mask_BT)
        alone = self.causal and bias is None  # the kernel's own causal mask goes with no other
        attend = functools.partial(F.scaled_dot_product_attention, is_causal=alone, scale=self.scale(q_BKTE))
        inputs = [q_BKTE, k_BKTE, v_BKTE, *([] if bias is None else [bias])]
        y_BKTE = join_axes(attend, *inputs, axes=(0,) * len(inputs))
        return self.out(y_BKTE.transpose(1, 2).reshape(x_BTD.shape)), None

    def project(self, x_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both turned where positions are rotary) and values, ``(B, K, T, E)`` each."""
        batch, time, hidden = x_BTH.shape
        qkv_BT3KE = self.qkv(x_BTH).view(batch, time, 3, self.heads, hidden // self.heads)
        # Taken apart before it is turned: the gradients are then put together by a single copy.
        q_BKTE, k_BKTE, v_BKTE = (part.transpose(1, 2) for part in qkv_BT3KE.unbind(2))
        if self.rotary:
            q_BKTE, k_BKTE = rotate(q_BKTE), rotate(k_BKTE)
        return q_BKTE, k_BKTE, v_BKTE

    def cache_values(self, steps: int) -> int:
        """Numbers kept of one sequence to go on with: keys and values of every step."""
        return 2 * steps * self.width_out

    def scale(self, q_BKTE: Tensor) -> float:
        """What scores are multiplied by."""
        return 1 / math.sqrt(q_BKTE.shape[3])

    def bias(self, x_BTH: Tensor, mask_BT: Tensor | None) -> Tensor | None:
        """What is added to the scores (or, as booleans, which keys are seen) beyond the causal mask.

        With right padding a causal mask already hides padding; otherwise the keys are masked.
        """
        keys_B11T = None if self.causal or mask_BT is None else mask_BT[:, None, None, :]
        if not self.alibi:
            return keys_B11T
        bias_KTT = distance_penalty(x_BTH.shape[1], self.heads, x_BTH)
        if self.causal:
            bias_KTT = bias_KTT.masked_fill(future(x_BTH), -math.inf)
        return bias_KTT if keys_B11T is None else bias_KTT.masked_fill(~keys_B11T, -math.inf)

    @torch.no_grad()
    def weights(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None) -> Tensor:
        """The probabilities ``(B, K, T, T)`` that :meth:`forward` averages the values with, for probes.

        Row t is what query t puts on every key. The fused kernel does not give them away, so they are
        computed again: T x T numbers per head, which :meth:`forward` never holds.
        """
        q_BKTE, k_BKTE, _ = self.project(x_BTD)
        scores_BKTT = self.scale(q_BKTE) * q_BKTE @ k_BKTE.transpose(2, 3)
        bias = self.bias(x_BTD, mask_BT)
        if bias is not None and bias.dtype == torch.bool:
            scores_BKTT = scores_BKTT.masked_fill(~bias, -math.inf)
        elif bias is not None:
            scores_BKTT = scores_BKTT + bias
        if self.causal:
            scores_BKTT = scores_BKTT.masked_fill(future(x_BTD), -math.inf)
        return scores_BKTT.softmax(3)


class ParameterFree(Attention):
    """Self-attention without a parameter: every vector is its own query, key and value, and nothing scales.

    The weighted mean of all visible inputs, with the softmax of plain dot products as weights: the first
    form of attention in Raschka et al. 2022, chapter 16.
    """

    def __init__(self, hidden: int, *, causal: bool, positions: str = "none") -> None:
        super().__init__(hidden, heads=1, causal=causal, positions=positions, out=False)
        del self.qkv

    def project(self, x_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_B1TH = x_BTH.unsqueeze(1)
        turned_B1TH = rotate(x_B1TH) if self.rotary else x_B1TH
        return turned_B1TH, turned_B1TH, x_B1TH

    def cache_values(self, steps: int) -> int:
        return steps * self.width_out

    def scale(self, q_BKTE: Tensor) -> float:
        return 1.0


def future(x_BTH: Tensor) -> Tensor:
    """True where the key comes after the query, ``(T, T)``."""
    time = x_BTH.shape[1]
    return torch.ones(time, time, dtype=torch.bool, device=x_BTH.device).triu(1)
