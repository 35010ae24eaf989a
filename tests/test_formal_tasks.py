"""Formal languages: slow readers in plain Python are always right, and floors equal counting every case."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from seqbench.batch import PADDING, UNSCORED, Batch
from seqbench.errors import UsageError
from seqbench.registry import plugins
from seqbench.schema import check
from seqbench.seeds import stream
from seqbench.tasks.cycle_navigation import CycleNavigation, share_at_start
from seqbench.tasks.even_pairs import EvenPairs, equal_ends_from_counts
from seqbench.tasks.formal_base import FormalTask
from seqbench.tasks.modular_arithmetic import ModularArithmetic, share_of_zero
from seqbench.tasks.parity import Parity
from seqbench.tasks.reverse_string import ReverseString, most_frequent_symbol

NOWHERE = Path("/nonexistent")  # generated tasks cache nothing
Words = tuple[str, ...]
MANY = 20_000

# What each id means, from 1 on, and how a patient reader answers.
ALPHABETS: dict[str, Words] = {
    "parity": ("a", "b"),
    "even_pairs": ("a", "b"),
    "cycle_navigation": ("0", "+1", "-1"),
    "modular_arithmetic": ("0", "1", "2", "3", "4", "+", "-", "*"),
    "reverse_string": ("a", "b", "?"),
}


def odd(words: Words) -> list[int]:
    answer = 0
    for word in words:
        if word == "b":
            answer = 1 - answer
    return [answer]


def pairs(words: Words) -> list[int]:
    found = Counter(itertools.pairwise(words))
    return [(found["a", "b"] + found["b", "a"]) % 2]


def walk(words: Words) -> list[int]:
    place = 0
    for word in words:
        place += int(word)
        place = {-1: 4, 5: 0}.get(place, place)
    return [place]


def reckon(words: Words) -> list[int]:
    return [eval("".join(words)) % 5]  # Python's own precedence


def backwards(words: Words) -> list[int]:
    stack, answers = [], []
    for word in words:
        if word == "?":
            answers.append(ord(stack.pop()) - ord("a"))
        else:
            assert not answers
            stack.append(word)
    assert stack == []
    return answers


READERS: dict[str, Callable[[Words], list[int]]] = {
    "parity": odd,
    "even_pairs": pairs,
    "cycle_navigation": walk,
    "modular_arithmetic": reckon,
    "reverse_string": backwards,
}
CLASSES = {cls.name: cls for cls in (Parity, EvenPairs, CycleNavigation, ModularArithmetic, ReverseString)}


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def task(name: str) -> FormalTask:
    return CLASSES[name]()


def rows(name: str, batch: Batch) -> Iterator[tuple[Words, list[int]]]:
    """Each example as words, with the answers asked for, in order."""
    for ids, length, target in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True):
        assert (ids[length:] == PADDING).all()
        scored = np.atleast_1d(target)
        yield (
            tuple(ALPHABETS[name][one - 1] for one in ids[:length]),
            scored[scored != UNSCORED].tolist(),
        )


def axis(name: str, batch: Batch) -> np.ndarray:
    """What the card calls length."""
    return batch.lengths_B // 2 if name == "reverse_string" else batch.lengths_B


def test_every_formal_task_has_a_reader():
    registered = {name for name, cls in plugins("task").items() if issubclass(cls, FormalTask)}
    assert set(READERS) == set(ALPHABETS) == set(CLASSES) == registered


@pytest.mark.parametrize("longest", [4, 7, 40, 75])
def test_a_patient_reader_and_the_oracle_are_always_right(name, longest):
    task = CLASSES[name](longest=longest)
    batch = task.sample(stream(0, "train"), 1_000)
    scored = batch.targets != UNSCORED
    assert np.array_equal(task.oracle(batch)[scored], batch.targets[scored])
    for words, answers in rows(name, batch):
        assert READERS[name](words) == answers


def test_slices_have_exactly_their_length(name, task):
    values = task.slice_values()
    assert values == ([9, 19, 39, 59, 79, 119, 159, 319] if name == "modular_arithmetic" else
                      [10, 20, 40, 60, 80, 120, 160, 320])  # fmt: skip
    assert task.card().slice_axis == "length"
    assert task.card().trained_to in values
    for value, batches in task.open(0, NOWHERE).slices(200):
        for batch in batches:
            assert (axis(name, batch) == value).all()


@pytest.mark.parametrize("longest", [4, 5, 6, 7, 41, 1000])
def test_slices_grow_and_hold_what_training_shows(name, longest):
    task = CLASSES[name](longest=longest)
    check(task, "task.")
    values = task.slice_values()
    assert values == sorted(set(values))
    assert values[0] >= 1
    assert task.card().trained_to in values
    assert all(0 < floor < 1 for floor in task.card().floors.values())


def test_training_lengths_are_uniform(name, task):
    counts = Counter(axis(name, task.sample(stream(0, "train"), MANY)).tolist())
    step = 2 if name == "modular_arithmetic" else 1
    assert sorted(counts) == list(range(1, task.card().trained_to + 1, step))
    share = 1 / len(counts)
    spread = 4.5 * np.sqrt(share * (1 - share) * MANY)
    assert all(abs(count - share * MANY) < spread for count in counts.values())


# Ids that are equally likely among each other.
KINDS = {
    "parity": [range(1, 3)],
    "even_pairs": [range(1, 3)],
    "cycle_navigation": [range(1, 4)],
    "modular_arithmetic": [range(1, 6), range(6, 9)],
    "reverse_string": [range(1, 3)],
}


def test_symbols_are_drawn_alike(name, task):
    batch = task.sample_slice(stream(0, "train"), 4_000, task.slice_values()[1])
    for kind in KINDS[name]:
        counts = np.array([(batch.ids_BT == one).sum() for one in kind])
        share, total = 1 / len(kind), counts.sum()
        assert np.abs(counts - share * total).max() < 4.5 * np.sqrt(share * (1 - share) * total)


# The class of a row in the docstring, read by hand.
EXAMPLES = {
    "parity": ("a b b a b", [1]),
    "even_pairs": ("a a b b a", [0]),
    "cycle_navigation": ("0 +1 0 -1 -1", [4]),
    "modular_arithmetic": ("1 - 2 * 4", [3]),
    "reverse_string": ("a b b ? ? ?", [1, 1, 0]),
}


def test_the_docstring_shows_a_row_that_the_reader_solves(name, task):
    row, answers = EXAMPLES[name]
    assert f"``{row}``" in type(task).__doc__
    assert READERS[name](tuple(row.split())) == answers


# Numbers are comparable only while the definition stands; a changed hash is a changed task.
FIRST_BATCHES = {
    "parity": "037bf2336ff13eec2c35e28b2cb7366e73e14e297718075cb245d548f2f2ce24",
    "even_pairs": "d62e7e7d7cc170a4479d9df48843605f1156a1d205d1820ed7c410be5589fe70",
    "cycle_navigation": "c7c8a0da417174d6f133aa53aa72daa520ff5e22134aafe5346d5a561ebdd0e0",
    "modular_arithmetic": "8777335e12a8384199c5a34192d8f4b8446a7ee4248768bf46fb1ddab545d65c",
    "reverse_string": "5903958eeccebe1b1e36a07e48be162371e0389ec64462d9027fc7a60030e47a",
}


def test_the_first_batch_of_seed_0_is_pinned(name, task):
    assert next(task.open(0, NOWHERE).train(32)).digest() == FIRST_BATCHES[name]


# Floors: every string up to a small length, weighed as it is drawn


def strings(name: str, longest: int) -> list[tuple[Fraction, Words]]:
    """Every string of training with its probability; queries come after it where there are any."""
    if name == "modular_arithmetic":
        digits, operators = ALPHABETS[name][:5], ALPHABETS[name][5:]
        counts = range(1, (longest + 1) // 2 + 1)
        parts = [[digits, *[operators, digits] * (n - 1)] for n in counts]
    else:
        letters = ALPHABETS[name][: 3 if name == "cycle_navigation" else 2]
        parts = [[letters] * n for n in range(1, longest + 1)]
    found = []
    for part in parts:
        share = Fraction(1, len(parts) * int(np.prod([len(kind) for kind in part])))
        asked = ("?",) * len(part) if name == "reverse_string" else ()
        found += [(share, (*words, *asked)) for words in itertools.product(*part)]
    return found


def best(name: str, longest: int, known: Callable[[Words], object]) -> Fraction:
    """Exact accuracy of the best answer to every question given only what is known of the string."""
    weights: dict[object, Counter[int]] = {}
    for share, words in strings(name, longest):
        for place, answer in enumerate(READERS[name](words)):
            weights.setdefault((known(words), place), Counter())[answer] += share
    return sum(max(seen.values()) for seen in weights.values()) / sum(
        sum(seen.values()) for seen in weights.values()
    )


def nothing(words: Words) -> object:
    return None


def bag(words: Words) -> object:
    return frozenset(Counter(words).items())


SIZES = {"cycle_navigation": 8, "modular_arithmetic": 7}


@pytest.mark.parametrize("longest", [4, 5, None])
def test_majority_floors_equal_counting_every_string(name, longest):
    longest = longest or SIZES.get(name, 10)
    floors = CLASSES[name](longest=longest).card().floors
    expected = floors.get("majority class", floors["chance"])
    assert float(best(name, longest, nothing)) == pytest.approx(expected, abs=1e-12)
    assert float(best(name, longest, len)) == pytest.approx(expected, abs=1e-12)  # length alone tells no more


@pytest.mark.parametrize("longest", [4, 5, 10])
@pytest.mark.parametrize("name", ["even_pairs", "reverse_string"])
def test_floors_of_counts_without_order_equal_counting_every_string(name, longest):
    floor = CLASSES[name](longest=longest).card().floors["symbol counts without order"]
    assert float(best(name, longest, bag)) == pytest.approx(floor, abs=1e-12)


@pytest.mark.parametrize("name", ["parity", "cycle_navigation"])
def test_counts_alone_solve_what_order_does_not_change(name):
    assert best(name, 6, bag) == 1  # so no floor of a bag can be printed


@pytest.mark.parametrize("hidden", range(5))
def test_missing_any_one_token_of_parity_leaves_a_coin_toss(hidden):
    answers: dict[object, Counter[int]] = {}
    for words in itertools.product("ab", repeat=5):
        answers.setdefault((words[:hidden], words[hidden + 1 :]), Counter())[odd(words)[0]] += 1
    assert all(seen[0] == seen[1] for seen in answers.values())


def test_floors_at_the_default_length():
    assert share_at_start(40) == pytest.approx(0.21, abs=1e-9)
    assert share_of_zero(20) == pytest.approx(0.206, abs=1e-7)
    assert equal_ends_from_counts(40) == pytest.approx(0.563359030565789)
    assert most_frequent_symbol(40) == pytest.approx(0.5835804584130528)


def assert_share(hits: float, trials: int, expected: float) -> None:
    """An observed share is within four standard errors of the exact one."""
    assert abs(hits / trials - expected) < 4 * np.sqrt(expected * (1 - expected) / trials)


@pytest.mark.parametrize("name", ["parity", "even_pairs", "cycle_navigation", "modular_arithmetic"])
def test_majority_floor_is_reached_by_answering_class_0(name, task):
    floors = task.card().floors
    targets = task.sample(stream(1, "train"), MANY).targets
    assert_share((targets == 0).sum(), MANY, floors.get("majority class", floors["chance"]))


def test_even_pairs_floor_of_counts_is_reached_by_the_likelier_answer():
    task = EvenPairs()
    batch = task.sample(stream(1, "train"), MANY)
    hits = 0
    for words, [answer] in rows("even_pairs", batch):
        n, k = len(words), words.count("b")
        equal = k * (k - 1) + (n - k) * (n - k - 1)
        hits += answer == int(2 * equal < n * (n - 1))
    assert_share(hits, MANY, task.card().floors["symbol counts without order"])


def test_reverse_string_floor_of_counts_is_reached_by_the_more_frequent_symbol():
    """Answers of one string depend on each other: the error is that of the strings, not of the answers."""
    task = ReverseString()
    batch = task.sample(stream(1, "train"), MANY)
    right = np.array([max(Counter(answers).values()) for _, answers in rows("reverse_string", batch)])
    floor = task.card().floors["symbol counts without order"]
    excess = right - floor * batch.lengths_B / 2
    assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(MANY)


def test_answers_beyond_the_first_lengths_are_balanced(name, task):
    """At length 40 every class is as frequent as any other."""
    targets = task.sample_slice(stream(0, "train"), MANY, task.card().trained_to).targets
    scored = targets[:, -1] if targets.ndim == 2 else targets
    share = 1 / task.classes
    counts = np.bincount(scored, minlength=task.classes)
    assert np.abs(counts / MANY - share).max() < 4.5 * np.sqrt(share * (1 - share) / MANY)


def test_every_query_of_reverse_string_is_scored_and_nothing_else():
    batch = ReverseString().sample(stream(0, "train"), 500)
    assert np.array_equal(batch.targets != UNSCORED, batch.ids_BT == 3)
    assert ((batch.ids_BT == 3).sum(1) * 2 == batch.lengths_B).all()


def test_a_longest_string_of_three_is_refused():
    with pytest.raises(UsageError, match=r"task.longest=3: must be at least 4"):
        check(Parity(longest=3), "task.")
