"""ListOps: a plain reader is always right, trees are drawn as said, and floors equal counting every case."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seqbench.batch import Batch
from seqbench.errors import UsageError
from seqbench.schema import check
from seqbench.seeds import stream
from seqbench.tasks.listops import TOKENS, ListOps, floors, probabilities

NOWHERE = Path("/nonexistent")  # generated tasks cache nothing
MANY = 20_000
OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
SETTINGS = [
    ListOps(),
    ListOps(depth=1),
    ListOps(longest=10, arguments=2),  # the deepest tree just fits
    ListOps(longest=12, depth=2),
    ListOps(longest=60, depth=5, arguments=3),
]
Tree = tuple[str, list["Tree | int"]]


def label(task: ListOps) -> str:
    return f"to{task.longest}-depth{task.depth}-arguments{task.arguments}"


def parse(words: list[str]) -> Tree | int:
    """The tree that a string says; takes its words away."""
    word = words.pop(0)
    if word not in OPERATORS:
        return int(word)
    arguments = []
    while words[0] != "]":
        arguments.append(parse(words))
    words.pop(0)
    return word, arguments


def value(tree: Tree | int) -> int:
    return tree if isinstance(tree, int) else OPERATORS[tree[0]]([value(one) for one in tree[1]])


def depth(tree: Tree | int) -> int:
    return 0 if isinstance(tree, int) else 1 + max(map(depth, tree[1]))


def lists(tree: Tree | int) -> Iterator[Tree]:
    """Every list of a tree, the outermost first."""
    if not isinstance(tree, int):
        yield tree
        for one in tree[1]:
            yield from lists(one)


def trees(batch: Batch) -> Iterator[Tree]:
    for ids, length in zip(batch.ids_BT, batch.lengths_B, strict=True):
        words = [TOKENS[token] for token in ids[:length]]
        tree = parse(words)
        assert words == []
        assert not isinstance(tree, int)
        yield tree


@pytest.mark.parametrize("task", SETTINGS, ids=label)
def test_a_plain_reader_and_the_oracle_are_always_right(task):
    check(task, "task.")
    batch = task.sample(stream(0, "train"), 2_000).checked(task.vocabulary_size, task.classes)
    read = list(trees(batch))
    assert [value(tree) for tree in read] == batch.targets.tolist() == task.oracle(batch).tolist()
    assert {depth(tree) for tree in read} == set(range(1, task.depth + 1))
    sizes = {len(arguments) for tree in read for _, arguments in lists(tree)}
    assert sizes == set(range(2, task.arguments + 1))
    assert batch.lengths_B.max() <= task.longest


@pytest.mark.parametrize(("row", "answer"), [("[SM 8 5 [MIN 4 7 ] ]", 7), ("[MED 6 [MAX 9 6 ] ]", 7)])
def test_the_docstring_shows_rows_that_the_reader_solves(row, answer):
    assert row in ListOps.__doc__
    assert value(parse(row.split())) == answer


def test_the_first_batch_of_seed_0_is_pinned():
    """Numbers are comparable only while the definition stands; a changed hash is a changed task."""
    digest = next(ListOps().open(0, NOWHERE).train(32)).digest()
    assert digest == "17fec7b910fdc635373265bf9f9473d2405294b831152fb5e2b10c1aa65100d0"


@pytest.mark.parametrize("examples", [1, 7, 300])
def test_a_batch_is_full_although_long_trees_are_thrown_away(examples):
    task = ListOps(longest=12, depth=4)
    assert len(task.sample(stream(0, "train"), examples).targets) == examples


# How trees are drawn


def assert_uniform(found: Counter[object], kinds: int) -> None:
    assert len(found) == kinds
    total = found.total()
    spread = 4.5 * np.sqrt(total * (1 - 1 / kinds) / kinds)
    assert all(abs(count - total / kinds) < spread for count in found.values())


def test_without_a_limit_of_tokens_every_choice_is_uniform():
    read = list(trees(ListOps(depth=2, longest=40).sample(stream(0, "train"), 5_000)))
    outer, inner = read, [one for tree in read for one in tree[1] if not isinstance(one, int)]
    assert_uniform(Counter(isinstance(one, int) for _, arguments in outer for one in arguments), 2)
    for level in (outer, inner):
        assert_uniform(Counter(operator for operator, _ in level), 4)
        assert_uniform(Counter(len(arguments) for _, arguments in level), 4)
        digits = [one for _, arguments in level for one in arguments if isinstance(one, int)]
        assert_uniform(Counter(digits), 10)


@pytest.mark.parametrize("task", [ListOps(), ListOps(longest=14)], ids=label)
def test_lengths_and_values_are_as_probable_as_said(task):
    batch = task.sample(stream(1, "train"), MANY)
    _, tree_OSD = probabilities(task.longest, task.depth, task.arguments)
    found_OSD = np.zeros_like(tree_OSD)
    np.add.at(found_OSD, (batch.ids_BT[:, 0] - 11, batch.lengths_B, batch.targets), 1)
    for rest in ((0, 2), (1,)):  # each length; each operator with each value
        share = tree_OSD.sum(rest) / tree_OSD.sum()
        spread = 4.5 * np.sqrt(share * (1 - share) * MANY) + 2
        assert (abs(found_OSD.sum(rest) - share * MANY) < spread).all()


# Floors: every list weighed as it is drawn, in plain Python

Seen = tuple[str, tuple[int, ...], int]  # operator, digits, number of lists among the arguments


def counted(longest: int, deepest: int, arguments: int) -> Counter[tuple[Seen, int]]:
    """Probability of what is seen of the outermost list together with the value, in short enough trees."""
    inner: dict[tuple[int, int], float] = {}  # tokens and value of a list one level further in
    for level in range(deepest):
        choices = [(1, digit, False, (0.5 if level else 1) / 10) for digit in range(10)]
        choices += [(*found, True, share / 2) for found, share in inner.items()]
        inner, outermost = defaultdict(float), Counter[tuple[Seen, int]]()
        for size in range(2, arguments + 1):
            for drawn in itertools.product(choices, repeat=size):
                tokens, values, nested, shares = zip(*drawn, strict=True)
                share = float(np.prod(shares)) / (4 * (arguments - 1))
                shown = tuple(sorted(one for one, hidden in zip(values, nested, strict=True) if not hidden))
                for name, operator in OPERATORS.items():
                    result = operator(list(values))
                    inner[2 + sum(tokens), result] += share
                    if 2 + sum(tokens) <= longest:
                        outermost[(name, shown, sum(nested)), result] += share
    return outermost


def best(weights: Counter[tuple[Seen, int]], known: Callable[[Seen], object]) -> float:
    """Exact accuracy of the likeliest value given only what is known."""
    by_known: dict[object, Counter[int]] = defaultdict(Counter)
    for (seen, result), share in weights.items():
        by_known[known(seen)][result] += share
    return sum(max(results.values()) for results in by_known.values()) / weights.total()


@pytest.mark.parametrize(
    ("longest", "deepest", "arguments"), [(11, 2, 3), (17, 2, 3), (10, 3, 2), (13, 3, 2), (6, 1, 4)]
)
def test_floors_equal_counting_every_tree(longest, deepest, arguments):
    exact = dict(floors(longest, deepest, arguments))
    weights = counted(longest, deepest, arguments)
    assert exact.pop("chance") == 1 / 10
    expected = {
        "majority class": best(weights, lambda seen: None),
        "outer operator": best(weights, lambda seen: seen[0]),
        "outer list, nested lists unread": best(weights, lambda seen: seen),
    }
    if deepest == 1:
        assert expected.pop("outer list, nested lists unread") == pytest.approx(1)
    assert exact == pytest.approx(expected, abs=1e-12)


def test_floors_at_the_default_size():
    exact = ListOps().card().floors
    assert list(exact.values()) == pytest.approx([0.1, 0.105678254200, 0.217143662198, 0.497122720977])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (ListOps(longest=9, arguments=2), "task.depth=3: needs 10 tokens; raise task.longest (now 9)"),
        (ListOps(longest=5, depth=1), "task.arguments=5: needs 7 tokens; raise task.longest (now 5)"),
        (ListOps(arguments=6), "task.arguments=6: must be at most 5"),
        (ListOps(depth=0), "task.depth=0: must be at least 1"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(task, message):
    with pytest.raises(UsageError) as refused:
        check(task, "task.")
    assert str(refused.value) == message
