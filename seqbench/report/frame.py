"""A sweep's folder as data frames. Nothing in the folder is trusted: what does not verify is a finding."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from seqbench import records, store
from seqbench.records import Run
from seqbench.report import planned
from seqbench.report.clocks import WHOLLY_TIMES, WITH_TIMES, Clocks, read_clocks, without_times
from seqbench.report.columns import COLUMNS, Part, joined, raw_table, texts
from seqbench.report.label import clean, distinct, flat, label
from seqbench.report.planned import Planned
from seqbench.report.task import Task, mapping, metric_of, read_tasks
from seqbench.report.varied import MODEL_SETTINGS, task_settings, varied
from seqbench.store import DamagedFile

UNFINISHED = ("pending", "damaged")
_LOG_BYTES, _LOG_LINES, _LINE = 4 << 20, 12, 240
_MOST_COMMANDS = 20
_RUN_COLUMNS = [
    "folder", "kind", "label", "model", "task", "rung", "seed", "status", "error", "log", "companion",
    "test_score", "test_accuracy", "test_loss", "test_answers", "solved", "solved_step", "solved_cpu_s",
    "steps", "train_cpu_s", "train_wall_s", "trained_tokens", "parameters", "matched_parameters", "width",
    "kernel", "causal", "readout", "canary", "training_memory_bytes", "peak_memory_bytes", "best_valid_score",
    "oracle_score", "first_batch_sha256", "data_sha256", "kernel_found", "calls_per_step", "elsewhere",
]  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """Everything the page is made from.

    Attributes:
        runs: one row per planned run, with its status and metrics; ``companion`` marks canaries that ran
            beside the comparison, whose scores are floors of their task; kind "trial" is a run of tuning;
            ``elsewhere`` marks those whose times are not shown, as they are of another machine.
        commands, program: what followed the program's name in each command that added runs (the newest
            last), and the words that start it (none: not known).
        reference: label that the others are compared with, or None.
        labels: models in the order of the plan, variants of a model in that of their declaration.
        records: each run that has a record, by folder.
        left_out: finished runs in the folder that cannot stand beside those of the plan, counted by cause.
        problems: what could not be read, in words.
        clocks: the machines whose times are shown; those of others are missing in ``runs`` and tables.
    """

    folder: Path
    name: str
    commands: list[list[str]]
    program: list[str]
    reference: str | None
    labels: list[str]
    tasks: list[Task]
    runs: pd.DataFrame
    records: dict[str, Run]
    left_out: Mapping[str, int]
    problems: list[str]
    clocks: Clocks
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def read_all(self) -> None:
        """Read every table, so that :attr:`problems` is complete."""
        for name in COLUMNS:
            self.table(name)
        self.table("slices", companions=True)

    def table(self, name: str, *, companions: bool = False) -> pd.DataFrame:
        """A table of all runs below each other, with ``label, task, rung, seed``; read once.

        Args:
            companions: of the canaries beside the comparison instead.
        """
        key = f"{name} of companions" if companions else name
        if key not in self._tables:
            self._tables[key] = _read_tables(self, name, companions=companions)
        return self._tables[key]

    def config(self, folder: str, group: str) -> Mapping[str, Any]:
        """A group of a run's settings as its record has them; empty without a record."""
        run = self.records.get(folder)
        return mapping(mapping(run.config).get(group)) if run else {}

    @cached_property
    def training(self) -> pd.DataFrame:
        """The training runs of the models that are compared; not to be changed."""
        return self.runs[(self.runs["kind"] == "train") & self.runs["companion"].ne(True)]

    @cached_property
    def rows(self) -> list[dict[Hashable, Any]]:
        """The rows of :attr:`runs` as plain data; not to be changed."""
        return self.runs.to_dict("records")

    @cached_property
    def training_rows(self) -> list[dict[Hashable, Any]]:
        """The rows of :attr:`training` as plain data; not to be changed."""
        return self.training.to_dict("records")

    @property
    def speed_alone(self) -> bool:
        """Whether nothing was to be trained: the sweep measures speed and no more."""
        return not self.runs["kind"].isin(["train", "trial"]).any() and len(self.runs) > 0

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The runs of tuning: validation only, and never part of a comparison."""
        return self.runs[self.runs["kind"] == "trial"]

    def planned(self, task: str) -> list[str]:
        """Labels of the models that have training runs on a task, in the order of :attr:`labels`."""
        there = set(self.training.loc[self.training["task"] == task, "label"])
        return [label for label in self.labels if label in there]

    def reference_on(self, task: str) -> str | None:
        """What others are compared with on a task: the reference, or else the first variant of its model."""
        there = self.planned(task)
        if self.reference is None or self.reference in there:
            return self.reference
        model_of = dict(zip(self.training["label"], self.training["model"], strict=True))
        return next((label for label in there if model_of[label] == model_of[self.reference]), None)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the plan."""
        return sorted({int(seed) for seed in self.training["seed"]})


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep, finished or not.

    Raises:
        UsageError: the folder has no valid plan; says what would be right.
    """
    holding = planned.read(folder)
    plan, entries = holding.plan, [one.entry for one in holding.runs]
    found = {one.entry["folder"]: one.run for one in holding.runs if one.run is not None}
    model_keys, task_keys = varied(entries)
    rows = [_row(folder, one, model_keys, task_keys) for one in holding.runs]
    _name_trials(rows, entries)
    clocks = read_clocks(rows, found)
    rows = [clocks.shown(row) for row in rows]
    runs = pd.DataFrame(rows, columns=_RUN_COLUMNS).astype({"rung": "Int64", "seed": "Int64"})
    labels = _labels(runs, planned.as_list(plan.get("models")), [planned.job(entry) for entry in entries])
    return Sweep(
        folder=folder,
        name=clean(folder.resolve().name, 200),
        commands=[planned.words(c) for c in planned.as_list(plan.get("commands"))[-_MOST_COMMANDS:]],
        program=planned.words(plan.get("program")),
        reference=_reference(runs, labels, plan.get("reference")),
        labels=labels,
        tasks=read_tasks(runs, found),
        runs=runs,
        records=found,
        left_out=holding.left_out,
        problems=holding.problems,
        clocks=clocks,
    )


def _row(
    folder: Path,
    one: Planned,
    model_keys: dict[Any, list[str]],
    task_keys: dict[str, list[str]],
) -> dict[str, Any]:
    """One row of ``runs``."""
    entry, status, run, reason = one.entry, one.status, one.run, one.reason
    metrics = {key: _scalar(value) for key, value in mapping(run.metrics if run else None).items()}
    error = mapping(run.error if run else None)
    if error:
        reason = f"{clean(error.get('type'), 80)}: {clean(error.get('message'), 400)}"
    settings = flat(entry["config"], MODEL_SETTINGS)
    row = {column: metrics.get(column) for column in _RUN_COLUMNS}
    return row | {
        "companion": entry.get("companion") is True,
        "test_score": _score(run, metrics),
        "folder": entry["folder"],
        "kind": entry["kind"],
        "label": label(entry["model"], settings, model_keys[entry["model"], entry["task"]]),
        "model": distinct(entry["model"]),
        "task": label(entry["task"], task_settings(entry), task_keys[entry["task"]]),
        "rung": entry["rung"],
        "seed": entry["seed"],
        "status": status,
        "error": reason,
        "log": "" if status in ("done", "pending") else log_tail(folder / entry["folder"]),
    }


def _name_trials(rows: list[dict[str, Any]], entries: list[dict[str, Any]]) -> None:
    """Give each trial the label of the runs it was made for; its model's name where there are none yet."""
    labels = {
        entry["base"]: row["label"]
        for row, entry in zip(rows, entries, strict=True)
        if entry["kind"] == "train" and isinstance(entry.get("base"), str) and entry["base"]
    }
    for row, entry in zip(rows, entries, strict=True):
        if entry["kind"] == "trial":
            base = entry.get("base")
            row["label"] = labels.get(base if isinstance(base, str) else "", distinct(entry["model"]))


