"""Predicting the next character of any text: the many-to-many task that needs no labels."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from seqbench import source, store
from seqbench.batch import PADDING, UNSCORED, Batch, Ints, trim
from seqbench.cache import Array, Cached, DamagedCache, save
from seqbench.errors import UsageError
from seqbench.metric import BITS
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.seeds import stream
from seqbench.source_formats import read_txt
from seqbench.tasks.base import EVAL_BATCH, Card, Data, TaskConfig, Writer

CACHE_VERSION = 1  # changes whenever the same settings and file would give other arrays or floors
UNKNOWN = 1  # id of a character that the training part does not hold
FIRST = 2  # id of the first known character
_MOST_CHARACTERS = 20_000
_FEWEST_WINDOWS = 2  # of every part


@register("task")
@dataclass
class CharLM(TaskConfig):
    """What is the next character? Any text file, read left to right (many-to-many).

    Example, window 4, of the text "to be": the ids of ``to b`` are asked for ``o be``, one answer at every
    position. Ids: 0 padding, 1 a character that training never showed, then characters by code point.
    """

    forbids_looking_ahead: ClassVar[bool] = True
    needs_preparation: ClassVar[bool] = True

    name: str = "charlm"
    solved_at: float | None = setting(
        None, "held-out bits per character, twice in a row, that count as solved; null: never", minimum=0.0
    )
    path: str | None = setting(None, "text file in UTF-8")
    window: int = setting(128, "characters that are read at once", unit="characters", minimum=2)
    valid_share: float = setting(
        0.05, "share of the text, after the training part, for validation", minimum=0.001, maximum=0.4
    )
    test_share: float = setting(0.05, "share at the end of the text for the test", minimum=0.001, maximum=0.4)

    def check(self) -> None:
        """A path is needed; what is in the file is checked when it is prepared."""
        if self.path is None:
            raise UsageError("task.path is missing: task=charlm reads a text file: add task.path=FILE")
        try:
            found = self._file.stat()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"task.path={self.path}: {reason}: give a text file that is there") from error
        if stat.S_ISDIR(found.st_mode):
            raise UsageError(f"task.path={self.path}: a folder, expected a text file: give one")
        if stat.S_ISREG(found.st_mode) and not found.st_size:
            raise UsageError(f"task.path={self.path}: the file is empty: give one with text")
        source.content_sha256(self._file)  # refuses pipes, devices and what may not be read

    def cost(self) -> float:
        return float(self.window)

    def card(self) -> Card:
        return Card(
            id=f"charlm/{self.window}@{self._file.name}",
            tests="knowing which characters follow which, as far back as a window reaches",
            definition=(
                f"Data: {self._file.name}; in order, {100 * (1 - self.valid_share - self.test_share):g}% "
                f"training, {100 * self.valid_share:g}% validation and {100 * self.test_share:g}% test; "
                f"training windows of {self.window} characters start anywhere, those of validation and test "
                "stand side by side; each is read without what came before it, and every position is asked "
                "for the character after it; the floors know how frequent characters, and pairs of them, are "
                "in the training part, one added to each count"
            ),
            source=f"local text {self._file.name}",
            floors={},
            answers="many-to-many",
            metric=BITS.name,
            loss="cross-entropy at every position",
        )

    @property
    def _file(self) -> Path:
        """The text file; some name where no path is given, for a card can be made without."""
        if self.path is not None and not self.path:
            raise UsageError("task.path=: expected a text file: give one")
        try:
            return Path(self.path or "text").expanduser()
        except RuntimeError as error:
            raise UsageError(f"task.path={self.path}: {error}: write the path out") from error

    def fingerprint(self) -> list[str]:
        return [source.content_sha256(self._file)] if self.path is not None else []

    def prepare(self, cache: Path) -> None:
        self._prepared(cache)

    def open(self, seed: int, cache: Path) -> Data:
        return Characters(Cached(self._prepared(cache)), self.window, seed)

    def _prepared(self, cache: Path) -> Path:
        """The verified file of the cache, built if need be."""
        file = self._cached(cache)
        try:
            Cached(file).verify()
        except (FileNotFoundError, DamagedCache):
            built = self._built()
            if self._cached(cache) != file:
                raise UsageError(f"{self._file}: the text changed while it was read: start again") from None
            save(file, *built)
        return file

    def _cached(self, cache: Path) -> Path:
        settings = [self.window, self.valid_share, self.test_share]
        parts = {"cache": CACHE_VERSION, "settings": settings, "data": self.fingerprint()}
        return cache / "charlm" / f"{store.digest(parts)[:24]}.npz"

    def _built(self) -> tuple[dict[str, Array], dict[str, dict[str, float]]]:
        """The parts as ids with the characters' code points, and what the report says about them."""
        text = read_txt(self._file, "text").text
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        parts = self._parts(points)
        known = np.unique(parts["train"])
        if len(known) > _MOST_CHARACTERS:
            raise UsageError(
                f"{self._file}: {len(known):,} different characters, more than {_MOST_CHARACTERS:,}: "
                "is it a text?"
            )
        ids = {part: encoded(some, known) for part, some in parts.items()}
        notes: dict[str, float] = {f"characters in the {part} part": len(some) for part, some in ids.items()}
        notes["different characters"] = len(known)
        notes["test characters that training does not hold"] = int((ids["test"] == UNKNOWN).sum())
        floors = entropies(ids["train"], ids["test"], len(known) + FIRST)
        return {**ids, "characters": known}, {"notes": notes, "floors": floors}

    def _parts(self, points: Array) -> dict[str, Array]:
        """Training, validation and test part, in the order of the text.

        Raises:
            UsageError: the text is too short for windows of this length.
        """
        test = len(points) - round(self.test_share * len(points))
        valid = test - round(self.valid_share * len(points))
        parts = {"train": points[:valid], "valid": points[valid:test], "test": points[test:]}
        for part, some in parts.items():
            least = _FEWEST_WINDOWS * self.window + 1
            if len(some) < least:
                raise UsageError(
                    f"{self._file}: the {part} part has {len(some):,} characters, needs {least:,}: give more "
                    "text, or a smaller task.window"
                )
        return parts


