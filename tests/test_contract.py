"""A layer that reads padding or the future is stopped before it is trained; sound ones pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from conftest import CLASSES, HIDDEN, VARIANTS, VOCABULARY
from torch import nn

from seqbench.batch import Batch, pad
from seqbench.config import NetworkConfig
from seqbench.contract import ContractBroken, check_contract
from seqbench.errors import UsageError
from seqbench.layers.base import Encoder
from seqbench.models.base import ModelConfig
from seqbench.network import Network


class Cheat(Encoder):
    """Mixes something into every output that it must not know."""

    def __init__(self, width_in: int, hidden: int, how: str) -> None:
        super().__init__()
        self.width_out, self.how = hidden, how
        self.causal = how != "reads padding"
        self.enter = nn.Linear(width_in, hidden)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        y_BTH = self.enter(x_BTD)
        if self.how == "looks ahead":
            valid_BT1 = mask_BT.unsqueeze(2)
            return y_BTH + (y_BTH * valid_BT1).sum(1, keepdim=True) / valid_BT1.sum(1, keepdim=True), None
        return y_BTH + y_BTH.mean(1, keepdim=True), None


@dataclass
class CheatConfig(ModelConfig):
    how: ClassVar[str] = ""

    def build(self, width_in: int, hidden: int) -> Encoder:
        return Cheat(width_in, hidden, self.how)


def rows(rng: np.random.Generator) -> Batch:
    return pad([rng.integers(1, VOCABULARY, length) for length in (9, 5, 7, 2)], rng.integers(0, CLASSES, 4))


def network(model: ModelConfig) -> Network:
    return Network(model, NetworkConfig(), VOCABULARY, CLASSES, HIDDEN)


@pytest.mark.parametrize("label", VARIANTS)
def test_every_model_of_ours_keeps_the_contract(label):
    check_contract(network(VARIANTS[label]), rows(np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("how", "words"), [("looks ahead", "is not causal"), ("reads padding", "when padding is added")]
)
def test_a_cheat_is_stopped_with_the_property_and_the_number(how, words):
    model = type("Planted", (CheatConfig,), {"how": how})()
    with pytest.raises(ContractBroken, match=rf"change by \d.*{words}"):
        check_contract(network(model), rows(np.random.default_rng(0)))


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
