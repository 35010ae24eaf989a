"""Tasks are what their cards say: an oracle that reads the sample is always right, and floors are exact."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqbench.batch import UNSCORED, Batch
from seqbench.errors import UsageError
from seqbench.floors import most_frequent_share
from seqbench.registry import plugins
from seqbench.schema import check
from seqbench.seeds import stream
from seqbench.tasks.base import EVAL_BATCH, FixedData, GeneratedTask
from seqbench.tasks.mqar import MQAR
from seqbench.tasks.temporal_order import TemporalOrder

GENERATED = {name: cls for name, cls in plugins("task").items() if issubclass(cls, GeneratedTask)}
NOWHERE = Path("/nonexistent")  # generated tasks cache nothing


def sample(task: GeneratedTask, examples: int, seed: int = 0) -> Batch:
    return task.sample(stream(seed, "train"), examples)


def assert_share(hits: int, trials: int, expected: float) -> None:
    """An observed share is within four standard errors of the exact one."""
    assert abs(hits / trials - expected) < 4 * np.sqrt(expected * (1 - expected) / trials)


# Every generated task


@pytest.fixture(params=GENERATED.values(), ids=GENERATED.keys())
def task(request: pytest.FixtureRequest) -> GeneratedTask:
    return request.param().rungs()[0]


def test_ids_lengths_and_answers_are_in_range(task):
    batch = sample(task, 500)
    valid = np.arange(batch.ids_BT.shape[1]) < batch.lengths_B[:, None]
    assert batch.lengths_B.min() >= 1
    assert batch.lengths_B.max() == batch.ids_BT.shape[1]
    assert np.array_equal(batch.ids_BT != 0, valid)
    assert set(batch.ids_BT[valid]) == set(range(1, task.vocabulary_size))
    scored = batch.targets != UNSCORED
    assert set(batch.targets[scored]) == set(range(task.classes))
    assert batch.targets.ndim == (1 if task.card().answers == "many-to-one" else 2)
    if batch.targets.ndim == 2:
        assert not scored[~valid].any()


def test_each_purpose_and_each_seed_draws_its_own_stream(task):
    def digests(seed: int) -> list[str]:
        data = task.open(seed, NOWHERE)
        train = [batch.digest() for batch in itertools.islice(data.train(16), 2)]
        splits = [data.held_out(split, 16)[0].digest() for split in ("valid", "test")]
        return [*train, *splits, data.probe(16).digest()]

    assert digests(0) == digests(0)
    assert len({*digests(0), *digests(1)}) == 10


def test_held_out_sets_have_the_size_asked_for(task):
    data = task.open(0, NOWHERE)
    sizes = [len(batch.lengths_B) for batch in data.held_out("test", 2 * EVAL_BATCH + 5)]
    assert sizes == [EVAL_BATCH, EVAL_BATCH, 5]


def test_slices_are_drawn_from_streams_of_their_own_and_stay_in_range(task):
    values, card = task.slice_values(), task.card()
    assert bool(values) == bool(card.slice_axis) == (card.trained_to is not None)
    slices = dict(task.open(0, NOWHERE).slices(EVAL_BATCH + 3))
    assert list(slices) == values == sorted(values)
    others = dict(task.open(1, NOWHERE).slices(EVAL_BATCH + 3))
    for value, batches in slices.items():
        assert sum(len(batch.lengths_B) for batch in batches) == EVAL_BATCH + 3
        for batch in batches:
            batch.checked(task.vocabulary_size, task.classes)
        assert batches[0].digest() != others[value][0].digest()
    assert not values or max(values) > card.trained_to


def test_floors_are_named_shares_lowest_first(task):
    card = task.card()
    assert list(card.floors.values()) == sorted(card.floors.values())
    assert all(0 < floor < 1 for floor in card.floors.values())
    assert card.floors["chance"] == 1 / task.classes
    assert card.id.startswith(task.name)


def test_answering_one_class_reaches_the_chance_floor(task):
    targets = sample(task, 20_000).targets
    scored = targets[targets != UNSCORED]
    effective = 20_000  # answers of one sequence depend on each other
    floors = task.card().floors
    often = np.bincount(scored).argmax() if "majority class" in floors else 0
    hits = np.mean(scored == often) * effective
    assert_share(hits, effective, floors.get("majority class", floors["chance"]))


def test_rungs_are_single_runs_of_the_ladder(task):
    whole = type(task)()
    if whole.ladder is None:
        assert whole.rungs() == [whole]
        return
    values = getattr(whole, whole.ladder)
    assert [rung.rung() for rung in whole.rungs()] == values
    assert [rung.cost() for rung in whole.rungs()] == sorted(rung.cost() for rung in whole.rungs())
    assert all(
        getattr(rung, whole.ladder) == [value] for rung, value in zip(whole.rungs(), values, strict=True)
    )


# Numbers are comparable only while the definition stands; a changed hash is a changed task.
FIRST_BATCHES = {
    "temporal_order": "88a6d2ed63d40054b4b57f24d64f52edfa8cca3accf44581b469d5612cb1b12b",
    "mqar": "ead5c55c678bc2f75a70c8b9d383e69bb5697d1917035bf957c0a3399bf2f40a",
}


@pytest.mark.parametrize("name", FIRST_BATCHES)
def test_the_first_batch_of_seed_0_is_pinned(name):
    data = GENERATED[name]().rungs()[0].open(0, NOWHERE)
    assert next(data.train(32)).digest() == FIRST_BATCHES[name]


# Temporal order


@pytest.mark.parametrize("longest", [8, 16, 128])
@pytest.mark.parametrize("symbols", [2, 3])
def test_temporal_order_is_solved_by_reading_it(longest, symbols):
    task = TemporalOrder(lengths=[longest], symbols=symbols)
    batch = sample(task, 3_000)
    assert {batch.lengths_B.min(), batch.lengths_B.max()} == {int(np.ceil(0.75 * longest)), longest}
    for row, length, answer in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True):
        places = np.flatnonzero((row >= 1) & (row <= symbols))
        first, second = places
        assert answer == (row[first] - 1) * symbols + row[second] - 1
        assert int(0.1 * length) <= first <= 0.2 * length
        assert int(0.5 * length) <= second <= 0.6 * length
        assert row[length - 1] == task.vocabulary_size - 1
        assert (row[: length - 1] < task.vocabulary_size - 1).all()


def test_temporal_order_floor_of_a_bag_is_reached_by_guessing_the_order():
    task = TemporalOrder(lengths=[16])
    batch, rng = sample(task, 20_000), np.random.default_rng(1)
    hits = 0
    for row, answer in zip(batch.ids_BT, batch.targets, strict=True):
        first, second = rng.permutation(row[(row >= 1) & (row <= task.symbols)] - 1)
        hits += answer == first * task.symbols + second
    assert_share(hits, 20_000, task.card().floors["bag of tokens"])


# Multi-query associative recall


@pytest.mark.parametrize("pairs", [1, 4, 16])
def test_mqar_is_solved_by_looking_values_up(pairs):
    task = MQAR(pairs=[pairs])
    batch = sample(task, 1_000)
    for row, length, targets in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True):
        keys, values = row[: 2 * pairs : 2], row[1 : 2 * pairs : 2]
        table = dict(zip(keys.tolist(), (values - 1 - task.keys).tolist(), strict=True))
        assert len(table) == pairs  # each key once
        assert (targets[: 2 * pairs] == UNSCORED).all()
        asked = row[2 * pairs : length].tolist()
        assert 0.75 * task.queries <= len(asked) <= task.queries
        assert [table[key] for key in asked] == targets[2 * pairs : length].tolist()


def test_mqar_floor_is_reached_by_answering_the_most_frequent_value():
    task = MQAR(pairs=[8])
    batch = sample(task, 20_000)
    values = batch.ids_BT[:, 1:16:2] - 1 - task.keys
    hits = 0
    for shown, targets in zip(values, batch.targets, strict=True):
        favourite = Counter(shown.tolist()).most_common(1)[0][0]
        first = targets[targets != UNSCORED][0]
        hits += first == favourite
    assert_share(hits, 20_000, task.card().floors["values without binding"])


@pytest.mark.parametrize(("draws", "boxes"), [(1, 5), (3, 2), (4, 3), (5, 4)])
def test_most_frequent_share_equals_counting_every_case(draws, boxes):
    cases = list(itertools.product(range(boxes), repeat=draws))
    counted = sum(max(Counter(case).values()) for case in cases) / (draws * len(cases))
    assert most_frequent_share(draws, boxes) == pytest.approx(counted, abs=1e-12)


def test_mqar_refuses_more_pairs_than_keys():
    with pytest.raises(UsageError, match=r"task.pairs=20: needs as many keys; raise task.keys \(now 16\)"):
        check(MQAR(pairs=[4, 20]), "task.")


# Fixed data


@pytest.fixture
def fixed() -> FixedData:
    from seqbench.batch import TokenRows

    rng = np.random.default_rng(0)

    def rows(count: int) -> TokenRows:
        lengths = rng.integers(1, 9, count)
        return TokenRows(
            rng.integers(1, 5, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]), np.arange(count)
        )

    return FixedData({"train": rows(50), "valid": rows(20), "test": rows(30)}, 5, 2, seed=0)


def test_fixed_data_reads_training_once_per_epoch_and_whole_splits(fixed):
    epoch = np.concatenate([batch.targets for batch in itertools.islice(fixed.train(8), 7)])
    assert sorted(epoch) == list(range(50)) == list(range(fixed.examples_per_epoch))
    assert sorted(np.concatenate([b.targets for b in fixed.held_out("test", 1)])) == list(range(30))
    probe = fixed.probe(16)
    assert len(set(probe.targets)) == 16
    assert probe.digest() == fixed.probe(16).digest()


def test_epochs_differ_and_seeds_differ(fixed):
    other = FixedData(fixed.splits, 5, 2, seed=1)
    epochs = [
        [batch.digest() for batch in itertools.islice(data.train(8), start, start + 7)]
        for data, start in ((fixed, 0), (fixed, 0), (fixed, 7), (other, 0))
    ]
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]
    assert epochs[0] != epochs[3]


def test_dataclass_defaults_pass_their_own_checks():
    for cls in plugins("task").values():
        if issubclass(cls, GeneratedTask):
            check(cls())
            assert dataclasses.is_dataclass(cls)
