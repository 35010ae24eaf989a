"""The plugins: models, tasks and probes, each one class registered under a name.

A plugin comes from seqbench itself, from an installed package (entry-point group ``seqbench.plugins``),
from the file that the user runs, or from one that the command line names (``userfile.py``). Nothing is ever
loaded because a config or a runs folder names it.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from seqbench.errors import UsageError, nearest

Class = TypeVar("Class", bound=type)

_PACKAGES = {"model": "seqbench.models", "task": "seqbench.tasks", "probe": "seqbench.probes"}
_registered: dict[str, dict[str, type]] = {group: {} for group in _PACKAGES}
_loaded: set[str] = set()
_SETTINGS = ("model", "task")  # groups whose classes are settings
# A word to Hydra, and no value.
_NAME = re.compile(r"(?!(?i:null|true|false|nan|inf)$)[A-Za-z_][\w-]*", re.ASCII)


def register(group: str) -> Callable[[Class], Class]:
    """Register a class under its ``name`` in ``group`` ("model", "task" or "probe").

    Raises:
        UsageError: the group does not exist, the class has no usable name, is no dataclass or has a setting
            without a default, or another class already has the name.
    """
    if group not in _registered:
        raise UsageError(f"register({group!r}): no such group; {nearest(group, _registered)}")

    def decorate(cls: Class) -> Class:
        name = _checked(group, cls)
        known = _registered[group].get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise UsageError(f"{group} '{name}' is already taken by {known.__module__}.{known.__qualname__}")
        _registered[group][name] = cls
        return cls

    return decorate


def _checked(group: str, cls: type) -> str:
    """The name of a class that can be chosen on the command line."""
    name = cls.__dict__.get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise UsageError(
            f"{group} {cls.__qualname__}: name={name!r:.60}: expected a word in the class, like "
            'name: str = "my_layer"'
        )
    if group in _SETTINGS and "__dataclass_fields__" not in cls.__dict__:  # its settings would not count
        raise UsageError(f"{group} {cls.__qualname__}: no dataclass: write @dataclass right below @register")
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.init and field.default is field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{group} {cls.__qualname__}: '{field.name}' has no default: give it one")
    return name


def registered(group: str) -> list[str]:
    """Names registered so far, without loading anything."""
    return sorted(_registered[group])


def plugins(group: str) -> Mapping[str, type]:
    """All classes of ``group`` by name; loads them at first use."""
    if group not in _loaded:
        _loaded.add(group)
        load_own(group)
        for point in entry_points(group="seqbench.plugins"):
            point.load()
    return dict(sorted(_registered[group].items()))


def load_own(group: str) -> None:
    """Import what seqbench itself has of a group, and nothing of others."""
    package = importlib.import_module(_PACKAGES[group])
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def lookup(group: str, name: str) -> Any:
    """The class registered under ``name``.

    Raises:
        UsageError: with the nearest name and all choices.
    """
    found = plugins(group).get(name)
    if found is None:
        raise UsageError(f"no {group} '{name}'; {nearest(name, plugins(group))}")
    return found
