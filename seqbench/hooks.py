"""When a sweep ends: summary, verdicts, failed runs, report, exit code."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from seqbench.report.frame import Sweep
    from seqbench.report.summary import Cell
    from seqbench.report.task import Task

_MOST_RUNGS = 8
_MOST_FAILURES = 20
_COLOURS = {"all": "green", "some": "yellow", "none": "dim"}


def finish(
    folder: Path,
    reports: Path,
    console: Console,
    wanted: Collection[str] | None = None,
    unrecorded: Sequence[str] = (),
    pages: str = "full",
) -> int:
    """Say in the terminal what the sweep showed and write its page.

    Args:
        pages: what is written, "full", "lesson" or "both".
        wanted: folders of the runs that decide the exit code; None: all of the sweep.
        unrecorded: runs that failed and left nothing in ``folder``, in words.

    Returns:
        0, or 1 when a wanted run is not done, there is none, or the page could not be written.
    """
    from seqbench.report.facts import commands
    from seqbench.report.frame import read_sweep
    from seqbench.report.samples import samples
    from seqbench.report.speeds import speeds
    from seqbench.report.summary import cells, flow_table, flows
    from seqbench.report.verdict import compare, headline, verdicts

    sweep = read_sweep(folder)
    grid, timed = cells(sweep), speeds(sweep)
    for task in () if sweep.speed_alone else sweep.tasks:
        console.print(table(sweep, task, grid, timed))
        if points := task.points(task.rungs[-1]):
            levels = "; ".join(f"{source} {value:g}" for source, value in points.items())
            say(console, f"published: {levels}\n", wrap=False)
    for line in sweep.clocks.words():
        say(console, f"{line}\n", "yellow")
    say(console, headline(sweep, grid), "bold")
    found = flows(sweep, flow_table(sweep))
    for verdict in verdicts(sweep, grid, found, compare(sweep, whole=True)):
        say(console, verdict.line)
    console.print()
    for sample in samples(sweep):
        say(console, f"{sample.label} writes:", "bold")
        say(console, f"{sample.text}\n", wrap=False)
    _runs(sweep, console)
    runs = sweep.runs if wanted is None else sweep.runs[sweep.runs["folder"].isin(list(wanted))]
    missing = set(wanted or ()) - set(runs["folder"])
    if missing:
        say(
            console,
            f"{len(missing)} runs of this command: another one planned them anew, with other code",
            "red",
        )
    answered = runs["kind"].eq("trial") & runs["status"].eq("diverged")  # a trial may diverge
    good = set(runs["status"][~answered]) == {"done"} and not missing
    for line in unrecorded:
        say(console, f"pending, without a record: {line}", "red")
    for command in commands(sweep):
        say(console, f"repeat: {command}", wrap=False)
    return 0 if _written(sweep, reports, pages, console) and good else 1


def _written(sweep: Sweep, reports: Path, pages: str, console: Console) -> bool:
    """Write the report, the lesson or both, and the index; False when one of them cannot be written."""
    from seqbench.report import build_index, stem
    from seqbench.report.lesson import write_lesson
    from seqbench.report.page import write_page

    ways = {"full": ("report", write_page, ".html"), "lesson": ("lesson", write_lesson, ".lesson.html")}
    for name, write, ending in (way for kind, way in ways.items() if pages in (kind, "both")):
        try:
            say(console, f"{name}: {write(sweep, reports / (stem(sweep.folder) + ending))}", wrap=False)
        except UsageError as error:
            say(console, f"no {name}: {error}", "red")
            return False
    try:
        index = build_index(sweep.folder.parent, reports / "index.html")
    except UsageError as error:
        say(console, f"no index of all sweeps: {error}", "red")
        return False
    say(console, f"all sweeps: {index}", wrap=False)
    return True


def say(console: Console, line: str, style: str = "", *, wrap: bool = True) -> None:
    """Print words that are not ours to interpret: no markup, no highlighting."""
    console.print(Text(line, style), highlight=False, soft_wrap=not wrap)


def table(sweep: Sweep, task: Task, grid: list[Cell], timed: pd.DataFrame) -> Table:
    """A task's results: solved runs at each rung, score, speed and size of every model."""
    from rich import box

    title = Text(_title(task, sweep))
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("model", overflow="fold")
    rungs = task.rungs[-_MOST_RUNGS:]
    for rung in rungs:
        made.add_column(_head(task, rung), justify="right", no_wrap=True)
    for name in (task.metric.short, "tokens/s", "params", "MB", "runs"):
        made.add_column(name, justify="right", no_wrap=True)
    for label in sweep.labels:
        mine = [cell for cell in grid if cell.task is task and cell.label == label]
        if mine:
            shown = [_solved(next((c for c in mine if c.rung == rung), None)) for rung in rungs]
            made.add_row(Text(label), *shown, *_numbers(sweep, task, label, mine, timed))
    for name, value in floors(task).items():
        blank = [""] * len(rungs)
        made.add_row(Text(f"floor: {name}", "dim"), *blank, Text(task.metric.shown(value), "dim"))
    return made


