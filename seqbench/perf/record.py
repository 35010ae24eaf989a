"""A check as a record on disk, a JSON file below ``runs/perf``: ratios, counters, machine, verdicts."""

from __future__ import annotations

import dataclasses
import platform
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import seqbench
from seqbench import environment, store
from seqbench.errors import UsageError
from seqbench.perf.gate import Options, Row, exit_code
from seqbench.report.perf_records import FOLDER, SCHEMA


def machine(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a time depends on; ``id`` is the same for the same kind of machine.

    Args:
        facts: what a worker said of itself.
    """
    found = {
        "cpu": environment.cpu_model(), "cores": environment.cores(),
        "platform": f"{platform.system()} {platform.machine()}", "device": facts.get("device", "cpu"),
        "gpu": facts.get("gpu"), "instruction_set": environment.instruction_set(),
    }  # fmt: skip
    return {**found, "id": store.digest(found)[:12]}


def of_check(
    kind: str,
    base: Mapping[str, str],
    head: Mapping[str, str],
    facts: Mapping[str, Any],
    options: Options,
    rows: Sequence[Row],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """A check as plain data.

    Args:
        kind: "check" of two revisions, or "baseline" against stored counters.
        base, head: name and commit of each side.
    """
    return {
        "schema": SCHEMA,
        "kind": kind,
        "started_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "base": dict(base),
        "head": dict(head),
        "machine": machine(facts),
        "versions": {
            "seqbench": seqbench.__version__, "torch": facts.get("torch", "not known"),
            "python": facts.get("python", platform.python_version()),
        },
        "options": dataclasses.asdict(options),
        "notes": list(notes),
        "models": [_row(row) for row in rows],
        "exit_code": exit_code(list(rows)),
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    checks = {
        name: {"verdict": check.verdict.value, "words": check.words, **check.detail}
        for name, check in row.checks.items()
    }
    return {"model": row.model, "length": row.length, "verdict": row.verdict, "checks": checks}


def keep(plain: Mapping[str, Any], runs: Path) -> Path:
    """Write a record below a runs folder; nothing is ever overwritten.

    Raises:
        UsageError: the folder does not take it.
    """
    started = str(plain["started_utc"]).replace(":", "-")
    path = runs / FOLDER / f"{started}-{secrets.token_hex(4)}.json"
    try:
        store.make_folder(path.parent)
        store.write_sealed(path, plain)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}; choose another folder with --runs FOLDER"
        ) from None
    return path
