"""What must hold before models may be compared: equal budget, size, surroundings, data and code, fresh seeds.

Differences that the user asked for are none of these: when a model stands in the sweep with several budgets,
its label names them, comparing them is the question, and the verdict says how much more one had. Only a
difference that no label shows refutes a comparison. What a run used up is not looked at, since a model that
solves its task stops early; what it was given is.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.label import clean, flat, printable
from seqbench.report.task import Task, mapping

HASHED_BATCHES = 10
_MOST_PLACES = 3
_MOST_NAMES = 8
_SIZE = {"by": "matched by", "target": "to", "rung": "at rung"}
_TRAINING = [
    f"train.{name}"
    for name in (
        "keep_best",
        "stop_when_solved",
        "test_examples",
        "clip",
        "weight_decay",
        "schedule",
        "warmup",
        "precision",
        "cuda_graph",
    )
]
_WHY = {"sizes": "A larger model may be better for that alone."}
_ELSE = "Models are compared with all else equal, and here it is not."

Place = tuple[Any, ...]  # rung, seed and what else must be equal before two values may be compared
Values = dict[str, dict[Place, Any]]  # what stands at each place, by label
Pair = frozenset[str]


@dataclass(frozen=True)
class Finding:
    """A premise that does not hold.

    Attributes:
        what: the premise, in words like "unequal budgets".
        why: why it matters, as a sentence.
        task: key of the task on which it does not hold.
        pairs: the models that may not be compared with each other.
        values: what each model has, where that tells more than ``note``.
        note: what differs, or where.
    """

    what: str
    why: str
    task: str
    pairs: frozenset[Pair]
    values: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def separates(self, one: str, other: str) -> bool:
        """Whether these two may not be compared."""
        return frozenset((one, other)) in self.pairs

    def about(self, *labels: str) -> str:
        """The finding in words, for these models (all that it concerns when none are named)."""
        concerned = labels or tuple(name for name in self.values if any(name in pair for pair in self.pairs))
        shown = [f"{name} {self.values[name]}" for name in concerned if name in self.values]
        more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
        detail = ", ".join(shown[:_MOST_NAMES]) + more or self.note
        return f"{self.what} ({detail})" if detail else self.what


def premises(sweep: Sweep) -> list[Finding]:
    """Everything that stands against comparing scores, by task; empty for a fair sweep."""
    return [finding for task in sweep.tasks for finding in on_task(sweep, task)]


def on_task(sweep: Sweep, task: Task) -> list[Finding]:
    """What stands against comparing scores of one task."""
    checks = (_unequal_data, _mixed_code, _tuned_on_evaluation)
    others = [finding for check in checks if (finding := check(sweep, task)) is not None]
    return [*_unequal_budgets(sweep, task), *_unequal_settings(sweep, task), *others]


def warnings(found: Iterable[Finding]) -> list[str]:
    """The findings as sentences, for the head of a page."""
    return [
        f"{finding.task}: {finding.about()}. {finding.why} Comparisons that this touches are refused."
        for finding in found
    ]


# Budgets


@dataclass(frozen=True)
class Budget:
    """What a run was given: so many steps or passes over a fixed data set, of so many sequences a batch."""

    amount: float
    unit: str
    batch: float

    @property
    def words(self) -> str:
        """The budget as it stands in a sentence."""
        per = f" of {self.batch:g} sequences" if self.unit == "steps" else f" in batches of {self.batch:g}"
        return f"{self.amount:g} {self.unit}{per}"

    @property
    def sequences(self) -> float:
        """Sequences seen, or passes over them: comparable between budgets of the same unit."""
        return self.amount * self.batch if self.unit == "steps" else self.amount


def budgets(sweep: Sweep, task: Task) -> dict[str, dict[Place, Budget]]:
    """The budget of each model on a task at each rung and seed, as far as there are records."""
    found: dict[str, dict[Place, Budget]] = {}
    for row in _rows(sweep, task):
        if (given := _budget(sweep.config(str(row["folder"]), "train"))) is not None:
            found.setdefault(str(row["label"]), {})[_place(row)] = given
    return found


def _budget(train: Mapping[str, Any]) -> Budget | None:
    epochs, batch = train.get("epochs"), train.get("batch_size")
    amount = train.get("steps") if epochs is None else epochs
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in (amount, batch)):
        return None
    return Budget(float(amount or 0), "steps" if epochs is None else "passes", float(batch or 0))


def by_design(sweep: Sweep, task: Task, given: Mapping[str, Mapping[Place, Any]]) -> set[str]:
    """Models that stand in the sweep with several of these values on a task: their labels name them."""
    rows = sweep.training[sweep.training["task"] == task.key]
    model_of = dict(zip(rows["label"].astype(str), rows["model"].astype(str), strict=True))
    several: dict[str, set[Any]] = {}
    for name, places in given.items():
        several.setdefault(model_of[name], set()).update(places.values())
    return {name for name in given if len(several[model_of[name]]) > 1}


def more(given: Mapping[str, Mapping[Place, Budget]], label: str, reference: str) -> str:
    """How much more or less one model was given than another, in words; empty for the same."""
    ours, theirs = (next(iter(given.get(name, {}).values()), None) for name in (label, reference))
    if ours is None or theirs is None or ours == theirs:
        return ""
    if ours.unit != theirs.unit or ours.sequences == theirs.sequences:
        return f"with {ours.words} against {theirs.words}"
    counted = "training" if ours.batch == theirs.batch or ours.unit == "passes" else "training sequences"
    return f"with {ours.sequences / theirs.sequences:.3g} times the {counted}"


def _unequal_budgets(sweep: Sweep, task: Task) -> list[Finding]:
    given = budgets(sweep, task)
    why = "Who trains longer, or sees more, may be better for that alone."
    return _unequal(sweep, task, "unequal budgets", why, given, lambda budget: budget.words)


def _unequal(
    sweep: Sweep,
    task: Task,
    what: str,
    why: str,
    given: Mapping[str, Mapping[Place, Any]],
    words: Callable[[Any], str],
) -> list[Finding]:
    """What is not the same for all models, where the labels of a pair do not name it for both."""
    asked = by_design(sweep, task, given)
    pairs = frozenset(pair for pair in _conflicts(given) if not pair <= asked)
    values = {
        name: " or ".join(list(dict.fromkeys(map(words, places.values())))[:_MOST_PLACES])
        for name, places in given.items()
    }
    return [Finding(what, why, task.key, pairs, values)] if pairs else []


# Sizes and other settings


def _unequal_settings(sweep: Sweep, task: Task) -> list[Finding]:
    """Sizes, surroundings and training that are the same for all models of one command.

    A learning rate may differ, since each model has its own, and so may everything of the model itself.
    """
    given: dict[str, dict[str, dict[Place, str]]] = {}
    for row in _rows(sweep, task):
        for key, value in _conditions(sweep, str(row["folder"])).items():
            given.setdefault(key, {}).setdefault(str(row["label"]), {})[_place(row)] = value
    return [
        finding
        for key, values in given.items()
        for finding in _unequal(sweep, task, f"unequal {key}", _WHY.get(key, _ELSE), values, clean)
    ]


def _conditions(sweep: Sweep, folder: str) -> dict[str, str]:
    """What a run's record says of these settings; what its size is matched to stands together."""
    groups = ("match", "network", "train")
    found = flat({group: sweep.config(folder, group) for group in groups}, groups)
    kept = {key: value for key, value in found.items() if key.startswith("network.") or key in _TRAINING}
    known = {
        key: printable(value) for key, value in sweep.config(folder, "match").items() if value is not None
    }
    size = [f"{word} {known[key]}" for key, word in _SIZE.items() if key in known]
    return kept | ({"sizes": " ".join(size)} if size else {})


