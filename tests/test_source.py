"""Reading labelled texts: text in equals text out in every format; each file lands in its split and class."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqbench import source, source_formats, source_rows
from seqbench.errors import UsageError
from seqbench.source import DataFile, content_sha256, find_files, fingerprint, read_files
from seqbench.source_formats import FORMATS
from seqbench.source_rows import SEPARATORS, Columns

COLUMNS = Columns("text", "label")
Rows = Sequence[tuple[object, object]]


# Writers, by the libraries that everybody writes such files with


def write_csv(file: Path, rows: Rows, names: Sequence[str] = ("text", "label"), separator: str = ",") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=separator).writerows([names, *rows])
    return file


def write_tsv(file: Path, rows: Rows) -> Path:
    return write_csv(file, rows, separator="\t")


def write_jsonl(file: Path, rows: Rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def write_parquet(file: Path, rows: Rows, names: Sequence[str] = ("text", "label")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), file)
    return file


def write_folders(folder: Path, rows: Rows) -> Path:
    """A .txt file for each text in a folder for each class; names keep the order."""
    for number, (text, label) in enumerate(rows):
        file = folder / str(label) / f"{number:06}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(text).encode())
    return folder


WRITERS: dict[str, Callable[[Path, Rows], Path]] = {
    ".csv": write_csv, ".tsv": write_tsv, ".jsonl": write_jsonl, ".parquet": write_parquet,
}  # fmt: skip


def read(path: Path, columns: Columns = COLUMNS) -> list[tuple[str, str]]:
    """Texts and labels of the training split."""
    return [(row.text, row.label) for row in read_files(find_files(path).splits["train"], columns)]


def test_there_is_a_writer_for_every_format():
    assert set(WRITERS) == set(FORMATS)


# Text in equals text out

ODD = [
    "NA", "null", "123", "1e5", "True", "N/A", "nan", "None", "-", "007", "1.0", "#N/A", '"', '""', "'",
    ",", "a,b", 'say "no"', 'ends with "', '"begins', "a;b\tc|d", "line\nbreak", "cr\rlf\r\n", "\ttab",
    " padded ", "\\n", "\\", "a\x0bb\x0cc", "\x1c\x1d\x1e\x85\u2028\u2029x", "\x01\x7f", "e\u0301 vs \xe9",
    "# no", "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U00010348 astral",
    "=1+1", "{}", "[]", "\u202eright to left", "\u05e9\u05dc\u05d5\u05dd", "a\xa0b", "x\ufeffy",
    "\u0e20\u0e32\u0e29\u0e32", "\u4e2d\u6587", "<br />", ",,",
]  # fmt: skip


@pytest.mark.parametrize("suffix", WRITERS)
def test_odd_texts_and_names_stay_what_they_are(tmp_path, suffix):
    rows = [*((text, "x") for text in ODD), *(("x", label) for label in ODD if label == label.strip())]
    assert read(WRITERS[suffix](tmp_path / f"odd{suffix}", rows)) == rows


def test_odd_texts_stay_what_they_are_in_files_of_their_own(tmp_path):
    rows = [(text, "NA") for text in ODD]
    assert read(write_folders(tmp_path, rows)) == rows


VISIBLE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(
    lambda text: not text.isspace()
)
LABEL = VISIBLE.map(str.strip).filter(lambda label: 0 < len(label) <= source_rows.LONGEST_LABEL)
ANY_ROWS = st.lists(st.tuples(VISIBLE, LABEL), min_size=1, max_size=12)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(MANY, max_examples=15)  # datasets takes its time for a file


@pytest.mark.parametrize("separator", SEPARATORS)
@given(rows=ANY_ROWS)
@settings(MANY, max_examples=25)
def test_any_text_comes_out_of_csv_as_it_went_in(tmp_path, separator, rows):
    file = write_csv(tmp_path / "any.csv", rows, separator=SEPARATORS[separator])
    assert read(file, Columns("text", "label", separator)) == rows


@given(rows=ANY_ROWS)
@MANY
def test_any_text_comes_out_of_json_lines_as_it_went_in(tmp_path, rows):
    assert read(write_jsonl(tmp_path / "any.jsonl", rows)) == rows
    plain = [json.dumps({"text": t, "label": n}, ensure_ascii=False) for t, n in rows]
    (tmp_path / "any.jsonl").write_bytes("\r\n".join(plain).encode())
    assert read(tmp_path / "any.jsonl") == rows


@given(rows=ANY_ROWS)
@FEW
def test_any_text_comes_out_of_parquet_as_it_went_in(tmp_path, rows):
    assert read(write_parquet(tmp_path / "any.parquet", rows)) == rows


@given(texts=st.lists(VISIBLE.filter(lambda text: text[0] != "\ufeff"), min_size=1, max_size=6))
@MANY
def test_any_text_comes_out_of_a_file_of_its_own_as_it_went_in(tmp_path_factory, texts):
    rows = [(text, "a") for text in texts]
    assert read(write_folders(tmp_path_factory.mktemp("any"), rows)) == rows


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_nul_is_a_character_where_the_format_can_say_so(tmp_path, suffix):
    assert read(WRITERS[suffix](tmp_path / f"nul{suffix}", [("a\0b", "x")])) == [("a\0b", "x")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_are_no_part_of_a_table(tmp_path, end, mark):
    lines = ["text,label", '"two', 'lines",a', "", "one,b"]
    (tmp_path / "t.csv").write_bytes((mark + end.join(lines)).encode())
    assert read(tmp_path / "t.csv") == [(f"two{end}lines", "a"), ("one", "b")]
    objects = ['{"text": "one", "label": "a"}', "", '{"text": "two", "label": 1}']
    (tmp_path / "t.jsonl").write_bytes((mark + end.join(objects)).encode())
    assert read(tmp_path / "t.jsonl") == [("one", "a"), ("two", "1")]
    (tmp_path / "c" / "a").mkdir(parents=True)
    (tmp_path / "c" / "a" / "1.txt").write_bytes((mark + f"one{end}").encode())
    assert read(tmp_path / "c") == [(f"one{end}", "a")]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_label_is_one_class_whatever_the_format(tmp_path, suffix):
    rows = [("a", 3), ("b", "3"), ("c", -1), ("d", "pos")]
    rows = [("a", "3"), ("b", "3"), ("c", "-1"), ("d", "pos")] if suffix == ".parquet" else rows
    assert [label for _, label in read(WRITERS[suffix](tmp_path / f"x{suffix}", rows))] == [
        "3",
        "3",
        "-1",
        "pos",
    ]
    numbers = read(WRITERS[suffix](tmp_path / f"n{suffix}", [("a", 10), ("b", 2**63 - 1)]))
    assert [label for _, label in numbers] == ["10", "9223372036854775807"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_true_and_false_are_names_of_classes(tmp_path, suffix):
    file = WRITERS[suffix](tmp_path / f"x{suffix}", [("a", True), ("b", False)])
    assert read(file) == [("a", "true"), ("b", "false")]


def test_columns_of_parquet_that_pandas_writes_as_categories_are_read(tmp_path):
    words = pa.array(["b", "a", "b"]).dictionary_encode()
    pq.write_table(
        pa.table({"text": pa.array(["x", "y", "z"], pa.large_string()), "label": words}),
        tmp_path / "c.parquet",
    )
    assert read(tmp_path / "c.parquet") == [("x", "b"), ("y", "a"), ("z", "b")]


# Places


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_row_is_named_by_the_line_where_it_begins(tmp_path, end):
    lines = ["text,label", '"a', "b", 'c",x', "", "d,y"]
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode())
    rows = read_files([DataFile(tmp_path / "t.csv")], COLUMNS)
    assert [row.place for row in rows] == [f"{tmp_path / 't.csv'}:2", f"{tmp_path / 't.csv'}:6"]


# Which files


def layout(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("text,label\na,b\n")
    return root


def splits(root: Path) -> dict[str, list[str]]:
    found = find_files(root)
    return {
        split: [str(file.path.relative_to(root)) for file in files] for split, files in found.splits.items()
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.csv"], {"train": ["train.csv"]}),
        (["Train.CSV", "TEST.csv"], {"train": ["Train.CSV"], "test": ["TEST.csv"]}),
        (
            ["train-2.csv", "train-1.csv", "valid.csv", "test.csv"],
            {"train": ["train-1.csv", "train-2.csv"], "valid": ["valid.csv"], "test": ["test.csv"]},
        ),
        (["train.csv", "validation.tsv"], {"train": ["train.csv"], "valid": ["validation.tsv"]}),
        (["train.csv", "val.csv"], {"train": ["train.csv"], "valid": ["val.csv"]}),
        (["train.csv", "val_1.csv"], {"train": ["train.csv"], "valid": ["val_1.csv"]}),
        (["train.csv", "values.csv"], {"train": ["train.csv"]}),
        (["train.csv", "dev.jsonl"], {"train": ["train.csv"], "valid": ["dev.jsonl"]}),
        (["data/train-0.parquet", "data/test-0.parquet", "README.md"],
         {"train": ["data/train-0.parquet"], "test": ["data/test-0.parquet"]}),
        (["train/a.csv", "test/b.csv"], {"train": ["train/a.csv"], "test": ["test/b.csv"]}),
        (["train.csv/part-1.csv", "train.csv/_SUCCESS"], {"train": ["train.csv/part-1.csv"]}),
        (["train.csv", ".ipynb_checkpoints/train.csv", ".train.csv"], {"train": ["train.csv"]}),
        (["train.csv", "pos/1.txt"], {"train": ["train.csv"]}),
    ],
)  # fmt: skip
def test_files_are_told_by_their_names(tmp_path, names, expected):
    assert splits(layout(tmp_path, *names)) == expected


@pytest.mark.parametrize(
    ("names", "expected", "left_out"),
    [
        (["pos/1.txt", "neg/2.txt", "neg/1.txt", "README.txt"], {"train": "neg/1 neg/2 pos/1"}, 0),
        (["train/1.txt", "plane/1.txt"], {"train": "plane/1 train/1"}, 0),
        (["train/a/1.txt", "train/b/1.txt"], {"train": "train/a/1 train/b/1"}, 0),
        (["train/a/1.txt", "test/a/1.txt", "Validation/a/1.txt"],
         {"train": "train/a/1", "valid": "Validation/a/1", "test": "test/a/1"}, 0),
        (["train/a/1.txt", "train/urls.txt", "extra/a/1.txt"], {"train": "train/a/1"}, 2),
        (["a/1.txt", "a/2.TXT", "a/1.jpg", ".git/x/1.txt", "a/.hidden.txt"], {"train": "a/1 a/2"}, 0),
    ],
)  # fmt: skip
def test_folders_of_texts_tell_the_classes(tmp_path, names, expected, left_out):
    found = find_files(layout(tmp_path, *names))
    assert found.per_class
    assert found.left_out == left_out
    assert {
        split: " ".join(str(file.path.relative_to(tmp_path).with_suffix("")) for file in files)
        for split, files in found.splits.items()
    } == expected
    assert all(file.label == file.path.parent.name for files in found.splits.values() for file in files)


def test_links_to_files_are_followed_as_the_cache_of_the_hub_needs(tmp_path):
    real = write_csv(tmp_path / "blobs" / "0123", [("a", "x")])
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "train.csv").symlink_to(real)
    (tmp_path / "link").symlink_to(tmp_path / "snapshot")
    assert read(tmp_path / "snapshot") == read(tmp_path / "link") == [("a", "x")]


def test_what_is_no_data_is_passed_by_whatever_it_is(tmp_path):
    layout(tmp_path, "train.csv")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lock").symlink_to("me@here:1234")
    assert splits(tmp_path) == {"train": ["train.csv"]}


def test_a_walk_through_the_whole_disk_ends(tmp_path, monkeypatch):
    layout(tmp_path, *(f"{n}.csv" for n in range(5)))
    monkeypatch.setattr(source, "MOST_FILES", 4)
    with pytest.raises(UsageError, match=r"more than 4 files: give the folder of the data$"):
        find_files(tmp_path)


# Files that change or go away


def test_a_file_that_is_gone_between_check_and_reading_is_named(tmp_path):
    files = find_files(layout(tmp_path, "train.csv")).splits["train"]
    (tmp_path / "train.csv").unlink()
    with pytest.raises(UsageError) as error:
        list(read_files(files, COLUMNS))
    assert str(error.value) == (
        f"{tmp_path / 'train.csv'}: No such file or directory: put it there and make it readable"
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".txt"])
@pytest.mark.timeout(20)
def test_a_pipe_put_in_the_place_of_a_file_is_refused_and_never_waited_for(tmp_path, suffix):
    file = tmp_path / f"train{suffix}"
    os.mkfifo(file)
    for use in (lambda: list(read_files([DataFile(file, "a" if suffix == ".txt" else None)], COLUMNS)),
                lambda: content_sha256(file)):  # fmt: skip
        with pytest.raises(UsageError) as error:
            use()
        assert str(error.value) == f"{file}: a pipe, expected a file: copy what it gives into one"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_what_the_system_does_not_give_is_refused_in_one_line(tmp_path, monkeypatch, code):
    """As root every file can be read, so the system's answer is put in its mouth."""
    file = write_csv(tmp_path / "train.csv", [("a", "x")])

    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(source_formats.os, "open", fail)
    for use in (lambda: read(file), lambda: content_sha256(file)):
        with pytest.raises(UsageError) as error:
            use()
        assert str(error.value) == f"{file}: {os.strerror(code)}: put it there and make it readable"


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    def fail(place: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(
        UsageError, match=f"^{tmp_path}: Permission denied: put it there and make it readable$"
    ):
        find_files(tmp_path)


def test_the_fingerprint_is_of_the_content_and_not_of_names(tmp_path):
    one = layout(tmp_path / "one", "train.csv", "test.csv")
    other = layout(tmp_path / "other", "train-0.csv", "test-0.csv")
    first = fingerprint(find_files(one))
    assert [line.split()[:2] for line in first] == [["train", ".csv"], ["test", ".csv"]]
    assert fingerprint(find_files(other)) == first
    (one / "test.csv").write_text("text,label\nb,a\n")
    changed = fingerprint(find_files(one))
    assert changed[0] == first[0]
    assert changed[1] != first[1]


def test_the_fingerprint_of_folders_knows_texts_and_classes(tmp_path):
    folder = write_folders(tmp_path, [("one", "a"), ("two", "a"), ("three", "b")])
    seen = {tuple(fingerprint(find_files(folder)))}
    (folder / "a" / "000000.txt").write_text("ONE")
    seen.add(tuple(fingerprint(find_files(folder))))
    (folder / "b").rename(folder / "c")
    seen.add(tuple(fingerprint(find_files(folder))))
    (folder / "c" / "000003.txt").write_text("four")
    seen.add(tuple(fingerprint(find_files(folder))))
    assert len(seen) == 4
    assert all(len(lines) == 2 for lines in seen)


def test_a_file_is_hashed_again_once_it_changed(tmp_path, monkeypatch):
    file = layout(tmp_path, "a.csv") / "a.csv"
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(
            source, "_signature", lambda _: (1, now)
        )  # all within one tick of the file system's clock
        before = content_sha256(file)
        file.write_text("text,label\nA,b\n")
        assert content_sha256(file) != before
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(source.time, "time_ns", lambda: later)
    settled = content_sha256(file)
    hashed = []
    monkeypatch.setattr(source.hashlib, "file_digest", lambda *a: hashed.append(a))
    assert content_sha256(file) == settled
    assert not hashed  # what has not changed for a while is not read again


def test_kinds_of_files_have_names():
    assert source_formats.kind_of(stat.S_IFSOCK) == "a socket"
    assert source_formats.kind_of(stat.S_IFCHR) == "a device"
