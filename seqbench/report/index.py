"""The index: one page over all sweeps of a runs folder, newest first, made from their records.

What stands in a row follows from a sweep's records alone, but takes a quarter of a second to compute for a
hundred runs. It is kept in ``.index.json`` beside the page, under a hash of the names, sizes and times of the
sweep's ``plan.json`` and ``run.json`` files and of the report's own code, so that a sweep is read again when
any of them changed. The file may be removed at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import seqbench
from seqbench import records, stats, store
from seqbench.errors import UsageError
from seqbench.report import facts, stem
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.label import clean
from seqbench.report.page import filled, put
from seqbench.report.perf_page import PERF_FILE
from seqbench.report.perf_page import render as render_checks
from seqbench.report.perf_records import FOLDER as PERF
from seqbench.report.perf_records import Record
from seqbench.report.perf_records import read as read_checks
from seqbench.report.summary import cells, status_counts
from seqbench.report.tables import NONE
from seqbench.report.verdict import headline
from seqbench.store import DamagedFile

INDEX_FILE = "index.html"
_KEPT_FILE = ".index.json"
_LONGEST = 500
_WAITING, _WELL = "pending", "done"


@dataclass(frozen=True)
class Row:
    """What the index says of one sweep.

    Attributes:
        tasks: their names, with the settings that the sweep varied.
        models, seeds: how many are compared.
        counts: planned runs by status.
        machine: processor, cores and device; several of each where the records differ.
        problem: why it cannot be read, in words; then all else is empty.
    """

    question: str = ""
    headline: str = ""
    tasks: str = ""
    models: int = 0
    seeds: int = 0
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    machine: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """A folder below the runs folder.

    Attributes:
        identity: hash of names, sizes and times of its plan and records.
        newest_s: when its newest record was written, in seconds since 1970 (UTC); None without any.
        order_s: the same, or when it was planned; what the index is ordered by.
    """

    folder: Path
    identity: str
    newest_s: int | None
    order_s: float


@dataclass(frozen=True)
class Shown:
    """A row as the template needs it.

    Attributes:
        link, lesson: relative addresses of the sweep's page and lesson; empty where there is none.
        command: what writes that page.
        well, bad, waiting: runs that are done, that ended otherwise, in words, and that have no record.
    """

    name: str
    row: Row
    link: str
    lesson: str
    command: str
    planned: int
    well: int
    bad: str
    bad_count: int
    waiting: int
    newest: str
    newest_s: int | None


def write_index(runs: Path, out: Path) -> Path:
    """Write the index of a runs folder and return its path.

    Args:
        runs: the folder of all sweeps.
        out: the index, in the folder of the sweeps' pages.

    Raises:
        UsageError: no such folder, or the index cannot be written.
    """
    reports = out.parent
    checks, damaged = read_checks(runs)
    if checks or damaged:
        put(render_checks(checks, damaged, index=True), reports / PERF_FILE)
    kept = _read_kept(reports / _KEPT_FILE)
    found = [(one, kept.get(one.identity) or summarise(one.folder)) for one in find(runs)]
    put(render(runs, reports, found, _told(checks, damaged)), out)
    now = {one.identity: row for one, row in found}
    if now != kept:
        with contextlib.suppress(OSError):  # the page is in place; what is not kept is computed again
            _write_kept(reports / _KEPT_FILE, now)
    return out


def find(runs: Path) -> list[Found]:
    """Every folder of a runs folder, the newest first, but files, hidden folders and the gate's records.

    Raises:
        UsageError: it cannot be listed.
    """
    try:
        folders = sorted(p for p in runs.iterdir() if p.is_dir() and not p.name.startswith("."))
        folders = [p for p in folders if p.name != PERF or (p / records.PLAN_FILE).exists()]
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{runs}: {reason}; go to the folder that holds runs/, or name a sweep") from None
    found = [_look(folder) for folder in folders]
    return sorted(found, key=lambda one: (-one.order_s, one.folder.name))


def _look(folder: Path) -> Found:
    """The times and sizes of a sweep's records; nothing is read."""
    planned = _mark(folder / records.PLAN_FILE)
    marks = _marks(folder) if planned else {}
    times = [mark[0] for mark in marks.values()]
    newest = max(times) // 10**9 if times else None
    order = newest if newest is not None else planned[0] / 1e9 if planned else 0.0
    place = os.fsencode(folder.name).hex()
    identity = store.digest({"name": place, "code": _code(), "plan": planned, "runs": marks})
    return Found(folder, identity, newest, order)


def _marks(folder: Path) -> dict[str, list[int]]:
    """Of every run with a record, by folder: the record's mark, and when the folder last changed."""
    found = {}
    with contextlib.suppress(OSError), os.scandir(folder) as places:
        for place in places:
            with contextlib.suppress(OSError):
                if place.is_dir(follow_symlinks=False) and (
                    mark := _mark(f"{place.path}/{records.RUN_FILE}")
                ):
                    changed = place.stat(follow_symlinks=False).st_mtime_ns
                    found[os.fsencode(place.name).hex()] = [*mark, changed]
    return found


def _mark(path: Path | str) -> list[int]:
    """When a regular file was written (ns), its size and number; nothing for anything else."""
    try:
        seen = os.stat(path, follow_symlinks=False)
    except OSError:
        return []
    return [seen.st_mtime_ns, seen.st_size, seen.st_ino] if stat.S_ISREG(seen.st_mode) else []


