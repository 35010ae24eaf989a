"""Power cuts, simulated: what may be on a disk after one, and whether every promise holds on each such disk.

The model of the disk is pessimistic; it promises what POSIX and careful databases rely on, and nothing more:

- Writing changes the cache. Only ``fsync`` of the file makes its data and length durable.
- After a cut, each write since then is there, absent, or there in part: any subset of its sectors of 512 or
  4096 bytes, or a prefix of any length; a later one may be there without an earlier one. The file is as long
  as the data kept, or as long as it was in the cache; what is missing is zeros. A sector is never garbage.
- Creating, renaming and removing change the cache of a folder. Only ``fsync`` of *that* folder makes them
  durable: fsync of a file or of a sub-folder says nothing about their own names.
- After a cut, each name in a folder points, independently of all other names, to what it pointed to at the
  last fsync of the folder or to anything that it pointed to since. A rename is thus atomic for its target
  (the old file or the new one), but its two names may disagree: both there, or neither.
- What was made durable stays, bit for bit. A fsync that returned did its work.
- A killed process loses nothing of the cache: it may be killed after any operation, its successor goes on,
  and the power may fail later.

A :class:`Recorder` in the place of module ``os`` in ``seqbench.store`` writes the trace of all operations,
between marks that say what a reader may see from there on. Every prefix of the trace may be the last moment.
:func:`states` draws distinct disks that a cut may leave; :func:`broken_promises` puts each on the real disk,
reads it as anybody would, and commits again.

The simulator is itself put to the test. SQLite, recorded through a VFS, is the control: with a rollback
journal and ``synchronous=EXTRA`` it must lose nothing in any state. ``FULL`` may lose the last transaction:
it does not fsync the folder after removing the journal, which is the commit (sqlite.org/pragma.html says so).
``OFF`` must be caught. So must three writers that are wrong on purpose.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import apsw

from faults.campaign import Campaign, Figure
from faults.store_faults import (
    ABSENT,
    DAMAGED,
    Content,
    DiskCalls,
    PlanContent,
    some_plan,
    some_run,
    standing_in,
)
from seqbench import store

# The disk


@dataclass(eq=False)
class File:
    """What is durable, and what was done since: ``(offset, data)`` written, ``(length, None)`` truncated."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.durable, self.pending = _applied(self.durable, self.pending), []

    def remains(self, rng: random.Random) -> bytes:
        """What a power cut may leave of the data."""
        if not self.pending:
            return self.durable
        pieces = list(_pieces(self.pending, rng.choice((512, 4096))))
        kept = rng.choice((_none, _all, _prefix, _subset))(pieces, rng)
        content = _applied(self.durable, kept)
        full_length = len(_applied(self.durable, self.pending))
        return content.ljust(full_length, b"\0") if rng.random() < 0.5 else content


Pending = Sequence[tuple[int, bytes | None]]


def _applied(content: bytes, operations: Pending) -> bytes:
    changed = bytearray(content)
    for place, data in operations:
        if data is None:
            del changed[place:]
            changed.extend(bytes(place - len(changed)))
        else:
            changed.extend(bytes(max(0, place - len(changed))))
            changed[place : place + len(data)] = data
    return bytes(changed)


