"""Words, vocabulary and encoding: exact on examples, and nothing lost or invented on any text."""

from __future__ import annotations

import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqbench.batch import in_length_order
from seqbench.text import FIRST_WORD, UNKNOWN, Interned, encode, stratified, vocabulary, words

WORD = st.text(string.ascii_lowercase + string.digits + "éßдж字", min_size=1, max_size=6)
SEPARATOR = st.sampled_from(
    [" ", ", ", " - ", "<br /><br />", "\n\t", "_", "... ", " '", '"', "\x00", "\u00a0"]
)
TEXTS = st.lists(st.lists(WORD, max_size=8), min_size=1, max_size=8)


def interned(texts: list[str]) -> Interned:
    found = Interned()
    for text in texts:
        found.add(text)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n", []),
        ("...", []),
        ("NA", ["na"]),
        ("123", ["123"]),
        ("A<br />B<br>C<BR/>D", ["a", "b", "c", "d"]),
        ("brilliant!!", ["brilliant", "!", "!"]),
        ("Really?", ["really", "?"]),
        ("don't 'quote' rock'n'roll actors'", ["don't", "quote", "rock'n'roll", "actors"]),
        ("it\u2019s", ["it\u2019s"]),
        ("well-made snake_case 7/10", ["well", "made", "snake", "case", "7", "10"]),
        ("Älter ÉTÉ Война 映画", ["älter", "été", "война", "映画"]),
        ("a\ud800b", ["a", "b"]),
    ],
)
def test_words_are_exact(text, expected):
    assert words(text) == expected


@given(st.lists(st.tuples(WORD, SEPARATOR)))
def test_words_in_are_words_out_whatever_separates_them(parts):
    assert words("".join(word + separator for word, separator in parts)) == [word for word, _ in parts]


@given(st.text())
def test_splitting_again_changes_nothing(text):
    assert words(" ".join(words(text))) == words(text)


def test_vocabulary_is_the_most_frequent_words_ties_in_alphabetical_order():
    texts = interned(["b b a", "c a b", "d", "e e e e e e"])
    assert vocabulary(texts, np.array([0, 1, 2]), 100) == ["b", "a", "c", "d"]
    assert vocabulary(texts, np.array([2, 1, 0]), FIRST_WORD + 2) == ["b", "a"]
    assert vocabulary(texts, np.array([3]), FIRST_WORD) == []


@given(texts=TEXTS, size=st.integers(FIRST_WORD, 12), data=st.data())
def test_vocabulary_equals_counting_the_chosen_texts_alone(texts, size, data):
    chosen = data.draw(st.sets(st.integers(0, len(texts) - 1)).map(sorted))
    counts = Counter(word for index in chosen for word in texts[index])
    expected = sorted(counts, key=lambda word: (-counts[word], word))[: size - FIRST_WORD]
    rows = np.array(chosen, dtype=np.int64)
    assert vocabulary(interned([" ".join(text) for text in texts]), rows, size) == expected


@given(texts=TEXTS, limit=st.integers(1, 9), size=st.integers(FIRST_WORD, 9))
def test_encoding_loses_only_what_it_says(texts, limit, size):
    """Through padded batches and back: the last words, unknown where outside the vocabulary."""
    found = interned([" ".join(text) for text in texts])
    kept = vocabulary(found, np.arange(len(texts)), size)
    rows = encode(found, kept, np.arange(len(texts)), limit)
    spelled = [None, "?", *kept]
    seen = {}
    for index in in_length_order(rows.lengths, 3):
        batch = rows.take(index)
        for ids, length, target in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True):
            assert (ids[:length] >= UNKNOWN).all()
            assert (ids[length:] == 0).all()
            seen[int(target)] = [spelled[i] for i in ids[:length]]
    expected = {
        number: [word if word in kept else "?" for word in text[-limit:]] or ["?"]
        for number, text in enumerate(texts)
    }
    assert seen == expected


def test_large_vocabularies_have_room_for_their_ids():
    found = interned([" ".join(f"w{i}" for i in range(70_000))])
    kept = vocabulary(found, np.array([0]), 100_000)
    rows = encode(found, kept, np.array([0]), 100_000)
    assert sorted(rows.tokens.tolist()) == list(range(FIRST_WORD, 70_000 + FIRST_WORD))


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 9),
)
def test_a_stratified_cut_keeps_every_row_once_and_the_mix(counts, share, seed):
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rest, cut = stratified(targets, share, np.random.default_rng(seed))
    assert sorted([*rest, *cut]) == list(range(len(targets)))
    assert np.bincount(targets[cut]).tolist() == [min(max(1, round(share * n)), n - 1) for n in counts]
    again = stratified(targets, share, np.random.default_rng(seed))
    assert np.array_equal(again[1], cut)
