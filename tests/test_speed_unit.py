"""What a speed unit measures: the task's own batches, the grid, its limits, and the operations behind it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqbench import grid as grids
from seqbench.batch import PADDING, TensorBatch
from seqbench.build import build
from seqbench.config import checked
from seqbench.cost import COUNTED, at_length, forward_flops, train_flops
from seqbench.errors import UsageError
from seqbench.grid import Grid, Need, axes, beyond, predicted
from seqbench.kernel import stretched
from seqbench.match import Place, on_meta
from seqbench.network import Network
from seqbench.plan import plan
from seqbench.registry import lookup
from seqbench.speed import time_rung

CPU = torch.device("cpu")
KINDS = ("train", "speed")
QUICK = {"seconds": 0.0, "min_steps": 3}


def parts(make_job, tmp_path, model="rnn", task="temporal_order", **options):
    job = make_job(model, task, **{"model_options": {"hidden": 8}, **options})
    data = job.task.open(0, tmp_path)
    return job, data, build(job, data, 0, CPU)[0]


def surveyed(make_job, tmp_path, flops=lambda steps: 10.0 * steps, **speed) -> Grid:
    job, data, network = parts(make_job, tmp_path, speed={**QUICK, **speed}, train={"batch_size": 2})
    made = Grid(network, data, job.train, job.speed, CPU, flops)
    made.run()
    return made


# The task's own batches


def test_rows_of_a_rung_say_what_was_kept_and_how_long_each_step_took(make_job, tmp_path):
    job, data, network = parts(make_job, tmp_path, speed=QUICK, train={"batch_size": 4})
    table = time_rung(network, data, job.train, job.speed, CPU, 16)
    assert table["mode"] == ["train"] * 3 + ["forward"] * 3
    assert len(set(table["saved_bytes"])) == 1
    longest, width, embedded = 16, 8, 48
    assert table["saved_bytes"][0] >= 4 * 4 * longest * (width + embedded)
    assert all(step_s > 0 for step_s in table["step_s"])
    assert {len(column) for column in table.values()} == {6}
    assert all(
        0 < valid <= padded
        for valid, padded in zip(table["valid_tokens"], table["padded_tokens"], strict=True)
    )


# Full sequences of any length


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("steps", "rows"), [(3, 1), (40, 5)])
def test_stretched_sequences_are_full_and_repeat_the_tasks_own(make_batch, many, steps, rows):
    batch = make_batch([9, 5, 7], many=many)
    found = stretched(batch.tensors(), steps, rows)
    assert found.ids_BT.shape == (rows, steps)
    assert found.mask_BT.all()
    assert (found.lengths_B == steps).all()
    assert (found.ids_BT != PADDING).all()
    for row in range(rows):
        own, length = batch.ids_BT[row % 3], batch.lengths_B[row % 3]
        assert found.ids_BT[row].tolist() == [own[step % length] for step in range(steps)]
    assert (found.targets >= 0).all()
    assert found.targets.shape == ((rows, steps) if many else (rows,))


def test_stretched_numbers_go_with_their_steps(make_job, tmp_path):
    _, data, network = parts(make_job, tmp_path, task="adding")
    probe = data.probe(2).tensors()
    found = stretched(probe, 200, 4)
    length = int(probe.lengths_B[1])
    assert torch.equal(found.values_BTF[3, length], probe.values_BTF[1, 0])
    assert network(found)[0].shape == (4, 1)


# The grid


def test_lengths_are_timed_at_the_batch_size_of_training_and_sizes_at_one_length(make_job):
    job = make_job(
        train={"batch_size": 4}, speed={"steps": [64, 32], "batch_sizes": [8, 1], "batch_steps": 16}
    )
    assert axes(job.train, job.speed) == [[(32, 4), (64, 4)], [(16, 1), (16, 8)]]
    assert axes(job.train, make_job().speed) == []


def test_every_point_has_rows_of_both_kinds(make_job, tmp_path):
    found = surveyed(make_job, tmp_path, steps=[8, 16], batch_sizes=[1, 2], batch_steps=16)
    table = found.table
    seen = set(zip(table["steps"], table["batch_size"], table["mode"], strict=True))
    assert seen == {(t, b, mode) for t, b in ((8, 2), (16, 2), (16, 1)) for mode in ("train", "forward")}
    assert found.left_out == {}
    assert min(table["peak_flops_per_s"]) > 1e8
    names = ("steps", "batch_size", "valid_tokens", "flops", "saved_bytes")
    rows = set(zip(*(table[name] for name in names), strict=True))
    assert {row[:4] for row in rows} == {(t, b, t * b, 10.0 * t) for t, b in ((8, 2), (16, 2), (16, 1))}
    kept = {(t, b): size for t, b, _, _, size in rows}
    assert kept[16, 2] > 1.5 * kept[8, 2] > 0


def test_what_would_take_too_long_is_left_out_with_what_it_would_take(make_job, tmp_path, monkeypatch):
    taken = []

    def both(network, train, speed, device, batches):
        steps = batches[0]().ids_BT.shape[1]
        taken.append(steps)
        yield SimpleNamespace(mode="train", steps=[(0, steps / 8.0, 0.1)] * 3, memory_bytes=1000 * steps)

    monkeypatch.setattr(grids, "time_both", both)
    monkeypatch.setattr(grids, "peak_flops_per_s", lambda *_: 1e9)
    found = surveyed(make_job, tmp_path, steps=[8, 16, 32, 64], point_s=30.0, memory_mib=100.0)
    assert taken == [8, 16, 32]  # (3 + 3) steps of 1, 2 and 4 seconds
    assert found.left_out["steps"] == [64]
    assert found.left_out["reason"] == ["time"]
    assert found.left_out["about_s"] == [pytest.approx(48.0)]
    assert found.left_out["limit_s"] == [30.0]


def test_what_would_need_too_much_memory_is_left_out_too(make_job, tmp_path, monkeypatch):
    def both(network, train, speed, device, batches):
        size = batches[0]().ids_BT.shape[1] ** 2 * 2**20 / 64
        yield SimpleNamespace(mode="train", steps=[(0, 0.001, 0.001)] * 3, memory_bytes=int(size))

    monkeypatch.setattr(grids, "time_both", both)
    monkeypatch.setattr(grids, "peak_flops_per_s", lambda *_: 1e9)
    found = surveyed(make_job, tmp_path, steps=[8, 16, 32, 64], memory_mib=10.0)
    assert found.left_out["steps"] == [32, 64]
    assert set(found.left_out["reason"]) == {"memory"}
    assert found.left_out["about_bytes"][0] == pytest.approx(16 * 2**20)
    assert found.left_out["limit_bytes"][0] == 10 * 2**20


def test_what_runs_out_of_memory_is_left_out_and_the_rest_goes_on(make_job, tmp_path, monkeypatch):
    real = grids.time_both

    def both(network, train, speed, device, batches):
        if batches[0]().ids_BT.shape[1] == 16:
            raise MemoryError
        return real(network, train, speed, device, batches)

    monkeypatch.setattr(grids, "time_both", both)
    found = surveyed(make_job, tmp_path, steps=[8, 16, 32])
    assert set(found.table["steps"]) == {8, 32}
    assert found.left_out["reason"] == ["out of memory"]


def test_any_other_error_is_the_runs(make_job, tmp_path, monkeypatch):
    def both(*_):
        raise ValueError("a mistake")

    monkeypatch.setattr(grids, "time_both", both)
    with pytest.raises(ValueError, match="a mistake"):
        surveyed(make_job, tmp_path, steps=[8])


@given(power=st.floats(1.0, 3.0), start=st.floats(1e-6, 1e3), ratio=st.integers(2, 8))
def test_a_power_law_is_predicted_exactly(power, start, ratio):
    known = [(size, Need(start * size**power, start * size)) for size in (32, 32 * ratio)]
    about = predicted(known, 32 * ratio**2)
    assert about.seconds == pytest.approx(start * (32 * ratio**2) ** power)
    assert about.bytes == pytest.approx(start * 32 * ratio**2)


def test_a_prediction_is_never_below_proportion_and_unknown_at_first():
    assert predicted([(32, Need(2.0, 0.0)), (64, Need(1.0, 0.0))], 128) == (2.0, 0.0)
    assert predicted([(32, Need(2.0, 6.0))], 64) == (4.0, 12.0)
    assert all(math.isnan(value) for value in predicted([], 64))
    assert beyond(predicted([], 64), Need(1.0, 1.0)) == ""


# What is asked for


def test_speed_only_plans_nothing_to_train(make_job):
    speed = {"only": True, "steps": [8]}
    units = plan(
        [make_job("rnn", speed=speed, canaries=True), make_job("gru", speed=speed, canaries=True)], Path("s")
    )
    assert [(unit.kind, unit.job.model.name) for unit in units] == [("speed", "rnn"), ("speed", "gru")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speed": {"only": True, "enabled": False}}, "nothing is left to do"),
        ({"speed": {"only": True}, "tune": 4}, "tuning trains models"),
        ({"speed": {"steps": [32, 32]}}, r"speed.steps=\[32, 32\]: expected different"),
        ({"speed": {"batch_sizes": [1, 1]}}, r"speed.batch_sizes=\[1, 1\]: expected different"),
        ({"speed": {"steps": [0]}}, "speed.steps"),
    ],
)
def test_what_cannot_be_measured_is_refused(make_job, options, words):
    with pytest.raises(UsageError, match=words):
        checked(make_job(**options))


def test_the_grid_does_not_change_what_training_is(make_job):
    settings = ({}, {"steps": [8], "batch_sizes": [2]})
    plain, more = (plan([make_job(speed=speed)], Path("s")) for speed in settings)
    same = {
        kind: [[u.identity for u in units if u.kind == kind] for units in (plain, more)] for kind in KINDS
    }
    assert same["train"][0] == same["train"][1] != []
    assert same["speed"][0] != same["speed"][1]


# Operations


def counted(make_job, name: str, steps: int, hidden: int = 8, kind=forward_flops, **options) -> int:
    job = make_job(name, model_options={"hidden": hidden, **options}, network={"embedding_width": 6})
    place = Place(11, 9)

    def count(network: Network, device: str) -> int:
        ids = torch.ones(1, 1, dtype=torch.int64)
        one = TensorBatch(ids, ids[0], ids.bool(), ids[0] * 0)
        there = {n: part.to(device) for n, part in vars(stretched(one, steps)).items() if part is not None}
        return kind(network, TensorBatch(**there))

    return on_meta(job, place, hidden, count)


D, H, C = 6, 8, 9
PRODUCTS = {  # multiplications of one step
    "rnn": H * (D + H),
    "gru": 3 * H * (D + H),
    "lstm": 4 * H * (D + H),
    "bilstm": 2 * 4 * H * (D + H),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_training_step_of_a_recurrence_costs_three_forward_passes(make_job, name):
    steps, directions = 20, 2 if name == "bilstm" else 1
    forward = 2 * (steps * PRODUCTS[name] + directions * H * C)
    assert counted(make_job, name, steps) == forward
    first_state = 2 * directions * 4 * H * H if "lstm" in name else 0  # it is constant, and gets no gradient
    assert counted(make_job, name, steps, kind=train_flops) == 3 * forward - first_state


def test_a_training_step_of_a_transformer_costs_three_forward_passes(make_job):
    steps, layers, ratio = 20, 2, 2
    block = steps * (4 * H * H + 2 * ratio * H * H) + 2 * steps * steps * H  # maps, feed-forward, pairs
    forward = 2 * (steps * D * H + layers * block + H * C)
    assert counted(make_job, "transformer", steps) == forward
    assert counted(make_job, "transformer", steps, kind=train_flops) == 3 * forward


@pytest.mark.parametrize(
    "name", ["rnn", "gru", "lstm", "transformer", "attention", "tcn", "s4d", "mamba2", "deltanet", "minlstm"]
)
def test_long_sequences_are_counted_from_short_ones_without_an_error(make_job, name):
    steps = 5 * COUNTED
    assert at_length(lambda n: counted(make_job, name, n), steps) == counted(make_job, name, steps)


def test_counting_leaves_no_gradient(make_network, make_batch):
    network = make_network(lookup("model", "gru")())
    assert train_flops(network, make_batch([9]).tensors()) > 0
    assert all(parameter.grad is None for parameter in network.parameters())
