"""Tables of size, speed and memory: on the tasks' own batches, and on the grid of full sequences."""

from __future__ import annotations

import math

import pandas as pd

from seqbench.report import scaling
from seqbench.report.frame import Sweep
from seqbench.report.scaling import Law
from seqbench.report.speeds import FEWEST_FOR_P90
from seqbench.report.summary import same
from seqbench.report.tables import NONE, Entry, Table, first, first_text, middle, model, number, span, text
from seqbench.report.task import Task
from seqbench.stats import Power


def costs(sweep: Sweep, speeds: pd.DataFrame) -> Table:
    """Size, speed and memory at every timed length."""
    heads = [
        ("task", False), ("model", False), ("parameters", True), ("width", True), ("train step (ms)", True),
        ("p90 or max (ms)", True), ("forward (ms)", True), ("timed steps (train, forward)", True),
        ("valid tokens/s", True), ("peak memory (MB)", True), ("saved for backward (MB)", True),
        ("share of peak", True), ("CPU s to train", True), ("kernel", False),
    ]  # fmt: skip
    rows = []
    for task in sweep.tasks:
        timed = {int(r) for r in speeds[speeds["task"] == task.key]["rung"].dropna()}
        every = sorted(timed | {rung for rung in task.rungs if rung is not None})
        rungs: list[int | None] = list(every) or [None]
        for rung in rungs if not sweep.speed_alone or len(speeds) else ():
            rows += [_cost(sweep, speeds, task, rung, label) for label in sweep.labels]
    return filled(
        Table(
            f"Size, speed and memory at every timed length{sweep.clocks.caption()}",
            heads,
            [row for row in rows if row],
        )
    )


def filled(table: Table) -> Table:
    """The table without columns of numbers that nobody could fill (older records lack some)."""
    kept = [
        place
        for place, (_, numeric) in enumerate(table.heads)
        if not numeric or any(row[place].text not in (NONE, "") for row in table.rows)
    ]
    rows = [[row[place] for place in kept] for row in table.rows]
    return Table(table.caption, [table.heads[place] for place in kept], rows)


def _cost(sweep: Sweep, speeds: pd.DataFrame, task: Task, rung: int | None, label: str) -> list[Entry]:
    runs = sweep.runs[(sweep.runs["task"] == task.key) & (sweep.runs["label"] == label)]
    if runs.empty:
        return []
    timed = speeds[(speeds["task"] == task.key) & (speeds["label"] == label) & same(speeds["rung"], rung)]
    step = {mode: group.iloc[0] for mode, group in timed.groupby("mode")}
    train, forward = step.get("train"), step.get("forward")
    trained = runs[(runs["kind"] == "train") & same(runs["rung"], rung)]
    return [
        text(task.at(rung)),
        model(label),
        number(first(runs["parameters"]), "{:,.0f}"),
        number(first(runs["width"]), "{:.0f}"),
        number(None if train is None else 1e3 * train["median_s"], "{:.2f}"),
        _slow(train),
        number(None if forward is None else 1e3 * forward["median_s"], "{:.2f}"),
        _timed(train, forward),
        number(None if train is None else train["valid_tokens_per_s"], "{:,.0f}"),
        *_memory_and_share(train),
        number(middle(trained["train_cpu_s"]), "{:.2f}"),
        text(_kernel(runs)),
    ]


def _memory_and_share(train: pd.Series | None) -> list[Entry]:
    """Peak memory, what autograd keeps, and the share of the peak rate, of training steps."""
    if train is None:
        return [number(None)] * 3
    sizes = [number(train[name] / 1e6, "{:.3g}") for name in ("memory_bytes", "saved_bytes")]
    return [*sizes, number(train["peak_share"], "{:.0%}")]


def _kernel(runs: pd.DataFrame) -> str:
    """What the model says that it runs on, and what was seen to run."""
    told, seen = first_text(runs["kernel"]), first_text(runs["kernel_found"])
    return told if seen in (NONE, told) else f"{told}; seen: {seen}"


def _slow(step: pd.Series | None) -> Entry:
    """The 90th percentile, or the maximum of steps that are too few to have one, in milliseconds."""
    if step is None:
        return number(None)
    count = int(step["timed"])
    return number(1e3 * step["slow_s"], "{:.2f}" if count >= FEWEST_FOR_P90 else f"{{:.2f}} (max of {count})")


