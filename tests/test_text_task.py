"""The task on texts of one's own: nothing leaks between parts, all is counted, the cache is verified."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_source import WRITERS, write_csv, write_folders, write_jsonl, write_parquet

from seqbench import cache
from seqbench.cache import Cached, DamagedCache
from seqbench.errors import UsageError
from seqbench.schema import check
from seqbench.seeds import stream
from seqbench.source_parts import LabelledTexts
from seqbench.tasks.text import Text
from seqbench.tasks.text_base import TextTask
from seqbench.text import FIRST_WORD, UNKNOWN, Interned, LastBytes, stratified, words

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def texts(count: int, prefix: str, classes: int = 2) -> list[tuple[str, str]]:
    """Texts whose every word occurs in no other text, with labels in turn."""
    return [(" ".join(f"{prefix}{n}w{k}" for k in range(1 + n % 4)), f"c{n % classes}") for n in range(count)]


TRAIN, VALID, TEST = texts(40, "train"), texts(8, "valid"), texts(10, "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a training and a test split."""
    write_csv(tmp_path / "data" / "train.csv", TRAIN)
    write_csv(tmp_path / "data" / "test.csv", TEST)
    return tmp_path / "data"


def prepared(path: Path, where: Path, **options: object) -> Text:
    task = Text(path=str(path), **options)
    check(task, "task.")
    task.prepare(where)
    return task


def facts(task: TextTask, where: Path) -> dict[str, object]:
    return Cached(task.cache_file(where)).facts


def spelled(task: TextTask, where: Path, part: str) -> list[tuple[str, str]]:
    """The texts of a part with their labels, read back from batches."""
    cached = Cached(task.cache_file(where))
    vocabulary = ["", "?", *cached["words"].tobytes().decode().split("\n")]
    return sorted(
        (" ".join(vocabulary[i] for i in ids[:length]), cached.facts["classes"][target])
        for batch in task.open(0, where).held_out(part, 1)
        for ids, length, target in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True)
    )


# Parts and vocabulary


def test_parts_are_cut_from_their_splits_and_read_back_word_by_word(folder, tmp_path):
    task = prepared(folder, tmp_path, valid_share=0.25)
    data = task.open(0, tmp_path)
    rest, cut = stratified(np.array([n % 2 for n in range(40)]), 0.25, stream(0, "split"))
    assert (len(rest), len(cut)) == (30, 10)
    assert spelled(task, tmp_path, "train") == sorted(TRAIN[i] for i in rest)
    assert (data.examples_per_epoch, data.classes) == (30, 2)
    assert [sum(len(b.lengths_B) for b in data.held_out(part, 1)) for part in ("valid", "test")] == [10, 10]


def test_given_parts_stay_as_they_are(folder, tmp_path):
    write_jsonl(folder / "dev.jsonl", VALID)
    task = prepared(folder, tmp_path)
    assert spelled(task, tmp_path, "train") == sorted(TRAIN)
    sizes = {"train": 40, "valid": 8, "test": 10}
    assert facts(task, tmp_path)["rows"] == sizes
    assert "training, validation and test part are the given splits" in task.card().definition


@pytest.mark.parametrize(
    ("splits", "sizes", "words"),
    [
        (
            {"train": TRAIN},
            [28, 4, 8],
            "20% of the data is cut off as the test part, then 10% of the rest as the",
        ),
        (
            {"train": TRAIN, "valid": VALID},
            [32, 8, 8],
            "20% of the training split is cut off as the test part,",
        ),
        (
            {"train": TRAIN, "test": TEST},
            [36, 4, 10],
            "10% of the training split is cut off as the validation",
        ),
    ],
)
def test_what_is_not_given_is_cut_off_and_the_card_says_so(tmp_path, splits, sizes, words):
    for split, rows in splits.items():
        write_csv(tmp_path / "d" / f"{split}.csv", rows)
    task = prepared(tmp_path / "d", tmp_path)
    assert list(facts(task, tmp_path)["rows"].values()) == sizes
    assert words in task.card().definition
    assert "stratified by class, the same for every seed and model" in task.card().definition
    everything = [row for part in ("train", "valid", "test") for row in spelled(task, tmp_path, part)]
    assert len(everything) == sum(map(len, splits.values()))


