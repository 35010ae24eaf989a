"""Batches: padding, trimming, gathering and bucketing lose nothing and invent nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqbench.batch import PADDING, UNSCORED, Batch, TokenRows, bucketed, in_length_order, pad, trim, widen
from seqbench.errors import UsageError
from seqbench.probes.base import last_answer

ROWS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=9)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)


def flat(rows: list[list[int]]) -> TokenRows:
    offsets = np.cumsum([0, *map(len, rows)])
    return TokenRows(np.concatenate(rows).astype(np.int32), offsets, np.arange(len(rows)))


def unpadded(batch: Batch) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(batch.ids_BT, batch.lengths_B, strict=True)]


@given(rows=ROWS, extra=st.integers(0, 3))
def test_padding_keeps_every_token_and_stands_on_the_right(rows, extra):
    batch = pad(rows, np.zeros(len(rows)), extra=extra)
    assert batch.ids_BT.shape == (len(rows), max(map(len, rows)) + extra)
    assert unpadded(batch) == rows
    assert (batch.ids_BT != PADDING).sum() == batch.valid_tokens == sum(map(len, rows))
    tensors = batch.tensors()
    assert tensors.mask_BT.sum(1).tolist() == tensors.lengths_B.tolist() == [len(row) for row in rows]


def test_targets_per_token_are_padded_with_unscored():
    batch = pad([[5, 6, 7], [8]], [[0, UNSCORED, 2], [3]], extra=1)
    assert batch.targets.tolist() == [[0, -1, 2, -1], [3, -1, -1, -1]]


@pytest.mark.parametrize("rows", [[], [[]], [[1], []]])
def test_a_batch_without_tokens_is_refused(rows):
    with pytest.raises(ValueError, match="at least one token"):
        pad(rows, np.zeros(len(rows)))


@given(rows=ROWS, extra=st.integers(0, 3))
def test_trimming_undoes_extra_padding(rows, extra):
    answers = [[index] * len(row) for index, row in enumerate(rows)]
    for targets in (np.arange(len(rows)), answers):
        assert trim(pad(rows, targets, extra=extra)).digest() == pad(rows, targets).digest()


def test_the_digest_changes_with_every_part_of_a_batch():
    batch = pad([[1, 2], [3]], [0, 1])
    others = [
        pad([[1, 4], [3]], [0, 1]), pad([[1, 2], [3]], [1, 1]), pad([[1, 2], [3, 3]], [0, 1]),
    ]  # fmt: skip
    digests = {batch.digest(), *(other.digest() for other in others)}
    assert len(digests) == 4
    assert batch.digest() == pad([[1, 2], [3]], [0, 1]).digest()


@pytest.mark.parametrize("targets", [[0, 1], [[0, 1, 2], [1]]], ids=["one answer", "many"])
def test_marks_follow_their_tokens_and_are_no_part_of_the_data(targets):
    plain = pad([[1, 2, 3], [4]], targets, extra=1)
    batch = plain.marked(plain.ids_BT != 2)
    marks = [[True, False, True, False], [True, False, False, False]]  # padding never
    assert batch.relevant_BT.tolist() == marks
    assert batch.digest() == plain.digest()
    assert last_answer(batch)[0].relevant_BT.tolist() == marks
    assert widen(batch, 2).relevant_BT.tolist() == [[*row, False, False] for row in marks]
    assert trim(batch).relevant_BT.tolist() == [row[:3] for row in marks]
    assert trim(batch.rows(1, 2)).relevant_BT.tolist() == [[True]]
    for unmarked in (plain, batch.marked(None)):
        parts = (unmarked.rows(0, 1), trim(unmarked), widen(unmarked, 1), last_answer(unmarked)[0])
        assert [part.relevant_BT for part in parts] == [None] * 4


@pytest.mark.parametrize("marks", [np.ones((2, 2), bool), np.ones((2, 3)), [[True]], [True, False], "no", {}])
def test_marks_of_another_shape_or_type_are_refused(marks):
    with pytest.raises(UsageError, match=r"expected booleans of the shape \(2, 3\), got"):
        pad([[1, 2, 3], [4]], [0, 1]).marked(marks)


@given(rows=ROWS, data=st.data())
def test_gathering_equals_padding_the_same_rows(rows, data):
    index = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6)))
    expected = pad([rows[i] for i in index], index)
    assert flat(rows).take(index).digest() == expected.digest()
    assert flat(rows).subset(index).take(np.arange(len(index))).digest() == expected.digest()
    assert len(flat(rows).subset(index)) == len(index)


@given(lengths=LENGTHS, size=st.integers(1, 9), pool=st.integers(1, 4), seed=st.integers(0, 9))
def test_an_epoch_of_buckets_holds_every_sequence_once(lengths, size, pool, seed):
    batches = list(bucketed(lengths, size, np.random.default_rng(seed), pool))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    again = list(bucketed(lengths, size, np.random.default_rng(seed), pool))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_buckets_nearly_remove_padding_and_still_shuffle():
    lengths = np.random.default_rng(0).integers(32, 129, 4_000)

    def padded(batches) -> int:
        return sum(int(lengths[index].max()) * len(index) for index in batches)

    rng = np.random.default_rng(1)
    first, second = (list(bucketed(lengths, 32, rng)) for _ in range(2))
    plain = np.array_split(np.random.default_rng(2).permutation(4_000), 125)
    assert padded(first) < 1.1 * lengths.sum() < 1.4 * lengths.sum() < padded(plain)
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    means = [lengths[index].mean() for index in first]
    assert 0.3 < np.mean(np.diff(means) > 0) < 0.7  # lengths come in no order


@given(lengths=LENGTHS, size=st.integers(1, 9))
def test_evaluation_reads_every_sequence_once_shortest_first(lengths, size):
    order = np.concatenate(list(in_length_order(lengths, size)))
    assert sorted(order) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) >= 0).all()
