"""A sound layer, others with one fault each planted in them, and some that only look faulty."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from seqbench.layers.base import Encoder
from seqbench.models.base import ModelConfig


@dataclass
class Planted(ModelConfig):
    """A model of one layer."""

    name: str = "planted"
    layer: type[Encoder] = field(default=Encoder)

    def build(self, width_in: int, hidden: int) -> Encoder:
        return self.layer(width_in, hidden)


class Sound(Encoder):
    """h_t = a h_{t-1} + (1 - a) W x_t with a learned decay a per channel."""

    kernel = "Python loop"

    def __init__(self, width_in: int, hidden: int) -> None:
        super().__init__()
        self.width_out = hidden
        self.enter = nn.Linear(width_in, hidden)
        self.decay = nn.Parameter(torch.linspace(0.0, 3.0, hidden))

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        u_BTH = self.read(x_BTD)
        states = [torch.zeros_like(u_BTH[:, 0]) if state is None else self.unpack(state)]
        keep_H = torch.sigmoid(self.decay)
        for u_BH in u_BTH.unbind(1):
            states.append(keep_H * states[-1] + (1 - keep_H) * u_BH)
        return torch.stack(states[1:], dim=1), self.pack(states)

    def read(self, x_BTD):
        return self.enter(x_BTD)

    def pack(self, states):
        return states[-1]

    def unpack(self, state):
        return state


class BatchNorm(Sound):
    """Couples rows, in training mode only."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        self.norm = nn.BatchNorm1d(hidden)

    def read(self, x_BTD):
        return self.norm(self.enter(x_BTD).transpose(1, 2)).transpose(1, 2)


class BatchMean(Sound):
    """Couples rows always."""

    def read(self, x_BTD):
        u_BTH = self.enter(x_BTD)
        return u_BTH + u_BTH.mean(0, keepdim=True)


class Dead(Sound):
    """Has five numbers that it does not use."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        self.unused = nn.Parameter(torch.ones(5))


class LateState(Sound):
    """Hands on the state before the last."""

    def pack(self, states):
        return states[-2]


class SharedState(Sound):
    """One tensor of its state has no batch axis."""

    def pack(self, states):
        return states[-1], states[-1].new_zeros(1)

    def unpack(self, state):
        return state[0]


class WrongWidth(Sound):
    """Announces one channel more than it gives."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        self.width_out = hidden + 1


class Noisy(Sound):
    """Draws random numbers in evaluation mode too."""

    def read(self, x_BTD):
        return self.enter(x_BTD) + 0.1 * torch.randn(*x_BTD.shape[:2], self.width_out).to(x_BTD)


class Doubling(torch.autograd.Function):
    """The identity with a backward pass that is wrong by a factor of 2."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class WrongGradient(Sound):
    """Its slopes are twice what they should be."""

    def read(self, x_BTD):
        return Doubling.apply(self.enter(x_BTD))


class WrongReference(Sound):
    """Its slow form forgets the bias, which is 1."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        nn.init.ones_(self.enter.bias)
        nn.init.zeros_(self.enter.weight)

    def reference(self, x_BTD):
        return 0.5 * self.forward(x_BTD)[0]


class NoNumberAtOne(Sound):
    """Divides by T - 1."""

    def read(self, x_BTD):
        return self.enter(x_BTD) / (x_BTD.shape[1] - 1) * (x_BTD.shape[1] - 1)


class NoNumbers(Sound):
    """Gives no numbers at all, which training says by itself."""

    def read(self, x_BTD):
        return self.enter(x_BTD) * float("nan")


class NeedsMask(Sound):
    """Fails where no mask is given."""

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return super().forward(x_BTD * mask_BT.unsqueeze(2), state=state)


class SingleOnly(Sound):
    """Makes a float32 tensor, so that it cannot run in float64."""

    def read(self, x_BTD):
        return self.enter(x_BTD) @ torch.eye(self.width_out)


class Leak(Encoder):
    """Adds the mean over the whole sequence, the future included, and declares to be causal."""

    def __init__(self, width_in, hidden):
        super().__init__()
        self.width_out = hidden
        self.enter = nn.Linear(width_in, hidden, bias=False)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        y_BTH = self.enter(x_BTD)
        valid_BT1 = torch.ones_like(y_BTH[..., :1]) if mask_BT is None else mask_BT.unsqueeze(2)
        return y_BTH + self.mean(y_BTH, valid_BT1), None

    def mean(self, y_BTH, valid_BT1):
        return (y_BTH * valid_BT1).sum(1, keepdim=True) / valid_BT1.sum(1, keepdim=True)


class Ahead(Leak):
    """The same, declared: sound."""

    causal = False


class OnlySaysSo(Leak):
    """Declares to look ahead and does not: allowed, but worth a remark."""

    causal = False

    def mean(self, y_BTH, valid_BT1):
        return 0 * y_BTH


class ReadsPadding(Ahead):
    """Divides by T instead of the length."""

    def mean(self, y_BTH, valid_BT1):
        return (y_BTH * valid_BT1).mean(1, keepdim=True)


class ReadsPaddingContent(Ahead):
    """Sums padding too, which is harmless only while zeros stand there."""

    def mean(self, y_BTH, valid_BT1):
        return y_BTH.sum(1, keepdim=True) / valid_BT1.sum(1, keepdim=True)


class LogSpace(Leak):
    """A decay by 0.75 as a sum of logarithms: exp(+0.29 T) leaves float32 at T = 309, float64 at T = 2467."""

    def mean(self, y_BTH, valid_BT1):
        logs_T1 = torch.full_like(y_BTH[0, :, :1], 0.75).log().cumsum(0)
        return (y_BTH * (-logs_T1).exp()).cumsum(1) * logs_T1.exp()


class ZeroGate(Sound):
    """Weights behind a gate that starts at zero have no gradient before the first step: sound."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        self.gate = nn.Parameter(torch.zeros(1))
        self.inner = nn.Linear(hidden, hidden)

    def read(self, x_BTD):
        u_BTH = self.enter(x_BTD)
        return u_BTH + self.gate * self.inner(u_BTH)


class LateParameter(Leak):
    """One of its parameters acts from step 64 on: sound."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        self.late = nn.Parameter(torch.ones(hidden))

    def mean(self, y_BTH, valid_BT1):
        return torch.cat([0 * y_BTH[:, :64], y_BTH[:, 64:] * self.late], dim=1)


class DeadUnits(Sound):
    """Half of its units never fire: sound, as the tensors as wholes get gradients."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        with torch.no_grad():
            self.enter.bias[: hidden // 2] = -100.0

    def read(self, x_BTD):
        return self.enter(x_BTD).relu()


class WithDropout(Sound):
    """Random in training mode alone: sound."""

    def __init__(self, width_in, hidden):
        super().__init__(width_in, hidden)
        self.share = 0.5

    def read(self, x_BTD):
        return nn.functional.dropout(self.enter(x_BTD), self.share, self.training)


class WrongWeights(Ahead):
    """Attends to padding too."""

    def weights(self, x_BTD, *, mask_BT=None, state=None):
        return torch.full((len(x_BTD), 1, *[x_BTD.shape[1]] * 2), 1 / x_BTD.shape[1]).to(x_BTD)


class TimeMajor(Sound):
    """Shows its states with time first."""

    def activations(self, x_BTD, *, mask_BT=None):
        return {"state": self.forward(x_BTD)[0].transpose(0, 1)}
