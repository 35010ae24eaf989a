"""Layers whose matrix state is written through gates: Mamba-2 and 3, DeltaNet, Gated DeltaNet.

Shape letters: B batch, T time, D width in, H width, K heads, E width of keys, V width of values; the short
convolution has C channels and width W; I channels inside Mamba, P pairs of channels that are turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.layers.chunk import decay_chunks, delta_chunks
from seqbench.layers.convolution import ShortConvolution, convolved
from seqbench.layers.matrix_state import MatrixState, joined
from seqbench.precision import widened

Range = tuple[float, float]


@dataclass(frozen=True)
class InitialDecay:
    """What a head forgets before training: exp(-rate x dt) stays per step, with both drawn for each head.

    The distributions are the papers', which have dozens of heads; the draws are stratified, one from each of
    as many equal parts as there are heads, so that two heads do not leave the memory to luck.
    """

    rate: Range = (1.0, 16.0)  # uniform
    dt: Range = (0.001, 0.1)  # uniform in its logarithm


class Forgetting(nn.Module):
    """Decay that depends on the input, one per head (Dao & Gu 2024, 2405.21060, section 7).

    dt_t = softplus(x_t + bias) and log g_t = -exp(log_rate) dt_t; at x = 0 as :class:`InitialDecay` says.
    """

    def __init__(self, heads: int, initial: InitialDecay) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(stratified(heads, *initial.rate).log())
        self.bias = nn.Parameter(dt_bias(heads, initial.dt))

    def forward(self, x_BTK: Tensor) -> tuple[Tensor, Tensor]:
        """Dt and log g, ``(B, K, T)`` each."""
        dt_BTK = softplus(x_BTK + self.bias)
        return dt_BTK.transpose(1, 2), (-self.log_rate.exp() * dt_BTK).transpose(1, 2)


def dt_bias(heads: int, ends: Range) -> Tensor:
    """Biases whose softplus is uniform in its logarithm between two ends, ``(K,)``."""
    dt_K = stratified(heads, *(math.log(end) for end in ends)).exp()
    return dt_K + (-torch.expm1(-dt_K)).log()


def stratified(count: int, low: float, high: float) -> Tensor:
    """Uniform numbers ``(count,)``, one from each of ``count`` equal parts of the range, in random order."""
    part_K = (torch.randperm(count) + torch.rand(count)) / count
    return low + (high - low) * part_K


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), also in float64 (``F.softplus`` is the identity above 20)."""
    return -F.logsigmoid(-x)


class Convolving(MatrixState):
    """A matrix state behind a short convolution, or without one."""

    convolution: ShortConvolution | None

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("memory", "recent inputs") if self.convolution else ("memory",)


