"""What a run leaves on disk, written so that a crash can never leave half a record.

A run's folder holds Parquet tables, a log, and ``run.json``. ``run.json`` is written last and is the commit
record: a folder without a valid one is not a finished run. It carries the SHA-256 of every other file and of
itself. Older schemas are migrated when they are read, newer ones refused. Nothing read from a runs folder is
ever executed, imported or unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqbench import store
from seqbench.errors import UsageError
from seqbench.secret import mask
from seqbench.store import DamagedFile

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA, PLAN_SCHEMA = 2, 3
RUN_FILE = "run.json"
PLAN_FILE = "plan.json"
EVENTS_FILE = "events.jsonl"  # progress while a run is at work; gone once it is committed
LOG_FILE = "log.txt"
LOCK_FILE = ".lock"
CHECKPOINT_FILE = "checkpoint.pt"  # while a run is at work or was cut off
STATUSES = (
    "done", "diverged", "failed", "oom", "timeout", "killed", "interrupted", "damaged", "pending",
)  # fmt: skip
ENDED = ("done", "diverged")  # statuses that the settings decide: running again would give the same
_MOST_TABLE_BYTES = 256 << 20
_MOST_PLAN_BYTES = 256 << 20
_SHARED = ("config", "ground")  # of a planned run: what many runs have alike, written once
_MOST_LEVELS = 64
_MOST_CELLS = 30_000_000
_MOST_LOG_BYTES = 1 << 20
_CODECS = ("SNAPPY", "UNCOMPRESSED")  # what is written here, and what cannot blow up when unpacked
_FILE_NAME = re.compile(r"[a-z][a-z0-9_]{0,80}\.(parquet|txt)")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Scalar = float | int | str | bool | None


class NewerSchema(DamagedFile):
    """A file of a later version: not damaged, but not for this version to read or replace."""


@dataclass(frozen=True)
class Run:
    """The record of one run.

    Attributes:
        kind: "train" (one job at one seed) or "speed" (one job's timing, alone on the machine).
        identity: hash of everything that decides the result.
        status: one of :data:`STATUSES`.
        task, model: names; ``rung`` is the value on the task's ladder (a length, say), if it has one.
        config: the resolved settings of the job (one rung).
        label: the run in words; the folder's name is a safe form of it.
        asked: hash of the settings and the seed; ``ground``: hashes of the code, data, versions and machine
            that the result stands on, by part. Runs are compared on equal ground.
        metrics: scalars; units stand in the names.
        error: type, message and place of what went wrong, or None.
        files: SHA-256 of each other file in the folder.
    """

    kind: str
    identity: str
    status: str
    task: str
    rung: int | None
    model: str
    seed: int
    config: Mapping[str, Any]
    label: str = ""
    asked: str = ""
    ground: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    error: Mapping[str, str] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def folder_name(label: str, identity_hex: str) -> str:
    """A file-system-safe name; the original label lives in the record.

    >>> folder_name("LSTM T=16/seed 0", "0123456789abcdef")
    'lstm-t-16-seed-0-0123456789'
    """
    safe = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60].strip("-")
    return f"{safe or 'run'}-{identity_hex[:10]}"


# Runs


def write_run(folder: Path, run: Run, tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> Run:
    """Write the tables and the log, then commit the record. Returns the record with the files' hashes.

    Raises:
        OSError: the disk does not take it; then there is no new record.
    """
    store.make_folder(folder)
    contents = {f"{name}.parquet": parquet(columns) for name, columns in tables.items()}
    contents |= _final_log(folder)
    for name, content in contents.items():
        store.write_file(folder / name, content, durable=False)
    store.flush_folder(folder)
    files = {name: store.sha256(content) for name, content in contents.items()}
    complete = dataclasses.replace(run, files=files)
    store.write_sealed(folder / RUN_FILE, dataclasses.asdict(complete))
    return complete


def parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """A table as Parquet.

    Raises:
        pyarrow.ArrowException: columns of mixed types or unequal lengths.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), sink, write_page_checksum=True, compression="snappy")
    return bytes(sink.getvalue().to_pybytes())


