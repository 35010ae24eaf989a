"""Passwords and tokens are never written down: commands, errors and logs are masked on their way to disk.

What counts as one: the value of an environment variable or of a ``name=value`` pair with a telling name, a
password inside an address, and what has the well-known form of a token. A number is no secret, except as a
password: ``pad_token=0`` and ``task.key=3`` are settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

MASK = "***"
_SHORTEST = 6  # a shorter value would also mask ordinary words
_PASSWORD = r"(?<!/)passw(?:or)?d|passphrase|(?<=[_.-])(?:pass|pwd)"
_TOKEN = (
    r"token|secret|credentials?|(?<![a-z])auth(?:orization)?|(?<=[_.-])(?:key|pat)|(?<![a-z])signature|"
    r"(?:api|access|secret|private|session)[_.-]?key(?:[_.-]?id)?"
)
_PLAIN = r"(?:[-+]?[\d._]{1,9}(?:e[-+]?\d+)?|true|false|null|none)(?![^\s\"',;&)}\]])"
_NAMED = rf"(?:(?:{_PASSWORD})\d*(?P<p>)|(?:{_TOKEN})\d*)"
_VALUE = r"(?:\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?|(?:[^\s\"'&,;)}\]]|[,;)}\]](?=\S))+)"
_ASSIGNED = re.compile(
    rf"(?i)(?P<name>{_NAMED}[\"']?[ \t]{{0,4}}[=:][ \t]{{0,4}})(?(p)|(?!{_PLAIN}))(?P<value>{_VALUE})"
)
_OPTION = re.compile(rf"(?i)(?P<name>(?<![\w-])--?(?:\w{{1,20}}-){{0,3}}{_NAMED} +)(?!-){_VALUE}")
_TELLING = re.compile(rf"(?i)(?:{_PASSWORD}|{_TOKEN})\d*\Z")
_PASSWORD_NAME = re.compile(rf"(?i)(?:{_PASSWORD})\d*\Z")
_SETTING = re.compile(  # keys and tokens of a text are settings like any other
    rf"(?i)(?:{_PASSWORD}|secret|credentials?|(?<![a-z])auth(?:orization)?|"
    r"(?:api|access|secret|private|session)[_.-]?key(?:[_.-]?id)?|(?<=[_.-])pat|"
    r"(?<!pad_)(?<!end_)(?<!stop_)(?<!mask_)(?<!start_)(?<!unknown_)(?<!unk_)(?<!bos_)(?<!eos_)"
    r"(?<!cls_)(?<!sep_)token)\d*\Z"
)
_KEY = re.compile(r"[\w.+~/]+")
_PLAIN_VALUE = re.compile(rf"(?i){_PLAIN}\Z")
_IN_ADDRESS = re.compile(
    r"(?i)(?P<scheme>[a-z][a-z0-9+.-]{0,20}://)(?P<user>[^\s/:@]*)(?::(?P<word>[^\s/]*))?@"
)
_IN_HEADER = re.compile(
    r"(?i)(?P<kind>\bbearer +(?=[\w.~+/=-]*\d)|\bauthorization[\"']?[ \t]*[:=][ \t]*[\"']?(?:\w+ +)?)"
    r"[\w.~+/=-]{6,}"
)
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
    r"|\b(?:hf_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-)[\w-]{16,}"
    r"|\bAKIA[A-Z0-9]{16}\b|\beyJ[\w-]{8,600}\.[\w-]{4,2000}\.[\w-]*",
    re.DOTALL,
)


def mask(text: str) -> str:
    """Mask everything in a text that is a secret.

    >>> mask("api_key=abc123 https://me:pw@host/x max_tokens=256")
    'api_key=*** https://***@host/x max_tokens=256'
    """
    for value in _environment_secrets(os.environ):
        text = text.replace(value, MASK)
    text = _SHAPES.sub(MASK, text)
    text = _IN_ADDRESS.sub(rf"\g<scheme>{MASK}@", text)
    text = _IN_HEADER.sub(rf"\g<kind>{MASK}", text)
    text = _OPTION.sub(rf"\g<name>{MASK}", text)
    return _ASSIGNED.sub(_assigned, text)


def _assigned(match: re.Match[str]) -> str:
    """The name with its value masked; quotes stay, so that JSON stays JSON."""
    value = match["value"]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match['name']}{quote}{MASK}{quote if len(value) > 1 and value[-1] == quote else ''}"


def mask_word(word: str) -> str:
    """Mask one word of a command line for an error; a secret's whole value goes, spaces included.

    >>> mask_word("hub.token=a b"), mask_word("train.lr=1"), mask_word("model.pad_token=<pad>")
    ('hub.token=***', 'train.lr=1', 'model.pad_token=<pad>')
    """
    name, assigned, value = word.partition("=")
    if assigned and is_secret(name, value):
        return f"{name}={MASK}"
    setting = assigned and _KEY.fullmatch(name) and mask(value) == value
    return word if setting else mask(word)


def is_secret(name: str, value: str) -> bool:
    """Whether a setting is a secret, by its name or by its value; such a word is refused, never recorded.

    >>> is_secret("hub.api_key", "a1b2"), is_secret("task.pad_token", "<pad>"), is_secret("api_key", "0")
    (True, False, False)
    >>> is_secret("task.hub_token", "a1b2"), is_secret("model.attention_key", "dot")
    (True, False)
    """
    name = name[-80:]
    plain = _PLAIN_VALUE.match(value) and not _PASSWORD_NAME.search(name)
    return bool(value and not plain and _SETTING.search(name)) or mask(value) != value


def _environment_secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of variables with a telling name and passwords in addresses, longest first: no part stays."""
    found: set[str] = set()
    for name, value in environment.items():
        found |= {match["word"] or "" for match in _IN_ADDRESS.finditer(value)}
        if _TELLING.search(name):
            found |= {value, *value.splitlines()}
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)
