"""How much the seeds of a sweep can tell."""

from __future__ import annotations

from seqbench.report.lesson_parts.duel import UNSURE
from seqbench.report.verdict import Comparison
from seqbench.stats import Outcome


def undecided(every: list[Comparison]) -> tuple[int, int]:
    """How many comparisons with the reference were left open, and how many there were."""
    return sum(c.judged.outcome in UNSURE for c in every), len(every)


def too_few(every: list[Comparison]) -> bool:
    """Whether there are comparisons, and too few seeds for any of them."""
    return bool(every) and all(c.judged.outcome is Outcome.TOO_FEW for c in every)
