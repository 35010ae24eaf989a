"""Verdicts: what a family of comparisons says once it is corrected for how many they are."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from seqbench.stats.pairs import ALPHA, Paired, holm

FEWEST = (
    3  # seeds; of two identical models whose runs solve a task or not, one in eight pairs differs in both
)


class Outcome(enum.Enum):
    """How a comparison ended."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "cannot tell"
    TOO_FEW = "too few seeds"
    REFUSED = "refused"


@dataclass(frozen=True)
class Verdict:
    """What a comparison says once it is one of several.

    Attributes:
        p: p of the t-test after Holm's correction.
        comparisons: how many tests the correction is for.
        detectable: smallest true difference that this many seeds find with power 0.8 after a correction
            for so many tests; NaN for fewer than two seeds.
        alone: its own interval excludes 0, whatever the correction says.
        needed: seeds that would find a difference of the size seen here, with power 0.8 and the same
            correction; None: more than 100, or not known.
    """

    outcome: Outcome
    p: float
    comparisons: int
    detectable: float
    margin: float
    alone: bool
    needed: int | None = None


def judge(family: Sequence[Paired], alpha: float = ALPHA) -> list[Verdict]:
    """Verdicts on comparisons that are made together, corrected for how many they are.

    Differences and equivalences are two families, each with Holm's correction of its own. A difference that
    surely lies inside the margin is "equivalent" even when it surely is not zero.
    """
    adjusted = holm([result.p_t if result.n >= FEWEST else math.nan for result in family])
    equal = holm([result.p_equivalent if result.n >= FEWEST else math.nan for result in family])
    tests = sum(math.isfinite(p) for p in adjusted)
    return [
        Verdict(
            outcome=_outcome(result, p, same, alpha),
            p=p,
            comparisons=tests,
            detectable=result.detectable(alpha / max(1, tests)),
            margin=result.margin,
            alone=result.p_t < alpha,
            needed=result.needed(alpha / max(1, tests)),
        )
        for result, p, same in zip(family, adjusted, equal, strict=True)
    ]


def refused(margin: float) -> Verdict:
    """The verdict on a comparison whose premises do not hold: no test was made."""
    return Verdict(Outcome.REFUSED, math.nan, 0, math.nan, margin, alone=False)


def _outcome(result: Paired, p_adjusted: float, p_equivalent: float, alpha: float) -> Outcome:
    if result.n < FEWEST:
        return Outcome.TOO_FEW
    if p_equivalent < alpha:
        return Outcome.EQUIVALENT
    if p_adjusted < alpha:
        return Outcome.BETTER if (result.mean > 0) == result.higher else Outcome.WORSE
    return Outcome.UNDECIDED
