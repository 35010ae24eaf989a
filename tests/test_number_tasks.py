"""Tasks whose inputs or answers are numbers, and the way of numbers through batch, network and scores."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import sys
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HIDDEN, VARIANTS
from scipy import stats
from torch import nn
from torch.nn import functional as F

from seqbench import cli
from seqbench.batch import Batch, ValueRows, trim, widen
from seqbench.config import NetworkConfig, TrainConfig
from seqbench.contract import ContractBroken, check_contract
from seqbench.errors import UsageError
from seqbench.evaluate import evaluate
from seqbench.layers.base import Encoder
from seqbench.match import matched_parameters
from seqbench.models.base import ModelConfig
from seqbench.network import Network, answer_loss, parameter_count
from seqbench.probes.base import input_gradients
from seqbench.registry import lookup
from seqbench.schema import check
from seqbench.seeds import stream
from seqbench.stepper import Stepper
from seqbench.tasks.adding import Adding
from seqbench.tasks.digits import Digits

NOWHERE = Path("/nonexistent")  # generated tasks cache nothing
UNLIKELY = 1e-4  # of a test of chance; every seed is fixed, so it fails always or never


def sample(task: Adding, examples: int, seed: int = 0) -> Batch:
    return task.sample(stream(seed, "train"), examples)


# Adding


def adding(variant: str, time: int) -> Adding:
    return Adding(variant=variant, lengths=[time])


def values_of(batch: Batch) -> np.ndarray:
    return batch.values_BTF[..., 0]


def markers_of(batch: Batch) -> np.ndarray:
    return batch.values_BTF[..., 1]


def marked(batch: Batch) -> np.ndarray:
    """The two steps that are marked by 1, the earlier one first, ``(B, 2)``."""
    return np.argwhere(markers_of(batch) == 1)[:, 1].reshape(-1, 2)


def chances(variant: str, time: int) -> dict[tuple[int, int], Fraction]:
    """How likely each two steps are to be marked, as drawn one after the other, straight from the papers."""
    found: Counter[tuple[int, int]] = Counter()
    for first in {"arjovsky": range(time // 2), "tcn": range(time), "hochreiter": range(10)}[variant]:
        rest = [step for step in range(time) if step != first]
        seconds = {
            "arjovsky": range(time // 2, time), "tcn": rest, "hochreiter": rest[: time // 2 - 1],
        }[variant]  # fmt: skip
        firsts = {"arjovsky": time // 2, "tcn": time, "hochreiter": 10}[variant]
        for second in seconds:
            found[first, second] += Fraction(1, firsts * len(seconds))
    assert sum(found.values()) == 1
    return found


@pytest.mark.parametrize(
    ("variant", "time"),
    [("arjovsky", 8), ("arjovsky", 9), ("tcn", 6), ("tcn", 7), ("hochreiter", 20), ("hochreiter", 25)],
)
def test_markers_stand_where_the_definition_says_and_are_equally_likely_there(variant, time):
    batch = sample(adding(variant, time), 20_000)
    seen = Counter(map(tuple, marked(batch).tolist()))
    expected: Counter[tuple[int, int]] = Counter()
    for pair, chance in chances(variant, time).items():
        expected[tuple(sorted(pair))] += chance
    assert set(seen) == set(expected)
    pairs = sorted(expected)
    counts, shares = [seen[pair] for pair in pairs], [float(20_000 * expected[pair]) for pair in pairs]
    assert stats.chisquare(counts, shares).pvalue > UNLIKELY


@pytest.mark.parametrize("variant", ["arjovsky", "tcn"])
def test_unit_values_and_markers_are_all_there_is(variant):
    batch = sample(adding(variant, 50), 2_000)
    assert batch.values_BTF.shape == (2_000, 50, 2)
    assert (batch.lengths_B == 50).all()
    assert (batch.ids_BT == 1).all()
    assert set(markers_of(batch).ravel()) == {0, 1}
    assert 0 <= values_of(batch).min() < 1e-3
    assert 1 - 1e-3 < values_of(batch).max() < 1
    assert stats.kstest(values_of(batch).ravel(), "uniform").pvalue > UNLIKELY


@pytest.mark.parametrize("time", [20, 50])
def test_the_variant_of_1997_has_random_lengths_and_marks_its_ends(time):
    batch = sample(adding("hochreiter", time), 5_000)
    lengths, counts = np.unique(batch.lengths_B, return_counts=True)
    assert lengths.tolist() == list(range(time, time + time // 10 + 1))
    assert stats.chisquare(counts).pvalue > UNLIKELY
    steps = np.arange(batch.ids_BT.shape[1])
    zeroed = 0
    for values, markers, ids, length in zip(
        values_of(batch), markers_of(batch), batch.ids_BT, batch.lengths_B, strict=True
    ):
        assert (ids == (steps < length)).all()
        assert not values[length:].any()
        assert not markers[length:].any()
        assert markers[length - 1] == -1
        assert set(markers[1 : length - 1]) == {0, 1}
        assert markers[0] == (1 if values[0] == 0 else -1)
        assert np.count_nonzero(values[:length]) == length - (values[0] == 0)
        zeroed += values[0] == 0
    first = 1 / 10 + 9 / 10 / (time // 2 - 1)
    assert abs(zeroed - 5_000 * first) < 4 * math.sqrt(5_000 * first * (1 - first))
    drawn = values_of(batch)[(batch.ids_BT == 1) & (values_of(batch) != 0)]
    assert stats.kstest(drawn, stats.uniform(-1, 2).cdf).pvalue > UNLIKELY


@pytest.mark.parametrize(
    ("variant", "scale", "shift"), [("arjovsky", 1, 0), ("tcn", 1, 0), ("hochreiter", 0.25, 0.5)]
)
def test_the_target_is_the_scaled_sum_of_the_two_marked_values(variant, scale, shift):
    batch = sample(adding(variant, 30), 300)
    assert batch.targets.dtype == np.float64
    for values, places, target in zip(values_of(batch), marked(batch), batch.targets, strict=True):
        one, other = (float(values[place]) for place in places)
        assert target == pytest.approx(shift + scale * (one + other), abs=1e-12)
    assert (batch.targets >= 0).all()
    assert (batch.targets <= (1 if variant == "hochreiter" else 2)).all()


def test_the_worked_example_of_the_docstring():
    values = np.array([[[0.3, 0], [0.8, 1], [0.1, 0], [0.5, 0], [0.9, 1], [0.2, 0]]], np.float32)
    batch = Batch(np.ones((1, 6), np.int64), np.array([6]), None, values)
    assert Adding().oracle(batch) == pytest.approx(1.7)
    assert Adding(variant="hochreiter").oracle(batch) == pytest.approx(0.5 + 1.7 / 4)


def exact_floors(variant: str, time: int) -> tuple[float, float]:
    """Both floors from the chance of every pair, in fractions.

    Who does not see the markers answers with what is expected of the marked values, given that a first value
    of 0 betrays its marker: each value times its chance to be marked.
    """
    zeroing, unit = variant == "hochreiter", Fraction(1, 48 if variant == "hochreiter" else 12)
    variance = unmarked = Fraction(0)
    for betrayed in (False, True):
        some = {pair: p for pair, p in chances(variant, time).items() if (zeroing and 0 in pair) == betrayed}
        whole = sum(some.values())
        weights: Counter[int] = Counter()
        for pair, chance in some.items():
            for step in pair:
                weights[step] += Fraction(0) if zeroing and step == 0 else chance / whole
        variance += whole * sum(weights.values()) * unit
        unmarked += whole * (sum(weights.values()) - sum(w * w for w in weights.values())) * unit
    return float(variance), float(unmarked)


@pytest.mark.parametrize("time", [20, 21, 24, 50, 75])
@pytest.mark.parametrize("variant", ["arjovsky", "tcn", "hochreiter"])
def test_floors_equal_the_sum_over_every_pair_of_markers(variant, time):
    floors = adding(variant, time).card().floors
    assert list(floors) == ["always the mean", "values without markers"]
    assert tuple(floors.values()) == pytest.approx(exact_floors(variant, time), rel=1e-12)
    assert (floors["always the mean"] == 1 / 6) == (variant != "hochreiter")


def test_the_floor_of_1997_tends_to_one_in_24_less_a_tenth_of_a_half():
    """The tenth of the sequences whose first step is marked have one value only."""
    far = adding("hochreiter", 10**9).card().floors["always the mean"]
    assert far == pytest.approx(1 / 24 * (1 - 0.1 / 2), rel=1e-6)


@pytest.mark.parametrize(("variant", "time"), [("arjovsky", 9), ("tcn", 8), ("hochreiter", 20)])
def test_floors_are_what_such_players_score(variant, time):
    task = adding(variant, time)
    batch, examples = sample(task, 60_000), 60_000
    errors = (batch.targets - (0.5 if variant == "hochreiter" else 1.0)) ** 2
    floors = task.card().floors
    assert abs(errors.mean() - floors["always the mean"]) < 4 * errors.std() / math.sqrt(examples)
    values, betrayed = values_of(batch)[:, :time].astype(np.float64), values_of(batch)[:, 0] == 0
    left = 0.0
    for group in (betrayed, ~betrayed):
        if group.any():  # the best weights, fitted by least squares
            inputs = np.column_stack([values[group], np.ones(group.sum())])
            weights = np.linalg.lstsq(inputs, batch.targets[group], rcond=None)[0]
            left += ((inputs @ weights - batch.targets[group]) ** 2).sum()
    assert left / examples == pytest.approx(floors["values without markers"], rel=0.02)
    assert floors["values without markers"] < 0.9 * errors.mean()


ADDING_FIRST_BATCHES = {
    "arjovsky": "e6771a7c4f8b8db2b8da20caa63a447b93320b38e8f996941bf04032773c6a01",
    "tcn": "7a67218d0b47ae9ece19e5f6908265742c0381320aa160842ec41b65a1568c90",
    "hochreiter": "b0713ad032ad3992de0c96ba9d6e53434306ebe2389adce2ca8c2480cd57d64c",
}


@pytest.mark.parametrize("variant", ADDING_FIRST_BATCHES)
def test_the_first_batch_of_adding_is_pinned(variant):
    assert next(Adding(variant=variant).open(0, NOWHERE).train(32)).digest() == ADDING_FIRST_BATCHES[variant]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            Adding(variant="arjowsky"),
            "task.variant=arjowsky: not allowed; did you mean 'arjovsky'? choices: arjovsky, hochreiter, tcn",
        ),
        (Adding(lengths=[50, 3]), "task.lengths=3: must be at least 4"),
        (
            adding("hochreiter", 19),
            "task.lengths=[19]: variant hochreiter marks one of the first 10 steps, and they lie in the "
            "first half: use 20 or more",
        ),
        (Adding(solved_at=-0.1), "task.solved_at=-0.1: must be at least 0"),
        (Adding(solved_at=1.5), "task.solved_at=1.5: must be at most 1"),
    ],
)  # fmt: skip
def test_adding_that_cannot_work_is_refused_in_one_line(task, message):
    with pytest.raises(UsageError) as refused:
        check(task, "task.")
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "task", [adding("arjovsky", 4), adding("tcn", 4), adding("hochreiter", 20)], ids=lambda task: task.variant
)
def test_the_shortest_lengths_work(task):
    check(task, "task.")
    batch = sample(task, 200).checked(2, 1, 2)
    np.testing.assert_allclose(task.oracle(batch), batch.targets, atol=1e-6)


# Digits


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the images."""
    folder = tmp_path_factory.mktemp("digits")
    Digits().prepare(folder)
    return folder


