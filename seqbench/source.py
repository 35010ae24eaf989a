"""Which files hold a data set of labelled texts, in which split and class each belongs, and their hashes.

A data set is one file; a folder with files named ``train*`` and perhaps ``valid*`` (``val``, ``dev*``) and
``test*``, in sub-folders too; or a folder of .txt files per class, ``CLASS/*.txt``, also below ``train`` and
the other splits. Names that begin with a dot are never read.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqbench.errors import UsageError
from seqbench.source_formats import FORMATS, kind_of, opened, read_file, read_txt, unreadable
from seqbench.source_rows import Columns, Row, is_unicode

MOST_FILES = 1_000_000
_SHOWN_FILES = 8
_SPLIT = {
    "train": re.compile(r"train", re.IGNORECASE),
    "valid": re.compile(r"valid|dev|val(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"test", re.IGNORECASE),
}
_TOP = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
_SETTLED_NS = 2_000_000_000
_hashes: dict[tuple[int, ...], str] = {}


@dataclass(frozen=True)
class DataFile:
    """A file with labelled texts, or, with a label, a .txt file that is one text."""

    path: Path
    label: str | None = None


@dataclass(frozen=True)
class LocalFiles:
    """The files of a data set.

    Attributes:
        splits: the files of "train", and of "valid" and "test" where they are given.
        left_out: how many other files of these formats there are; they belong to no split and are not read.
    """

    splits: dict[str, list[DataFile]]
    left_out: int = 0

    @property
    def per_class(self) -> bool:
        """Whether folders tell the classes."""
        return self.splits["train"][0].label is not None


def find_files(path: Path) -> LocalFiles:
    """The files of a data set; only names are looked at.

    Raises:
        UsageError: nothing to read, no training split, or files that cannot be told apart.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"task.path={path}: {reason}: give a file or folder that is there") from error
    if stat.S_ISDIR(mode):
        return _in_folder(path)
    if kind := kind_of(mode):
        raise UsageError(f"task.path={path}: {kind}, expected a file: copy what it gives into one")
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"task.path={path}: not a {_formats()} file: {_advice(path)}")
    return LocalFiles({"train": [DataFile(path)]})


def _formats() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _advice(path: Path) -> str:
    """What to do with a file of another format."""
    suffix = path.suffix.lower()
    if suffix in (".gz", ".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z"):
        return "unpack it first"
    if suffix == ".txt":
        return "put .txt files into a folder per class and give the folder above"
    return "write it in one of these formats" + (", one object per line" if suffix == ".json" else "")


# In a folder; a file is known by its names from there on


Names = tuple[str, ...]


def _in_folder(root: Path) -> LocalFiles:
    """Tables named after their split, or else a folder per class."""
    files = _listed(root)
    tables = [names for names in files if _suffix(names) in FORMATS]
    texts = [names for names in files if _suffix(names) == ".txt" and len(names) > 1]
    found = _per_split(root, tables)
    if "train" not in found.splits:
        if tables or not texts:
            raise _no_training_split(root, tables, texts)
        found = _per_class(root, texts)
    return found


def _listed(root: Path) -> list[Names]:
    """Every visible file below a folder, in order.

    Raises:
        UsageError: a folder cannot be listed, a link leads nowhere or to a folder (and perhaps round in
            circles), something is no file, or there are too many.
    """
    found: list[Names] = []
    waiting: list[Names] = [()]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(root.joinpath(*place)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    inside = entry.is_dir(follow_symlinks=False)
                    (waiting if inside else found).append((*place, entry.name))
                    if not inside and not entry.is_file(follow_symlinks=False):
                        _refuse_unusual(Path(entry.path))
                    if not is_unicode(entry.name):
                        told = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
                        raise UsageError(f"{told}: its name is not UTF-8: rename it")
        except OSError as error:
            raise unreadable(error.filename, error) from error
        if len(found) > MOST_FILES:
            raise UsageError(f"task.path={root}: more than {MOST_FILES:,} files: give the folder of the data")
    return sorted(found)


def _refuse_unusual(file: Path) -> None:
    """Links to files are followed; what else is no file must not be left out without a word."""
    data = file.suffix.lower() in (*FORMATS, ".txt")
    try:
        mode = file.stat().st_mode
    except OSError:
        if data:
            raise
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"{file}: a link to a folder: put the folder itself there")
    if data and (kind := kind_of(mode)):
        raise UsageError(f"{file}: {kind}, expected a file: copy what it gives into one")


def _suffix(names: Names) -> str:
    return os.path.splitext(names[-1])[1].lower()