def floors(task: Task) -> dict[str, float]:
    """The floors that every rung has: their means over the rungs, like the models' scores."""
    every = [task.floors(rung) for rung in task.rungs if rung in task.cards]
    names = [name for name in (every[-1] if every else {}) if all(name in levels for levels in every)]
    return {name: sum(levels[name] for levels in every) / len(every) for name in names}


def _title(task: Task, sweep: Sweep) -> str:
    from seqbench.report.facts import seeds_in_words

    kind = task.metric.name if task.solved_at is None else "solved runs"
    return f"{task.key}: {kind} ({seeds_in_words(sweep)})"


def _head(task: Task, rung: int | None) -> str:
    if rung is None:
        return "score" if task.solved_at is None else "solved"
    return f"{task.symbol}={rung}"


def _solved(cell: Cell | None) -> Text:
    from seqbench.report.tables import share

    if cell is None or not cell.finished:
        return Text("-", "dim")
    if cell.task.solved_at is None:
        return Text(cell.task.metric.shown(cell.score.mean))
    return Text(
        f"{cell.solved}/{cell.finished}", _COLOURS[share(cell.solved, cell.finished, cell.missing).kind]
    )


def _numbers(sweep: Sweep, task: Task, label: str, mine: list[Cell], timed: pd.DataFrame) -> list[Text]:
    """Accuracy over the rungs, speed and memory at the highest trained one, parameters, runs done."""
    import pandas as pd

    from seqbench.report.summary import same

    runs = sweep.runs[(sweep.runs["task"] == task.key) & (sweep.runs["label"] == label)]
    ended = [cell.score.mean for cell in mine if cell.finished]
    here = timed[(timed["task"] == task.key) & (timed["label"] == label) & (timed["mode"] == "train")]
    here = here[same(here["rung"], task.rungs[-1])]
    size = pd.to_numeric(runs["parameters"], errors="coerce").max()
    runs = runs[runs["kind"] != "trial"]
    done = int((runs["status"] == "done").sum())
    return [
        Text(task.metric.shown(sum(ended) / len(ended)) if ended else "-"),
        Text(short(here["valid_tokens_per_s"].max())),
        Text(short(size)),
        Text(short(here["memory_bytes"].max() / 1e6)),
        Text(f"{done}/{len(runs)}", "" if done == len(runs) else "red"),
    ]


def short(value: float) -> str:
    """A number in few characters.

    >>> short(254321.0), short(35417.0), short(float("nan")), short(27.2)
    ('254k', '35.4k', '-', '27')
    """
    if value != value:  # noqa: PLR0124
        return "-"
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{sign}" if value < 100 * size else f"{value / size:.0f}{sign}"
    return f"{value:.0f}"


def _runs(sweep: Sweep, console: Console) -> None:
    """Count the runs by status and name every one that failed."""
    from seqbench.collected import in_words
    from seqbench.report.facts import failures
    from seqbench.report.summary import counted

    say(console, counted(sweep))
    if sweep.left_out:
        left = sum(sweep.left_out.values())
        say(console, f"left out: {left} finished runs of this folder ({in_words(sweep.left_out)})")
    found = failures(sweep)
    for failure in found[:_MOST_FAILURES]:
        say(console, f"{failure.status}: {failure.name}: {failure.reason or 'no reason recorded'}", "red")
        say(console, f"  log: {sweep.folder / failure.folder / 'log.txt'}", wrap=False)
    if len(found) > _MOST_FAILURES:
        say(console, f"... and {len(found) - _MOST_FAILURES} more; the report lists them", "red")
