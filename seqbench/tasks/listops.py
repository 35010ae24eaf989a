"""ListOps: the value of nested lists, each with an operator in front. A tree has to be read as a tree."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from seqbench.batch import PADDING, Batch, Ints, trim
from seqbench.errors import UsageError
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, GeneratedTask

Floats = npt.NDArray[np.float64]

DIGITS = 10
TOKENS = ("", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")  # by id; "" is padding
MIN, MAX, MED, SM, CLOSE = range(1 + DIGITS, len(TOKENS))
OPERATORS = 4
NESTED = 0.5  # chance that an argument is a list
_FEWEST = 2  # arguments of a list


@register("task")
@dataclass
class ListOps(GeneratedTask):
    """The value of nested lists of digits under minimum, maximum, median and sum modulo 10 (many-to-one).

    A tree is drawn from the outside in. A list has an operator, uniform from the four, and 2 to ``arguments``
    arguments, each number equally likely. Each argument is a list with probability 1/2 while fewer than
    ``depth`` lists are open, and else a digit, uniform from 0 to 9. A tree with more than ``longest`` tokens
    (digits, operators, closing brackets) is thrown away and another one drawn. The median of an even number
    of values is the mean of the two in the middle, rounded down.

    Ids: 1..10 the digits 0..9, then [MIN, [MAX, [MED, [SM and ]; class = value of the outermost list.

    Example: ``[SM 8 5 [MIN 4 7 ] ]`` is 8 + 5 + 4 = 17, so its class is 7.

    >>> batch = ListOps().sample(np.random.default_rng(28), 1)
    >>> " ".join(TOKENS[token] for token in batch.ids_BT[0]), batch.targets.tolist()
    ('[MED 6 [MAX 9 6 ] ]', [7])
    """

    batches_at_once: ClassVar[int] = 8

    name: str = "listops"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    longest: int = setting(40, "most tokens of a sequence", unit="tokens", minimum=4, maximum=200)
    depth: int = setting(3, "most lists inside each other", unit="lists", minimum=1, maximum=8)
    arguments: int = setting(5, "most arguments of a list; at least two", minimum=_FEWEST, maximum=5)

    @property
    def vocabulary_size(self) -> int:
        return len(TOKENS)

    @property
    def classes(self) -> int:
        return DIGITS

    def check(self) -> None:
        """The deepest nesting and the longest list must fit into a sequence."""
        for key, value, tokens in (
            ("depth", self.depth, 4 + 3 * (self.depth - 1)),
            ("arguments", self.arguments, 2 + self.arguments),
        ):
            if tokens > self.longest:
                raise UsageError(
                    f"task.{key}={value}: needs {tokens} tokens; raise task.longest (now {self.longest})"
                )

    def cost(self) -> float:
        return self.longest / 2

    def card(self) -> Card:
        return Card(
            id=f"listops/to{self.longest}/depth{self.depth}/arguments{self.arguments}",
            tests="evaluating a tree: keeping each open list, and what it holds so far, until it closes",
            definition=(
                "a list has one of the operators MIN, MAX, MED (median; of an even number of values the mean "
                f"of the two in the middle, rounded down) and SM (sum modulo 10), and 2 to {self.arguments} "
                "arguments, operator and number uniform; each argument is a list with probability 1/2 while "
                f"fewer than {self.depth} lists are open, else a digit, uniform from 0..9; trees of more "
                f"than {self.longest} tokens are drawn again; the class is the value of the outermost list; "
                "one answer, at the last closing bracket"
            ),
            source=(
                "after Nangia & Bowman 2018, ListOps (1804.06028), at small size and with fresh data; their "
                "code opens a list with chance 1/4 and nests up to 20 deep"
            ),
            floors=dict(floors(self.longest, self.depth, self.arguments)),
        )

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        parts = [draw(rng, examples, self)]
        while (found := sum(len(lengths_B) for _, lengths_B, _ in parts)) < examples:
            parts.append(draw(rng, examples - found, self))
        ids_BT, lengths_B, values_B = (np.concatenate(part)[:examples] for part in zip(*parts, strict=True))
        return trim(Batch(ids_BT, lengths_B, values_B))

    def oracle(self, batch: Batch) -> Ints:
        """Evaluate the innermost lists, put a value where each list opened, and so on outwards."""
        value_BT = batch.ids_BT - 1
        is_value_BT = (value_BT >= 0) & (value_BT < DIGITS)
        opens_BT = (batch.ids_BT >= MIN) & (batch.ids_BT <= SM)
        closes_BT = batch.ids_BT == CLOSE
        depth_BT = opens_BT.cumsum(1) - closes_BT.cumsum(1)  # lists open after the token
        for depth in range(int(depth_BT.max()), 0, -1):
            here_BT = depth_BT == depth
            starts_BT, argument_BT = here_BT & opens_BT & ~is_value_BT, here_BT & is_value_BT
            list_BT = starts_BT.cumsum().reshape(starts_BT.shape) - 1  # counted on over all rows
            place_A = list_BT[argument_BT] * DIGITS + value_BT[argument_BT]
            counts_D = np.bincount(place_A, minlength=DIGITS * np.count_nonzero(starts_BT))
            value_BT[starts_BT] = from_counts(batch.ids_BT[starts_BT], counts_D.reshape(-1, DIGITS))
            is_value_BT |= starts_BT
            depth_BT[starts_BT] -= 1
        return value_BT[:, 0]


def from_counts(operator_N: Ints, counts_ND: Ints) -> Ints:
    """Value of lists that hold each digit so many times.

    >>> from_counts(np.array([MED]), np.array([[0, 1, 0, 0, 1, 0, 0, 0, 0, 0]])).tolist()  # of 1 and 4
    [2]
    """
    up_to_ND = counts_ND.cumsum(1)
    size_N1 = up_to_ND[:, -1:]
    middle_N = (up_to_ND > (size_N1 - 1) // 2).argmax(1) + (up_to_ND > size_N1 // 2).argmax(1)
    smallest_N = (counts_ND > 0).argmax(1)
    largest_N = DIGITS - 1 - (counts_ND[:, ::-1] > 0).argmax(1)
    sum_N = counts_ND @ np.arange(DIGITS) % DIGITS
    return np.choose(operator_N - MIN, [smallest_N, largest_N, middle_N // 2, sum_N])


@dataclass
class Level:
    """The lists at one depth of many trees: N lists with A arguments, those of one list after another.

    Attributes:
        operator_N: operator of each list (id).
        size_N: its number of arguments.
        nested_A: whether an argument is a list: the lists of the next level, in this order.
        value_A: digit of an argument, or value of the list that it is.
        tokens_A: its number of tokens.
    """

    operator_N: Ints
    size_N: Ints
    nested_A: npt.NDArray[np.bool_]
    value_A: Ints
    tokens_A: Ints
    first_N: Ints = field(init=False)  # where the arguments of each list begin
    list_A: Ints = field(init=False)  # which list each argument belongs to

    def __post_init__(self) -> None:
        self.first_N = self.size_N.cumsum() - self.size_N
        self.list_A = np.repeat(np.arange(len(self.size_N)), self.size_N)

    def values(self) -> Ints:
        """Value of each list."""
        sorted_A = np.sort(self.list_A * DIGITS + self.value_A) % DIGITS
        low_N, high_N = (sorted_A[self.first_N + (self.size_N - odd) // 2] for odd in (1, 0))
        smallest_N, largest_N = sorted_A[self.first_N], sorted_A[self.first_N + self.size_N - 1]
        sum_N = np.add.reduceat(self.value_A, self.first_N) % DIGITS
        return np.choose(self.operator_N - MIN, [smallest_N, largest_N, (low_N + high_N) // 2, sum_N])

    def tokens(self) -> Ints:
        """Tokens of each list, operator and bracket included."""
        tokens_N: Ints = 2 + np.add.reduceat(self.tokens_A, self.first_N)
        return tokens_N

    def places(self, start_N: Ints) -> Ints:
        """Where each argument starts if its list starts there."""
        before_A = self.tokens_A.cumsum() - self.tokens_A
        return before_A + (start_N + 1 - before_A[self.first_N])[self.list_A]


def draw(rng: np.random.Generator, wanted: int, task: ListOps) -> tuple[Ints, Ints, Ints]:
    """Draw trees, some more than wanted, as some are too long: ids, lengths and values of the others."""
    levels = grow(rng, wanted * 4 // 3 + 8, task)
    value_N = tokens_N = np.zeros(0, dtype=np.int64)
    for level in reversed(levels):
        level.value_A[level.nested_A], level.tokens_A[level.nested_A] = value_N, tokens_N
        value_N, tokens_N = level.values(), level.tokens()
    fits_M = tokens_N <= task.longest
    ids_MT = written(levels, tokens_N, max(task.longest, int(tokens_N.max())))
    return ids_MT[fits_M, : task.longest], tokens_N[fits_M], value_N[fits_M]


def grow(rng: np.random.Generator, trees: int, task: ListOps) -> list[Level]:
    """Draw the lists of so many trees, level by level; lists inside others have no values yet."""
    levels: list[Level] = []
    lists = trees
    while lists and len(levels) < task.depth:
        operator_N = rng.integers(MIN, CLOSE, lists)
        size_N = rng.integers(_FEWEST, task.arguments + 1, lists)
        arguments = int(size_N.sum())
        deepest = len(levels) + 1 == task.depth
        nested_A = rng.random(arguments) < (0 if deepest else NESTED)
        value_A = rng.integers(0, DIGITS, arguments)
        levels.append(Level(operator_N, size_N, nested_A, value_A, np.ones_like(value_A)))
        lists = int(np.count_nonzero(nested_A))
    return levels


def written(levels: list[Level], tokens_M: Ints, width: int) -> Ints:
    """The trees as ids ``(M, width)``, with padding after them."""
    ids_MT = np.full((len(tokens_M), width), PADDING, dtype=np.int64)
    ids = ids_MT.reshape(-1)
    start_N, tokens_N = np.arange(len(tokens_M)) * width, tokens_M
    for level in levels:
        ids[start_N], ids[start_N + tokens_N - 1] = level.operator_N, CLOSE
        start_A = level.places(start_N)
        ids[start_A] = 1 + level.value_A
        start_N, tokens_N = start_A[level.nested_A], level.tokens_A[level.nested_A]
    return ids_MT


@functools.cache
def floors(longest: int, depth: int, arguments: int) -> tuple[tuple[str, float], ...]:
    """Exact best accuracies (to about 12 digits) of players who see a part, lowest first.

    They see nothing; the first operator; or the outermost list, but of each list in it only that there is
    one. What they see decides how likely each value is, and they answer the likeliest.
    """
    nested_SD, tree_OSD = probabilities(longest, depth, arguments)
    tree_OD = tree_OSD.sum(1)
    right = {"majority class": tree_OD.sum(0).max(), "outer operator": tree_OD.max(1).sum()}
    if depth > 1:  # else the outermost list is everything
        right["outer list, nested lists unread"] = _unread(nested_SD, arguments)
    short_enough = tree_OD.sum()
    shares = {"chance": 1 / DIGITS, **{name: float(share / short_enough) for name, share in right.items()}}
    return tuple(sorted(shares.items(), key=lambda floor: floor[1]))


def probabilities(longest: int, depth: int, arguments: int) -> tuple[Floats, Floats]:
    """Of tokens and value of a list in the outermost ``(S, D)``; of operator, tokens, value of a tree.

    From the innermost lists outwards. What needs more tokens than ``longest`` is left out, so the sums are
    the chances of being short enough. Letters: O operator, S tokens, D value.
    """
    digit_SD = np.zeros((longest + 1, DIGITS))
    digit_SD[1] = 1 / DIGITS
    argument_SD, nested_SD = digit_SD, 0 * digit_SD
    for _ in range(depth - 1):
        nested_SD = _of_a_list(argument_SD, arguments).sum(0)
        argument_SD = (1 - NESTED) * digit_SD + NESTED * nested_SD
    return nested_SD, _of_a_list(argument_SD, arguments)


def _of_a_list(argument_SD: Floats, arguments: int) -> Floats:
    """Probability ``(O, S, D)`` of operator, tokens and value of a list whose arguments are like this one."""
    joint_OSD = np.zeros((OPERATORS, *argument_SD.shape))
    for size in range(_FEWEST, arguments + 1):
        bag_NK, orders_N = _bags(size)
        share_NS = orders_N[:, None] * _together(argument_SD, bag_NK)[:, :-2]
        for of_operator_SD, value_N in zip(joint_OSD, _of_sorted(bag_NK), strict=True):
            of_operator_SD[2:] += share_NS.T @ (value_N[:, None] == np.arange(DIGITS))  # operator, bracket
    return joint_OSD / (OPERATORS * (arguments - _FEWEST + 1))


def _unread(nested_SD: Floats, arguments: int) -> float:
    """Share of all trees that are short enough and have the likeliest value given the outermost list."""
    right = 0.0
    for shown, hidden in itertools.product(range(arguments + 1), repeat=2):
        if _FEWEST <= shown + hidden <= arguments:
            orders = math.comb(shown + hidden, hidden)  # of digits and lists
            share = orders * NESTED**hidden * ((1 - NESTED) / DIGITS) ** shown
            right += share * _likeliest(nested_SD, shown, hidden)
    return right / (OPERATORS * (arguments - _FEWEST + 1))


def _likeliest(nested_SD: Floats, shown: int, hidden: int) -> float:
    """Summed over operators and digits shown: how likely the likeliest value is in a short enough tree."""
    (shown_NK, shown_orders_N), (hidden_MK, hidden_orders_M) = _bags(shown), _bags(hidden)
    room = len(nested_SD) - 2 - shown  # so many numbers of tokens, from 0 on, may the hidden lists have
    share_M = hidden_orders_M * _together(nested_SD, hidden_MK)[:, :room].sum(1)
    n, m = np.indices((len(shown_NK), len(hidden_MK)))
    value_ONM = _of_sorted(np.sort(np.concatenate([shown_NK[n], hidden_MK[m]], axis=2)))
    share_VON = np.stack([(value_ONM == value) @ share_M for value in range(DIGITS)])
    return float(share_VON.max(0).sum(0) @ shown_orders_N)


@functools.cache
def _bags(size: int) -> tuple[Ints, Floats]:
    """Every multiset of so many digits, sorted, ``(N, size)``, and in how many orders each can stand."""
    bags = list(itertools.combinations_with_replacement(range(DIGITS), size))
    orders = [math.factorial(size) / math.prod(map(math.factorial, Counter(bag).values())) for bag in bags]
    return np.array(bags, dtype=np.int64).reshape(len(bags), size), np.array(orders)


def _together(argument_SD: Floats, bag_NK: Ints) -> Floats:
    """Probability ``(N, S)`` of arguments with these values, in this order, that have S tokens together."""
    tokens = len(argument_SD)
    most = tokens * max(1, bag_NK.shape[1])
    points = 2 ** most.bit_length()  # more than can add up, so that nothing wraps around
    spectrum_DF = np.fft.rfft(argument_SD.T, points)
    product_NF = np.ones((len(bag_NK), points // 2 + 1), dtype=complex)
    for value_N in bag_NK.T:
        product_NF *= spectrum_DF[value_N]
    return np.maximum(np.fft.irfft(product_NF, points)[:, :tokens], 0)  # rounding may go below


def _of_sorted(bag: Ints) -> Ints:
    """Value of sorted arguments, last axis, under each operator: ``(O, ...)``."""
    size = bag.shape[-1]
    middle = (bag[..., (size - 1) // 2] + bag[..., size // 2]) // 2
    return np.stack([bag[..., 0], bag[..., -1], middle, bag.sum(-1) % DIGITS])
