"""What a campaign is: a function that tries to break one promise many times and counts what broke."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Figure:
    """One row of the table.

    Attributes:
        tried: how often the promise was put to the test.
        violations: each broken promise in a sentence.
        note: what else was measured ("all 37 states of the control were caught").
    """

    tried: int
    violations: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Campaign:
    """One way to break things.

    Attributes:
        run: called with a size, an empty folder and a random generator.
        few, many: sizes for ``make test`` and for ``make faults``.
    """

    name: str
    run: Callable[[int, Path, random.Random], Figure]
    few: int
    many: int
