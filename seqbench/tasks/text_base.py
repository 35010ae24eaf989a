"""What tasks on labelled texts share: tokens, parts and the cache, for any number of classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from seqbench import source, source_hub, store, text
from seqbench.batch import TokenRows
from seqbench.cache import Cached, DamagedCache, save
from seqbench.errors import UsageError
from seqbench.schema import setting
from seqbench.source import LocalFiles
from seqbench.source_hub import HubDataset
from seqbench.source_parts import TEST_SHARE, Index, LabelledTexts
from seqbench.source_rows import Columns, Row
from seqbench.tasks.base import Data, FixedData, TaskConfig

CACHE_VERSION = 3  # changes whenever the same settings and files would give other arrays
VOCABULARY = 20_000
LONGEST = {"word": 256, "byte": 1024}
_AT_ONCE = 2048  # sequences
_FIELDS = ("tokens", "offsets", "targets")  # of TokenRows


@dataclass
class TextTask(TaskConfig):
    """Texts with one class each, read once and cached as token ids.

    A subclass says which columns are read, :meth:`columns`, and what data set of the hub where there is no
    path, :meth:`pinned`.
    """

    needs_preparation: ClassVar[bool] = True

    path: str | None = setting(None, "local data: a file or a folder")
    tokens: str = setting("word", "what a text is cut into", choices=("word", "byte"))
    vocabulary: int | None = setting(
        None,
        "ids of words: padding, unknown, and the most frequent of the training part; null: 20,000",
        minimum=3, maximum=1_000_000,
    )  # fmt: skip
    # Which end to keep was measured on IMDb with the bag on validation: last 256 words 0.894, first 256 words
    # 0.889, first 64 and last 192 words 0.892, last 400 words 0.896 (one seed; a verdict stands at the end).
    max_tokens: int | None = setting(
        None, "longest text; of longer ones the last tokens are kept; null: 256 words or 1,024 bytes",
        unit="tokens", minimum=1,
    )  # fmt: skip
    valid_share: float = setting(
        0.1, "share of the training split that is cut off for validation, unless a validation split is given",
        minimum=0.001, maximum=0.9,
    )  # fmt: skip

    def columns(self) -> Columns:
        """Which columns are read."""
        raise NotImplementedError

    def pinned(self) -> HubDataset:
        """The data set on the hub that is read where there is no path."""
        raise NotImplementedError

    def needed_splits(self) -> Collection[str]:
        """Splits that a data set on the hub must have."""
        return ("train",)

    def check(self) -> None:
        """Refuse what is not there; all else about the data is checked when it is prepared."""
        if self.tokens == "byte" and self.vocabulary is not None:
            raise UsageError(
                f"task.vocabulary={self.vocabulary}: bytes need none: leave it out, or set task.tokens=word"
            )
        if self.path is not None:
            self.files()
        else:
            self.pinned().check()

    def files(self) -> LocalFiles:
        """The local files."""
        return source.find_files(self.local)

    @property
    def local(self) -> Path:
        """The local file or folder."""
        if not self.path:
            raise UsageError("task.path=: expected a file or folder: give one")
        try:
            return Path(self.path).expanduser()
        except RuntimeError as error:
            raise UsageError(f"task.path={self.path}: no such user: write the path out") from error

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        return LONGEST[self.tokens] if self.max_tokens is None else self.max_tokens

    @property
    def vocabulary_limit(self) -> int:
        """Most ids of words."""
        return VOCABULARY if self.vocabulary is None else self.vocabulary

    def cost(self) -> float:
        return float(self.longest)

    def variant(self) -> str:
        """What the tokens are, as part of an id."""
        words = self.tokens == "word"
        return f"word-{self.vocabulary_limit}-{self.longest}" if words else f"byte-{self.longest}"

    def described_tokens(self) -> str:
        """What the tokens are, in words."""
        if self.tokens == "byte":
            return (
                "bytes of the text in UTF-8 as it stands, id = byte + 1; the last "
                f"{self.longest:,} bytes of each text"
            )
        return (
            "lower-case words (runs of letters and digits), '!' and '?', while all else only separates; "
            f"the {self.vocabulary_limit - text.FIRST_WORD:,} most frequent words of the training part, and "
            f"one id for all others; the last {self.longest:,} words of each text"
        )

    def described_cuts(self, given: Collection[str] | None) -> str:
        """Where the parts come from, in words.

        Args:
            given: the splits of the source; None where only reading it would tell.
        """
        test, valid = f"{TEST_SHARE:.0%}", f"{100 * self.valid_share:g}%"
        how = "stratified by class, the same for every seed and model"
        if given is None:
            return (
                f"where a split is missing, {test} (test) or {valid} (validation) of the training split is "
                f"cut off as one, {how}"
            )
        if "test" in given and "valid" in given:
            return "training, validation and test part are the given splits"
        if "test" in given:
            return f"{valid} of the training split is cut off as the validation part, {how}"
        if "valid" in given:
            return f"{test} of the training split is cut off as the test part, {how}"
        return (
            f"{test} of the data is cut off as the test part, then {valid} of the rest as the validation "
            f"part, {how}"
        )

    def files_if_there(self) -> LocalFiles | None:
        """The local files; None where there are none, for a card can be made when the data is gone."""
        try:
            return None if self.path is None else self.files()
        except UsageError:
            return None

    def prepare(self, cache: Path) -> None:
        try:
            Cached(self.cache_file(cache)).verify()
        except (FileNotFoundError, DamagedCache):
            self._build(cache)

    def open(self, seed: int, cache: Path) -> Data:
        self.check()
        try:
            splits = CachedSplits(Cached(self.cache_file(cache)))
            splits["train"], splits["valid"]
        except (FileNotFoundError, DamagedCache):
            self._build(cache)
            splits = CachedSplits(Cached(self.cache_file(cache)))
        facts = splits.facts
        data = FixedData(splits, facts["vocabulary_size"], len(facts["classes"]), seed)
        data.floors = {"majority class": facts["test_majority"]}
        data.notes = facts["notes"]
        return data

    def cache_file(self, cache: Path) -> Path:
        """The cache file, named after everything that decides its content."""
        parts = {
            "cache": CACHE_VERSION,
            "tokeniser": text.TOKENISERS[self.tokens],
            "variant": self.variant(),
            "valid_share": self.valid_share,
            "columns": dataclasses.asdict(self.columns()),
            "data": self.fingerprint(),
        }
        return cache / self.name / f"{store.digest(parts)[:24]}.npz"

    def fingerprint(self) -> list[str]:
        """What identifies the data: the pinned commit, or the content of every local file."""
        if self.path is not None:
            return source.fingerprint(self.files())
        hub = self.pinned()
        return [hub.name, hub.revision, *([] if hub.subset is None else [hub.subset])]

    def _build(self, cache: Path) -> None:
        """Read, tokenise, cut and encode the texts, and cache the arrays."""
        file = self.cache_file(cache)
        texts = self._read()
        parts = texts.parts(self.valid_share)
        encoded, kept = self._encoded(texts, parts["train"])
        if self.cache_file(cache) != file:
            raise UsageError(f"{texts.where}: the data changed while it was read: start again")
        cut = {part: _gathered(encoded, index) for part, index in parts.items()}
        arrays = {f"{part}_{f}": getattr(rows, f) for part, rows in cut.items() for f in _FIELDS}
        arrays["words"] = np.frombuffer("\n".join(kept).encode(), dtype=np.uint8)
        words = self.tokens == "word"
        facts = {
            "vocabulary_size": len(kept) + text.FIRST_WORD if words else text.BYTES,
            "classes": texts.classes(),
            "rows": {part: len(index) for part, index in parts.items()},
            "test_majority": float(np.bincount(cut["test"].targets).max() / len(parts["test"])),
            "notes": texts.notes(parts) | (_unknown_note(cut["valid"]) if words else {}),
        }
        save(file, arrays, facts)

    def _read(self) -> LabelledTexts:
        """All texts of the source."""
        where = self.pinned().name if self.path is None else self.path
        kind = text.Interned() if self.tokens == "word" else text.LastBytes(self.longest)
        by_folder = self.path is not None and self.files().per_class
        texts = LabelledTexts(where, kind, "a folder per class" if by_folder else "task.label_column")
        for split, rows in self._rows().items():
            texts.read(split, rows)
        return texts

    def _encoded(self, texts: LabelledTexts, train: Index) -> tuple[TokenRows, list[str]]:
        """All texts as ids, and the words of the vocabulary, if there is one."""
        if isinstance(texts.texts, text.LastBytes):
            return texts.texts.encode(texts.targets()), []
        kept = text.vocabulary(texts.texts, train, self.vocabulary_limit)
        return text.encode(texts.texts, kept, texts.targets(), self.longest), kept

    def _rows(self) -> dict[str, Iterator[Row]]:
        if self.path is None:
            return source_hub.read_hub(self.pinned(), self.columns(), self.needed_splits())
        splits = self.files().splits
        return {split: source.read_files(files, self.columns()) for split, files in splits.items()}


def _gathered(rows: TokenRows, index: Index) -> TokenRows:
    """The sequences at ``index``, some at a time: numbers of tokens take eight times as much as bytes."""
    some = [rows.subset(index[start : start + _AT_ONCE]) for start in range(0, len(index), _AT_ONCE)]
    lengths = np.concatenate([part.lengths for part in some])
    return TokenRows(
        np.concatenate([part.tokens for part in some]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rows.targets[index],
    )


def _unknown_note(valid: TokenRows) -> dict[str, int | float]:
    """How much of held-out text the vocabulary does not cover."""
    share = float((valid.tokens == text.UNKNOWN).mean())
    return {"unknown words in the validation part (share)": round(share, 3)}


class CachedSplits(Mapping[str, TokenRows]):
    """The parts of a cached data set; each is read when it is asked for, so the test part only at the end."""

    def __init__(self, cached: Cached) -> None:
        self._cached = cached
        self.facts = cached.facts
        self._read: dict[str, TokenRows] = {}

    def __getitem__(self, part: str) -> TokenRows:
        if part not in self._read:
            self._read[part] = TokenRows(**{field: self._cached[f"{part}_{field}"] for field in _FIELDS})
        return self._read[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts["rows"])

    def __len__(self) -> int:
        return len(self.facts["rows"])
