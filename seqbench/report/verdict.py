"""The verdict: every model against the reference, paired by seed, in numbers and in words."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pandas as pd

from seqbench import stats
from seqbench.metric import ACCURACY, Metric
from seqbench.report import premises, scaling
from seqbench.report.doubt import doubt
from seqbench.report.frame import Sweep
from seqbench.report.summary import Cell, Flow, answers, default_gates, seed_scores, unscored
from seqbench.report.task import Task

SMOKE_SEEDS = 5  # with fewer, three equal scores may be luck: the spread is taken from all models
_MOST_NAMES = 4


@dataclass(frozen=True)
class Comparison:
    """A model against the reference on a task, at one rung or averaged over all of them.

    Attributes:
        reasons: why it is refused, in words; empty where it is not.
        design: how much more or less the model was given, where the sweep varied that on purpose.
        possible: no difference to what the reference reached can be larger; NaN where that is not known.
        other: label of the variant that stands for the sweep's reference on this task; empty: the reference.
        seeds: those that were compared, where a command is known that ran them.
    """

    task: Task
    rung: int | None
    whole: bool
    label: str
    result: stats.Paired
    judged: stats.Verdict
    reasons: tuple[str, ...] = ()
    design: str = ""
    possible: float = math.nan
    other: str = ""
    seeds: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """The outcome with what belongs beside it, as it stands in a table."""
        if self.reasons:
            return f"{said(self.judged)}: {'; '.join(self.reasons)}"
        against = f"against {self.other}" if self.other else ""
        detail = "; ".join(part for part in (against, self.doubt, self.design) if part)
        return f"{said(self.judged)} ({detail})" if detail else said(self.judged)

    @property
    def doubt(self) -> str:
        """What an undecided comparison could have found, and what an equivalence cannot rule out."""
        if self.judged.outcome is stats.Outcome.EQUIVALENT and self.task.solved_at is not None:
            share = 100 * stats.unseen(self.result.n)
            return f"{self.result.n} seeds may miss what happens in up to {share:.0f} % of runs"
        return doubt(self.judged, self.most, self.result.n, self.seeds)

    @property
    def most(self) -> float:
        """No difference can be larger than this, at least."""
        return self.possible if math.isfinite(self.possible) else self.task.metric.most


def said(judged: stats.Verdict, reference: str = "") -> str:
    """An outcome in words, as part of a sentence when the reference is named."""
    outcome, kind = judged.outcome, stats.Outcome
    if outcome is kind.EQUIVALENT:
        return "equivalent" + (f" to {reference}" if reference else "") + f" within {judged.margin:.2g}"
    if outcome is kind.TOO_FEW:
        return f"cannot tell (needs at least {stats.FEWEST} seeds)"
    if outcome is kind.REFUSED:
        return f"comparison with {reference} refused" if reference else outcome.value
    if outcome is kind.UNDECIDED:
        return f"cannot be told from {reference}" if reference else outcome.value
    return f"{outcome.value} than {reference}" if reference else outcome.value


@dataclass(frozen=True)
class Verdict:
    """One model's verdict.

    Attributes:
        solves: what it solves, in words.
        against: the comparison with the reference, in words.
        gradient: how its gradient falls before training.
        remark: what holds for all of it, in brackets at the end.
        tone: "good", "bad" or "plain": the colour of the line, never its only sign.
    """

    label: str
    solves: str
    against: str
    gradient: str
    remark: str
    tone: str

    @property
    def line(self) -> str:
        """The verdict as one line."""
        return f"{self.label}: {self.words}"

    @property
    def words(self) -> str:
        """The verdict without the model's name."""
        parts = [part for part in (self.against or "no result yet", self.solves, self.gradient) if part]
        return (
            ". ".join([*parts[:1], *(part[:1].upper() + part[1:] for part in parts[1:])]) + self.remark + "."
        )