def _pieces(operations: Pending, sector: int) -> Iterator[tuple[int, bytes | None]]:
    """The same operations, each write cut at the borders of sectors."""
    for place, data in operations:
        if data is None:
            yield place, None
            continue
        first = (place // sector + 1) * sector
        borders = [place, *range(first, place + len(data), sector), place + len(data)]
        for start, end in itertools.pairwise(borders):
            yield start, data[start - place : end - place]


def _none(_pieces: Pending, _rng: random.Random) -> Pending:
    return []


def _all(pieces: Pending, _rng: random.Random) -> Pending:
    return pieces


def _subset(pieces: Pending, rng: random.Random) -> Pending:
    return [piece for piece in pieces if rng.random() < 0.5]


def _prefix(pieces: Pending, rng: random.Random) -> Pending:
    """The first pieces, and any part of the one that follows."""
    count = rng.randrange(len(pieces))
    place, data = pieces[count]
    rest = [] if data is None else [(place, data[: rng.randrange(len(data) + 1)])]
    return [*pieces[:count], *rest]


@dataclass(eq=False)
class Folder:
    """For each name, all it may point to after a cut: the durable target first, the newest last."""

    names: dict[str, list[File | Folder | None]] = field(default_factory=dict)

    def sync(self) -> None:
        for targets in self.names.values():
            del targets[:-1]

    def remains(self, rng: random.Random) -> Iterator[tuple[str, File | Folder]]:
        """The names that a power cut may leave, with what they point to."""
        choose = rng.choice((lambda targets: targets[0], lambda targets: targets[-1], rng.choice, rng.choice))
        for name, targets in self.names.items():
            if (target := choose(targets)) is not None:
                yield name, target


class Disk:
    """Files in folders, changed by the operations of a trace; paths start at an empty, durable root."""

    def __init__(self) -> None:
        self.root = Folder()
        self._handles: dict[int, File] = {}

    def open(self, handle: int, path: str, truncate: bool) -> None:
        """Open a file, new if need be."""
        targets = self._targets(path)
        if targets[-1] is None:
            targets.append(File())
        self._handles[handle] = targets[-1]
        if truncate:
            self.truncate(handle, 0)

    def write(self, handle: int, offset: int, data: bytes) -> None:
        self._handles[handle].pending.append((offset, data))

    def truncate(self, handle: int, length: int) -> None:
        self._handles[handle].pending.append((length, None))

    def sync(self, handle: int) -> None:
        self._handles[handle].sync()

    def sync_folder(self, path: str) -> None:
        self._folder(Path(path)).sync()

    def mkdir(self, path: str) -> None:
        self._targets(path).append(Folder())

    def unlink(self, path: str) -> None:
        self._targets(path).append(None)

    def replace(self, source: str, target: str) -> None:
        self._targets(target).append(self._targets(source)[-1])
        self._targets(source).append(None)

    def remains(self, rng: random.Random) -> State:
        """A state that a power cut may leave."""
        state: State = {}
        data: dict[int, bytes] = {}  # a file under two names has the same content under both

        def visit(folder: Folder, place: str) -> None:
            for name, target in folder.remains(rng):
                if isinstance(target, Folder):
                    state[place + name] = None
                    visit(target, f"{place}{name}/")
                else:
                    state[place + name] = data.setdefault(id(target), target.remains(rng))

        visit(self.root, "")
        return state

    def _folder(self, path: Path) -> Folder:
        folder = self.root
        for part in path.parts:
            folder = folder.names[part][-1]
        return folder

    def _targets(self, path: str) -> list[Any]:
        return self._folder(Path(path).parent).names.setdefault(Path(path).name, [None])


State = dict[str, bytes | None]  # None for a folder
Allowed = Mapping[str, frozenset[str]]

# Traces


@dataclass
class Trace:
    """Operations on a disk, and marks: from here on, a reader of a place may see one of some texts."""

    operations: list[tuple[Any, ...]] = field(default_factory=list)
    allowed: dict[str, frozenset[str]] = field(default_factory=dict)

    def add(self, name: str, *arguments: Any) -> None:
        self.operations.append((name, *arguments))

    def allow(self, place: str, *texts: str) -> None:
        self.allowed[place] = frozenset(texts)
        self.add("allow", place, self.allowed[place])


def replayed(operations: Sequence[tuple[Any, ...]]) -> tuple[Disk, Allowed]:
    """The disk, and what a reader may see, after some operations."""
    disk = Disk()
    allowed: dict[str, frozenset[str]] = {}
    for name, *arguments in operations:
        if name == "allow":
            allowed[arguments[0]] = arguments[1]
        else:
            getattr(disk, name)(*arguments)
    return disk, allowed


def states(trace: Trace, wanted: int, rng: random.Random) -> Iterator[tuple[State, Allowed, int]]:
    """Up to ``wanted`` distinct states after cuts all over a trace, with what may be seen and the moment."""
    seen: set[bytes] = set()
    moments = range(len(trace.operations) + 1)
    for _ in range(20 * wanted):
        if len(seen) == wanted:
            return
        moment = rng.choice(moments)
        disk, allowed = replayed(trace.operations[:moment])
        state = disk.remains(rng)
        promised = sorted((place, sorted(texts)) for place, texts in allowed.items())
        name = hashlib.sha256(repr((sorted(state.items()), promised)).encode()).digest()
        if name not in seen:
            seen.add(name)
            yield state, allowed, moment


def put_on_disk(state: State, folder: Path) -> None:
    """Make a simulated state real, in place of the one before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in state.items():  # a folder comes before what is in it
        (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)


# Recording seqbench.store


class Killed(BaseException):
    """The process is gone: nothing that it would still do happens."""


class Recorder(DiskCalls):
    """Does every call of ``seqbench.store`` and writes it into a trace.

    Args:
        killed_after: the number of operations after which the process is dead.
        forgets: an operation that is left out of the trace, as if a wrong writer did not do it.
    """

    def __init__(self, root: Path, trace: Trace, killed_after: int | None = None, forgets: str = "") -> None:
        self.root, self.trace, self.killed_after, self.forgets = root, trace, killed_after, forgets
        self.done: list[str] = []
        self.offsets: dict[
            int, tuple[int, int]
        ] = {}  # of each open file: its handle in the trace, and the place
        self.folders: dict[int, str] = {}

    def call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if len(self.done) == self.killed_after:
            if name == "close":
                real(*arguments)  # this process lives on
            raise Killed
        result = None if name == "fsync" else real(*arguments)  # the real disk need not wait
        record = getattr(self, f"_{name}", None)
        if record is not None:
            record(result, *arguments)
        return result

    def _add(self, name: str, *arguments: Any) -> None:
        self.done.append(name)
        if name != self.forgets:
            self.trace.add(name, *arguments)

    def _path(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _open(self, descriptor: int, path: Path, flags: int, _mode: int = 0) -> None:
        if flags & os.O_DIRECTORY and path.is_relative_to(self.root):
            self.folders[descriptor] = self._path(path)
        elif flags & os.O_CREAT:
            handle = len(self.trace.operations)
            self.offsets[descriptor] = handle, 0
            self._add("open", handle, self._path(path), bool(flags & os.O_TRUNC))

    def _write(self, written: int, descriptor: int, data: bytes) -> None:
        handle, offset = self.offsets[descriptor]
        self.offsets[descriptor] = handle, offset + written
        self._add("write", handle, offset, bytes(data[:written]))

    def _fsync(self, _result: None, descriptor: int) -> None:
        if descriptor in self.folders:
            self._add("sync_folder", self.folders[descriptor])
        elif descriptor in self.offsets:  # not a folder above the root, which is durable anyway
            self._add("sync", self.offsets[descriptor][0])

    def _close(self, _result: None, descriptor: int) -> None:
        self.folders.pop(descriptor, None)
        self.offsets.pop(descriptor, None)

    def _replace(self, _result: None, source: Path, target: Path) -> None:
        self._add("replace", self._path(source), self._path(target))

    def _unlink(self, _result: None, path: Path) -> None:
        self._add("unlink", self._path(path))

    def _mkdir(self, _result: None, path: Path) -> None:
        self._add("mkdir", self._path(path))


# What is committed

Step = tuple[str, Content]  # a place and what goes there


def a_sweep(rng: random.Random) -> list[Step]:
    """A new sweep: its plan, a good run, one that fails, the next plan, the failed one again, one more."""
    sweep = "runs/sweep"
    return [
        (sweep, some_plan(rng, 1)),
        (f"{sweep}/first", some_run(rng)),
        (f"{sweep}/second", some_run(rng, "failed")),
        (sweep, some_plan(rng, 2)),
        (f"{sweep}/second", some_run(rng)),
        (f"{sweep}/third", some_run(rng)),
    ]


def recorded(
    steps: Sequence[Step], root: Path, kill: int | None = None, forgets: str = ""
) -> tuple[Trace, list[str]]:
    """Commit the steps in a new root; if killed on the way, go on with the one that was not acknowledged.

    Returns the trace and the names of the operations in it.
    """
    root.mkdir(parents=True)
    trace, left, done = Trace(), list(steps), []
    while True:
        recorder = Recorder(root, trace, kill, forgets)
        with standing_in(recorder), contextlib.suppress(Killed):
            while left:
                _commit(trace, root, *left[0])
                del left[0]
        done += recorder.done
        if not left:
            return trace, done
        kill = None


def _commit(trace: Trace, root: Path, place: str, content: Content) -> None:
    """Commit one record between the marks that say what a reader may see meanwhile, and afterwards."""
    before = trace.allowed.get(place, frozenset({ABSENT}))
    if not isinstance(content, PlanContent):
        trace.allow(place, *before, ABSENT)
        content.clear(root / place)
        before = frozenset({ABSENT})
    trace.allow(place, *before, content.text)
    content.write(root / place)
    trace.allow(place, content.text)


def broken_promises(state: State, allowed: Allowed, steps: Sequence[Step], folder: Path) -> list[str]:
    """Read a state as anybody would, commit again what is not whole, and say what is not as promised."""
    put_on_disk(state, folder)
    found: list[str] = []
    for place, content in dict(steps).items():
        seen = content.observe(folder / place)
        if seen not in allowed.get(place, {ABSENT}):
            found.append(f"{type(content).__name__} of {place} reads as {seen:.60}")
        if seen != content.text:
            found += _second_try(content, folder / place)
    return found


class _Hasty(DiskCalls):
    """Leaves out fsync: no cut follows."""

    def call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        return None if name == "fsync" else real(*arguments)


def _second_try(content: Content, place: Path) -> list[str]:
    """What stands in the way of committing again where a cut left things."""
    try:
        with standing_in(_Hasty()):
            content.clear(place)
            content.write(place)
    except Exception as error:
        return [f"{place.name} again: {error!r:.200}"]
    seen = content.observe(place)
    return [] if seen == content.text else [f"{place.name} again reads as {seen:.60}"]


def _write_in_place(path: Path, content: bytes, *, durable: bool = True) -> None:
    """A writer that is wrong on purpose: a reader may see half a file."""
    descriptor = store.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        store._write_fully(descriptor, content)
        store.os.fsync(descriptor)
    finally:
        store.os.close(descriptor)
    if durable:
        store.flush_folder(path.parent)


# The control: SQLite


class _SqliteVFS(apsw.VFS):
    """SQLite's own way to the disk, with a trace of what it does there."""

    def __init__(self, name: str, trace: Trace) -> None:
        self.name, self.trace = name, trace
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 (SQLite's names)
        return _SqliteFile(self.trace, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.trace.add("unlink", Path(filename).name)
        if syncdir:
            self.trace.add("sync_folder", "")


class _SqliteFile(apsw.VFSFile):
    """A database or a journal. SQLite fsyncs the folder of a new journal at the journal's first xSync."""

    def __init__(self, trace: Trace, name: Any, flags: list[int]) -> None:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        self.new_journal = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL) and not path.exists()
        super().__init__("", name, flags)
        self.trace, self.handle = trace, len(trace.operations)
        trace.add("open", self.handle, path.name, False)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self.trace.add("write", self.handle, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self.trace.add("truncate", self.handle, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self.trace.add("sync", self.handle)  # the real disk need not wait
        if self.new_journal:
            self.trace.add("sync_folder", "")
            self.new_journal = False


DATABASE = "notes.db"
_ALL_NOTES = "SELECT key, text FROM notes ORDER BY key"


def recorded_sqlite(level: str, root: Path, rng: random.Random) -> Trace:
    """Eight transactions at a level of ``synchronous``, larger than the cache, so that pages spill early."""
    trace = Trace()
    vfs = _SqliteVFS(f"recorded-{rng.random()}", trace)
    with contextlib.closing(apsw.Connection(str(root / DATABASE), vfs=vfs.name)) as connection:
        connection.execute(f"PRAGMA page_size=512; PRAGMA cache_size=5; PRAGMA synchronous={level}")
        connection.execute("PRAGMA journal_mode=DELETE")
        for number in range(8):
            before = trace.allowed.get(DATABASE, {ABSENT})
            connection.execute("BEGIN; CREATE TABLE IF NOT EXISTS notes (key INTEGER PRIMARY KEY, text TEXT)")
            _change(connection, number, rng)
            text = json.dumps(list(connection.execute(_ALL_NOTES)))
            trace.allow(DATABASE, *before, text)
            connection.execute("COMMIT")
            trace.allow(DATABASE, text)
    vfs.unregister()
    return trace


def _change(connection: apsw.Connection, number: int, rng: random.Random) -> None:
    """Add notes, change some, remove some: pages are new, overwritten and freed."""
    for _ in range(rng.randrange(1, 8)):
        text = rng.randbytes(rng.randrange(1, 400)).hex()
        connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))
    connection.execute("UPDATE notes SET text = text || ? WHERE key % 3 = ?", (f"!{number}", number % 3))
    connection.execute("DELETE FROM notes WHERE key % 5 = ?", (number % 5,))


def observe_sqlite(path: Path) -> str:
    """What a reader of the database sees: absent, damaged, or every row."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA synchronous=OFF")  # no cut follows
            if (found := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                return f"{DAMAGED}: {found!r:.200}"
            if not connection.execute("SELECT * FROM sqlite_schema").fetchall():
                return ABSENT
            return json.dumps(connection.execute(_ALL_NOTES).fetchall())
    except sqlite3.DatabaseError as error:
        return f"{DAMAGED}: {error}"


# Campaign

_STATES_PER_TRACE = 20
_KILLS = (None, "mkdir", "open", "write", "sync", "replace", "sync_folder", "unlink")


def power_cuts(size: int, folder: Path, rng: random.Random) -> Figure:
    """Cut the power while a sweep is written; in seven of eight traces a process was also killed before.

    The controls get a tenth as many states each, SQLite at its safest level half as many.
    """
    tried, violations = _store_states(size, folder / "store", rng, _with_kills)
    notes: list[str] = []
    few = max(60, size // 10)
    for level, wanted in (("EXTRA", size // 2), ("FULL", few), ("OFF", few)):
        count, found = _sqlite_states(level, wanted, folder / level, rng)
        notes.append(f"SQLite {level} {len(found)} of {count}")
        violations += found if level == "EXTRA" else []
        violations += (
            [] if found or level == "EXTRA" else [f"the simulator is blunt: nothing found at {level}"]
        )
    for wrong in ("no fsync of files", "no fsync of folders", "files written in place"):
        count, found = _store_states(few, folder / wrong, rng, functools.partial(_badly, wrong=wrong))
        notes.append(f"{wrong} {len(found)} of {count}")
        violations += [] if found else [f"the simulator is blunt: nothing found with {wrong}"]
    return Figure(tried, violations, "broken in the controls: " + ", ".join(notes))


Recording = Callable[[Sequence[Step], Path, int], tuple[Trace, str]]


def _store_states(size: int, folder: Path, rng: random.Random, record: Recording) -> tuple[int, list[str]]:
    """Try states of traces from ``record``; returns how many, and what is wrong with each broken one."""
    tried, number, broken = 0, 0, []
    while tried < size:
        steps = a_sweep(rng)
        trace, story = record(steps, folder / f"trace-{number}", number)
        number += 1
        for state, allowed, moment in states(trace, min(_STATES_PER_TRACE, size - tried), rng):
            tried += 1
            if found := broken_promises(state, allowed, steps, folder / "state"):
                broken.append(f"cut at {moment} of {len(trace.operations)}, {story}: {'; '.join(found)}")
    return tried, broken


def _with_kills(steps: Sequence[Step], root: Path, number: int) -> tuple[Trace, str]:
    """A trace and its story: killed after each kind of operation in turn, and at each place in turn."""
    trace, done = recorded(steps, root)
    rounds, kind = divmod(number, len(_KILLS))
    if _KILLS[kind] is None:
        return trace, "not killed"
    places = [place for place, name in enumerate(done, start=1) if name == _KILLS[kind]]
    kill = places[rounds % len(places)]
    shutil.rmtree(root)
    return recorded(steps, root, kill)[0], f"killed after its {_KILLS[kind]} at {kill}"


def _badly(steps: Sequence[Step], root: Path, _number: int, wrong: str) -> tuple[Trace, str]:
    """A trace of a writer that is wrong on purpose."""
    if wrong == "files written in place":
        with mock.patch.object(store, "write_file", _write_in_place):
            return recorded(steps, root)[0], wrong
    forgets = {"no fsync of files": "sync", "no fsync of folders": "sync_folder"}[wrong]
    return recorded(steps, root, forgets=forgets)[0], wrong


def _sqlite_states(level: str, size: int, folder: Path, rng: random.Random) -> tuple[int, list[str]]:
    """Try states of a database; returns how many, and for each broken one what is wrong with it."""
    tried, broken = 0, []
    while tried < size:
        root = folder / f"trace-{tried}"
        root.mkdir(parents=True)
        trace = recorded_sqlite(level, root, rng)
        for state, allowed, moment in states(trace, min(_STATES_PER_TRACE, size - tried), rng):
            tried += 1
            put_on_disk(state, folder / "state")
            seen = observe_sqlite(folder / "state" / DATABASE)
            if seen not in allowed.get(DATABASE, {ABSENT}):
                broken.append(f"SQLite {level} after operation {moment}: {seen:.80}")
    return tried, broken


CAMPAIGNS = [
    Campaign("The power fails while records are written (simulated)", power_cuts, few=160, many=6_000),
]
