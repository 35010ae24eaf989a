"""Python imports this first where its folder is in PYTHONPATH: it times parts of seqbench in all processes.

Every call of a part appends a line to the file that SEQBENCH_PHASES names: when it began (s since 1970),
wall and CPU seconds, and its name.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

FILE = os.environ.get("SEQBENCH_PHASES", "")
PARTS = {
    "seqbench.cli": ("compose",),
    "seqbench.hooks": ("finish",),
    "seqbench.isolate": ("Pool._aside", "Pool._start"),
    "seqbench.recorder": (
        "Recorder._commit", "Recorder._probe", "Recorder._test", "build", "check_contract",
    ),
    "seqbench.report.load": ("libraries",),
    "seqbench.sweep": ("plan", "run_sweep"),
    "seqbench.train": ("Training.to_end",),
    "seqbench.worker": ("execute", "solve_widths"),
}  # fmt: skip
WHOLE = ("seqbench.worker",)  # whose import is a part too: it loads torch


def note(name: str, work: Callable[[], Any]) -> Any:
    """Do something and write down how long it took."""
    begun, wall, cpu = time.time(), time.perf_counter(), time.process_time()
    try:
        return work()
    finally:
        line = f"{begun} {time.perf_counter() - wall} {time.process_time() - cpu} {name}\n"
        with open(FILE, "a", encoding="utf-8") as file:
            file.write(line)


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that notes each of its calls."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return note(name, lambda: function(*args, **options))

    return call


class Loader(importlib.abc.Loader):
    """Loads a module and puts timed functions in the place of its parts."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: Any) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in WHOLE:
            note(f"import {module.__name__}", lambda: self.inner.exec_module(module))
        else:
            self.inner.exec_module(module)
        for part in PARTS[module.__name__]:
            *path, name = part.split(".")
            holder = functools.reduce(getattr, path, module)
            setattr(holder, name, timed(part, getattr(holder, name)))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that have parts."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in PARTS else None
        if spec is not None:
            spec.loader = Loader(spec.loader)
        return spec


if FILE:
    sys.meta_path.insert(0, Finder())
