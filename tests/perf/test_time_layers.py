"""Our layers beside torch's own on the same input, padded and packed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bench import like_a_run  # noqa: F401
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqbench.layers.base import Bidirectional
from seqbench.layers.recurrent import ElmanLayer, GRULayer, LSTMLayer

pytestmark = pytest.mark.perf

B, T, D, H = 32, 128, 48, 128
LENGTHS = torch.tensor(np.random.default_rng(0).integers(T // 4, T + 1, B))


def forward_and_backward(module: nn.Module, call):
    x = torch.randn(B, T, D, requires_grad=True)

    def step() -> None:
        call(module, x).sum().backward()
        module.zero_grad()
        x.grad = None

    return step


def padded(module, x):
    return module(x, mask_BT=torch.arange(T) < LENGTHS[:, None])[0]


def plain(module, x):
    return module(x)[0]


def packed(module, x):
    sequence = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(module(sequence)[0], batch_first=True)[0]


LAYERS = {
    "rnn": {
        "seqbench scan": (lambda: ElmanLayer(D, H, "tanh", "default"), padded),
        "nn.RNN padded": (lambda: nn.RNN(D, H, batch_first=True), plain),
        "nn.RNN packed": (lambda: nn.RNN(D, H, batch_first=True), packed),
    },
    "gru": {
        "seqbench scan": (lambda: GRULayer(D, H, None), padded),
        "nn.GRU padded": (lambda: nn.GRU(D, H, batch_first=True), plain),
        "nn.GRU packed": (lambda: nn.GRU(D, H, batch_first=True), packed),
    },
    "bilstm": {
        "seqbench flip and gather": (
            lambda: Bidirectional(LSTMLayer(D, H, None, None), LSTMLayer(D, H, None, None)),
            padded,
        ),
        "nn.LSTM packed": (lambda: nn.LSTM(D, H, batch_first=True, bidirectional=True), packed),
    },
}
CASES = [(group, name) for group, cases in LAYERS.items() for name in cases]


@pytest.mark.parametrize(("group", "name"), CASES)
def test_layer(benchmark, group, name):
    """Forward and backward of one layer, H=128, T=128, B=32, lengths from T/4 to T."""
    benchmark.group = f"layer: {group}"
    make, call = LAYERS[group][name]
    benchmark(forward_and_backward(make(), call))
