"""What makes a row of labelled texts: a text, and a label that names its class; neither is ever changed.

A label is its text: the whole number 3 and the text "3" are the same class, whatever the format.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqbench.errors import UsageError, nearest

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}
LONGEST_LABEL = 200
_SHOWN_NAMES, _SHOWN = 20, 40


@dataclass(frozen=True)
class Row:
    """A text, its label, and where they stand ("file:line"), for errors."""

    place: str
    text: str
    label: str


@dataclass(frozen=True)
class Columns:
    """The names of the two columns that are read, and what stands between columns of a CSV file."""

    text: str
    label: str
    separator: str = "auto"  # by the file's name, or a name of SEPARATORS


def checked_row(place: str, text: Any, label: Any, columns: Columns) -> Row:
    """A row, once text and label are what they should be; neither is ever changed.

    Raises:
        UsageError: says what stands there instead.
    """
    if not isinstance(text, str):
        raise UsageError(
            f"{place}: '{columns.text}' is {_kind(text)}, expected a text: "
            "mend the row, or set task.text_column"
        )
    if not text or text.isspace():
        raise UsageError(f"{place}: the text is empty: remove the row or write its text")
    return Row(place, text, _label(place, label, columns))


def _label(place: str, label: Any, columns: Columns) -> str:
    """A label as text: names as they are, whole numbers in digits, true and false as in JSON."""
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, int):
        return str(label)
    if not isinstance(label, str):
        fix = "write whole numbers or names" if isinstance(label, float) else "mend the row"
        raise UsageError(
            f"{place}: '{columns.label}' is {_kind(label)}, expected a whole number or a name: "
            f"{fix}, or set task.label_column"
        )
    if not label or label.isspace():
        raise UsageError(f"{place}: the label is empty: remove the row or write its label")
    if label.strip() != label:
        raise UsageError(f"{place}: the label {short(label)!r} has blanks around it: take them out")
    if len(label) > LONGEST_LABEL:
        raise UsageError(
            f"{place}: a label of {len(label):,} characters, at most {LONGEST_LABEL}: set task.label_column"
        )
    return label


def _kind(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.40} ({type(value).__name__})"


def places_of(names: Sequence[str], columns: Columns, place: str, fix: str = "") -> list[int]:
    """Where the two columns stand.

    Raises:
        UsageError: one is not there, or twice; names the columns there and the nearest one.
    """
    for option, name in (("text_column", columns.text), ("label_column", columns.label)):
        if names.count(name) > 1:
            raise UsageError(f"{place}: {names.count(name)} columns are called '{name}': rename all but one")
        if name not in names:
            raise UsageError(
                f"{place}: no column '{name}'; {_there(name, names)}: {fix or f'set task.{option}'}"
            )
    return [names.index(name) for name in (columns.text, columns.label)]


def _there(name: str, names: Sequence[str]) -> str:
    """The nearest of the columns, and some or all of them."""
    shown = [short(other) for other in names] or ["none"]
    near = difflib.get_close_matches(name, shown, n=1, cutoff=0.5)
    some = list(dict.fromkeys([*near, *shown]))[:_SHOWN_NAMES]
    more = len(set(shown)) - len(some)
    return nearest(name, some) + (f" and {more} more" if more else "")


def short(name: str) -> str:
    """A name from a file as it may stand in an error: in one line, of sensible length."""
    line = "".join(c if c.isprintable() else " " for c in name[:_SHOWN])
    return line if len(name) <= _SHOWN else f"{line}..."


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8; halves of characters, which JSON can name, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
