"""Did the gates pay? Every gated network against the plain one, and what in the records may explain it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from seqbench.report import facts
from seqbench.report.frame import Sweep
from seqbench.report.lesson_parts import cast
from seqbench.report.lesson_parts.fading import Fade, of
from seqbench.report.summary import Cell, Flow
from seqbench.report.task import Task
from seqbench.report.verdict import Comparison, compare, signed, words_list
from seqbench.stats import Outcome

UNSURE = (Outcome.UNDECIDED, Outcome.TOO_FEW)
_GATES = ("lstm", "gru")  # differ from the plain network in their gates alone
_MORE = ("bilstm", "mingru", "minlstm", "slstm", "rglru")  # and these in more than that
_BIASES = ("forget_bias", "chrono", "update_bias")
_MOST_NAMED = 6
_TIMES = "\N{MULTIPLICATION SIGN}"
_WORDS = {
    Outcome.BETTER: "yes for {}",
    Outcome.WORSE: "no for {}: worse",
    Outcome.EQUIVALENT: "no for {}: no different",
    Outcome.UNDECIDED: "for {} that cannot be told",
    Outcome.TOO_FEW: "for {} that cannot be told",
    Outcome.REFUSED: "for {} no fair comparison is possible",
}

_TRAINED = (  # by how the factor after training stands to that before
    "raised it in {}",
    "may have raised it (that is not certain) in {}",
    "did not raise it in {}",
    "lowered it in {}",
)


@dataclass(frozen=True)
class Duel:
    """The gated networks against a plain one on the sweep's tasks.

    Attributes:
        answer: whether they were better, in a sentence.
        tasks: every task with each model's difference and its interval, a sentence each.
        gradient: how the gradients of the gated networks start, and what training changed.
        reasons: what else in the records may explain that one was not better.
        left_out: gated models that differ from the plain one in more than gates.
    """

    plain: str
    answer: str
    tasks: list[str]
    gradient: list[str]
    reasons: list[str]
    left_out: str


def duel(
    sweep: Sweep, grid: list[Cell], found: list[Flow], fades: list[Fade], shown: Task | None
) -> Duel | None:
    """Every LSTM and GRU against the plain RNN; None unless both have results.

    Args:
        found, fades, shown: gradients, those before training that can be told, and the task of both.
    """
    plain = cast.first(sweep, "rnn")
    labels = [label for label, kind in cast.kinds(sweep).items() if _alone(sweep, label, kind)]
    if plain is None or not labels:
        return None
    every = compare(dataclasses.replace(sweep, reference=plain), whole=True)
    mine = [c for c in every if c.label in labels and (c.result.n > 0 or c.reasons)]
    if not mine:
        return None
    tasks = [task for task in sweep.tasks if any(c.task is task for c in mine)]
    by_task = [[c for c in mine if c.task is task] for task in tasks]
    fitted = [fade for label in labels if (fade := of(fades, label)) and not fade.pooled]
    return Duel(
        plain=plain,
        answer=_answer([c.judged.outcome for c in mine]),
        tasks=[line for here in by_task for line in _on_task(grid, here)],
        gradient=_gradient(sweep, found, fitted, of(fades, plain)) if shown in tasks else [],
        reasons=[line for here in by_task for line in _reasons(sweep, grid, here, plain)] + _seeds(mine),
        left_out=_left_out(sweep, plain),
    )


def _alone(sweep: Sweep, label: str, kind: str) -> bool:
    """Whether a model's gates are all that sets it apart from the plain network."""
    return kind in _GATES and cast.setting(sweep, label, "bidirectional") is not True


def _left_out(sweep: Sweep, plain: str) -> str:
    names = [
        label
        for label, kind in cast.kinds(sweep).items()
        if kind in _MORE or (kind in _GATES and not _alone(sweep, label, kind))
    ]
    if not names:
        return ""
    be, them = ("is", "it") if len(names) == 1 else ("are", "them")
    return f"{_few(names)} {be} left out: more than gates sets {them} apart from {plain}."


def _answer(outcomes: list[Outcome]) -> str:
    """The shortest true answer."""
    better = outcomes.count(Outcome.BETTER)
    if better:
        return "Yes, on every task here." if better == len(outcomes) else "In part."
    sure = [outcome for outcome in outcomes if outcome not in (*UNSURE, Outcome.REFUSED)]
    return "Not here." if sure else "That cannot be told here."


def _on_task(grid: list[Cell], here: list[Comparison]) -> list[str]:
    """One task: models with the same outcome together, and who is better and yet no good."""
    parts = []
    for outcome, words in _WORDS.items():
        names = [c.label + _numbers(c) for c in here if c.judged.outcome is outcome]
        parts += [words.format(_few(names))] if names else []
    lines = [f"On {here[0].task.key}, {'; '.join(parts)}."]
    poor: dict[str, list[str]] = {}
    for c in here:
        if c.judged.outcome is Outcome.BETTER and (note := _caveat(grid, c)):
            poor.setdefault(note, []).append(c.label)
    where = "; ".join(f"{_few(names)}: {note}" for note, names in poor.items())
    return lines + ([f"Better need not mean good ({where})."] if where else [])


