"""What needs no training: gradients against closed forms, floors against players that know only a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqbench.batch import UNSCORED, pad
from seqbench.config import NetworkConfig
from seqbench.network import Network
from seqbench.probes.base import input_gradients
from seqbench.registry import lookup
from seqbench.seeds import stream
from seqbench.tasks.base import GeneratedTask

WITHOUT_BINDING = "values without binding"
_STEPS, _WIDTH, _EXAMPLES = 64, 6, 20_000
_GAIN, _FORGET, _UPDATE = 0.9, 0.8, 0.95


@dataclass(frozen=True)
class Measured:
    """A measured number beside the exact one, and how far they may be apart."""

    measured: float
    exact: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether they agree."""
        return abs(self.measured - self.exact) <= self.tolerance


def linear_rnn() -> Measured:
    """Gradient kept per step by an RNN whose recurrent matrix is a gain times an orthogonal one."""
    network = _network("rnn", nonlinearity="relu")
    layer: Any = network.encoder
    with torch.no_grad():  # positive inputs keep relu linear; a permutation is orthogonal
        layer.recurrent.copy_(_GAIN * torch.eye(_WIDTH, dtype=torch.float64).roll(1, 0))
        layer.project.weight.copy_(torch.eye(_WIDTH))
        layer.project.bias.fill_(10.0)
    return Measured(_kept(network), _GAIN, 1e-9)


def lstm_with_pinned_forget_gate() -> Measured:
    """Gradient kept per step by an LSTM whose forget gate is a constant and whose only path is the cell."""
    network = _network("lstm", forget_bias=float(np.log(_FORGET / (1 - _FORGET))))
    encoder: Any = network.encoder
    lstm = encoder.lstm
    with torch.no_grad():
        lstm.weight_hh_l0.zero_()
        lstm.weight_ih_l0[: 2 * _WIDTH].zero_()
        lstm.weight_ih_l0[3 * _WIDTH :].zero_()
    return Measured(_kept(network), _FORGET, 1e-6)


def gru_with_pinned_update_gate() -> Measured:
    """Gradient kept per step by a GRU whose update gate is a constant."""
    network = _network("gru", update_bias=float(np.log(_UPDATE / (1 - _UPDATE))))
    layer: Any = network.encoder
    with torch.no_grad():
        layer.recurrent.zero_()
        layer.project.weight[: 2 * _WIDTH].zero_()
    return Measured(_kept(network), _UPDATE, 1e-6)


def attention_without_positions() -> Measured:
    """Gradient kept per step by one layer of attention that reads out the mean: all of it."""
    options = {"causal": False, "positions": "none", "layers": 1, "hidden": 8, "heads": 2}
    return Measured(_kept(_network("transformer", "mean", **options)), 1.0, 1e-9)


def temporal_order_floor() -> Measured:
    """Accuracy of a player who knows which two symbols stand in a sequence and guesses their order."""
    task = lookup("task", "temporal_order")().rungs()[0]
    batch = task.sample(stream(0, "test"), _EXAMPLES)
    rng = stream(0, "probe")
    pairs = np.stack(np.divmod(batch.targets, task.symbols), axis=1)
    guess = np.where(rng.random(len(pairs))[:, None] < 0.5, pairs, pairs[:, ::-1])
    return _share((guess == pairs).all(1), task.card().floors["bag of tokens"])


def mqar_floor() -> Measured:
    """Accuracy of a player who knows which values were shown, but not of which key: the most frequent one."""
    task: GeneratedTask = lookup("task", "mqar")().rungs()[0]
    batch = task.sample(stream(0, "test"), _EXAMPLES)
    pairs = task.rung() or 0
    shown = batch.ids_BT[:, 1 : 2 * pairs : 2] - (task.vocabulary_size - task.classes)
    counts = (shown[:, :, None] == np.arange(task.classes)).sum(1)
    first = (batch.targets != UNSCORED).argmax(1)
    answers = batch.targets[np.arange(len(first)), first]
    return _share(counts.argmax(1) == answers, task.card().floors[WITHOUT_BINDING])


def _share(hits: np.ndarray, exact: float) -> Measured:
    """A share within four standard errors of the exact one."""
    return Measured(float(hits.mean()), exact, float(4 * np.sqrt(exact * (1 - exact) / len(hits))))


def _network(model: str, readout: str = "last", **options: object) -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(embedding_width=_WIDTH, readout=readout)
    return Network(lookup("model", model)(**options), config, 5, 3, _WIDTH).double()


def _kept(network: Network) -> float:
    """What remains of |dL/dx_t| per step back in time, for one token repeated; the mean over all steps."""
    norms_BT, _ = input_gradients(network, pad([[2] * _STEPS], [1]))
    return float((norms_BT[0, 0] / norms_BT[0, -1]) ** (1 / (_STEPS - 1)))


Check = Callable[[], Measured]
