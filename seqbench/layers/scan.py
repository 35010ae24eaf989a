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
        transposed = weight_HH.t()
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

    Gates are stacked reset, update, candidate; the reset gate acts on ``W_n h + b_n`` as cuDNN does.
    """

    @staticmethod
    def forward(
        ctx: Any, pre_TBG: Tensor, h0_BH: Tensor, weight_GH: Tensor, bias_G: Tensor
    ) -> Tensor:
        steps, batch, _ = pre_TBG.shape
        hidden = h0_BH.shape[1]
        h_TBH = pre_TBG.new_empty(steps, batch, hidden)
        gates_TBG = torch.empty_like(pre_TBG)  # reset, update, candidate after their nonlinearities
        inner_TBH = torch.empty_like(h_TBH)  # W_n h + b_n, before the reset gate
        transposed = weight_GH.t()
        h = h0_BH
        for pre, gates, inner, out in zip(
            pre_TBG.unbind(0), gates_TBG.unbind(0), inner_TBH.unbind(0), h_TBH.unbind(0), strict=True
        ):
            recurrent = torch.addmm(bias_G, h, transposed)
            inner.copy_(recurrent[:, 2 * hidden :])
            switches = gates[:, : 2 * hidden]
            torch.add(pre[:, : 2 * hidden], recurrent[:, : 2 * hidden], out=switches).sigmoid_()
            candidate = gates[:, 2 * hidden :]
            torch.addcmul(pre[:, 2 * hidden :], gates[:, :hidden], inner, out=candidate).tanh_()
            torch.lerp(candidate, h, gates[:, hidden : 2 * hidden], out=out)
            h = out
        ctx.save_for_backward(h_TBH, h0_BH, weight_GH, gates_TBG, inner_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h_TBH, h0_BH, weight_GH, gates_TBG, inner_TBH = ctx.saved_tensors
        previous_TBH = torch.cat([h0_BH.unsqueeze(0), h_TBH[:-1]])
        reset, update, candidate = gates_TBG.chunk(3, dim=2)
        # Everything that does not depend on the carried gradient is computed for all steps at once.
        to_candidate = (1 - update) * (1 - candidate * candidate)
        slope_TBG = torch.cat(
            [
                to_candidate * inner_TBH * reset * (1 - reset),
                (previous_TBH - candidate) * update * (1 - update),
                to_candidate * reset,
            ],
            dim=2,
        )
        steps, batch, hidden = h_TBH.shape
        slope = slope_TBG.view(steps, batch, 3, hidden)
        drec = torch.empty_like(slope)
        total_TBH = torch.empty_like(h_TBH)  # dL/dh_t, the total derivative
        rows = list(
            zip(
                grad_TBH.unbind(0), total_TBH.unbind(0), slope.unbind(0), drec.unbind(0),
                update.unbind(0), strict=True,
            )
        )  # fmt: skip
        carry = torch.zeros_like(h0_BH)
        for grad, total, local, out, keep in reversed(rows):
            torch.add(carry, grad, out=total)
            torch.mul(total.unsqueeze(1), local, out=out)
            carry = torch.addmm(total * keep, out.view(batch, -1), weight_GH)
        flat = drec.view(steps * batch, 3 * hidden)
        dweight = flat.t() @ previous_TBH.flatten(0, 1)
        # The candidate's input projection sits outside the reset gate, so its slope lacks that factor.
        dpre_TBG = torch.cat([drec[:, :, :2].flatten(2), total_TBH * to_candidate], dim=2)
        return dpre_TBG, carry, dweight, flat.sum(0)
