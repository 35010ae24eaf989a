"""The ledger of costs: ranks, what was made equal, and where a ranking depends on it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from made import settings, timing, training, write_sweep

from seqbench.report.fairness import Cost, base, costs, flips, ranks, table, words
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render
from seqbench.report.speeds import speeds
from seqbench.report.summary import cells
from seqbench.report.task import Task


def swept(folder: Path, models: dict[str, float], by: str = "params", **counted: Any) -> Sweep:
    """Models with a score on one rung, and a speed record with counted costs."""
    work = []
    for number, (name, score) in enumerate(models.items(), start=1):
        config = settings(name, 16) | {"match": {"by": by, "target": None}}
        work.append((training(name, 16, 0, score, config=config), {}))
        run, tables = timing(name)
        rows = len(tables["speed"]["step_s"])
        costs = {"flops": [1e6 * number] * rows, "state_values": [64.0 / number] * rows, **counted}
        tables["speed"] |= costs
        work.append((dataclasses.replace(run, config=config), tables))
    return read_sweep(write_sweep(folder, work))


def ledger(sweep: Sweep) -> list[Cost]:
    return costs(sweep, cells(sweep), speeds(sweep))


def test_every_cost_has_its_rank(tmp_path):
    found = table(ledger(swept(tmp_path / "s", {"rnn": 0.5, "gru": 0.9}, by="flops")))
    assert [head for head, _ in found.heads][3:6] == [
        "test score (rank)", "matched parameters (rank)", "FLOPs, forward (rank)",
    ]  # fmt: skip
    rnn, gru = ([entry.text for entry in row] for row in found.rows)
    assert rnn[1:] == ["rnn", "operations", "0.500 (2)", "1,000 (1)", "1M (1)", "64 (2)", "1.76 (1)"]
    assert gru[1:] == ["gru", "operations", "0.900 (1)", "1,000 (1)", "2M (2)", "32 (1)", "1.76 (1)"]
    assert [entry.kind for entry in found.rows[0]].index("all") == 5  # what was made equal is shaded


def test_the_closest_achievable_and_the_widest_spread_are_told(tmp_path):
    told = words(ledger(swept(tmp_path / "s", {"rnn": 0.5, "gru": 0.9}, by="flops")))
    assert "against the first model the closest achievable is gru 2.00 times (operations, order)" in told[0]
    assert told[1] == "At equal operations on order, rnn has 2 times the state of gru."


def test_disturbed_times_are_no_ratios_to_speak_of(tmp_path):
    found = ledger(swept(tmp_path / "s", {"rnn": 0.5, "gru": 0.9}))
    slow = [dataclasses.replace(cost, time=cost.time * (1 + 9 * n)) for n, cost in enumerate(found)]
    assert "10 times the time per step" in " ".join(words(slow))
    assert "time per step" not in " ".join(words(slow, busy=True))


def test_what_costs_the_same_gives_nothing_to_tell(tmp_path):
    same = {"flops": [1e6] * 12, "state_values": [64.0] * 12}
    assert words(ledger(swept(tmp_path / "s", {"rnn": 0.5, "gru": 0.9}, by="flops", **same))) == []


def test_one_model_or_no_counted_cost_needs_no_ledger(tmp_path):
    assert table(ledger(swept(tmp_path / "one", {"rnn": 0.5}))) is None
    assert table([]) is None
    assert "ledger" not in render(read_sweep(write_sweep(tmp_path / "none", [])))


def cost(label: str, by: str, score: float) -> Cost:
    return Cost(TASK, 16, label, by, score, *[1.0] * 4)


TASK: Task = None


@pytest.fixture(autouse=True)
def _task(tmp_path):
    global TASK  # noqa: PLW0603
    TASK = swept(tmp_path / "task", {"rnn": 0.5}).tasks[0]


def pairs(params: tuple[float, float], time: tuple[float, float]) -> list[Cost]:
    scores = {"params": params, "time": time}
    return [
        cost(f"{name} (by={by})", by, score)
        for by, both in scores.items()
        for name, score in zip(("rnn", "gru"), both, strict=True)
    ]


def test_a_ranking_that_depends_on_what_is_equal_is_told():
    assert flips(pairs((0.4, 0.9), (0.9, 0.4))) == [
        "The ranking flips on order: at equal parameters gru is ahead of rnn, at equal time per step "
        "rnn of gru (means; see the verdict for what can be told)."
    ]


@pytest.mark.parametrize(
    "time", [(0.3, 0.9), (0.5, 0.5), (0.9, 0.899), (math.nan, 0.4)], ids=["same", "tie", "margin", "unknown"]
)
def test_the_same_order_a_tie_or_a_hair_is_no_flip(time):
    assert flips(pairs((0.4, 0.9), time)) == []


def test_equal_values_share_a_rank_and_unknown_ones_have_none():
    assert ranks([3.0, 1.0, math.nan, 1.0], highest=False) == [3, 1, None, 1]
    assert base("lstm (forget_bias=1, by=time)") == "lstm (forget_bias=1)"


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 1e99, "?"])
def test_absurd_costs_make_a_page_all_the_same(tmp_path, value):
    sweep = swept(tmp_path / "s", {"rnn": 0.5, "gru": 0.9}, flops=[value] * 12)
    assert "What each model costs" in render(sweep)
    assert all(math.isnan(one.flops) for one in ledger(sweep))


def test_what_was_to_be_equal_and_was_never_counted_is_told(tmp_path):
    match = {"match": {"by": "flops", "target": None}}
    config = {name: settings(name, 16) | match for name in ("rnn", "gru")}
    work = [(training(name, 16, 0, 0.5, config=config[name]), {}) for name in config]
    told = words(ledger(read_sweep(write_sweep(tmp_path / "s", work))))
    assert told == [
        "Widths were solved for equal operations; how near they came is not shown, for a model's costs are "
        "counted where its speed is measured (speed.enabled=true)."
    ]


def test_a_ranking_that_flips_is_told_from_records_as_composition_leaves_them(tmp_path):
    matches = {
        "params": {"by": "params", "target": 35_000, "rung": None, "reference": None},
        "flops": {"by": "flops", "target": None, "rung": 16, "reference": {"name": "rnn"}},
    }
    scores = {("rnn", "params"): 0.9, ("gru", "params"): 0.4, ("rnn", "flops"): 0.4, ("gru", "flops"): 0.9}
    work = [
        (training(name, 16, 0, score, config=settings(name, 16) | {"match": matches[by]}), {})
        for (name, by), score in scores.items()
    ]
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    assert sorted(sweep.labels) == ["gru (by=flops)", "gru (by=params)", "rnn (by=flops)", "rnn (by=params)"]
    assert flips(ledger(sweep)) == [
        "The ranking flips on order: at equal parameters rnn is ahead of gru, at equal operations gru of rnn "
        "(means; see the verdict for what can be told)."
    ]
