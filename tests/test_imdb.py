"""The IMDb task: nothing leaks, unusable sources are refused in one line, the cache is verified."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqbench import cache, source
from seqbench.cache import Cached, DamagedCache
from seqbench.errors import UsageError
from seqbench.schema import check
from seqbench.seeds import stream
from seqbench.tasks import imdb
from seqbench.tasks.imdb import IMDb
from seqbench.text import FIRST_WORD, UNKNOWN, stratified, words

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "hub" / "stanfordnlp" / "imdb"


def reviews(count: int, prefix: str) -> list[tuple[str, int]]:
    """Reviews whose every word occurs in no other review, with alternating labels."""
    return [(" ".join(f"{prefix}{n}w{k}" for k in range(1 + n % 4)), n % 2) for n in range(count)]


TRAIN, TEST = reviews(40, "train"), reviews(10, "test")


def write_parquet(file: Path, rows: list[tuple], names: tuple[str, str] = ("text", "label")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), file)
    return file


def write_csv(file: Path, rows: list[tuple]) -> Path:
    quoted = ['"{}",{}'.format(str(text).replace('"', '""'), label) for text, label in rows]
    file.write_text("\n".join(["text,label", *quoted]) + "\n", encoding="utf-8")
    return file


def write_jsonl(file: Path, rows: list[tuple]) -> Path:
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


WRITERS = {".parquet": write_parquet, ".csv": write_csv, ".jsonl": write_jsonl}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in the layout of the hub."""
    plain = tmp_path / "data" / "imdb" / "plain_text"
    write_parquet(plain / "train-00000-of-00001.parquet", TRAIN)
    write_parquet(plain / "test-00000-of-00001.parquet", TEST)
    write_parquet(plain / "unsupervised-00000-of-00001.parquet", [("never read", -1)])
    return tmp_path / "data" / "imdb"


def spelled(task: IMDb, where: Path, part: str) -> list[tuple[str, int]]:
    """The reviews of a part, read back from the cache."""
    cached = Cached(task._file(where))
    vocabulary = ["", "?", *cached["words"].tobytes().decode().split("\n")]
    batches = task.open(0, where).held_out(part, 1)
    return sorted(
        (" ".join(vocabulary[i] for i in ids[:length]), int(target))
        for batch in batches
        for ids, length, target in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True)
    )


def refusal(path: Path | str | None, where: Path, **settings) -> str:
    """The one line with which a source is refused, with paths cut to their names."""
    task = IMDb(path=None if path is None else str(path), **settings)
    with pytest.raises(UsageError) as error:
        check(task, "task.")
        task.prepare(where)
    text = str(error.value)
    assert "\n" not in text
    assert not (where / "imdb").exists()  # nothing is cached from a source that is refused
    return text.replace(f"{where}/", "")


# Parts and vocabulary


def test_parts_are_cut_from_their_splits_and_read_back_word_by_word(folder, tmp_path):
    task = IMDb(path=str(folder), valid_share=0.25)
    task.prepare(tmp_path)
    data = task.open(0, tmp_path)
    rest, cut = stratified(np.array([label for _, label in TRAIN]), 0.25, stream(0, "split"))
    assert (len(rest), len(cut)) == (30, 10)
    assert spelled(task, tmp_path, "train") == sorted(TRAIN[i] for i in rest)
    assert (data.examples_per_epoch, data.classes) == (30, 2)


def test_no_word_of_validation_or_test_enters_the_vocabulary(folder, tmp_path):
    task = IMDb(path=str(folder), valid_share=0.25)
    task.prepare(tmp_path)
    rest, _ = stratified(np.array([label for _, label in TRAIN]), 0.25, stream(0, "split"))
    allowed = {word for i in rest for word in words(TRAIN[i][0])}
    assert set(Cached(task._file(tmp_path))["words"].tobytes().decode().split("\n")) == allowed
    for part in ("valid", "test"):
        for batch in task.open(0, tmp_path).held_out(part, 1):
            assert set(batch.ids_BT.ravel()) <= {0, UNKNOWN}
    assert task.open(0, tmp_path).vocabulary_size == FIRST_WORD + len(allowed)


