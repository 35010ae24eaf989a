"""Batches: the only place where sequences are padded, masked and bucketed by length.

Shape letters: B batch, T time. Id 0 is padding and nothing else; padding stands on the right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from seqbench.errors import UsageError

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

PADDING = 0
UNSCORED = -1  # a target at which no answer is asked


@dataclass(frozen=True)
class Batch:
    """Padded sequences with their lengths and targets.

    Attributes:
        ids_BT: token ids, 0 at padding. Where the inputs are numbers instead, 1 at every valid step.
        lengths_B: number of valid tokens, at least 1.
        targets: classes ``(B,)`` for one answer per sequence, or ``(B, T)`` with -1 where nothing is asked;
            or float64 ``(B,)`` for one number per sequence.
        values_BTF: float32 features of every step, 0 at padding; None where the inputs are tokens.
        relevant_BT: True at tokens that decide the last answer, for probes alone: no part of the data, nor of
            :meth:`digest`. None where nobody says which.
    """

    ids_BT: Ints
    lengths_B: Ints
    targets: npt.NDArray[Any]
    values_BTF: Floats | None = None
    relevant_BT: Bools | None = None

    @property
    def valid_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.lengths_B.sum())

    @property
    def asks_numbers(self) -> bool:
        """Whether the answers are numbers (regression) and not classes."""
        return self.targets.dtype.kind == "f"

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the examples, with their padding."""
        some = slice(start, stop)
        values_BTF = None if self.values_BTF is None else self.values_BTF[some]
        relevant_BT = None if self.relevant_BT is None else self.relevant_BT[some]
        return Batch(self.ids_BT[some], self.lengths_B[some], self.targets[some], values_BTF, relevant_BT)

    def marked(self, relevant_BT: npt.ArrayLike | None) -> Batch:
        """The same batch with these tokens marked, padding never; None marks nothing.

        Raises:
            UsageError: what marks them is no array of booleans ``(B, T)``.
        """
        if relevant_BT is None:
            return dataclasses.replace(self, relevant_BT=None)
        marks_BT = np.asarray(relevant_BT)
        if marks_BT.dtype != np.bool_ or marks_BT.shape != self.ids_BT.shape:
            raise UsageError(
                f"relevant tokens: expected booleans of the shape {self.ids_BT.shape}, got {marks_BT.dtype} "
                f"of the shape {marks_BT.shape}"
            )
        return dataclasses.replace(self, relevant_BT=marks_BT & self._within())

    def checked(self, vocabulary_size: int, classes: int, features: int = 0) -> Batch:
        """The batch itself, once it is known to be one.

        Raises:
            UsageError: a shape, type, length, id, value or target is not what it must be, or padding is not
                where it should be.
        """
        faults = itertools.chain(
            self._id_faults(vocabulary_size), self._target_faults(classes), self._value_faults(features)
        )
        for broken, what in faults:  # later ones may rely on earlier ones
            if broken:
                raise UsageError(f"the task gave a bad batch: {what}")
        return self

    def _id_faults(self, vocabulary_size: int) -> Iterator[tuple[Any, str]]:
        ids_BT, lengths_B = self.ids_BT, self.lengths_B
        yield any(x.dtype != np.int64 for x in (ids_BT, lengths_B)), "an array is not int64"
        yield ids_BT.ndim != 2 or not ids_BT.size, f"ids have the shape {ids_BT.shape}, expected (B, T)"
        batch, time = ids_BT.shape
        yield lengths_B.shape != (batch,), f"{lengths_B.shape} lengths for {batch} sequences"
        yield ((lengths_B < 1) | (lengths_B > time)).any(), f"a length is outside 1..{time}"
        outside = (ids_BT < 0) | (ids_BT >= vocabulary_size)
        yield outside.any(), f"an id is outside 0..{vocabulary_size - 1}"
        misplaced = self._within() != (ids_BT != PADDING)
        yield misplaced.any(), "padding (id 0) stands inside a sequence, or none after it"

    def _target_faults(self, classes: int) -> Iterator[tuple[Any, str]]:
        targets, (batch, time) = self.targets, self.ids_BT.shape
        shapes = [(batch,)] if self.asks_numbers else [(batch,), (batch, time)]
        yield targets.shape not in shapes, f"targets have the shape {targets.shape} for ids {batch, time}"
        if self.asks_numbers:
            yield targets.dtype != np.float64, "a number to predict is not float64"
            yield not np.isfinite(targets).all(), "a number to predict is not finite"
            yield classes != 1, "numbers are to be predicted, so the task has one output: classes = 1"
            return
        yield targets.dtype != np.int64, "an array is not int64"
        scored = targets[targets != UNSCORED] if targets.ndim == 2 else targets
        yield len(scored) == 0, "no answer is asked"
        yield ((scored < 0) | (scored >= classes)).any(), f"a target is outside 0..{classes - 1}"

    def _value_faults(self, features: int) -> Iterator[tuple[Any, str]]:
        values_BTF = self.values_BTF
        if values_BTF is None:
            yield features > 0, f"no values, but {features} features were announced"
            return
        shape = (*self.ids_BT.shape, features)
        yield values_BTF.shape != shape, f"values have the shape {values_BTF.shape}, expected {shape}"
        yield values_BTF.dtype != np.float32, "values are not float32"
        yield not np.isfinite(values_BTF).all(), "a value is not finite"
        yield values_BTF[~self._within()].any(), "a value at padding is not 0"

    def _within(self) -> Bools:
        """Which steps lie within each sequence's length."""
        valid_BT: Bools = np.arange(self.ids_BT.shape[1]) < self.lengths_B[:, None]
        return valid_BT

    def digest(self) -> str:
        """Fingerprint of the batch, to show that two models saw the same data."""
        parts = [self.ids_BT, self.lengths_B, self.targets]
        parts += [] if self.values_BTF is None else [self.values_BTF]
        return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()

    def tensors(self, device: torch.device | str = "cpu") -> TensorBatch:
        """The same batch as torch tensors on ``device``."""
        import torch

        ids_BT, lengths_B, targets = (
            torch.from_numpy(array).to(device, non_blocking=True)
            for array in (self.ids_BT, self.lengths_B, self.targets)
        )
        values_BTF = None
        if self.values_BTF is not None:
            values_BTF = torch.from_numpy(self.values_BTF).to(device, non_blocking=True)
        scored_2N = None
        if self.targets.ndim == 2:
            places = np.stack(np.nonzero(self.targets != UNSCORED))
            scored_2N = torch.from_numpy(places).to(device, non_blocking=True)
        return TensorBatch(ids_BT, lengths_B, ids_BT != PADDING, targets, values_BTF, scored_2N)