def _score(run: Run | None, metrics: Mapping[str, Any]) -> float | None:
    """A run's test score, by the metric of its task."""
    loss, accuracy = (_plain(metrics.get(f"test_{name}")) for name in ("loss", "accuracy"))
    score = metric_of(mapping(run.card)).of(loss, accuracy) if run is not None else math.nan
    return score if math.isfinite(score) else None


def _plain(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _scalar(value: object) -> float | str | bool | None:
    """A metric as a number, a short text or a truth value; anything else is missing."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value) if abs(value) < 1e300 else None
    return clean(value, 200) if isinstance(value, str) else None


def log_tail(folder: Path) -> str:
    """The last lines of a run's log, each cut to a readable width."""
    try:
        content = store.read_tail(folder / records.LOG_FILE, _LOG_BYTES)
    except FileNotFoundError:
        return ""
    except (DamagedFile, OSError):
        return "(the log cannot be shown)"
    lines = content.decode("utf-8", "replace").splitlines()[-_LOG_LINES:]
    return "\n".join(clean(line, _LINE) if line.strip() else "" for line in lines)


def _labels(runs: pd.DataFrame, models: list[Any], jobs: list[int]) -> list[str]:
    """Labels in the order in which the command named the models, and declared what it varied of each.

    Args:
        jobs: of each run, which job it is of.
    """
    order = {distinct(model): number for number, model in reversed(list(enumerate(models)))}
    runs = runs.assign(job=jobs)
    runs = runs[runs["companion"].ne(True) & runs["kind"].ne("trial")]
    rows = zip(runs["label"], runs["model"], runs["job"], strict=True)
    declared = sorted(rows, key=lambda row: (order.get(row[1], len(order)), row[2]))
    return list(dict.fromkeys(name for name, _, _ in declared))


def _reference(runs: pd.DataFrame, labels: list[str], wanted: object) -> str | None:
    """The label of the plan's reference model, or the first model that is not a canary."""
    training = runs[(runs["kind"] == "train") & runs["companion"].ne(True)]
    named, real = (
        training["model"] == (distinct(wanted) if isinstance(wanted, str) else None),
        training["canary"].ne(True),
    )
    for candidates in (training[named], training[real], training):
        if len(candidates):
            return min((str(name) for name in candidates["label"]), key=labels.index)
    return None


def _read_tables(sweep: Sweep, name: str, *, companions: bool) -> pd.DataFrame:
    parts: list[Part] = []

    def problem(folder: str, error: Exception) -> None:
        sweep.problems.append(f"{folder}/{name}.parquet: {clean(error, 200)}")

    for row in sweep.rows:
        run = sweep.records.get(str(row["folder"]))
        if run is None or bool(row["companion"]) != companions or row["kind"] == "trial":
            continue
        if row["elsewhere"] and name in WHOLLY_TIMES:
            continue
        try:
            table = raw_table(sweep.folder / str(row["folder"]), run, name)
        except Exception as error:  # a Parquet file that nobody vouches for may fail in any way
            problem(str(row["folder"]), error)
            continue
        if table is not None:
            table = without_times(table) if row["elsewhere"] and name in WITH_TIMES else table
            parts.append(Part(row, table, metric_of(mapping(run.card))))
    if frames := joined(name, parts, problem):
        return pd.concat(frames, ignore_index=True)
    names = [*COLUMNS[name], "score", "label", "task", "rung", "seed"]
    empty = pd.DataFrame(columns=list(dict.fromkeys(names)))
    numbers = [column for column in empty if column not in (*texts(name), "label", "task")]
    return empty.astype(dict.fromkeys(numbers, float))