class Mamba2Layer(Convolving):
    """The Mamba-2 mixer (Dao & Gu 2024, 2405.21060, section 7 and figure 6).

    z, (v, B, C), dt = linear maps of x; (v, B, C) = silu(short convolution). Per head, with g_t and dt_t from
    :class:`Forgetting`: S_t = g_t S_{t-1} + dt_t B_t v_t^T and y_t = S_t^T C_t + d v_t; B and C, of E
    channels, are shared by all heads. Then out(RMS norm(y * silu(z))). The paper stacks this layer alone,
    without a feed-forward part between, and with more state: E is 64 or 128 in the authors' code.

    Its state is S ``(B, K, E, V)`` and the last inputs of the convolution ``(B, W - 1, C)``.

    Args:
        expand: channels inside / H.
        state_size: E.
        convolution: W; 0 leaves it out.
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        initial: InitialDecay,
        state_size: int = 16,
        expand: int = 2,
        convolution: int = 4,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(hidden, heads)
        inner = expand * hidden
        self.widths = [inner, inner + 2 * state_size, heads]
        self.parts = [inner, state_size, state_size]
        self.enter = nn.Linear(hidden, sum(self.widths), bias=False)
        self.convolution = ShortConvolution(self.widths[1], convolution) if convolution else None
        self.forgetting = Forgetting(heads, initial)
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(inner, eps=eps)
        self.out = nn.Linear(inner, hidden, bias=False)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        z_BTI, mixed_BTC, dt_BTK = self.enter(x_BTD).split(self.widths, dim=2)
        memory, *recent = (None,) if state is None else state
        mixed_BTC, *recent = convolved(self.convolution, mixed_BTC, *recent)
        v_BTI, b_BTE, c_BTE = F.silu(mixed_BTC).split(self.parts, dim=2)
        v_BKTV = self.apart(v_BTI)
        before = self.empty(x_BTD, b_BTE.shape[2], v_BKTV.shape[3]) if memory is None else memory
        dt_BKT, log_g_BKT = self.forgetting(dt_BTK)
        k_BKTE = dt_BKT.unsqueeze(3) * b_BTE.unsqueeze(1)  # narrower than v, which dt might scale as well
        y_BKTV, after = decay_chunks(c_BTE.unsqueeze(1), k_BKTE, v_BKTV, log_g_BKT, before)
        y_BTI = joined(torch.addcmul(y_BKTV, self.skip[:, None, None], v_BKTV))
        return self.out(self.norm(y_BTI * F.silu(z_BTI))), (after, *recent)

    @torch.no_grad()
    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """The decay of every head, ``(B, T, K)``, for probes."""
        _, log_g_BKT = self.forgetting(self.enter(x_BTD)[..., -self.heads :])
        return {"forget gate": log_g_BKT.exp().transpose(1, 2)}


class Mamba3Layer(MatrixState):
    """The Mamba-3 mixer with one input and one output per head, SISO (Lahoti et al. 2026, 2603.15569).

    z, v, B, C, dt, a, l, w = linear maps of x; dt_t = softplus(dt + bias), g_t = exp(-softplus(a) dt_t),
    l_t = sigmoid(l). Keys and queries are the RMS-normalised B and C plus a bias per head, turned by the
    angle sum_{s<=t} dt_s pi tanh(w_s): a complex state whose phase depends on the input. The trapezoid rule
    writes half of a step late: S_t = g_t S_{t-1} + g_t (1 - l_t) dt_t k_{t-1} v_{t-1}^T + l_t dt_t k_t v_t^T;
    y_t = S_t^T q_t + d v_t; then out(y * silu(z)). No convolution and, as in the authors' code
    (state-spaces/mamba, modules/mamba3.py, which the equations follow), no norm at the end.

    With (1 - l_{t+1}) dt_{t+1} added to what step t writes it is the plain decay form, read before writing.
    The state is kept as seen from the angle of the last step, so that no angle has to be remembered.

    Its state is S ``(B, K, E, V)`` and the last step's key ``(B, K, E)`` and value ``(B, K, V)``.

    Args:
        dt: how dt starts, as in :class:`InitialDecay`; about exp(-0.7 dt) stays per step at the start.
        rotary: share of the channels of keys and queries that are turned.
    """

    state_names = ("memory", "last key", "last value")
    SLOWEST = 1e-4  # smallest rate, softplus(a)

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        dt: Range = (0.001, 0.1),
        state_size: int = 16,
        expand: int = 2,
        rotary: float = 0.5,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(hidden, heads)
        inner, self.size, self.pairs = expand * hidden, state_size, int(state_size * rotary) // 2
        self.widths = [inner, inner, state_size, state_size, heads, heads, heads, self.pairs]
        self.enter = nn.Linear(hidden, sum(self.widths), bias=False)
        self.dt_bias = nn.Parameter(dt_bias(heads, dt))
        self.key_norm, self.query_norm = (nn.RMSNorm(state_size, eps=eps) for _ in range(2))
        self.key_bias = nn.Parameter(torch.ones(heads, 1, state_size))
        self.query_bias = nn.Parameter(torch.ones(heads, 1, state_size))
        self.skip = nn.Parameter(torch.ones(heads, 1))
        self.out = nn.Linear(inner, hidden, bias=False)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        z_BTI, v_BTI, b_BTE, c_BTE, *gates, turn_BTP = widened(self.enter(x_BTD)).split(self.widths, dim=2)
        v_BKTV = self.apart(v_BTI)
        dt_BKT, log_g_BKT, share_BKT = self.open(*gates)
        angle_BKTP = (math.pi * turn_BTP.tanh().unsqueeze(1) * dt_BKT.unsqueeze(3)).cumsum(2)
        k_BKTE = turned(self.key_norm(b_BTE).unsqueeze(1) + self.key_bias, angle_BKTP)
        q_BKTE = turned(self.query_norm(c_BTE).unsqueeze(1) + self.query_bias, angle_BKTP)
        now_BKT, late_BKT = share_BKT * dt_BKT, (1 - share_BKT) * dt_BKT
        memory = self.start(x_BTD, state, late_BKT[..., :1], v_BKTV.shape[3])
        written_BKT = now_BKT + F.pad(late_BKT[..., 1:], (0, 1))  # the next call writes the last one's rest
        y_BKTV, after = decay_chunks(
            q_BKTE, written_BKT.unsqueeze(3) * k_BKTE, v_BKTV, log_g_BKT, memory, before_writing=True
        )
        own_BKT = now_BKT * (q_BKTE * k_BKTE).sum(3) + self.skip
        y_BTI = joined(torch.addcmul(y_BKTV, own_BKT.unsqueeze(3), v_BKTV)) * F.silu(z_BTI)
        back_BK1P = -angle_BKTP[:, :, -1:]
        last_key = turned(k_BKTE[:, :, -1:], back_BK1P).squeeze(2)
        return self.out(y_BTI), (turned(after.mT, back_BK1P).mT, last_key, v_BKTV[:, :, -1])

    def open(self, dt_BTK: Tensor, rate_BTK: Tensor, share_BTK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dt, log g and l, ``(B, K, T)`` each."""
        dt_BKT = softplus(dt_BTK + self.dt_bias).transpose(1, 2)
        rate_BKT = softplus(rate_BTK).clamp_min(self.SLOWEST).transpose(1, 2)
        return dt_BKT, -rate_BKT * dt_BKT, share_BTK.sigmoid().transpose(1, 2)

    def start(self, x_BTD: Tensor, state: Any, late_BK1: Tensor, values: int) -> Tensor:
        """S before the first step, with what the step before it still has to write."""
        if state is None:
            return self.empty(x_BTD, self.size, values)
        memory, key_BKE, value_BKV = state
        begun: Tensor = memory + (late_BK1 * key_BKE).unsqueeze(3) * value_BKV.unsqueeze(2)
        return begun

    @torch.no_grad()
    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """The decay of every head and the share written in time, ``(B, T, K)`` each, for probes."""
        _, log_g_BKT, share_BKT = self.open(*self.enter(x_BTD).split(self.widths, dim=2)[4:7])
        return {"forget gate": log_g_BKT.exp().transpose(1, 2), "write gate": share_BKT.transpose(1, 2)}


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """The first pairs of channels turned, each by its angle ``(..., P)``; the other channels as they are."""
    pairs, rest = x.split([2 * angle.shape[-1], x.shape[-1] - 2 * angle.shape[-1]], dim=-1)
    real, imaginary = pairs[..., 0::2], pairs[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    both = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return torch.cat([both.flatten(-2), rest], dim=-1)


class DeltaNetLayer(Convolving):
    """DeltaNet, and with ``initial`` Gated DeltaNet.

    S_t = (I - beta_t k_t k_t^T) g_t S_{t-1} + beta_t k_t v_t^T and y_t = S_t^T q_t / sqrt(E): what the memory
    holds at a key is replaced by the value, in part or whole. q, k, v = silu(short convolution(linear)), q
    and k of length 1; beta = sigmoid(linear), or twice that, which lets the memory flip sign along a key
    (eigenvalue 1 - beta in (-1, 1)). Then out(RMS norm per head(y)), gated: out(norm(y) * silu(linear)).
    Values are as wide as keys (in the authors' code for Gated DeltaNet twice as wide), and the convolution
    has a bias (theirs none).

    Sources: Yang et al. 2024 (2406.06484, section 3); decay as in Mamba-2 and the output gate: Yang, Kautz &
    Hatamizadeh 2024 (2412.06464, eq. 10 and section 3.4); beta in (0, 2): Grazzi et al. 2024 (2411.12537).

    Its state is S ``(B, K, E, V)`` and, with a convolution, its last inputs ``(B, W - 1, 3 H)``.

    Args:
        convolution: W; 0 leaves it out.
        negative: beta in (0, 2).
        initial: how the decay starts; None: no decay and no output gate.
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        convolution: int = 4,
        negative: bool = False,
        initial: InitialDecay | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(hidden, heads)
        self.largest_beta = 2.0 if negative else 1.0
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.convolution = ShortConvolution(3 * hidden, convolution) if convolution else None
        self.beta = nn.Linear(hidden, heads, bias=False)
        self.forgetting = Forgetting(heads, initial) if initial else None
        self.dt = nn.Linear(hidden, heads, bias=False) if initial else None
        self.gate = nn.Linear(hidden, hidden, bias=False) if initial else None
        self.norm = nn.RMSNorm(hidden // heads, eps=eps)
        self.out = nn.Linear(hidden, hidden, bias=False)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        memory, *recent = (None,) if state is None else state
        qkv_BTC, *recent = convolved(self.convolution, self.qkv(x_BTD), *recent)
        q, k, v = (self.apart(part) for part in F.silu(qkv_BTC).chunk(3, dim=2))
        before = self.empty(x_BTD, k.shape[3], v.shape[3]) if memory is None else memory
        beta_BKT, log_g_BKT = self.strengths(x_BTD)
        y_BKTV, after = delta_chunks(
            unit(q, 1 / math.sqrt(q.shape[3])), unit(k), v, beta_BKT, log_g_BKT, before
        )
        y_BTH = joined(self.norm(y_BKTV))
        if self.gate is not None:
            y_BTH = y_BTH * F.silu(self.gate(x_BTD))
        return self.out(y_BTH), (after, *recent)

    def strengths(self, x_BTD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Beta and, where there is decay, log g, ``(B, K, T)`` each."""
        beta_BKT = self.largest_beta * self.beta(x_BTD).sigmoid().transpose(1, 2)
        if self.forgetting is None or self.dt is None:
            return beta_BKT, None
        return beta_BKT, self.forgetting(self.dt(x_BTD))[1]

    @torch.no_grad()
    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """How much is replaced, and what decay leaves, for probes: ``(B, T, K)`` each."""
        beta_BKT, log_g_BKT = self.strengths(x_BTD)
        found = {"write gate": beta_BKT.transpose(1, 2)}
        return found if log_g_BKT is None else {**found, "forget gate": log_g_BKT.exp().transpose(1, 2)}


def unit(x_BKTE: Tensor, length: float = 1.0, eps: float = 1e-6) -> Tensor:
    """Vectors of one length, smoothly down to zero: x length / sqrt(x . x + eps)."""
    return x_BKTE * (length * torch.rsqrt(x_BKTE.square().sum(-1, keepdim=True) + eps))