def test_seeds_share_the_parts_and_differ_in_order(folder, tmp_path):
    task = IMDb(path=str(folder))
    task.prepare(tmp_path)
    one, other = (task.open(seed, tmp_path) for seed in (0, 1))
    assert [b.digest() for b in one.held_out("valid", 1)] == [b.digest() for b in other.held_out("valid", 1)]
    assert next(one.train(8)).digest() != next(other.train(8)).digest()
    assert next(one.train(8)).digest() == next(task.open(0, tmp_path).train(8)).digest()


def test_an_epoch_of_training_batches_holds_every_review_once(folder, tmp_path):
    task = IMDb(path=str(folder))
    task.prepare(tmp_path)
    data = task.open(3, tmp_path)
    batch = next(data.train(64))
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
    task = IMDb(path=str(folder))
    task.prepare(tmp_path)
    data = task.open(0, tmp_path)
    next(data.train(8)), data.held_out("valid", 1), data.probe(4)
    assert not any(name.startswith("test") for name in read)
    data.held_out("test", 1)
    assert any(name.startswith("test") for name in read)


def test_the_last_words_of_long_reviews_are_kept(tmp_path):
    file = write_csv(tmp_path / "long.csv", [(f"begin middle end{n % 2}", n % 2) for n in range(40)])
    task = IMDb(path=str(file), max_tokens=2)
    task.prepare(tmp_path)
    assert {text for text, _ in spelled(task, tmp_path, "train")} == {"middle end0", "middle end1"}


def test_texts_without_words_become_one_unknown_word_and_are_counted(tmp_path):
    file = write_csv(tmp_path / "dots.csv", [*[("...", n % 2) for n in range(10)], *TRAIN])
    task = IMDb(path=str(file))
    task.prepare(tmp_path)
    everything = [row for part in ("train", "valid", "test") for row in spelled(task, tmp_path, part)]
    assert len(everything) == 50
    assert Cached(task._file(tmp_path)).facts["without_words"] == 10


def test_repeated_texts_are_counted_and_kept(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    write_jsonl(tmp_path / "test.jsonl", [*TRAIN[:3], *TEST])
    task = IMDb(path=str(tmp_path))
    task.prepare(tmp_path)
    facts = Cached(task._file(tmp_path)).facts
    assert (facts["test_texts_also_in_train"], facts["rows"]["test"]) == (3, 13)


# Formats


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_single_file_of_any_format_gives_the_same_parts(tmp_path, suffix):
    rows = [("NA", 0), ("123", 1), ("null", 0), ("00012", 1), ("2020", 0), ('say "no", or\nelse', 1)] * 10
    task = IMDb(path=str(WRITERS[suffix](tmp_path / f"mine{suffix}", rows)))
    task.prepare(tmp_path)
    parts = {part: spelled(task, tmp_path, part) for part in ("train", "valid", "test")}
    expected = {("na", 0), ("123", 1), ("null", 0), ("00012", 1), ("2020", 0), ("say no or else", 1)}
    assert set(parts["train"]) == expected
    assert [len(rows) for rows in parts.values()] == [44, 4, 12]
    assert "mine" + suffix + " without a test split: 20%" in task.card().definition
    assert task.card().id == f"imdb/word-20000-256@mine{suffix}"


@pytest.mark.parametrize("suffix", WRITERS)
def test_string_labels_are_classes_in_sorted_order(tmp_path, suffix):
    rows = [(text, ["pos", "neg"][label]) for text, label in TRAIN]
    task = IMDb(path=str(WRITERS[suffix](tmp_path / f"train{suffix}", rows)))
    task.prepare(tmp_path)
    assert Cached(task._file(tmp_path)).facts["classes"] == ["neg", "pos"]
    answers = dict(spelled(task, tmp_path, "train"))
    assert answers == {text: 1 - label for text, label in TRAIN if text in answers}


def test_class_labels_of_datasets_are_read(tmp_path):
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"])
    )
    columns = {"text": [text for text, _ in TRAIN], "label": [label for _, label in TRAIN]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    task = IMDb(path=str(tmp_path))
    task.prepare(tmp_path)
    assert Cached(task._file(tmp_path)).facts["classes"] == [0, 1]


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path):
    file = tmp_path / "bom.csv"
    rows = "".join(f"{text},{label}\n\n" for text, label in TRAIN)
    file.write_text("text,label\n" + rows, encoding="utf-8-sig")
    task = IMDb(path=str(file))
    task.prepare(tmp_path)
    assert sum(Cached(task._file(tmp_path)).facts["rows"].values()) == len(TRAIN)


