"""Importing all that a page is made with at once: a second that may pass while something else works."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator

_LIBRARIES = (
    "seqbench.report.page",
    "seqbench.report.lesson",
    "seqbench.report.index",
    "matplotlib.backends.backend_svg",
    "scipy.stats",
    "seaborn",
)


def libraries() -> None:
    """Import the report and its libraries, and keep the garbage collector from looking into them."""
    with uncollected():
        for name in _LIBRARIES:
            importlib.import_module(name)
        gc.freeze()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is looked through for garbage: what a page is made of is needed until it is written."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
