"""Data files as they come: each is read exactly, or refused in one line: where, why and what to do."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_source import read, write_csv, write_folders, write_jsonl, write_parquet

from seqbench.cache import Cached
from seqbench.errors import UsageError
from seqbench.schema import check
from seqbench.source import find_files, read_files
from seqbench.source_rows import Columns
from seqbench.tasks.text import Text

GOOD = b"good,1\nbad,0\n" * 10
HEAD = b"text,label\n"
LINE = b'{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n'
REMOVE = "remove the row or write its text"
TWO_LABELS = "add texts of another class, or check what tells the classes (task.label_column)"
QUOTES = "text goes on after a closing quote: quote the whole text, and double the quotes inside it"
BY_NAME = "or give one file by its name"
MORE = "give it more rows, take the class out, or check what tells the classes (task.label_column)"
THREE = "needs 3 (to train, validate and test on)"
FOLDERS = "check what tells the classes (a folder per class)"

# What is in the file, and the line with which it is refused. tests/faults reads this table too.
BAD_FILES: dict[str, tuple[bytes, str]] = {
    # nothing in it
    "empty.csv": (b"", "empty.csv: the file is empty: give it a line with the columns' names, and rows"),
    "blank.csv": (
        b"\n\r\n\n",
        "blank.csv: the file is empty: give it a line with the columns' names, and rows",
    ),
    "mark.csv": (
        b"\xef\xbb\xbf",
        "mark.csv: the file is empty: give it a line with the columns' names, and rows",
    ),
    "header.csv": (HEAD, "header.csv: no rows: give it some, or take the file out"),
    "header.tsv": (b"text\tlabel", "header.tsv: no rows: give it some, or take the file out"),
    "empty.jsonl": (b"", "empty.jsonl: no rows: give it some, or take the file out"),
    "blank.jsonl": (b"\n\n  \n", "blank.jsonl: no rows: give it some, or take the file out"),
    # columns
    "wrong.csv": (
        b"texts,label\n" + GOOD,
        "wrong.csv:1: no column 'text'; did you mean 'texts'? choices: label, texts: set task.text_column",
    ),
    "label.csv": (
        b"text,class\n" + GOOD,
        "label.csv:1: no column 'label'; choices: class, text: set task.label_column",
    ),
    "case.csv": (
        b"Text,Label\n" + GOOD,
        "case.csv:1: no column 'text'; did you mean 'Text'? choices: Label, Text: set task.text_column",
    ),
    "space.csv": (
        b"text, label\n" + GOOD,
        "space.csv:1: no column 'label'; did you mean ' label'? choices:  label, text: set task.label_column",
    ),
    "nameless.csv": (
        GOOD,
        "nameless.csv:1: no column 'text'; choices: 1, good: set task.text_column",
    ),
    "late.csv": (
        b"\n\ntext,class\n" + GOOD,
        "late.csv:3: no column 'label'; choices: class, text: set task.label_column",
    ),
    "twice.csv": (
        b"text,label,text\na,1,b\n",
        "twice.csv:1: 2 columns are called 'text': rename all but one",
    ),
    "twice2.csv": (
        b"text,label,label,label\na,1,2,3\n",
        "twice2.csv:1: 3 columns are called 'label': rename all but one",
    ),
    "semicolon.csv": (
        b"text;label\ngood, really;1\n",
        "semicolon.csv:1: no column 'text'; did you mean 'text;label'? choices: text;label: "
        "set task.separator=semicolon",
    ),
    "both.csv": (  # a wrong separator is mended first: it shows what the columns are called
        b"review;sentiment\ngood, really;1\n",
        "both.csv:1: no column 'text'; choices: review;sentiment: set task.separator=semicolon",
    ),
    "tabs.csv": (
        b"label\ttext\n1\tgood\n",
        "tabs.csv:1: no column 'text'; did you mean 'label text'? choices: label text: "
        "set task.separator=tab",
    ),
    "commas.tsv": (
        HEAD + GOOD,
        "commas.tsv:1: no column 'text'; did you mean 'text,label'? choices: text,label: "
        "set task.separator=comma",
    ),
    "wide.csv": (
        b",".join(b"a column with a rather long name %d" % n for n in range(100)) + b",texts\n",
        "wide.csv:1: no column 'text'; did you mean 'texts'? choices: "
        + ", ".join(sorted(f"a column with a rather long name {n}" for n in range(19)))
        + ", texts and 81 more: set task.text_column",
    ),
    # rows
    "more.csv": (
        HEAD + GOOD + b"good, bad,1\n",
        "more.csv:22: 3 columns, expected 2: quote texts that hold ','",
    ),
    "fewer.csv": (HEAD + GOOD + b"good\n", "fewer.csv:22: 1 column, expected 2: quote texts that hold ','"),
    "trailing.csv": (HEAD + b"good,1,\n", "trailing.csv:2: 3 columns, expected 2: quote texts that hold ','"),
    "more.tsv": (
        b"text\tlabel\ngood\tor\t1\n",
        "more.tsv:2: 3 columns, expected 2: quote texts that hold tabs",
    ),
    "open.csv": (
        HEAD + GOOD + b'"good,1\nbad,0\nbad,0\n',
        "open.csv:22: a quote is opened and never closed: quote the whole text, and double the quotes "
        "inside it",
    ),
    "inside.csv": (
        HEAD + GOOD + b'"good" film,1\n',
        f"inside.csv:22: {QUOTES}",
    ),
    "quotes.tsv": (
        b'text\tlabel\n"Good", he said\t1\n',
        f"quotes.tsv:2: {QUOTES}",
    ),
    # encodings
    "latin.csv": (
        HEAD + GOOD + b"caf\xe9,1\n",
        "latin.csv:22: not UTF-8 (byte 0xe9 in column 4): save the file as UTF-8",
    ),
    "latin-cr.csv": (
        b"text,label\rgood,1\r\rna\xefve,0\r",
        "latin-cr.csv:4: not UTF-8 (byte 0xef in column 3): save the file as UTF-8",
    ),
    "latin-late.csv": (
        HEAD + GOOD * 1000 + b"caf\xe9,1\n" + GOOD * 1000,
        "latin-late.csv:20002: not UTF-8 (byte 0xe9 in column 4): save the file as UTF-8",
    ),
    "cut.csv": (
        HEAD + GOOD + "café".encode()[:-1],
        "cut.csv:22: not UTF-8 (byte 0xc3 in column 4): save the file as UTF-8",
    ),
    "utf16.csv": (
        (HEAD + GOOD).decode().encode("utf-16"),
        "utf16.csv:1: UTF-16, expected UTF-8: save the file as UTF-8",
    ),
    "utf16-be.csv": (
        b"\xfe\xff" + (HEAD + GOOD).decode().encode("utf-16-be"),
        "utf16-be.csv:1: UTF-16, expected UTF-8: save the file as UTF-8",
    ),
    "utf16-bare.csv": (
        (HEAD + GOOD).decode().encode("utf-16-le"),
        "utf16-bare.csv:1: a NUL character: save the file as text in UTF-8",
    ),
    "nul.csv": (HEAD + b"good,1\nba\0d,0\n", "nul.csv:3: a NUL character: save the file as text in UTF-8"),
    "nul-quoted.csv": (
        HEAD + b'"good\n\nba\0d",0\n',
        "nul-quoted.csv:4: a NUL character: save the file as text in UTF-8",
    ),
    "latin.jsonl": (
        LINE + b'{"text": "caf\xe9"}\n',
        "latin.jsonl:3: not UTF-8 (byte 0xe9 in column 14): save the file as UTF-8",
    ),
    "utf16.jsonl": (
        LINE.decode().encode("utf-16"),
        "utf16.jsonl:1: UTF-16, expected UTF-8: save the file as UTF-8",
    ),
    # texts and labels
    "none.csv": (HEAD + GOOD + b'"",1\n', f"none.csv:22: the text is empty: {REMOVE}"),
    "white.csv": (HEAD + b'good,1\n" \t\n ",0\n', f"white.csv:3: the text is empty: {REMOVE}"),
    "nbsp.csv": (HEAD + "\u00a0\u3000,0\n".encode(), f"nbsp.csv:2: the text is empty: {REMOVE}"),
    "missing.csv": (
        HEAD + GOOD + b"good,\n",
        "missing.csv:22: the label is empty: remove the row or write its label",
    ),
    "padded.csv": (
        HEAD + b"good, 1\nbad, 0\n",
        "padded.csv:2: the label ' 1' has blanks around it: take them out",
    ),
    "swapped.csv": (
        HEAD + b"1," + b"good " * 50 + b"film\n",
        "swapped.csv:2: a label of 254 characters, at most 200: set task.label_column",
    ),
    "one.csv": (HEAD + b"good,1\n" * 9, f"one.csv: 1 class ('1'), expected 2 or more: {TWO_LABELS}"),
    "tiny.csv": (
        HEAD + b"good,1\nbad,0\n",
        f"tiny.csv: class '0' has 1 row in the train split, {THREE}; 1 more of 2 classes have too few: "
        f"{MORE}",
    ),
    "rare.csv": (
        HEAD + GOOD + b"so,2\nso,2\n",
        f"rare.csv: class '2' has 2 rows in the train split, {THREE}: {MORE}",
    ),
    "ids.csv": (
        HEAD + b"".join(b"text %d,%d\n" % (n, n) for n in range(50)),
        f"ids.csv: class '0' has 1 row in the train split, {THREE}; 49 more of 50 classes have too few: "
        f"{MORE}",
    ),
    "scores.csv": (
        HEAD + b"good,0.91\nbad,0.13\nso,0.5\n",
        f"scores.csv: class '0.13' has 1 row in the train split, {THREE}; 2 more of 3 classes have too "
        f"few: {MORE}",
    ),
    "spelling.csv": (
        HEAD + GOOD + b"good,1.0\n" * 3,
        "spelling.csv: labels '1' and '1.0' are one number, written in two ways: write it in one",
    ),
    "zeros.csv": (
        HEAD + GOOD + b"good,01\n" * 3,
        "zeros.csv: labels '1' and '01' are one number, written in two ways: write it in one",
    ),
    "emoji.csv": (
        HEAD + "\U0001f600,1\n\U0001f622,0\n".encode() * 20 + GOOD,
        "emoji.csv: 29 of 44 training texts have no word (letters, digits, '!' or '?'): "
        "set task.tokens=byte, which reads any text",
    ),
    # JSON lines
    "broken.jsonl": (
        LINE + b'{"text": "bad", \n',
        "broken.jsonl:3: not JSON (Expecting property name enclosed in double quotes in column 17): "
        "write one object per line",
    ),
    "pretty.jsonl": (
        b'[\n {"text": "good", "label": 1}\n]\n',
        "pretty.jsonl:1: not JSON (Expecting value in column 2): write one object per line",
    ),
    "list.jsonl": (b"[1, 2]\n", "list.jsonl:1: a list, expected an object: write one object per line"),
    "deep.jsonl": (
        b"[" * 100_000 + b"\n",
        "deep.jsonl:1: nested too deeply: write one plain object per line",
    ),
    "lacks.jsonl": (
        LINE + b'{"text": "bad"}\n',
        "lacks.jsonl:3: no column 'label'; choices: text: set task.label_column",
    ),
    "bare.jsonl": (b"{}\n", "bare.jsonl:1: no column 'text'; choices: none: set task.text_column"),
    "twice.jsonl": (
        LINE + b'{"text": "good", "label": 1, "text": "bad"}\n',
        "twice.jsonl:3: 'text' stands twice in an object: keep one",
    ),
    "number.jsonl": (
        b'{"text": 7, "label": 1}\n',
        "number.jsonl:1: 'text' is 7 (int), expected a text: mend the row, or set task.text_column",
    ),
    "null.jsonl": (
        b'{"text": null, "label": 1}\n',
        "null.jsonl:1: 'text' is missing, expected a text: mend the row, or set task.text_column",
    ),
    "white.jsonl": (b'{"text": " \\n", "label": 1}\n', f"white.jsonl:1: the text is empty: {REMOVE}"),
    "half.jsonl": (
        b'{"text": "a\\ud83d", "label": 1}\n',
        "half.jsonl:1: 'text' holds half a character (\\ud800 to \\udfff): write it whole",
    ),
    "float.jsonl": (
        b'{"text": "good", "label": 1.0}\n',
        "float.jsonl:1: 'label' is 1.0 (float), expected a whole number or a name: "
        "write whole numbers or names, or set task.label_column",
    ),
    "nan.jsonl": (
        b'{"text": "good", "label": NaN}\n',
        "nan.jsonl:1: 'label' is nan (float), expected a whole number or a name: "
        "write whole numbers or names, or set task.label_column",
    ),
    "nolabel.jsonl": (
        LINE + b'{"text": "good", "label": null}\n',
        "nolabel.jsonl:3: 'label' is missing, expected a whole number or a name: "
        "mend the row, or set task.label_column",
    ),
    "several.jsonl": (
        b'{"text": "good", "label": ["a", "b"]}\n',
        "several.jsonl:1: 'label' is ['a', 'b'] (list), expected a whole number or a name: "
        "mend the row, or set task.label_column",
    ),
    # other files
    "note.txt": (
        b"good",
        "task.path=note.txt: not a .csv, .tsv, .jsonl or .parquet file: "
        "put .txt files into a folder per class and give the folder above",
    ),
    "data.json": (
        b"[]",
        "task.path=data.json: not a .csv, .tsv, .jsonl or .parquet file: "
        "write it in one of these formats, one object per line",
    ),
    "data.csv.gz": (
        b"\x1f\x8b",
        "task.path=data.csv.gz: not a .csv, .tsv, .jsonl or .parquet file: unpack it first",
    ),
    "data.xlsx": (
        b"PK",
        "task.path=data.xlsx: not a .csv, .tsv, .jsonl or .parquet file: write it in one of these formats",
    ),
    "data": (
        HEAD + GOOD,
        "task.path=data: not a .csv, .tsv, .jsonl or .parquet file: write it in one of these formats",
    ),
}


def refusal(path: Path, where: Path, **settings: object) -> str:
    """The one line with which a source is refused; paths cut to names, the reasons of libraries left out."""
    task = Text(path=str(path), **settings)
    with pytest.raises(UsageError) as error:
        check(task, "task.")
        task.prepare(where / "cache")
    text = str(error.value)
    assert "\n" not in text
    assert not (where / "cache").exists()  # nothing is cached from a source that is refused
    shown = text.replace(f"{where}/", "")
    return re.sub(r"(readable Parquet file|cannot be read) \(.*\)", r"\1 (...)", shown)


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_unusable_file_is_refused_in_one_line(tmp_path, name):
    content, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name, tmp_path) == expected


def test_there_are_as_many_broken_files_as_promised():
    assert len(BAD_FILES) >= 40


# Parquet


def truncated(file: Path, keep: int) -> Path:
    write_parquet(file, [("good", 1), ("bad", 0)] * 20)
    file.write_bytes(file.read_bytes()[:keep])
    return file


def damaged(file: Path) -> Path:
    write_parquet(file, [(f"text {n}", n % 2) for n in range(40)])
    content = bytearray(file.read_bytes())
    content[4:60] = b"\xff" * 56
    file.write_bytes(content)
    return file


def table(file: Path, texts: pa.Array, labels: pa.Array) -> Path:
    pq.write_table(pa.table({"text": texts, "label": labels}), file)
    return file


def not_unicode(file: Path) -> Path:
    buffers = pa.array([b"good", b"caf\xe9", b"bad"], pa.binary()).buffers()
    return table(file, pa.StringArray.from_buffers(3, buffers[1], buffers[2]), pa.array([1, 0, 1]))


def unnamed_class(file: Path) -> Path:
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"])
    )
    rows = {"text": ["good", "who knows"], "label": [1, -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return file


BAD_PARQUET: dict[str, tuple[Callable[[Path], Path], str]] = {
    **{
        f"cut{keep}.parquet": (
            lambda file, keep=keep: truncated(file, keep),
            f"cut{keep}.parquet: not a readable Parquet file (...): copy it again",
        )
        for keep in (0, 3, 100, -9)
    },
    "text.parquet": (
        lambda file: write_csv(file, [("good", 1)]),
        "text.parquet: not a readable Parquet file (...): copy it again",
    ),
    "damaged.parquet": (damaged, "damaged.parquet: cannot be read (...): copy it again"),
    "columns.parquet": (
        lambda file: write_parquet(file, [("a", 1)], names=("txt", "label")),
        "columns.parquet: no column 'text'; did you mean 'txt'? choices: label, txt: set task.text_column",
    ),
    "twice.parquet": (
        lambda file: (
            pq.write_table(pa.table([["a"], ["b"], [1]], names=["text", "text", "label"]), file) or file
        ),
        "twice.parquet: 2 columns are called 'text': rename all but one",
    ),
    "none.parquet": (
        lambda file: table(file, pa.array([], pa.string()), pa.array([], pa.int64())),
        "none.parquet: no rows: give it some, or take the file out",
    ),
    "missing.parquet": (
        lambda file: table(file, pa.array(["good", None]), pa.array([1, 0])),
        "missing.parquet:2: 'text' is missing, expected a text: mend the row, or set task.text_column",
    ),
    "numbers.parquet": (
        lambda file: table(file, pa.array([5, 6]), pa.array([1, 0])),
        "numbers.parquet:1: 'text' is 5 (int), expected a text: mend the row, or set task.text_column",
    ),
    "bytes.parquet": (
        lambda file: table(file, pa.array([b"good"]), pa.array([1])),
        "bytes.parquet:1: 'text' is b'good' (bytes), expected a text: mend the row, or set task.text_column",
    ),
    "floats.parquet": (
        lambda file: table(file, pa.array(["good", "bad"]), pa.array([1.0, 0.0])),
        "floats.parquet:1: 'label' is 1.0 (float), expected a whole number or a name: "
        "write whole numbers or names, or set task.label_column",
    ),
    "gaps.parquet": (  # how pandas writes whole numbers of which one is missing
        lambda file: table(file, pa.array(["good", "bad"]), pa.array([None, 1.0])),
        "gaps.parquet:1: 'label' is missing, expected a whole number or a name: "
        "mend the row, or set task.label_column",
    ),
    "latin.parquet": (not_unicode, "latin.parquet:2: not UTF-8: write texts as UTF-8"),
    "unnamed.parquet": (
        unnamed_class,
        "unnamed.parquet:2: 'label' is missing, expected a whole number or a name: "
        "mend the row, or set task.label_column",
    ),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_an_unusable_parquet_file_is_refused_in_one_line(tmp_path, name):
    make, expected = BAD_PARQUET[name]
    assert refusal(make(tmp_path / name), tmp_path) == expected


# Folders and what else a path can be


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.csv")
    return folder / "pipe.csv"


def pipe_inside(folder: Path) -> Path:
    os.mkfifo(folder / "train.csv")
    return folder


def unix_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as end, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a socket's address has little room
        end.bind("s.csv")
    return folder / "s.csv"


def loop(folder: Path) -> Path:
    (folder / "loop.csv").symlink_to("loop.csv")
    return folder / "loop.csv"


def loop_inside(folder: Path) -> Path:
    (folder / "train.csv").symlink_to("train.csv")
    return folder


def nowhere_inside(folder: Path) -> Path:
    (folder / "train.csv").symlink_to("gone.csv")
    return folder


def circle(folder: Path) -> Path:
    write_csv(folder / "train.csv", [("good", 1), ("bad", 0)] * 9)
    (folder / "round").symlink_to(folder)
    return folder


def named(*names: str, content: bytes = HEAD + GOOD) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    return make


def given(**splits: list[tuple[str, object]]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for split, rows in splits.items():
            write_jsonl(folder / f"{split}.jsonl", rows)
        return folder

    return make


def classes(*texts: tuple[bytes, str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_folders(folder, [("good", "pos"), ("bad", "neg")] * 5)
        for content, name in texts:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    return make


BOTH = [("good", 1), ("bad", 0)] * 9
NAMES = "name the files train* and test* (.csv, .tsv, .jsonl, .parquet)"
BAD_PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "gone": (
        lambda folder: folder / "gone.csv",
        "task.path=gone.csv: No such file or directory: give a file or folder that is there",
    ),
    "below a file": (
        lambda folder: write_csv(folder / "a.csv", BOTH) / "b.csv",
        "task.path=a.csv/b.csv: Not a directory: give a file or folder that is there",
    ),
    "long": (
        lambda folder: folder / ("x" * 300),
        f"task.path={'x' * 300}: File name too long: give a file or folder that is there",
    ),
    "pipe": (pipe, "task.path=pipe.csv: a pipe, expected a file: copy what it gives into one"),
    "pipe inside": (pipe_inside, "d/train.csv: a pipe, expected a file: copy what it gives into one"),
    "socket": (unix_socket, "task.path=s.csv: a socket, expected a file: copy what it gives into one"),
    "device": (
        lambda _: Path("/dev/null"),
        "task.path=/dev/null: a device, expected a file: copy what it gives into one",
    ),
    "loop": (
        loop,
        "task.path=loop.csv: Too many levels of symbolic links: give a file or folder that is there",
    ),
    "loop inside": (
        loop_inside,
        "d/train.csv: Too many levels of symbolic links: put it there and make it readable",
    ),
    "nowhere inside": (
        nowhere_inside,
        "d/train.csv: No such file or directory: put it there and make it readable",
    ),
    "circle": (circle, "d/round: a link to a folder: put the folder itself there"),
    "no files": (
        named(),
        f"task.path=d: no split 'train' (there: no data file): {NAMES}, {BY_NAME}",
    ),
    "hidden files": (
        named(".train.csv"),
        f"task.path=d: no split 'train' (there: no data file): {NAMES}, {BY_NAME}",
    ),
    "no train": (
        named("reviews.csv", "b/old.tsv"),
        f"task.path=d: no split 'train' (there: b/old.tsv, reviews.csv): {NAMES}, {BY_NAME}",
    ),
    "many": (
        named(*(f"{n}.csv" for n in range(12))),
        "task.path=d: no split 'train' (there: 0.csv, 1.csv, 10.csv, 11.csv, 2.csv, 3.csv, 4.csv, 5.csv "
        f"and 4 more): {NAMES}, {BY_NAME}",
    ),
    "only texts": (
        named("1.txt", "2.txt"),
        f"task.path=d: no split 'train' (there: no data file): {NAMES}, {BY_NAME}",
    ),
    "tables and texts": (
        named("index.csv", "pos/1.txt", "neg/1.txt"),
        f"task.path=d: no split 'train' (there: index.csv): {NAMES}, take the tables out, or the .txt files",
    ),
    "two formats": (
        named("train.csv", "train.jsonl"),
        "task.path=d: split 'train' has several formats: keep one of them",
    ),
    "two splits": (
        named("train/test_1.csv"),
        "d/train/test_1.csv: is it test or train? Name it after one split",
    ),
    "empty test": (
        named("train.csv", "test.csv", content=HEAD),
        "d/train.csv: no rows: give it some, or take the file out",
    ),
    "new class": (
        given(train=BOTH, test=[("good", 1), ("so", 2), ("bad", 0)]),
        "d/test.jsonl:2: class '2' is in the test split and not in the training split: add rows of it "
        "there, or take this one out",
    ),
    "new class in valid": (
        given(train=BOTH, valid=[("so", "x")], test=BOTH),
        "d/valid.jsonl:1: class 'x' is in the valid split and not in the training split: add rows of it "
        "there, or take this one out",
    ),
    "class not tested": (
        given(train=BOTH, test=[("good", 1)]),
        f"d: class '0' has 0 rows in the test split, needs 1: {MORE}",
    ),
    "class not validated": (
        given(train=BOTH, valid=[("bad", 0)], test=BOTH),
        f"d: class '1' has 0 rows in the valid split, needs 1: {MORE}",
    ),
    "given test": (
        given(train=[*BOTH, ("so", 2)], test=[*BOTH, ("so", 2)]),
        f"d: class '2' has 1 row in the train split, needs 2 (to train and validate on): {MORE}",
    ),
    "given valid": (
        given(train=[*BOTH, ("so", 2)], valid=[*BOTH, ("so", 2)]),
        f"d: class '2' has 1 row in the train split, needs 2 (to train and test on): {MORE}",
    ),
    "name": (
        named(os.fsdecode(b"caf\xe9.csv")),
        "d/caf\\xe9.csv: its name is not UTF-8: rename it",
    ),
    "nested": (
        named("pos/a/1.txt", "neg/1.txt"),
        "d/pos/a/1.txt: a folder inside a class: put the texts of a class right into its folder",
    ),
    "one class": (
        named("docs/1.txt", "docs/2.txt", content=b"good"),
        f"d: 1 class ('docs'), expected 2 or more: add texts of another class, or {FOLDERS}",
    ),
    "empty class": (
        lambda folder: (classes()(folder) / "so").mkdir() or folder,
        "d/so: no .txt file: put the texts of that class there, or remove the folder",
    ),
    "latin text": (
        classes((b"good\ncaf\xe9", "pos/x.txt")),
        "d/pos/x.txt:2: not UTF-8 (byte 0xe9 in column 4): save the file as UTF-8",
    ),
    "UTF-16 text": (
        classes(("good".encode("utf-16"), "pos/x.txt")),
        "d/pos/x.txt:1: UTF-16, expected UTF-8: save the file as UTF-8",
    ),
    "NUL text": (
        classes((b"good\n\0", "pos/x.txt")),
        "d/pos/x.txt:2: a NUL character: save the file as text in UTF-8",
    ),
    "no text": (classes((b"", "pos/x.txt")), f"d/pos/x.txt: the text is empty: {REMOVE}"),
    "white text": (classes((b"\n \n", "pos/x.txt")), f"d/pos/x.txt: the text is empty: {REMOVE}"),
    "padded class": (
        classes((b"good", " pos/x.txt")),
        "d/ pos/x.txt: the label ' pos' has blanks around it: take them out",
    ),
    "rare class": (
        classes((b"so so", "so/1.txt")),
        f"d: class 'so' has 1 row in the train split, {THREE}: "
        f"give it more rows, take the class out, or {FOLDERS}",
    ),
}


@pytest.mark.parametrize("name", BAD_PLACES)
@pytest.mark.timeout(20)
def test_an_unusable_place_is_refused_in_one_line(tmp_path, name):
    make, expected = BAD_PLACES[name]
    folder = tmp_path / "d"
    folder.mkdir()
    path = make(folder)
    said = refusal(path, tmp_path)
    assert (said if path == folder else said.replace("=d/", "=")) == expected


def test_a_path_without_a_word_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(Path("~nobody-of-that-name/x.csv"), tmp_path).startswith(
        "task.path=~nobody-of-that-name/x.csv: no such user: write the path out"
    )
    with pytest.raises(UsageError, match=r"^task\.path=: expected a file or folder: give one$"):
        check(Text(path=""))


# Odd, but fine


ACCEPTED: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "mark.csv": (b"\xef\xbb\xbf" + HEAD + b"good,1\n", [("good", "1")]),
    "windows.csv": (b"text,label\r\ngood,1\r\nbad,0\r\n", [("good", "1"), ("bad", "0")]),
    "mac.csv": (b"text,label\rgood,1\rbad,0", [("good", "1"), ("bad", "0")]),
    "lines.csv": (HEAD + b'"good\r\n\nfilm",1\n', [("good\r\n\nfilm", "1")]),
    "quoted.csv": (HEAD + b'"say ""no"", or",1\n', [('say "no", or', "1")]),
    "literal.csv": (HEAD + b'a "good" film,1\n', [('a "good" film', "1")]),
    "blanks.csv": (b"\n" + HEAD + b"\ngood,1\n\n\nbad,0\n\n", [("good", "1"), ("bad", "0")]),
    "trailing.csv": (b"text,label,\ngood,1,\n", [("good", "1")]),
    "unnamed.csv": (b",text,label\n0,good,1\n", [("good", "1")]),
    "others.csv": (b"id,label,id,text\n7,1,8,good\n", [("good", "1")]),
    "spaces.csv": (HEAD + b" good ,1\n", [(" good ", "1")]),
    "words.csv": (HEAD + b"NA,null\n123,NaN\n1e5,None\n", [("NA", "null"), ("123", "NaN"), ("1e5", "None")]),
    "zeros.csv": (HEAD + b"good,007\n", [("good", "007")]),
    "stars.csv": (HEAD + b"good,4.5\n", [("good", "4.5")]),
    "truth.csv": (HEAD + b"good,True\n", [("good", "True")]),
    "dots.csv": (HEAD + b"...,1\n", [("...", "1")]),
    "formula.csv": (HEAD + b"=1+1,1\n#x,0\n", [("=1+1", "1"), ("#x", "0")]),
    "plain.tsv": (b'text\tlabel\na "b", c\t1\n', [('a "b", c', "1")]),
    "quoted.tsv": (b'text\tlabel\n"a\tb"\t1\n', [("a\tb", "1")]),
    "UPPER.CSV": (HEAD + b"good,1\n", [("good", "1")]),
    "mixed.jsonl": (
        LINE + b'{"text": "so", "label": "1", "id": null}\n',
        [("good", "1"), ("bad", "0"), ("so", "1")],
    ),
    "truth.jsonl": (
        b'{"text": "a", "label": true}\n{"text": "b", "label": false}',
        [("a", "true"), ("b", "false")],
    ),
    "escaped.jsonl": (
        b'{"text": "caf\\u00e9 \\ud83d\\ude00", "label": "\\u00e9"}\n',
        [("caf\u00e9 \U0001f600", "\u00e9")],
    ),
    "nul.jsonl": (b'{"text": "a\\u0000b", "label": 1}\n', [("a\0b", "1")]),
    "nested.jsonl": (b'{"meta": {"a": [1]}, "text": "a", "label": -1}\n', [("a", "-1")]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_file_is_read_exactly(tmp_path, name):
    content, expected = ACCEPTED[name]
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "separator"), [("semicolon", ";"), ("tab", "\t"), ("pipe", "|"), ("comma", ",")]
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_separator_can_be_told(tmp_path, name, separator, suffix):
    file = write_csv(tmp_path / f"x{suffix}", [("a, b; c\td|e", 1)], separator=separator)
    assert read(file, Columns("text", "label", name)) == [("a, b; c\td|e", "1")]


def prepared(path: Path, where: Path, **settings: object) -> Cached:
    task = Text(path=str(path), **settings)
    check(task, "task.")
    task.prepare(where / "cache")
    return Cached(task.cache_file(where / "cache"))


def test_one_review_of_ten_megabytes_is_read_and_cut(tmp_path):
    long = "word " * (2 << 20) + "the end"
    file = write_csv(tmp_path / "long.csv", [(long, 1), *BOTH])
    assert len(read(file)[0][0]) == len(long)
    cached = prepared(file, tmp_path, max_tokens=3)
    assert max(np_max(cached, part) for part in ("train", "valid", "test")) == 3
    assert file.stat().st_size > 10_000_000
    assert cached.path.stat().st_size < 10_000


def np_max(cached: Cached, part: str) -> int:
    offsets = cached[f"{part}_offsets"]
    return int((offsets[1:] - offsets[:-1]).max())


def test_labels_with_gaps_are_classes_in_the_order_of_numbers(tmp_path):
    rows = [(f"text {n}", label) for n, label in enumerate([10, 2, 0, 5, 9] * 4)]
    for write, name in ((write_csv, "g.csv"), (write_jsonl, "g.jsonl"), (write_parquet, "g.parquet")):
        assert prepared(write(tmp_path / name, rows), tmp_path).facts["classes"] == ["0", "2", "5", "9", "10"]
    signed = [(text, -label) for text, label in rows]
    facts = prepared(write_csv(tmp_path / "signed.csv", signed), tmp_path).facts
    assert facts["classes"] == ["-10", "-9", "-5", "-2", "0"]
    names = [(text, f"{label}x") for text, label in rows]
    facts = prepared(write_csv(tmp_path / "names.csv", names), tmp_path).facts
    assert facts["classes"] == ["0x", "10x", "2x", "5x", "9x"]


def test_splits_in_different_formats_share_their_classes(tmp_path):
    write_csv(tmp_path / "train.csv", BOTH)
    write_jsonl(tmp_path / "valid.jsonl", BOTH)
    write_parquet(tmp_path / "test.parquet", BOTH)
    cached = prepared(tmp_path, tmp_path / "w")
    assert cached.facts["classes"] == ["0", "1"]
    assert cached["test_targets"].tolist() == [1, 0] * 9


def test_every_kind_of_source_of_one_data_set_gives_the_same_arrays(tmp_path):
    rows = sorted(((f"text {n} of class {n % 3}", f"c{n % 3}") for n in range(30)), key=lambda row: row[1])
    digests = set()
    for name, write in {
        "a.csv": write_csv,
        "a.jsonl": write_jsonl,
        "a.parquet": write_parquet,
        "a": write_folders,
        "a.tsv": lambda file, rows: write_csv(file, rows, separator="\t"),
    }.items():
        cached = prepared(write(tmp_path / name, rows), tmp_path / f"of {name}")
        digests.add(tuple(cached[key].tobytes() for key in sorted(cached._sha256)))
    assert len(digests) == 1


def test_reading_closes_what_it_opened_also_when_it_is_refused(tmp_path):
    file = tmp_path / "x.csv"
    before = len(os.listdir("/proc/self/fd"))
    for content in (HEAD + GOOD + b"caf\xe9,1\n", HEAD + b"a\n", HEAD + GOOD):
        file.write_bytes(content)
        for _ in range(3):
            with pytest.raises(UsageError):
                list(read_files(find_files(file).splits["train"], Columns("text", "nothing")))
            with contextlib.suppress(UsageError):
                list(read_files(find_files(file).splits["train"], Columns("text", "label")))
    assert len(os.listdir("/proc/self/fd")) == before
