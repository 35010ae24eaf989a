"""Check the command line before composing, so that a slip gets one line with the nearest match."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from seqbench.config import Job
from seqbench.errors import UsageError, nearest
from seqbench.registry import plugins

_GROUPS = ("model", "task")
_MULTIRUN = ("-m", "--multirun")
_FLAGS = {
    *_MULTIRUN, "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i", "--run", "-r", "--hydra-help",
    "--shell-completion", "-sc", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn",
    "--experimental-rerun",
}  # fmt: skip


def check_overrides(args: list[str]) -> None:
    """Check the names of models, tasks and settings among command-line arguments.

    Raises:
        UsageError: the first slip, with the nearest match and the choices.
    """
    for arg in args:
        if arg.startswith("-") and arg.split("=")[0] not in _FLAGS:
            raise UsageError(f"no flag '{arg}'; {nearest(arg, ['--help', '--version', *_FLAGS])}")
    words = [arg for arg in args if not arg.startswith("-") and "=" in arg]
    loose = [arg for arg in args if not arg.startswith("-") and "=" not in arg]
    if loose and not _takes_value(args, loose[0]):
        raise UsageError(f"'{loose[0]}': expected key=value; {nearest(loose[0], _top_level_keys())}")
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UsageError(explain(error)) from error
    owners = {group: _chosen(group, overrides) for group in _GROUPS}
    for override in overrides:
        _check_key(override.key_or_group, owners)
        if override.is_delete():
            raise UsageError(f"{override.input_line}: a setting can be changed, not removed")
        if override.is_sweep_override() and not any(flag in args for flag in _MULTIRUN):
            raise UsageError(f"{override.input_line}: several values need -m; one list is written [a,b]")


def _takes_value(args: list[str], word: str) -> bool:
    """Whether ``word`` is the value of a Hydra flag before it (``--cfg job``)."""
    before = args.index(word) - 1
    return before >= 0 and args[before].startswith("-") and args[before] not in _MULTIRUN


def _chosen(group: str, overrides: list[Override]) -> dict[str, list[str]]:
    """The settings that a ``group.key`` may name, by owner.

    Each chosen model (task) is an owner of its own; when the command line chooses none, any plugin's
    setting may be meant and composition decides.
    """
    known = plugins(group)
    names = [
        name
        for override in overrides
        if override.key_or_group == group and not override.is_delete()
        for name in _values(override)
    ]
    for name in names:
        if name not in known:
            raise UsageError(f"no {group} '{name}'; {nearest(name, known)}")
    if names:
        return {name: _field_names(known[name]) for name in names}
    return {f"any {group}": sorted({field for cls in known.values() for field in _field_names(cls)})}


def _values(override: Override) -> list[str]:
    if override.is_sweep_override() and override.is_discrete_sweep():
        return [str(value) for value in override.sweep_string_iterator()]
    return [str(override.value())]


def _check_key(key: str, owners: dict[str, dict[str, list[str]]]) -> None:
    """A key must be a setting of the job, or of every chosen model or task."""
    first, *rest = key.split(".")
    if first.split("/")[0] in ("hydra", "experiment"):
        return
    if first not in _top_level_keys():
        raise UsageError(f"no setting '{key}'; {nearest(first, _top_level_keys())}")
    if not rest:
        return
    fields = owners.get(first) or {first: _field_names(typing.get_type_hints(Job)[first])}
    for owner, names in fields.items():
        if rest[0] not in names:
            raise UsageError(f"no setting '{key}' for {owner}; {nearest(rest[0], names)}")


def _field_names(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _top_level_keys() -> list[str]:
    return [*_field_names(Job), "experiment"]


def explain(error: Exception) -> str:
    """One line from a Hydra or OmegaConf error: what is wrong, at which key, and the choices if it says."""
    cause = error.__cause__ if error.__cause__ is not None else error
    text = str(cause) if str(cause) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error, OverrideParseException):
        return f"'{error.override}': cannot be read: {lines[0]}; expected key=value"
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    first = lines[0] if lines else type(error).__name__
    if "is not a ListConfig" in first:
        first = "expected a list like [16] or [16,32]"
    start = next((i for i, line in enumerate(lines) if line.startswith("Available options")), len(lines))
    options = itertools.takewhile(lambda line: not line.startswith("Config search path"), lines[start + 1 :])
    choices = f"; choices: {', '.join(options)}" if start < len(lines) else ""
    return (f"{key}: {first}" if key and not first.startswith(key) else first) + choices
