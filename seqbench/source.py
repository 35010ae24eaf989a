"""Labelled texts from the Hugging Face hub, Parquet, CSV or JSON lines: read exactly, or refused in one line.

Parquet and the hub go through ``datasets``. CSV and JSON lines are read by the standard library, because
``datasets`` turns "NA" into nothing, "123" into a number and a missing label into a fraction, and names no
line when a file is wrong. Errors read ``file:line: reason: fix``.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from seqbench.errors import UsageError, nearest

FORMATS = (".parquet", ".csv", ".jsonl")
PROBE_S = 2.0
_ROWS_AT_ONCE = 1000
_SHOWN_FILES = 8


@dataclass(frozen=True)
class Row:
    """A text, its label as it stands in the file, and where that is ("file:line"), for errors."""

    place: str
    text: str
    label: int | str


@dataclass(frozen=True)
class Columns:
    """The names of the two columns that are read."""

    text: str
    label: str


@dataclass(frozen=True)
class HubDataset:
    """A data set on the hub, pinned to a revision, so that it can never change between two runs."""

    name: str
    revision: str


# Which files


def split_files(path: Path) -> dict[str, list[Path]]:
    """The files of each split: one file is "train"; a folder holds ``train*`` and perhaps ``test*``.

    Sub-folders are searched too, so a folder in the layout of the hub works as it is. Other splits
    (``unsupervised*``, say) are left alone.

    Raises:
        UsageError: nothing to read, no training split, or a split in two formats.
    """
    if path.is_file():
        if path.suffix not in FORMATS:
            raise UsageError(f"task.path={path}: not a {', '.join(FORMATS)} file")
        return {"train": [path]}
    found = sorted(p for p in path.rglob("*") if p.suffix in FORMATS and p.is_file())
    splits = {split: [p for p in found if _belongs(p, path, split)] for split in ("train", "test")}
    if not splits["train"]:
        names = ", ".join(str(p.relative_to(path)) for p in found[:_SHOWN_FILES]) or "no data file"
        raise UsageError(
            f"task.path={path}: no split 'train' (there: {names}): "
            f"name the files train* and test*, with {', '.join(FORMATS)}"
        )
    for split, files in splits.items():
        if len({file.suffix for file in files}) > 1:
            raise UsageError(f"task.path={path}: split '{split}' has several formats: keep one of them")
    return {split: files for split, files in splits.items() if files}


def _belongs(file: Path, root: Path, split: str) -> bool:
    """Whether the file, or a folder on the way to it, is named after the split."""
    return any(part.lower().startswith(split) for part in file.relative_to(root).parts)


# Reading


def read_files(files: list[Path], columns: Columns) -> Iterator[Row]:
    """All rows of a split's files, in the order of their names.

    Raises:
        UsageError: a file cannot be read, lacks a column, or holds something that is not a text.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    for file in files:
        yield from readers[file.suffix](file, columns)


def _read_csv(file: Path, columns: Columns) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            header = next(reader, [])
            text, label = (header.index(name) for name in _present(file, header, columns))
            for cells in reader:
                if not cells:
                    continue  # a blank line is no row
                place = f"{file}:{reader.line_num}"
                if len(cells) != len(header):
                    raise UsageError(
                        f"{place}: {len(cells)} columns, expected {len(header)}: quote texts that hold commas"
                    )
                yield Row(place, cells[text], cells[label])
        except csv.Error as error:
            raise UsageError(f"{file}:{reader.line_num}: {error}: mend the quotes of this row") from error
        except UnicodeDecodeError as error:
            raise _not_utf8(file) from error


def _read_jsonl(file: Path, columns: Columns) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as handle:
        try:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield _json_row(file, f"{file}:{number}", line, columns)
        except UnicodeDecodeError as error:
            raise _not_utf8(file) from error


def _json_row(file: Path, place: str, line: str, columns: Columns) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not JSON ({error}): write one object per line") from error
    if not isinstance(value, dict):
        raise UsageError(f"{place}: a {type(value).__name__}, expected an object: write one object per line")
    _present(file, list(value), columns, place)
    return _row(place, value[columns.text], value[columns.label], columns)


