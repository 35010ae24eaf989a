"""Layers start where their papers, or the authors' code, let them start; equations do not depend on it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench.layers.state_space import stratified
from seqbench.registry import lookup

H = 64


def layer(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return lookup("model", name)(**options).mixer(H, 0)


def spread(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


def assert_spread(values: Tensor, std: float) -> None:
    """Mean 0 and the standard deviation, within five standard errors or so."""
    slack = 5 * std / math.sqrt(values.numel())
    assert spread(values.detach()) == (pytest.approx(0.0, abs=slack), pytest.approx(std, abs=slack))


def test_lru_starts_with_glorots_matrices():
    """Orvieto et al. 2023, appendix A."""
    made = layer("lru")
    assert_spread(made.enter, 1 / math.sqrt(2 * H))
    assert_spread(made.leave, 1 / math.sqrt(H))
    assert_spread(made.skip, 1.0)


def test_s4d_starts_with_standard_normal_outputs():
    """A complex standard normal: variance 1/2 in either part (state-spaces/s4, models/s4/s4d.py)."""
    made = layer("s4d")
    assert_spread(made.leave, math.sqrt(0.5))
    assert_spread(made.skip, 1.0)


@pytest.mark.parametrize(
    ("name", "ones"),
    [
        ("mamba2", ["skip", "norm.weight"]),
        ("mamba3", ["skip", "key_bias", "query_bias", "key_norm.weight", "query_norm.weight"]),
    ],
)
def test_mamba_starts_with_ones(name, ones):
    """The skip, the norms, and what is added to B and C (state-spaces/mamba, mamba2.py and mamba3.py)."""
    made = dict(layer(name).named_parameters())
    assert all((made[one] == 1).all() for one in ones)


def test_mlstm_starts_with_gates_that_see_no_input():
    """NX-AI/xlstm, blocks/mlstm/cell.py: forget biases from 3 to 6 over the heads, input biases near 0."""
    made = layer("mlstm", heads=32)
    assert not made.gates.weight.any()
    torch.testing.assert_close(made.gates.bias[32:].detach(), torch.linspace(3, 6, 32))
    assert_spread(made.gates.bias[:32], 0.1)


def test_slstm_starts_with_the_declared_forget_gate_and_no_other_bias():
    made = layer("slstm")
    bias_K4E = made.project.bias.detach().view(2, 4, H // 2)
    assert (bias_K4E[:, 1] == 3).all()
    assert not bias_K4E[:, [0, 2, 3]].any()
    assert_spread(made.recurrent, 1 / math.sqrt(3 * H / 2))


def test_tcn_starts_with_what_a_relu_needs():
    """He et al. 2015: variance 2 / (what a unit reads)."""
    for convolution in layer("tcn").convolutions:
        assert_spread(convolution.weight, math.sqrt(2 / (3 * H)))
        assert not convolution.bias.any()


@pytest.mark.parametrize("seed", range(5))
def test_two_heads_share_the_range_of_forgetting(seed):
    torch.manual_seed(seed)
    low, high = stratified(2, 1.0, 3.0).sort().values.tolist()
    assert 1 <= low < 2 <= high < 3


def test_stratified_numbers_are_uniform():
    torch.manual_seed(0)
    drawn = torch.stack([stratified(3, 0.0, 1.0) for _ in range(4000)])
    assert drawn.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.03)  # whichever part a head got
    assert drawn.std(0).tolist() == pytest.approx([1 / math.sqrt(12)] * 3, abs=0.02)
