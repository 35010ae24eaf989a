"""Check the command line before composing, so that a slip gets one line with the nearest match."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
import typing
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import OverrideParseException

from seqbench import guard
from seqbench.config import Job
from seqbench.errors import UsageError, nearest
from seqbench.registry import plugins

_GROUPS = ("model", "task")
_MULTIRUN = ("-m", "--multirun")
_FLAGS = {
    *_MULTIRUN, "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i", "--run", "-r", "--hydra-help",
    "--shell-completion", "-sc", "--config-dir", "-cd",
}  # fmt: skip
_OWN_FOLDER = "--config-dir=FOLDER adds a folder of your own with experiment/NAME.yaml"
_REFUSED = {
    **dict.fromkeys(("--config-path", "-cp"), f"the configuration is seqbench's own; {_OWN_FOLDER}"),
    **dict.fromkeys(("--config-name", "-cn"), f"the configuration is seqbench's own; {_OWN_FOLDER}"),
    "--experimental-rerun": "it would run what a pickle says; repeat the command that the report shows",
}
_MOST_JOBS = 1_000


def check_flags(args: list[str]) -> argparse.Namespace:
    """Check the flags, the folder of ``--config-dir`` and every word for what could run code.

    Returns:
        the arguments as Hydra will read them.

    Raises:
        UsageError: the first that cannot be used, and what to use instead.
    """
    for arg in args:
        flag = arg.split("=")[0]
        if flag in _REFUSED:
            raise UsageError(f"{flag}: {_REFUSED[flag]}")
        if arg.startswith("-") and flag not in _FLAGS:
            flags = ["--help", "--version", "--allow-code", *_FLAGS]
            raise UsageError(f"no flag '{guard.shown(arg)}'; {nearest(arg, flags)}")
    given = _parsed(args)
    for folder in _folders(args):
        if not folder:
            raise UsageError("--config-dir: expected the name of a folder")
        guard.check_folder(Path(folder))
    guard.check_words(given.overrides)
    if given.shell_completion:
        if "COMP_LINE" not in os.environ and any(word.startswith("query=") for word in given.overrides):
            raise UsageError("--shell-completion query=SHELL is asked by a shell, not by hand")
        guard.check_words(os.environ.get("COMP_LINE", "").split())
    return given


def _parsed(args: list[str]) -> argparse.Namespace:
    """The arguments as Hydra's own parser reads them."""
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise UsageError(message)

    parser.error = fail  # type: ignore[method-assign]
    given = parser.parse_args(args)
    if given.resolve and not given.cfg:
        raise UsageError("--resolve goes with --cfg")
    asked = [given.run, given.multirun, given.cfg, given.info, given.shell_completion, given.hydra_help]
    if sum(map(bool, asked)) > 1:
        raise UsageError("only one of --run, --multirun, --cfg, --info and the like can be asked at a time")
    return given


def _folders(args: list[str]) -> list[str]:
    """Every folder that a flag names; Hydra reads the last one."""
    found = [value for flag, value in itertools.pairwise(args) if flag in ("--config-dir", "-cd")]
    return found + [arg.split("=", 1)[1] for arg in args if arg.startswith(("--config-dir=", "-cd="))]


def check_overrides(words: list[str], *, several: bool) -> None:
    """Check the names of models, tasks and settings among command-line words.

    Args:
        several: the command runs every combination of several values.

    Raises:
        UsageError: the first slip, with the nearest match and the choices.
    """
    for word in words:
        if "=" not in word:
            near = nearest(word[:100], _top_level_keys())
            raise UsageError(f"'{guard.shown(word)}': expected key=value; {near}")
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UsageError(explain(error)) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a value cannot be read: {error}") from error
    _check_size(overrides, several=several)
    owners = {group: _chosen(group, overrides) for group in _GROUPS}
    for override in overrides:
        _check_key(override.key_or_group, owners)
        if override.is_delete():
            raise UsageError(f"{override.input_line}: a setting can be changed, not removed")


def per_job(args: list[str]) -> list[str]:
    """The arguments of a sweep with a model's or a task's own settings as sweeps over a single value.

    Hydra applies a plain setting to the group's default before it sweeps, where a setting that only the
    chosen ones have does not exist.

    >>> per_job(["-m", "model=retnet,mamba2", "model.heads=4", "seeds=1"])
    ['-m', 'model=retnet,mamba2', 'model.heads=choice(4)', 'seeds=1']
    """
    if not any(flag in args for flag in _MULTIRUN):
        return args
    return [_as_choice(word) if word.startswith(("model.", "task.")) else word for word in args]


def _as_choice(word: str) -> str:
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except OverrideParseException:
        return word
    key, _, value = word.partition("=")
    whole = override.is_sweep_override() or override.value() is None  # which no choice can hold
    return word if whole else f"{key}=choice({value})"


def _check_size(overrides: list[Override], *, several: bool) -> None:
    """Refuse several values without -m, and more combinations than one sweep can hold."""
    jobs = 1.0
    for override in overrides:
        if override.is_sweep_override():
            told = guard.shown(str(override.input_line))
            if not several:
                raise UsageError(f"{told}: several values need -m; one list is written [a,b]")
            jobs *= _count(override)
            if not jobs <= _MOST_JOBS:
                raise UsageError(f"{told}: more than {_MOST_JOBS} combinations: split the sweep")


def _count(override: Override) -> float:
    """How many values a word stands for; one where only Hydra knows."""
    values = override.value()
    if isinstance(values, RangeSweep):
        start, stop, step = (float(number or 0) for number in (values.start, values.stop, values.step))
        return abs((stop - start) / step) if step else math.inf
    return len(values.list) if isinstance(values, ChoiceSweep) else 1


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
        return f"'{guard.shown(str(error.override))}': cannot be read: {lines[0]}; expected key=value"
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    first = lines[0] if lines else type(error).__name__
    if "is not a ListConfig" in first:
        first = "expected a list like [16] or [16,32]"
    start = next((i for i, line in enumerate(lines) if line.startswith("Available options")), len(lines))
    options = itertools.takewhile(lambda line: not line.startswith("Config search path"), lines[start + 1 :])
    choices = f"; choices: {', '.join(options)}" if start < len(lines) else ""
    return (f"{key}: {first}" if key and not first.startswith(key) else first) + choices
