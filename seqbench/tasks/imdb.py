"""Sentiment of film reviews: real text, real length, and a bag of words that is hard to beat."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from seqbench import source, store, text
from seqbench.batch import TokenRows
from seqbench.cache import Cached, DamagedCache, save
from seqbench.errors import UsageError
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.seeds import stream
from seqbench.source import Columns, HubDataset, Row
from seqbench.tasks.base import Card, Data, FixedData, TaskConfig

HUB = HubDataset("stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31")
CACHE_VERSION = 2  # changes whenever the same settings and files would give other arrays
PUBLISHED = (  # SHA-256 of the two files of that revision: a local copy of them is the published data set
    "train .parquet d35bcc1528ce001711c7356e455d997a20b5a46618eeee70fcfb19d79a391ace",
    "test .parquet b83160d6403790d70196a2fc8e5c9601b79ddc97080930beeb3bfe7eac3aa8e8",
)
TEST_SHARE = 0.2  # cut from a source without a test split
_FIELDS = ("tokens", "offsets", "targets")  # of TokenRows
_SPLIT_SEED = 0  # the cut is the same for every seed and model


@register("task")
@dataclass
class IMDb(TaskConfig):
    """Positive or negative? 25,000 film reviews to learn from and 25,000 to be tested on (many-to-one).

    Example: "What a waste. Not even the dog could act." is ``what a waste not even the dog could act``, as
    ids; the answer is 0, negative.
    """

    needs_preparation: ClassVar[bool] = True

    name: str = "imdb"
    path: str | None = setting(
        None, "Parquet, CSV or JSONL file, or folder with train* and test* files; null: from the hub"
    )
    text_column: str = setting("text", "column that holds the text")
    label_column: str = setting("label", "column that holds the class, a whole number or a name")
    vocabulary: int = setting(
        20_000, "token ids: padding, unknown, and the most frequent words of the training part", minimum=3,
        maximum=1_000_000,
    )  # fmt: skip
    # Which end to keep was measured with the bag on validation: last 256 words 0.894, first 256 words 0.889,
    # first 64 and last 192 words 0.892, last 400 words 0.896 (one seed; a verdict stands at the end).
    max_tokens: int = setting(
        256, "longest review; of longer ones the last words are kept", unit="words", minimum=1
    )
    valid_share: float = setting(
        0.1, "share of the training split that is kept apart for validation", minimum=0.001, maximum=0.9
    )

    def check(self) -> None:
        """A path must hold a training split; all else about the data is checked when it is prepared."""
        if self.path is None:
            return
        if not self._local.exists():
            raise UsageError(f"task.path={self.path}: no such file or folder; leave it out to use the hub")
        source.split_files(self._local)

    def card(self) -> Card:
        published = self._is_published()
        return Card(
            id=f"imdb/word-{self.vocabulary}-{self.max_tokens}"
            + ("" if published else f"@{self._local.name}"),
            tests="sentiment of real reviews, most of which a bag of words tells"
            if published
            else "telling two classes of texts apart",
            definition=(
                f"Data: {self._origin()}; lower-case words, '!' and '?'; "
                f"the {self.vocabulary - text.FIRST_WORD:,} most frequent words of the training part; "
                f"the last {self.max_tokens} words of each review; "
                f"{self.valid_share:.0%} of the training split, the same for every seed, is validation; the "
                "test split is read once, after training"
            ),
            source="Maas et al. 2011, Learning Word Vectors for Sentiment Analysis (ACL), section 4.1"
            if published
            else f"local data {self._local.name}",
            floors={"chance": 0.5} if published else {},
            reference_points={
                "LSTM, full length (Raschka et al. 2022, ch. 15)": 0.8598,
                "BiLSTM, full length (Raschka et al. 2022, ch. 15)": 0.8566,
                "bag of embeddings (pytorch-sentiment-analysis tutorial)": 0.858,
                "BiLSTM (pytorch-sentiment-analysis tutorial)": 0.862,
                "CNN (pytorch-sentiment-analysis tutorial)": 0.875,
            }
            if published
            else {},
        )

    @property
    def _local(self) -> Path:
        return Path(self.path or "").expanduser()

    def _is_published(self) -> bool:
        """Whether this is the published data set, judged by content; other data gets an id of its own."""
        return self.path is None or self.fingerprint() == list(PUBLISHED)

    def _origin(self) -> str:
        if self.path is None:
            return f"{HUB.name} from the hub, revision {HUB.revision[:7]}, splits train and test"
        if self._local.is_dir() and "test" in source.split_files(self._local):
            return f"splits train and test of the local folder {self._local.name}"
        return (
            f"local {self._local.name} without a test split: {TEST_SHARE:.0%}, stratified, is cut off as one"
        )

    def prepare(self, cache: Path) -> None:
        try:
            Cached(self._file(cache)).verify()
        except (FileNotFoundError, DamagedCache):
            self._build(cache)

    def open(self, seed: int, cache: Path) -> Data:
        self.check()
        try:
            splits = CachedSplits(Cached(self._file(cache)))
            splits["train"], splits["valid"]
        except (FileNotFoundError, DamagedCache):
            self._build(cache)
            splits = CachedSplits(Cached(self._file(cache)))
        facts = splits.facts
        data = FixedData(splits, facts["vocabulary_size"], len(facts["classes"]), seed)
        data.notes = {name: facts[name] for name in ("without_words", "test_texts_also_in_train")}
        if not self._is_published():
            data.floors = {"majority class": facts["test_majority"]}
        return data

    def _file(self, cache: Path) -> Path:
        """The cache file, named after everything that decides its content."""
        settings = dataclasses.asdict(self)
        for unrelated in ("name", "solved_at", "path"):
            del settings[unrelated]
        parts = {"cache": CACHE_VERSION, "tokeniser": text.TOKENISER, "settings": settings}
        return cache / "imdb" / f"{store.digest({**parts, 'data': self.fingerprint()})[:24]}.npz"

    def fingerprint(self) -> list[str]:
        """What identifies the data: the pinned revision, or the content of every local file."""
        if self.path is None:
            return [HUB.name, HUB.revision]
        return [
            f"{split} {file.suffix} {_sha256(file)}"
            for split, files in source.split_files(self._local).items()
            for file in files
        ]

    def _build(self, cache: Path) -> None:
        """Read, tokenise, cut and encode the reviews, and cache the arrays."""
        reviews = Reviews(self.path if self.path is not None else HUB.name)
        for split, rows in self._rows(Columns(self.text_column, self.label_column)).items():
            reviews.read(split, rows)
        parts = reviews.parts(self.valid_share)
        kept = text.vocabulary(reviews.texts, parts["train"], self.vocabulary)
        encoded = text.encode(reviews.texts, kept, reviews.targets(), self.max_tokens)
        arrays = {f"{part}_{f}": getattr(encoded.subset(parts[part]), f) for part in parts for f in _FIELDS}
        arrays["words"] = np.frombuffer("\n".join(kept).encode(), dtype=np.uint8)
        facts = {
            "vocabulary_size": len(kept) + text.FIRST_WORD,
            "classes": reviews.classes(),
            "rows": {part: len(index) for part, index in parts.items()},
            "without_words": int((np.diff(reviews.texts.offsets) == 0).sum()),
            "test_texts_also_in_train": reviews.shared,
            "test_majority": float(np.bincount(reviews.targets()[parts["test"]]).max() / len(parts["test"])),
        }
        save(self._file(cache), arrays, facts)

    def _rows(self, columns: Columns) -> dict[str, Iterator[Row]]:
        if self.path is None:
            return source.read_hub(HUB, columns)
        files = source.split_files(self._local)
        return {split: source.read_files(paths, columns) for split, paths in files.items()}


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


class Reviews:
    """All reviews of a source, checked: tokenised texts, labels, and which split each came from."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.texts = text.Interned()
        self.shared = 0  # test texts that stand in the training split too: counted, never removed
        self._labels: list[int | str] = []
        self._sizes: dict[str, int] = {}
        self._seen: set[bytes] = set()

    def read(self, split: str, rows: Iterator[Row]) -> None:
        """Append a split; "train" comes first.

        Raises:
            UsageError: an empty split, a text without a visible character, or an unusable label.
        """
        before = len(self._labels)
        for row in rows:
            self._add(split, row)
        self._sizes[split] = len(self._labels) - before
        if not self._sizes[split]:
            raise UsageError(f"{self.where}: split '{split}' has no rows: give it some")

    def _add(self, split: str, row: Row) -> None:
        if not row.text.strip():
            raise UsageError(f"{row.place}: the text is empty: remove the row or write its text")
        digest = hashlib.blake2b(row.text.encode(errors="surrogatepass"), digest_size=12).digest()
        if split == "train":
            self._seen.add(digest)
        else:
            self.shared += digest in self._seen
        self.texts.add(row.text)
        self._labels.append(row.label)

    def classes(self) -> list[int | str]:
        """The two labels in sorted order; their places are the targets.

        Raises:
            UsageError: not exactly two, or numbers mixed with names.
        """
        found = set(self._labels)
        shown = ", ".join(sorted(map(repr, found))[:5]) + (", ..." if len(found) > 5 else "")
        if len({isinstance(label, str) for label in found}) > 1:
            raise UsageError(f"{self.where}: labels mix numbers and names ({shown}): use one kind")
        if len(found) != 2:
            raise UsageError(
                f"{self.where}: {len(found)} class{'es' * (len(found) > 1)} ({shown}), expected 2: "
                "set task.label_column to a column with two values"
            )
        return sorted(found)

    def targets(self) -> npt.NDArray[np.int64]:
        """The class of each review, 0 or 1."""
        classes = self.classes()
        return np.array([classes.index(label) for label in self._labels], dtype=np.int64)

    def parts(self, valid_share: float) -> dict[str, npt.NDArray[np.int64]]:
        """Row numbers of "train", "valid" and "test"; a test part is cut where the source has none.

        Raises:
            UsageError: a part would lack one of the classes.
        """
        targets = self.targets()
        rng = stream(_SPLIT_SEED, "split")
        train = np.arange(self._sizes["train"])
        test = np.arange(len(train), len(targets))
        cuts = 1 if len(test) else 2
        self._refuse_few("training split", targets[train], cuts + 1)
        if not len(test):
            train, test = text.stratified(targets, TEST_SHARE, rng)
        self._refuse_few("test split", targets[test], 1)
        rest, valid = text.stratified(targets[train], valid_share, rng)
        return {"train": train[rest], "valid": train[valid], "test": test}

    def _refuse_few(self, part: str, targets: npt.NDArray[np.int64], least: int) -> None:
        """Each class must occur at least ``least`` times."""
        for label, count in zip(self.classes(), np.bincount(targets, minlength=2).tolist(), strict=True):
            if count < least:
                raise UsageError(
                    f"{self.where}: {part} has {count} rows of class {label!r}, needs {least}: give more rows"
                )


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}: make it readable") from error
