"""What a command will do, said before it starts: runs, times, what is chosen and why, what it can detect."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqbench import pace, stats
from seqbench.budget import duration_s, in_words
from seqbench.config import Job
from seqbench.earlier import Earlier, sweeps
from seqbench.forecast import Forecast, hand_on, pilot, scratch
from seqbench.metric import ACCURACY, METRICS, Metric
from seqbench.pace import Chosen, Pace
from seqbench.plan import Unit, plan

_EXAMPLE = 0.05  # a spread of differences, to give an idea


def foresee(
    jobs: list[Job],
    words: Sequence[str],
    place: Callable[[Sequence[Job]], Path],
    slots: int,
    console: Console,
    began: float,
    *,
    launched: bool = False,
) -> tuple[Pace, Chosen]:
    """Time a pilot, choose what to do in the time there is, and say it.

    Nothing stays on disk but, where the command goes on, widths that were solved by measuring.

    Args:
        words: the command's.
        place: the folder of the sweep of some jobs.
        began: monotonic clock when the command started.
        launched: a launcher's workers do the runs: how long is not known here.

    Raises:
        UsageError: the budget cannot be kept, or the data of a task not be used.
    """
    job, sweep = jobs[0], place(jobs)
    known = Earlier.of(sweeps(Path(job.runs_dir), sweep))
    if launched:
        ahead = Pace(Forecast({}, slots, known), words, place, began)
        chosen = ahead.choose(jobs)
        _say(console, "how long runs take under a launcher is not known here")
        show(console, ahead, chosen, plan(chosen.jobs, sweep))
        return ahead, chosen
    _say(console, "timing a pilot of each kind of run ...")
    with scratch(sweep) as here:
        units = plan(pace.seeded(jobs, job.seeds[:1]), here)
        costs = pilot(units, slots, here)
        limit_s = duration_s(job.budget) or math.inf
        ahead = Pace(Forecast(costs, slots, known), words, place, began, limit_s)
        chosen = ahead.choose(jobs)
        if not job.dry_run:
            hand_on(here, place(chosen.jobs))
    show(console, ahead, chosen, plan(chosen.jobs, place(chosen.jobs)))
    return ahead, chosen


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def show(console: Console, ahead: Pace, chosen: Chosen, units: list[Unit]) -> None:
    """Everything there is to say before the first run."""
    search_s = ahead.search_s(chosen.jobs)
    console.print(_table(ahead, chosen, units, search_s))
    for line in [
        *ahead.forecast.unknown(units),
        *_chosen(ahead, chosen),
        *_times(ahead, units, search_s),
        *_memory(ahead),
        *detectable(chosen.jobs, len(chosen.seeds), ahead.forecast.earlier),
    ]:
        _say(console, line)


def _table(ahead: Pace, chosen: Chosen, units: list[Unit], search_s: float) -> Table:
    """Runs and times of every model on every task, of canaries, tuning and speed."""
    made = Table(
        title="what will run, and the most it takes on one core",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    made.add_column("task")
    made.add_column("model", overflow="fold")
    for name in ("runs", "reused", "s/run", "minutes"):
        made.add_column(name, justify="right")
    if chosen.trials:
        made.add_row("", f"tuning, {chosen.trials} trials each", "", "", "", _minutes(search_s))
    groups: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        name = "speed, alone" if unit.kind == "speed" else unit.job.model.variant()
        name += " (canary)" if unit.companion else ""
        groups.setdefault(("" if unit.kind == "speed" else unit.job.task.name, name), []).append(unit)
    for (task, name), some in groups.items():
        made.add_row(task, Text(name), *_row(ahead, some))
    return made


def _row(ahead: Pace, some: list[Unit]) -> list[str]:
    """A line of the table; minutes are those of one core, of the runs that are not reused."""
    todo = ahead.todo(some)
    each = [ahead.forecast.run_s(unit, at_most=True) for unit in todo]
    longest = f"{max(each):.1f}" if any(each) else "-"
    return [str(len(some)), str(len(some) - len(todo)), longest, _minutes(sum(each))]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds else "-"


def _chosen(ahead: Pace, chosen: Chosen) -> list[str]:
    """What the budget chose."""
    if math.isinf(ahead.limit_s):
        return []
    count = len(chosen.seeds)
    grown = "fit though no run may stop early; whole rounds of one more seed of every model, while they fit"
    why = grown if chosen.grows else "as typed"
    tuning = f"{chosen.trials} trials for each model" if chosen.trials else "none"
    return [f"seeds: {count}, {why}", f"tuning: {tuning} ({chosen.tuning})"]


def _times(ahead: Pace, units: list[Unit], search_s: float) -> list[str]:
    """How long it takes, and when it ends."""
    if not ahead.forecast.costs:
        return []
    spent_s = time.monotonic() - ahead.began
    whole_s = spent_s + search_s + ahead.whole_s(units)
    if math.isinf(ahead.limit_s):
        return [f"time: at most {in_words(whole_s)} in all, until {_clock(whole_s - spent_s)}"]
    end = f"ends by {_clock(max(ahead.limit_s, whole_s) - spent_s)}"
    return [f"time: at most {in_words(whole_s)} of {in_words(ahead.limit_s)}, pilot included; {end}"]


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


def _memory(ahead: Pace) -> list[str]:
    peak, slots = ahead.forecast.peak_bytes, ahead.forecast.slots
    if not peak:
        return []
    beside = f"{slots} runs side by side, each" if slots > 1 else "one run at a time,"
    return [f"memory: {beside} up to {peak / 2**30:.1f} GiB"]


def detectable(jobs: Sequence[Job], seeds: int, earlier: Earlier) -> list[str]:
    """The smallest differences that so many seeds find with power 0.8, corrected for all comparisons."""
    rivals = {job.task.name: [one for one in jobs if one.task.name == job.task.name] for job in jobs}
    tests = sum(len(some) - 1 for some in rivals.values())
    if tests < 1:
        return []
    if seeds < stats.FEWEST:
        return [f"detectable: nothing with so few seeds: it takes {stats.FEWEST} at least"]
    size = stats.detectable(1.0, seeds, alpha=stats.ALPHA / tests)
    told = f"with {seeds} seeds, power 0.8 and {tests} {'comparison' if tests == 1 else 'comparisons'}"
    unknown, lines = [], []
    for task, some in rivals.items():
        metric, spread = _metric(some[0]), earlier.spread(task)
        if spread is None:
            unknown.append(task)
            continue
        beyond = ", more than is possible" if size * spread.sd > metric.most else ""
        lines.append(
            f"detectable on {task}: differences of {size * spread.sd:.2g} in {metric.name}{beyond}, {told}; "
            f"spread from {spread.runs} earlier runs"
        )
    if unknown:
        lines.append(
            f"detectable on {' and '.join(unknown)}: differences of {size:.2g} times their standard "
            f"deviation over seeds (not known yet; were it {_EXAMPLE:g}: {size * _EXAMPLE:.2g}), {told}"
        )
    return lines


def _metric(job: Job) -> Metric:
    rung = job.task.rungs()[0]
    return METRICS.get(dataclasses.replace(job, task=rung).task.card().metric, ACCURACY)