def encoded(points: Array, known: Array) -> npt.NDArray[np.uint16]:
    """Ids of characters; those that are not known become :data:`UNKNOWN`."""
    place = np.searchsorted(known, points).clip(max=len(known) - 1)
    return np.where(known[place] == points, place + FIRST, UNKNOWN).astype(np.uint16)


def entropies(train: Array, test: Array, size: int) -> dict[str, float]:
    """Bits per character of the test part for players who know only how frequent things are.

    ``unigram`` knows how often each character occurs, ``bigram`` how often one follows another; both counted
    on the training part, with one added to each count, so that nothing is impossible.

    Args:
        size: ids in all, padding included.
    """
    single = np.bincount(train, minlength=size)[UNKNOWN:] + 1.0
    pairs, counts = np.unique(_pairs(train, size), return_counts=True)
    asked = _pairs(test, size)
    place = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
    seen = np.where(pairs[place] == asked, counts[place], 0) + 1.0
    before = np.bincount(train[:-1], minlength=size) + float(size - UNKNOWN)
    return {
        "unigram": float(-np.log2(single[test[1:] - UNKNOWN] / single.sum()).mean()),
        "bigram": float(-np.log2(seen / before[test[:-1]]).mean()),
    }


def _pairs(ids: Array, size: int) -> Ints:
    """Every character with the one after it, as one number."""
    wide: Ints = ids.astype(np.int64)
    return wide[:-1] * size + wide[1:]


class Characters(Data):
    """A text in three parts; the class of an answer is the id of the next character less one."""

    def __init__(self, cached: Cached, window: int, seed: int) -> None:
        self._cached, self.window, self.seed = cached, window, seed
        self._train: Ints = cached["train"].astype(np.int64)
        self.characters = "".join(map(chr, cached["characters"].tolist()))
        self.vocabulary_size = len(self.characters) + FIRST
        self.classes = self.vocabulary_size - UNKNOWN
        self.examples_per_epoch = math.ceil(len(self._train) / window)
        self.floors, self.notes = cached.facts["floors"], cached.facts["notes"]

    def train(self, batch_size: int) -> Iterator[Batch]:
        rng = stream(self.seed, "order")
        while True:
            yield self._windows(self._train, rng.integers(0, len(self._train) - self.window, batch_size))

    def held_out(self, split: str, examples: int) -> list[Batch]:
        part: Ints = self._cached[split].astype(np.int64)
        starts = np.arange(0, len(part) - 1, self.window)
        if split == "valid" and len(starts) > examples:
            starts = starts[np.linspace(0, len(starts) - 1, examples).astype(np.int64)]
        return [self._windows(part, starts[i : i + EVAL_BATCH]) for i in range(0, len(starts), EVAL_BATCH)]

    def probe(self, examples: int) -> Batch:
        part: Ints = self._cached["valid"].astype(np.int64)
        return self._windows(part, stream(self.seed, "probe").integers(0, len(part) - self.window, examples))

    def _windows(self, part: Ints, start_B: Ints) -> Batch:
        """Windows from these characters on; where the part ends earlier, as long as it goes on."""
        lengths_B = np.minimum(self.window, len(part) - 1 - start_B)
        steps_T = np.arange(self.window)
        valid_BT = steps_T < lengths_B[:, None]
        at_BT = np.where(valid_BT, start_B[:, None] + steps_T, 0)
        ids_BT = np.where(valid_BT, part[at_BT], PADDING)
        return trim(Batch(ids_BT, lengths_B, np.where(valid_BT, part[at_BT + 1] - UNKNOWN, UNSCORED)))

    def writer(self) -> Writer:
        """Goes on from the first characters of the validation part."""
        prompt_T: Ints = self._cached["valid"][: self.window // 2].astype(np.int64)
        return Writer(prompt_T, self.window, lambda answer: answer + UNKNOWN, self.spelled)

    def spelled(self, ids: Ints) -> str:
        """Ids as text; a character that training does not hold is shown as U+FFFD."""
        return "".join("\ufffd" if i < FIRST else self.characters[i - FIRST] for i in ids.tolist())
