"""The comparison of two sweeps in numbers: paired differences, judged together as on the page of one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from seqbench import stats
from seqbench.compare.pairs import BROKEN, ENDED, Contest, Pair, contests, pairs, refusals, unscored
from seqbench.report import facts
from seqbench.report.frame import Sweep
from seqbench.report.speeds import speeds
from seqbench.report.summary import same
from seqbench.report.task import Task
from seqbench.report.verdict import SMOKE_SEEDS, Comparison, most_possible, rounding
from seqbench.stats.samples import deviation

SAME = "same records"
NO_PAIR = "cannot tell (no seed ended in both)"
_MACHINE = ("cpu", "cores", "threads", "device", "platform")


@dataclass(frozen=True)
class Row:
    """One model on one task in both sweeps, at one rung or averaged over those that both have.

    Attributes:
        a, b: mean test score of the seeds that ended in both, with t intervals.
        solved_a, solved_b: solved runs of all that ended, and how many that were.
        refused: why the scores must not be compared.
        equal: the pairs are the same records.
        scores_equal: all paired scores are equal to the last bit.
        differences: b - a of each pair.
        rounding: the least that their standard deviation is taken to be.
        compared: the paired difference b - a with its verdict; None where refused or the same records.
        result: the difference itself; None where refused.
    """

    task: Task
    rung: int | None
    whole: bool
    label: str
    a: stats.Interval
    b: stats.Interval
    solved_a: tuple[int, int]
    solved_b: tuple[int, int]
    refused: tuple[str, ...]
    equal: bool
    scores_equal: bool
    result: stats.Paired | None
    differences: tuple[float, ...] = ()
    rounding: float = 0.0
    compared: Comparison | None = None

    @property
    def words(self) -> str:
        """The verdict in the words of the page."""
        if self.refused:
            return f"refused: {'; '.join(self.refused)}"
        if self.equal:
            return SAME
        return self.compared.words if self.compared and self.compared.result.n else NO_PAIR

    @property
    def place(self) -> str:
        """The task, with the rung where it is one of several."""
        if self.whole and len(self.task.rungs) > 1:
            return self.task.key
        return self.task.at(self.task.rungs[0] if self.whole else self.rung)

    @property
    def outcome(self) -> stats.Outcome | None:
        """How it ended; None where nothing was judged."""
        return self.compared.judged.outcome if self.compared else None


@dataclass(frozen=True)
class Timing:
    """A model's median training step in both sweeps, in seconds, at the highest rung that both timed."""

    task: Task
    rung: int | None
    label: str
    a_s: float
    b_s: float


@dataclass(frozen=True)
class Found:
    """Everything that two sweeps say about each other.

    Attributes:
        whole: a row per model and task, the mean over the rungs that both have.
        rungs: a row per rung; empty where every task has one.
        timings, no_speed: speed on the same machine, or why there is none to show.
        broken: runs that are done in the first sweep and failed in the second, in words.
        pairs: pairs of runs that ended in both.
    """

    a: Sweep
    b: Sweep
    whole: list[Row]
    rungs: list[Row]
    timings: list[Timing]
    no_speed: str
    broken: list[str]
    pairs: dict[tuple[str, str], list[Pair]]


def compare(a: Sweep, b: Sweep) -> Found:
    """Compare the second sweep with the first.

    Tests are corrected (Holm) over all models and tasks, and over all rungs in the table of the rungs.
    """
    found = contests(a, b)
    paired = {(c.task.key, c.label): list(pairs(a, b, c)) for c in found}
    whole = [_row(a, b, c, None, paired[c.task.key, c.label], whole=True) for c in found if c.rungs]
    each = [_row(a, b, c, rung, paired[c.task.key, c.label], whole=False) for c in found for rung in c.rungs]
    several = any(len(c.rungs) > 1 for c in found)
    no_speed = other_machine(a, b)
    timings = [] if no_speed else _timings(a, b, found)
    if not (timings or no_speed):
        no_speed = "speed was not measured for any model of both"
    broken = [line for c in found for line in _broken(c)]
    return Found(a, b, judged(whole), judged(each) if several else [], timings, no_speed, broken, paired)


def _row(a: Sweep, b: Sweep, contest: Contest, rung: int | None, found: list[Pair], *, whole: bool) -> Row:
    """A row before it is judged."""
    rungs = contest.rungs if whole else [rung]
    here = [pair for pair in found if pair.rung in rungs]
    scores = _mean([contest.scores(one) for one in rungs])
    equal = bool(here) and all(pair.a == pair.b for pair in here)
    refused = () if equal else (*refusals(here), *unscored(a, b, contest, here))
    least = max(rounding(a, contest.task, rungs), rounding(b, contest.theirs, rungs))
    row = Row(
        task=contest.task,
        rung=rung,
        whole=whole,
        label=contest.label,
        a=stats.mean_interval(scores["a"]),
        b=stats.mean_interval(scores["b"]),
        solved_a=_solved(contest.a, rungs),
        solved_b=_solved(contest.b, rungs),
        refused=refused,
        equal=equal,
        scores_equal=bool(here) and scores["a"].equals(scores["b"]),
        result=None,
        differences=() if refused else tuple(float(d) for d in scores["b"] - scores["a"]),
        rounding=least,
    )
    return row if refused else dataclasses.replace(row, result=_paired(row, None))


def _paired(row: Row, pooled: stats.Spread | None) -> stats.Paired:
    """The paired difference of a row's scores; its spread is at least the pooled one."""
    task = row.task
    return stats.paired(
        row.differences,
        [0.0] * len(row.differences),
        task.tolerance(task.rungs[-1] if row.whole else row.rung),
        higher=task.metric.higher,
        pooled=pooled,
        least=row.rounding,
    )


