"""What every tool is given: runs with settings, curves and results, read from a sweep's records.

Nothing in the records is trusted: keys become plain ASCII names, texts printable and short, numbers finite.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import pandas as pd

from seqbench import records, store
from seqbench.errors import UsageError
from seqbench.records import Run
from seqbench.report import facts
from seqbench.report.columns import read_table, scores
from seqbench.report.frame import Sweep
from seqbench.report.label import clean
from seqbench.report.speeds import speeds
from seqbench.report.summary import cells, same
from seqbench.report.task import mapping, metric_of
from seqbench.report.verdict import headline

Plain = float | int | bool | str
_T = TypeVar("_T")
_FORM = 1  # counts up when the same record gives other runs, so that those of before are written again
_LONGEST_KEY, _LONGEST_TEXT = 120, 500
_MOST_KEYS = 400
_DEEPEST = 6
_CURVES = {  # table: (prefix of its curves, its columns)
    "steps": ("train", ("loss", "gradient_norm", "learning_rate")),
    "evaluations": ("validation", ("loss", "score")),
}
_IDLE = re.compile(r"[^A-Za-z0-9_ .-]")


@dataclass(frozen=True)
class Curve:
    """A number over training steps (or over a length, for speed).

    Attributes:
        seconds: wall time of training at each point, measured at evaluations; else as if all steps took the
            same time.
    """

    name: str
    steps: list[int]
    values: list[float]
    seconds: list[float]


@dataclass(frozen=True)
class Flow:
    """Norm of the gradient of one answer's loss at the input so many steps before it, at a training step."""

    moment: str
    step: int
    distances: list[int]
    median: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Logged:
    """One run as other tools understand it.

    Attributes:
        key: its folder's name, unique in the sweep.
        identity: hash of everything that decides its result.
        name: the run in words.
        status: one of ``records.STATUSES``.
        tags: label, task, rung, seed and what else is a text.
        parameters: its settings, flat, with dotted keys.
        results: final numbers; units stand in the names.
        started_s, ended_s: seconds since 1970, as far as the record's file tells.
    """

    key: str
    identity: str
    name: str
    status: str
    tags: Mapping[str, str]
    parameters: Mapping[str, Plain]
    curves: list[Curve]
    flows: list[Flow]
    results: Mapping[str, float]
    started_s: float
    ended_s: float

    @property
    def ended_well(self) -> bool:
        """Whether its settings decided the end, rather than the machine or an error."""
        return self.status in records.ENDED

    @property
    def digest(self) -> str:
        """Hash of all of it: a run that was written with the same one needs no second writing."""
        plain = json.loads(json.dumps(self, default=vars))
        return store.digest(store.json_safe({"form": _FORM, "run": plain}))


@dataclass(frozen=True)
class Board:
    """A sweep as other tools understand it.

    Attributes:
        name: safe as the name of a folder.
        question, finding: in a sentence each.
        page: the report, as a file.
    """

    name: str
    question: str
    finding: str
    runs: list[Logged]
    page: Path


class Adapter(Protocol):
    """Writes sweeps for one tool."""

    def check(self) -> None:
        """Import the tool.

        Raises:
            UsageError: it is not installed.
        """

    def write(self, board: Board, folder: Path) -> int:
        """Write what is not there yet; return how many runs that were.

        Raises:
            UsageError: the folder cannot be used.
            OSError: it cannot be written.
        """

    def look(self, folder: Path) -> str:
        """The command that shows what was written."""


