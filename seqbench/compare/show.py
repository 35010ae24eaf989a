"""A comparison of two sweeps as tables and words: for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from seqbench import store
from seqbench.compare.changes import Change, environment, only_in, settings
from seqbench.compare.judge import SAME, Found, Row, Timing
from seqbench.report import facts
from seqbench.report.formats import markdown, to_markdown
from seqbench.report.summary import counted
from seqbench.report.tables import NONE, Entry, Table, model, number, p_value, span, text
from seqbench.report.verdict import signed, words_list
from seqbench.stats import Interval, Outcome

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FINE, EXIT_WORSE, EXIT_USAGE, EXIT_CANNOT_TELL = 0, 1, 2, 3
SCHEMA = 1
_DECIDED = (Outcome.BETTER, Outcome.EQUIVALENT)
_COLOURS = {"better": "green", "worse": "bold red", "refused": "yellow"}
_WORDS = ("worse", "better", "equivalent", SAME, "cannot tell", "refused")
_MOST_LINES = 40
_NARROW = 115  # columns of a terminal that has no room for all of a table
_LESS = ("p (Holm)", "solved A", "solved B")


def exit_code(found: Found) -> int:
    """0: something could be told and nothing is worse; 1: something is worse, or failed; 3: nothing told."""
    rows = [*found.whole, *found.rungs]
    if found.broken or any(row.outcome is Outcome.WORSE for row in rows):
        return EXIT_WORSE
    told = any(row.equal or row.outcome in _DECIDED for row in rows)
    return EXIT_FINE if told else EXIT_CANNOT_TELL


def headline(found: Found) -> str:
    """The outcome in a sentence or two."""
    rows = found.whole
    if not rows:
        return "Nothing can be told: no model has the same task and rung in both sweeps."
    if all(row.equal for row in rows):
        return f"The same records: {_count(len(rows), 'comparison')}, no difference."
    counts = ", ".join(f"{len(some)} {name}" for name, some in _sorted(rows).items())
    sentences = [f"{_count(len(rows), 'comparison')} of B with A: {counts}."]
    if worse := [row for row in found.rungs if row.outcome is Outcome.WORSE]:
        sentences.append(f"Worse at a rung: {words_list([f'{r.label} on {r.place}' for r in worse])}.")
    if all(row.scores_equal for row in rows):
        sentences.append("All paired scores are equal to the last bit.")
    if found.broken:
        sentences.append(f"{_count(len(found.broken), 'run')} done in A failed in B.")
    return " ".join(sentences)


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")


def _sorted(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by the word of their verdict, what is worse first."""
    found: dict[str, list[Row]] = {name: [] for name in _WORDS}
    for row in rows:
        found[_word(row)].append(row)
    return {name: some for name, some in found.items() if some}


def _word(row: Row) -> str:
    """A verdict without what it comes with."""
    return next((word for word in _WORDS if row.words.startswith(word)), "cannot tell")


def lines(rows: list[Row]) -> list[str]:
    """The verdicts with all that belongs to them, those with the same words together."""
    told: dict[str, list[str]] = {}
    for row in [row for some in _sorted(rows).values() for row in some]:
        told.setdefault(row.words, []).append(f"{row.label} on {row.place}")
    return [f"{words_list(places)}: {words}" for words, places in told.items()]


def table(rows: Sequence[Row], caption: str, *, short: bool = False) -> Table:
    """Paired differences with their verdicts; ``short``: the word of each, without what it comes with."""
    heads = [
        ("task", False), ("model", False), ("verdict", False), ("A", True), ("B", True),
        ("B \N{MINUS SIGN} A", True), ("95 % interval", True), ("p (Holm)", True), ("seeds", True),
        ("solved A", True), ("solved B", True),
    ]  # fmt: skip
    return Table(caption, heads, [_row(row, short) for row in rows])