def _read_parquet(file: Path, columns: Columns) -> Iterator[Row]:
    import datasets  # type: ignore[import-untyped]
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UsageError(
            f"{file}: not a readable Parquet file ({_first_line(error)}): copy it again"
        ) from error
    _present(file, metadata.schema.to_arrow_schema().names, columns)
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
        yield from _dataset_rows(table, str(file), columns)


def read_hub(hub: HubDataset, columns: Columns) -> dict[str, Iterator[Row]]:
    """The splits "train" and "test" of a data set on the hub, from the local cache of ``datasets`` if there.

    Raises:
        UsageError: the hub cannot be reached and nothing is cached, or a split or column is missing.
    """
    hint = "put the data set into a folder and add task.path=FOLDER"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if not offline and not reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"  # else datasets tries again for 24 s before it looks at its cache
        offline = True
    import datasets

    try:
        found = datasets.load_dataset(hub.name, revision=hub.revision)
    except Exception as error:  # datasets raises a dozen kinds for a hub that does not answer
        reason = "the hub cannot be reached" if offline else _first_line(error)
        raise UsageError(f"{hub.name}: {reason}, and the data set is not cached here: {hint}") from error
    for split in ("train", "test"):
        if split not in found:
            raise UsageError(f"{hub.name}: no split '{split}'; {nearest(split, map(str, found))}: {hint}")
        _present(Path(hub.name), found[split].column_names, columns)
    return {split: _dataset_rows(found[split], f"{hub.name}/{split}", columns) for split in ("train", "test")}


def _dataset_rows(table: Any, place: str, columns: Columns) -> Iterator[Row]:
    """Rows of a ``datasets.Dataset``; a class label that has no name (-1, say) counts as missing."""
    names = getattr(table.features[columns.label], "names", None)
    number = 0
    for batch in table.with_format("arrow").iter(_ROWS_AT_ONCE):
        texts, labels = (batch[name].to_pylist() for name in (columns.text, columns.label))
        for text, label in zip(texts, labels, strict=True):
            number += 1
            unlabelled = names is not None and (label is None or not 0 <= label < len(names))
            yield _row(f"{place}:{number}", text, None if unlabelled else label, columns)


# What makes a row


def _row(place: str, text: Any, label: Any, columns: Columns) -> Row:
    if not isinstance(text, str):
        raise UsageError(
            f"{place}: '{columns.text}' is {_kind(text)}, expected a text: "
            "mend the row, or set task.text_column"
        )
    if not isinstance(label, int | str):
        raise UsageError(
            f"{place}: '{columns.label}' is {_kind(label)}, expected a whole number or a name: "
            "mend the row, or set task.label_column"
        )
    return Row(place, text, label)


def _kind(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.40} ({type(value).__name__})"


def _present(file: Path, names: list[str], columns: Columns, place: str = "") -> tuple[str, str]:
    """Check that both columns are there.

    Raises:
        UsageError: names the columns there and the nearest one.
    """
    for option, name in (("text_column", columns.text), ("label_column", columns.label)):
        if name not in names:
            there = nearest(name, names) if names else "the file is empty"
            raise UsageError(f"{place or file}: no column '{name}'; {there}: set task.{option}")
    return columns.text, columns.label


def _not_utf8(file: Path) -> UsageError:
    """Names the first line that cannot be decoded; readers decode in blocks and do not know it."""
    with file.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                found = f"byte {line[error.start]:#04x} in column {error.start + 1}"
                return UsageError(f"{file}:{number}: not UTF-8 ({found}): save the file as UTF-8")
    return UsageError(f"{file}: not UTF-8: save the file as UTF-8")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def reachable(timeout_s: float = PROBE_S) -> bool:
    """Whether the hub (or the proxy on the way to it) accepts a connection within ``timeout_s``."""
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = getproxies().get(endpoint.scheme) or getproxies().get("all")
    target = endpoint if proxy is None else urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = target.port or (80 if target.scheme == "http" else 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((target.hostname, port), timeout_s).close()
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up knows no time limit
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()