@dataclass(frozen=True)
class TensorBatch:
    """A batch on a device.

    Attributes:
        mask_BT: True at valid tokens.
        scored_2N: row and step of every answer that is asked, where targets are ``(B, T)``: a GPU that had to
            count them first would have to be waited for. None: not known yet.
    """

    ids_BT: torch.Tensor
    lengths_B: torch.Tensor
    mask_BT: torch.Tensor
    targets: torch.Tensor
    values_BTF: torch.Tensor | None = None
    scored_2N: torch.Tensor | None = None


def pad(rows: Sequence[npt.ArrayLike], targets: Sequence[npt.ArrayLike] | Ints, *, extra: int = 0) -> Batch:
    """Pad rows on the right to the longest of them, plus ``extra`` columns (used by tests).

    >>> pad([[5, 6, 7], [8]], [0, 1]).ids_BT.tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    arrays = [np.asarray(row, dtype=np.int64) for row in rows]
    lengths_B = np.array([len(row) for row in arrays], dtype=np.int64)
    if len(arrays) == 0 or lengths_B.min() < 1:
        raise ValueError("a batch needs at least one row and each row at least one token")
    width = int(lengths_B.max()) + extra
    per_token = np.ndim(targets[0]) == 1
    targets_out = (
        _fill([np.asarray(t, dtype=np.int64) for t in targets], width, UNSCORED)
        if per_token
        else np.asarray(targets, dtype=np.int64)
    )
    return Batch(_fill(arrays, width, PADDING), lengths_B, targets_out)


def _fill(rows: Sequence[Ints], width: int, value: int) -> Ints:
    filled = np.full((len(rows), width), value, dtype=np.int64)
    for line, row in zip(filled, rows, strict=True):
        line[: len(row)] = row
    return filled


def trim(batch: Batch) -> Batch:
    """Cut columns that are padding in every row."""
    width = int(batch.lengths_B.max())
    targets = batch.targets[:, :width] if batch.targets.ndim == 2 else batch.targets
    values_BTF = None if batch.values_BTF is None else batch.values_BTF[:, :width]
    relevant_BT = None if batch.relevant_BT is None else batch.relevant_BT[:, :width]
    return Batch(batch.ids_BT[:, :width], batch.lengths_B, targets, values_BTF, relevant_BT)


def widen(batch: Batch, columns: int) -> Batch:
    """The same batch with more padding on the right."""
    more = ((0, 0), (0, columns))
    targets = batch.targets
    if targets.ndim == 2:
        targets = np.pad(targets, more, constant_values=UNSCORED)
    ids_BT = np.pad(batch.ids_BT, more, constant_values=PADDING)
    values_BTF = None if batch.values_BTF is None else np.pad(batch.values_BTF, (*more, (0, 0)))
    relevant_BT = None if batch.relevant_BT is None else np.pad(batch.relevant_BT, more)
    return Batch(ids_BT, batch.lengths_B, targets, values_BTF, relevant_BT)


class Rows(Protocol):
    """A fixed set of sequences that batches are gathered from."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> Ints:
        """Steps of each sequence, ``(N,)``."""

    def take(self, index_B: Ints) -> Batch:
        """Gather the sequences at ``index_B`` into one padded batch."""