def _no_training_split(root: Path, tables: list[Names], texts: list[Names]) -> UsageError:
    some = tables or texts
    there = ", ".join("/".join(names) for names in some[:_SHOWN_FILES]) or "no data file"
    there += f" and {len(some) - _SHOWN_FILES} more" if len(some) > _SHOWN_FILES else ""
    fix = "take the tables out, or the .txt files" if texts else "or give one file by its name"
    return UsageError(
        f"task.path={root}: no split 'train' (there: {there}): "
        f"name the files train* and test* ({', '.join(FORMATS)}), {fix}"
    )


def _per_split(root: Path, tables: list[Names]) -> LocalFiles:
    """Tables by the split after which they are named."""
    named = {names: _named_split(root, names) for names in tables}
    splits = {split: [names for names in tables if named[names] == split] for split in _SPLIT}
    for split, some in splits.items():
        if len({_suffix(names) for names in some}) > 1:
            raise UsageError(f"task.path={root}: split '{split}' has several formats: keep one of them")
    return LocalFiles(
        {
            split: [DataFile(root.joinpath(*names)) for names in some]
            for split, some in splits.items()
            if some
        },
        sum(split is None for split in named.values()),
    )


def _named_split(root: Path, names: Names) -> str | None:
    """The split after which a file, or a folder on the way to it, is named.

    Raises:
        UsageError: they are named after different ones.
    """
    splits = {split for split, pattern in _SPLIT.items() if any(map(pattern.match, names))}
    if len(splits) > 1:
        file = root.joinpath(*names)
        raise UsageError(f"{file}: is it {' or '.join(sorted(splits))}? Name it after one split")
    return next(iter(splits), None)


def _per_class(root: Path, texts: list[Names]) -> LocalFiles:
    """A folder per class, below folders named after splits if there is one for "train"."""
    by_split = any(_top_split(names[0]) == "train" and len(names) == 3 for names in texts)
    splits: dict[str, list[DataFile]] = {split: [] for split in _SPLIT}
    left_out = 0
    for names in texts:
        split, inside = (_top_split(names[0]), names[1:]) if by_split else ("train", names)
        if split is None or len(inside) == 1:
            left_out += 1  # another part of the data, or a list of files beside the classes
            continue
        file = root.joinpath(*names)
        if len(inside) > 2:
            raise UsageError(
                f"{file}: a folder inside a class: put the texts of a class right into its folder"
            )
        splits[split].append(DataFile(file, inside[0]))
    found = {split: files for split, files in splits.items() if files}
    for files in found.values():
        _refuse_empty_classes(files)
    return LocalFiles(found, left_out)


def _top_split(name: str) -> str | None:
    """The split that a folder at the top is; here the whole name must say so, for classes have names too.

    >>> _top_split("Test"), _top_split("trains")
    ('test', None)
    """
    return next((split for split, names in _TOP.items() if name.lower() in names), None)


def _refuse_empty_classes(files: list[DataFile]) -> None:
    """A folder beside classes that holds no text would be a class without rows."""
    classes = {file.label for file in files}
    with os.scandir(files[0].path.parent.parent) as entries:
        beside = [e.path for e in entries if e.is_dir() and e.name[0] != "." and e.name not in classes]
    if beside:
        raise UsageError(
            f"{min(beside)}: no .txt file: put the texts of that class there, or remove the folder"
        )


# Content


def read_files(files: Sequence[DataFile], columns: Columns) -> Iterator[Row]:
    """All rows of a split's files, in the order of their names.

    Raises:
        UsageError: a file cannot be read, lacks a column, or holds something that is no labelled text.
    """
    for file in files:
        if file.label is None:
            yield from read_file(file.path, columns)
        else:
            yield read_txt(file.path, file.label)


def fingerprint(files: LocalFiles) -> list[str]:
    """What identifies the content, whatever the files are called: a line per file, or per class of texts."""
    lines = []
    for split, some in files.splits.items():
        for label, group in itertools.groupby(some, key=lambda file: file.label):
            kinds = [(file.path.suffix.lower(), content_sha256(file.path)) for file in group]
            if label is None:
                lines += [f"{split} {suffix} {sha256}" for suffix, sha256 in kinds]
            else:
                whole = hashlib.sha256("".join(sha256 for _, sha256 in kinds).encode())
                lines.append(f"{split} .txt {whole.hexdigest()} {label}")
    return lines


def content_sha256(file: Path) -> str:
    """SHA-256 of a file, taken once while the file stays as it is.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        now = _signature(file.stat())
    except OSError as error:
        raise unreadable(file, error) from error
    if now in _hashes:
        return _hashes[now]
    with opened(file) as handle:
        before = _signature(os.fstat(handle.fileno()))
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    if time.time_ns() - before[-1] > _SETTLED_NS:  # a change within a tick of that clock would not show
        _hashes[before] = sha256
    return sha256


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
