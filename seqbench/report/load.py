"""Importing all that a page is made with at once: a second that may pass while something else works."""

from __future__ import annotations

import gc
import importlib

_LIBRARIES = ("seqbench.report.page", "seqbench.report.lesson", "seqbench.report.index", "seaborn")


def libraries() -> None:
    """Import the report and its libraries, and keep the garbage collector from looking into them."""
    gc.disable()
    try:
        for name in _LIBRARIES:
            importlib.import_module(name)
        gc.freeze()
    finally:
        gc.enable()
