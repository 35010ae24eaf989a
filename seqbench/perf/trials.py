"""How far the gate can be trusted on this machine: head against itself, as it is or made slower."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqbench import stats
from seqbench.perf.gate import CANNOT_TELL, NOT_SLOWER, SLOWER, Options, Row, Source, check, pair

AA_TRIES, PLANTED_TRIES = 50, 10
MOST_ACCUSED, LEAST_CAUGHT = 1 / 50, 0.9


@dataclasses.dataclass(frozen=True)
class Tried:
    """What became of comparisons of head with itself.

    Attributes:
        facts: what a worker said of itself.
    """

    rows: list[Row]
    planted: float
    facts: dict[str, Any]

    @property
    def slower(self) -> int:
        """How many were called slower."""
        return sum(row.verdict == SLOWER for row in self.rows)

    @property
    def good(self) -> bool:
        """Whether the gate is as good as it should be: at most 1 of 50 accused, or 9 of 10 caught."""
        if self.planted:
            return self.slower >= LEAST_CAUGHT * len(self.rows)
        return self.slower <= max(1, math.floor(MOST_ACCUSED * len(self.rows)))

    @property
    def words(self) -> str:
        """The counts, with the interval of the rate."""
        share, count = stats.wilson(self.slower, len(self.rows)), len(self.rows)
        others = [f"{sum(row.verdict == w for row in self.rows)} {w}" for w in (NOT_SLOWER, CANNOT_TELL)]
        did = f"+{self.planted:.0%} caught" if self.planted else "identical code accused"
        return (
            f"{did} in {self.slower} of {count} ({share.mean:.1%}, 95 % interval {share.low:.1%} to "
            f"{share.high:.1%}); {', '.join(others)}"
        )


def tries(
    source: Source, scratch: Path, options: Options, count: int, say: Callable[[Row, str], None]
) -> Tried:
    """Compare head with itself ``count`` times, going round the models; every round has fresh processes."""
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    options = dataclasses.replace(options, seeds=0)
    while len(rows) < count:
        left = math.ceil((count - len(rows)) / len(options.lengths))
        with pair(
            source, source, scratch, dataclasses.replace(options, models=options.models[:left])
        ) as both:
            rows += check(both, say)
            facts = both.head.facts
    return Tried(rows[:count], options.planted, facts)
