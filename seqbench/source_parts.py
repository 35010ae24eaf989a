"""All texts of a source with their classes, and the parts they are cut into, to train and to be tested on."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Mapping
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from seqbench import text
from seqbench.errors import UsageError
from seqbench.seeds import stream
from seqbench.source_rows import Row

Index = npt.NDArray[np.int64]

TEST_SHARE = 0.2  # cut off from a source without a test split
_SPLIT_SEED = 0  # the cut is the same for every seed and model
_MOST_SHOWN_CLASSES = 20
_SHOWN_LABEL = 40
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


class LabelledTexts:
    """All texts of a source, checked and tokenised, their labels, and which split each came from.

    Attributes:
        where: what the source is called in errors.
        texts: the tokenised texts; nothing else is kept of a text but a hash.
        told_by: what tells the classes, for errors.
    """

    def __init__(
        self, where: str, texts: text.Interned | text.LastBytes, told_by: str = "task.label_column"
    ) -> None:
        self.where, self.texts, self.told_by = where, texts, told_by
        self._number: dict[str, int] = {}  # of each label, in the order of first sight
        self._labels = array("i")
        self._hashes = array("Q")
        self._splits: dict[str, Index] = {}

    def read(self, split: str, rows: Iterator[Row]) -> None:
        """Append a split; "train" comes first.

        Raises:
            UsageError: an unusable row, or a class that training does not show.
        """
        before = len(self._labels)
        for row in rows:
            if split != "train" and row.label not in self._number:
                raise UsageError(
                    f"{row.place}: class {_shown(row.label)} is in the {split} split and not in the training "
                    "split: add rows of it there, or take this one out"
                )
            self._labels.append(self._number.setdefault(row.label, len(self._number)))
            digest = hashlib.blake2b(row.text.encode(), digest_size=8).digest()
            self._hashes.append(int.from_bytes(digest, "little"))
            self.texts.add(row.text)
        self._splits[split] = np.arange(before, len(self._labels))
        if before == len(self._labels):
            raise UsageError(f"{self.where}: split '{split}' has no rows: give it some")

    def classes(self) -> list[str]:
        """The labels in order, by number where all are whole numbers; their places are the targets.

        Raises:
            UsageError: fewer than two, or one number written in two ways.
        """
        if len(self._number) < 2:
            only = ", ".join(map(_shown, self._number))
            raise UsageError(
                f"{self.where}: 1 class ({only}), expected 2 or more: add texts of another class, or check "
                f"what tells the classes ({self.told_by})"
            )
        self._refuse_two_spellings()
        if all(_WHOLE_NUMBER.fullmatch(label) for label in self._number):
            return sorted(self._number, key=int)
        return sorted(self._number)

    def _refuse_two_spellings(self) -> None:
        seen: dict[Decimal, str] = {}
        for label in filter(_NUMBER.fullmatch, self._number):
            other = seen.setdefault(Decimal(label), label)
            if other != label:
                raise UsageError(
                    f"{self.where}: labels {_shown(other)} and {_shown(label)} are one number, written in "
                    "two ways: write it in one"
                )

    def targets(self) -> Index:
        """The class of each text, from 0 on."""
        place = {label: target for target, label in enumerate(self.classes())}
        of_number = np.array([place[label] for label in self._number], dtype=np.int64)
        return of_number[np.array(self._labels, dtype=np.int64)]

    def parts(self, valid_share: float) -> dict[str, Index]:
        """Row numbers of "train", "valid" and "test"; what the source does not give is cut off from train.

        Raises:
            UsageError: a part would lack a class, or most training texts have no word.
        """
        targets = self.targets()
        parts = dict(self._splits)
        lacks = [part for part in ("test", "valid") if part not in parts]
        for split, rows in parts.items():
            self._refuse_few(split, targets[rows], lacks if split == "train" else [])
        rng = stream(_SPLIT_SEED, "split")
        for part in lacks:
            share = TEST_SHARE if part == "test" else valid_share
            rest, cut = text.stratified(targets[parts["train"]], share, rng)
            parts["train"], parts[part] = parts["train"][rest], parts["train"][cut]
        self._refuse_wordless(parts["train"])
        return {part: parts[part] for part in ("train", "valid", "test")}

    def _refuse_few(self, split: str, targets: Index, cuts: list[str]) -> None:
        """Each class must occur once, and once more for each part that is cut off."""
        least = 1 + len(cuts)
        counts = np.bincount(targets, minlength=len(self._number)).tolist()
        few = [(label, n) for label, n in zip(self.classes(), counts, strict=True) if n < least]
        if not few:
            return
        label, count = few[0]
        others = f"; {len(few) - 1} more of {len(counts)} classes have too few" if len(few) > 1 else ""
        why = {"": "", "test": " (to train and test on)", "valid": " (to train and validate on)"}.get(
            "".join(cuts), " (to train, validate and test on)"
        )
        raise UsageError(
            f"{self.where}: class {_shown(label)} has {count} row{'s' * (count != 1)} in the {split} split, "
            f"needs {least}{why}{others}: give it more rows, take the class out, or check what tells the "
            f"classes ({self.told_by})"
        )

    def _refuse_wordless(self, train: Index) -> None:
        """Without words a network would be trained on nothing but the unknown word."""
        without = int(self.texts.empty[train].sum())
        if 2 * without > len(train):
            raise UsageError(
                f"{self.where}: {without:,} of {len(train):,} training texts have no word (letters, digits, "
                "'!' or '?'): set task.tokens=byte, which reads any text"
            )

    def notes(self, parts: Mapping[str, Index]) -> dict[str, int | float]:
        """Counts about the data, by what they count."""
        names = {"train": "training", "valid": "validation", "test": "test"}
        notes: dict[str, int | float] = {
            f"texts in the {names[part]} part": len(rows) for part, rows in parts.items()
        }
        notes |= self._class_notes()
        notes["texts without a word"] = int(self.texts.empty.sum())
        hashes = np.array(self._hashes, dtype=np.uint64)
        train, valid, test = (hashes[parts[part]] for part in names)
        seen = np.concatenate([train, valid])
        notes["texts of the validation part that stand in training too"] = int(np.isin(valid, train).sum())
        notes["texts of the test part that stand in the others too"] = int(np.isin(test, seen).sum())
        return notes

    def _class_notes(self) -> dict[str, int | float]:
        counts = np.bincount(self.targets()).tolist()
        if len(counts) > _MOST_SHOWN_CLASSES:
            return {
                "classes": len(counts),
                "texts of the smallest class": min(counts),
                "texts of the largest class": max(counts),
            }
        return {f"texts of class {_shown(label)}": n for label, n in zip(self.classes(), counts, strict=True)}


def _shown(label: str) -> str:
    """A label as it may stand in a message.

    >>> _shown("pos"), _shown("x" * 99)
    ("'pos'", "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'")
    """
    return repr(label if len(label) <= _SHOWN_LABEL else f"{label[:_SHOWN_LABEL]}...")
