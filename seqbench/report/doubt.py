"""What an undecided comparison could have found, and how many more seeds would find what it saw."""

from __future__ import annotations

from collections.abc import Sequence

from seqbench import stats


def doubt(judged: stats.Verdict, most: float, pairs: int, seeds: Sequence[int] = ()) -> str:
    """What an undecided comparison could have found, and what finds a difference like the one seen.

    Args:
        most: no two scores differ by more.
        pairs: seeds that were compared.
        seeds: which ones, where the command that ran them is known.
    """
    if judged.outcome is not stats.Outcome.UNDECIDED:
        return ""
    if judged.detectable == 0:
        return "no seed differed; the task has no margin"
    least = f"{judged.detectable:.2g}"
    beyond = f"found with power 0.8 only from {least} on, more than is possible here"
    found = [f"could detect {least}" if judged.detectable < most else beyond]
    if judged.alone:
        tests = judged.comparisons
        found.append(f"its own interval excludes 0, but not after correction for {tests} comparisons")
    if judged.needed is not None and judged.needed > pairs:
        found.append(more_seeds(judged.needed, pairs, seeds))
    return "; ".join(found)


def more_seeds(needed: int, pairs: int, seeds: Sequence[int] = ()) -> str:
    """How many seeds are missing, and what to type for them where they are counted from 0.

    >>> more_seeds(10, 3, [0, 1, 2])
    '7 more seeds (10 in all: the same command with seeds=10) would find a difference like this one'
    >>> more_seeds(4, 3)
    '1 more seed (4 in all) would find a difference like this one'
    """
    missing = needed - pairs
    counted = bool(seeds) and max(seeds) < needed
    typed = f": the same command with seeds={needed}" if counted else ""
    noun = "seed" if missing == 1 else "seeds"
    return f"{missing} more {noun} ({needed} in all{typed}) would find a difference like this one"