@pytest.fixture(scope="module")
def raw() -> tuple[np.ndarray, np.ndarray]:
    """The images as the library gives them."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def gathered(task: Digits, cache: Path, part: str, seed: int = 0) -> Batch:
    """A whole part in one batch."""
    rows = task.open(seed, cache).splits[part]
    return rows.take(np.arange(len(rows)))


def images(batch: Batch) -> np.ndarray:
    """``(N, 64)`` brightnesses as in the library."""
    return batch.values_BTF.reshape(len(batch.targets), 64) * 16


def test_the_parts_hold_every_image_once_with_its_class(kept, raw):
    parts = {part: gathered(Digits(), kept, part) for part in ("train", "valid", "test")}
    seen = [
        (image.tobytes(), int(target))
        for batch in parts.values()
        for image, target in zip(images(batch).astype(np.float64), batch.targets, strict=True)
    ]
    assert len(seen) == len(set(seen)) == 1_797
    assert set(seen) == {(image.tobytes(), int(target)) for image, target in zip(*raw, strict=True)}
    for digit, count in enumerate(np.bincount(raw[1])):  # the same mix in each part
        shares = {part: int((batch.targets == digit).sum()) for part, batch in parts.items()}
        assert shares["test"] == round(0.2 * count)
        assert shares["valid"] == round(0.1 * (count - shares["test"]))


def test_seeds_and_variants_share_the_parts_and_seeds_differ_in_order(kept):
    def held_out(task: Digits, seed: int) -> list[str]:
        data = task.open(seed, kept)
        return [batch.digest() for part in ("valid", "test") for batch in data.held_out(part, 1)]

    def epoch(seed: int) -> list[tuple[bytes, int]]:
        data = Digits().open(seed, kept)
        batches = itertools.islice(data.train(32), math.ceil(data.examples_per_epoch / 32))
        return [
            (values.tobytes(), int(target))
            for batch in batches
            for values, target in zip(batch.values_BTF, batch.targets, strict=True)
        ]

    assert held_out(Digits(), 0) == held_out(Digits(), 7)
    first, other = epoch(0), epoch(7)
    assert first != other
    assert sorted(first) == sorted(other)
    assert first == epoch(0)
    for variant in ("permuted", "row"):
        for part in ("train", "valid", "test"):
            varied = gathered(Digits(variant=variant), kept, part)
            assert np.array_equal(varied.targets, gathered(Digits(), kept, part).targets)


def test_rows_are_the_pixels_eight_at_a_time(kept):
    pixels, rows = (gathered(Digits(variant=variant), kept, "test") for variant in ("pixel", "row"))
    assert (pixels.values_BTF.shape[1:], rows.values_BTF.shape[1:]) == ((64, 1), (8, 8))
    assert np.array_equal(pixels.values_BTF[:, 8:16, 0], rows.values_BTF[:, 1])
    assert np.array_equal(images(pixels), images(rows))
    assert set(np.unique(images(pixels))) == set(range(17))


def test_the_permutation_is_fixed_and_loses_no_pixel(kept):
    task = Digits(variant="permuted")
    order = task._read(np.arange(64.0)[None]).ravel().astype(int)
    assert sorted(order) == list(range(64))
    assert order[:8].tolist() == [26, 46, 17, 39, 13, 2, 33, 31]  # a new one would be another task
    for seed in (0, 7):
        permuted = gathered(task, kept, "test", seed)
        assert permuted.values_BTF.shape[1:] == (64, 1)
        assert np.array_equal(images(permuted), images(gathered(Digits(), kept, "test"))[:, order])


def test_the_example_of_the_docstring_is_the_first_image(raw):
    task = Digits(variant="row")
    row = task._read(raw[0][:1] / 16)[0, 0]
    assert raw[1][0] == 0
    assert row.round(2).tolist() == [0, 0, 0.31, 0.81, 0.56, 0.06, 0, 0]


@pytest.mark.parametrize("variant", ["pixel", "permuted", "row"])
def test_digits_are_batches_that_pass_every_check(kept, variant):
    task = Digits(variant=variant)
    check(task, "task.")
    data = task.open(0, kept)
    assert (data.vocabulary_size, data.classes, data.features) == (2, 10, task.features)
    for batch in [next(data.train(32)), *data.held_out("test", 1), data.probe(16)]:
        batch.checked(data.vocabulary_size, data.classes, data.features)
        assert (batch.ids_BT == 1).all()


def test_digits_say_how_many_images_there_are_and_what_the_majority_scores(kept):
    data = Digits().open(0, kept)
    test = gathered(Digits(), kept, "test")
    assert data.floors == {"majority class": Counter(test.targets.tolist()).most_common(1)[0][1] / 359}
    assert data.notes == {
        "images in the train part": 1_295, "images in the valid part": 143, "images in the test part": 359,
    }  # fmt: skip
    assert data.examples_per_epoch == 1_295
    assert Digits().card().floors == {"chance": 0.1}


DIGITS_FIRST_BATCHES = {
    "pixel": "fea71c3bc3ea44825c63dd368df8cbcb74151fa15802444a6c7ae1e0ca6ddd85",
    "permuted": "2c7e240a50d369b75ab476757d985c875873dc8f1e4a76ef003e61ebc66ade3b",
    "row": "fd17f195788bedf16cae1fddf0fd0117b7cb8c0e1f56196a60c42191589c915e",
}


@pytest.mark.parametrize("variant", DIGITS_FIRST_BATCHES)
def test_the_first_batch_of_digits_is_pinned(kept, variant):
    batch = next(Digits(variant=variant).open(0, kept).train(32))
    assert batch.digest() == DIGITS_FIRST_BATCHES[variant]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda _: b"", lambda _: b"text"], ids=["cut", "flipped", "empty", "text"]
)
def test_a_damaged_cache_of_digits_is_built_again(tmp_path, damage):
    first = next(Digits().open(0, tmp_path).train(32)).digest()
    [file] = (tmp_path / "digits").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert next(Digits().open(0, tmp_path).train(32)).digest() == first
    assert file.read_bytes() == whole


def test_a_sound_cache_is_read_without_the_library_and_left_alone(tmp_path, monkeypatch):
    Digits().prepare(tmp_path)
    [file] = (tmp_path / "digits").iterdir()
    before = file.stat()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # importing it now raises
    Digits().prepare(tmp_path)
    assert Digits(variant="row").open(0, tmp_path).features == 8
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_version_of_the_library_names_the_cache_and_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("seqbench.tasks.digits.version", lambda name: f"{name}-of-tomorrow")
    assert Digits().fingerprint() == ["scikit-learn scikit-learn-of-tomorrow"]
    Digits().prepare(tmp_path)
    [file] = (tmp_path / "digits").iterdir()
    assert file.name == "scikit-learn-scikit-learn-of-tomorrow.npz"


def test_digits_read_in_an_unknown_way_are_refused():
    with pytest.raises(UsageError) as refused:
        check(Digits(variant="rows"), "task.")
    expected = "task.variant=rows: not allowed; did you mean 'row'? choices: permuted, pixel, row"
    assert str(refused.value) == expected


# Batches of numbers

GOOD = {
    "ids_BT": np.array([[1, 1, 1], [1, 1, 0]]),
    "lengths_B": np.array([3, 2]),
    "targets": np.array([0.5, -1.0]),
    "values_BTF": np.array([[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [0, 0]]], np.float32),
}  # fmt: skip


def with_value(value: float, place: tuple[int, int, int] = (0, 1, 1)) -> np.ndarray:
    values = GOOD["values_BTF"].copy()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("change", "sizes", "reason"),
    [
        ({"lengths_B": np.array([3])}, {}, "(1,) lengths for 2 sequences"),
        ({"targets": np.array([0.5, -1.0], np.float32)}, {}, "a number to predict is not float64"),
        ({"targets": np.array([[0.5], [-1.0]])}, {}, "targets have the shape (2, 1) for ids (2, 3)"),
        ({"targets": np.array([0.5])}, {}, "targets have the shape (1,) for ids (2, 3)"),
        ({"targets": np.array([0] * 5)}, {}, "targets have the shape (5,) for ids (2, 3)"),
        ({"targets": np.zeros((2, 7), np.int64)}, {}, "targets have the shape (2, 7) for ids (2, 3)"),
        (
            {"values_BTF": GOOD["values_BTF"][:, :2]},
            {},
            "values have the shape (2, 2, 2), expected (2, 3, 2)",
        ),
        ({"targets": np.array([0.5, np.nan])}, {}, "a number to predict is not finite"),
        ({"targets": np.array([np.inf, 0.5])}, {}, "a number to predict is not finite"),
        ({}, {"classes": 2}, "numbers are to be predicted, so the task has one output: classes = 1"),
        ({"targets": np.array([True, False])}, {"classes": 2}, "an array is not int64"),
        ({"values_BTF": None}, {}, "no values, but 2 features were announced"),
        ({}, {"features": 3}, "values have the shape (2, 3, 2), expected (2, 3, 3)"),
        ({}, {"features": 0}, "values have the shape (2, 3, 2), expected (2, 3, 0)"),
        (
            {"values_BTF": GOOD["values_BTF"][..., 0]},
            {"features": 1},
            "values have the shape (2, 3), expected (2, 3, 1)",
        ),
        ({"values_BTF": GOOD["values_BTF"].astype(np.float64)}, {}, "values are not float32"),
        ({"values_BTF": GOOD["values_BTF"].astype(np.int64)}, {}, "values are not float32"),
        ({"values_BTF": with_value(np.nan)}, {}, "a value is not finite"),
        ({"values_BTF": with_value(-np.inf)}, {}, "a value is not finite"),
        ({"values_BTF": with_value(1e-30, (1, 2, 0))}, {}, "a value at padding is not 0"),
    ],
)  # fmt: skip
def test_a_bad_batch_of_numbers_is_named(change, sizes, reason):
    whole = {"vocabulary_size": 2, "classes": 1, "features": 2}
    good = Batch(**GOOD)
    assert good.checked(**whole) is good
    with pytest.raises(UsageError) as refused:
        Batch(**{**GOOD, **change}).checked(**{**whole, **sizes})
    assert str(refused.value) == f"the task gave a bad batch: {reason}"


def test_numbers_keep_their_place_when_a_batch_is_cut_or_widened():
    batch = Batch(**GOOD)
    wide = widen(batch, 2)
    assert wide.values_BTF.shape == (2, 5, 2)
    assert not wide.values_BTF[:, 3:].any()
    assert wide.checked(2, 1, 2)
    assert trim(wide).digest() == batch.digest()
    head = wide.rows(0, 1)
    assert np.array_equal(head.values_BTF, wide.values_BTF[:1])
    assert head.targets.tolist() == [0.5]
    tensors = batch.tensors()
    assert np.array_equal(tensors.values_BTF.numpy(), batch.values_BTF)
    assert (tensors.values_BTF.dtype, tensors.targets.dtype) == (torch.float32, torch.float64)


def test_the_digest_changes_with_a_value_and_with_a_target():
    changed = [
        Batch(**GOOD),
        Batch(**{**GOOD, "values_BTF": with_value(0.25)}),
        Batch(**{**GOOD, "targets": np.array([0.5, -1.5])}),
        Batch(**{**GOOD, "values_BTF": None}),
    ]
    assert len({batch.digest() for batch in changed}) == 4


def test_rows_of_values_are_gathered_with_their_answers():
    values = np.random.default_rng(0).random((5, 4, 3), dtype=np.float32)
    batch = ValueRows(values, np.arange(5) % 2).take(np.array([3, 0]))
    assert np.array_equal(batch.values_BTF, values[[3, 0]])
    assert batch.targets.tolist() == [1, 0]
    assert batch.checked(2, 2, 3).valid_tokens == 8


# Numbers through the network

FEATURES, ROWS = 3, 4
LENGTHS = np.array([5, 9, 1, 3])


def numbers(classes: int = 1, seed: int = 0) -> Batch:
    """Random features of sequences of different lengths; numbers to predict where there is one class."""
    rng = np.random.default_rng(seed)
    valid_BT = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    values_BTF = rng.normal(size=(*valid_BT.shape, FEATURES)).astype(np.float32) * valid_BT[..., None]
    targets = rng.normal(size=ROWS) if classes == 1 else rng.integers(0, classes, ROWS)
    return Batch(valid_BT.astype(np.int64), LENGTHS, targets, values_BTF).checked(2, classes, FEATURES)


def network_of(model: ModelConfig, classes: int = 1, readout: str = "last", **options) -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(embedding_width=6, readout=readout, **options)
    return Network(model, config, 2, classes, HIDDEN, FEATURES)


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
def test_values_at_padding_change_neither_answer_nor_gradient(model, readout):
    batch = numbers().tensors()
    garbage = torch.where(batch.mask_BT.unsqueeze(2), batch.values_BTF, torch.tensor(1e6))
    assert not garbage.equal(batch.values_BTF)
    found = []
    for one in (batch, dataclasses.replace(batch, values_BTF=garbage)):
        network = network_of(model, readout=readout)
        answers, targets = network(one)
        answer_loss(answers, targets).backward()
        found.append([answers, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 2
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


def test_values_embed_by_one_linear_map_and_padding_to_zero():
    network, batch = network_of(lookup("model", "rnn")()), numbers().tensors()
    x_BTD, linear = network.embed(batch), network.embedding
    assert torch.count_nonzero(x_BTD[~batch.mask_BT]) == 0
    expected = batch.values_BTF[batch.mask_BT] @ linear.weight.T + linear.bias
    torch.testing.assert_close(x_BTD[batch.mask_BT], expected)
    assert linear.bias.abs().min() > 0  # so that padding would show
    assert parameter_count(linear) == 6 * FEATURES + 6
    assert matched_parameters(network) == parameter_count(network) - parameter_count(linear)


def test_the_loss_of_numbers_is_the_squared_error_of_torch(model):
    network, batch = network_of(model), numbers().tensors()
    outputs, targets = network(batch)
    assert outputs.shape == (ROWS, 1)
    expected = F.mse_loss(outputs[:, 0], batch.targets.float())
    torch.testing.assert_close(answer_loss(outputs, targets), expected)
    pairs = zip(outputs[:, 0].tolist(), batch.targets.tolist(), strict=True)
    by_hand = sum((output - target) ** 2 for output, target in pairs)
    assert answer_loss(outputs, targets, reduction="sum").item() == pytest.approx(by_hand, rel=1e-5)


def test_a_step_on_numbers_equals_the_textbook_loop():
    config, batch = TrainConfig(lr=1e-2, clip=0.5), numbers().tensors()
    network = network_of(lookup("model", "gru")())
    reference = copy.deepcopy(network)
    stepper = Stepper(network, dataclasses.replace(config, warmup=0.0, schedule="constant"), steps=20)
    for _ in range(20):
        stepper.step(batch)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=config.lr, weight_decay=0.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.mse_loss(reference(batch)[0][:, 0], batch.targets.float())
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
    assert stepper.drain()[0]["loss"] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]


def test_numbers_are_scored_by_the_mean_squared_error_over_all_and_no_accuracy():
    network = network_of(lookup("model", "lstm")(), dropout=0.5).train()
    whole = numbers()
    parts = [
        whole.rows(0, 3),
        Batch(*(a[3:] for a in (whole.ids_BT, whole.lengths_B, whole.targets, whole.values_BTF))),
    ]
    score = evaluate(network, [part.tensors() for part in parts])
    assert network.training
    network.eval()
    with torch.no_grad():
        outputs = network(whole.tensors())[0][:, 0].double().numpy()
    assert score.loss == pytest.approx(((outputs - whole.targets) ** 2).mean(), rel=1e-5)
    assert math.isnan(score.accuracy)
    assert score.answers == ROWS


def test_classes_of_real_inputs_are_scored_by_cross_entropy_and_accuracy():
    network, batch = network_of(lookup("model", "lstm")(), classes=4).eval(), numbers(classes=4)
    score = evaluate(network, [batch.tensors()])
    with torch.no_grad():
        logits = network(batch.tensors())[0]
    assert score.accuracy == (logits.argmax(1).numpy() == batch.targets).mean()
    expected = F.cross_entropy(logits, torch.from_numpy(batch.targets)).item()
    assert score.loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("classes", [1, 4], ids=["numbers", "classes"])
def test_the_probe_on_real_inputs_equals_autograd_on_each_sequence_alone(model, classes):
    network, batch = network_of(model, classes), numbers(classes)
    norms, anchors = input_gradients(network, batch)
    assert anchors.tolist() == (LENGTHS - 1).tolist()
    reference = network_of(model, classes).double().eval()
    for row, length in enumerate(LENGTHS):
        alone = trim(
            Batch(*(a[row : row + 1] for a in (batch.ids_BT, LENGTHS, batch.targets, batch.values_BTF)))
        )
        tensors = alone.tensors()
        x_BTD = reference.embed(tensors).detach().requires_grad_()
        output, target = reference.answer(x_BTD, tensors)[0][0], tensors.targets[0]
        loss = (output[0] - target) ** 2 if classes == 1 else -output.log_softmax(0)[target]
        gradient = torch.autograd.grad(loss, x_BTD, allow_unused=True)[0]
        expected = np.zeros(length) if gradient is None else gradient[0].norm(dim=1).numpy()
        np.testing.assert_allclose(norms[row, :length], expected, rtol=1e-6, atol=1e-18)
        assert not norms[row, length:].any()
    assert norms.any() == (model.name != "constant")


# The contract on real inputs


class Cheat(Encoder):
    """Adds to every output the mean of all steps, padding too, or only of the valid ones, later ones too."""

    def __init__(self, width_in: int, hidden: int, padding: bool) -> None:
        super().__init__()
        self.width_out, self.padding, self.causal = hidden, padding, not padding
        self.enter = nn.Linear(width_in, hidden)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        y_BTH = self.enter(x_BTD)
        if self.padding:
            return y_BTH + y_BTH.mean(1, keepdim=True), None
        valid_BT1 = mask_BT.unsqueeze(2)
        return y_BTH + (y_BTH * valid_BT1).sum(1, keepdim=True) / valid_BT1.sum(1, keepdim=True), None


@dataclass
class CheatConfig(ModelConfig):
    name: str = "cheat"
    padding: bool = True

    def build(self, width_in: int, hidden: int) -> Encoder:
        return Cheat(width_in, hidden, self.padding)


@pytest.mark.parametrize(
    ("padding", "words"),
    [(True, "a padded row to equal the same row alone"), (False, "when only later inputs change")],
)
@pytest.mark.parametrize("batch", [numbers(), sample(adding("arjovsky", 8), 4)], ids=["ragged", "one length"])
def test_a_cheat_is_caught_on_real_inputs(padding, words, batch):
    torch.manual_seed(0)
    model, features = CheatConfig(padding=padding), batch.values_BTF.shape[2]
    with pytest.raises(ContractBroken, match=words):
        check_contract(Network(model, NetworkConfig(), 2, 1, HIDDEN, features), batch)


@pytest.mark.parametrize("label", VARIANTS)
def test_every_model_of_ours_keeps_the_contract_on_real_inputs(label):
    check_contract(network_of(VARIANTS[label]), numbers())


# Composition, oracle and record


@pytest.fixture
def compose(monkeypatch, tmp_path):
    """Compose in this process, without a server that imports torch and without waiting for other sweeps."""
    monkeypatch.setattr(sys, "argv", ["seqbench"])
    monkeypatch.setattr("seqbench.isolate.warm_server", lambda: None)
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    return cli.compose


@pytest.mark.parametrize("task", ["adding", "digits"])
def test_one_hot_numbers_are_refused_before_anything_starts(compose, task):
    with pytest.raises(UsageError) as refused:
        compose([f"task={task}", "model=lstm", "network.embedding=onehot"])
    assert str(refused.value) == (
        f"network.embedding=onehot: the inputs of '{task}' are numbers, not tokens: leave it out"
    )
    [job] = compose([f"task={task}", "model=lstm"])
    assert job.task.features > 0


def test_the_oracle_of_adding_has_no_error_and_a_wrong_task_shows():
    from seqbench.recorder import oracle_score

    for variant in ADDING_FIRST_BATCHES:
        task = adding(variant, 30)
        batches = task.open(0, NOWHERE).held_out("test", 300)
        assert oracle_score(task, batches) < 1e-12
        wrong = [dataclasses.replace(batch, targets=batch.targets + 0.1) for batch in batches]
        assert oracle_score(task, wrong) == pytest.approx(0.01, rel=1e-3)
    assert oracle_score(Digits(), batches) is None


def test_a_run_on_numbers_records_a_squared_error_and_no_accuracy(make_job, tmp_path):
    from seqbench import records
    from seqbench.plan import plan
    from seqbench.recorder import Recorder

    job = make_job(
        "gru", "adding", task_options={"lengths": [4]}, seeds=[0], speed={"enabled": False},
        train={"steps": 6, "eval_every": 3, "eval_examples": 16, "test_examples": 200},
    )  # fmt: skip
    [unit] = plan([job], tmp_path)
    run = Recorder(unit, allocator=False).run()
    assert run.status == "done", run.error
    assert run.metrics["test_accuracy"] is None
    assert 0 < run.metrics["test_loss"] < 10
    assert run.metrics["test_answers"] == 200
    assert run.metrics["oracle_score"] < 1e-12
    assert run.card["metric"] == "mean squared error"
    table = records.read_table(unit.folder, run, "evaluations")
    losses = table["loss"].to_pylist()
    assert len(losses) == 2
    assert run.metrics["best_valid_score"] == min(losses)
    assert all(math.isnan(accuracy) for accuracy in table["accuracy"].to_pylist())
