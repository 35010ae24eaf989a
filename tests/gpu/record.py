"""The record of a call: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write both forms of what is known so far."""
    text = json.dumps({"schema": SCHEMA, **found}, indent=1, allow_nan=False, default=str)
    (folder / "gpu.json").write_text(text + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(markdown(found) + "\n", encoding="utf-8")


def markdown(found: dict[str, Any]) -> str:
    """Everything as one page of Markdown."""
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    facts = found["environment"]
    yield f"# seqbench on {facts.get('card', facts['device'])}"
    yield ""
    if facts["device"] == "cpu":
        yield "A try of the measuring itself on a CPU, in tiny sizes: the figures say nothing about speed."
        yield ""
    yield ", ".join(f"{name.replace('_', ' ')}: {shown(value)}" for name, value in facts.items())
    yield ""
    if tests := found["tests"]:
        counts = ", ".join(f"{tests[key]} {key}" for key in ("passed", "failed", "skipped") if key in tests)
        yield f"Tests: {counts or 'no result'} (pytest ended with {tests['exit_code']})."
        yield from (f"- failed: {name}" for name in tests.get("failures", []))
        yield ""
    for section in found["sections"]:
        yield from _section(section)
    if "sweep" in found:
        told = found["sweep"]
        yield f"`{told['command']}` ended with {told['exit_code']}; its page is below reports/."
    yield from (f"- left out: {what}" for what in found["left_out"])


def _section(section: dict[str, Any]) -> Iterator[str]:
    yield f"## {section['title']}"
    yield ""
    yield section["about"] + (f" Goal: {section['goal']}." if section["goal"] else "")
    yield ""
    if rows := section["rows"]:
        heads = list(dict.fromkeys(key for row in rows for key in row))
        yield f"| {' | '.join(heads)} |"
        yield f"|{'---|' * len(heads)}"
        yield from (f"| {' | '.join(shown(row.get(head)) for head in heads)} |" for row in rows)
        yield ""
    if section["missed"]:
        yield "Not measured:"
        yield from (f"- {what}" for what in section["missed"])
        yield ""


def shown(value: object) -> str:
    """A figure as it stands in a cell.

    >>> shown(0.123456), shown(None), shown(True)
    ('0.123', '-', 'yes')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) and abs(value) < 1e5 else f"{value:,.0f}"
    return str(value).replace("|", "/")