def _final_log(folder: Path) -> dict[str, bytes]:
    """The end of the log without secrets; written anew, so that a straggler cannot change it any more."""
    try:
        content = store.read_tail(folder / LOG_FILE, _MOST_LOG_BYTES)
    except (FileNotFoundError, DamagedFile):  # an unreadable log must not cost the result
        return {}
    return {LOG_FILE: mask(content.decode("utf-8", "replace")).encode()}


def read_run(folder: Path) -> Run:
    """Read and verify the record of a run (not its other files: see :func:`files_intact`).

    Raises:
        FileNotFoundError: the run never finished.
        DamagedFile: the record does not verify, or is of a newer schema.
    """
    path = folder / RUN_FILE
    plain = store.unsealed(path, _of_known_schema(path, store.read_json(path), SCHEMA))
    for schema in range(plain["schema"], SCHEMA):
        plain = _RUN_MIGRATIONS[schema](plain)
    try:
        run = Run(**plain)
    except TypeError as error:
        raise DamagedFile(f"{path}: {error}") from error
    if found := _wrong(run):
        raise DamagedFile(f"{path}: {found}")
    return run


def _of_known_schema(path: Path, plain: dict[str, Any], newest: int) -> dict[str, Any]:
    schema = plain.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise DamagedFile(f"{path}: schema {schema!r:.20}, expected a number from 1 to {newest}")
    if schema > newest:
        raise NewerSchema(f"{path}: schema {schema}, this version reads up to {newest}: use a newer seqbench")
    return plain


def _wrong(run: Run) -> str:
    """What a record has that it cannot have, in words; empty for a good one."""
    texts = (run.kind, run.identity, run.status, run.task, run.model, run.label, run.asked)
    if not all(isinstance(text, str) for text in texts):
        return "a name is not a text"
    if run.status not in STATUSES:
        return f"unknown status {run.status!r:.40}"
    groups = (run.config, run.ground, run.card, run.environment, run.metrics, run.files)
    if not all(isinstance(group, Mapping) for group in groups):
        return "a group of facts is not an object"
    if not all(shallow(group) for group in groups):
        return "a group of facts is nested too deeply"
    for name, expected in run.files.items():
        if not (_FILE_NAME.fullmatch(name) and isinstance(expected, str) and _SHA256.fullmatch(expected)):
            return f"impossible file {name!r:.80}"
    return ""


def shallow(plain: object) -> bool:
    """Whether plain data is nested no deeper than settings and facts are, so that it can be walked."""
    level: list[Any] = [plain]
    for _ in range(_MOST_LEVELS):
        groups = [one.values() if isinstance(one, Mapping) else one for one in level if _has_parts(one)]
        if not (level := [part for group in groups for part in group]):
            return True
    return False


def _has_parts(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple)


def files_intact(folder: Path, run: Run) -> bool:
    """Whether every file of a run is there and has the content that the record says."""
    try:
        for name in run.files:
            verified(folder, run, name)
    except (FileNotFoundError, DamagedFile):
        return False
    return True


def verified(folder: Path, run: Run, name: str) -> bytes:
    """The content of a file of a run.

    Raises:
        FileNotFoundError: it is missing.
        DamagedFile: it is not what the record says.
    """
    content = store.read_bytes(folder / name, _MOST_TABLE_BYTES)
    if store.sha256(content) != run.files[name]:
        raise DamagedFile(f"{folder / name}: content does not match its checksum")
    return content


def read_table(folder: Path, run: Run, name: str) -> pa.Table | None:
    """Read a table of a run after checking its hash; None when the run has no such table.

    Texts come dictionary-encoded: a short file can hold the same long text a million times.

    Raises:
        DamagedFile: the file is missing, differs from what the record says, or is no table of ours.
    """
    path = folder / f"{name}.parquet"
    if path.name not in run.files:
        return None
    try:
        content = verified(folder, run, path.name)
    except FileNotFoundError as error:
        raise DamagedFile(f"{path}: missing") from error
    return _table(path, content)


