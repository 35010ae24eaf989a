"""The records of the regression gate below ``runs/perf``, read without trust."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import store
from seqbench.report.label import clean
from seqbench.store import DamagedFile

FOLDER = "perf"
SCHEMA = 1
GOOD, OPEN = ("not slower",), ("cannot tell",)
_LONGEST = 300
_MOST_RECORDS = 1_000  # the newest


@dataclass(frozen=True)
class Result:
    """What a check said of one model at one length.

    Attributes:
        words: by check (counters, time, quality).
        ratio, low, high: of head's to base's time, with its interval; NaN where it was not timed.
        counters: of head, by name.
    """

    model: str
    length: int
    verdict: str
    words: Mapping[str, str]
    ratio: float
    low: float
    high: float
    detectable: float
    counters: Mapping[str, float]

    @property
    def label(self) -> str:
        """The model with its length."""
        return f"{self.model} T={self.length}"

    @property
    def timed(self) -> bool:
        """Whether there is a ratio that can be drawn."""
        return all(math.isfinite(x) and x > 0 for x in (self.ratio, self.low, self.high))


@dataclass(frozen=True)
class Record:
    """One check, as its file tells it."""

    file: str
    started: str
    kind: str
    base: str
    head: str
    machine_id: str
    machine: str
    torch: str
    margin: float
    notes: tuple[str, ...]
    results: tuple[Result, ...]

    @property
    def words(self) -> str:
        """Its verdicts, counted, what is bad first."""
        verdicts = [result.verdict for result in self.results]
        order = sorted(dict.fromkeys(verdicts), key=lambda word: (word in GOOD, word in OPEN, word))
        return ", ".join(f"{verdicts.count(word)} {word}" for word in order) or "nothing was checked"

    @property
    def day(self) -> str:
        """When it started, to the minute (UTC)."""
        return self.started[:16].replace("T", " ")


def read(runs: Path) -> tuple[list[Record], list[str]]:
    """Every record below a runs folder, the oldest first, and what cannot be read, in words."""
    records, problems = [], []
    for path in sorted((runs / FOLDER).glob("*.json"))[-_MOST_RECORDS:]:
        try:
            records.append(_record(path, store.unsealed(path, store.read_json(path))))
        except (DamagedFile, FileNotFoundError) as error:
            problems.append(clean(str(error).replace(f"{path}: ", f"{path.name}: "), _LONGEST))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(clean(f"{path.name}: not a record of a check ({type(error).__name__})", _LONGEST))
    return sorted(records, key=lambda record: (record.started, record.file)), problems


def _record(path: Path, plain: Mapping[str, Any]) -> Record:
    if plain["schema"] != SCHEMA:
        raise DamagedFile(f"{path}: schema {plain['schema']!r}, this version reads {SCHEMA}")
    machine = plain["machine"]
    shown = [str(machine["cpu"]), f"{machine['cores']} cores", str(machine["gpu"] or machine["device"])]
    return Record(
        file=clean(path.name, _LONGEST),
        started=clean(str(plain["started_utc"]), 40),
        kind=clean(str(plain["kind"]), 40),
        base=_side(plain["base"]),
        head=_side(plain["head"]),
        machine_id=clean(str(machine["id"]), 40),
        machine=clean(", ".join(shown), _LONGEST),
        torch=clean(str(plain["versions"]["torch"]), 40),
        margin=_number(plain["options"]["margin"]),
        notes=tuple(clean(str(note), _LONGEST) for note in plain["notes"]),
        results=tuple(_results(plain["models"])),
    )


def _side(side: Mapping[str, Any]) -> str:
    """A revision's name with the beginning of its hash."""
    name, commit = str(side["name"]), str(side.get("commit") or "")
    short = commit[:10] + "+" * commit.endswith("+")
    return clean(name if not short or name.startswith(short) else f"{name} ({short})", 80)


def _results(models: list[Mapping[str, Any]]) -> Iterator[Result]:
    for row in models:
        checks = row["checks"]
        time, counters = checks.get("time", {}), checks.get("counters", {}).get("head", {})
        yield Result(
            model=clean(str(row["model"]), 80),
            length=int(row["length"]),
            verdict=clean(str(row["verdict"]), 40),
            words={str(name): clean(str(check["words"]), _LONGEST) for name, check in checks.items()},
            ratio=_number(time.get("ratio")),
            low=_number(time.get("low")),
            high=_number(time.get("high")),
            detectable=_number(time.get("detectable")),
            counters={name: _number(value) for name, value in counters.items() if type(value) is int},
        )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else math.nan