@given(
    counts=st.lists(st.integers(3, 30), min_size=2, max_size=5),
    share=st.floats(0.001, 0.9),
    given_splits=st.sets(st.sampled_from(["valid", "test"])),
    seed=st.integers(0, 99),
)
def test_every_text_is_in_one_part_and_every_part_has_every_class(counts, share, given_splits, seed):
    from seqbench.source_rows import Row

    read = LabelledTexts("here", Interned())
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    for split in ["train", *sorted(given_splits, reverse=True)]:
        read.read(split, (Row(f"{split}:{n}", f"w{n}", str(label)) for n, label in enumerate(labels)))
    parts = read.parts(share)
    assert list(parts) == ["train", "valid", "test"]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels) * (1 + len(given_splits))))
    assert all(set(read.targets()[rows]) == set(range(len(counts))) for rows in parts.values())
    assert {split: rows.tolist() for split, rows in read.parts(share).items()} == {
        split: rows.tolist() for split, rows in parts.items()
    }


def test_no_word_of_validation_or_test_enters_the_vocabulary(folder, tmp_path):
    task = prepared(folder, tmp_path, valid_share=0.25)
    rest, _ = stratified(np.array([n % 2 for n in range(40)]), 0.25, stream(0, "split"))
    allowed = {word for i in rest for word in words(TRAIN[i][0])}
    assert set(Cached(task.cache_file(tmp_path))["words"].tobytes().decode().split("\n")) == allowed
    data = task.open(0, tmp_path)
    for part in ("valid", "test"):
        for batch in data.held_out(part, 1):
            assert set(batch.ids_BT.ravel()) <= {0, UNKNOWN}
    assert data.vocabulary_size == FIRST_WORD + len(allowed)
    assert data.notes["unknown words in the validation part (share)"] == 1.0


def test_seeds_share_the_parts_and_differ_in_order(folder, tmp_path):
    task = prepared(folder, tmp_path)
    one, other = (task.open(seed, tmp_path) for seed in (0, 1))
    assert [b.digest() for b in one.held_out("valid", 1)] == [b.digest() for b in other.held_out("valid", 1)]
    assert next(one.train(8)).digest() != next(other.train(8)).digest()
    assert next(one.train(8)).digest() == next(task.open(0, tmp_path).train(8)).digest()


def test_an_epoch_of_training_batches_holds_every_text_once(folder, tmp_path):
    data = prepared(folder, tmp_path).open(3, tmp_path)
    batch = next(data.train(64))  # fewer rows than a batch: one batch is the epoch
    (whole,) = data.held_out("train", 1)
    rows = [
        sorted(zip(b.ids_BT.tolist(), b.lengths_B.tolist(), b.targets.tolist(), strict=True))
        for b in (batch, whole)
    ]
    assert len(rows[0]) == data.examples_per_epoch == 36
    assert rows[0] == rows[1]


def test_the_test_part_is_read_only_when_it_is_asked_for(folder, tmp_path, monkeypatch):
    read = []
    original = Cached.__getitem__
    monkeypatch.setattr(Cached, "__getitem__", lambda self, name: read.append(name) or original(self, name))
    data = prepared(folder, tmp_path).open(0, tmp_path)
    read.clear()
    data = Text(path=str(folder)).open(0, tmp_path)
    next(data.train(8)), data.held_out("valid", 1), data.probe(4)
    assert not any(name.startswith("test") for name in read)
    data.held_out("test", 1)
    assert any(name.startswith("test") for name in read)


def test_the_last_words_of_long_texts_are_kept(tmp_path):
    file = write_csv(tmp_path / "long.csv", [(f"begin middle end{n % 2}", n % 2) for n in range(40)])
    task = prepared(file, tmp_path, max_tokens=2)
    assert {text for text, _ in spelled(task, tmp_path, "train")} == {"middle end0", "middle end1"}


