"""Exact counters of two sides: any growth fails, a decrease is noted; and a baseline of them in a file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import store
from seqbench.errors import UsageError
from seqbench.perf.judge import Verdict

COUNTERS = ("parameters", "forward_flops", "train_flops", "operators", "saved_bytes")
TITLES = {
    "parameters": "parameters", "forward_flops": "forward FLOPs", "train_flops": "training FLOPs",
    "operators": "operators", "saved_bytes": "saved bytes",
}  # fmt: skip
SCHEMA = 1
_MOST_OPERATORS = 3  # named in a line
_VERSIONED = ("operators", "saved_bytes")  # what another version of torch changes by itself


@dataclass(frozen=True)
class Counted:
    """What the counters of a model say."""

    verdict: Verdict
    words: str


def compare(
    base: Mapping[str, Any], head: Mapping[str, Any], allowed: Collection[str] = (), torch: str = ""
) -> Counted:
    """Compare the counters of one model.

    Args:
        allowed: counters that may grow.
        torch: why operators cannot be compared; empty: they can.
    """
    skipped = [c for c in _VERSIONED if torch]
    if base.get("counted_on") != head.get("counted_on"):
        skipped += ["forward_flops", "train_flops"]
    names = [name for name in COUNTERS if name not in skipped]
    grown = [name for name in names if head[name] > base[name]]
    less = [name for name in names if head[name] < base[name]]
    told = [_change(name, base, head) for name in (*grown, *less)]
    failed = [name for name in grown if name not in allowed]
    if failed:
        return Counted(Verdict.FAIL, f"grew: {'; '.join(told)}")
    if skipped:
        reason = torch or "operations were counted in different ways"
        return Counted(Verdict.CANNOT_TELL, "; ".join([reason, *told]))
    if grown:
        return Counted(Verdict.PASS, f"growth is allowed: {'; '.join(told)}")
    return Counted(Verdict.PASS, f"less: {'; '.join(told)}" if less else "equal")


def _change(name: str, base: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    words = f"{TITLES[name]} {base[name]:,} -> {head[name]:,} ({head[name] - base[name]:+,})"
    return f"{words}: {_operators(base, head)}" if name == "operators" else words


def _operators(base: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """The operators whose number changed most."""
    theirs, ours = base["by_operator"], head["by_operator"]
    change = {name: ours.get(name, 0) - theirs.get(name, 0) for name in {*theirs, *ours}}
    most = sorted((name for name in change if change[name]), key=lambda name: (-abs(change[name]), name))
    more = ", ..." if len(most) > _MOST_OPERATORS else ""
    return ", ".join(f"{name} {change[name]:+d}" for name in most[:_MOST_OPERATORS]) + more


def write_baseline(path: Path, counters: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Keep the counters of some models in a file that can be committed: no times, nothing of the machine.

    Args:
        counters: by model and length, like "lstm T=128": the width, and what was counted.

    Raises:
        UsageError: the file cannot be written.
    """
    plain = {"schema": SCHEMA, **facts, "counters": counters}
    try:
        store.make_folder(path.absolute().parent)
        store.write_file(path, (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}; choose another file with --store FILE"
        ) from None


def read_baseline(path: Path) -> dict[str, Any]:
    """Read such a file.

    Raises:
        UsageError: it is none.
    """
    try:
        plain = store.read_json(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; write one with --store {path}") from None
    except store.DamagedFile as error:
        raise UsageError(f"{error}; write it again with --store {path}") from None
    counters = plain.get("counters")
    if (
        plain.get("schema") != SCHEMA
        or not isinstance(counters, dict)
        or not all(map(_whole, counters.values()))
    ):
        raise UsageError(f"{path}: not a baseline of counters; write one with --store {path}")
    return plain


def _whole(entry: object) -> bool:
    """Whether an entry has every counter."""
    if not isinstance(entry, dict) or not isinstance(entry.get("by_operator"), dict):
        return False
    numbers = [entry.get(name) for name in ("width", *COUNTERS)]
    return all(type(number) is int and number >= 0 for number in numbers)
