"""Settings with their documentation: every field says its default, unit, meaning and allowed values.

The dataclasses built with :func:`setting` are the single place where a setting is defined. Help, the
report's glossary, composition and checks all read them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from seqbench.errors import UsageError, nearest


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare one setting of a configuration dataclass.

    Args:
        default: value when nobody chooses; lists and dicts are copied per instance.
        doc: one line of plain words.
        unit: unit of the value, when it has one.
        choices: the only strings allowed.
        minimum, maximum: inclusive bounds for numbers, and for each number of a list.
    """
    metadata = {
        "doc": doc,
        "unit": unit,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(config: Any, path: str = "") -> None:
    """Check every setting of ``config`` and of the dataclasses inside it.

    Raises:
        UsageError: names the first key whose value is not allowed.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        key = f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            check(value, f"{key}.")
        else:
            _check_value(key, value, field.metadata)
    if hasattr(config, "check"):
        config.check()


def _check_value(key: str, value: Any, metadata: Any) -> None:
    choices = metadata.get("choices") or ()
    if choices and value is not None and value not in choices:
        raise UsageError(f"{key}={value}: not allowed; {nearest(str(value), choices)}")
    minimum, maximum = metadata.get("minimum"), metadata.get("maximum")
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            raise UsageError(f"{key}={number}: must be a finite number")
        if minimum is not None and not number >= minimum:
            raise UsageError(f"{key}={number}: must be at least {minimum:g}")
        if maximum is not None and not number <= maximum:
            raise UsageError(f"{key}={number}: must be at most {maximum:g}")


def check_varied(config: Any, declared: Any, where: str, path: str = "") -> None:
    """Check what a plugin declares for its settings: for each a list of values that it takes.

    Raises:
        UsageError: names ``where``, and the first setting or value that does not exist.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [field.name for field in dataclasses.fields(config) if field.name != "name"]
    if not isinstance(declared, Mapping):
        raise UsageError(f"{where}: expected settings with their values, like {{'layers': (1, 2)}}")
    for name, values in declared.items():
        if name not in known:
            raise UsageError(f"{where}: no setting '{name}'; {nearest(str(name), known)}")
        if not (isinstance(values, tuple | list) and values):
            raise UsageError(f"{where}: {name}={values!r:.60}: expected a list of values, like (1, 2)")
        for value in values:
            try:
                taken = OmegaConf.merge(OmegaConf.structured(type(config)), {name: value})[name]
            except OmegaConfBaseException as error:
                reason = str(error).splitlines()[0]
                raise UsageError(f"{where}: {name}={value!r:.60}: {reason}") from None
            check(dataclasses.replace(config, **{name: taken}), f"{where}: {path}")


def describe(cls: type) -> list[tuple[str, str, str]]:
    """List ``(name, default, doc)`` of a configuration dataclass, for help texts and glossaries."""
    rows = []
    for field in dataclasses.fields(cls):
        if not field.metadata.get("doc"):
            continue
        default = (
            field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        )
        unit = field.metadata.get("unit", "")
        choices = field.metadata.get("choices", ())
        doc = field.metadata["doc"] + (f" [{unit}]" if unit else "")
        rows.append((field.name, _as_text(default), doc + (f" ({', '.join(choices)})" if choices else "")))
    return rows


def _as_text(value: Any) -> str:
    """Write a default the way it is typed on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
