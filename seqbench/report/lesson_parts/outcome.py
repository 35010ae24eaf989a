"""What came out: the gated network against the plain one, and how much the seeds can tell."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from seqbench.report.frame import Sweep
from seqbench.report.lesson_parts import cast
from seqbench.report.lesson_parts.fading import Fade, of
from seqbench.report.summary import Cell, Flow, default_gates
from seqbench.report.task import Task
from seqbench.report.verdict import Comparison, compare, verdicts, words_list
from seqbench.stats import Outcome

_STILL_VANISHING = 0.9
_UNSURE = (Outcome.UNDECIDED, Outcome.TOO_FEW)
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Duel:
    """A gated network against a plain one on the sweep's tasks.

    Attributes:
        won, open: tasks on which it was better, and those on which it was not.
        against: every comparison in words, with its interval.
        unsure: of none of the others it can be told.
        reasons: what in the records may explain that it was not better.
        caveats: tasks on which it was better and yet at a floor, in words.
    """

    gated: str
    plain: str
    won: list[str]
    open: list[str]
    unsure: bool
    against: str
    reasons: list[str]
    caveats: list[str]


def duel(
    sweep: Sweep, grid: list[Cell], found: list[Flow], fades: list[Fade], shown: Task | None
) -> Duel | None:
    """The LSTM (or GRU) against the plain RNN; None unless both have results.

    Args:
        fades, shown: gradients before training, and the task on which they were measured.
    """
    gated, plain = cast.first(sweep, "lstm", "gru"), cast.first(sweep, "rnn")
    if gated is None or plain is None:
        return None
    turned = dataclasses.replace(sweep, reference=plain)
    every = compare(turned, whole=True)
    mine = [c for c in every if c.label == gated and c.result.n > 0]
    if not mine:
        return None
    told = next(v for v in verdicts(turned, grid, found, every) if v.label == gated)
    won = [c.task for c in mine if c.judged.outcome is Outcome.BETTER]
    left = [c for c in mine if c.judged.outcome is not Outcome.BETTER]
    reasons = [*_results(grid, left, (gated, plain)), *_seeds(left)]
    if any(c.task is shown for c in left):
        reasons += _gradients(sweep, fades, (gated, plain))
    return Duel(
        gated=gated,
        plain=plain,
        won=[task.key for task in won],
        open=[c.task.key for c in left],
        unsure=all(c.judged.outcome in _UNSURE for c in left),
        against=told.against,
        reasons=reasons,
        caveats=[line for task in won for line in _caveats(grid, task, gated)],
    )


def _caveats(grid: list[Cell], task: Task, gated: str) -> list[str]:
    """Where the better one is no good either: nothing solved, and at one floor on every rung."""
    cells = [c for c in grid if c.task is task and c.label == gated and c.finished]
    notes = {c.note for c in cells}
    if len(notes) != 1 or "" in notes or any(c.solved for c in cells):
        return []
    return [f"{task.key}: {notes.pop()}"]


def _results(grid: list[Cell], left: list[Comparison], pair: tuple[str, str]) -> list[str]:
    """Both solve a task, or neither does."""
    reasons = []
    for number, words in (("all", "both solve"), ("none", "neither solves")):
        places = [c.task.key for c in left if _together(grid, c, pair, number)]
        end = {
            "all": "which is too easy to tell them apart",
            "none": "within the steps they were given",
        }[number]
        reasons += [f"{words} {words_list(places)}, {end}"] if places else []
    return reasons


def _seeds(left: list[Comparison]) -> list[str]:
    """Too few seeds to tell."""
    unsure = [c for c in left if c.judged.outcome in _UNSURE]
    if not unsure:
        return []
    count = max(c.result.n for c in unsure)
    line = (
        f"{count} seed{'' if count == 1 else 's'} cannot tell a small difference from chance: "
        '"cannot tell" is no proof that there is none'
    )
    return [line]


def _gradients(sweep: Sweep, fades: list[Fade], pair: tuple[str, str]) -> list[str]:
    """A gate that starts half open lets the gradient vanish too."""
    mine, theirs = (of(fades, label) for label in pair)
    if not mine or not theirs or not default_gates(sweep, pair[0]) or mine.factor >= _STILL_VANISHING:
        return []
    line = (
        f"before training its own gradient vanishes too, by {_TIMES}{mine.factor:.2f} per step against "
        f"{_TIMES}{theirs.factor:.2f} for {pair[1]}: a gate is the means to remember, not memory from the "
        "start, and training has to open it"
    )
    return [line]


def _together(grid: list[Cell], one: Comparison, pair: tuple[str, str], number: str) -> bool:
    """Whether both models solved every run of a task that can be solved, or no run at all."""
    cells = [c for c in grid if c.task is one.task and c.label in pair and c.finished]
    if one.task.solved_at is None or not cells:
        return False
    return all(c.solved == (c.finished if number == "all" else 0) for c in cells)


def undecided(every: list[Comparison]) -> tuple[int, int]:
    """How many comparisons with the reference were left open, and how many there were."""
    return sum(c.judged.outcome in _UNSURE for c in every), len(every)


def too_few(every: list[Comparison]) -> bool:
    """Whether there are comparisons, and too few seeds for any of them."""
    return bool(every) and all(c.judged.outcome is Outcome.TOO_FEW for c in every)