def _numbers(c: Comparison) -> str:
    """The difference with its interval, in brackets; nothing without an interval."""
    if c.result.n < 2:
        return ""
    mean, low, high = (
        signed(value, c.task.metric.digits - 1) for value in (c.result.mean, c.result.low, c.result.high)
    )
    return f" ({mean} [{low}, {high}])"


def _caveat(grid: list[Cell], c: Comparison) -> str:
    """Where the better one is no good either: nothing solved, and at one floor on every rung."""
    cells = [cell for cell in grid if cell.task is c.task and cell.label == c.label and cell.finished]
    notes = {cell.note for cell in cells}
    return notes.pop() if len(notes) == 1 and not any(cell.solved for cell in cells) else ""


# What may explain it


def _gradient(sweep: Sweep, found: list[Flow], fades: list[Fade], plain: Fade | None) -> list[str]:
    """Where the gradients of gated networks start, what training changed, and what that says of gates."""
    gone, kept = ([f for f in fades if f.vanished is wanted] for wanted in (True, False))
    lines = []
    if gone:
        beside = f", as {plain.label} does ({_per_step(plain.factor)})" if plain and plain.vanished else ""
        verb = "starts" if len(gone) == 1 else "start"
        lines.append(f"{_few(map(_start, gone))} {verb} with a vanished gradient{beside}.")
    if kept:
        verb = "starts" if len(kept) == 1 else "start"
        lines.append(f"{_few(map(_start, kept))} {verb} with a gradient that arrives.")
    lines += _trained(found, fades)
    if any(all(cast.setting(sweep, fade.label, key) is None for key in _BIASES) for fade in gone):
        lines.append("A gate is the means to remember, not memory from the start: training has to open it.")
    return lines


def _start(fade: Fade) -> str:
    return f"{fade.label} ({_per_step(fade.factor)})"


def _per_step(factor: float) -> str:
    return f"{_TIMES}{factor:.2f} per step"


def _trained(found: list[Flow], fades: list[Fade]) -> list[str]:
    """What training did to each factor; a rise is claimed only where the intervals over seeds do not meet."""
    groups: dict[str, list[str]] = {words: [] for words in _TRAINED}
    for fade in fades:
        end = next((f.decay for f in found if f.moment == "final" and f.label == fade.label), None)
        if end is None or not math.isfinite(end.factor):
            continue
        start = fade.flow.decay
        did = (end.low > start.high, end.factor > start.factor, not end.high < start.low, True).index(True)
        groups[_TRAINED[did]].append(f"{fade.label} (now {_TIMES}{end.factor:.2f})")
    said = [words.format(_few(names)) for words, names in groups.items() if names]
    return [f"Training {words_list(said)}."] if said else []


def _reasons(sweep: Sweep, grid: list[Cell], here: list[Comparison], plain: str) -> list[str]:
    """On one task: too easy, too hard, or learning rates that differ as the outcomes do."""
    task, lines = here[0].task, []
    left = [c.label for c in here if c.judged.outcome is not Outcome.BETTER]
    easy = [label for label in left if _together(grid, task, (label, plain), solved=True)]
    hard = [label for label in left if _together(grid, task, (label, plain), solved=False)]
    if easy:
        names = _few([plain, *easy])
        both = "both" if len(easy) == 1 else "all"
        lines.append(f"{names} {both} solve {task.key}, which is too easy to tell them apart.")
    if hard:
        who = f"Neither {plain} nor {hard[0]}" if len(hard) == 1 else f"None of {_few([plain, *hard])}"
        lines.append(f"{who} solves {task.key}, within the steps they were given.")
    return lines + _rates(sweep, here)


def _rates(sweep: Sweep, here: list[Comparison]) -> list[str]:
    """Learning rates of gated networks whose outcomes differ, where they differ too."""
    known = facts.learning_rates(sweep, "label")
    rates = {c.label: known.get((c.label, c.task.key), set()) for c in here}
    same = len({c.judged.outcome for c in here}) == 1 or len({frozenset(r) for r in rates.values()}) == 1
    if same or not all(rates.values()):
        return []
    told = _few(f"{label} {' or '.join(f'{r:.3g}' for r in sorted(r))}" for label, r in rates.items())
    return [f"Their learning rates on {here[0].task.key} differ too ({told})."]


def _seeds(mine: list[Comparison]) -> list[str]:
    """Too few seeds to tell."""
    counts = [c.result.n for c in mine if c.judged.outcome in UNSURE]
    if not counts:
        return []
    seeds = f"{max(counts)} seed{'' if max(counts) == 1 else 's'}"
    return [
        f'{seeds} cannot tell a small difference from chance: "cannot tell" is no proof that there is none.'
    ]


def _together(grid: list[Cell], task: Task, pair: tuple[str, str], *, solved: bool) -> bool:
    """Whether both models solved every run of a task that can be solved, or no run at all."""
    cells = [cell for cell in grid if cell.task is task and cell.label in pair and cell.finished]
    if task.solved_at is None or not cells:
        return False
    return all(cell.solved == (cell.finished if solved else 0) for cell in cells)


def _few(names: Iterable[str]) -> str:
    """Names in a sentence, of many the first."""
    every = list(names)
    some = every[:_MOST_NAMED]
    return words_list([*some, f"{len(every) - len(some)} more"] if len(some) < len(every) else some)
