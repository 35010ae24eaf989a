"""What a reader needs to judge and repeat the numbers: machine, noise, data, failures, all runs."""

from __future__ import annotations

import base64
import csv
import io
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from seqbench.collected import in_words
from seqbench.report import baselines, premises
from seqbench.report.frame import UNFINISHED, Sweep
from seqbench.report.label import clean, printable
from seqbench.report.task import mapping

_SMOKE_SEEDS = 5
_SHOWN_FAILURES = 30
_MATCHED_WITHIN = 0.03  # the coarsest width grid of the default models leaves 2.1 %


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
    bad = _not_well(sweep)
    bad = bad[bad["status"] != "pending"]
    return [
        Failure(run_name(row), str(row["status"]), str(row["error"]), str(row["log"]), str(row["folder"]))
        for row in bad.head(_SHOWN_FAILURES).to_dict("records")
    ]


def _not_well(sweep: Sweep) -> pd.DataFrame:
    """Runs that are not done; a trial that diverged has told what it was asked."""
    answered = (sweep.runs["kind"] == "trial") & (sweep.runs["status"] == "diverged")
    return sweep.runs[sweep.runs["status"].ne("done") & ~answered]


def run_name(row: Mapping[Any, Any]) -> str:
    """A run in words."""
    rung = "" if pd.isna(row["rung"]) else f" {row['rung']}"
    kind = "speed" if row["kind"] == "speed" else f"seed {row['seed']}"
    kind = f"trial, {kind}" if row["kind"] == "trial" else kind
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
    if sweep.speed_alone:
        return f"How fast: {', '.join(sweep.labels)}, and how does that change with length and batch size?"
    asked = " and ".join(tasks)
    if len(sweep.labels) == 1:
        return f"Does {sweep.labels[0]} learn {asked}?"
    return f"{', '.join(sweep.labels[:-1])} or {sweep.labels[-1]}: which learns {asked}?"


def setting(sweep: Sweep) -> list[str]:
    """The setting in a few phrases, from the records."""
    nothing = "speed alone: nothing was trained"
    phrases = [nothing if sweep.speed_alone else f"{seeds_in_words(sweep)}, the same for every model"]
    if counted := sizes(sweep):
        phrases.append(_size_in_words(counted))
    if sweep.speed_alone:
        return phrases
    steps = sorted(s for s in _config_values(sweep, "train", "steps") if isinstance(s, int))
    if epochs := _config_values(sweep, "train", "epochs"):
        phrases.append(
            f"{' or '.join(f'{number:g}' for number in sorted(epochs))} passes over a fixed data set"
        )
    elif steps:
        phrases.append(f"at most {' or '.join(map(str, steps))} training steps")
    rates = _config_values(sweep, "train", "lr")
    if swept := swept_rates(sweep):
        phrases.append(f"a sweep over learning rates ({', '.join(swept)})")
    elif rates:
        several = "one learning rate per model and task"
        phrases.append(several if len(rates) > 1 else f"learning rate {printable(rates.pop())}")
    kinds = sorted(map(str, _config_values(sweep, "train", "precision")))
    if kinds not in ([], ["float32"]):
        phrases.append(f"matrix products in {' or '.join(kinds)}")
    return phrases


@dataclass(frozen=True)
class Size:
    """A model's parameters on a task without the shared embedding; ``target`` is None when none was set."""

    label: str
    task: str
    count: int
    target: int | None

    @property
    def off(self) -> float:
        """Distance from the target as a share of it."""
        return math.inf if self.target is None else abs(self.count - self.target) / self.target


def sizes(sweep: Sweep) -> list[Size]:
    """The different sizes of the models that have a width; canaries have no size to match."""
    found: dict[Size, None] = {}
    runs = sweep.runs if sweep.speed_alone else sweep.training
    for row in runs[runs["canary"].ne(True)].to_dict("records"):
        count, width = row["matched_parameters"], row["width"]
        if isinstance(count, float) and isinstance(width, float) and 0 < count < 1e15 and width == width:  # noqa: PLR0124
            match = sweep.config(str(row["folder"]), "match")
            target = match.get("target") if match.get("by") == "params" else None
            known = isinstance(target, int) and not isinstance(target, bool) and 0 < target < 1 << 50
            found[Size(str(row["label"]), str(row["task"]), int(count), target if known else None)] = None
    return list(found)