# Refusals


ROWS = b"good,1\nbad,0\n" * 10
BAD_FILES = {
    "empty.csv": (b"", "empty.csv: no column 'text'; the file is empty: set task.text_column"),
    "header.csv": (b"text,label\n", "header.csv: split 'train' has no rows: give it some"),
    "columns.csv": (
        b"texts,label\n" + ROWS,
        "columns.csv: no column 'text'; did you mean 'texts'? choices: label, texts: set task.text_column",
    ),
    "label.csv": (
        b"text,class\n" + ROWS,
        "label.csv: no column 'label'; choices: class, text: set task.label_column",
    ),
    "commas.csv": (
        b"text,label\n" + ROWS + b"good, bad,1\n",
        "commas.csv:22: 3 columns, expected 2: quote texts that hold commas",
    ),
    "short.csv": (
        b"text,label\n" + ROWS + b"good\n",
        "short.csv:22: 1 columns, expected 2: quote texts that hold commas",
    ),
    "quotes.csv": (
        b"text,label\n" + ROWS + b'"good,1\n',
        "quotes.csv:22: unexpected end of data: mend the quotes of this row",
    ),
    "latin.csv": (
        b"text,label\n" + ROWS + b"caf\xe9,1\n",
        "latin.csv:22: not UTF-8 (byte 0xe9 in column 4): save the file as UTF-8",
    ),
    "blank.csv": (
        b"text,label\n" + ROWS + b'"",1\n',
        "blank.csv:22: the text is empty: remove the row or write its text",
    ),
    "space.csv": (
        b'text,label\ngood,1\n" \t ",0\n',
        "space.csv:3: the text is empty: remove the row or write its text",
    ),
    "one.csv": (
        b"text,label\n" + b"good,1\n" * 9,
        "one.csv: 1 class ('1'), expected 2: set task.label_column to a column with two values",
    ),
    "many.csv": (
        b"text,label\n" + b"".join(b"good,%d\n" % n for n in range(7)),
        "many.csv: 7 classes ('0', '1', '2', '3', '4', ...), expected 2: "
        "set task.label_column to a column with two values",
    ),
    "missing.csv": (
        b"text,label\n" + ROWS + b"good,\n",
        "missing.csv: 3 classes ('', '0', '1'), expected 2: "
        "set task.label_column to a column with two values",
    ),
    "tiny.csv": (
        b"text,label\ngood,1\nbad,0\n",
        "tiny.csv: training split has 1 rows of class '0', needs 3: give more rows",
    ),
    "broken.jsonl": (
        b'{"text": "good", "label": 1}\n{"text": "bad", \n',
        "broken.jsonl:2: not JSON (",
    ),
    "list.jsonl": (b"[1, 2]\n", "list.jsonl:1: a list, expected an object: write one object per line"),
    "lacks.jsonl": (
        b'{"text": "good", "label": 1}\n{"text": "bad"}\n',
        "lacks.jsonl:2: no column 'label'; choices: text: set task.label_column",
    ),
    "number.jsonl": (
        b'{"text": 7, "label": 1}\n',
        "number.jsonl:1: 'text' is 7 (int), expected a text: mend the row, or set task.text_column",
    ),
    "null.jsonl": (
        b'{"text": null, "label": 1}\n',
        "null.jsonl:1: 'text' is missing, expected a text: mend the row, or set task.text_column",
    ),
    "float.jsonl": (
        b'{"text": "good", "label": 0.5}\n',
        "float.jsonl:1: 'label' is 0.5 (float), expected a whole number or a name: "
        "mend the row, or set task.label_column",
    ),
    "mixed.jsonl": (
        b'{"text": "good", "label": 1}\n{"text": "bad", "label": "0"}\n',
        "mixed.jsonl: labels mix numbers and names ('0', 1): use one kind",
    ),
    "note.txt": (b"good", "task.path=note.txt: not a .parquet, .csv, .jsonl file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_unusable_file_is_refused_in_one_line(tmp_path, name):
    content, expected = BAD_FILES[name]
    file = tmp_path / name
    file.write_bytes(content)
    assert refusal(file, tmp_path).startswith(expected)


def test_a_path_that_does_not_exist_is_refused_by_check_alone(tmp_path):
    with pytest.raises(
        UsageError, match="task.path=/no/where: no such file or folder; leave it out to use the hub"
    ):
        check(IMDb(path="/no/where"), "task.")


def test_a_folder_without_a_training_split_is_refused(tmp_path):
    write_csv(tmp_path / "reviews.csv", TRAIN)
    found = refusal(tmp_path, tmp_path / "cache")
    assert found.endswith(
        "no split 'train' (there: reviews.csv): name the files train* and test*, with .parquet, .csv, .jsonl"
    )
    (tmp_path / "empty").mkdir()
    assert "no split 'train' (there: no data file)" in refusal(tmp_path / "empty", tmp_path / "cache")


def test_a_split_in_two_formats_is_refused(tmp_path):
    write_csv(tmp_path / "train.csv", TRAIN)
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    assert refusal(tmp_path, tmp_path / "cache").endswith(
        "split 'train' has several formats: keep one of them"
    )


def test_one_class_in_the_test_split_is_refused(tmp_path):
    write_csv(tmp_path / "train.csv", TRAIN)
    write_csv(tmp_path / "test.csv", [("good", 1)])
    assert refusal(tmp_path, tmp_path / "cache").endswith(
        "test split has 0 rows of class '0', needs 1: give more rows"
    )


@pytest.mark.parametrize("cut", [0, 3, 100, -9])
def test_truncated_parquet_is_refused(tmp_path, cut):
    file = write_parquet(tmp_path / "cut.parquet", TRAIN)
    file.write_bytes(file.read_bytes()[:cut])
    found = refusal(file, tmp_path)
    assert found.startswith("cut.parquet: not a readable Parquet file (")
    assert found.endswith("): copy it again")


def test_damaged_parquet_pages_are_refused(tmp_path):
    file = tmp_path / "page.parquet"
    pq.write_table(pa.table({"text": [t for t, _ in TRAIN], "label": [n for _, n in TRAIN]}), file)
    content = bytearray(file.read_bytes())
    content[4:60] = b"\xff" * 56
    file.write_bytes(content)
    assert refusal(file, tmp_path).startswith("page.parquet: cannot be read (")


def test_unusable_parquet_columns_are_refused(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", TRAIN, names=("txt", "label"))
    assert refusal(file, tmp_path) == (
        "a.parquet: no column 'text'; did you mean 'txt'? choices: label, txt: set task.text_column"
    )
    file = write_parquet(tmp_path / "b.parquet", [("good", 0.5), ("bad", 1.0)])
    assert refusal(file, tmp_path).startswith("b.parquet:1: 'label' is 0.5 (float), expected a whole number")
    file = write_parquet(tmp_path / "c.parquet", [("good", 1), (None, 0)])
    assert refusal(file, tmp_path).startswith("c.parquet:2: 'text' is missing, expected a text")
    file = write_parquet(tmp_path / "d.parquet", [(5, 1), (6, 0)])
    assert refusal(file, tmp_path).startswith("d.parquet:1: 'text' is 5 (int), expected a text")
    file = tmp_path / "e.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}), file)
    assert refusal(file, tmp_path) == "e.parquet: split 'train' has no rows: give it some"


# The hub


HUB_LINE = (
    "stanfordnlp/imdb: the hub cannot be reached, and the data set is not cached here: "
    "put the data set into a folder and add task.path=FOLDER"
)


@pytest.mark.parametrize("known", [True, False], ids=["HF_HUB_OFFLINE", "nobody answers"])
def test_without_the_hub_the_refusal_is_quick_and_names_the_local_path(run_python, tmp_path, known):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"  # bound, never listening
        variables = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "01"[known]}
        code = (
            "import time, pathlib, datasets; from seqbench.tasks.imdb import IMDb\n"
            "start = time.perf_counter()\n"
            "try: IMDb().prepare(pathlib.Path('cache'))\n"
            "except Exception as error: print(type(error).__name__, error)\n"
            "print(time.perf_counter() - start)"
        )
        code = code if known else code.replace(", datasets", "")  # as in the child that prepares
        done = run_python("-c", code, **variables)
    line, seconds = done.stdout.splitlines()[-2:]
    assert line == f"UsageError {HUB_LINE}", done.stderr
    assert float(seconds) < 15  # 24 s of retries otherwise; the import of datasets is part of it


def test_a_missing_split_of_the_hub_is_named(monkeypatch, tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    monkeypatch.setattr(source, "reachable", lambda: True)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=rows, tests=rows)
    )
    assert refusal(None, tmp_path).startswith(
        "stanfordnlp/imdb: no split 'test'; did you mean 'tests'? choices: tests, train: "
    )


def test_the_hub_gives_the_same_data_as_the_files(monkeypatch, folder, tmp_path):
    import datasets

    calls = []

    def load(name: str, **options: str) -> datasets.DatasetDict:
        calls.append((name, options))
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {"text": [t for t, _ in rows], "label": [n for _, n in rows]}
                )
                for split, rows in (("train", TRAIN), ("test", TEST), ("unsupervised", [("never read", -1)]))
            }
        )

    monkeypatch.setattr(source, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    hub = IMDb()
    hub.prepare(tmp_path)
    monkeypatch.undo()
    local = IMDb(path=str(folder))
    local.prepare(tmp_path)
    assert calls == [("stanfordnlp/imdb", {"revision": imdb.HUB.revision})]
    for part in ("train", "valid", "test"):
        batches = [[b.digest() for b in task.open(0, tmp_path).held_out(part, 1)] for task in (hub, local)]
        assert batches[0] == batches[1]
    assert hub.card().id == "imdb/word-20000-256"
    assert hub.card().reference_points
    assert hub.card().floors == {"chance": 0.5}


def test_data_of_ones_own_is_not_measured_by_what_was_published_for_imdb(folder, tmp_path):
    local = IMDb(path=str(folder))
    local.prepare(tmp_path)
    assert local.card().id == f"imdb/word-20000-256@{folder.name}"
    assert not local.card().reference_points
    assert not local.card().floors
    answers = [answer for _, answer in TEST]
    share = max(answers.count(answer) for answer in set(answers)) / len(answers)
    assert local.open(0, tmp_path).floors == {"majority class": share}


def test_reachable_asks_the_proxy_where_there_is_one(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert source.reachable()
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        monkeypatch.setenv("http_proxy", address)
        assert source.reachable()


# Cache


def cached_file(where: Path) -> Path:
    (file,) = (where / "imdb").iterdir()
    return file


def test_a_second_start_reads_no_source(folder, tmp_path, monkeypatch):
    task = IMDb(path=str(folder))
    task.prepare(tmp_path)
    monkeypatch.setattr(IMDb, "_rows", lambda *_: pytest.fail("the source was read again"))
    start = time.perf_counter()
    task.prepare(tmp_path)
    next(task.open(0, tmp_path).train(8))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "array", "pickle"])
