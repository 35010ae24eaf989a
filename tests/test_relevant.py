"""Tokens that decide the last answer: the task's own oracle says so, whatever else is put in their places."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqbench import records
from seqbench.batch import PADDING, UNSCORED, Batch, widen
from seqbench.plan import plan
from seqbench.recorder import Recorder
from seqbench.registry import plugins
from seqbench.seeds import stream
from seqbench.tasks.adding import Adding
from seqbench.tasks.base import GeneratedTask, TaskConfig
from seqbench.tasks.copy import Copy
from seqbench.tasks.even_pairs import EvenPairs
from seqbench.tasks.induction import Induction
from seqbench.tasks.mqar import MQAR
from seqbench.tasks.reverse_string import ReverseString
from seqbench.tasks.selective_copy import SelectiveCopy
from seqbench.tasks.spell import Spell
from seqbench.tasks.temporal_order import TemporalOrder

NOWHERE = Path("/nonexistent")  # these tasks cache nothing
EXAMPLES = 16

TASKS = [
    MQAR(pairs=[4]),
    MQAR(pairs=[8], keys=8, queries=5),
    Copy(blanks=[5]),
    Copy(variant="tcn", blanks=[5]),
    SelectiveCopy(),
    SelectiveCopy(lengths=[5], items=5, symbols=3),
    Induction(lengths=[12]),
    Induction(lengths=[9], protocol="all", examples=20),
    EvenPairs(longest=9),
    ReverseString(longest=9),
    Spell(largest=120),
    *(
        TemporalOrder(variant=variant, marked=marked, lengths=[20])
        for variant, marked in itertools.product(("ladder", "classic"), "23")
    ),
]
ADDING = [Adding(variant=variant, lengths=[24]) for variant in ("arjovsky", "tcn", "hochreiter")]


def label(task: TaskConfig) -> str:
    return f"{task.card().id}-{task.rung()}"


def kinds(task: Any) -> list[range]:
    """Ids that can stand in for each other without a change of structure."""
    if isinstance(task, TemporalOrder):
        first = 1 + task.symbols
        return [range(1, first), range(first, first + task.distractors)]
    if isinstance(task, MQAR):
        return [range(1 + task.keys, task.vocabulary_size)]
    if isinstance(task, Spell):
        return [range(1, task.largest + 2)]
    if isinstance(task, EvenPairs | ReverseString):
        return [range(1, 3)]
    return [range(1, 1 + (8 if isinstance(task, Copy) else task.symbols))]


def rewritten(task: Any, ids: np.ndarray) -> Iterator[np.ndarray]:
    """Legal sequences that ask the same: another token of its kind, or the keys elsewhere."""
    for place, kind in itertools.product(range(len(ids)), kinds(task)):
        for other in set(kind) - {ids[place]} if ids[place] in kind else ():
            yield np.where(np.arange(len(ids)) == place, other, ids)
    moves: list[tuple[int, int]] = []
    if isinstance(task, MQAR):
        shown = range(0, 2 * task.pairs[0], 2)
        moves = list(itertools.combinations(shown, 2))
        last = int(np.flatnonzero(ids)[-1])
        for query, key in itertools.product(range(2 * task.pairs[0], last), ids[shown]):
            yield np.where(np.arange(len(ids)) == query, key, ids)
        for old, new in itertools.product(set(ids[shown]) - {ids[last]}, range(1, 1 + task.keys)):
            if new not in ids[shown]:
                yield np.where(ids == old, new, ids)
    if isinstance(task, Induction):
        first = ids.tolist().index(task.symbols + 1)
        moves = [(first, place) for place in range(len(ids) - 2) if place != first]
    for here, there in moves:
        exchanged = ids.copy()
        exchanged[[here, there]] = ids[[there, here]]
        yield exchanged


def last_place(batch: Batch) -> np.ndarray:
    """Where the last answer of each sequence is read."""
    if batch.targets.ndim == 1:
        return batch.lengths_B - 1
    return np.array([np.flatnonzero(row != UNSCORED)[-1] for row in batch.targets])


def answers(task: TaskConfig, batch: Batch, ids_NT: np.ndarray, row: int) -> np.ndarray:
    """The oracle's last answer to each of these sequences, all as long as one row of the batch."""
    lengths = np.full(len(ids_NT), batch.lengths_B[row])
    found = task.oracle(Batch(ids_NT, lengths, np.repeat(batch.targets[row : row + 1], len(ids_NT), 0)))
    return found if found.ndim == 1 else found[:, last_place(batch)[row]]


