"""Errors that a user can mend: one line that says what was found, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A setting, a file or a command line that cannot be used; the program ends with exit code 2."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Say which choice was probably meant, and list them all.

    >>> nearest("lstn", ["gru", "lstm"])
    "did you mean 'lstm'? choices: gru, lstm"
    >>> nearest("zzz", ["gru", "lstm"])
    'choices: gru, lstm'
    """
    names = sorted(choices)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}choices: {', '.join(names)}"