# Data


def _unequal_data(sweep: Sweep, task: Task) -> Finding | None:
    values = data_seen(sweep, task)
    pairs = _conflicts(values)
    if not pairs:
        return None
    places = list(dict.fromkeys(_where(task, key) for key in _conflicting(values)))
    more_of_them = f" and {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
    note = "their first training batches differ: " + ", ".join(places[:_MOST_PLACES]) + more_of_them
    why = "The models did NOT see the same data in the same order."
    return Finding("different data", why, task.key, pairs, note=note)


def data_seen(sweep: Sweep, task: Task) -> Values:
    """Fingerprints of what each model was trained on, at places where they must be equal.

    The first batch is compared always, the first ten only among finished runs that had as many, and both only
    at the same batch size; outside data and a user's task file by their content.
    """
    found: Values = {}
    for row in _rows(sweep, task):
        run = sweep.records.get(str(row["folder"]))
        mine = found.setdefault(str(row["label"]), {})
        place, batch = _place(row), str(sweep.config(str(row["folder"]), "train").get("batch_size"))
        if run is not None and isinstance(ground := mapping(run.ground).get("task"), str):
            mine[(*place, "content")] = ground
        if not isinstance(row["data_sha256"], str) or not row["data_sha256"]:
            continue
        if isinstance(row["first_batch_sha256"], str):
            mine[(*place, "first", batch)] = row["first_batch_sha256"]
        if row["status"] == "done":
            steps = pd.to_numeric(row["steps"], errors="coerce")
            count = HASHED_BATCHES if pd.isna(steps) else min(float(steps), HASHED_BATCHES)
            mine[(*place, "ten", batch, count)] = row["data_sha256"]
    return found