def _row(row: Row, short: bool) -> list[Entry]:
    digits, result = row.task.metric.digits, row.result
    kind = "refused" if row.refused else row.outcome.name.lower() if row.outcome else ""
    words = _word(row) if short else row.words
    lead = [text(row.place), model(row.label), text(words, kind), _mean(row, row.a), _mean(row, row.b)]
    ends = [_solved(row, row.solved_a), _solved(row, row.solved_b)]
    if result is None:
        return [*lead, *[Entry(NONE, math.inf)] * 3, number(row.a.n, "{}"), *ends]
    p = row.compared.judged.p if row.compared else math.nan
    return [
        *lead,
        Entry(signed(result.mean, digits), result.mean),
        span(result.low, result.high, f"[{signed(result.low, digits)}, {signed(result.high, digits)}]"),
        p_value(p),
        number(result.n, "{}"),
        *ends,
    ]


def _mean(row: Row, score: Interval) -> Entry:
    return number(score.mean, f"{{:.{row.task.metric.digits}f}}")


def _solved(row: Row, solved: tuple[int, int]) -> Entry:
    """Solved runs of those that ended; nothing for a task without such a line."""
    count, ended = solved
    if row.task.solved_at is None or not ended:
        return Entry(NONE, math.inf)
    return Entry(f"{count}/{ended}", count / ended)


def speed_table(timings: Sequence[Timing]) -> Table:
    """Median time of a training step in both sweeps."""
    heads = [("task", False), ("model", False), ("A (ms)", True), ("B (ms)", True), ("B / A", True)]
    rows = [
        [
            text(one.task.at(one.rung)),
            model(one.label),
            number(1e3 * one.a_s, "{:.2f}"),
            number(1e3 * one.b_s, "{:.2f}"),
            number(one.b_s / one.a_s, "{:.2f}"),
        ]
        for one in timings
    ]
    return Table("Median training step at the longest length that both timed (not judged)", heads, rows)


def tables(found: Found, *, short: bool = False) -> list[Table]:
    """All tables of a comparison that have rows.

    Args:
        short: one word for each verdict, and no rungs where nothing has changed at all.
    """
    names = words_list(list(dict.fromkeys(row.task.metric.name for row in found.whole)))
    rungs = [row for row in found.rungs if not (short and row.scores_equal)]
    which = "wherever scores differ" if short else "everywhere"
    made = [
        table(
            found.whole, f"Paired differences of test {names}, B - A{_corrected(found.whole)}", short=short
        ),
        table(rungs, f"The same at each rung, {which}{_corrected(found.rungs)}", short=short),
        speed_table(found.timings),
    ]
    return [one for one in made if one.rows]


def _corrected(rows: list[Row]) -> str:
    tests = max((row.compared.judged.comparisons for row in rows if row.compared), default=0)
    return f"; corrected for {tests} comparisons" if tests > 1 else ""


def notes(found: Found) -> list[tuple[str, list[str]]]:
    """What stands beside the tables: a title with its lines."""
    alone = only_in(found.a, found.b)
    speed = [found.no_speed] if found.no_speed else [_busy(found)]
    groups = [
        ("Failed in B", found.broken),
        ("Speed", [line for line in speed if line]),
        ("Settings that differ (A, B)", _changes(settings(found))),
        ("Code, versions and machine that differ (A, B)", _changes(environment(found.a, found.b))),
        ("Only in A", alone["A"]),
        ("Only in B", alone["B"]),
        ("Not readable in A", found.a.problems),
        ("Not readable in B", found.b.problems),
    ]
    return [(title, some) for title, some in groups if some]


def _busy(found: Found) -> str:
    """How much else ran on the machine while speed was measured."""
    parts = []
    for name, sweep in (("A", found.a), ("B", found.b)):
        if (busy := facts.others_busy(sweep)) is not None:
            parts.append(f"{busy[0]:.2f} to {busy[1]:.2f} cores during {name}")
    others = f"; other programs kept busy {words_list(parts)}" if parts else ""
    return f"times of two sweeps are no measurement side by side: small ratios mean nothing{others}"


def _changes(changes: Iterable[Change]) -> list[str]:
    return [f"{c.name}: {c.a}, {c.b}" + (f" ({c.where})" if c.where else "") for c in changes]


