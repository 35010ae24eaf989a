"""Spelling: one number in, its English name out, character by character, then stop."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqbench.batch import PADDING, UNSCORED, Batch, Bools, Ints, TokenRows
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.tasks.base import Card, Data, FixedData, TaskConfig

STOP = ""  # the answer after the last character; class 0
_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spelled(number: int) -> str:
    """The English name of a number from 0 to 999.

    >>> [spelled(n) for n in (0, 13, 40, 42, 115)]
    ['zero', 'thirteen', 'forty', 'forty-two', 'one hundred fifteen']
    """
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    if hundreds:
        return f"{_SMALL[hundreds]} hundred" + (f" {spelled(rest)}" if rest else "")
    if rest < len(_SMALL):
        return _SMALL[rest]
    return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")


@register("task")
@dataclass
class Spell(TaskConfig):
    """One number in, its English spelling out, character by character, then stop (one-to-many).

    A number is ONE token: that is what one-to-many means, and it leaves nothing to generalise from, since a
    number that was never seen has an embedding that was never trained. So the numbers are a finite set, all
    of them are trained on and all of them are the test: what is compared is unrolling a long answer from a
    single input. Characters said before are not fed back, and every sequence is as long as the longest
    answer, so that its length does not tell where to stop.

    Ids: number + 1, then "go on"; classes: stop, then the characters in the order of their codes.

    Example, number 42, ``>`` for "go on", ``$`` for stop, ``.`` where nothing is asked any more:

        reads    42 > > > > > > > > > > > > >
        answers  f o r t y - t w o $ . . . .
    """

    name: str = "spell"
    solved_at: float | None = setting(0.998, "held-out accuracy, twice in a row, that counts as solved")
    largest: int = setting(99, "numbers go from 0 to this", minimum=1, maximum=999)

    @property
    def answers(self) -> list[list[str]]:
        """What is asked for each number: its characters, then stop."""
        return [[*spelled(number), STOP] for number in range(self.largest + 1)]

    @property
    def alphabet(self) -> list[str]:
        """The classes: stop, then every character that occurs."""
        return sorted({character for answer in self.answers for character in answer})

    @property
    def vocabulary_size(self) -> int:
        """One id per number, "go on", and padding."""
        return 1 + (self.largest + 1) + 1

    @property
    def classes(self) -> int:
        """Number of possible answers."""
        return len(self.alphabet)

    def card(self) -> Card:
        answers = self.answers
        steps = max(map(len, answers))
        return Card(
            id=f"spell/0-{self.largest}",
            tests="unrolling a long answer from one input",
            definition=(
                f'the number 0..{self.largest}, one token, then {steps - 1} times the token "go on"; from '
                "the number on, each position asks for the next character of its English name (hyphens and "
                f"spaces too: forty-two, one hundred fifteen), then for stop; {len(self.alphabet)} classes; "
                "nothing is asked after stop; answers are not fed back. Training, validation and test are "
                f"the same {len(answers):,} numbers: one never seen could not be spelled, so memorising is "
                "the task"
            ),
            source="seqbench; no published counterpart",
            floors=floors(answers),
            answers="one-to-many",
            loss="cross-entropy at every character and at stop",
        )

    def open(self, seed: int, cache: Path) -> Data:
        answers, classes = self.answers, {character: i for i, character in enumerate(self.alphabet)}
        steps = max(map(len, answers))
        ids_NT = np.full((len(answers), steps), self.vocabulary_size - 1)
        ids_NT[:, 0] = 1 + np.arange(len(answers))
        targets_NT = np.full_like(ids_NT, UNSCORED)
        for target_T, answer in zip(targets_NT, answers, strict=True):
            target_T[: len(answer)] = [classes[character] for character in answer]
        rows = TokenRows(ids_NT.reshape(-1), np.arange(len(answers) + 1) * steps, targets_NT)
        return FixedData(
            dict.fromkeys(("train", "valid", "test"), rows), self.vocabulary_size, self.classes, seed
        )

    def oracle(self, batch: Batch) -> Ints:
        """Look the number up in a list of names put together from word stems."""
        answers_NT = answer_table(self.largest)
        return answers_NT[batch.ids_BT[:, 0] - 1, : batch.ids_BT.shape[1]]

    def relevant(self, batch: Batch) -> Bools:
        """The number: it decides when to stop, as it decides all else."""
        relevant_BT: Bools = (batch.ids_BT != PADDING) & (np.arange(batch.ids_BT.shape[1]) == 0)
        return relevant_BT


@functools.cache
def answer_table(largest: int) -> Ints:
    """The classes asked for each number, ``(N, T)``; written apart from :func:`spelled`, to check it.

    >>> answer_table(1).tolist()  # stop, then e n o r z: zero, one
    [[5, 1, 4, 3, 0], [3, 2, 1, 0, -1]]
    """
    units = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    stems = ["six", "seven", "eigh", "nine"]
    teens = ["ten", "eleven", "twelve", *(f"{stem}teen" for stem in ["thir", "four", "fif", *stems])]
    tens = [f"{stem}ty" for stem in ["twen", "thir", "for", "fif", *stems]]
    names = units + teens + [f"{ten}-{unit}".removesuffix("-zero") for ten in tens for unit in units]
    names += [f"{unit} hundred {name}".removesuffix(" zero") for unit in units[1:] for name in names]
    names = names[: largest + 1]
    order = sorted(set("".join(names)))
    table_NT = np.full((len(names), max(map(len, names)) + 1), UNSCORED)
    for row_T, name in zip(table_NT, names, strict=True):
        row_T[: len(name) + 1] = [*(1 + order.index(character) for character in name), 0]
    return table_NT


def floors(answers: list[list[str]]) -> dict[str, float]:
    """Shares of all answers that are right without looking at the number; counted, so exact.

    >>> floors([["a", "b", ""], ["a", "c", ""]])
    {'chance': 0.25, 'majority class': 0.3333333333333333, 'majority per step': 0.8333333333333334}
    """
    steps = max(map(len, answers))
    columns = [[answer[step] for answer in answers if len(answer) > step] for step in range(steps)]
    everything = [character for column in columns for character in column]
    right = [Counter(column).most_common(1)[0][1] for column in (everything, *columns)]
    return {
        "chance": 1 / len(set(everything)),
        "majority class": right[0] / len(everything),
        "majority per step": sum(right[1:]) / len(everything),
    }