def compare(sweep: Sweep, *, whole: bool) -> list[Comparison]:
    """Paired differences of test scores to the reference; refused where their premises do not hold.

    Args:
        whole: compare the mean over a task's rungs; else each rung, of tasks that have several. One family
            for Holm either way.
    """
    tasks = [task for task in sweep.tasks if whole or len(task.rungs) > 1]
    found = [c for task in tasks for c in _on_task(sweep, task, whole=whole)]
    judged = iter(stats.judge([c.result for c in found if not c.reasons]))
    return [c if c.reasons else dataclasses.replace(c, judged=next(judged)) for c in found]


def _on_task(sweep: Sweep, task: Task, *, whole: bool) -> list[Comparison]:
    """The comparisons of a task, before they are judged."""
    scores, planned = seed_scores(sweep, task), sweep.planned(task.key)
    reference = sweep.reference_on(task.key) or sweep.reference or ""
    absent = () if reference in planned else (f"{reference} has no runs on {task.key}",)
    against = premises.on_task(sweep, task)
    given = premises.budgets(sweep, task)
    mean: list[tuple[int | None, pd.Series]] = [(None, scores.mean(axis=1, skipna=False))]
    each = [(rung, scores.iloc[:, number]) for number, rung in enumerate(task.rungs)]
    found = []
    for rung, part in mean if whole else each:
        wide = part.unstack("label")
        pooled = stats.pooled_spread(wide.reindex(columns=sweep.labels).T.to_numpy(dtype=float))
        rungs = task.rungs if whole else [rung]
        lost = unscored(sweep, task, rungs)
        least = rounding(sweep, task, rungs)
        for label in planned:
            if label == reference or reference not in wide:
                continue
            apart = [one for one in against if one.separates(label, reference)]
            reasons = absent + tuple(one.about(label, reference) for one in apart)
            reasons += tuple(lost[name] for name in (label, reference) if name in lost)
            pairs = wide[[label, reference]].dropna() if not reasons else wide[[label, reference]].head(0)
            result = stats.paired(
                pairs[label],
                pairs[reference],
                _margin(task, rung),
                higher=task.metric.higher,
                pooled=pooled if len(pairs) < SMOKE_SEEDS else None,
                least=least,
            )
            design = premises.more(given, label, reference)
            judged = stats.refused(result.margin)
            most = most_possible(task.metric, float(pairs[reference].mean()))
            other = "" if reference == sweep.reference else reference
            seeds = tuple(int(seed) for seed in pairs.index) if sweep.commands else ()
            told = (reasons, design, most, other, seeds)
            found.append(Comparison(task, rung, whole, label, result, judged, *told))
    return found


def rounding(sweep: Sweep, task: Task, rungs: list[int | None]) -> float:
    """The least spread of a difference: that of accuracies which move in steps of one answer."""
    if task.metric is not ACCURACY:
        return 0.0
    return stats.rounding_spread([answers(sweep, task, rung) for rung in rungs])


def most_possible(metric: Metric, reference: float) -> float:
    """The largest difference that any score could have to what the reference reached."""
    worst = 0.0 if metric.higher else metric.most
    return max(abs(metric.best - reference), abs(worst - reference))


def _margin(task: Task, rung: int | None) -> float:
    """Differences up to this are none; of a whole task that of its highest rung."""
    return task.tolerance(task.rungs[-1] if rung is None else rung)


def verdicts(
    sweep: Sweep, grid: list[Cell], found: list[Flow], comparisons: list[Comparison]
) -> list[Verdict]:
    """One verdict per model, in the order of the plan.

    Args:
        comparisons: of whole tasks.
    """
    if sweep.speed_alone:
        return [Verdict(label, "", words, "", "", "plain") for label, words in scaling.lines(sweep)]
    trained = {cell.label for cell in grid}
    return [_verdict(sweep, label, grid, comparisons, found) for label in sweep.labels if label in trained]