def _timed(train: pd.Series | None, forward: pd.Series | None) -> Entry:
    counts = [NONE if step is None else str(int(step["timed"])) for step in (train, forward)]
    return Entry(", ".join(counts), math.inf if train is None else float(train["timed"]))


def grid(sweep: Sweep, points: pd.DataFrame) -> Table | None:
    """Every point of the grid, those that were left out with the reason; None without a grid."""
    left_out = scaling.absent(sweep)
    if points.empty and not left_out:
        return None
    heads = [
        ("task", False), ("model", False), ("parameters", True), ("T", True), ("batch", True),
        ("train step (ms)", True), ("p90 or max (ms)", True), ("forward (ms)", True),
        ("p90 or max, forward (ms)", True), ("timed steps (train, forward)", True), ("valid tokens/s", True),
        ("peak memory (MB)", True), ("saved for backward (MB)", True), ("GFLOP/s", True),
        ("share of peak", True), ("remark", False),
    ]  # fmt: skip
    rows: list[tuple[tuple[str, int, int, int], list[Entry]]] = []
    order = {label: number for number, label in enumerate(sweep.labels)}
    keys = ["task", "label", "steps", "batch_size"]
    for (task, label, steps, size), group in points.groupby(keys, sort=False):
        place = (str(task), order.get(str(label), 0), int(float(str(steps))), int(float(str(size))))
        rows.append((place, [*_place(sweep, place, str(label)), *_point(group), text("")]))
    for row in left_out:
        place = (str(row["task"]), order.get(str(row["label"]), 0), int(row["steps"]), int(row["batch_size"]))
        lead = _place(sweep, place, str(row["label"]))
        rows.append((place, [*lead, *[number(None)] * 10, text(scaling.why(row), "note")]))
    rows.sort(key=lambda row: row[0])
    found = Table(
        f"Every length and batch size of full sequences{sweep.clocks.caption()}",
        heads,
        [cells for _, cells in rows],
    )
    return filled(found)


def _place(sweep: Sweep, place: tuple[str, int, int, int], label: str) -> list[Entry]:
    task, _, steps, size = place
    runs = sweep.runs[(sweep.runs["task"] == task) & (sweep.runs["label"] == label)]
    lead = [text(task), model(label), number(first(runs["parameters"]), "{:,.0f}")]
    return [*lead, number(steps, "{}"), number(size, "{}")]


def _point(group: pd.DataFrame) -> list[Entry]:
    step = {str(mode): rows.iloc[0] for mode, rows in group.groupby("mode")}
    train, forward = step.get("train"), step.get("forward")
    sizes, rate = [number(None)] * 2, number(None)
    if train is not None:
        rate = number(train["flops_per_s"] / 1e9, "{:.3g}")
        *sizes, share = _memory_and_share(train)
    else:
        share = number(None)
    return [
        number(None if train is None else 1e3 * train["median_s"], "{:.2f}"),
        _slow(train),
        number(None if forward is None else 1e3 * forward["median_s"], "{:.2f}"),
        _slow(forward),
        _timed(train, forward),
        number(None if train is None else train["valid_tokens_per_s"], "{:,.0f}"),
        *sizes,
        rate,
        share,
    ]


def laws(found: list[Law]) -> Table | None:
    """How each model's time and memory grow with the length; None without a grid of lengths."""
    known = [law for law in found if math.isfinite(law.time.value)]
    if not known:
        return None
    heads = [
        ("task", False), ("model", False), ("time: power of T", True), ("95 % interval", True),
        ("saved for backward: power of T", True), ("95 % interval", True), ("peak memory: power of T", True),
        ("read from T", False), ("FLOPs of pairs of steps", True),
    ]  # fmt: skip
    rows = [
        [
            text(law.task), model(law.label), *_power(law.time), *_power(law.saved),
            number(law.memory.value, "{:.2f}"), text(f"{law.time.first:.0f} to {law.time.last:.0f}"),
            number(law.pairs, "{:.0%}"),
        ]
        for law in known
    ]  # fmt: skip
    return filled(Table("How a training step grows with the length", heads, rows))


def _power(power: Power) -> list[Entry]:
    ends = span(power.low, power.high, f"[{power.low:.2f}, {power.high:.2f}]")
    return [number(power.value, "{:.2f}"), ends]