@dataclass(frozen=True)
class ValueRows:
    """Sequences of numbers, all of the same length.

    Attributes:
        values_NTF: float32 features of every step.
        targets: ``(N,)`` one answer per sequence.
    """

    values_NTF: Floats
    targets: Ints

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> Ints:
        return np.full(len(self), self.values_NTF.shape[1])

    def take(self, index_B: Ints) -> Batch:
        values_BTF = self.values_NTF[index_B]
        ids_BT = np.ones(values_BTF.shape[:2], dtype=np.int64)
        return Batch(ids_BT, self.lengths[index_B], self.targets[index_B], values_BTF)


@dataclass(frozen=True)
class TokenRows:
    """Many sequences in one flat array, gathered into padded batches without a copy per row.

    Attributes:
        tokens: all token ids, one sequence after another.
        offsets: ``(N + 1,)`` where each sequence starts; the last entry is the total.
        targets: ``(N,)`` one answer per sequence.
    """

    tokens: npt.NDArray[np.integer]
    offsets: Ints
    targets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Tokens of each sequence, ``(N,)``."""
        return np.diff(self.offsets)

    def take(self, index_B: Ints) -> Batch:
        """Gather the sequences at ``index_B`` into one padded batch."""
        lengths_B = self.lengths[index_B]
        steps_T = np.arange(int(lengths_B.max()))
        valid_BT = steps_T < lengths_B[:, None]
        flat_BT = np.where(valid_BT, self.offsets[index_B][:, None] + steps_T, 0)
        ids_BT = np.where(valid_BT, self.tokens[flat_BT], PADDING).astype(np.int64)
        return Batch(ids_BT, lengths_B, self.targets[index_B])

    def subset(self, index: Ints) -> TokenRows:
        """The sequences at ``index``, in that order."""
        lengths = self.lengths[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        starts = np.repeat(self.offsets[index] - offsets[:-1], lengths)
        return TokenRows(self.tokens[np.arange(offsets[-1]) + starts], offsets, self.targets[index])


def bucketed(lengths: Ints, batch_size: int, rng: np.random.Generator, pool: int = 12) -> Iterator[Ints]:
    """One epoch of index batches in random order, similar lengths together.

    Sequences are shuffled, cut into pools of ``pool`` batches, sorted by length inside each pool, and the
    batches of the epoch are shuffled again: order stays random while padding nearly vanishes. The order
    depends on ``rng`` alone, so every model of a seed sees the same batches.
    """
    order = rng.permutation(len(lengths))
    batches: list[Ints] = []
    for start in range(0, len(order), pool * batch_size):
        chunk = order[start : start + pool * batch_size]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


def in_length_order(lengths: Ints, batch_size: int) -> Iterator[Ints]:
    """Every sequence once, shortest first: the cheapest order for evaluation."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