@pytest.mark.parametrize("classes", [2, 3, 25])
def test_any_number_of_classes(tmp_path, classes):
    rows = texts(10 * classes, "t", classes)
    task = prepared(write_csv(tmp_path / "x.csv", rows), tmp_path)
    data = task.open(0, tmp_path)
    assert data.classes == classes
    answers = dict(row for part in ("train", "valid", "test") for row in spelled(task, tmp_path, part))
    assert {text: label for text, label in answers.items() if "?" not in text}.items() <= dict(rows).items()
    next(data.train(8)).checked(data.vocabulary_size, data.classes)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_single_file_of_any_format_gives_the_same_parts(tmp_path, suffix):
    rows = [("NA", 0), ("123", 1), ("null", 0), ("00012", 1), ("2020", 0), ('say "no", or\nelse', 1)] * 10
    task = prepared(WRITERS[suffix](tmp_path / f"mine{suffix}", rows), tmp_path)
    parts = {part: spelled(task, tmp_path, part) for part in ("train", "valid", "test")}
    expected = {
        ("na", "0"),
        ("123", "1"),
        ("null", "0"),
        ("00012", "1"),
        ("2020", "0"),
        ("say no or else", "1"),
    }
    assert set(parts["train"]) == expected
    assert [len(rows) for rows in parts.values()] == [44, 4, 12]
    assert task.card().id == f"text/word-20000-256@mine{suffix}"


# Counts


def test_texts_without_words_become_one_unknown_word_and_are_counted(tmp_path):
    file = write_csv(tmp_path / "dots.csv", [*[("...", f"c{n % 2}") for n in range(10)], *TRAIN])
    task = prepared(file, tmp_path)
    everything = [row for part in ("train", "valid", "test") for row in spelled(task, tmp_path, part)]
    assert len(everything) == 50
    assert task.open(0, tmp_path).notes["texts without a word"] == 10


def test_repeated_texts_are_counted_and_kept(tmp_path):
    write_jsonl(tmp_path / "d" / "train.jsonl", TRAIN)
    write_jsonl(tmp_path / "d" / "valid.jsonl", [*TRAIN[:5], *VALID])
    write_jsonl(tmp_path / "d" / "test.jsonl", [*TRAIN[:3], TRAIN[0], VALID[0], *TEST])
    notes = prepared(tmp_path / "d", tmp_path).open(0, tmp_path).notes
    assert notes["texts of the test part that stand in the others too"] == 5
    assert notes["texts of the validation part that stand in training too"] == 5
    assert notes["texts in the test part"] == 15


def test_repeated_texts_are_counted_across_a_cut_too(tmp_path):
    file = write_csv(tmp_path / "same.csv", [(f"text {n % 3}", f"c{n % 2}") for n in range(60)])
    notes = prepared(file, tmp_path).open(0, tmp_path).notes
    assert (
        notes["texts of the test part that stand in the others too"] == notes["texts in the test part"] == 12
    )
    near = write_csv(
        tmp_path / "near.csv", [(f"Text, {n}" if n % 2 else f"text {n - 1}", f"c{n % 2}") for n in range(60)]
    )
    assert (
        prepared(near, tmp_path)
        .open(0, tmp_path)
        .notes["texts of the test part that stand in the others too"]
        == 0
    )


def test_the_imbalance_of_classes_is_counted_and_its_floor_computed(tmp_path):
    write_csv(
        tmp_path / "d" / "train.csv",
        [*[(f"a{n}", "rare") for n in range(4)], *[(f"b{n}", "many") for n in range(36)]],
    )
    write_csv(
        tmp_path / "d" / "test.csv",
        [*[(f"c{n}", "rare") for n in range(3)], *[(f"d{n}", "many") for n in range(9)]],
    )
    data = prepared(tmp_path / "d", tmp_path).open(0, tmp_path)
    assert dict(data.notes) == {
        "texts in the training part": 35,
        "texts in the validation part": 5,
        "texts in the test part": 12,
        "texts of class 'many'": 45,
        "texts of class 'rare'": 7,
        "texts without a word": 0,
        "texts of the validation part that stand in training too": 0,
        "texts of the test part that stand in the others too": 0,
        "unknown words in the validation part (share)": 1.0,
    }
    assert next(iter(data.notes)) == "texts in the training part"  # in an order that reads well
    assert data.floors == {"majority class": 0.75}