@pytest.mark.parametrize("task", TASKS, ids=label)
def test_what_is_marked_decides_and_nothing_else_does(task):
    batch = task.open(0, NOWHERE).probe(EXAMPLES)
    marks_BT = task.relevant(batch)
    for row, (ids, marks) in enumerate(zip(batch.ids_BT, marks_BT, strict=True)):
        others = np.array([ids, *rewritten(task, ids)])
        answer = answers(task, batch, others, row)
        touched = (others != ids) & marks
        same = answer == answer[0]
        assert same[~touched.any(1)].all()
        decides = touched[(touched.sum(1) == 1) & ~same].any(0)
        assert decides.tolist() == marks.tolist()
    assert marks_BT.any()


@pytest.mark.parametrize("task", ADDING, ids=label)
def test_the_marked_numbers_decide_a_sum_and_no_other_does(task):
    batch = task.open(0, NOWHERE).probe(EXAMPLES)
    marks_BT, before = task.relevant(batch), task.oracle(batch)
    assert (marks_BT.sum(1) == 2).all()
    for step in range(batch.ids_BT.shape[1]):
        values = batch.values_BTF.copy()
        values[:, step, 0] = np.where(step < batch.lengths_B, values[:, step, 0] / 2 + 0.3, 0)
        after = task.oracle(dataclasses.replace(batch, values_BTF=values))
        moved = (values != batch.values_BTF).any((1, 2))
        assert np.array_equal(after != before, marks_BT[:, step] & moved)


def test_every_task_that_marks_is_checked_here():
    ours = {cls for cls in plugins("task").values() if cls.__module__.startswith("seqbench.")}
    marking = {cls for cls in ours if cls.relevant is not TaskConfig.relevant}
    assert {type(task) for task in (*TASKS, *ADDING)} == marking


def drawn() -> Iterator[tuple[TaskConfig, Batch]]:
    """Batches of every task that draws its own data, of its slices too."""
    for cls in plugins("task").values():
        for task in cls().rungs() if issubclass(cls, GeneratedTask) else ():
            yield task, task.open(0, NOWHERE).probe(EXAMPLES)
            for value in task.slice_values():
                yield task, task.sample_slice(stream(0, "slice", value), EXAMPLES, value)
    yield from ((task, task.open(0, NOWHERE).probe(EXAMPLES)) for task in (*TASKS, *ADDING))


def test_marks_are_never_at_padding_and_padding_changes_none():
    for task, batch in drawn():
        marks_BT = task.relevant(batch)
        if marks_BT is not None:
            assert marks_BT.dtype == np.bool_, label(task)
            assert marks_BT.shape == batch.ids_BT.shape, label(task)
            assert not marks_BT[batch.ids_BT == PADDING].any(), label(task)
            wide_BT = task.relevant(widen(batch, 3))
            assert np.array_equal(wide_BT, np.pad(marks_BT, ((0, 0), (0, 3)))), label(task)


# In a run


def recorded(folder: Path, make_job: Any, task: type[TaskConfig]) -> tuple[records.Run, list[float]]:
    """A run of a few steps, and what its table says about the tokens of the first example."""
    job = make_job(
        "transformer", "mqar", seeds=[0], speed={"enabled": False}, probes=["attention"],
        train={"steps": 2, "eval_every": 2, "eval_examples": 8, "test_examples": 8},
    )  # fmt: skip
    job = dataclasses.replace(job, task=task(pairs=[2]))
    [unit] = plan([job], folder)
    run = Recorder(unit, allocator=False).run()
    assert run.status == "done", run.error
    rows = records.read_table(unit.folder, run, "attention").to_pylist()
    kept = [row for row in rows if row["kind"] == "map" and not row["sequence"]]
    first = [row for row in kept if row["moment"] == "final" and row["layer"] == row["head"] == 1]
    return run, [row["relevant"] for row in first]


def test_a_run_tells_which_tokens_decide(make_job, tmp_path):
    run, relevant = recorded(tmp_path, make_job, MQAR)
    batch = MQAR(pairs=[2]).open(0, NOWHERE).probe(EXAMPLES)
    seen = batch.lengths_B[0]
    assert relevant == MQAR(pairs=[2]).relevant(batch)[0, :seen].astype(float).tolist()
    assert sum(relevant) == 2
    assert "relevant_failed" not in run.metrics


class Raising(MQAR):
    def relevant(self, batch):
        raise LookupError("no idea")


class Narrow(MQAR):
    def relevant(self, batch):
        return super().relevant(batch)[:, 1:]


class Counting(MQAR):
    def relevant(self, batch):
        return super().relevant(batch).astype(int)


@pytest.mark.parametrize(
    ("task", "remark"),
    [
        (Raising, "LookupError: no idea"),
        (Narrow, "UsageError: relevant tokens: expected booleans of the shape"),
        (Counting, "got int64 of the shape"),
    ],
)
def test_a_task_that_marks_wrongly_costs_no_run(make_job, tmp_path, task, remark):
    run, relevant = recorded(tmp_path, make_job, task)
    assert remark in run.metrics["relevant_failed"]
    assert relevant
    assert all(math.isnan(one) for one in relevant)