def _table(path: Path, content: bytes) -> pa.Table:
    """Parse Parquet that nobody vouches for: numbers and texts, of a size that fits into memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        metadata, schema = file.metadata, file.schema_arrow
        if metadata.num_rows * max(1, metadata.num_columns) > _MOST_CELLS:
            raise DamagedFile(f"{path}: {metadata.num_rows} rows of {metadata.num_columns} columns")
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for column in range(metadata.num_columns):
                if row_group.column(column).compression not in _CODECS:
                    raise DamagedFile(f"{path}: compressed with {row_group.column(column).compression}")
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        for field_ in schema:
            if field_.name not in texts and not _plain_number(field_.type):
                raise DamagedFile(f"{path}: column of type {field_.type}")
        if texts:
            again = pa.BufferReader(content)
            file = pq.ParquetFile(
                again, metadata=metadata, read_dictionary=texts, page_checksum_verification=True
            )
        return file.read(use_threads=False)  # small tables: the threads would cost more than the reading
    except (pa.ArrowException, OSError) as error:
        raise DamagedFile(f"{path}: not a readable table: {error}") from error


def _plain_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


# Plans


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan of a sweep, whole and sealed; settings and ground that runs have alike stand there once.

    Raises:
        UsageError: there are too many runs for one plan.
    """
    path = folder / PLAN_FILE
    try:
        store.write_sealed(
            path, {**_shared(plan), "schema": PLAN_SCHEMA}, indent=None, limit=_MOST_PLAN_BYTES
        )
    except ValueError as error:
        raise UsageError(f"{error}: {len(plan['runs'])} runs are too many for one sweep; split it") from None


def read_plan(folder: Path) -> dict[str, Any]:
    """Read and verify the plan of a sweep.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it does not verify, or is of a newer schema.
    """
    path = folder / PLAN_FILE
    plain = _of_known_schema(path, store.read_json(path, _MOST_PLAN_BYTES), PLAN_SCHEMA)
    if plain["schema"] > 1:  # the first schema had no seal
        plain = store.unsealed(path, plain)
    for schema in range(plain["schema"], PLAN_SCHEMA):
        plain = _PLAN_MIGRATIONS[schema](plain)
    if not isinstance(plain.get("runs"), list):
        raise DamagedFile(f"{path}: not a plan")
    return _unshared(plain)


def _shared(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan whose runs give the places of their settings and ground in lists."""
    tables: dict[str, dict[str, int]] = {name: {} for name in _SHARED}
    known: dict[int, int] = {}  # what is one object needs no second look

    def place(name: str, value: Mapping[str, Any]) -> int:
        if id(value) not in known:
            text = json.dumps(store.json_safe(value), sort_keys=True)
            known[id(value)] = tables[name].setdefault(text, len(tables[name]))
        return known[id(value)]

    runs = [
        {**run, **{name: place(name, run[name]) for name in _SHARED if isinstance(run.get(name), Mapping)}}
        if isinstance(run, Mapping)
        else run
        for run in plan["runs"]
    ]
    return {
        **plan,
        "runs": runs,
        "shared": {name: [*map(json.loads, found)] for name, found in tables.items()},
    }


def _unshared(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan as it was before :func:`_shared`; a place that does not exist stays what it is."""
    shared = plan.pop("shared", None)
    tables = {name: shared.get(name) for name in _SHARED} if isinstance(shared, dict) else {}
    for run in plan["runs"]:
        for name, table in tables.items() if isinstance(run, dict) else ():
            place = run.get(name)
            if isinstance(table, list) and type(place) is int and 0 <= place < len(table):
                run[name] = table[place]
    return plan


# Migrations: from each schema to the next. tests/golden holds a sweep of every schema there ever was.


def _run_from_1(plain: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 names a run in words, and hashes its log too."""
    rung = "" if plain.get("rung") is None else f" {plain['rung']}"
    which = "speed" if plain.get("kind") == "speed" else f"seed {plain.get('seed')}"
    return {**plain, "label": f"{plain.get('model')} {plain.get('task')}{rung} {which}", "schema": 2}


def _plan_from_1(plain: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 keeps every command that added runs to the sweep, and what makes runs comparable."""
    plain = dict(plain)
    return {**plain, "commands": [plain.pop("command", [])], "schema": 2}


def _plan_from_2(plain: dict[str, Any]) -> dict[str, Any]:
    """Schema 3 writes once what runs have alike; in memory it is the same."""
    return {**plain, "schema": 3}


_Migration = Callable[[dict[str, Any]], dict[str, Any]]
_RUN_MIGRATIONS: Mapping[int, _Migration] = {1: _run_from_1}
_PLAN_MIGRATIONS: Mapping[int, _Migration] = {1: _plan_from_1, 2: _plan_from_2}