def _mean(scores: list[pd.DataFrame]) -> pd.DataFrame:
    """Scores averaged over rungs, of the seeds that have all of them."""
    sides = {
        side: pd.concat([one[side] for one in scores], axis=1).mean(axis=1, skipna=False)
        for side in ("a", "b")
    }
    return pd.DataFrame(sides).dropna()


def _solved(runs: pd.DataFrame, rungs: list[int | None]) -> tuple[int, int]:
    """Solved runs, and runs that ended, on some rungs."""
    there = [same(runs["rung"], rung) & runs["status"].isin(ENDED) for rung in rungs]
    return (
        sum(int(runs[mask]["solved"].eq(True).sum()) for mask in there),
        sum(int(mask.sum()) for mask in there),
    )


def spread(rows: Iterable[Row]) -> stats.Spread | None:
    """The standard deviation of B - A over seeds, pooled over models; None for fewer than two of them.

    Three equal differences do not prove that there is no spread: where runs either solve a task or do not,
    they are common, and among ten models whose code is the same in both sweeps, one comparison in four shows
    one that seems surely better or worse by its own spread. What ran the same to the last bit tells nothing.
    """
    known = [row.differences for row in rows if len(row.differences) > 1 and not row.scores_equal]
    df = sum(len(one) - 1 for one in known)
    if len(known) < 2:
        return None
    squares = sum((len(one) - 1) * deviation(np.asarray(one)) ** 2 for one in known)
    return stats.Spread(math.sqrt(squares / df), df)


def _guarded(rows: list[Row]) -> list[Row]:
    """Rows of few seeds with at least the spread that all models show together on the same task and rung."""
    together: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        together.setdefault((row.task.key, row.rung), []).append(row)
    spreads = {place: spread(some) for place, some in together.items()}
    return [
        dataclasses.replace(row, result=_paired(row, spreads[row.task.key, row.rung]))
        if row.result is not None and row.result.n < SMOKE_SEEDS and not row.scores_equal
        else row
        for row in rows
    ]


def judged(rows: list[Row]) -> list[Row]:
    """Rows with their verdicts, corrected for how many are judged; the same records are no test."""
    rows = _guarded(rows)
    family = [row.result for row in rows if row.result is not None and not row.equal]
    verdicts = iter(stats.judge(family))
    return [
        dataclasses.replace(row, compared=_comparison(row, row.result, next(verdicts)))
        if row.result is not None and not row.equal
        else row
        for row in rows
    ]


def _comparison(row: Row, result: stats.Paired, judged: stats.Verdict) -> Comparison:
    most = most_possible(row.task.metric, row.a.mean)
    return Comparison(row.task, row.rung, row.whole, row.label, result, judged, possible=most)


def _broken(contest: Contest) -> list[str]:
    """Runs that were done before and failed now."""
    keys = ["rung", "seed"]
    done = contest.a[contest.a["status"] == "done"][keys]
    failed = contest.b[contest.b["status"].isin(BROKEN)].merge(done, on=keys)
    return [
        f"{facts.run_name({**row, 'label': contest.label})}: done in A, {row['status']} in B"
        + (f" ({row['error']})" if row["error"] else "")
        for row in failed.to_dict("records")
    ]


def other_machine(a: Sweep, b: Sweep) -> str:
    """Why the speeds of two sweeps must not be compared, in words; empty where both had the same machine."""
    machines = [_machines(sweep) for sweep in (a, b)]
    for name, found in zip("AB", machines, strict=True):
        if not found:
            return f"{name} has no speed measurement"
    told = [_told(found) for found in machines]
    if len(machines[0] | machines[1]) == 1:
        return ""
    if told[0] == told[1]:
        return "not compared: the machines' fingerprints differ (processor and its instructions)"
    return f"not compared: A was timed on {told[0]}, B on {told[1]}"


Machine = tuple[tuple[str, str], ...]


def _machines(sweep: Sweep) -> set[Machine]:
    """The machines on which a sweep was timed, as its records describe them."""
    found = set()
    for row in sweep.runs[sweep.runs["kind"] == "speed"].to_dict("records"):
        run = sweep.records.get(str(row["folder"]))
        if run is not None and run.status == "done":
            said: dict[str, Any] = {name: run.environment.get(name, "?") for name in _MACHINE}
            said["fingerprint"] = run.ground.get("machine", "?")
            found.add(tuple((name, str(value)[:80]) for name, value in said.items()))
    return found


def _told(machines: set[Machine]) -> str:
    """Machines in words, without their fingerprint."""
    words = sorted({", ".join(f"{name} {value}" for name, value in one[:-1]) for one in machines})
    return " and ".join(words)


def _timings(a: Sweep, b: Sweep, found: list[Contest]) -> list[Timing]:
    ours, theirs = _steps(a), _steps(b)
    timings = []
    for contest in found:
        left = ours.get((contest.task.key, contest.label), {})
        right = theirs.get((contest.theirs.key, contest.their_label), {})
        common = sorted(set(left) & set(right))
        if common:
            rung = common[-1]
            shown = None if rung < 0 else int(rung)
            timings.append(Timing(contest.task, shown, contest.label, left[rung], right[rung]))
    return timings


def _steps(sweep: Sweep) -> dict[tuple[str, str], dict[float, float]]:
    """Median training step in seconds by rung (-1: none), of every task and model."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    timed = speeds(sweep)
    for row in timed[timed["mode"] == "train"].to_dict("records"):
        rung = -1.0 if pd.isna(row["rung"]) else float(row["rung"])
        found.setdefault((str(row["task"]), str(row["label"])), {})[rung] = float(row["median_s"])
    return found
