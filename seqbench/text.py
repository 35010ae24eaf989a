"""Text to token ids: words with a vocabulary counted on training text alone, or bytes.

No torch and no data library here. Ids of words: 0 padding, 1 a word outside the vocabulary, 2 the most
frequent word. Ids of bytes: 0 padding, else the byte's value + 1.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqbench.batch import TokenRows

UNKNOWN = 1
FIRST_WORD = 2
BYTES = 257  # ids of byte tokens, padding included
TOKENISERS = {"word": "word-1", "byte": "byte-1"}  # a name changes when the same text would give other tokens
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*|[!?]")


def words(text: str) -> list[str]:
    """Split a text into lower-case words and the marks ``!`` and ``?``.

    HTML line breaks are removed first. A word is a run of letters and digits of any script, with
    apostrophes inside it; every other character only separates.

    >>> words("It's GREAT!<br /><br />10/10, well-made.")
    ["it's", 'great', '!', '10', '10', 'well', 'made']
    """
    return _TOKEN.findall(_BREAK.sub(" ", text).lower())


class Interned:
    """Tokenised texts as numbers, one number per different word, in the order of first sight.

    Texts are read once and dropped, so that a data set never stands in memory as Python strings.
    """

    def __init__(self) -> None:
        self.number: dict[str, int] = {}
        self._tokens = array("i")
        self._offsets = array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, text: str) -> None:
        """Tokenise a text and append it."""
        number = self.number
        self._tokens.extend([number.setdefault(word, len(number)) for word in words(text)])
        self._offsets.append(len(self._tokens))

    @property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Which texts have no word at all, ``(N,)``."""
        return np.asarray(np.diff(self.offsets) == 0)

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """The numbers of all texts, one text after another."""
        return np.array(self._tokens, dtype=np.int32)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each text starts; the last entry is the total."""
        return np.array(self._offsets, dtype=np.int64)

    def spelled(self) -> list[str]:
        """The word behind each number."""
        return list(self.number)


class LastBytes:
    """The last bytes of texts in UTF-8; the rest is dropped when a text is added.

    >>> texts = LastBytes(limit=3)
    >>> texts.add("a\u00e9z")
    >>> texts.encode(np.array([0])).take(np.array([0])).ids_BT.tolist()
    [[196, 170, 123]]
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes = bytearray()
        self._offsets = array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, text: str) -> None:
        """Append the end of a text, which has at least one character; it may begin inside a character."""
        self._bytes += text.encode()[-self.limit :]
        self._offsets.append(len(self._bytes))

    @property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Which texts have no byte at all: none."""
        return np.zeros(len(self), dtype=bool)

    def encode(self, targets: npt.NDArray[np.int64]) -> TokenRows:
        """All texts as ids; UTF-8 has no byte 255, so that byte + 1 fits into a byte."""
        tokens = np.frombuffer(bytes(self._bytes), dtype=np.uint8) + np.uint8(1)
        return TokenRows(tokens, np.array(self._offsets, dtype=np.int64), targets)


def vocabulary(interned: Interned, rows: npt.NDArray[np.int64], size: int) -> list[str]:
    """The most frequent words of some texts, most frequent first, ties in alphabetical order.

    Args:
        rows: the texts that are counted: the training part, never what is held out.
        size: ids in all, so that ``size - 2`` words at most are kept beside padding and unknown.

    >>> texts = Interned()
    >>> for text in ("b a", "c b a", "d d d"):
    ...     texts.add(text)
    >>> vocabulary(texts, np.array([0, 1]), size=4)
    ['a', 'b']
    """
    offsets = interned.offsets
    counted = np.zeros(len(interned), dtype=bool)
    counted[rows] = True
    tokens = interned.tokens[np.repeat(counted, np.diff(offsets))]
    counts = np.bincount(tokens, minlength=len(interned.number)).tolist()
    seen = [(-count, word) for word, count in zip(interned.number, counts, strict=True) if count]
    return [word for _, word in sorted(seen)[: max(0, size - FIRST_WORD)]]


def encode(interned: Interned, kept: Sequence[str], targets: npt.NDArray[np.int64], limit: int) -> TokenRows:
    """All texts as ids, each cut to its last ``limit`` words; a text without any word is one unknown word.

    >>> texts = Interned()
    >>> for text in ("a b c", "..."):
    ...     texts.add(text)
    >>> encode(texts, ["c", "a"], np.array([0, 1]), limit=2).take(np.array([0, 1])).ids_BT.tolist()
    [[1, 2], [1, 0]]
    """
    ids = np.full(len(interned.number) + 1, UNKNOWN, dtype=np.uint16 if len(kept) < 1 << 16 else np.int32)
    for position, word in enumerate(kept, start=FIRST_WORD):
        ids[interned.number[word]] = position
    ends = interned.offsets[1:]
    lengths = np.minimum(np.diff(interned.offsets), limit)
    shown = np.maximum(lengths, 1)
    offsets = np.concatenate([[0], np.cumsum(shown)]).astype(np.int64)
    tokens = np.append(ids[interned.tokens], np.asarray(UNKNOWN, ids.dtype))
    index = np.arange(offsets[-1]) + np.repeat(ends - lengths - offsets[:-1], shown)
    index[offsets[:-1][lengths == 0]] = len(tokens) - 1
    return TokenRows(tokens[index], offsets, targets)


def stratified(
    targets: npt.NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split row numbers at random into the rest and a ``share`` with the same mix of classes.

    Each class has at least two rows; one at least goes to either side.

    >>> rest, cut = stratified(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, np.random.default_rng(0))
    >>> len(rest), len(cut)
    (6, 2)
    """
    parts = [rng.permutation(np.flatnonzero(targets == label)) for label in np.unique(targets)]
    sizes = [min(max(1, round(share * len(part))), len(part) - 1) for part in parts]
    cut = np.sort(np.concatenate([part[:size] for part, size in zip(parts, sizes, strict=True)]))
    return np.setdiff1d(np.arange(len(targets)), cut), cut