@pytest.mark.parametrize(("classes", "each"), [(20, True), (21, False)])
def test_many_classes_are_counted_in_short(tmp_path, classes, each):
    rows = [*texts(3 * classes, "t", classes), ("more", "c0"), ("and more", "c0")]
    notes = prepared(write_csv(tmp_path / "x.csv", rows), tmp_path).open(0, tmp_path).notes
    assert ("texts of class 'c7'" in notes) == each
    if not each:
        found = [
            notes[name] for name in ("classes", "texts of the smallest class", "texts of the largest class")
        ]
        assert found == [21, 3, 5]


def test_texts_are_neither_kept_in_memory_nor_in_the_way_of_a_long_one():
    read = LabelledTexts("here", LastBytes(limit=10))
    from seqbench.source_rows import Row

    tracemalloc.start()
    try:
        read.read("train", (Row(str(n), "x" * 100_000 + str(n % 7), "ab"[n % 2]) for n in range(200)))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000  # of 20 million characters
    assert peak < 1_500_000


# Bytes


def test_bytes_are_read_back_as_the_texts_they_were(tmp_path):
    rows = [("Caf\u00e9 \U0001f600\n", "a"), ("\u4e2d\u6587", "b"), ("<br />NA", "a"), ("null", "b")] * 5
    task = prepared(write_csv(tmp_path / "x.csv", rows), tmp_path, tokens="byte")
    data = task.open(0, tmp_path)
    found = set()
    for part in ("train", "valid", "test"):
        for batch in data.held_out(part, 1):
            batch.checked(data.vocabulary_size, data.classes)
            for ids, length, target in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True):
                found.add((bytes((ids[:length] - 1).tolist()).decode(), "ab"[target]))
    assert found == set(rows)
    assert data.vocabulary_size == 257
    assert task.card().id == "text/byte-1024@x.csv"
    assert data.notes["texts without a word"] == 0
    assert not [name for name in data.notes if "vocabulary" in name]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=1, max_size=8),
       st.integers(1, 40))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_byte_tokens_decode_to_the_end_of_the_text(some, limit):
    read = LastBytes(limit)
    for text in some:
        read.add(text)
    rows = read.encode(np.arange(len(some)))
    assert len(read) == len(rows) == len(some)
    batch = rows.take(np.arange(len(some))).checked(257, len(some))
    for text, ids, length in zip(some, batch.ids_BT, batch.lengths_B, strict=True):
        assert bytes((ids[:length] - 1).tolist()) == text.encode()[-limit:]
    if limit >= 40 and all(len(text.encode()) <= 40 for text in some):
        assert all(
            bytes((i[:n] - 1).tolist()).decode() == t
            for t, i, n in zip(some, batch.ids_BT, batch.lengths_B, strict=True)
        )


def test_a_script_without_words_can_be_read_as_bytes(tmp_path):
    rows = [("\U0001f600" * (1 + n % 3), "a") for n in range(20)] + [("\U0001f622", "b")] * 20
    file = write_csv(tmp_path / "emoji.csv", rows)
    with pytest.raises(UsageError, match=r"28 of 28 training texts have no word .* set task.tokens=byte"):
        prepared(file, tmp_path)
    assert prepared(file, tmp_path, tokens="byte").open(0, tmp_path).examples_per_epoch == 28


def test_half_of_the_texts_may_be_without_a_word(tmp_path):
    write_csv(tmp_path / "d" / "train.csv", [("...", 0), ("...", 1), ("a", 0), ("b", 1)])
    write_csv(tmp_path / "d" / "valid.csv", [("a", 0), ("a", 1)])
    write_csv(tmp_path / "d" / "test.csv", [("a", 0), ("a", 1)])
    assert prepared(tmp_path / "d", tmp_path).open(0, tmp_path).notes["texts without a word"] == 2


