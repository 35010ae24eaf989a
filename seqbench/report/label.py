"""Names that tell apart what a sweep varied: a model's or a task's name plus its differing settings."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_LONGEST = 60
_HASH = 6


def flat(config: Mapping[str, Any], groups: Iterable[str]) -> dict[str, str]:
    """Nested settings of some groups as dotted keys and printable values.

    >>> flat({"model": {"name": "gru", "bias": None}, "device": "cpu"}, ["model"])
    {'model.name': 'gru', 'model.bias': 'default'}
    """
    found: dict[str, str] = {}
    for group in groups:
        value = config.get(group)
        for key, item in value.items() if isinstance(value, Mapping) else ():
            found[f"{group}.{key}"] = printable(item)
    return found


def printable(value: object) -> str:
    """A setting as it stands in a label."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def differing(settings: list[dict[str, str]]) -> list[str]:
    """The keys whose values are not the same everywhere.

    >>> differing([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1"}])
    ['b']
    """
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


def label(name: str, settings: dict[str, str], keys: list[str]) -> str:
    """A name with the settings that tell it apart; keys are shortened where that is clear.

    >>> label("lstm", {"model.forget_bias": "1"}, ["model.forget_bias"])
    'lstm (forget_bias=1)'
    """
    if not keys:
        return distinct(name)
    last = Counter(key.rsplit(".", 1)[-1] for key in keys)
    parts = []
    for key in keys:
        short = key.rsplit(".", 1)[-1]
        parts.append(f"{short if last[short] == 1 else key}={settings.get(key, '-')}")
    return distinct(f"{name} ({', '.join(parts)})")


def distinct(text: object) -> str:
    """A name short enough to show; one that must be cut ends in a hash of all of it, so that none merge.

    >>> distinct("lstm"), distinct("x" * 100)[50:], distinct("x" * 101)[50:]
    ('lstm', 'xxx…09ecb6', 'xxx…c675a2')
    """
    full = clean(text, 4 * _LONGEST)
    if len(full) <= _LONGEST:
        return full
    told = hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    return f"{full[: _LONGEST - _HASH - 1]}…{told}"


def clean(text: object, longest: int = _LONGEST) -> str:
    r"""Text that is safe to draw: no control or undrawable characters, no more than ``longest`` of it.

    >>> clean("a\x00b" + "c" * 100, 6)
    'a bcc…'
    """
    shown = str(text)[: longest * 4]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else " " for c in shown)
    shown = shown.strip() or "?"
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
