"""What the grid of lengths and batch sizes shows: powers, crossings, and what was left out, in words.

A training step at a length is the median of its timed steps. All words are computed from the records.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.speeds import grid, placed, points
from seqbench.stats import Power, power_of, power_of_medians

_GROWS = 1.1  # operations per step at the longest length, relative to the shortest
_MOST_LEFT_OUT = 12
_MOST_MEETINGS = 4


@dataclass(frozen=True)
class Law:
    """How one model's training step grows with the length.

    Attributes:
        time: from the raw steps; ``saved``: what autograd keeps; ``memory``: peak of the process.
        pairs: share of the operations, at the longest length, that grows with the square of it.
        batch_size: sequences per step.
    """

    task: str
    label: str
    time: Power
    saved: Power
    memory: Power
    pairs: float
    batch_size: int

    @property
    def square(self) -> bool:
        """Whether its operations per step grow with the length: attention."""
        return self.pairs > 0


@dataclass(frozen=True)
class Meeting:
    """Where two models take the same time, or who is quicker at every length.

    Attributes:
        quicker: for each stretch between crossings whether the first is quicker.
        at: the crossings, interpolated between measured lengths on logarithmic axes.
    """

    label: str
    other: str
    quicker: tuple[bool, ...]
    at: tuple[float, ...]
    shortest: int
    longest: int


def lengths(found: pd.DataFrame) -> pd.DataFrame:
    """The points along the axis of lengths: those of the batch size that has most of them."""
    return _axis(found, "batch_size", "steps")


def sizes(found: pd.DataFrame) -> pd.DataFrame:
    """The points along the axis of batch sizes: those of the length that has most of them."""
    return _axis(found, "steps", "batch_size")


def _axis(found: pd.DataFrame, fixed: str, free: str) -> pd.DataFrame:
    """Points with one value of ``fixed``, the one with most different values of ``free``; at least two."""
    counts = found.groupby(fixed)[free].nunique()
    if counts.empty or counts.max() < 2:
        return found.head(0)
    return found[found[fixed] == counts.idxmax()].sort_values(free, kind="stable")


def laws(sweep: Sweep, task: str) -> list[Law]:
    """The law of every model that has at least two lengths on a task."""
    every = points(sweep)
    line = lengths(every[(every["task"] == task) & (every["mode"] == "train")])
    raw = grid(sweep)
    raw = raw[(raw["task"] == task) & (raw["mode"] == "train")]
    return [
        law
        for label in sweep.labels
        if (law := _law(task, label, line[line["label"] == label], raw[raw["label"] == label])) is not None
    ]


def _law(task: str, label: str, line: pd.DataFrame, raw: pd.DataFrame) -> Law | None:
    if len(line) < 2:
        return None
    size = int(line["batch_size"].iloc[0])
    mine = raw[raw["batch_size"] == size]
    steps = {float(str(length)): group["step_s"] for length, group in mine.groupby("steps")}
    saved, peak = (
        dict(zip(line["steps"].astype(float), line[name], strict=True))
        for name in ("saved_bytes", "memory_bytes")
    )
    counted = mine.groupby("steps")["flops"].first() if "flops" in mine else pd.Series(dtype=float)
    time = power_of_medians(steps)
    return Law(task, label, time, power_of(saved), power_of(peak), _pairs(counted), size)


def _pairs(flops: pd.Series) -> float:
    """Share of the operations at the longest length that is quadratic in it; NaN where not counted.

    Operations are a T + b T^2 up to a constant, so that two lengths tell both.
    """
    flops = flops[flops > 0].dropna().sort_index()
    if len(flops) < 2:
        return math.nan
    (short, less), (long, more) = (
        (float(flops.index[0]), flops.iloc[0]),
        (float(flops.index[-1]), flops.iloc[-1]),
    )
    if more / long < _GROWS * less / short:
        return 0.0
    square = (more / long - less / short) / (long - short)
    return float(square * long**2 / more)


def meetings(line: pd.DataFrame, label: str, others: Sequence[str]) -> list[Meeting]:
    """Where a model's training step takes as long as each other's.

    Args:
        line: points of training steps along the lengths.
    """
    found = []
    for other in others:
        pair = [line[line["label"] == name].set_index("steps")["median_s"] for name in (label, other)]
        both = pd.concat(pair, axis=1, join="inner", keys=["mine", "theirs"]).dropna().sort_index()
        if len(both) >= 2:
            found.append(_meeting(label, other, both))
    return found


def _meeting(label: str, other: str, both: pd.DataFrame) -> Meeting:
    steps = [float(length) for length in both.index]
    behind = [math.log(mine / theirs) for mine, theirs in zip(both["mine"], both["theirs"], strict=True)]
    quicker, at = [behind[0] < 0], []
    for (x, gap), (further, then) in itertools.pairwise(zip(steps, behind, strict=True)):
        if (then < 0) != quicker[-1]:
            quicker.append(then < 0)
            share = gap / (gap - then)
            at.append(math.exp(math.log(x) + share * math.log(further / x)))
    return Meeting(label, other, tuple(quicker), tuple(at), int(steps[0]), int(steps[-1]))


def met(found: Sequence[Meeting]) -> list[str]:
    """Meetings in words; those without a crossing together."""
    told = [_crossed(one) for one in found if one.at]
    never: dict[tuple[str, bool, int, int], list[str]] = {}
    for one in found:
        if not one.at:
            key = (one.label, one.quicker[0], one.shortest, one.longest)
            never.setdefault(key, []).append(one.other)
    for (label, quicker, shortest, longest), others in never.items():
        how = "quicker" if quicker else "slower"
        where = f"from T={shortest} to T={longest}: no crossing up to T={longest}"
        told.append(f"{label} is {how} than {', '.join(others)} {where}")
    return told


def _crossed(meeting: Meeting) -> str:
    """Who is the quicker one on each side of every crossing."""
    told = []
    ends = [*(f"about T={_round(at)}" for at in meeting.at), f"T={meeting.longest}"]
    for number, (quicker, end) in enumerate(zip(meeting.quicker, ends, strict=True)):
        first, second = (meeting.label, meeting.other) if quicker else (meeting.other, meeting.label)
        who = f"{first} is quicker than {second}" if number == 0 else f"then {first}"
        told.append(f"{who} up to {end}")
    return ", ".join(told)


def _round(length: float) -> str:
    """A length in two digits, since it is interpolated.

    >>> _round(1234.0), _round(87.6)
    ('1,200', '88')
    """
    digits = max(0, math.floor(math.log10(length)) - 1)
    return f"{round(length, -digits):,.0f}"


def power_in_words(power: Power) -> str:
    """A power with its interval.

    >>> power_in_words(Power(1.02, 1.0, 1.04, 512, 4096))
    '1.02 [1.00, 1.04]'
    """
    if not math.isfinite(power.value):
        return "not known"
    ends = f" [{power.low:.2f}, {power.high:.2f}]" if math.isfinite(power.low) else ""
    return f"{power.value:.2f}{ends}"


def why(row: Mapping[Any, Any]) -> str:
    """Why a point was left out.

    >>> why({"steps": 4096, "batch_size": 8, "reason": "time", "about_s": 9.1, "about_bytes": 3.1e9,
    ...      "limit_s": 5.0, "limit_bytes": 8e9})
    'left out at T=4096, batch 8: would take about 9.1 s and 3.1 GB, more than the 5 s allowed'
    """
    place = f"left out at T={row['steps']:.0f}, batch {row['batch_size']:.0f}"
    about_s, about_bytes = float(row["about_s"]), float(row["about_bytes"])
    known = math.isfinite(about_s) and math.isfinite(about_bytes)
    about = f"would take about {about_s:.2g} s and {_bytes(about_bytes)}" if known else ""
    if row["reason"] == "out of memory":
        return f"{place}: tried, and ran out of memory" + (f" ({about})" if about else "")
    limit = f"{row['limit_s']:.3g} s" if row["reason"] == "time" else _bytes(float(row["limit_bytes"]))
    return f"{place}: {about}, more than the {limit} allowed"


def _bytes(size: float) -> str:
    """A size in words.

    >>> _bytes(3.1e9), _bytes(2.5e7)
    ('3.1 GB', '25 MB')
    """
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def absent(sweep: Sweep, task: str | None = None) -> list[dict[Any, Any]]:
    """The points that were left out (on a task), with the reason."""
    table = sweep.table("left_out")
    chosen = placed(table) if task is None else placed(table) & (table["task"] == task)
    rows: list[dict[Any, Any]] = table[chosen].to_dict("records")
    return rows


def left_out(sweep: Sweep, task: str | None = None) -> list[str]:
    """Every point that was left out (on a task), in words."""
    rows = absent(sweep, task)
    told = [f"{row['label']} {why(row)}." for row in rows[:_MOST_LEFT_OUT]]
    return told + (
        [f"{len(rows) - _MOST_LEFT_OUT} more; see the table."] if len(rows) > _MOST_LEFT_OUT else []
    )


def crossings(sweep: Sweep, task: str, found: list[Law]) -> list[Meeting]:
    """Where models whose cost grows with the square of the length meet those whose cost does not."""
    every = points(sweep)
    line = lengths(every[(every["task"] == task) & (every["mode"] == "train")])
    others = [law.label for law in found if not law.square]
    return [one for law in found if law.square for one in meetings(line, law.label, others)]


def headline(sweep: Sweep) -> str:
    """What a sweep that trained nothing measured, in a few sentences; empty where something was trained."""
    if not sweep.speed_alone:
        return ""
    told = [words for task in sweep.tasks if (words := _headline(sweep, task.key))]
    if told:
        return " ".join(told)
    return "Speed was measured, and nothing was trained." if len(sweep.table("speed")) else ""


def _headline(sweep: Sweep, task: str) -> str:
    every = points(sweep)
    train = every[(every["task"] == task) & (every["mode"] == "train")]
    line = lengths(train)
    line = line if len(line) else train
    if line.empty:
        return ""
    sentences = []
    for steps in dict.fromkeys((line["steps"].min(), line["steps"].max())):
        here = line[line["steps"] == steps].sort_values("median_s")
        quick, slow = here.iloc[0], here.iloc[-1]
        more = f", {slow['label']} the most ({duration(slow['median_s'])})" if len(here) > 1 else ""
        absent = [label for label in sweep.labels if label not in set(here["label"])]
        absent = [label for label in absent if label in set(line["label"])]
        sentences.append(
            f"At T={steps:.0f}, {slow['batch_size']:.0f} sequences at once, {quick['label']} takes the least "
            f"time for a training step ({duration(quick['median_s'])}){more}"
            f"{'; left out there: ' + ', '.join(absent) if absent else ''}."
        )
    found = crossings(sweep, task, laws(sweep, task))
    sentences += [f"{words[:1].upper()}{words[1:]}." for words in met(found)[:_MOST_MEETINGS]]
    return " ".join(sentences)


def lines(sweep: Sweep) -> list[tuple[str, str]]:
    """Of every model of a sweep that trained nothing: its label, and what was measured of it."""
    if not sweep.speed_alone:
        return []
    found = {(law.task, law.label): law for task in sweep.tasks for law in laws(sweep, task.key)}
    every = points(sweep)
    told = []
    for label in sweep.labels:
        parts = [
            words
            for task in sweep.tasks
            if (words := _line(every[every["task"] == task.key], label, found.get((task.key, label))))
        ]
        told.append((label, "; ".join(parts) or "timed on the task's own batches"))
    return told


def _line(every: pd.DataFrame, label: str, law: Law | None) -> str:
    mine = every[(every["label"] == label) & (every["mode"] == "train")]
    if mine.empty:
        return ""
    parts = []
    if law is not None:
        span = f"from T={law.time.first:.0f} to T={law.time.last:.0f}"
        parts.append(
            f"{span} the time of a training step grows like T to the power {power_in_words(law.time)}, what "
            f"it keeps for the backward pass like T to the {law.saved.value:.2f}"
        )
    best = mine.sort_values("valid_tokens_per_s", kind="stable").iloc[-1]
    parts.append(
        f"at most {theme.plain(best['valid_tokens_per_s'])} tokens per second (T={best['steps']:.0f}, batch "
        f"{best['batch_size']:.0f})"
    )
    if mine["peak_share"].notna().any():
        parts.append(f"at best {mine['peak_share'].max():.0%} of the measured peak")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(0.00123), duration(2.5)
    ('1.2 ms', '2.5 s')
    """
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.{2 + (seconds >= 0.1)}g} ms"