# Settings and cards


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},
            "task=text: which texts? Add task.path=FILE (or a folder), or task.hub=OWNER/NAME with "
            "task.revision=COMMIT",
        ),
        ({"path": "x", "hub": "a/b"}, "task.hub=a/b: task.path is given too: keep one"),
        ({"path": "x", "revision": COMMIT}, f"task.revision={COMMIT}: task.path is given too: keep one"),
        ({"path": "x", "subset": "en"}, "task.subset=en: task.path is given too: keep one"),
        (
            {"path": "x", "text_column": "label"},
            "task.label_column=label: is task.text_column too: name another",
        ),
        (
            {"path": "x", "tokens": "byte", "vocabulary": 9},
            "task.vocabulary=9: bytes need none: leave it out, or set task.tokens=word",
        ),
        ({"path": "x", "tokens": "char"}, "task.tokens=char: not allowed; choices: byte, word"),
        (
            {"path": "x", "separator": ";"},
            "task.separator=;: not allowed; choices: auto, comma, pipe, semicolon, tab",
        ),
        ({"path": "x", "max_tokens": 0}, "task.max_tokens=0: must be at least 1"),
        (
            {"path": "/no/where"},
            "task.path=/no/where: No such file or directory: give a file or folder that is there",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_read(options, expected):
    with pytest.raises(UsageError) as error:
        check(Text(**options), "task.")
    assert str(error.value) == expected


def test_the_card_comes_from_the_settings_alone():
    card = Text(hub="some/texts", revision=COMMIT, subset="en", vocabulary=500, max_tokens=50).card()
    assert card.id == "text/word-500-50@some/texts/en@0123456"
    assert card.answers == "many-to-one"
    assert card.floors == card.reference_points == {}
    assert "where a split is missing, 20% (test) or 10% (validation) of the training split" in card.definition
    assert "text in column 'text', class in column 'label'" in card.definition
    assert "the 498 most frequent words" in card.definition
    assert Text(path="/gone/x.csv", tokens="byte").card().id == "text/byte-1024@x.csv"
    assert Text().card().id == "text/word-20000-256@data"
    assert Text(path=".").card().id == f"text/word-20000-256@{Path.cwd().name}"


def test_the_card_says_which_files_are_read(tmp_path):
    write_csv(tmp_path / "d" / "train-1.csv", TRAIN)
    write_csv(tmp_path / "d" / "train-2.csv", TRAIN)
    write_csv(tmp_path / "d" / "old.csv", TRAIN)
    definition = Text(path=str(tmp_path / "d"), valid_share=0.125).card().definition
    assert "Data: d, files by split: train 2 (1 more files there are not read), text in column" in definition
    assert "then 12.5% of the rest as the validation part" in definition
    write_folders(tmp_path / "f", TRAIN)
    assert (
        "Data: f, a folder of .txt files per class; 20% of"
        in Text(path=str(tmp_path / "f")).card().definition
    )
    file = write_csv(tmp_path / "x.csv", TRAIN)
    assert (
        "Data: x.csv, one file, text in column 'a'" in Text(path=str(file), text_column="a").card().definition
    )


# Cache


def cached_file(where: Path) -> Path:
    (file,) = (where / "text").iterdir()
    return file


def test_a_second_start_reads_no_source(folder, tmp_path, monkeypatch):
    task = prepared(folder, tmp_path)
    monkeypatch.setattr(TextTask, "_rows", lambda *_: pytest.fail("the source was read again"))
    task.prepare(tmp_path)
    next(task.open(0, tmp_path).train(8))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "array", "pickle"])
@pytest.mark.parametrize("by", ["prepare", "open"])
def test_a_damaged_cache_is_rebuilt_never_trusted(folder, tmp_path, damage, by):
    task = prepared(folder, tmp_path)
    file = cached_file(tmp_path)
    good, before = file.read_bytes(), spelled(task, tmp_path, "train")
    if damage == "array":  # a valid file in which one array was exchanged
        arrays = dict(np.load(file))
        arrays["train_targets"] = 1 - arrays["train_targets"]
        np.savez(file, **arrays)
    elif damage == "pickle":
        np.savez(file, header=np.array([{"a": 1}], dtype=object))
    else:
        middle = good.index(b"train_targets.npy") + 200
        flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
        file.write_bytes({"flip": flipped, "truncate": good[:-40], "empty": b""}[damage])
    task.prepare(tmp_path) if by == "prepare" else task.open(0, tmp_path)
    assert spelled(task, tmp_path, "train") == before
    Cached(file).verify()
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing half-written is left


