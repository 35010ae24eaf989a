"""The page of the regression gate: its history on each machine, made from the records below ``runs/perf``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seqbench
from seqbench.report import theme
from seqbench.report.page import Drawn, drawn, filled, put
from seqbench.report.perf_records import GOOD, OPEN, Record, Result, read
from seqbench.report.plots import perf
from seqbench.report.tables import NONE, Entry, Table, model, number, span, text

PERF_FILE = "perf.html"
_MOST_ROWS = 200
_COUNTERS = {
    "parameters": "parameters", "forward_flops": "forward FLOPs", "train_flops": "training FLOPs",
    "operators": "operators in 10 steps", "saved_bytes": "saved bytes",
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """The checks of one kind of machine.

    Attributes:
        number: unique on the page.
        newest: the last check's results.
        history: a row per check.
        counters: head's counters, the newest of each model, and what changed against the check before.
    """

    number: int
    name: str
    words: str
    notes: tuple[str, ...]
    figures: list[Drawn]
    newest: Table
    history: Table
    counters: Table


def write_perf_page(runs: Path, out: Path) -> Path:
    """Write the page of all checks below a runs folder and return its path.

    Raises:
        UsageError: it cannot be written.
    """
    return put(render(*read(runs), index=(out.parent / "index.html").is_file()), out)


def render(records: list[Record], problems: list[str], *, index: bool) -> str:
    """The page as text; the same records give the same bytes.

    Args:
        index: whether the index over all sweeps stands beside it, to link to.
    """
    machines: dict[str, list[Record]] = {}
    for record in records:
        machines.setdefault(record.machine_id, []).append(record)
    newest_first = sorted(machines.values(), key=lambda some: some[-1].started, reverse=True)
    shown = [_machine(some, number) for number, some in enumerate(newest_first)]
    labels = {result.model for record in records for result in record.results}
    facts: dict[str, Any] = {
        "machines": shown, "problems": problems, "count": len(records), "version": seqbench.__version__,
        "styles": theme.styles(labels), "index": index,
    }  # fmt: skip
    return filled("perf.html", facts)


def _machine(records: list[Record], place: int) -> Machine:
    newest = records[-1]
    return Machine(
        number=place,
        name=newest.machine,
        words=f"{newest.base} to {newest.head}, {newest.day}: {newest.words}",
        notes=newest.notes,
        figures=drawn([perf.plot(records, place)]),
        newest=_newest(newest),
        history=_history(records),
        counters=_counters(records),
    )


def _kind(verdict: str) -> str:
    """The look of a verdict."""
    if verdict in GOOD:
        return "equivalent"
    return "undecided" if verdict in OPEN else "worse"


def _newest(record: Record) -> Table:
    heads = [
        ("model", False), ("T", True), ("verdict", False), ("head / base", True), ("interval", True),
        ("would have seen", True), ("counters", False), ("quality", False),
    ]  # fmt: skip
    rows = [
        [
            model(result.model), number(result.length, "{}"), text(result.verdict, _kind(result.verdict)),
            number(result.ratio, "{:.3f}"), _interval(result), number(result.detectable, "{:+.0%}"),
            text(result.words.get("counters", NONE), "note"), text(result.words.get("quality", NONE), "note"),
        ]
        for result in record.results
    ]  # fmt: skip
    return Table(f"The newest check: {record.base} to {record.head}, torch {record.torch}", heads, rows)


def _interval(result: Result) -> Entry:
    if not result.timed:
        return Entry(NONE, math.inf)
    return span(result.low, result.high, f"[{result.low:.3f}, {result.high:.3f}]")


def _history(records: list[Record]) -> Table:
    heads = [
        ("when (UTC)", False), ("base", False), ("head", False), ("against", False), ("torch", False),
        ("slower or worse", False), ("cannot tell", False), ("not slower", True), ("highest ratio", True),
    ]  # fmt: skip
    rows = [_past(record) for record in list(reversed(records))[:_MOST_ROWS]]
    more = f", the newest {_MOST_ROWS}" if len(records) > _MOST_ROWS else ""
    return Table(f"Every check on this machine{more}", heads, rows)


def _past(record: Record) -> list[Entry]:
    bad = [result for result in record.results if result.verdict not in (*GOOD, *OPEN)]
    ratios = [result.ratio for result in record.results if result.timed]
    return [
        Entry(record.day, record.started, "when"),
        text(record.base),
        text(record.head),
        text("stored counters" if record.kind == "baseline" else "a revision"),
        text(record.torch),
        text(_names(bad), "worse" if bad else ""),
        text(_names(result for result in record.results if result.verdict in OPEN)),
        number(sum(result.verdict in GOOD for result in record.results), "{}"),
        number(max(ratios, default=math.nan), "{:.3f}"),
    ]


def _names(results: Iterable[Result]) -> str:
    return ", ".join(result.label for result in results) or NONE


def _counters(records: list[Record]) -> Table:
    """The newest counters of every model and length, with the change since the check before."""
    heads = [("model", False), ("T", True), *((title, True) for title in _COUNTERS.values())]
    last: dict[tuple[str, int], list[Result]] = {}
    for record in records:
        for result in record.results:
            if result.counters:
                last.setdefault((result.model, result.length), []).append(result)
    rows = [
        [model(name), number(length, "{}"), *(_counter(results, counter) for counter in _COUNTERS)]
        for (name, length), results in last.items()
    ]
    return Table(
        "Exact counters of head at its last check, in brackets the change since the one before", heads, rows
    )


def _counter(results: list[Result], name: str) -> Entry:
    now = results[-1].counters.get(name, math.nan)
    before = results[-2].counters.get(name, math.nan) if len(results) > 1 else math.nan
    if math.isnan(now):
        return Entry(NONE, math.inf)
    change = "" if math.isnan(before) or before == now else f" ({now - before:+,.0f})"
    return Entry(f"{now:,.0f}{change}", now, "worse" if change and now > before else "")
