"""A layer that would spoil a comparison is stopped before it is trained; all others are let through."""

from __future__ import annotations

import copy
import threading
import time

import numpy as np
import planted
import pytest
import torch
from conftest import CLASSES, HIDDEN, VARIANTS, VOCABULARY

from seqbench.batch import Batch, pad
from seqbench.config import NetworkConfig
from seqbench.contract import ContractBroken, check_contract
from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.network import Network


def rows(rng: np.random.Generator) -> Batch:
    return pad([rng.integers(1, VOCABULARY, length) for length in (9, 5, 7, 2)], rng.integers(0, CLASSES, 4))


def network(model: ModelConfig) -> Network:
    return Network(model, NetworkConfig(), VOCABULARY, CLASSES, HIDDEN)


@pytest.mark.parametrize("label", VARIANTS)
def test_every_model_of_ours_keeps_the_contract(label):
    check_contract(network(VARIANTS[label]), rows(np.random.default_rng(0)))


FAULTS = {
    planted.Leak: r"causality: expected earlier outputs .* by 0 .*, found \d[\d.e+]* at step \d+ of 12",
    planted.ReadsPadding: r"padding: expected a padded row .*, found a difference of 0.46 \(length 1",
    planted.BatchNorm: r"rows: expected .* to change by 0 .*, found \d[\d.e+]* in training mode",
    planted.BatchMean: r"rows: expected .* to change by 0 .*, found \d[\d.e+]* in evaluation mode",
    planted.Dead: r"parameters: expected a gradient for each of 4 .*, found none for 1: 'unused' \(5,\)",
    planted.LateState: r"state: expected .* joined by the state .*, found a difference of \d[\d.]*",
    planted.WrongWidth: r"shape: expected outputs .* = \(3, 12, 9\), found \(3, 12, 8\)",
}


@pytest.mark.parametrize("layer", FAULTS, ids=lambda layer: layer.__name__)
def test_a_fault_is_stopped_with_property_numbers_and_usual_cause(layer):
    batch, planted_network = rows(np.random.default_rng(0)), network(planted.Planted(layer=layer))
    with pytest.raises(ContractBroken, match=FAULTS[layer]) as caught:
        check_contract(planted_network, batch)
    assert "; usual cause: " in str(caught.value)


# Sound, or wrong in a way that does not spoil a comparison, or that training says by itself.
TRAINED = [
    planted.Sound, planted.Ahead, planted.OnlySaysSo, planted.ReadsPaddingContent, planted.ZeroGate,
    planted.LateParameter, planted.DeadUnits, planted.WithDropout, planted.Noisy, planted.NoNumbers,
    planted.NeedsMask, planted.SingleOnly, planted.SharedState,
]  # fmt: skip


@pytest.mark.parametrize("layer", TRAINED, ids=lambda layer: layer.__name__)
def test_no_false_alarm(layer):
    check_contract(network(planted.Planted(layer=layer)), rows(np.random.default_rng(0)))


@pytest.mark.parametrize("options", [{"embedding": "onehot"}, {"dropout": 0.9}])
def test_what_surrounds_the_encoder_raises_no_alarm(options):
    model = planted.Planted(layer=planted.Sound)
    one = Network(model, NetworkConfig(**options), VOCABULARY, CLASSES, HIDDEN)
    check_contract(one, rows(np.random.default_rng(0)))


def test_inputs_that_are_all_zero_raise_no_alarm():
    batch = Batch(np.ones((2, 5), np.int64), np.array([5, 5]), np.zeros(2), np.zeros((2, 5, 3), np.float32))
    one = Network(planted.Planted(layer=planted.Sound), NetworkConfig(), 2, 1, HIDDEN, 3)
    check_contract(one, batch)


def test_the_network_and_the_random_numbers_are_left_as_they_were():
    one = network(planted.Planted(layer=planted.BatchNorm)).train()
    before, weights = torch.get_rng_state(), copy.deepcopy(one.state_dict())
    with pytest.raises(ContractBroken):
        check_contract(one, rows(np.random.default_rng(0)))
    assert one.encoder.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], tensor) for name, tensor in one.state_dict().items())
    assert all(parameter.grad is None for parameter in one.parameters())


def test_what_cannot_be_copied_is_left_to_training():
    one = network(planted.Planted(layer=planted.Leak))
    one.encoder.lock = threading.Lock()
    check_contract(one, rows(np.random.default_rng(0)))


@pytest.mark.parametrize("label", VARIANTS)
def test_it_takes_little_time(label):
    one, batch = network(VARIANTS[label]), rows(np.random.default_rng(0))
    took = []
    for _ in range(2):  # a busy machine costs CPU time too
        started = time.process_time()
        check_contract(one, batch)
        took.append(time.process_time() - started)
    assert min(took) < 0.3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lengths_B": np.array([0, 2])}, "a length"),
        ({"lengths_B": np.array([4, 2])}, "a length"),
        ({"ids_BT": np.array([[1, VOCABULARY, 3], [4, 5, 0]])}, "an id"),
        ({"ids_BT": np.array([[1, 0, 3], [4, 5, 0]])}, "padding"),
        ({"ids_BT": np.array([[1, 2, 3], [4, 5, 6]])}, "padding"),
        ({"targets": np.array([0, CLASSES])}, "a target"),
        ({"targets": np.array([0, -100])}, "a target"),
        ({"targets": np.full((2, 3), -1)}, "no answer"),
        ({"targets": np.array([0.0, 1.0])}, "one output"),
    ],
)
def test_a_bad_batch_of_a_users_task_is_named(change, reason):
    good = {
        "ids_BT": np.array([[1, 2, 3], [4, 5, 0]]),
        "lengths_B": np.array([3, 2]),
        "targets": np.array([0, 1]),
    }
    assert Batch(**good).checked(VOCABULARY, CLASSES).valid_tokens == 5
    with pytest.raises(UsageError, match=reason):
        Batch(**{**good, **change}).checked(VOCABULARY, CLASSES)


@pytest.mark.parametrize("option", [{"bidirectional": True}, {"layers": 2}, {"hidden": 3}])
@pytest.mark.parametrize("name", ["bag", "constant"])
def test_a_canary_has_no_settings_that_would_let_it_read_order(name, option):
    with pytest.raises(UsageError, match=f"canary '{name}'"):
        type(VARIANTS[name])(**option).check()
