"""What a reader needs to judge and repeat the numbers: machine, noise, data, failures, all runs."""

from __future__ import annotations

import base64
import csv
import io
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from seqbench.report.frame import UNFINISHED, Sweep
from seqbench.report.label import clean
from seqbench.report.summary import TOLERANCE, same

_SMOKE_SEEDS = 5
_SHOWN_FAILURES = 30


@dataclass(frozen=True)
class Failure:
    """A run that is not done: where it is, what happened, and the end of its log."""

    name: str
    status: str
    reason: str
    log: str
    folder: str


def failures(sweep: Sweep) -> list[Failure]:
    """Runs that neither finished nor wait."""
    bad = sweep.runs[~sweep.runs["status"].isin(["done", "pending"])]
    return [
        Failure(run_name(row), str(row["status"]), str(row["error"]), str(row["log"]), str(row["folder"]))
        for row in bad.head(_SHOWN_FAILURES).to_dict("records")
    ]


def run_name(row: Mapping[Any, Any]) -> str:
    """A run in words."""
    rung = "" if row["rung"] is pd.NA else f" {row['rung']}"
    kind = "speed" if row["kind"] == "speed" else f"seed {row['seed']}"
    return f"{row['label']} {row['task']}{rung} {kind}"


def seeds_in_words(sweep: Sweep) -> str:
    """The number of seeds; few of them are called what they are."""
    count = len(sweep.seeds)
    if count == 0:
        return "no seeds"
    words = f"{count} seed" + ("s" if count > 1 else "")
    return f"smoke: {words}" if count < _SMOKE_SEEDS else words


def question(sweep: Sweep) -> str:
    """What was asked, in a sentence."""
    tasks = [
        task.key if task.rungs == [None] else f"{task.key} ({task.symbol}={', '.join(map(str, task.rungs))})"
        for task in sweep.tasks
    ]
    if not sweep.labels or not tasks:
        return "This sweep holds no training runs."
    asked = " and ".join(tasks)
    if len(sweep.labels) == 1:
        return f"Does {sweep.labels[0]} learn {asked}?"
    return f"{', '.join(sweep.labels[:-1])} or {sweep.labels[-1]}: which learns {asked}?"


def setting(sweep: Sweep) -> list[str]:
    """The setting in a few phrases, from the records."""
    phrases = [f"{seeds_in_words(sweep)}, the same for every model"]
    real = sweep.training[sweep.training["canary"].ne(True)]
    matched = pd.to_numeric(real["matched_parameters"], errors="coerce").dropna()
    targets = (
        _config_values(sweep, "match", "target")
        if _config_values(sweep, "match", "by") == {"params"}
        else set()
    )
    if len(matched):
        low, high = int(matched.min()), int(matched.max())
        size = f"{low:,} to {high:,} parameters" if low < high else f"{low:,} parameters"
        if len(targets) == 1 and isinstance(target := next(iter(targets)), int) and target > 0:
            off = max(abs(low - target), abs(high - target)) / target
            size += f", matched to {target:,} within {100 * off:.1f} % (shared embedding not counted)"
        phrases.append(size)
    steps = sorted(s for s in _config_values(sweep, "train", "steps") if isinstance(s, int))
    if epochs := _config_values(sweep, "train", "epochs"):
        phrases.append(
            f"{' or '.join(f'{number:g}' for number in sorted(epochs))} passes over a fixed data set"
        )
    elif steps:
        phrases.append(f"at most {' or '.join(map(str, steps))} training steps")
    rates = _config_values(sweep, "train", "lr")
    if rates:
        phrases.append(
            "one learning rate per model and task" if len(rates) > 1 else f"learning rate {rates.pop():g}"
        )
    return phrases


def _config_values(sweep: Sweep, group: str, key: str) -> set[Any]:
    """The different plain values of a setting over all training runs."""
    found = set()
    for name in sweep.training["folder"]:
        config = sweep.records[name].config if name in sweep.records else {}
        part = config.get(group) if isinstance(config, Mapping) else None
        value = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(value, int | float | str):
            found.add(value)
    return found


def data_identity(sweep: Sweep) -> tuple[int, list[str]]:
    """Whether all models saw the same data.

    Returns:
        How many (task, rung, seed) were compared between models, and those whose first batches differ.
    """
    known = _with_text(sweep.training, "first_batch_sha256")
    compared, differing = 0, []
    for (task, rung, seed), group in known.groupby(["task", "rung", "seed"], sort=False, dropna=False):
        if group["label"].nunique() > 1:
            compared += 1
            if group["first_batch_sha256"].nunique() > 1:
                differing.append(f"{task}{'' if rung is pd.NA else f' {rung}'} seed {seed}")
    return compared, differing


