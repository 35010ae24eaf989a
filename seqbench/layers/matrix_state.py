"""Layers whose state is a matrix per head, added to: linear attention, retention, mLSTM.

Every head keeps S = sum of what is left of k_j v_j^T and reads S^T q; the layers differ in how keys and
values are made and in what is forgotten. All run in chunks (:mod:`seqbench.layers.chunk`), equal a loop over
steps, and are continued exactly from their state. Right padding is the future, so nobody looks at the mask.

Shape letters: B batch, T time, D width in, H width, K heads, E width of keys, V width of values; H = K E.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.layers.base import Encoder
from seqbench.layers.chunk import CHUNK, decay_chunks
from seqbench.layers.positions import angles, rotate
from seqbench.precision import in_float32, widened


class MatrixState(Encoder):
    """What these layers share: heads, and the name of the kernel."""

    kernel = f"chunked, {CHUNK} steps (torch)"
    state_names: tuple[str, ...] = ("memory",)

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"{hidden} channels cannot be shared by {heads} heads")
        self.width_out, self.heads = hidden, heads

    def apart(self, x_BTH: Tensor) -> Tensor:
        """Heads side by side to heads of their own, ``(B, K, T, E)``."""
        return x_BTH.reshape(*x_BTH.shape[:2], self.heads, -1).transpose(1, 2)

    def empty(self, x_BTD: Tensor, *shape: int) -> Tensor:
        """A state of zeros for every sequence and head."""
        return x_BTD.new_zeros(x_BTD.shape[0], self.heads, *shape)


def joined(y_BKTV: Tensor) -> Tensor:
    """Heads side by side again, ``(B, T, H)``."""
    return y_BKTV.transpose(1, 2).flatten(2)


def head_norm(y_BKTV: Tensor, eps: float) -> Tensor:
    """Zero mean and unit variance within each head of each step (group normalisation, without weights)."""
    return F.layer_norm(y_BKTV, y_BKTV.shape[-1:], eps=eps)


class LinearAttention(MatrixState):
    """Causal linear attention with a normaliser (Katharopoulos et al. 2020, 2006.16236, eq. 16-20).

    S_t = S_{t-1} + f(k_t) v_t^T, z_t = z_{t-1} + f(k_t), y_t = S_t^T f(q_t) / (z_t . f(q_t) + eps), with
    f(x) = elu(x) + 1, so that every output is a weighted mean of values. Nothing is forgotten, and nothing
    but causality tells the order: the paper adds positions to the input, as in a Transformer.

    Its state is S ``(B, K, E, V)`` and z ``(B, K, E)``.
    """

    state_names = ("memory", "normaliser")

    def __init__(self, hidden: int, *, heads: int, eps: float = 1e-6) -> None:
        super().__init__(hidden, heads)
        self.eps = eps
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        q, k, v = (self.apart(part) for part in self.qkv(x_BTD).chunk(3, dim=2))
        before = self.empty(x_BTD, q.shape[3], q.shape[3] + 1) if state is None else with_sum(*state)
        y_BKTW, after = decay_chunks(F.elu(q) + 1, F.elu(k) + 1, with_one(v), None, before)
        y_BKTV = y_BKTW[..., :-1] / (y_BKTW[..., -1:] + self.eps)
        return self.out(joined(y_BKTV)), (after[..., :-1], after[..., -1])


def with_one(v_BKTV: Tensor) -> Tensor:
    """A last value that is always 1: what it adds up to is the normaliser."""
    return F.pad(v_BKTV, (0, 1), value=1.0)


def with_sum(memory_BKEV: Tensor, sum_BKE: Tensor) -> Tensor:
    """The normaliser as the last column of the state."""
    return torch.cat([memory_BKEV, sum_BKE.unsqueeze(3)], dim=3)


class Retention(MatrixState):
    """Multi-scale retention (Sun et al. 2023, 2307.08621, eq. 5-8).

    S_t = g S_{t-1} + k_t v_t^T and y_t = S_t^T q_t with a fixed g = 1 - 2^(-o - i) for head i = 0, 1, ...;
    then group normalisation per head and a gate: out(norm(y) * swish(W x)). (The authors' code, torchscale,
    has values wider than keys, and a norm that leaves the mean in.)

    With ``rotary``, queries and keys are turned by their position, as complex numbers per pair of channels.
    Only distances matter, so the state is kept as the next step would see it from position 0: it is turned
    back by the number of steps read, and no position has to be remembered.

    Its state is S ``(B, K, E, V)``.

    Args:
        offset: o, 5 in the paper.
    """

    def __init__(
        self, hidden: int, *, heads: int, offset: float = 5.0, rotary: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__(hidden, heads)
        self.offset, self.rotary, self.eps = offset, rotary, eps
        self.qkvg = nn.Linear(hidden, 4 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)

    @in_float32
    def log_decay(self, like: Tensor) -> Tensor:
        """Log g of every head, ``(K,)``."""
        heads_K = torch.arange(self.heads, device=like.device, dtype=like.dtype)
        return torch.log1p(-torch.exp2(-self.offset - heads_K))

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        *parts, gate_BTH = self.qkvg(x_BTD).chunk(4, dim=2)
        q, k, v = (self.apart(part) for part in parts)
        if self.rotary:
            q, k = rotate(q.contiguous()), rotate(k.contiguous())
        before = self.empty(x_BTD, q.shape[3], v.shape[3]) if state is None else state[0]
        log_g_1KT = self.log_decay(x_BTD)[:, None].expand(1, -1, x_BTD.shape[1])
        y_BKTV, after = decay_chunks(q, k / math.sqrt(k.shape[3]), v, log_g_1KT, before)
        after = turned_back(after, x_BTD.shape[1]) if self.rotary else after
        return self.out(joined(head_norm(y_BKTV, self.eps)) * F.silu(gate_BTH)), (after,)


def turned_back(state_BKEV: Tensor, steps: int) -> Tensor:
    """The state as seen from ``steps`` later: its keys turned by that many positions, backwards."""
    turn_E = angles(steps + 1, state_BKEV.shape[2], state_BKEV)[-1]
    pairs = torch.view_as_complex(state_BKEV.mT.contiguous().unflatten(3, (-1, 2)))
    turned_BKVE = torch.view_as_real(pairs * torch.polar(torch.ones_like(turn_E), -turn_E)).flatten(3)
    return turned_BKVE.mT


class MatrixLSTM(MatrixState):
    """The mLSTM of xLSTM (Beck et al. 2024, 2405.04517, eq. 19-27).

    C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t, h_t = C_t^T q_t / max(|n_t . q_t|, 1),
    i_t = exp(.), f_t = sigmoid(.) or exp(.), one of each per head; y_t = out(o_t * norm(h_t)), o_t a sigmoid
    per channel and norm per head. Queries, keys and values are linear maps of the input (as in xLSTM 7B,
    2503.13427), without the convolution that the first paper puts in front of queries and keys. As norm takes
    out the scale of a head anyway, what h is divided by shows only where h is tiny (so in theirs).

    Since exp overflows, C, n are kept divided by exp(m): m_t = max(log f_t + m_{t-1}, log i_t, 0), and the
    normaliser is max(|n_t . q_t|, exp(-m_t)). The 0, which the paper lacks, changes no output (m only says
    in which unit C is written down) and bounds exp(-m_t) by 1. Given every m_t, which a running maximum
    finds at once, the recurrence is one with decay exp(log f_t + m_{t-1} - m_t) <= 1 and keys
    exp(log i_t - m_t) k_t, and runs in chunks like the others.

    Its state is C ``(B, K, E, V)``, n ``(B, K, E)`` and m ``(B, K)``.

    Args:
        forget_bias: of the first and the last head, evenly between; weights of both gates start at zero, so
            that the forget gate starts at exactly the sigmoid (or exp) of it.
        exponential: the forget gate is exp instead of sigmoid.
    """

    state_names = ("memory", "normaliser", "stabiliser")

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        forget_bias: tuple[float, float] = (3.0, 6.0),
        exponential: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(hidden, heads)
        self.exponential, self.eps = exponential, eps
        self.qkvo = nn.Linear(hidden, 4 * hidden)
        self.gates = nn.Linear(hidden, 2 * heads)
        self.out = nn.Linear(hidden, hidden)
        with torch.no_grad():
            self.gates.weight.zero_()
            self.gates.bias[:heads].normal_(std=0.1)
            self.gates.bias[heads:] = torch.linspace(*forget_bias, heads, device=self.gates.bias.device)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        *parts, open_BTH = self.qkvo(x_BTD).chunk(4, dim=2)
        q, k, v = (self.apart(part) for part in parts)
        if state is None:
            width = q.shape[3]
            state = self.empty(x_BTD, width, width), self.empty(x_BTD, width), self.empty(x_BTD)
        enter_BKT, log_f_BKT = self.log_gates(x_BTD)
        m_BKT, log_g_BKT = stabiliser(enter_BKT, log_f_BKT, state[2])
        k = k / math.sqrt(k.shape[3]) * (enter_BKT - m_BKT).exp().unsqueeze(3)
        y_BKTW, after = decay_chunks(q, k, with_one(v), log_g_BKT, with_sum(*state[:2]))
        least_BKT = (-m_BKT).clamp_min(-30.0).exp()  # far above the smallest float32, for 1 / it
        h_BKTV = y_BKTW[..., :-1] / torch.maximum(y_BKTW[..., -1].abs(), least_BKT).unsqueeze(3)
        y_BTH = self.out(open_BTH.sigmoid() * joined(head_norm(h_BKTV, self.eps)))
        return y_BTH, (after[..., :-1], after[..., -1], m_BKT[..., -1])

    def log_gates(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the input gate and of the forget gate, ``(B, K, T)`` each."""
        enter_BKT, forget_BKT = widened(self.gates(x_BTD)).transpose(1, 2).chunk(2, dim=1)
        return enter_BKT, forget_BKT if self.exponential else F.logsigmoid(forget_BKT)

    @torch.no_grad()
    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Gates for probes, ``(B, T, K)`` and ``(B, T, H)``; the input gate is stabilised, at most 1."""
        enter_BKT, log_f_BKT = self.log_gates(x_BTD)
        m_BKT, _ = stabiliser(enter_BKT, log_f_BKT, self.empty(x_BTD))
        return {
            "input gate": (enter_BKT - m_BKT).exp().clamp_max(1.0).transpose(1, 2),
            "forget gate": log_f_BKT.exp().transpose(1, 2),
            "output gate": self.qkvo(x_BTD).chunk(4, dim=2)[3].sigmoid(),
        }


def stabiliser(enter_BKT: Tensor, log_f_BKT: Tensor, m0_BK: Tensor) -> tuple[Tensor, Tensor]:
    """M_t = max(log f_t + m_{t-1}, log i_t, 0) of every step, and log f_t + m_{t-1} - m_t: ``(B, K, T)``.

    With s_t = log f_1 + ... + log f_t it is m_t = s_t + max(m_0, max_{j<=t} (max(log i_j, 0) - s_j)).
    Rounding in s does no harm: every m serves, as long as all use the same.
    """
    sum_BKT = log_f_BKT.cumsum(2)
    largest_BKT = (enter_BKT.clamp_min(0.0) - sum_BKT).cummax(2).values
    m_BKT = sum_BKT + torch.maximum(largest_BKT, m0_BK.unsqueeze(2))
    before_BKT = torch.cat([m0_BK.unsqueeze(2), m_BKT[..., :-1]], dim=2)
    return m_BKT, log_f_BKT + before_BKT - m_BKT
