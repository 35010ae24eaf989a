"""What initialisation does to the gradient 64 steps back: who forgets, who remembers, who is blind there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from seqbench.batch import pad
from seqbench.config import NetworkConfig
from seqbench.network import Network
from seqbench.probes.base import input_gradients
from seqbench.registry import lookup

STEPS, FAR, WIDTH = 160, 64, 96


def left(name: str, **options: Any) -> float:
    """What an input 64 steps back gets of the gradient of the last but one; median over four sequences."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = Network(lookup("model", name)(**options), NetworkConfig(), 12, 9, WIDTH)
    batch = pad([rng.integers(1, 12, STEPS) for _ in range(4)], rng.integers(0, 9, 4))
    backwards_BT = input_gradients(network, batch)[0][:, ::-1]
    return float(np.median(backwards_BT[:, FAR] / backwards_BT[:, 1]))


@pytest.mark.parametrize(
    ("name", "options", "least", "most"),
    [
        ("rnn", {}, 1e-24, 1e-15),
        ("rnn", {"init": "orthogonal"}, 1e-9, 1e-4),
        ("rnn", {"nonlinearity": "relu", "init": "identity"}, 0.1, 3),
        ("jordan", {}, 1e-45, 1e-25),
        ("lstm", {}, 1e-17, 1e-10),
        ("lstm", {"forget_bias": 1.0}, 1e-7, 1e-3),
        ("lstm", {"forget_bias": 3.0}, 0.05, 3),
        ("lstm", {"chrono": STEPS}, 0.01, 1),
        ("gru", {}, 1e-17, 1e-10),
        ("gru", {"update_bias": 4.0}, 0.03, 3),
        ("slstm", {}, 1e-3, 1),
        ("mingru", {}, 1e-18, 1e-8),
        ("mingru", {"forget_bias": 3.0}, 1e-3, 1),
        ("lru", {}, 1e-3, 1),
        ("s4d", {}, 0.03, 3),
        ("rglru", {}, 0.03, 3),
        ("mamba2", {}, 1e-6, 0.1),
        ("mlstm", {}, 0.01, 1),
        ("retnet", {}, 0.01, 1),
        ("deltanet", {}, 0.01, 3),
        ("gated_deltanet", {}, 1e-3, 1),
        ("linear_attention", {}, 0.1, 10),
        ("transformer", {}, 0.1, 10),
    ],
)
def test_what_is_left_of_the_gradient_before_training(name, options, least, most):
    assert least < left(name, **options) < most


def test_a_convolution_has_no_gradient_beyond_what_it_sees():
    assert left("tcn", layers=3) == 0.0