def _size_in_words(counted: list[Size]) -> str:
    low, high = min(size.count for size in counted), max(size.count for size in counted)
    words = f"{low:,} to {high:,} parameters" if low < high else f"{low:,} parameters"
    off = max(size.off for size in counted)
    if off <= _MATCHED_WITHIN:
        targets = sorted({size.target for size in counted if size.target is not None})
        words += f", matched to {' or '.join(f'{target:,}' for target in targets)} within {100 * off:.1f} %"
    return f"{words} (shared embedding not counted)"


def _unmatched(sweep: Sweep) -> list[str]:
    """Models whose size is not the one that was asked for, in words."""
    several = len(sweep.tasks) > 1
    off: dict[str, None] = {}
    for size in sizes(sweep):
        if size.target is not None and size.off > _MATCHED_WITHIN:
            place = f" on {size.task}" if several else ""
            off[f"{size.label} has {size.count:,} parameters{place} instead of {size.target:,}"] = None
    return list(off)


def learning_rates(sweep: Sweep, column: str) -> dict[tuple[str, str], set[float]]:
    """The learning rates by label (or model name) and task."""
    found: dict[tuple[str, str], set[float]] = {}
    for row in sweep.training_rows:
        rate = sweep.config(str(row["folder"]), "train").get("lr")
        if isinstance(rate, int | float):
            found.setdefault((str(row[column]), str(row["task"])), set()).add(float(rate))
    return found


def swept_rates(sweep: Sweep) -> list[str]:
    """Models that have more than one learning rate on the same task."""
    several = [name for (name, _), rates in learning_rates(sweep, "model").items() if len(rates) > 1]
    return list(dict.fromkeys(several))


def tuned_before(sweep: Sweep) -> bool:
    """Whether every learning rate comes from a tuned file, found before this sweep."""
    real = sweep.training[sweep.training["canary"].ne(True)]["folder"]
    return all(sweep.config(str(name), "train").get("tuned") is True for name in real) and len(real) > 0


def evaluated(sweep: Sweep) -> str:
    """How often training was interrupted to look at held-out sequences, in words; empty when not known."""
    every = sorted(v for v in _config_values(sweep, "train", "eval_every") if isinstance(v, int))
    return f"every {' or '.join(f'{steps:,}' for steps in every)} steps" if every else ""


def _untuned(sweep: Sweep) -> list[str]:
    """Of every task on which some learning rates were tuned and others not: which, in words."""
    found = []
    real = sweep.training[sweep.training["canary"].ne(True)]
    for task in sweep.tasks:
        groups: dict[bool, dict[str, None]] = {True: {}, False: {}}
        for row in real[real["task"] == task.key].to_dict("records"):
            tuned = sweep.config(str(row["folder"]), "train").get("tuned")
            if isinstance(tuned, bool):
                groups[tuned][str(row["label"])] = None
        if groups[True] and groups[False]:
            verb = "is" if len(groups[True]) == 1 else "are"
            found.append(
                f"{', '.join(groups[False])}: learning rate not tuned for {task.key}; "
                f"{', '.join(groups[True])} {verb}."
            )
    return found


def _config_values(sweep: Sweep, group: str, key: str) -> set[Any]:
    """The different plain values of a setting over all training runs."""
    found = set()
    for name in sweep.training["folder"]:
        value = sweep.config(name, group).get(key)
        if isinstance(value, int | float | str):
            found.add(value)
    return found


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