def summarise(folder: Path) -> Row:
    """Read a sweep and say what the index tells of it; of what is none, why."""
    try:
        return row_of(read_sweep(folder))
    except UsageError as error:
        told = str(error).removeprefix(f"{folder}: ").replace(f"{folder}/", "")
        return Row(problem=clean(told.split("; ")[0], _LONGEST))
    except Exception as error:  # a folder that nobody vouches for must not cost the others their row
        return Row(problem=clean(f"cannot be read ({type(error).__name__}: {error})", _LONGEST))


def row_of(sweep: Sweep) -> Row:
    """The row of a sweep that was read."""
    return Row(
        question=clean(facts.question(sweep), _LONGEST),
        headline=clean(headline(sweep, cells(sweep)), _LONGEST),
        tasks=clean(", ".join(task.key for task in sweep.tasks) or NONE, _LONGEST),
        models=len(sweep.labels),
        seeds=len(sweep.seeds),
        counts=status_counts(sweep),
        machine=_machine(sweep),
    )


def _machine(sweep: Sweep) -> str:
    """Processor, cores and device of the records."""
    known = dict(facts.environments(sweep))
    units = {"cpu": "", "cores": " cores", "device": ""}
    parts = [" / ".join(known[name]) + unit for name, unit in units.items() if name in known]
    return clean(", ".join(parts) or NONE, 200)


# The page


def render(runs: Path, reports: Path, found: list[tuple[Found, Row]], checks: str = "") -> str:
    """The index as text; the same records give the same bytes. What cannot be read comes last.

    Args:
        checks: what is said of the regression checks; empty where there is none.
    """
    shown = [_shown(one, row, reports) for one, row in sorted(found, key=lambda pair: pair[1].problem != "")]
    facts = {"rows": shown, "runs": clean(runs, 200), "version": seqbench.__version__, "dash": NONE}
    return filled("index.html", {**facts, "checks": checks, "perf": PERF_FILE})


def _told(checks: list[Record], damaged: list[str]) -> str:
    """The newest regression check in words; empty where there is none."""
    if not checks:
        return f"{len(damaged)} that cannot be read" if damaged else ""
    newest = checks[-1]
    return f"the newest, {newest.base} to {newest.head} on {newest.day}: {newest.words}"


def _shown(one: Found, row: Row, reports: Path) -> Shown:
    page, lesson = (reports / f"{stem(one.folder)}{ending}" for ending in (".html", ".lesson.html"))
    bad = {status: n for status, n in row.counts.items() if status not in (_WELL, _WAITING)}
    return Shown(
        name=clean(one.folder.name, 200),
        row=row,
        link=_link(page),
        lesson=_link(lesson),
        command="" if row.problem else _command(one.folder, page),
        planned=sum(row.counts.values()),
        well=row.counts.get(_WELL, 0),
        bad=", ".join(f"{count} {status}" for status, count in bad.items()),
        bad_count=sum(bad.values()),
        waiting=row.counts.get(_WAITING, 0),
        newest=_date(one.newest_s),
        newest_s=one.newest_s,
    )


def _link(page: Path) -> str:
    """The address of a page in the same folder; empty when it is not there."""
    return f"./{quote(os.fsencode(page.name))}" if page.is_file() else ""


def _command(folder: Path, page: Path) -> str:
    """What writes a sweep's page."""
    usual = page == Path("reports", page.name)
    words = [str(folder)] if usual else [str(folder), "--out", str(page)]
    return clean(f"python -m seqbench.report {shlex.join(words)}", _LONGEST)


def _date(seconds: int | None) -> str:
    """A time as date and minute, UTC; a dash for none, or for one that no calendar has."""
    try:
        return NONE if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return NONE


# What is kept between two writings


@functools.cache
def _code() -> str:
    """Hash of the code that decides what a row says."""
    package = Path(seqbench.__file__).parent
    sources = [*Path(__file__).parent.rglob("*.py"), *Path(stats.__file__).parent.rglob("*.py")]
    sources += [package / name for name in ("metric.py", "records.py", "store.py", "__init__.py")]
    texts = {str(path.relative_to(package)): store.sha256(path.read_bytes()) for path in sources}
    return store.digest(texts)


def _read_kept(path: Path) -> dict[str, Row]:
    """The rows of an earlier writing, by identity; none if the file is not what was written."""
    try:
        raw = store.unsealed(path, store.read_json(path)).get("rows")
    except (FileNotFoundError, DamagedFile):
        return {}
    rows = raw if isinstance(raw, Mapping) else {}
    found = {identity: _row(plain) for identity, plain in rows.items()}
    return {identity: row for identity, row in found.items() if row is not None}


def _row(plain: object) -> Row | None:
    """A row from plain data; None if any part is not of its type."""
    kinds = {field.name: type(getattr(Row(), field.name)) for field in dataclasses.fields(Row)}
    if not isinstance(plain, dict) or plain.keys() != kinds.keys():
        return None
    if not all(type(plain[name]) is kind for name, kind in kinds.items()):
        return None
    if not all(type(count) is int for count in plain["counts"].values()):
        return None
    values: dict[str, Any] = plain
    return Row(**values)


def _write_kept(path: Path, rows: Mapping[str, Row]) -> None:
    store.write_sealed(path, {"rows": {identity: dataclasses.asdict(row) for identity, row in rows.items()}})