def sides(found: Found) -> list[str]:
    """The two sweeps in a line each."""
    return [f"{name}: {sweep.name}, {counted(sweep)}" for name, sweep in (("A", found.a), ("B", found.b))]


def to_terminal(found: Found, console: Console) -> None:
    """Print a comparison; words of the records are never markup."""
    from rich.text import Text

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style), highlight=False)

    for line in sides(found):
        say(line)
    console.print()
    for one in tables(found, short=True):
        console.print(_rich(_without(one, _LESS) if console.width < _NARROW else one))
    say(headline(found), "bold")
    for line in lines(found.whole):
        say(line)
    for title, some in notes(found):
        say(f"\n{title}", "bold")
        for line in some[:_MOST_LINES]:
            say(f"  {line}")
        if len(some) > _MOST_LINES:
            say(f"  ... and {len(some) - _MOST_LINES} more (all of them with --json)")


def _without(shown: Table, titles: Sequence[str]) -> Table:
    """A table without some of its columns."""
    kept = [number for number, (title, _) in enumerate(shown.heads) if title not in titles]
    rows = [[row[number] for number in kept] for row in shown.rows]
    return Table(shown.caption, [shown.heads[number] for number in kept], rows)


def _rich(shown: Table) -> Any:
    """A table for the terminal."""
    from rich import box
    from rich.table import Table as Rich
    from rich.text import Text

    made = Rich(title=Text(shown.caption), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title, numeric in shown.heads:
        made.add_column(
            Text(title),
            justify="right" if numeric else "left",
            no_wrap=numeric or title == "verdict",
            overflow="fold",
        )
    for row in shown.rows:
        made.add_row(*(Text(cell.text, _COLOURS.get(cell.kind, "")) for cell in row))
    return made


def to_document(found: Found) -> str:
    """A comparison as Markdown."""
    parts = ["# Comparison of two sweeps", "", *(f"- {markdown(line)}" for line in sides(found)), ""]
    parts += [f"**{markdown(headline(found))}**", ""]
    for one in tables(found):
        parts.append(to_markdown(one))
    for title, some in notes(found):
        parts += [f"## {title}", "", *(f"- {markdown(line)}" for line in some), ""]
    return "\n".join(parts)


def to_json(found: Found) -> str:
    """A comparison as JSON, with every number as it was computed."""
    alone = only_in(found.a, found.b)
    plain = {
        "schema": SCHEMA,
        "a": found.a.name,
        "b": found.b.name,
        "exit_code": exit_code(found),
        "headline": headline(found),
        "comparisons": [_plain(row) for row in found.whole],
        "rungs": [_plain(row) for row in found.rungs],
        "speed": [
            {"task": t.task.key, "rung": t.rung, "model": t.label, "a_step_s": t.a_s, "b_step_s": t.b_s}
            for t in found.timings
        ],
        "speed_refused": found.no_speed or None,
        "settings": [dataclasses.asdict(change) for change in settings(found)],
        "environment": [dataclasses.asdict(change) for change in environment(found.a, found.b)],
        "only_in_a": alone["A"],
        "only_in_b": alone["B"],
        "failed_in_b": found.broken,
    }
    return json.dumps(store.json_safe(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(row: Row) -> dict[str, Any]:
    """A row as plain data."""
    judged = row.compared.judged if row.compared else None
    return {
        "task": row.task.key,
        "rung": row.rung,
        "rungs_averaged": row.whole and len(row.task.rungs) > 1,
        "model": row.label,
        "verdict": row.words,
        "refused": list(row.refused),
        "same_records": row.equal,
        "metric": row.task.metric.name,
        "higher_is_better": row.task.metric.higher,
        "a_mean": row.a.mean,
        "b_mean": row.b.mean,
        "pairs": row.a.n,
        "difference": dataclasses.asdict(row.result) if row.result else None,
        "p_holm": judged.p if judged else None,
        "comparisons": judged.comparisons if judged else None,
        "detectable": judged.detectable if judged else None,
        "a_solved": list(row.solved_a),
        "b_solved": list(row.solved_b),
    }