def data_identity(sweep: Sweep) -> tuple[int, list[str]]:
    """Whether all models saw the same data.

    Returns:
        How many (task, rung, seed) were compared between models, and those whose data differ.
    """
    compared, differing = 0, []
    for task in sweep.tasks:
        values = data_seen(sweep, task)
        hashed = Counter(
            place for mine in values.values() for place in {key[:2] for key in mine if "first" in key}
        )
        compared += sum(count > 1 for count in hashed.values())
        wrong = dict.fromkeys(_where(task, key) for key in _conflicting(values))
        differing += [f"{task.key} {place}" for place in wrong]
    return compared, differing


def _where(task: Task, key: Place) -> str:
    rung, seed = key[:2]
    return f"seed {seed}" if rung is None else f"{task.symbol}={rung} seed {seed}"


# Code and seeds


def _mixed_code(sweep: Sweep, task: Task) -> Finding | None:
    values: Values = {}
    for row in _rows(sweep, task):
        run = sweep.records.get(str(row["folder"]))
        environment = mapping(run.environment if run else None)
        versions = mapping(environment.get("versions"))
        made = [("code", environment.get("code_sha256")), *((f"{k} version", v) for k, v in versions.items())]
        if run is not None:
            parts = tuple(sorted((clean(name), clean(value, 80)) for name, value in made))
            values.setdefault(str(row["label"]), {})[_place(row)] = parts
    pairs = _conflicts(values)
    why = "Other code may train or score in another way."
    return Finding("different code", why, task.key, pairs, note=_differing(values)) if pairs else None


def _tuned_on_evaluation(sweep: Sweep, task: Task) -> Finding | None:
    trials = sweep.trials[sweep.trials["task"] == task.key]
    runs = sweep.training[sweep.training["task"] == task.key]
    labels = list(dict.fromkeys(runs["label"].astype(str)))
    both = {
        name: set(trials[trials["label"] == name]["seed"].dropna())
        & set(runs[runs["label"] == name]["seed"].dropna())
        for name in labels
    }
    touched = {name: sorted(seeds) for name, seeds in both.items() if seeds}
    pairs = frozenset(
        frozenset(pair) for pair in itertools.combinations(labels, 2) if any(name in touched for name in pair)
    )
    values = {name: "seed " + ", ".join(map(str, seeds[:_MOST_PLACES])) for name, seeds in touched.items()}
    why = "A setting that was chosen on the seeds it is judged on looks better than it is."
    return Finding("tuned on evaluation seeds", why, task.key, pairs, values) if pairs else None


# What all of them need


def _rows(sweep: Sweep, task: Task) -> list[dict[Any, Any]]:
    return [row for row in sweep.training_rows if row["task"] == task.key]


def _place(row: Mapping[Any, Any]) -> tuple[int | None, int]:
    """Rung and seed of a run."""
    return None if pd.isna(row["rung"]) else int(row["rung"]), int(row["seed"])


def _conflicts(values: Mapping[str, Mapping[Any, Any]]) -> frozenset[Pair]:
    """Pairs of models that have different values at a place that both have."""
    alike: dict[frozenset[Any], list[str]] = {}
    for name, mine in values.items():
        alike.setdefault(frozenset(mine.items()), []).append(name)
    pairs = set()
    for ours, theirs in itertools.combinations(alike, 2):
        one, other = values[alike[ours][0]], values[alike[theirs][0]]
        if any(one[key] != other[key] for key in one.keys() & other.keys()):
            pairs |= {frozenset(pair) for pair in itertools.product(alike[ours], alike[theirs])}
    return frozenset(pairs)


def _conflicting(values: Mapping[str, Mapping[Any, Any]]) -> list[Any]:
    """The places at which not all models have the same value."""
    seen: dict[Any, set[Any]] = {}
    for mine in values.values():
        for key, value in mine.items():
            seen.setdefault(key, set()).add(value)
    return [key for key, found in seen.items() if len(found) > 1]


def _differing(values: Mapping[str, Mapping[Any, Iterable[tuple[str, str]]]]) -> str:
    """The names of facts that are not the same for all models."""
    seen: dict[str, set[str]] = {}
    for mine in values.values():
        for facts in mine.values():
            for name, value in facts:
                seen.setdefault(name, set()).add(value)
    several = [name for name, found in seen.items() if len(found) > 1]
    return ", ".join(name.replace("_", " ") for name in several[:_MOST_NAMES])
