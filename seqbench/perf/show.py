"""What the gate found, for a terminal, for people (Markdown) and for CI systems (JUnit, JSON)."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from seqbench import store
from seqbench.perf.gate import CANNOT_TELL, NOT_SLOWER, row_name

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKS = ("\\", "`", "*", "_", "|", "<", ">", "[", "]")


def headline(plain: Mapping[str, Any]) -> str:
    """The outcome of a check in a sentence."""
    verdicts = [row["verdict"] for row in plain["models"]]
    counted = [f"{verdicts.count(word)} {word}" for word in dict.fromkeys(sorted(verdicts, key=_rank))]
    return f"{plain['base']['name']} -> {plain['head']['name']}: {', '.join(counted) or CANNOT_TELL}"


def _rank(verdict: str) -> int:
    """What is bad comes first."""
    return {CANNOT_TELL: 1, NOT_SLOWER: 2}.get(verdict, 0)


def lines(plain: Mapping[str, Any]) -> list[str]:
    """A line per model and check, notes, and the outcome last."""
    found = []
    for row in plain["models"]:
        found.append(f"{row_name(row['model'], row['length'])}: {row['verdict']}")
        found += [f"  {name}: {check['verdict']}: {check['words']}" for name, check in row["checks"].items()]
    return [*found, *(f"note: {note}" for note in plain["notes"]), headline(plain)]


def to_json(plain: Mapping[str, Any]) -> str:
    """The record as it is kept, but for its seal."""
    return json.dumps(store.json_safe(plain), indent=1, sort_keys=True, allow_nan=False) + "\n"


def to_markdown(plain: Mapping[str, Any]) -> str:
    """A table for a pull request."""
    parts = [
        f"### seqbench.perf: {_plain(headline(plain))}",
        "",
        "| model | verdict | counters | time | quality |",
        "|---|---|---|---|---|",
    ]
    for row in plain["models"]:
        cells = [row_name(row["model"], row["length"]), row["verdict"]]
        for name in ("counters", "time", "quality"):
            check = row["checks"].get(name)
            cells.append(f"{check['verdict']}: {check['words']}" if check else "not checked")
        parts.append(f"| {' | '.join(map(_plain, cells))} |")
    parts += ["", *(f"- {_plain(note)}" for note in plain["notes"])]
    machine = plain["machine"]
    where = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['device']}; torch {plain['versions']['torch']}"
    )
    return "\n".join([*parts, "", _plain(where), ""])


def _plain(words: str) -> str:
    """Words that Markdown takes as words, on one line."""
    for mark in _MARKS:
        words = words.replace(mark, f"\\{mark}")
    return " ".join(words.split())


def to_junit(plain: Mapping[str, Any]) -> str:
    """One test case per model and check: what cannot be told is skipped, what fails is a failure."""
    cases = [(row, name, check) for row in plain["models"] for name, check in row["checks"].items()]
    verdicts = [check["verdict"] for _, _, check in cases]
    suite = ET.Element(
        "testsuite",
        name="seqbench.perf", tests=str(len(cases)), failures=str(verdicts.count("fail")), errors="0",
        skipped=str(verdicts.count("cannot tell")), timestamp=str(plain["started_utc"]).removesuffix("Z"),
    )  # fmt: skip
    for row, name, check in cases:
        place = {"classname": f"seqbench.perf.{name}", "name": row_name(row["model"], row["length"])}
        case = ET.SubElement(suite, "testcase", {key: _xml(value) for key, value in place.items()})
        words = _xml(check["words"])
        if check["verdict"] == "fail":
            ET.SubElement(case, "failure", message=words, type=row["verdict"])
        elif check["verdict"] == "cannot tell":
            ET.SubElement(case, "skipped", message=words)
        else:
            ET.SubElement(case, "system-out").text = words
    root = ET.Element("testsuites")
    root.append(suite)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(words: str) -> str:
    """Words without the characters that no XML may hold."""
    return _NO_XML.sub("?", words)