def _verdict(
    sweep: Sweep, label: str, grid: list[Cell], comparisons: list[Comparison], found: list[Flow]
) -> Verdict:
    mine = [cell for cell in grid if cell.label == label]
    solves = "; ".join(
        words for task in sweep.tasks if (words := solving([c for c in mine if c.task is task], task))
    )
    theirs = [c for c in comparisons if c.label == label]
    pooled = sweep.training[sweep.training["readout"].isin(["mean", "max"])]["label"]
    mark = label not in set(pooled)  # a readout over all steps hides what the layer does to gradients
    start = next((f for f in found if mark and f.label == label and f.moment == "init"), None)
    against = _stands_for(sweep, label) or _against(theirs, sweep.reference or "")
    shown = start is not None and default_gates(sweep, label)
    remark = " (at torch's default initialisation)" if shown else ""
    return Verdict(label, solves, against, _gradient(start), remark, _tone(theirs))


def _stands_for(sweep: Sweep, label: str) -> str:
    """Whether a model is what others are compared with, in words: everywhere, or only on some tasks."""
    if label == sweep.reference:
        return "the reference"
    places = [task.key for task in sweep.tasks if sweep.reference_on(task.key) == label]
    return f"the reference on {words_list(places)}" if places else ""


def _tone(comparisons: list[Comparison]) -> str:
    outcomes = {c.judged.outcome for c in comparisons}
    tones = {stats.Outcome.BETTER: "good", stats.Outcome.WORSE: "bad"}
    return tones.get(outcomes.pop(), "plain") if len(outcomes) == 1 else "plain"


def solving(mine: list[Cell], task: Task) -> str:
    """What a model solves of a task, in words; the score for a task that has no such line."""
    ended = [cell for cell in mine if cell.finished]
    if not ended:
        return f"no finished run of {task.key} yet" if mine else ""
    if task.solved_at is None:
        known = [cell for cell in ended if math.isfinite(cell.score.mean)]
        if not known:
            return f"no score on {task.key}: its runs diverged"
        shown = [task.metric.shown(cell.score.mean) + at(task, cell.rung, " at ") for cell in known]
        return f"{task.metric.name} {', '.join(shown)} on {task.key}"
    always = [c for c in ended if c.solved == c.finished]
    sometimes = [c for c in ended if 0 < c.solved < c.finished]
    never = [c for c in ended if c.solved == 0]
    if not always and not sometimes:
        return f"does not solve {task.key}" + _rungs(task, [c.rung for c in never], " at ") + _learned(never)
    parts = []
    if always:
        parts.append("solves " + task.key + _rungs(task, [c.rung for c in always], " at "))
    if sometimes:
        tries = ", ".join(f"in {c.solved} of {c.finished} runs{at(task, c.rung, ' at ')}" for c in sometimes)
        parts.append(("and " if always else f"solves {task.key} ") + tries)
    if never:
        parts.append("not" + _rungs(task, [c.rung for c in never], " at "))
    return ", ".join(parts)


def _learned(never: list[Cell]) -> str:
    notes = {cell.note for cell in never}
    return f": {notes.pop()}" if len(notes) == 1 and "" not in notes else ""


def at(task: Task, rung: int | None, before: str = "") -> str:
    """A rung in words, or nothing."""
    return "" if rung is None else f"{before}{task.symbol}={rung}"


def _rungs(task: Task, rungs: list[int | None], before: str) -> str:
    known = [str(rung) for rung in rungs if rung is not None]
    return f"{before}{task.symbol}={', '.join(known)}" if known else ""


def _against(theirs: list[Comparison], reference: str) -> str:
    """The comparisons in words, those with the same outcome together."""
    groups: dict[str, list[str]] = {}
    for c in theirs:
        groups.setdefault(said(c.judged, c.other or reference), []).append(c.task.key + _beside(c))
    return "; ".join(f"{phrase} on {words_list(places)}" for phrase, places in groups.items())


