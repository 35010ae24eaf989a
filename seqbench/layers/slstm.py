"""The sLSTM: exponential gates, a normaliser, and memory that mixes within heads.

Beck et al. 2024 (2405.04517), section 2.2. The recurrence is not linear, so steps follow one another; the
loop holds only what is truly sequential, and its backward pass is written by hand.

Shape letters: T time, B batch, D width in, K heads, E width of a head, H = K E, G = 4 E gates of a head
(input, forget, candidate, output); 2 stands for cell and normaliser, which follow the same recurrence.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seqbench.layers.base import Encoder
from seqbench.layers.stacking import join_axes
from seqbench.precision import in_float32


class SLSTMScan(torch.autograd.Function):
    r"""One sLSTM over time, in the stabilised form (section 2.2).

    With W x_t + b + R h_{t-1} split into ~i, ~f, ~z, ~o and log f = log sigmoid(~f):
    m_t = max(log f + m_{t-1}, ~i), i = exp(~i - m_t), f = exp(log f + m_{t-1} - m_t),
    c_t = f c_{t-1} + i tanh(~z), n_t = f n_{t-1} + i, h_t = sigmoid(~o) c_t / n_t.

    From m_0 = -inf the first step has n_1 = 1, and since i or f is 1 at every step, n never falls below 1.

    Backward: (c, n, m) and (c e^-a, n e^-a, m + a) are the same state, so that dL/dm = c dL/dc + n dL/dn for
    every L that reads outputs alone, whichever the maximum took. Only what a loss on the last state adds to
    that (``loose``) has to pass through the maximum.
    """

    @staticmethod
    def forward(
        ctx: Any, pre_TKBG: Tensor, weight_KEG: Tensor, h: Tensor, cn_2KBE: Tensor, m: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gates_TKBG = pre_TKBG.clone(memory_format=torch.contiguous_format)
        forget_TKBE = gates_TKBG.new_empty((len(gates_TKBG), *h.shape))
        h_TKBE, cn_T2KBE = (
            torch.empty_like(forget_TKBE),
            forget_TKBE.new_empty((len(gates_TKBG), 2, *h.shape)),
        )
        ctx.first = (h, cn_2KBE)
        cn = cn_2KBE
        rows = (gates_TKBG, forget_TKBE, cn_T2KBE, h_TKBE)
        for gates, forget, new_cn, new_h in zip(*(x.unbind(0) for x in rows), strict=True):
            i, f, z, o = gates.baddbmm_(h, weight_KEG).chunk(4, dim=2)
            torch.add(F.logsigmoid(f), m, out=forget)
            m = torch.maximum(forget, i)
            forget.sub_(m).exp_()
            i.sub_(m).exp_()
            torch.mul(cn, forget, out=new_cn)
            c, n = new_cn.unbind(0)
            c.addcmul_(i, z.tanh_())
            n.add_(i)
            h = torch.div(c, n, out=new_h).mul_(o.sigmoid_())
            cn = new_cn
        ctx.save_for_backward(gates_TKBG, forget_TKBE, cn_T2KBE, h_TKBE, weight_KEG)
        ctx.set_materialize_grads(False)
        return h_TKBE, cn.clone(), m

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_h: Tensor | None, grad_cn: Tensor | None, grad_m: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        gates_TKBG, forget_TKBE, cn_T2KBE, h_TKBE, weight_KEG = ctx.saved_tensors
        h0_KBE, cn0_2KBE = ctx.first
        grad_TKBE = torch.zeros_like(h_TKBE) if grad_h is None else grad_h
        carry = torch.zeros_like(cn0_2KBE) if grad_cn is None else grad_cn.clone()
        loose = None if grad_cn is None and grad_m is None else -(carry * cn_T2KBE[-1]).sum(0)
        loose = loose if loose is None or grad_m is None else loose + grad_m
        before = torch.cat([cn0_2KBE.unsqueeze(0), cn_T2KBE[:-1]])
        by_cell, by_norm, by_output, read, shrink = _slopes(gates_TKBG, forget_TKBE, cn_T2KBE, h_TKBE, before)
        dpre_TKBG = torch.empty_like(gates_TKBG)
        dpre_T4KBE = dpre_TKBG.unflatten(3, (4, -1)).permute(0, 3, 1, 2, 4)
        back_KGE = weight_KEG.transpose(1, 2).contiguous()
        rows = (grad_TKBE, read, by_cell, by_norm, by_output, forget_TKBE, shrink, dpre_TKBG, dpre_T4KBE)
        carry_h = torch.zeros_like(h0_KBE)
        for grad, to_cn, cell, norm, output, forget, small, dpre, dpre_4KBE in reversed(
            list(zip(*(x.unbind(0) for x in rows), strict=True))
        ):
            dh = carry_h + grad
            carry.addcmul_(to_cn, dh)
            torch.mul(cell, carry[0], out=dpre_4KBE[:3])
            dpre_4KBE[:2].addcmul_(norm, carry[1])
            torch.mul(output, dh, out=dpre_4KBE[3])
            if loose is not None:
                kept = forget >= 1  # the maximum took log f + m
                dpre_4KBE[0].add_(loose.masked_fill(kept, 0))
                loose = loose.masked_fill(~kept, 0)
                dpre_4KBE[1].addcmul_(loose, small)
            carry_h = torch.bmm(dpre, back_KGE)
            carry.mul_(forget)
        previous = torch.cat([h0_KBE.unsqueeze(0), h_TKBE[:-1]])
        dweight = torch.einsum("tkbe,tkbg->keg", previous, dpre_TKBG)
        dm = (carry * cn0_2KBE).sum(0)
        return dpre_TKBG, dweight, carry_h, carry, dm if loose is None else dm + loose


def _slopes(
    gates_TKBG: Tensor, forget_TKBE: Tensor, cn_T2KBE: Tensor, h_TKBE: Tensor, before_T2KBE: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What does not depend on the carried gradients, for all steps at once.

    Returns:
        slopes of the cell by ~i, ~f, ~z; of the normaliser by ~i, ~f; of the output by ~o; of the output by
        cell and normaliser; and of log f by ~f.
    """
    i, raw_f, z, o = gates_TKBG.chunk(4, dim=3)
    shrink = torch.sigmoid(-raw_f)
    to_forget = (forget_TKBE * shrink).unsqueeze(1) * before_T2KBE
    by_cell = torch.stack([i * z, to_forget[:, 0], i * (1 - z * z)], dim=1)
    by_norm = torch.stack([i, to_forget[:, 1]], dim=1)
    read = torch.stack([o, -h_TKBE], dim=1) / cn_T2KBE[:, 1:]
    return by_cell, by_norm, h_TKBE * (1 - o), read, shrink


