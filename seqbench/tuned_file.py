"""What tuning found, as a file of the configuration folder that says how it was found."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seqbench
from seqbench import store
from seqbench.config import Job
from seqbench.errors import UsageError
from seqbench.secret import mask

if TYPE_CHECKING:
    from seqbench.trials import Trial
    from seqbench.tune import Finding, Point

_CODE = Path(seqbench.__file__).resolve().parent
# Where such a key is typed, a choice does not hold for the command without it.
_SPECIAL = ("task.", "train.", "network.", "match.", "experiment")


def folder(job: Job) -> Path:
    """Where files are written: ``tuning.dir``, the checkout one stands in, or beside the runs."""
    if job.tuning.dir is not None:
        return Path(job.tuning.dir)
    checkout = Path.cwd() == _CODE.parent and Path("conf/config.yaml").is_file()
    return Path("conf/tuned") if checkout else Path(job.runs_dir).parent / "tuned"


def check_folder(job: Job) -> None:
    """Refuse a place that cannot be written to, before anything runs.

    Raises:
        UsageError: names the setting and what is in the way.
    """
    place = folder(job)
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    reason = "" if there.is_dir() else "not a folder"
    try:
        if not reason:
            with tempfile.TemporaryFile(dir=there):
                pass
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise UsageError(f"tuning.dir={place}: {there}: {reason}: choose another place")


def usual_settings(job: Job) -> Callable[[str], list[Any]]:
    """Of a setting of the job's model: its default, and what files tuned before say."""
    known = [type(job.model)(), *_chosen_before(job)]
    return lambda name: [getattr(model, name) for model in known]


def _chosen_before(job: Job) -> list[Any]:
    """The model as each file there is for it and its task says; what cannot be read says nothing."""
    from omegaconf import OmegaConf

    found = []
    for place in (folder(job), _CODE / "conf" / "tuned", _CODE.parent / "conf" / "tuned"):
        try:
            plain: Any = OmegaConf.to_container(OmegaConf.load(place / name_of(job)))
            found.append(dataclasses.replace(type(job.model)(), **plain.get("model", {})))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return found


def name_of(job: Job) -> str:
    """The file's name, as ``conf/config.yaml`` looks for it."""
    return f"{job.task.name}-{job.model.name}.yaml"


def why_not(finding: Finding, others: Collection[Finding], words: Sequence[str]) -> str:
    """Why a finding holds for this sweep only and is not written; empty where it is."""
    job, free = finding.study.given, finding.study.free
    usual = usual_settings(job)
    fields = [field.name for field in dataclasses.fields(job.model) if field.name not in free]
    if finding.best is None:
        return "no trial ended well"
    if any(getattr(job.model, name) not in usual(name) for name in fields):
        return f"{job.model.variant()} is not the model's default"
    if sum(name_of(one.study.job) == name_of(job) for one in others) > 1:
        return f"the sweep has several jobs of {job.model.name} on {job.task.name}"
    special = [key for word in words if (key := word.split("=")[0].lstrip("+~")).startswith(_SPECIAL)]
    if special and job.tuning.dir is None:
        return f"{special[0]} was given, and files are for the defaults (tuning.dir=FOLDER writes it there)"
    return ""


def write(finding: Finding, program: Sequence[str], command: Sequence[str]) -> Path:
    """Write the file in one step; one that was there is replaced as a whole.

    Raises:
        OSError: the disk does not take it; then the old file is as it was.
    """
    place = folder(finding.study.job)
    store.make_folder(place)
    path = place / name_of(finding.study.job)
    store.write_file(path, content(finding, [*program, *command]).encode())
    return path


def content(finding: Finding, command: Sequence[str]) -> str:
    """The file: how it was found as a comment, then the settings."""
    job = finding.job
    model, default = dataclasses.asdict(job.model), dataclasses.asdict(type(job.model)())
    kept = {
        name: value
        for name, value in model.items()
        if name != "name" and (name in finding.study.free or value != default[name])
    }
    lines = ["# @package _global_", *(f"# {_printable(line)}" for line in header(finding, command))]
    lines += ["train:", f"  lr: {_value(job.train.lr)}", "  tuned: true"]
    if kept:
        lines += ["model:", *(f"  {name}: {_value(value)}" for name, value in kept.items())]
    return "\n".join(lines) + "\n"


def in_words(finding: Finding) -> str:
    """What was chosen for a job, in a line."""
    job, best = finding.study.job, finding.best
    name = f"{job.model.variant()} {job.task.name}"
    if best is None:
        return f"{name}: no trial of {job.tune} ended well; its settings stay as they are"
    _, trials = finding.rounds[-1]
    last = next((trial for trial in trials if trial.point == best), None)
    told = _trial(finding, finding.study.space[best], last) if last else f"{finding.study.space[best].lr:g}"
    edge = ", at the edge of the range (tuning.low, tuning.high)" if finding.at_edge else ""
    return f"{name}: learning rate {told}{edge}"


def header(finding: Finding, command: Sequence[str]) -> list[str]:
    """How it was found, line by line."""
    study, job = finding.study, finding.study.job
    metric = finding.scale.metric
    rungs = [rung for task in job.task.rungs() if (rung := task.rung()) is not None]
    over = f"{job.task.ladder_symbol}={', '.join(map(str, rungs))} and " if rungs else ""
    seeds = ", ".join(map(str, job.tuning.seeds))
    others = "".join(f", {name} from {_listed(values)}" for name, values in study.free.items())
    lines = [
        f"Found by: {mask(shlex.join(command))} (seqbench {seqbench.__version__})",
        f"{job.tune} learning rates, {job.tuning.low:g} to {job.tuning.high:g}{others}; successive halving.",
        f"Mean of the best validation {metric.name} over {over}seeds {seeds} (never evaluation seeds):",
    ]
    for train, trials in finding.rounds:
        spent = f"{train.steps} steps" if train.epochs is None else f"{train.epochs:g} passes"
        shown = sorted(trials, key=lambda trial: trial.point)
        lines.append(f"  {spent}: " + "; ".join(_trial(finding, study.space[t.point], t) for t in shown))
    if finding.at_edge:
        lines.append("The best lies at the edge of the grid: a wider range may hold a better one.")
    return lines


def _trial(finding: Finding, point: Point, trial: Trial) -> str:
    others = "".join(f" {name}={_value(value)}" for name, value in point.others.items())
    if trial.lost:
        return f"{point.lr:g}{others} {trial.lost}"
    solved = f" ({trial.solved} solved, mean {trial.steps:.0f} steps)" if trial.solved else ""
    return f"{point.lr:g}{others} {finding.scale.metric.shown(trial.score)}{solved}"


def _listed(values: Sequence[Any]) -> str:
    return "[" + ", ".join(map(_value, values)) + "]"


def _value(value: object) -> str:
    """A setting as YAML reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return _listed(value)
    if isinstance(value, Mapping):
        raise UsageError(f"a setting of a model is a plain value or a list, not {value!r:.60}")
    import json

    return json.dumps(value) if isinstance(value, str) else repr(value)


def _printable(line: str) -> str:
    """A line of a comment that cannot end it."""
    return "".join(c if c.isprintable() else " " for c in line)