def test_a_damaged_test_part_is_found_before_training_and_not_after_it(folder, tmp_path):
    task = prepared(folder, tmp_path)
    file = cached_file(tmp_path)
    good = file.read_bytes()
    middle = good.index(b"test_targets.npy") + 150
    file.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    with pytest.raises(DamagedCache):
        task.open(0, tmp_path).held_out("test", 1)
    task.prepare(tmp_path)
    task.open(0, tmp_path).held_out("test", 1)


def test_the_cache_is_keyed_by_content_and_settings(folder, tmp_path):
    def key(**options) -> str:
        return Text(path=str(folder), **options).cache_file(tmp_path).name

    first = key()
    assert key() == first == key(solved_at=0.9) == key(vocabulary=20_000, max_tokens=256)
    others = {
        key(vocabulary=99),
        key(max_tokens=99),
        key(valid_share=0.2),
        key(text_column="x"),
        key(label_column="y"),
        key(separator="tab"),
        key(tokens="byte"),
        key(tokens="byte", max_tokens=256),
    }
    write_csv(folder / "train.csv", [*TRAIN, ("more", "c1")])
    assert len({first, *others, key()}) == 10
    moved = folder.rename(tmp_path / "moved")
    write_csv(moved / "train.csv", TRAIN)
    assert Text(path=str(moved)).cache_file(tmp_path).name == first
    hubs = {
        Text(hub="a/b", revision=r, subset=s).cache_file(tmp_path)
        for r in (COMMIT, COMMIT[::-1])
        for s in (None, "x")
    }
    assert len(hubs) == 4


def test_data_that_changes_while_it_is_read_is_not_cached(folder, tmp_path, monkeypatch):
    original = TextTask._read

    def read(self: TextTask) -> LabelledTexts:
        found = original(self)
        write_csv(folder / "test.csv", [*TEST, ("more", "c1")])
        return found

    monkeypatch.setattr(TextTask, "_read", read)
    with pytest.raises(UsageError, match="the data changed while it was read: start again"):
        prepared(folder, tmp_path)
    assert not (tmp_path / "text").exists()


def test_an_interrupted_write_leaves_no_cache(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        cache.save(tmp_path / "a.npz", {"x": np.arange(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_cached_arrays_and_facts_read_back(tmp_path):
    file = tmp_path / "sub" / "a.npz"
    cache.save(file, {"x": np.arange(6).reshape(2, 3), "none": np.zeros(0, np.uint16)}, {"rows": 2})
    read = Cached(file)
    assert read.facts == {"rows": 2}
    assert (read["x"] == np.arange(6).reshape(2, 3)).all()
    assert (read["none"].dtype, len(read["none"])) == (np.uint16, 0)
    with pytest.raises(DamagedCache, match="'y' cannot be read"):
        read["y"]
    with pytest.raises(FileNotFoundError):
        Cached(tmp_path / "nothing.npz")


def test_class_labels_of_datasets_are_read(tmp_path):
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"])
    )
    columns = {"text": [text for text, _ in TRAIN], "label": [n % 2 for n in range(40)]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    assert facts(prepared(tmp_path / "train.parquet", tmp_path), tmp_path)["classes"] == ["0", "1"]


def test_a_run_learns_from_fewer_texts_than_a_batch(tmp_path, make_job):
    """The whole way: card, contract, training, test, floors and notes in the record."""
    from seqbench.plan import plan
    from seqbench.recorder import Recorder

    rows = [(f"good film {n}", "pos") for n in range(12)] + [(f"bad film {n}", "neg") for n in range(24)]
    file = write_parquet(tmp_path / "tiny.parquet", rows)
    job = make_job(
        "bag",
        "text",
        task_options={"path": str(file)},
        cache_dir=str(tmp_path / "cache"),
        seeds=[0],
        train={"steps": 40, "batch_size": 64, "eval_every": 20, "lr": 0.1},
        speed={"enabled": False},
        probes=[],
    )
    unit = next(unit for unit in plan([job], tmp_path / "runs") if not unit.companion)
    run = Recorder(unit, allocator=False).run()
    assert run.status == "done", run.error
    assert run.metrics["test_accuracy"] == 1.0
    assert run.card["floors"] == {"majority class": 5 / 7}
    assert run.card["notes"]["texts of class 'neg'"] == 24
