"""Does head still learn what base learned? Short trainings on both sides, paired by seed."""

from __future__ import annotations

from dataclasses import dataclass

from seqbench import stats
from seqbench.perf.client import Worker
from seqbench.perf.judge import Verdict

SEEDS = 5
_LENGTH, _STEPS = 16, 200
_MARGIN = 0.02  # of accuracy


@dataclass(frozen=True)
class Trained:
    """Test accuracy and whether it was solved, of each seed."""

    scores: tuple[float, ...]
    solved: int


@dataclass(frozen=True)
class Quality:
    """What the trainings of a model say."""

    verdict: Verdict
    words: str


def train(worker: Worker, model: str, seeds: int) -> Trained:
    """Train a model on temporal order with two symbols in 16 steps, some seconds in all.

    Raises:
        Refused: the revision cannot train it.
    """
    found = [
        worker.ask("train", model=model, length=_LENGTH, steps=_STEPS, seed=seed) for seed in range(seeds)
    ]
    return Trained(tuple(float(one["score"]) for one in found), sum(bool(one["solved"]) for one in found))


def judge(pairs: list[tuple[Trained, Trained]]) -> list[Quality]:
    """Judge base and head of several models together (paired t-tests with Holm's correction)."""
    compared = [stats.paired(head.scores, base.scores, _MARGIN) for base, head in pairs]
    verdicts = stats.judge(compared)
    return [_words(*pair, one, verdict) for pair, one, verdict in zip(pairs, compared, verdicts, strict=True)]


def _words(base: Trained, head: Trained, result: stats.Paired, verdict: stats.Verdict) -> Quality:
    seeds = len(head.scores)
    told = f"solved {base.solved} -> {head.solved} of {seeds}, accuracy {result.mean:+.3f}"
    if base.scores == head.scores:
        return Quality(Verdict.PASS, f"the same to the last bit: solved {head.solved} of {seeds}")
    if verdict.outcome is stats.Outcome.WORSE:
        return Quality(Verdict.FAIL, f"worse: {told} (p = {verdict.p:.2g})")
    if verdict.outcome in (stats.Outcome.BETTER, stats.Outcome.EQUIVALENT):
        return Quality(Verdict.PASS, f"{verdict.outcome.value}: {told}")
    could = (
        f"could have seen {verdict.detectable:.2f}"
        if verdict.detectable == verdict.detectable
        else "few seeds"
    )
    return Quality(Verdict.CANNOT_TELL, f"{told}; {could}")