class SLSTMLayer(Encoder):
    """The cell alone: input projection, recurrent matrices block-diagonal in heads, exponential gates.

    Left out of the paper's block: the causal convolution before the input and forget gates, and the
    normalisation of each head's output. Another start than in the authors' code (NX-AI/xlstm), where the
    recurrent matrices are zero and the forget biases of a head spread from 5 to -7: the matrices are drawn
    like an LSTM's, and all forget biases are one setting.

    Args:
        width_in: D.
        hidden: H, a multiple of ``heads``.
        heads: K; units of different heads do not see each other's states.
        forget_bias: initial bias of the forget gate, whose sigmoid is what a step keeps.
    """

    kernel = "time-major scan (torch)"
    state_names = ("state", "cell", "normaliser", "stabiliser")

    def __init__(self, width_in: int, hidden: int, *, heads: int, forget_bias: float) -> None:
        super().__init__()
        self.width_out, self.heads = hidden, heads
        width = hidden // heads
        self.project = nn.Linear(width_in, 4 * hidden)
        self.recurrent = nn.Parameter(torch.empty(heads, width, 4 * width))
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.recurrent, -bound, bound)
        with torch.no_grad():
            bias_K4E = self.project.bias.view(heads, 4, width)
            bias_K4E.zero_()
            bias_K4E[:, 1] = forget_bias

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        h_TKBE, cn_2KBE, m_KBE = self.scan(x_BTD, state)
        c_KBE, n_KBE = cn_2KBE.unbind(0)
        y_BTH = h_TKBE.permute(2, 0, 1, 3).flatten(2)
        return y_BTH, (h_TKBE[-1], c_KBE, n_KBE, m_KBE)

    @in_float32
    def scan(self, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs ``(T, K, B, E)``; last cell and normaliser ``(2, K, B, E)``; last stabiliser."""
        pre_TBKG = self.project(x_BTD.transpose(0, 1)).unflatten(2, (self.heads, -1))
        if state is None:
            zeros_KBE = x_BTD.new_zeros(self.heads, len(x_BTD), self.width_out // self.heads)
            state = (zeros_KBE, zeros_KBE, zeros_KBE, torch.full_like(zeros_KBE, -math.inf))
        h_KBE, c_KBE, n_KBE, m_KBE = state
        arguments = pre_TBKG.transpose(1, 2), self.recurrent, h_KBE, torch.stack([c_KBE, n_KBE]), m_KBE
        # Several networks are one with as many times the heads, which do not see each other's states either.
        scanned = join_axes(SLSTMScan.apply, *arguments, axes=(1, 0, 0, 1, 0), outputs=(1, 1, 0))
        return tuple(scanned)

    def activations(self, x_BTD: Tensor, *, mask_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Gates, candidate, memory and state, each ``(B, T, H)``, for probes.

        The memory c / n is a weighted mean of all candidates so far: a step keeps the share f n_{t-1} / n_t
        of it. That share is shown as the forget gate; 1 minus it is what the input gate lets in.
        """
        with torch.no_grad():
            h_TKBE = self.scan(x_BTD)[0]
            previous_TKBE = F.pad(h_TKBE[:-1], (0, 0, 0, 0, 0, 0, 1, 0))
            pre_TBKG = self.project(x_BTD.transpose(0, 1)).unflatten(2, (self.heads, -1))
            pre_TKBG = pre_TBKG.transpose(1, 2) + previous_TKBE @ self.recurrent
            i, f, z, o = pre_TKBG.chunk(4, dim=3)
            found = {"forget gate": kept_shares(i, F.logsigmoid(f)), "output gate": o.sigmoid()}
            found |= {"candidate": z.tanh(), "memory": h_TKBE / o.sigmoid(), "state": h_TKBE}
            return {name: value.permute(2, 0, 1, 3).flatten(2) for name, value in found.items()}


def kept_shares(log_input_T: Tensor, log_forget_T: Tensor) -> Tensor:
    """The share f n_{t-1} / n_t of every step, by logarithms of n; 0 at the first step."""
    log_n, found = torch.full_like(log_input_T[0], -math.inf), []
    for log_input, log_forget in zip(log_input_T.unbind(0), log_forget_T.unbind(0), strict=True):
        kept = log_forget + log_n
        log_n = torch.logaddexp(kept, log_input)
        found.append((kept - log_n).exp())
    return torch.stack(found)
