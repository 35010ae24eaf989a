"""A run that is stopped and taken up again ends with the same bits as one that never stopped."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from seqbench.batch import TokenRows
from seqbench.checkpoint import Checkpoint
from seqbench.config import TrainConfig
from seqbench.metric import Goal
from seqbench.registry import lookup
from seqbench.seeds import stream
from seqbench.tasks.base import FixedData
from seqbench.train import Outcome, fit

CPU = torch.device("cpu")
CLOCKS = {"train_cpu_s", "train_wall_s", "solved_cpu_s", "resumed_step"}
CONFIG = TrainConfig(steps=30, eval_every=6, log_every=4, batch_size=4, keep_best=True, lr=1e-2)


class PowerCut(BaseException):
    """The end of a process."""


class Always(Checkpoint):
    """Writes at every pause, and the process ends after the ``dies_at``-th of them."""

    def __init__(self, folder, identity="ab", dies_at: int | None = None) -> None:
        super().__init__(folder, identity, every_s=0.0)
        self.left = itertools.repeat(True) if dies_at is None else iter([True] * (dies_at - 1))

    def save(self, state) -> None:
        super().save(state)
        if not next(self.left, False):
            raise PowerCut


@pytest.fixture
def data() -> FixedData:
    """A small data set, so that several epochs are shuffled and cut into batches."""
    rng = stream(0, "train")
    lengths = rng.integers(2, 9, 30)
    tokens = rng.integers(1, 13, int(lengths.sum()))
    offsets = torch.tensor([0, *lengths]).cumsum(0).numpy()
    rows = TokenRows(tokens, offsets, rng.integers(0, 5, 30))
    return FixedData({"train": rows, "valid": rows, "test": rows}, 13, 5, seed=3)


def trained(make_network, data, checkpoint, solved_at=None) -> tuple[Outcome, dict]:
    """Train from new weights, as a new process would."""
    network = make_network(lookup("model", "gru")(), dropout=0.3)
    torch.manual_seed(5)
    goal = Goal(solved_at=solved_at)
    outcome = fit(network, data, CONFIG, goal, CPU, lambda _: None, checkpoint, looked)
    return outcome, network.state_dict()


def looked(network) -> dict:
    """A snapshot that depends on the weights."""
    total = next(network.parameters()).double().sum().item()
    return {"flow": {"distance": [0, 1], "median": [total, 0.5]}, "states": {"state": ["a"], "norm": [total]}}


def bits(outcome: Outcome) -> dict:
    plain = dataclasses.asdict(outcome)
    columns = plain.pop("evaluations")
    plain["evaluations"] = {name: values for name, values in columns.items() if name not in CLOCKS}
    return {name: value for name, value in plain.items() if name not in CLOCKS}


@pytest.mark.parametrize("dies_at", range(1, 11))  # every pause but the last
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(make_network, data, tmp_path, dies_at):
    whole, weights = trained(make_network, data, None)
    with pytest.raises(PowerCut):
        trained(make_network, data, Always(tmp_path, dies_at=dies_at))
    outcome, again = trained(make_network, data, Always(tmp_path))
    assert outcome.resumed_step > 0
    assert bits(outcome) == bits(whole)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_dropout_and_data_order_would_differ_without_the_checkpoint(make_network, data, tmp_path):
    whole, _ = trained(make_network, data, None)
    with pytest.raises(PowerCut):
        trained(make_network, data, Always(tmp_path, dies_at=4))
    state = Always(tmp_path).load()
    state["random"] = torch.manual_seed(99).get_state()
    Always(tmp_path).save(state)
    outcome, _ = trained(make_network, data, Checkpoint(tmp_path, "ab", 1e9))
    assert outcome.steps["loss"] != whole.steps["loss"]


def test_a_short_run_writes_none(make_network, data, tmp_path):
    trained(make_network, data, Checkpoint(tmp_path, "ab", every_s=60.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "link", "another run", "code"])
def test_what_cannot_be_trusted_is_not_used(make_network, data, tmp_path, damage, capsys):
    with pytest.raises(PowerCut):
        trained(make_network, data, Always(tmp_path, dies_at=2))
    checkpoint = Always(tmp_path, identity="cd" if damage == "another run" else "ab")
    content = bytearray(checkpoint.path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    checkpoint.path.write_bytes(content[: {"cut": -7, "empty": 0, "code": 0}.get(damage)])
    if damage == "link":
        checkpoint.path.rename(tmp_path / "elsewhere")
        checkpoint.path.symlink_to(tmp_path / "elsewhere")
    if damage == "code":
        Checkpoint(tmp_path, "ab", 0.0).save({"run": print})
    assert checkpoint.load() is None
    assert "checkpoint not used" in capsys.readouterr().out
    outcome, _ = trained(make_network, data, checkpoint)
    assert outcome.resumed_step == 0


def test_a_disk_that_takes_nothing_does_not_stop_training(make_network, data, tmp_path, capsys):
    whole, _ = trained(make_network, data, None)
    outcome, _ = trained(make_network, data, Always(tmp_path / "missing"))
    assert bits(outcome) == bits(whole)
    assert "checkpoint not written" in capsys.readouterr().out


def test_it_is_gone_when_discarded(tmp_path):
    checkpoint = Checkpoint(tmp_path, "ab", 0.0)
    checkpoint.save({"x": torch.ones(2)})
    assert torch.equal(checkpoint.load()["x"], torch.ones(2))
    checkpoint.discard()
    checkpoint.discard()
    assert checkpoint.load() is None