def others_busy(sweep: Sweep) -> tuple[float, float] | None:
    """Fewest and most cores that anything else kept busy during a speed measurement, or None."""
    clock = sweep.clocks.of.get("speed")
    elsewhere = clock.folders if clock else frozenset()
    found = [
        float(value)
        for name, run in sweep.records.items()
        if run.kind == "speed"
        and name not in elsewhere
        and isinstance(value := run.metrics.get("others_busy_cores"), int | float)
    ]
    return (min(found), max(found)) if found else None


def warnings(sweep: Sweep) -> list[str]:
    """What a reader must know before believing any number."""
    found = []
    found += premises.warnings(premises.premises(sweep))
    if off := _unmatched(sweep):
        found.append(f"Sizes are NOT matched: {'; '.join(off[:8])}.")
    found += _untuned(sweep)
    found += baselines.warnings(sweep)
    bad = _not_well(sweep)
    bad = bad[~bad["status"].isin(UNFINISHED)]
    if len(bad):
        found.append(f"{len(bad)} of {len(sweep.runs)} runs did not finish properly; see Failed runs.")
    pending = int((sweep.runs["status"] == "pending").sum())
    if pending:
        found.append(f"{pending} of {len(sweep.runs)} runs have no record yet: this is half a sweep.")
    if sweep.left_out:
        found.append(
            f"Left out of this page: {sum(sweep.left_out.values())} finished runs of this folder "
            f"({in_words(sweep.left_out)})."
        )
    mixed = [name for name, values in environments(sweep) if len(values) > 1]
    if any(name == "code sha256" or name.endswith(" version") for name in mixed):
        found.append(f"The runs were made with different code or versions ({', '.join(mixed[:8])}).")
    elif mixed:
        found.append(f"The runs come from different environments ({', '.join(mixed[:8])}).")
    found += sweep.clocks.words()
    found += [f"Not readable: {problem}" for problem in sweep.problems[:20]]
    return found


def commands(sweep: Sweep) -> list[str]:
    """The commands that made the sweep, the newest last."""
    program = sweep.program or ["python", "-m", "seqbench"]
    return [shlex.join([*program, *command]) for command in sweep.commands]


def silent_probes(sweep: Sweep) -> list[str]:
    """Probes that measured nothing: which, on which model, why."""
    found: dict[tuple[str, str, str, str], dict[str, int]] = {}
    ways = {"_not_applicable": "does not apply to", "_failed": "failed on"}
    for row in sweep.training_rows:
        run = sweep.records.get(str(row["folder"]))
        for name, reason in mapping(run.metrics if run else None).items():
            for suffix, way in ways.items():
                if str(name).endswith(suffix) and isinstance(reason, str):
                    probe = clean(str(name).removesuffix(suffix), 60)
                    tasks = found.setdefault((probe, way, str(row["label"]), clean(reason, 300)), {})
                    tasks[str(row["task"])] = tasks.get(str(row["task"]), 0) + 1
    told = []
    for (probe, way, label, reason), tasks in list(found.items())[:_SHOWN_FAILURES]:
        places = ", ".join(f"{task}: {count} run{'s' if count > 1 else ''}" for task, count in tasks.items())
        told.append(f"{probe} {way} {label} ({places}): {reason}")
    return told


def hashes(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Of every task, rung and seed: the hashes of the first batch and of the first ten."""
    known = _with_text(sweep.training, "data_sha256")
    rows = known.drop_duplicates(["task", "rung", "seed", "first_batch_sha256", "data_sha256"])
    found = []
    for row in rows.sort_values(["task", "rung", "seed"]).to_dict("records"):
        rung = "" if pd.isna(row["rung"]) else f" {row['rung']}"
        place = f"{row['task']}{rung} seed {row['seed']}"
        found.append((place, str(row["first_batch_sha256"])[:16], str(row["data_sha256"])[:16]))
    return found


def csv_text(rows: pd.DataFrame) -> str:
    """Rows as CSV in which no cell can act as a formula in a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows.columns)
    writer.writerows([guarded(value) for value in row] for row in rows.itertuples(index=False, name=None))
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
