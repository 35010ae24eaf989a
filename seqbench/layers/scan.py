"""Recurrent scans in time-major layout with hand-written backward passes.

One large matrix product computes the input projection of every step; the loop then holds only what is
truly sequential. Both scans are exact: they equal ``nn.RNN`` and ``nn.GRU`` on copied weights, and their
backward passes satisfy ``gradcheck`` in float64 (``tests/test_layers.py``).

Shape letters: T time, B batch, H hidden; ``pre`` is the input projection including its bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ElmanScan(torch.autograd.Function):
    """h_t = f(pre_t + W h_{t-1}) with f = tanh or relu (Elman 1990, Cognitive Science 14, section 2)."""

    @staticmethod
    def forward(ctx: Any, pre_TBH: Tensor, h0_BH: Tensor, weight_HH: Tensor, relu: bool) -> Tensor:
        h_TBH = torch.empty_like(pre_TBH)
        transposed = weight_HH.t().contiguous()
        h = h0_BH
        for pre, out in zip(pre_TBH.unbind(0), h_TBH.unbind(0), strict=True):
            torch.addmm(pre, h, transposed, out=out)
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
        previous = torch.cat([h0_BH.unsqueeze(0), h_TBH[:-1]]).flatten(0, 1)
        dweight = dpre_TBH.flatten(0, 1).t() @ previous
        return dpre_TBH, carry, dweight, None


class GRUScan(torch.autograd.Function):
    """The gated recurrent unit in torch's convention (Cho et al. 2014, 1406.1078, eq. 5-8).

    Gates are stacked reset, update, candidate; the reset gate acts on ``W_n h + b_n`` as cuDNN does. The
    two switches and the candidate live in arrays of their own, so that every product writes in place.
    """

    @staticmethod
    def forward(ctx: Any, pre_TBG: Tensor, h0_BH: Tensor, weight_GH: Tensor, bias_G: Tensor) -> Tensor:
        hidden = h0_BH.shape[1]
        switches_TBS = pre_TBG[..., : 2 * hidden] + bias_G[: 2 * hidden]  # reset and update
        candidate_TBH = pre_TBG[..., 2 * hidden :].clone(memory_format=torch.contiguous_format)
        inner_TBH = torch.empty_like(candidate_TBH)  # W_n h + b_n, before the reset gate
        h_TBH = torch.empty_like(candidate_TBH)
        to_switches = weight_GH[: 2 * hidden].t().contiguous()
        to_inner, inner_bias = weight_GH[2 * hidden :].t().contiguous(), bias_G[2 * hidden :]
        reset_TBH, update_TBH = switches_TBS.chunk(2, dim=2)
        rows = (switches_TBS, candidate_TBH, inner_TBH, reset_TBH, update_TBH, h_TBH)
        h = h0_BH
        for switches, candidate, inner, reset, update, out in zip(*(x.unbind(0) for x in rows), strict=True):
            switches.addmm_(h, to_switches).sigmoid_()
            torch.addmm(inner_bias, h, to_inner, out=inner)
            candidate.addcmul_(reset, inner).tanh_()
            torch.lerp(candidate, h, update, out=out)
            h = out
        ctx.save_for_backward(h_TBH, h0_BH, weight_GH, switches_TBS, candidate_TBH, inner_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h_TBH, h0_BH, weight_GH, switches_TBS, candidate_TBH, inner_TBH = ctx.saved_tensors
        steps, batch, hidden = h_TBH.shape
        previous_TBH = torch.cat([h0_BH.unsqueeze(0), h_TBH[:-1]])
        reset, update = switches_TBS.chunk(2, dim=2)
        # Everything that does not depend on the carried gradient is computed for all steps at once.
        to_candidate = (1 - update) * (1 - candidate_TBH * candidate_TBH)
        slope_T3BH = h_TBH.new_empty(steps, 3, batch, hidden)
        torch.mul(to_candidate * inner_TBH, reset * (1 - reset), out=slope_T3BH[:, 0])
        torch.mul(previous_TBH - candidate_TBH, update * (1 - update), out=slope_T3BH[:, 1])
        torch.mul(to_candidate, reset, out=slope_T3BH[:, 2])
        total_TBH = torch.empty_like(h_TBH)  # dL/dh_t, the total derivative
        drec_TBG = h_TBH.new_empty(steps, batch, 3 * hidden)
        drec_T3BH = drec_TBG.view(steps, batch, 3, hidden).transpose(1, 2)
        rows = (grad_TBH, total_TBH, slope_T3BH, drec_TBG, drec_T3BH, update.contiguous())
        carry = torch.zeros_like(h0_BH)
        for grad, total, slope, drec, drec_3BH, keep in reversed(
            list(zip(*(x.unbind(0) for x in rows), strict=True))
        ):
            torch.add(carry, grad, out=total)
            torch.mul(total, slope, out=drec_3BH)
            carry = torch.mul(total, keep).addmm_(drec, weight_GH)
        flat = drec_TBG.flatten(0, 1)
        dweight, dbias = flat.t() @ previous_TBH.flatten(0, 1), flat.sum(0)
        # The candidate's input projection sits outside the reset gate, so its slope lacks that factor.
        dpre_TBG = drec_TBG.clone()
        torch.mul(total_TBH, to_candidate, out=dpre_TBG[..., 2 * hidden :])
        return dpre_TBG, carry, dweight, dbias
