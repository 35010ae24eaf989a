"""Live progress in the terminal: a row per running run, a line the moment one ends."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from seqbench.isolate import last_event
from seqbench.metric import ACCURACY, METRICS
from seqbench.plan import Unit
from seqbench.records import Run

_PLAIN_EVERY_S = 20.0


class Display:
    """Rows that update in place on a terminal; plain lines elsewhere."""

    def __init__(self, console: Console, total: int, reused: int) -> None:
        self.console, self.total, self.count = console, total, reused
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[note]}"),
            console=console, transient=True, auto_refresh=False,
        )  # fmt: skip
        self.live = console.is_terminal
        self._rows: dict[str, TaskID] = {}
        self._all = self.progress.add_task("all runs", total=total, completed=reused, note="")
        self._said = time.monotonic()

    def __enter__(self) -> Display:
        if self.live:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.progress.stop()

    def tick(self, running: list[Unit]) -> None:
        """Show where every running unit is."""
        due = time.monotonic() - self._said >= _PLAIN_EVERY_S
        if not (self.live or due):
            return
        self._said = time.monotonic() if due else self._said
        for unit in running:
            note, step, steps = describe_event(unit)
            if not self.live:
                self._say(f"  running  {unit.label}  {note}")
                continue
            if unit.identity not in self._rows:
                self._rows[unit.identity] = self.progress.add_task(unit.label, total=None, note="")
            self.progress.update(self._rows[unit.identity], completed=step, total=steps, note=note)
        if self.live:
            self.progress.update(self._all, note=f"{self.count}/{self.total}")
            self.progress.refresh()

    def again(self, units: Sequence[Unit], why: str) -> None:
        """Say that units start again."""
        more = f" and {len(units) - 1} more" if len(units) > 1 else ""
        self._say(f"  again    {units[0].label}{more}: {why}", "yellow")

    def ended(self, unit: Unit, run: Run) -> None:
        """Say how a unit ended."""
        self.count += 1
        if unit.identity in self._rows:
            self.progress.remove_task(self._rows.pop(unit.identity))
        self.progress.update(self._all, completed=self.count)
        width = len(str(self.total))
        line = f"[{self.count:{width}}/{self.total}] {run.status:<8} {unit.label:<40} {outcome(run)}"
        self._say(line, None if run.status == "done" else "bold red")

    def _say(self, line: str, style: str | None = None) -> None:
        """Print words as they are."""
        self.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def describe_event(unit: Unit) -> tuple[str, int, int | None]:
    """The newest progress of a running unit as ``(words, step, steps)``."""
    event = last_event(unit.folder)
    if event is None:
        return "timing, alone on the machine" if unit.kind == "speed" else "starting", 0, None
    step, steps = int(event["step"]), int(event["steps"])
    score = "" if event["score"] is None else f"  {event['metric']} {event['score']:.3g}"
    note = f"step {step}/{steps}  loss {event['loss']:.3f}{score}  <= {event['left_s']:.0f} s left"
    return note, step, steps


def outcome(run: Run) -> str:
    """A run's result in a few words."""
    metrics = run.metrics
    if run.error is not None:
        return f"{run.error['type']}: {run.error['message'].splitlines()[0] if run.error['message'] else ''}"
    if run.kind == "speed":
        return "speed measured"
    solved = (
        f"solved at step {metrics['solved_step']}" if metrics.get("solved") else f"{metrics['steps']} steps"
    )
    return f"{score(run)}  {solved}  {metrics['train_cpu_s']:.1f} CPU s"


def score(run: Run) -> str:
    """A run's test score with its metric; a trial's best on validation."""
    metric = METRICS[str(run.card.get("metric", ACCURACY.name))]
    if run.kind == "trial":
        return f"validation {metric.short} {float(run.metrics['best_valid_score'] or 0.0):.3g}"
    loss, accuracy = (run.metrics[f"test_{name}"] for name in ("loss", "accuracy"))
    value = metric.of(float(loss or 0.0), math.nan if accuracy is None else float(accuracy))
    return f"{metric.short} {value:.3g}" if metric.relative else f"{metric.short} {value:.3f}"