def tool(module: str, extra: str) -> ModuleType:
    """Import a tool that is no part of a plain installation.

    Raises:
        UsageError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{extra}: {error}; install it with: pip install 'seqbench[{extra}]'") from None


def read_board(sweep: Sweep, page: Path) -> Board:
    """Every run that has a record, in the order of the plan."""
    timed = speeds(sweep)
    logged = [
        _logged(sweep, row, sweep.records[str(row["folder"])], timed)
        for row in sweep.runs.to_dict("records")
        if row["folder"] in sweep.records
    ]
    name = safe(sweep.name)
    return Board(name, facts.question(sweep), headline(sweep, cells(sweep)), logged, page)


def _logged(sweep: Sweep, row: Mapping[Any, Any], run: Run, timed: pd.DataFrame) -> Logged:
    folder = sweep.folder / str(row["folder"])
    curves = [curve for table in _CURVES for curve in _curves(_table(folder, run, table), table, run)]
    ended_s = (folder / records.RUN_FILE).stat().st_mtime
    seconds = run.metrics.get("train_wall_s")
    return Logged(
        key=str(row["folder"]),
        identity=run.identity,
        name=clean(facts.run_name(row), 200),
        status=run.status,
        tags=_tags(sweep, row, run),
        parameters=flat(run.config),
        curves=curves + (_speeds(row, timed) if run.kind == "speed" else []),
        flows=_flows(_table(folder, run, "gradient_flow"), run),
        results=_results(row, run, timed),
        started_s=ended_s - (max(0.0, float(seconds)) if isinstance(seconds, int | float) else 0.0),
        ended_s=ended_s,
    )


def _table(folder: Path, run: Run, name: str) -> pd.DataFrame:
    """A table of a run; an empty one where it has none that can be read."""
    try:
        found = read_table(folder, run, name)
    except Exception as error:  # a Parquet file that nobody vouches for may fail in any way
        raise UsageError(
            f"{folder}/{name}.parquet: {clean(error, 200)}; repeat the sweep's command, which redoes it"
        ) from None
    return pd.DataFrame() if found is None else found


def _tags(sweep: Sweep, row: Mapping[Any, Any], run: Run) -> dict[str, str]:
    """What tells runs apart, and the texts among their results."""
    told = {name: row[name] for name in ("label", "model", "task", "rung", "seed", "status", "kind", "error")}
    told |= {"sweep": sweep.name, "metric": metric_of(mapping(run.card)).name, "companion": row["companion"]}
    told |= {name: value for name, value in run.metrics.items() if isinstance(value, str)}
    shown = {name: clean(value, _LONGEST_TEXT) for name, value in told.items() if not _nothing(value)}
    return _named(shown)


def _nothing(value: object) -> bool:
    return value is None or value is pd.NA or value == ""


def _results(row: Mapping[Any, Any], run: Run, timed: pd.DataFrame) -> dict[str, float]:
    """The numbers at the end of a run, with the speed that its model was measured to have at its length."""
    numbers = {n: float(v) for n, v in run.metrics.items() if isinstance(v, int | float)}
    if isinstance(row["test_score"], int | float):
        numbers["test_score"] = float(row["test_score"])
    if run.kind == "train" and row["companion"] is not True:
        mine = timed[(timed["label"] == row["label"]) & (timed["task"] == row["task"])]
        rung = None if pd.isna(row["rung"]) else int(row["rung"])
        here = mine[same(mine["rung"], rung)]
        for mode, rate in zip(here["mode"], here["valid_tokens_per_s"], strict=True):
            numbers[f"speed_{mode}_tokens_per_s"] = float(rate)
    return _named({name: value for name, value in numbers.items() if math.isfinite(value)})


def _curves(table: pd.DataFrame, name: str, run: Run) -> list[Curve]:
    """The curves of a table over its training steps, with the times at which they were reached."""
    prefix, columns = _CURVES[name]
    if {"loss", "accuracy"} <= set(table):
        table = table.assign(score=scores(table, metric_of(mapping(run.card))))
    found = [column for column in columns if column in table]
    times = _times(table, run)
    return [_curve(f"{prefix}/{column}", table["step"], table[column], times) for column in found]


def _curve(name: str, steps: pd.Series, values: pd.Series, seconds: pd.Series) -> Curve:
    kept = steps.notna() & values.notna() & (values.abs() < math.inf)
    return Curve(
        name,
        [int(step) for step in steps[kept]],
        [float(value) for value in values[kept]],
        [float(second) for second in seconds[kept]],
    )


def _times(table: pd.DataFrame, run: Run) -> pd.Series:
    """Wall seconds of training at each row: measured at evaluations, else as if all steps took the same."""
    if "train_wall_s" in table:
        return table["train_wall_s"].astype(float).fillna(0.0)
    whole, last = (run.metrics.get(name) for name in ("train_wall_s", "steps"))
    known = isinstance(whole, int | float) and isinstance(last, int | float) and last > 0
    if "step" not in table:
        return pd.Series(dtype=float)
    return table["step"] * (float(whole) / float(last)) if known else table["step"] * 0.0  # type: ignore[arg-type]


def _speeds(row: Mapping[Any, Any], timed: pd.DataFrame) -> list[Curve]:
    """Speed and memory over length, in place of training steps."""
    mine = timed[(timed["label"] == row["label"]) & (timed["task"] == row["task"]) & timed["rung"].notna()]
    found = []
    for mode, part in mine.sort_values("rung", kind="stable").groupby("mode", sort=True):
        for column, name in (("valid_tokens_per_s", "tokens_per_s"), ("memory_bytes", "memory_bytes")):
            zero = part["rung"] * 0.0
            found.append(_curve(f"speed/{safe(str(mode))}_{name}", part["rung"], part[column], zero))
    return found


def _flows(table: pd.DataFrame, run: Run) -> list[Flow]:
    """Gradient over distance, at each moment of training."""
    if table.empty:
        return []
    table = table[table["distance"].notna() & table["median"].notna()]
    found = []
    for moment, part in table.groupby("moment", sort=False):
        step = _step(str(moment), run)
        if step is not None:
            low, high = (part[name] if name in part else part["median"] for name in ("low", "high"))
            columns = [
                [float(v) for v in column.fillna(part["median"])] for column in (part["median"], low, high)
            ]
            found.append(Flow(safe(str(moment)), step, [int(d) for d in part["distance"]], *columns))
    return sorted(found, key=lambda flow: flow.step)


def _step(moment: str, run: Run) -> int | None:
    """The training step of a moment; None for one that is no step."""
    last = run.metrics.get("steps")
    ends = {"init": 0, "final": int(last) if isinstance(last, int | float) else 0}
    number = moment.removeprefix("step ")
    return ends.get(moment, int(number) if number.isdecimal() and number.isascii() else None)


def flat(config: Mapping[str, Any]) -> dict[str, Plain]:
    """Nested settings with dotted keys; a list as JSON, nothing as "none".

    >>> flat({"train": {"lr": 0.1, "decay": None}, "seeds": [1, 2]})
    {'train.lr': 0.1, 'train.decay': 'none', 'seeds': '[1, 2]'}
    """
    return _named(dict(_leaves("", config, _DEEPEST)))


def _leaves(prefix: str, value: object, deep: int) -> Iterable[tuple[str, Plain]]:
    if isinstance(value, Mapping) and value and deep:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), item, deep - 1)
    elif isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 53):
        yield prefix, value
    elif value is None:
        yield prefix, "none"
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        yield prefix, clean(text, _LONGEST_TEXT) if text else ""


def _named(values: Mapping[str, _T]) -> dict[str, _T]:
    """The same under names that every tool takes; two that would become one are numbered."""
    found: dict[str, _T] = {}
    for raw, value in list(values.items())[:_MOST_KEYS]:
        name, count = safe(str(raw)), 2
        while name in found:
            name, count = f"{safe(str(raw))}_{count}", count + 1
        found[name] = value
    return found


def safe(name: str) -> str:
    """A name of plain letters, digits, dots, dashes, underscores and spaces: no path, never empty.

    >>> safe("model.forget_bias"), safe("../a<b>"), safe("")
    ('model.forget_bias', '_a_b_', 'unnamed')
    """
    return _IDLE.sub("_", name)[:_LONGEST_KEY].strip(". ") or "unnamed"
