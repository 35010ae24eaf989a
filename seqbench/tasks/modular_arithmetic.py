"""Modular arithmetic: the value modulo 5 of a sum of products without brackets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqbench.batch import PADDING, Batch, Ints
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card
from seqbench.tasks.formal_base import SOURCE, FormalTask

MODULUS = 5
PLUS, MINUS, TIMES = range(3)
OPERATORS = 3
_LOGARITHM = np.array([0, 0, 1, 3, 2])  # 2 to this power is 1, 2, 3, 4 modulo 5; of 0 there is none
_POWER = np.array([1, 2, 4, 3])


@register("task")
@dataclass
class ModularArithmetic(FormalTask):
    """The value modulo 5 of numbers joined by + - *, where * binds tighter (many-to-one).

    Example: ``1 - 2 * 4`` is -7, so its class is 3. Ids: 1..5 the numbers 0..4, then 6 +, 7 -, 8 *.

    >>> batch = ModularArithmetic().sample_slice(np.random.default_rng(9), 1, value=7)
    >>> batch.ids_BT.tolist(), batch.targets.tolist()  # 2 - 4 * 4 * 1 = -14
    ([[3, 7, 5, 8, 5, 8, 2]], [1])
    """

    name: str = "modular_arithmetic"
    longest: int = setting(
        40,
        "longest expression in training; odd lengths (numbers and operators) are uniform in 1..longest",
        unit="tokens",
        minimum=4,
        maximum=1000,
    )

    @property
    def vocabulary_size(self) -> int:
        return 1 + MODULUS + OPERATORS

    @property
    def classes(self) -> int:
        return MODULUS

    @property
    def numbers(self) -> int:
        """Most numbers in a training expression: n numbers make 2n - 1 tokens."""
        return (self.longest + 1) // 2

    def card(self) -> Card:
        return Card(
            id=f"modular_arithmetic/to{self.longest}",
            tests="a finite-state machine with 25 states: the sum so far and the product under way",
            definition=(
                "numbers 0..4 and between them operators + - *, uniform and independent; the count of "
                f"numbers is uniform in 1..{self.numbers}, so that odd lengths (tokens: numbers and "
                f"operators) are uniform in 1..{2 * self.numbers - 1}; the class is the value modulo 5, * "
                "before + and -, no brackets; one answer, at the last number (no end marker)"
            ),
            source=f"{SOURCE}, Modular Arithmetic (Simple); precedence as in the authors' code",
            floors={"chance": 1 / MODULUS, "majority class": share_of_zero(self.numbers)},
            slice_axis="length",
            trained_to=2 * self.numbers - 1,
        )

    def slice_values(self) -> list[int]:
        """As for the other tasks, lowered to the next odd length."""
        return sorted({length - 1 + length % 2 for length in super().slice_values()})

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        return self.draw(rng, 2 * rng.integers(1, self.numbers + 1, examples) - 1)

    def draw(self, rng: np.random.Generator, lengths_B: Ints) -> Batch:
        """Draw one expression of each length; an expression has an odd number of tokens."""
        longest = int(lengths_B.max())
        size = len(lengths_B), (longest + 1) // 2
        number_BN, operator_BN = rng.integers(0, MODULUS, size), rng.integers(0, OPERATORS, size)
        ids_BT = np.stack([1 + MODULUS + operator_BN, 1 + number_BN], axis=2).reshape(len(lengths_B), -1)
        ids_BT = ids_BT[:, 1:]  # no operator before the first number
        ids_BT[np.arange(longest) >= lengths_B[:, None]] = PADDING
        missing_BN = ids_BT[:, ::2] == PADDING
        number_BN[missing_BN], operator_BN[missing_BN] = 0, PLUS  # adding nothing
        return Batch(ids_BT, lengths_B, value(number_BN, operator_BN))

    def oracle(self, batch: Batch) -> Ints:
        """Multiply each run of factors by adding logarithms, then add the products up."""
        number_BN = batch.ids_BT[:, ::2] - 1  # -1 at padding
        operator_BN = np.pad(batch.ids_BT[:, 1::2], ((0, 0), (1, 0)))[:, : number_BN.shape[1]] - 1 - MODULUS
        begins_BN = operator_BN != TIMES
        run_BN = np.cumsum(begins_BN).reshape(begins_BN.shape) - 1  # counted on over all rows
        exponent_R = np.bincount(run_BN.ravel(), _LOGARITHM[number_BN].ravel()).astype(np.int64)
        product_R = _POWER[exponent_R % (MODULUS - 1)]
        product_R[run_BN[number_BN <= 0]] = 0
        product_R[run_BN[operator_BN == MINUS]] *= -1
        answers_B: Ints = np.where(begins_BN, product_R[run_BN], 0).sum(1) % MODULUS
        return answers_B


def value(number_BN: Ints, operator_BN: Ints) -> Ints:
    """Value modulo 5 of each row, whose operators stand before their numbers; the first counts as +.

    >>> value(np.array([[1, 2, 4]]), np.array([[PLUS, MINUS, TIMES]])).tolist()
    [3]
    """
    factor_BN = np.where(operator_BN == MINUS, -number_BN, number_BN)
    times_BN = operator_BN == TIMES
    total_B, product_B = np.zeros_like(number_BN[:, 0]), number_BN[:, 0]
    for n in range(1, number_BN.shape[1]):
        total_B = total_B + np.where(times_BN[:, n], 0, product_B)
        product_B = np.where(times_BN[:, n], product_B, 1) * factor_BN[:, n] % MODULUS
    return (total_B + product_B) % MODULUS


def share_of_zero(numbers: int) -> float:
    """Exact share of expressions worth 0, with 1..numbers numbers: the likeliest value at every length.

    So it is also the best that a model can do that knows only the length. Follows the probabilities of the
    25 states (sum so far, product under way).

    >>> round(share_of_zero(2), 6)  # 1/5 of the single numbers; 1/5, 1/5 and 9/25 of + - *
    0.226667
    """
    state_SP = np.zeros((MODULUS, MODULUS))
    state_SP[0] = 1 / MODULUS
    total = 0.0
    for _ in range(numbers):
        total += sum(float(state_SP[s, -s % MODULUS]) for s in range(MODULUS))
        state_SP = _next(state_SP)
    return total / numbers


def _next(state_SP: np.ndarray) -> np.ndarray:
    """Probabilities after one more operator and number."""
    after_SP = np.zeros_like(state_SP)
    for (s, p), probability in np.ndenumerate(state_SP):
        for number in range(MODULUS):
            share = probability / (OPERATORS * MODULUS)
            after_SP[s, p * number % MODULUS] += share
            after_SP[(s + p) % MODULUS, number] += share
            after_SP[(s + p) % MODULUS, -number % MODULUS] += share
    return after_SP
