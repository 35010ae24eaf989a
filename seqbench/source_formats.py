"""Rows of labelled texts in CSV, TSV, JSON lines, Parquet or .txt: read exactly, or refused in one line.

Parquet goes through ``datasets``. CSV and JSON lines are read by the standard library, because ``datasets``
turns "NA" into nothing, "123" into a number and a missing label into a fraction, and names no line when a
file is wrong. Errors read ``file:line: reason: fix``; in Parquet, lines are rows.

CSV and TSV differ in the separator alone. The first line names the columns; a text that holds the separator
or a newline, or begins with a quote, is quoted, and quotes inside it are doubled; a blank line is no row.
Files are UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqbench.errors import UsageError
from seqbench.source_rows import SEPARATORS, Columns, Row, checked_row, is_unicode, places_of, short

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
_ROWS_AT_ONCE = 1000
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_NEWLINE = re.compile(rb"\r\n|\r|\n")


def read_file(file: Path, columns: Columns) -> Iterator[Row]:
    """All rows of a file, by its name's ending.

    Raises:
        UsageError: it cannot be read, lacks a column, has no rows, or holds what is no labelled text.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    empty = True
    for row in readers[file.suffix.lower()](file, columns):
        empty = False
        yield row
    if empty:
        raise UsageError(f"{file}: no rows: give it some, or take the file out")


def read_txt(file: Path, label: str) -> Row:
    """A file that is one text, newlines and all; its class is told by its folder.

    Raises:
        UsageError: not UTF-8, empty, or not a text.
    """
    with opened(file) as handle:
        return checked_row(str(file), "".join(_lines(file, handle)), label, Columns("text", "folder"))


# Opening


def kind_of(mode: int) -> str:
    """What a path is, in words, if it is neither a regular file nor a folder.

    >>> kind_of(stat.S_IFIFO), kind_of(stat.S_IFREG)
    ('a pipe', '')
    """
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def unreadable(place: object, error: OSError) -> UsageError:
    """The refusal of what the system does not let us read."""
    return UsageError(f"{place}: {error.strerror}: put it there and make it readable")


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """A regular file, open for reading; never a pipe or device, on which one could wait for ever.

    Raises:
        UsageError: it is gone, not to be read, or something else than a file.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as handle:
            if kind := kind_of(os.fstat(descriptor).st_mode):
                raise UsageError(f"{file}: {kind}, expected a file: copy what it gives into one")
            yield handle
    except OSError as error:
        raise unreadable(file, error) from error


def _lines(file: Path, handle: io.BufferedReader) -> Iterator[str]:
    """The lines of a text file, their ends (LF, CR LF or CR) as they are, without a byte order mark.

    Raises:
        UsageError: not UTF-8, or with a NUL, which only UTF-16 and files that are no text have.
    """
    with io.TextIOWrapper(handle, encoding="utf-8-sig", newline="") as text:
        try:
            for number, line in enumerate(text, start=1):
                if "\0" in line:
                    raise UsageError(f"{file}:{number}: a NUL character: save the file as text in UTF-8")
                yield line
        except UnicodeDecodeError:
            handle.seek(0)
            raise _not_utf8(file, handle) from None


def _not_utf8(file: Path, handle: io.BufferedReader) -> UsageError:
    """Names the first line that cannot be decoded; decoders work in blocks and do not know it."""
    number = 1
    for block in handle:
        if number == 1 and block.startswith((b"\xff\xfe", b"\xfe\xff")):
            return UsageError(f"{file}:1: UTF-16, expected UTF-8: save the file as UTF-8")
        try:
            block.decode()
        except UnicodeDecodeError as error:
            *before, line = _NEWLINE.split(block[: error.start])
            found = f"byte {block[error.start]:#04x} in column {len(line) + 1}"
            return UsageError(f"{file}:{number + len(before)}: not UTF-8 ({found}): save the file as UTF-8")
        number += len(_NEWLINE.findall(block))
    return UsageError(f"{file}: not UTF-8: save the file as UTF-8")


# CSV and TSV


def _read_csv(file: Path, columns: Columns) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    separator = _separator(file, columns)
    with opened(file) as handle:
        reader = csv.reader(_lines(file, handle), delimiter=separator, strict=True)
        rows = _csv_rows(file, reader)
        place, header = next(rows, ("", []))
        if not header:
            raise UsageError(f"{file}: the file is empty: give it a line with the columns' names, and rows")
        text, label = places_of(header, columns, place, _hint(header, columns, separator))
        for place, cells in rows:
            if len(cells) != len(header):
                raise UsageError(
                    f"{place}: {_counted(len(cells), 'column')}, expected {len(header)}: "
                    f"quote texts that hold {_spelled(separator)}"
                )
            yield checked_row(place, cells[text], cells[label], columns)


def _separator(file: Path, columns: Columns) -> str:
    if columns.separator == "auto":
        return "\t" if file.suffix.lower() == ".tsv" else ","
    return SEPARATORS[columns.separator]


def _csv_rows(file: Path, reader: Any) -> Iterator[tuple[str, list[str]]]:
    """Each row's cells and the line where it begins; a blank line is no row."""
    while True:
        place = f"{file}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            never = "end of data" in str(error)
            reason = "a quote is opened and never closed" if never else "text goes on after a closing quote"
            raise UsageError(
                f"{place}: {reason}: quote the whole text, and double the quotes inside it"
            ) from error
        if cells is None:
            return
        if cells:
            yield place, cells


