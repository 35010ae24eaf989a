"""Passwords and tokens are never written down: commands, errors and logs are masked on their way to disk."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

MASK = "***"
_SHORTEST = 6  # a shorter value would also mask ordinary words
_NAME = r"[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|credentials?|auth(?:orization)?|[_.-]key|_pat)"
_VARIABLE = re.compile(rf"(?i){_NAME}")
_ASSIGNED = re.compile(rf"(?i)(?P<name>\b{_NAME}[\"']?\s*[=:]\s*)(?P<quote>[\"']?)[^\s\"'&,;]+")
_WORD = re.compile(rf"(?is)(?P<name>[^=]*?{_NAME})=.*")
_IN_ADDRESS = re.compile(r"(?i)(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@]+@")
_IN_HEADER = re.compile(r"(?i)\b(?P<kind>bearer|basic)\s+[\w.~+/=-]{6,}")


def mask(text: str) -> str:
    """Mask the values of secret environment variables, ``name=value`` pairs, and passwords in addresses.

    >>> mask("api_key=abc123 https://me:pw@host/x max_tokens=256")
    'api_key=*** https://***@host/x max_tokens=256'
    """
    for value in _environment_secrets(os.environ):
        text = text.replace(value, MASK)
    text = _IN_ADDRESS.sub(rf"\g<scheme>{MASK}@", text)
    text = _IN_HEADER.sub(rf"\g<kind> {MASK}", text)
    return _ASSIGNED.sub(rf"\g<name>\g<quote>{MASK}", text)


def mask_word(word: str) -> str:
    """Mask one word of a command line; a secret's whole value goes, spaces included.

    >>> mask_word("hub.token=a b"), mask_word("train.lr=1")
    ('hub.token=***', 'train.lr=1')
    """
    named = _WORD.fullmatch(word)
    return f"{named['name']}={MASK}" if named else mask(word)


def _environment_secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of variables with a telling name, longest first, so that no part of one stays."""
    found = {
        value for name, value in environment.items() if _VARIABLE.fullmatch(name) and len(value) >= _SHORTEST
    }
    return sorted(found, key=len, reverse=True)
