"""Linear recurrences as mixers of steps: minimal GRU and LSTM, LRU, S4D and RG-LRU.

What a step keeps of the state never depends on the state, so that all steps are prepared by a few large
products and :func:`seqbench.layers.linrec.linrec` does the rest. Parameters and states are real tensors; a
complex number is a pair (real, imaginary) on the last axis.

Shape letters: B batch, T time, H width, N complex units of the state, M = B T / C chunks of C steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqbench.layers.base import Encoder
from seqbench.layers.convolution import ShortConvolution, convolved
from seqbench.layers.linrec import linrec
from seqbench.precision import in_float32, widened

_SCAN = "two-level scan (torch)"


class _Minimal(Encoder):
    """h_t = f_t h_{t-1} + (1 - f_t) W_h x_t, where the forget gate f_t = sigmoid(k_t) sees the input alone.

    A step keeps of the state just the share that it does not write.
    """

    kernel = _SCAN
    gates: int

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.width_out = hidden
        self.project = nn.Linear(hidden, (self.gates + 1) * hidden)

    def forget_logit(self, *pre_BTH: Tensor) -> Tensor:
        """k_t from the projections of the gates."""
        raise NotImplementedError

    def prepare(self, x_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each step keeps, the share that it writes (exact also where tiny), and what."""
        *pre_BTH, candidate_BTH = widened(self.project(x_BTH)).chunk(self.gates + 1, dim=2)
        logit_BTH = self.forget_logit(*pre_BTH)
        return logit_BTH.sigmoid(), (-logit_BTH).sigmoid(), candidate_BTH

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        keep_BTH, write_BTH, candidate_BTH = self.prepare(x_BTD)
        h_BTH = linrec(keep_BTH, write_BTH * candidate_BTH, state)
        return h_BTH, h_BTH[:, -1]

    @torch.no_grad()
    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Gates, candidate and state, each ``(B, T, H)``, for probes; an open forget gate keeps the state."""
        keep, write, candidate = self.prepare(x_BTD)
        gates = {"input gate": write, "forget gate": keep}
        return {**gates, "candidate": candidate, "state": linrec(keep, write * candidate)}


class MinGRULayer(_Minimal):
    """The minimal GRU (Feng et al. 2024, 2410.01201, section 3.1), with its plain candidate.

    z_t = sigmoid(W_z x_t), h~_t = W_h x_t, h_t = (1 - z_t) h_{t-1} + z_t h~_t. The layer holds -W_z, so that
    its forget gate is 1 - z_t = sigmoid(-W_z x_t), and its input gate z_t. (The paper's appendix makes h~
    positive by a function g, for a scan on logarithms, which this is not.)

    Args:
        forget_bias: 1 - z starts at its sigmoid, but for what the input adds; None: torch's small random bias
    """

    gates = 1

    def __init__(self, hidden: int, *, forget_bias: float | None) -> None:
        super().__init__(hidden)
        if forget_bias is not None:
            with torch.no_grad():
                self.project.bias[:hidden] = forget_bias

    def forget_logit(self, *pre_BTH: Tensor) -> Tensor:
        return pre_BTH[0]


class MinLSTMLayer(_Minimal):
    """The minimal LSTM (Feng et al. 2024, 2410.01201, section 3.2), with gates that add up to one.

    f_t = sigmoid(W_f x_t), i_t = sigmoid(W_i x_t), h~_t = W_h x_t, h_t = f'_t h_{t-1} + i'_t h~_t with
    f' = f / (f + i) and i' = i / (f + i). Since f' = sigmoid(log f - log i), no gate is ever divided by.

    Args:
        forget_bias: bias of the forget gate, and minus that of the input gate, so that f' starts at its
            sigmoid, but for what the input adds; None: torch's small random biases.
    """

    gates = 2

    def __init__(self, hidden: int, *, forget_bias: float | None) -> None:
        super().__init__(hidden)
        if forget_bias is not None:
            with torch.no_grad():
                self.project.bias[:hidden] = forget_bias
                self.project.bias[hidden : 2 * hidden] = -forget_bias

    def forget_logit(self, *pre_BTH: Tensor) -> Tensor:
        forget_BTH, enter_BTH = pre_BTH
        return F.logsigmoid(forget_BTH) - F.logsigmoid(enter_BTH)


class LRULayer(Encoder):
    """The Linear Recurrent Unit (Orvieto et al. 2023, 2303.06349, section 3 and appendix A).

    lambda = exp(-exp(nu_log) + i exp(theta_log)), h_t = lambda h_{t-1} + exp(gamma_log) (B u_t), and
    y_t = Re(C h_t) + D u_t, with N = H complex units. gamma starts at sqrt(1 - |lambda|^2). What follows in
    the paper, an MLP or GLU for each step, is the feed-forward part of the block.

    Args:
        min_radius, max_radius: |lambda| starts uniform on the ring between them (by area).
        max_phase: the angle of lambda starts uniform between 0 and this.
    """

    kernel = _SCAN

    def __init__(self, hidden: int, *, min_radius: float, max_radius: float, max_phase: float) -> None:
        super().__init__()
        self.width_out = hidden
        tiny = torch.finfo(torch.get_default_dtype()).eps  # keeps off radii of 0 and 1, whose logarithms fail
        area_N = torch.rand(hidden) * (max_radius**2 - min_radius**2) + min_radius**2
        log_radius_N = area_N.clamp(tiny, 1 - tiny).log() / 2
        self.nu_log = nn.Parameter((-log_radius_N).log())
        self.theta_log = nn.Parameter((torch.rand(hidden).clamp_min(tiny) * max_phase).log())
        self.gamma_log = nn.Parameter((-torch.expm1(2 * log_radius_N)).log() / 2)
        self.enter = nn.Parameter(torch.randn(hidden, 2, hidden) / math.sqrt(2 * hidden))  # B, (N, 2, H)
        self.leave = nn.Parameter(torch.randn(hidden, hidden, 2) / math.sqrt(hidden))  # (Re C, -Im C)
        self.skip = nn.Parameter(torch.randn(hidden))  # D

    def eigenvalues(self) -> Tensor:
        """Lambda, ``(N,)`` complex."""
        return torch.complex(-self.nu_log.exp(), self.theta_log.exp()).exp()

    @in_float32
    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        enter_N2H = self.enter * self.gamma_log.exp()[:, None, None]
        b_BTN = torch.view_as_complex(F.linear(x_BTD, enter_N2H.flatten(0, 1)).unflatten(2, (-1, 2)))
        before_BN = None if state is None else torch.view_as_complex(state)
        h_BTN = linrec(self.eigenvalues().expand_as(b_BTN), b_BTN, before_BN)
        h_BTN2 = torch.view_as_real(h_BTN)
        y_BTH = F.linear(h_BTN2.flatten(2), self.leave.flatten(1))
        return torch.addcmul(y_BTH, x_BTD, self.skip), _pairs(h_BTN[:, -1])


class S4DLayer(Encoder):
    """The diagonal state space model S4D-Lin (Gu et al. 2022, 2206.11893, sections 3 and 4).

    Every channel has N complex units of its own (and their conjugates, which double the real part):
    s_t = exp(dt A) s_{t-1} + (exp(dt A) - 1) / A u_t (zero-order hold; B = 1, since only B C shows in the
    output) and y_t = 2 Re(C s_t) + D u_t, from A_n = -1/2 + i pi n. Then, as in S4, a GELU, and a gated
    linear map that mixes the channels.

    In chunks of :attr:`CHUNK` steps: within one, the convolution with K_d = 2 Re(C exp(d dt A) B'), where B'
    is (exp(dt A) - 1) / A, as a triangular matrix; between them, the recurrence. Unlike a convolution by FFT
    this is causal to the last bit, and has no noise floor under small gradients. Left out: that the authors
    train dt and A at a smaller learning rate than the rest.

    Args:
        units: size of the state per channel, conjugates included; even.
        min_step, max_step: dt starts log-uniform between them.
    """

    CHUNK = 32
    kernel = "chunked convolution and scan (torch)"

    def __init__(self, hidden: int, *, units: int, min_step: float, max_step: float) -> None:
        super().__init__()
        self.width_out, half = hidden, units // 2
        low, high = math.log(min_step), math.log(max_step)
        self.step_log = nn.Parameter(torch.rand(hidden) * (high - low) + low)
        self.decay_log = nn.Parameter(torch.full((hidden, half), math.log(0.5)))
        self.frequency = nn.Parameter((math.pi * torch.arange(half)).expand(hidden, half).clone())
        self.leave = nn.Parameter(torch.randn(hidden, half, 2) / math.sqrt(2))  # C
        self.skip = nn.Parameter(torch.randn(hidden))  # D
        self.mix = nn.Linear(hidden, 2 * hidden)

    @in_float32
    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        whole = x_BTD.shape[1] // self.CHUNK * self.CHUNK
        parts = []
        for x_BtH, size in ((x_BTD[:, :whole], self.CHUNK), (x_BTD[:, whole:], x_BTD.shape[1] - whole)):
            if x_BtH.shape[1]:
                y_BtH, state = self.chunks(x_BtH.unflatten(1, (-1, size)), state)
                parts.append(y_BtH)
        y_BTH = torch.addcmul(torch.cat(parts, dim=1), x_BTD, self.skip)
        return F.glu(self.mix(F.gelu(y_BTH)), dim=2), state

    def chunks(self, x_BMCH: Tensor, state_BHN2: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output ``(B, T, H)`` and last state of whole chunks, from the state before them."""
        batch, count, size, hidden = x_BMCH.shape
        inside_HCC, enter_HCN, leave_HNC, keep_HN = self.maps(size)
        x_HMC = x_BMCH.permute(3, 0, 1, 2).reshape(hidden, batch * count, size)
        gain = torch.view_as_complex((x_HMC @ enter_HCN).unflatten(2, (-1, 2))).unflatten(1, (batch, count))
        keep = keep_HN[:, None, None].expand_as(gain)
        before = gain.new_zeros(hidden, batch, gain.shape[3])
        if state_BHN2 is not None:
            before = torch.view_as_complex(state_BHN2).transpose(0, 1)
        s_HBMN = linrec(keep.flatten(0, 1), gain.flatten(0, 1), before.flatten(0, 1)).view_as(gain)
        starts_HBMN = torch.cat([before.unsqueeze(2), s_HBMN[:, :, :-1]], dim=2)
        starts_HMN = torch.view_as_real(starts_HBMN).flatten(3).flatten(1, 2)
        y_HMC = torch.baddbmm(starts_HMN @ leave_HNC, x_HMC, inside_HCC)
        y_BTH = y_HMC.view(hidden, batch, count * size).permute(1, 2, 0)
        return y_BTH, _pairs(s_HBMN[:, :, -1].transpose(0, 1))

    def maps(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a chunk of C steps does: inputs to outputs, inputs to state, state to outputs, state to state.

        Shapes ``(H, C, C)``, ``(H, C, 2N)``, ``(H, 2N, C)``, and ``(H, N)`` complex.
        """
        a_HN = torch.complex(-self.decay_log.exp(), self.frequency)
        step_HN = self.step_log.exp()[:, None] * a_HN
        powers_HNC = torch.exp(step_HN[..., None] * torch.arange(size + 1, device=step_HN.device))
        enter_HNC = (torch.expm1(step_HN) / a_HN)[..., None] * powers_HNC[..., :-1]
        c_HN1 = 2 * torch.view_as_complex(self.leave)[..., None]
        taps_HC = (c_HN1 * enter_HNC).real.sum(1)
        inside_HCC = F.pad(taps_HC, (size - 1, 0)).unfold(1, size, 1).flip(1)
        enter_HCN = torch.view_as_real(enter_HNC.flip(2).transpose(1, 2)).flatten(2)
        leave_HCN = torch.view_as_real((c_HN1 * powers_HNC[..., 1:]).conj().resolve_conj().transpose(1, 2))
        return inside_HCC, enter_HCN, leave_HCN.flatten(2).transpose(1, 2), powers_HNC[..., -1]


class RGLRULayer(Encoder):
    """The recurrent block of Griffin around the Real-Gated LRU (De et al. 2024, 2402.19427, section 2).

    One branch: a linear map, a causal convolution of width 4 for each channel, and on what comes out, u_t,
    r_t = sigmoid(W_a u_t + b_a), i_t = sigmoid(W_x u_t + b_x), a_t = sigmoid(Lambda)^(c r_t) with c = 8,
    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t). The other: GELU of a linear map, which multiplies h_t. A
    last linear map follows. (The matrices of the gates are full and h as wide as the block; in the paper's
    models they are block-diagonal and h is wider by a third.)

    Its state: h, and the last 3 inputs of the convolution.

    Args:
        convolution: steps that it sees; 0 leaves it out.
        min_decay, max_decay: sigmoid(Lambda)^c, what is kept at r = 1, starts uniform between them, as in the
            paper (the authors' code, recurrentgemma, draws sigmoid(Lambda) from there: it forgets c times
            as fast).
    """

    POWER = 8.0
    kernel = _SCAN

    def __init__(self, hidden: int, *, min_decay: float, max_decay: float, convolution: int = 4) -> None:
        super().__init__()
        self.width_out = hidden
        self.enter = nn.Linear(hidden, 2 * hidden)
        self.convolution = ShortConvolution(hidden, convolution) if convolution else None
        self.gate = nn.Linear(hidden, 2 * hidden)
        rate_H = -torch.empty(hidden).uniform_(min_decay, max_decay).log() / self.POWER
        self.decay_logit = nn.Parameter(-rate_H.expm1().log())  # Lambda, from softplus(-Lambda) = rate
        self.leave = nn.Linear(hidden, hidden)

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("state", "recent inputs") if self.convolution else ("state",)

    def prepare(self, u_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Recurrence gate r, input gate i, what is kept a, and what is added."""
        recurrence_BTH, enter_BTH = widened(self.gate(u_BTH)).sigmoid().chunk(2, dim=2)
        log_keep_BTH = -self.POWER * F.softplus(-self.decay_logit) * recurrence_BTH
        lost_BTH = -torch.expm1(2 * log_keep_BTH)  # 1 - a^2 without cancellation; the root has no slope at 0
        factor_BTH = lost_BTH.clamp_min(torch.finfo(lost_BTH.dtype).tiny).sqrt()
        return recurrence_BTH, enter_BTH, log_keep_BTH.exp(), factor_BTH * enter_BTH * u_BTH

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        h_BH, *recent = (None,) if state is None else state
        v_BTH, open_BTH = self.enter(x_BTD).chunk(2, dim=2)
        u_BTH, *recent = convolved(self.convolution, v_BTH, *recent)
        _, _, keep_BTH, add_BTH = self.prepare(u_BTH)
        h_BTH = linrec(keep_BTH, add_BTH, h_BH)
        return self.leave(h_BTH * F.gelu(open_BTH)), (h_BTH[:, -1], *recent)

    @torch.no_grad()
    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Gates and state, each ``(B, T, H)``, for probes; the forget gate is a_t, what is kept."""
        u_BTH = convolved(self.convolution, self.enter(x_BTD)[..., : self.width_out])[0]
        recurrence, enter, keep, add = self.prepare(u_BTH)
        gates = {"recurrence gate": recurrence, "input gate": enter, "forget gate": keep}
        return {**gates, "state": linrec(keep, add)}


def _pairs(z: Tensor) -> Tensor:
    """Complex numbers as pairs on the last axis: a state to hand out.

    A copy, since the backward pass of ``torch.view_as_real`` refuses gradients at odd offsets in memory.
    """
    return torch.stack([z.real, z.imag], dim=-1)