def _beside(c: Comparison) -> str:
    """What stands behind an outcome: the reasons for refusing it, or its numbers in brackets."""
    r = c.result
    mean, low, high = (signed(value, c.task.metric.digits - 1) for value in (r.mean, r.low, r.high))
    numbers = f"{mean} [{low}, {high}]" if r.n > 1 else ""
    parts = [part for part in (numbers, c.doubt, c.design) if part]
    if c.reasons:
        return f": {'; '.join(c.reasons)}"
    return f" ({'; '.join(parts)})" if parts else ""


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign.

    >>> signed(0.5), signed(-0.001), signed(float("nan"))
    ('+0.50', '0.00', '-')
    """
    if not math.isfinite(value):
        return "-"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _gradient(start: Flow | None) -> str:
    if start is None or not math.isfinite(start.decay.factor):
        return ""
    end = ", near its end" if start.two_ended else ""
    factor = f"\N{MULTIPLICATION SIGN}{start.decay.factor:.2f}"
    return f"before training, {factor} of its gradient remains per step back in time{end}"


def headline(sweep: Sweep, grid: list[Cell]) -> str:
    """The finding in a sentence or two: who gets farthest on each task."""
    sentences = [words for task in sweep.tasks if (words := _farthest(sweep, task, grid))]
    return " ".join(sentences) or scaling.headline(sweep) or "No run has finished yet."


def _farthest(sweep: Sweep, task: Task, grid: list[Cell]) -> str:
    here = [cell for cell in grid if cell.task is task and cell.finished and math.isfinite(cell.score.mean)]
    if not here:
        return ""
    if task.solved_at is None:
        metric = task.metric
        pick, most = (max, "highest") if metric.higher else (min, "lowest")
        best = pick(here, key=lambda cell: cell.score.mean)
        score = metric.shown(best.score.mean)
        against = premises.on_task(sweep, task)
        apart = barred(against, best.label, [cell.label for cell in here])
        if caveat := apart or unscored(sweep, task, [best.rung]).get(best.label, ""):
            told = f"On {task.key}, {best.label} reaches {metric.name} {score} ({caveat})."
        else:
            told = f"On {task.key}, {best.label} has the {most} {metric.name}: {score}."
        return told + _no_better(task, best)
    if task.rungs == [None] or len(task.rungs) == 1:
        solvers = [cell.label for cell in here if cell.solves]
        return f"{task.at(task.rungs[0])} is solved by {words_list(solvers) or 'no model'}."
    reach = {
        label: max((c.rung or 0 for c in here if c.label == label and c.solves), default=None)
        for label in sweep.labels
        if any(c.label == label for c in here)
    }
    groups: dict[int | None, list[str]] = {}
    for label, longest in reach.items():
        groups.setdefault(longest, []).append(label)
    order = sorted(groups, key=lambda longest: -1 if longest is None else longest, reverse=True)
    parts = [
        f"{words_list(groups[r])} " + (f"to {task.symbol}={r}" if r is not None else "nowhere") for r in order
    ]
    return f"On {task.key}, at least half of the runs get through: {', '.join(parts)}."


def _no_better(task: Task, best: Cell) -> str:
    """The best floor, where the best model does not clear it."""
    floors = task.floors(best.rung)
    name, level = list(floors.items())[-1] if floors else ("", math.nan)
    better = task.metric.reaches(level, best.score.mean)
    return f' The floor "{name}" is {task.metric.shown(level)}: no model does better.' if better else ""


def barred(against: list[premises.Finding], label: str, others: list[str]) -> str:
    """Which of the others a model must not be compared with, and why; empty where it may be with all."""
    found: dict[str, list[str]] = {}
    for other in dict.fromkeys(others):
        if whats := dict.fromkeys(one.what for one in against if one.separates(label, other)):
            found.setdefault(words_list(list(whats)), []).append(other)
    parts = []
    for why, names in found.items():
        more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
        parts.append(f"with {words_list([*names[:_MOST_NAMES], *more])}: {why}")
    return f"not comparable {'; '.join(parts)}" if parts else ""


def words_list(words: list[str]) -> str:
    """Names in a sentence.

    >>> words_list(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