@pytest.mark.parametrize("by", ["prepare", "open"])
def test_a_damaged_cache_is_rebuilt_never_trusted(folder, tmp_path, damage, by):
    task = IMDb(path=str(folder))
    task.prepare(tmp_path)
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


def test_the_cache_is_keyed_by_content_and_settings(folder, tmp_path):
    def key(**settings) -> str:
        return IMDb(path=str(folder), **settings)._file(tmp_path).name

    first = key()
    assert key() == first == key(solved_at=0.9)
    others = {key(vocabulary=99), key(max_tokens=99), key(valid_share=0.2), key(text_column="x")}
    write_parquet(folder / "plain_text" / "train-00000-of-00001.parquet", [*TRAIN, ("more", 1)])
    assert len({first, *others, key()}) == 6
    moved = folder.rename(tmp_path / "moved")
    write_parquet(moved / "plain_text" / "train-00000-of-00001.parquet", TRAIN)
    assert IMDb(path=str(moved))._file(tmp_path).name == first


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


# The card, and the real data


def test_the_card_comes_from_the_settings_alone():
    card = IMDb(vocabulary=5_000, max_tokens=100).card()
    assert card.id == "imdb/word-5000-100"
    assert card.floors == {"chance": 0.5}
    assert card.answers == "many-to-one"
    assert all(0.85 < score < 0.88 for score in card.reference_points.values())
    assert "4,998 most frequent words" in card.definition


def test_the_real_reviews_are_complete_and_balanced(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"the data set is not at {REAL}")
    from seqbench.source import Columns, read_files, split_files

    files = split_files(REAL)
    assert list(files) == ["train", "test"]
    for split, expected in (("train", 25_000), ("test", 25_000)):
        labels = [row.label for row in read_files(files[split], Columns("text", "label"))]
        assert (len(labels), sum(labels)) == (expected, expected / 2)
