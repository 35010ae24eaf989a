"""What a run leaves on disk, written so that a crash can never leave half a record.

A run's folder holds Parquet tables, a log, and ``run.json``. ``run.json`` is written last and is the commit
record: a folder without a valid one is not a finished run. It carries the SHA-256 of every table and of
itself. Nothing read from a runs folder is ever executed, imported or unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
RUN_FILE = "run.json"
PLAN_FILE = "plan.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "log.txt"
STARTED_FILE = ".started"  # touched once a child holds its locks
STATUSES = (
    "done", "diverged", "failed", "oom", "timeout", "killed", "interrupted", "damaged", "pending",
)  # fmt: skip
_MAX_JSON_BYTES = 16 << 20
_MAX_TABLE_BYTES = 1 << 30

Scalar = float | int | str | bool | None


class DamagedRecord(Exception):
    """A file of a runs folder is not what its record says."""


@dataclass(frozen=True)
class Run:
    """The record of one run.

    Attributes:
        kind: "train" (one job at one seed) or "speed" (one job's timing, alone on the machine).
        identity: hash of everything that decides the result.
        status: one of :data:`STATUSES`.
        task, model: names; ``rung`` is the value on the task's ladder (a length, say), if it has one.
        config: the resolved settings of the job (one rung).
        metrics: scalars; units stand in the names.
        error: type, message and place of what went wrong, or None.
        files: SHA-256 of each table in the folder.
    """

    kind: str
    identity: str
    status: str
    task: str
    rung: int | None
    model: str
    seed: int
    config: Mapping[str, Any]
    card: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    error: Mapping[str, str] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def identity(parts: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, independent of key order."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_name(label: str, identity_hex: str) -> str:
    """A file-system-safe name; the original label lives in the record.

    >>> folder_name("LSTM T=16/seed 0", "0123456789abcdef")
    'lstm-t-16-seed-0-0123456789'
    """
    safe = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60].strip("-")
    return f"{safe or 'run'}-{identity_hex[:10]}"


def write_run(folder: Path, run: Run, tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> Run:
    """Write the tables, then commit the record. Returns the record with the tables' hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{name}.parquet": _write_table(folder, name, columns) for name, columns in tables.items()}
    complete = dataclasses.replace(run, files=files)
    plain = dataclasses.asdict(complete)
    plain["sha256"] = identity(_json_safe(plain))
    write_json(folder / RUN_FILE, plain)
    return complete


def _write_table(folder: Path, name: str, columns: Mapping[str, Sequence[Any]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(dict(columns)), path, write_page_checksum=True)
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json_safe(value: Any) -> Any:
    """JSON has no NaN or infinity: they become None; the status says why."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    return [_json_safe(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that readers see the old file or the new one, never a part of it."""
    text = json.dumps(_json_safe(value), indent=1, sort_keys=True, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file, and nothing else, up to ``limit`` bytes.

    Raises:
        DamagedRecord: a link, a pipe, a folder, or too large.
        FileNotFoundError: no such file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedRecord(f"{path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        os.close(descriptor)
        raise DamagedRecord(f"{path}: not a regular file of at most {limit} bytes")
    with os.fdopen(descriptor, "rb") as handle:
        return handle.read(limit + 1)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def read_json(path: Path) -> Any:
    """Read JSON from a runs folder.

    Raises:
        DamagedRecord: not valid JSON, or not a regular file.
    """
    try:
        return json.loads(read_bytes(path, _MAX_JSON_BYTES), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{path}: not valid JSON: {error}") from error


def read_run(folder: Path) -> Run:
    """Read and verify the record of a run (not its tables).

    Raises:
        FileNotFoundError: the run never finished.
        DamagedRecord: the record does not verify, or is of a newer schema.
    """
    plain = read_json(folder / RUN_FILE)
    if not isinstance(plain, dict):
        raise DamagedRecord(f"{folder / RUN_FILE}: not a record")
    if plain.get("schema") != SCHEMA:
        raise DamagedRecord(f"{folder / RUN_FILE}: schema {plain.get('schema')}, this version reads {SCHEMA}")
    expected = plain.pop("sha256", None)
    if expected != identity(plain):
        raise DamagedRecord(f"{folder / RUN_FILE}: content does not match its checksum")
    try:
        run = Run(**plain)
    except TypeError as error:
        raise DamagedRecord(f"{folder / RUN_FILE}: {error}") from error
    if run.status not in STATUSES:
        raise DamagedRecord(f"{folder / RUN_FILE}: unknown status {run.status!r}")
    return run


def tables_intact(folder: Path, run: Run) -> bool:
    """Whether every table of a run is there and has the content that the record says."""
    try:
        return all(
            hashlib.sha256(read_bytes(folder / name, _MAX_TABLE_BYTES)).hexdigest() == expected
            for name, expected in run.files.items()
        )
    except (FileNotFoundError, DamagedRecord):
        return False


def read_table(folder: Path, run: Run, name: str) -> pa.Table | None:
    """Read a table of a run after checking its hash; None when the run has no such table.

    Raises:
        DamagedRecord: the file is missing or differs from what the record says.
    """
    expected = run.files.get(f"{name}.parquet")
    if expected is None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{name}.parquet"
    try:
        content = read_bytes(path, _MAX_TABLE_BYTES)
    except FileNotFoundError as error:
        raise DamagedRecord(f"{path}: missing") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise DamagedRecord(f"{path}: content does not match its checksum")
    return pq.read_table(pa.BufferReader(content))