def _with_text(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows that have a text in this column."""
    return runs.loc[[isinstance(value, str) and value != "" for value in runs[column]]]


def environments(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """Facts about the machine with all their different values; more than one value is a mixture."""
    facts: dict[str, list[str]] = {}
    for run in sweep.records.values():
        for name, value in _environment(run.environment).items():
            values = facts.setdefault(name, [])
            if value not in values and len(values) < 6:
                values.append(value)
    return list(facts.items())


def _environment(raw: object) -> dict[str, str]:
    environment = dict(raw) if isinstance(raw, Mapping) else {}
    versions = environment.pop("versions", {})
    environment = {k: v for k, v in environment.items() if not str(k).startswith("load_average")}
    if isinstance(versions, Mapping):
        environment |= {f"{name} version": version for name, version in versions.items()}
    return {clean(str(name).replace("_", " "), 60): clean(value, 80) for name, value in environment.items()}


def load(sweep: Sweep) -> tuple[float, float] | None:
    """Lowest and highest load average beside the speed measurements, or None."""
    found = [
        float(value)
        for run in sweep.records.values()
        if run.kind == "speed" and isinstance(run.environment, Mapping)
        for name, value in run.environment.items()
        if str(name).startswith("load_average") and isinstance(value, int | float)
    ]
    return (min(found), max(found)) if found else None


def canaries(sweep: Sweep) -> list[str]:
    """Tasks on which a canary is as good as the best model: they do not test what they seem to."""
    runs = sweep.training[sweep.training["status"] == "done"]
    runs = runs.assign(score=pd.to_numeric(runs["test_accuracy"], errors="coerce").astype(float))
    found = []
    for task in sweep.tasks:
        for rung in task.rungs:
            here = runs[(runs["task"] == task.key) & same(runs["rung"], rung)]
            blind = set(here[here["canary"].eq(True)]["label"])
            means = {str(label): float(group["score"].mean()) for label, group in here.groupby("label")}
            best = max((score for label, score in means.items() if label not in blind), default=1.0)
            learned = min(task.floors(rung).values(), default=0.0) + TOLERANCE
            found += [
                f"{label} on {task.at(rung)} ({score:.3f})"
                for label, score in means.items()
                if label in blind and score > learned and score >= best - TOLERANCE
            ]
    return found


def warnings(sweep: Sweep) -> list[str]:
    """What a reader must know before believing any number."""
    found = []
    _, differing = data_identity(sweep)
    if differing:
        found.append(
            f"The models did NOT see the same data: {', '.join(differing[:8])}. Do not compare them."
        )
    if good := canaries(sweep):
        told = ", ".join(good)
        found.append(
            f"A canary, blind to order, is as good as the best model: {told}. The task hardly needs order."
        )
    bad = sweep.runs[~sweep.runs["status"].isin(["done", *UNFINISHED])]
    if len(bad):
        found.append(f"{len(bad)} of {len(sweep.runs)} runs did not finish properly; see Failed runs.")
    pending = int((sweep.runs["status"] == "pending").sum())
    if pending:
        found.append(f"{pending} of {len(sweep.runs)} runs have no record yet: this is half a sweep.")
    mixed = [name for name, values in environments(sweep) if len(values) > 1]
    if mixed:
        found.append(
            f"The runs come from different environments ({', '.join(mixed[:8])}); compare times with care."
        )
    found += [f"Not readable: {problem}" for problem in sweep.problems[:20]]
    return found


def command(sweep: Sweep) -> str:
    """The command that made the sweep."""
    return f"python -m seqbench {shlex.join(sweep.command)}".strip()


def hashes(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Of every task, rung and seed: the hashes of the first batch and of the first ten."""
    known = _with_text(sweep.training, "data_sha256")
    rows = known.drop_duplicates(["task", "rung", "seed", "first_batch_sha256", "data_sha256"])
    found = []
    for row in rows.sort_values(["task", "rung", "seed"]).to_dict("records"):
        rung = "" if row["rung"] is pd.NA else f" {row['rung']}"
        place = f"{row['task']}{rung} seed {row['seed']}"
        found.append((place, str(row["first_batch_sha256"])[:16], str(row["data_sha256"])[:16]))
    return found


def csv_text(rows: pd.DataFrame) -> str:
    """Rows as CSV in which no cell can act as a formula in a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows.columns)
    writer.writerows([guarded(value) for value in row] for row in rows.itertuples(index=False))
    return buffer.getvalue()


def guarded(value: object) -> str:
    """A CSV cell; one that a spreadsheet would take for a formula gets an apostrophe in front.

    >>> guarded("=1+1"), guarded(-0.5), guarded(None)
    ("'=1+1", '-0.5', '')
    """
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):  # noqa: PLR0124
        return ""
    words = str(value)
    return f"'{words}" if isinstance(value, str) and words[:1] in ("=", "+", "-", "@", "\t", "\r") else words


def csv_link(sweep: Sweep) -> str:
    """All runs as a data link, for download without a network or a script."""
    columns: Iterable[str] = [column for column in sweep.runs.columns if column != "log"]
    content = csv_text(sweep.runs[list(columns)])
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(content.encode()).decode()
