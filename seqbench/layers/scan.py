"""Recurrent scans in time-major layout with hand-written backward passes.

One large matrix product computes the input projection of every step; the loop then holds only what is
truly sequential. The scans are exact: they equal ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` on copied weights,
and their backward passes satisfy ``gradcheck`` in float64 (``tests/test_layers.py`` and
``tests/test_stacked.py``).

Each also runs for several networks at once: with an axis S before B in what has a batch, and before the
weights' own axes.

Shape letters: T time, S networks, B batch, H hidden, G all gates; ``pre`` is the input projection including
its bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ElmanScan(torch.autograd.Function):
    """h_t = f(pre_t + W h_{t-1}) with f = tanh or relu (Elman 1990, Cognitive Science 14, section 2)."""

    @staticmethod
    def forward(ctx: Any, pre_TBH: Tensor, h0_BH: Tensor, weight_HH: Tensor, relu: bool) -> Tensor:
        h_TBH = torch.empty_like(pre_TBH)
        transposed, add_product = weight_HH.mT.contiguous(), _product(weight_HH)
        h = h0_BH
        for pre, out in zip(pre_TBH.unbind(0), h_TBH.unbind(0), strict=True):
            add_product(pre, h, transposed, out=out)
            h = out.relu_() if relu else out.tanh_()
        ctx.relu = relu
        ctx.save_for_backward(h_TBH, h0_BH, weight_HH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        h_TBH, h0_BH, weight_HH = ctx.saved_tensors
        slope = (h_TBH > 0).to(h_TBH.dtype) if ctx.relu else 1 - h_TBH * h_TBH
        dpre_TBH = torch.empty_like(h_TBH)
        rows = list(zip(grad_TBH.unbind(0), slope.unbind(0), dpre_TBH.unbind(0), strict=True))
        carry = torch.zeros_like(h0_BH)
        for grad, local, dpre in reversed(rows):
            torch.mul(carry.add_(grad), local, out=dpre)
            carry = dpre @ weight_HH
        return dpre_TBH, carry, _rows(dpre_TBH).mT @ _rows(_before(h0_BH, h_TBH)), None


class GRUScan(torch.autograd.Function):
    """The gated recurrent unit in torch's convention (Cho et al. 2014, 1406.1078, eq. 5-8).

    Gates are stacked reset, update, candidate; the reset gate acts on ``W_n h + b_n`` as cuDNN does. The
    two switches and the candidate live in arrays of their own, so that every product writes in place.
    """

    @staticmethod
    def forward(ctx: Any, pre_TBG: Tensor, h0_BH: Tensor, weight_GH: Tensor, bias_G: Tensor) -> Tensor:
        hidden = h0_BH.shape[-1]
        bias_1G = bias_G if bias_G.ndim == 1 else bias_G.unsqueeze(-2)  # one row for all of a batch
        switches_TBS = pre_TBG[..., : 2 * hidden] + bias_1G[..., : 2 * hidden]  # reset and update
        candidate_TBH = pre_TBG[..., 2 * hidden :].clone(memory_format=torch.contiguous_format)
        inner_TBH = torch.empty_like(candidate_TBH)  # W_n h + b_n, before the reset gate
        h_TBH = torch.empty_like(candidate_TBH)
        to_switches = weight_GH[..., : 2 * hidden, :].mT.contiguous()
        to_inner, inner_bias = weight_GH[..., 2 * hidden :, :].mT.contiguous(), bias_1G[..., 2 * hidden :]
        reset_TBH, update_TBH = switches_TBS.chunk(2, dim=-1)
        rows = (switches_TBS, candidate_TBH, inner_TBH, reset_TBH, update_TBH, h_TBH)
        add_product, h = _product(weight_GH), h0_BH
        for switches, candidate, inner, reset, update, out in zip(*(x.unbind(0) for x in rows), strict=True):
            add_product(switches, h, to_switches, out=switches).sigmoid_()
            add_product(inner_bias, h, to_inner, out=inner)
            candidate.addcmul_(reset, inner).tanh_()
            torch.lerp(candidate, h, update, out=out)
            h = out
        ctx.save_for_backward(h_TBH, h0_BH, weight_GH, switches_TBS, candidate_TBH, inner_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h_TBH, h0_BH, weight_GH, switches_TBS, candidate_TBH, inner_TBH = ctx.saved_tensors
        hidden = h0_BH.shape[-1]
        previous_TBH = _before(h0_BH, h_TBH)
        reset, update = switches_TBS.chunk(2, dim=-1)
        # Everything that does not depend on the carried gradient is computed for all steps at once.
        to_candidate = (1 - update) * (1 - candidate_TBH * candidate_TBH)
        slope_T3BH = h_TBH.new_empty(len(h_TBH), 3, *h0_BH.shape)
        torch.mul(to_candidate * inner_TBH, reset * (1 - reset), out=slope_T3BH[:, 0])
        torch.mul(previous_TBH - candidate_TBH, update * (1 - update), out=slope_T3BH[:, 1])
        torch.mul(to_candidate, reset, out=slope_T3BH[:, 2])
        total_TBH = torch.empty_like(h_TBH)  # dL/dh_t, the total derivative
        drec_TBG = h_TBH.new_empty(*h_TBH.shape[:-1], 3 * hidden)
        drec_T3BH = drec_TBG.unflatten(-1, (3, hidden)).movedim(-2, 1)
        rows = (grad_TBH, total_TBH, slope_T3BH, drec_TBG, drec_T3BH, update.contiguous())
        add_product, carry = _product(weight_GH), torch.zeros_like(h0_BH)
        for grad, total, slope, drec, drec_3BH, keep in reversed(
            list(zip(*(x.unbind(0) for x in rows), strict=True))
        ):
            torch.add(carry, grad, out=total)
            torch.mul(total, slope, out=drec_3BH)
            carry = torch.mul(total, keep)
            add_product(carry, drec, weight_GH, out=carry)
        flat = _rows(drec_TBG)
        dweight, dbias = flat.mT @ _rows(previous_TBH), flat.sum(-2)
        # The candidate's input projection sits outside the reset gate, so its slope lacks that factor.
        dpre_TBG = drec_TBG.clone()
        torch.mul(total_TBH, to_candidate, out=dpre_TBG[..., 2 * hidden :])
        return dpre_TBG, carry, dweight, dbias


class LSTMScan(torch.autograd.Function):
    """Long short-term memory in torch's convention (``nn.LSTM``): gates input, forget, candidate, output.

    For several networks at once, which torch's fused kernel cannot run; one alone is faster with that.

    Returns:
        states ``(T, B, H)``, and cells of the same shape.
    """

    @staticmethod
    def forward(
        ctx: Any, pre_TBG: Tensor, h0_BH: Tensor, c0_BH: Tensor, weight_GH: Tensor
    ) -> tuple[Tensor, Tensor]:
        hidden = h0_BH.shape[-1]
        gates_TBG = pre_TBG.clone(memory_format=torch.contiguous_format)
        c_TBH, h_TBH, tanh_TBH = (gates_TBG.new_empty(*gates_TBG.shape[:-1], hidden) for _ in range(3))
        switches_TBS = gates_TBG[..., : 2 * hidden]
        i_TBH, f_TBH, g_TBH, o_TBH = gates_TBG.chunk(4, dim=-1)
        rows = (gates_TBG, switches_TBS, i_TBH, f_TBH, g_TBH, o_TBH, c_TBH, tanh_TBH, h_TBH)
        transposed, add_product = weight_GH.mT.contiguous(), _product(weight_GH)
        h, c = h0_BH, c0_BH
        for gates, switches, i, f, g, o, new_c, tanh, new_h in zip(*(x.unbind(0) for x in rows), strict=True):
            add_product(gates, h, transposed, out=gates)
            switches.sigmoid_(), g.tanh_(), o.sigmoid_()
            c = torch.mul(f, c, out=new_c).addcmul_(i, g)
            h = torch.mul(o, torch.tanh(c, out=tanh), out=new_h)
        ctx.save_for_backward(gates_TBG, c_TBH, tanh_TBH, h_TBH, h0_BH, c0_BH, weight_GH)
        return h_TBH, c_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h_TBH: Tensor, grad_c_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gates_TBG, c_TBH, tanh_TBH, h_TBH, h0_BH, c0_BH, weight_GH = ctx.saved_tensors
        hidden = h0_BH.shape[-1]
        i, f, g, o = gates_TBG.chunk(4, dim=-1)
        # Everything that does not depend on the carried gradients is computed for all steps at once.
        to_cell = o * (1 - tanh_TBH * tanh_TBH)
        to_output = tanh_TBH * o * (1 - o)
        slope_T3BH = torch.stack(
            [g * i * (1 - i), _before(c0_BH, c_TBH) * f * (1 - f), i * (1 - g * g)], dim=1
        )
        dpre_TBG = torch.empty_like(gates_TBG)
        dpre_T4BH = dpre_TBG.unflatten(-1, (4, hidden)).movedim(-2, 1)
        rows = (
            grad_h_TBH, grad_c_TBH, to_cell, to_output, slope_T3BH, f, dpre_TBG, dpre_T4BH[:, :3],
            dpre_T4BH[:, 3],
        )  # fmt: skip
        carry_h, carry_c = torch.zeros_like(h0_BH), torch.zeros_like(c0_BH)
        for grad_h, grad_c, cell, output, slope, keep, dpre, dpre_3BH, dpre_o in reversed(
            list(zip(*(x.unbind(0) for x in rows), strict=True))
        ):
            dh = carry_h.add_(grad_h)
            carry_c.add_(grad_c).addcmul_(dh, cell)
            torch.mul(carry_c, slope, out=dpre_3BH)
            torch.mul(dh, output, out=dpre_o)
            carry_h = dpre @ weight_GH
            carry_c.mul_(keep)
        return dpre_TBG, carry_h, carry_c, _rows(dpre_TBG).mT @ _rows(_before(h0_BH, h_TBH))


def _product(weight: Tensor) -> Callable[..., Tensor]:
    """What multiplies by such a weight and adds: of one network, or of each of several."""
    return torch.addmm if weight.ndim == 2 else torch.baddbmm


def _before(first: Tensor, every_T: Tensor) -> Tensor:
    """What each step starts from: the first state, then that of the step before."""
    return torch.cat([first.unsqueeze(0), every_T[:-1]])


def _rows(x_TBH: Tensor) -> Tensor:
    """All steps of all sequences in one axis: ``(T B, H)``, or ``(S, T B, H)`` of several networks."""
    return (x_TBH if x_TBH.ndim == 3 else x_TBH.movedim(0, -3)).flatten(-3, -2)