def _hint(header: list[str], columns: Columns, separator: str) -> str:
    """What to do about a missing column, if the wrong separator is the reason."""
    line = separator.join(header)
    for name, other in SEPARATORS.items():
        cells = line.split(other)
        if {columns.text, columns.label} <= set(cells) or len(cells) > 1 == len(header):
            return f"set task.separator={name}"
    return ""


def _spelled(separator: str) -> str:
    return "tabs" if separator == "\t" else f"'{separator}'"


# JSON lines


def _read_jsonl(file: Path, columns: Columns) -> Iterator[Row]:
    with opened(file) as handle:
        for number, line in enumerate(_lines(file, handle), start=1):
            if line.strip():
                yield _json_row(f"{file}:{number}", line, columns)


def _json_row(place: str, line: str, columns: Columns) -> Row:
    try:
        value = json.loads(line.rstrip("\r\n"), object_pairs_hook=_object)
    except _Twice as error:
        raise UsageError(f"{place}: '{error}' stands twice in an object: keep one") from None
    except RecursionError:
        raise UsageError(f"{place}: nested too deeply: write one plain object per line") from None
    except ValueError as error:
        reason = f"{error.msg} in column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise UsageError(f"{place}: not JSON ({reason}): write one object per line") from error
    if not isinstance(value, dict):
        raise UsageError(f"{place}: a {type(value).__name__}, expected an object: write one object per line")
    places_of(list(value), columns, place)
    row = checked_row(place, value[columns.text], value[columns.label], columns)
    for name, content in ((columns.text, row.text), (columns.label, row.label)):
        if not is_unicode(content):
            raise UsageError(f"{place}: '{name}' holds half a character (\\ud800 to \\udfff): write it whole")
    return row


class _Twice(ValueError):
    """A name that stands twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it says a thing twice: one of the two would be dropped without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(short(next(name for name in names if names.count(name) > 1)))
    return found


# Parquet


def _read_parquet(file: Path, columns: Columns) -> Iterator[Row]:
    import datasets  # type: ignore[import-untyped]
    import pyarrow
    import pyarrow.parquet

    with opened(file) as handle:
        try:
            metadata = pyarrow.parquet.read_metadata(handle)
            names = metadata.schema.to_arrow_schema().names
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UsageError(
                f"{file}: not a readable Parquet file ({_first_line(error)}): copy it again"
            ) from error
    places_of(names, columns, str(file))
    if metadata.num_rows == 0:
        return  # datasets fails on a file without rows
    with tempfile.TemporaryDirectory(prefix="seqbench-") as scratch:
        datasets.disable_progress_bars()
        try:
            table = datasets.load_dataset(
                "parquet", data_files=[str(file)], split="train", columns=[columns.text, columns.label],
                cache_dir=scratch,
            )  # fmt: skip
        except Exception as error:  # whatever reader or checksum fails: the file is of no use
            cause = error.__cause__ or error
            raise UsageError(f"{file}: cannot be read ({_first_line(cause)}): copy it again") from error
        finally:
            datasets.enable_progress_bars()
        yield from dataset_rows(table, str(file), columns)


def dataset_rows(table: Any, place: str, columns: Columns) -> Iterator[Row]:
    """Rows of a ``datasets.Dataset``; a class label that has no name (-1, say) counts as missing."""
    places_of(table.column_names, columns, place)
    names = getattr(table.features[columns.label], "names", None)
    number = 0
    for batch in table.select_columns([columns.text, columns.label]).with_format("arrow").iter(_ROWS_AT_ONCE):
        texts, labels = (_plain(batch[name], place, number) for name in (columns.text, columns.label))
        for text, label in zip(texts, labels, strict=True):
            number += 1
            unlabelled = names is not None and (label is None or not 0 <= label < len(names))
            yield checked_row(f"{place}:{number}", text, None if unlabelled else label, columns)


def _plain(column: Any, place: str, before: int) -> list[Any]:
    """A column of Arrow as Python values; ``before`` rows were read already."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        for number, value in enumerate(column, start=before + 1):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise UsageError(f"{place}:{number}: not UTF-8: write texts as UTF-8") from None
        raise
    return values


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _first_line(error: BaseException) -> str:
    """The first line of an error of somebody else's."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
