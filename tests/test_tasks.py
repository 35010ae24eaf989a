"""Tasks are what their cards say: an oracle that reads the sample is always right, and floors are exact."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seqbench.batch import PADDING, UNSCORED, Batch
from seqbench.errors import UsageError
from seqbench.metric import ACCURACY
from seqbench.registry import plugins
from seqbench.schema import check
from seqbench.seeds import stream
from seqbench.tasks import __main__ as cards
from seqbench.tasks.base import EVAL_BATCH, FixedData, GeneratedTask, TaskConfig
from seqbench.tasks.mqar import MQAR
from seqbench.tasks.spell import Spell
from seqbench.tasks.temporal_order import TemporalOrder

GENERATED = {name: cls for name, cls in plugins("task").items() if issubclass(cls, GeneratedTask)}
NOWHERE = Path("/nonexistent")  # generated tasks cache nothing


def sample(task: GeneratedTask, examples: int, seed: int = 0) -> Batch:
    return task.sample(stream(seed, "train"), examples)


def assert_share(hits: int, trials: int, expected: float) -> None:
    """An observed share is within four standard errors of the exact one."""
    assert abs(hits / trials - expected) < 4 * np.sqrt(expected * (1 - expected) / trials)


# Every generated task

FIRST_RUNGS = {name: cls().rungs()[0] for name, cls in GENERATED.items()}
CLASSIFIERS = {name: task for name, task in FIRST_RUNGS.items() if task.card().metric == ACCURACY.name}


@pytest.fixture(params=FIRST_RUNGS.values(), ids=FIRST_RUNGS.keys())
def task(request: pytest.FixtureRequest) -> GeneratedTask:
    return request.param


@pytest.fixture(params=CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
def classifier(request: pytest.FixtureRequest) -> GeneratedTask:
    return request.param


def every_rung() -> Iterator[TaskConfig]:
    """Every variant of every task that draws its own data, at each of its rungs."""
    for cls in (*GENERATED.values(), Spell):
        for task, _ in cards.variants(cls):
            if task.ladder is not None:
                task = dataclasses.replace(task, **{task.ladder: getattr(cls(), task.ladder)})  # noqa: PLW2901
            yield from task.rungs()


@pytest.mark.parametrize("task", list(every_rung()), ids=lambda task: f"{task.card().id}-{task.rung()}")
def test_a_player_who_sees_the_inputs_alone_gives_every_answer(task):
    data = task.open(0, NOWHERE)
    batches = [next(data.train(200)), *data.held_out("test", 200), data.probe(20)]
    batches += [batch for _, found in data.slices(100) for batch in found]
    for batch in batches:
        answers = task.oracle(dataclasses.replace(batch, targets=None))
        assert answers.shape == batch.targets.shape
        scored = batch.targets != UNSCORED
        np.testing.assert_allclose(answers[scored], batch.targets[scored], rtol=0, atol=1e-5)


def test_ids_and_lengths_are_in_range_and_fill_it(task):
    batch = sample(task, 500).checked(task.vocabulary_size, task.classes, task.features)
    assert batch.lengths_B.max() == batch.ids_BT.shape[1]
    assert set(batch.ids_BT[batch.ids_BT != PADDING]) == set(range(1, task.vocabulary_size))
    assert batch.targets.ndim == (1 if task.card().answers == "many-to-one" else 2)
    if batch.targets.ndim == 2:
        assert not (batch.targets[batch.ids_BT == PADDING] != UNSCORED).any()


def test_every_class_is_asked_for(classifier):
    targets = sample(classifier, 500).targets
    assert set(targets[targets != UNSCORED]) == set(range(classifier.classes))


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
            batch.checked(task.vocabulary_size, task.classes, task.features)
        assert batches[0].digest() != others[value][0].digest()
    assert not values or max(values) > card.trained_to


def test_the_id_of_a_card_starts_with_the_name_of_the_task(task):
    assert task.card().id.startswith(task.name)


def test_floors_are_named_shares_lowest_first(classifier):
    floors = classifier.card().floors
    assert list(floors.values()) == sorted(floors.values())
    assert all(0 < floor < 1 for floor in floors.values())
    assert floors["chance"] == 1 / classifier.classes


def test_answering_one_class_reaches_the_chance_floor(classifier):
    targets = sample(classifier, 20_000).targets
    scored = targets[targets != UNSCORED]
    effective = 20_000  # answers of one sequence depend on each other
    floors = classifier.card().floors
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
    "temporal_order/ladder": "88a6d2ed63d40054b4b57f24d64f52edfa8cca3accf44581b469d5612cb1b12b",
    "temporal_order/ladder/3marked": "3d87ab39d6d9dfd9675c2027a7af5e98487a30f3373c15e2da3ad77f1e8cfde0",
    "temporal_order/2": "3d92833c07a035048af10b67d32c68c5ab0898f799f0cea5f991b34774f68cd2",
    "temporal_order/3": "494905237877ff58d33111d3d628450648e79521062248438f02d9ab79b70a11",
    "mqar/8pairs": "ead5c55c678bc2f75a70c8b9d383e69bb5697d1917035bf957c0a3399bf2f40a",
}
PINNED = {task.card().id: task for cls in (TemporalOrder, MQAR) for task, _ in cards.variants(cls)}


@pytest.mark.parametrize("task", PINNED.values(), ids=PINNED.keys())
def test_the_first_batch_of_seed_0_is_pinned(task):
    assert next(task.open(0, NOWHERE).train(32)).digest() == FIRST_BATCHES[task.card().id]


# Temporal order

LADDER = {"2": ((0.1, 0.2), (0.5, 0.6)), "3": ((0.1, 0.2), (0.33, 0.43), (0.66, 0.76))}
CLASSIC = {"2": ((10, 20), (50, 60)), "3": ((10, 20), (33, 43), (66, 76))}  # of T=100
ORDERS = [
    TemporalOrder(variant=variant, marked=marked, symbols=symbols)
    for variant, marked, symbols in (
        ("ladder", "2", 3),
        ("ladder", "2", 2),
        ("ladder", "3", 3),
        ("ladder", "3", 2),
        ("classic", "2", None),
        ("classic", "3", None),
    )
]


def order(task: TemporalOrder) -> str:
    return f"{task.variant}-{task.marked}-{task.symbols}"


def marked(task: TemporalOrder, batch: Batch) -> np.ndarray:
    """Positions of the marked symbols, ``(B, M)``."""
    ids_BT = batch.ids_BT
    return np.nonzero((ids_BT >= 1) & (ids_BT <= task.symbols))[1].reshape(-1, int(task.marked))


@pytest.mark.parametrize("longest", [9, 16, 128])
@pytest.mark.parametrize("task", [task for task in ORDERS if task.variant == "ladder"], ids=order)
def test_marked_symbols_stand_in_shares_of_the_sequence(task, longest):
    task = dataclasses.replace(task, lengths=[longest])
    check(task, "task.")
    batch = sample(task, 3_000)
    assert set(batch.lengths_B) == set(range(math.ceil(0.75 * longest), longest + 1))
    for place_B, (start, end) in zip(marked(task, batch).T, LADDER[task.marked], strict=True):
        assert (np.floor(start * batch.lengths_B) <= place_B).all()
        assert (place_B <= end * batch.lengths_B).all()
    assert np.array_equal(task.oracle(batch), batch.targets)
    at_the_end = batch.ids_BT[np.arange(3_000), batch.lengths_B - 1]
    assert (at_the_end == task.vocabulary_size - 1).all()
    assert (batch.ids_BT == task.vocabulary_size - 1).sum() == 3_000


@pytest.mark.parametrize("task", [task for task in ORDERS if task.variant == "classic"], ids=order)
@pytest.mark.parametrize("longest", [10, 100, 200])
def test_the_classic_task_is_that_of_the_paper(task, longest):
    task = dataclasses.replace(task, lengths=[longest])
    check(task, "task.")
    assert (task.classes, task.vocabulary_size) == (2 ** int(task.marked), 1 + 2 + 4 + 2)
    batch = sample(task, 4_000)
    assert set(batch.lengths_B) == set(range(longest, int(1.1 * longest) + 1))
    for place_B, (start, end) in zip(marked(task, batch).T, CLASSIC[task.marked], strict=True):
        assert set(place_B) == set(range(start * longest // 100, end * longest // 100 + 1))
    assert np.array_equal(task.oracle(batch), batch.targets)
    start, trigger = 7, 8
    ends = batch.ids_BT[np.arange(4_000), batch.lengths_B - 1]
    assert (batch.ids_BT[:, 0] == start).all()
    assert (ends == trigger).all()
    assert (batch.ids_BT >= start).sum() == 2 * 4_000


@pytest.mark.parametrize("task", ORDERS, ids=order)
def test_temporal_order_floor_of_a_bag_equals_counting_every_order(task):
    orders = list(itertools.product(range(task.symbols), repeat=int(task.marked)))
    assert task.card().floors["chance"] == 1 / len(orders)
    bags = Counter(tuple(sorted(symbols)) for symbols in orders)  # one order of each is a right guess
    assert task.card().floors["bag of tokens"] == pytest.approx(len(bags) / len(orders))


@pytest.mark.parametrize("task", ORDERS, ids=order)
def test_temporal_order_floor_of_a_bag_is_reached_by_guessing_the_order(task):
    task = dataclasses.replace(task, lengths=[16])
    batch, rng = sample(task, 20_000), np.random.default_rng(1)
    shown = np.take_along_axis(batch.ids_BT, marked(task, batch), axis=1) - 1
    guess = rng.permuted(shown, axis=1) @ task.symbols ** np.arange(int(task.marked))[::-1]
    assert_share((guess == batch.targets).sum(), 20_000, task.card().floors["bag of tokens"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            TemporalOrder(marked="3", lengths=[8, 16]),
            "task.lengths=8: too short for task.variant=ladder task.marked=3: must be at least 9",
        ),
        (
            TemporalOrder(variant="classic", lengths=[9]),
            "task.lengths=9: too short for task.variant=classic task.marked=2: must be at least 10",
        ),
        (
            TemporalOrder(variant="classic", symbols=3),
            "task.symbols=3: task.variant=classic has 2; leave it out, or take task.variant=ladder",
        ),
        (
            TemporalOrder(variant="classic", distractors=6),
            "task.distractors=6: task.variant=classic has 4; leave it out, or take task.variant=ladder",
        ),
        (
            TemporalOrder(marked="3", symbols=14),
            "task.symbols=14: task.marked=3 makes 2,744 classes of them; must be at most 13",
        ),
        (TemporalOrder(marked="4"), "task.marked=4: not allowed; choices: 2, 3"),
        (TemporalOrder(variant="clasic"), "task.variant=clasic: not allowed; did you mean 'classic'?"),
    ],
)
def test_orders_that_cannot_work_are_refused_in_one_line(task, message):
    with pytest.raises(UsageError) as refused:
        check(task, "task.")
    assert str(refused.value).startswith(message)


# Multi-query associative recall


@pytest.mark.parametrize("pairs", [1, 4, 16])
def test_mqar_shows_each_key_once_and_asks_for_keys_shown(pairs):
    task = MQAR(pairs=[pairs])
    batch = sample(task, 1_000)
    assert np.array_equal(
        task.oracle(batch)[batch.targets != UNSCORED], batch.targets[batch.targets != UNSCORED]
    )
    for row, length, targets in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True):
        keys, values = row[: 2 * pairs : 2], row[1 : 2 * pairs : 2]
        assert len(set(keys)) == pairs
        assert keys.max() <= task.keys < values.min()
        asked = row[2 * pairs : length]
        assert set(asked) <= set(keys)
        assert 0.75 * task.queries <= len(asked) <= task.queries
        assert np.array_equal(np.flatnonzero(targets != UNSCORED), np.arange(2 * pairs, length))


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
