"""The page's tables in formats for other programs: CSV for computing, Markdown and LaTeX for writing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from seqbench.report.facts import csv_text
from seqbench.report.tables import NONE, Entry, Table

_NUMBER = r"[\u00d7\u2212+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?( ?%|[kMGT])?"
_SPAN = rf"\[{_NUMBER}, {_NUMBER}\]"
_PLAIN = {1: re.compile(_NUMBER), 2: re.compile(_SPAN), 3: re.compile(f"{_NUMBER} {_SPAN}")}
_ENDS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {1: ("",), 2: ("_low", "_high"), 3: ("", "_low", "_high")}
)
_SPOKEN = {"%": " percent ", " / ": " over ", "/": " per ", "\N{MULTIPLICATION SIGN}": " times "}
_LONGEST_NAME = 80
_MOST_EXACT = 1 << 53
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$!])")
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
        "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
        ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedblright{}", "[": "{[}", "]": "{]}",
        "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": r"\textendash{}",
        "\N{EM DASH}": r"\textemdash{}", "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
        "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
        "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    }
)  # fmt: skip
_LIGATURES = re.compile("(?<=[-`'?!,])(?=[-`'])")  # TeX would make one sign of two
_PDFLATEX = re.compile("[^\n\x20-\x7e\xa1-\xac\xae-\u017e]")
_UNICODE_NOTE = "% holds characters beyond Latin: compile with XeLaTeX or LuaLaTeX and a font that has them\n"


def to_csv(table: Table) -> str:
    """A table as CSV: numbers as they were computed, one to a cell, in columns named with their units.

    An interval gives two columns, ``_low`` and ``_high``. Where what is shown says more than its number (a
    count with what is missing, "not in half"), a column ``_shown`` holds the words. Intervals are whole, not
    cut where scores end. A text that a
    spreadsheet would take for a formula gets an apostrophe in front.
    """
    columns: list[tuple[str, Sequence[object]]] = []
    for number, (title, numeric) in enumerate(_heads(table)):
        cells = [row[number] for row in table.rows]
        columns += _columns(column_name(title), cells, numeric=numeric)
    frame = pd.DataFrame(dict(enumerate(values for _, values in columns)), dtype=object)
    frame.columns = pd.Index(_unique(name for name, _ in columns), dtype=object)
    return csv_text(frame)


def _columns(name: str, cells: list[Entry], *, numeric: bool) -> list[tuple[str, Sequence[object]]]:
    """The columns that one column of a table becomes."""
    shown = ["" if cell.text == NONE else _line(cell.text) for cell in cells]
    most = max((len(cell.numbers) for cell in cells), default=0) if numeric else 0
    if most not in _ENDS:
        return [(name, shown)]
    columns: list[tuple[str, Sequence[object]]] = []
    for place, end in enumerate(_ENDS[most]):
        values = [cell.numbers[place] if place < len(cell.numbers) else None for cell in cells]
        columns.append((name + end, _whole(values)))
    more = ["" if _says_no_more(cell) else words for cell, words in zip(cells, shown, strict=True)]
    return [*columns, (f"{name}_shown", more)] if any(more) else columns


def _whole(values: list[float | None]) -> list[object]:
    """Counts as whole numbers, where a column has nothing else."""
    if all(value is None or (value.is_integer() and abs(value) < _MOST_EXACT) for value in values):
        return [None if value is None else int(value) for value in values]
    return list(values)


def _says_no_more(cell: Entry) -> bool:
    """Whether a cell's text is its numbers and nothing else."""
    if not cell.numbers:
        return cell.text in ("", NONE)
    pattern = _PLAIN.get(len(cell.numbers))
    return pattern is not None and pattern.fullmatch(_line(cell.text)) is not None


def column_name(title: str) -> str:
    """A column's title as a name: words joined by underscores, units included.

    >>> column_name("train step (ms)"), column_name("valid tokens/s"), column_name("95 % interval")
    ('train_step_ms', 'valid_tokens_per_s', '95_percent_interval')
    """
    for sign, word in _SPOKEN.items():
        title = title.replace(sign, word)
    return re.sub(r"\W+", "_", title.lower()).strip("_")[:_LONGEST_NAME].strip("_") or "column"


def _unique(names: Iterable[str]) -> list[str]:
    """Names of which none stands twice: later ones get a number."""
    found: dict[str, None] = {}
    for name in names:
        number, new = 1, name
        while new in found:
            number += 1
            new = f"{name}_{number}"
        found[new] = None
    return list(found)


def _heads(table: Table) -> list[tuple[str, bool]]:
    """Titles with the group that stands above each, and whether their column holds numbers."""
    above = [title for title, span in table.groups for _ in range(span)]
    above += [""] * (len(table.heads) - len(above))
    return [
        (f"{group} {title}" if group and group != title else title, numeric)
        for group, (title, numeric) in zip(above, table.heads, strict=False)
    ]


def _line(words: str) -> str:
    r"""A cell's text on one line.

    >>> _line("0.9\n[0.8, 1.0]"), _line("3/3\n0.99")
    ('0.9 [0.8, 1.0]', '3/3, 0.99')
    """
    first, *more = words.splitlines() or [""]
    return first + "".join(f", {line}" if line[:1].isdigit() else f" {line}" for line in more)


def to_markdown(table: Table) -> str:
    """A table as GitHub's Markdown, with its caption above it; no name can act as markup."""
    heads = _heads(table)
    rows = [[markdown(title) for title, _ in heads], ["---:" if numeric else "---" for _, numeric in heads]]
    rows += [[markdown(_line(cell.text)) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([markdown(_line(table.caption)), "", *lines, ""])


def markdown(words: str) -> str:
    r"""Words as Markdown shows them literally.

    >>> print(markdown("a_b|<c>"))
    a\_b\|\<c\>
    """
    escaped = _MARKDOWN.sub(r"\\\1", words.replace("&", "&amp;"))
    return escaped.replace("://", r"\://").replace("www.", r"www\.").replace("@", r"\@")


def to_latex(table: Table, key: str) -> str:
    r"""A table as a floating LaTeX table in the style of booktabs, with its caption and ``\label{tab:KEY}``.

    What pdfLaTeX cannot set (other scripts, emoji) is kept, and a comment says so.
    """
    above = [title for title, span in table.groups for _ in range(span)]
    titles = [latex(title) for title, _ in table.heads]
    frame = pd.DataFrame(
        [[latex(_line(cell.text)) for cell in row] for row in table.rows],
        columns=range(len(titles)),
        dtype=object,
    )
    groups = any(above)
    levels = [[latex(title) for title in above], titles] if groups else [titles]
    frame.columns = pd.MultiIndex.from_arrays(levels) if groups else pd.Index(titles, dtype=object)
    body = frame.to_latex(
        index=False,
        escape=False,
        caption=latex(_line(table.caption)),
        label=f"tab:{key}",
        position="htbp",
        column_format="".join("r" if numeric else "l" for _, numeric in table.heads),
        multicolumn_format="c",
    )
    beyond = _PDFLATEX.search(body) is not None
    return f"% needs \\usepackage{{booktabs}}\n{_UNICODE_NOTE if beyond else ''}{body}"


def latex(words: str) -> str:
    r"""Words as LaTeX sets them literally.

    >>> print(latex("50 % of a_b & {c}"))
    50 \% of a\_b \& \{c\}
    """
    return _LIGATURES.sub("{}", words.translate(_LATEX))
