"""The contract of an encoder, and how any causal encoder becomes bidirectional.

Shape letters: B batch, T time, D width in, H width out. Sequences are padded on the right, so a causal
encoder is exact without looking at the mask: nothing before the padding can see it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Vectors in, vectors out: ``forward(x_BTD, mask_BT, state) -> (y_BTH, state)``.

    Attributes:
        width_out: H.
        causal: output t depends on inputs up to t alone.
        state_names: what the tensors of its state are called in reports, in order.
        receptive_field: how many steps an output can depend on, its own included; None: no limit.
        readout: set when the encoder's last output is already a summary, so that the shared read-out
            must not pool it again.
    """

    width_out: int
    causal: bool = True
    receptive_field: int | None = None
    readout: str | None = None
    state_names: tuple[str, ...] = ("state",)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        """Encode a batch.

        Args:
            x_BTD: embedded tokens.
            mask_BT: True at valid tokens; None means that all are valid.
            state: what an earlier call returned, to continue a sequence (stateful encoders only).
        """
        raise NotImplementedError

    @property
    def kernel(self) -> str:
        """Which implementation runs, in words, for every speed table; a plain attribute may replace it."""
        return "unnamed"

    def last(self, y_BTH: Tensor, lengths_B: Tensor) -> Tensor:
        """The summary ``(B, H)`` that a many-to-one read-out uses: the output at the last valid token."""
        return gather_time(y_BTH, lengths_B - 1)


class Chain(Encoder):
    """Encoders one after another; with ``residual``, each from the second on adds its input to its output."""

    def __init__(self, encoders: list[Encoder], *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.encoders = nn.ModuleList(encoders)
        self.width_out = encoders[-1].width_out
        self.causal = all(encoder.causal for encoder in encoders)

    @property
    def final(self) -> Encoder:
        """The encoder whose outputs are read."""
        return cast(Encoder, self.encoders[-1])

    @property
    def kernel(self) -> str:
        return self.final.kernel

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        states = state if state is not None else [None] * len(self.encoders)
        after = []
        for number, (encoder, before) in enumerate(zip(self.encoders, states, strict=True)):
            y_BTH, new = encoder(x_BTD, mask_BT=mask_BT, state=before)
            x_BTD = x_BTD + y_BTH if self.residual and number else y_BTH
            after.append(new)
        return x_BTD, after

    def last(self, y_BTH: Tensor, lengths_B: Tensor) -> Tensor:
        return self.final.last(y_BTH, lengths_B)


class Bidirectional(Encoder):
    """Two causal encoders; the second reads each sequence reversed within its own length.

    Exact without packing: the valid part is flipped per sequence and padding stays on the right, where a
    causal encoder cannot see it. Equal to a packed ``nn.LSTM(bidirectional=True)`` of one layer; with several
    layers each direction is a stack of its own, which torch interleaves.
    """

    causal = False

    def __init__(self, forwards: Encoder, backwards: Encoder) -> None:
        super().__init__()
        if not (forwards.causal and backwards.causal):
            raise ValueError("only a causal encoder can be made bidirectional")
        self.forwards, self.backwards = forwards, backwards
        self.width_out = forwards.width_out + backwards.width_out

    @property
    def kernel(self) -> str:
        return f"{self.forwards.kernel}, both directions"

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        if state is not None:
            raise ValueError("a bidirectional encoder reads whole sequences and keeps no state")
        order_BT = reversal(x_BTD.shape[0], x_BTD.shape[1], mask_BT, x_BTD.device)
        ahead, _ = self.forwards(x_BTD, mask_BT=mask_BT)
        behind, _ = self.backwards(permute_time(x_BTD, order_BT), mask_BT=mask_BT)
        return torch.cat([ahead, permute_time(behind, order_BT)], dim=2), None

    def last(self, y_BTH: Tensor, lengths_B: Tensor) -> Tensor:
        """The forward half at the last valid token, the backward half at the first token."""
        split = self.forwards.width_out
        return torch.cat([gather_time(y_BTH[..., :split], lengths_B - 1), y_BTH[:, 0, split:]], dim=1)


def reversal(batch: int, time: int, mask_BT: Tensor | None, device: torch.device) -> Tensor:
    """Indices ``(B, T)`` that reverse each sequence within its length; its own inverse.

    With length n: n-1, ..., 0, n, n+1, ... so padding stays where it is.
    """
    steps_T = torch.arange(time, device=device)
    if mask_BT is None:
        return steps_T.flip(0).expand(batch, time)
    lengths_B1 = mask_BT.sum(1, keepdim=True)
    return torch.where(steps_T < lengths_B1, lengths_B1 - 1 - steps_T, steps_T)


def permute_time(x_BTD: Tensor, order_BT: Tensor) -> Tensor:
    """Reorder the time axis of each sequence by its own indices."""
    return x_BTD.gather(1, order_BT.unsqueeze(2).expand(-1, -1, x_BTD.shape[2]))


def gather_time(y_BTH: Tensor, index_B: Tensor) -> Tensor:
    """One vector per sequence: ``y[b, index[b]]``."""
    return y_BTH[torch.arange(y_BTH.shape[0], device=y_BTH.device), index_B]
