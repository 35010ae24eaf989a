"""Records with numbers that nobody could have measured: the page is made all the same, and stays small."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from made import Work, card, tables, training, write_sweep

from seqbench.records import Run
from seqbench.report.frame import read_sweep
from seqbench.report.page import render
from seqbench.report.planned import tamed

HUGE = 10**400


def maps(largest: list[float], distance: list[float]) -> dict[str, dict[str, list[Any]]]:
    rows = len(largest)
    fixed = {"moment": "init", "of": "state to state", "direction": "past", "median": 0.5, "lyapunov": -1.0}
    columns = {name: [value] * rows for name, value in fixed.items()}
    return {"jacobian": {**columns, "largest": largest, "distance": distance}}


def flow(distance: list[float], median: list[float], state: bool) -> dict[str, dict[str, list[Any]]]:
    rows = len(distance)
    columns = {"moment": ["init"] * rows, "distance": distance, "median": median, "sequences": [4] * rows}
    return {"state_flow": {**columns, "state": ["s"] * rows}} if state else {"gradient_flow": columns}


def looking(keys: int, heads: int) -> dict[str, dict[str, list[Any]]]:
    """Attention on positions far beyond any sequence."""
    rows = [
        {"moment": "final", "kind": "map", "layer": 1, "head": h, "sequence": 0, "query": keys, "key": keys,
         "value": 1.0, "token": 1, "relevant": math.nan}
        for h in range(1, heads + 1)
    ]  # fmt: skip
    return {"attention": {name: [row[name] for row in rows] for name in rows[0]}}


NORMS = {"step": list(range(1, 101)), "loss": [1.0] * 100, "gradient_norm": [0.0] * 60 + [5.0] * 40}
SLICES = {"value": [float(v) for v in range(1, 5001)], "loss": [1.0] * 5000, "accuracy": [0.5] * 5000}
TABLES = {
    "most norms are zero": {"steps": NORMS},
    "a norm is infinite": {"steps": {**NORMS, "gradient_norm": [math.inf] * 100}},
    "endless singular values": maps([math.inf] * 3, [1, 2, 4]),
    "singular values of every size": maps([1e308, 1e-308, 1.0], [1, 2, 4]),
    "endless distances": flow([1, 2, math.inf], [1.0, 0.5, 0.1], state=False),
    "endless distances of states": flow([1, 2, math.inf], [1.0, 0.5, 0.1], state=True),
    "gradients of every size": flow([1, 2, 3], [5e-324, 1e308, 1.0], state=False),
    "endless slices": {"slices": {"value": [1.0, 1e300, math.inf], "loss": [1.0] * 3, "accuracy": [0.5] * 3}},
    "thousands of slices": {"slices": SLICES},
    "attention far away": looking(65_536, 8),
    "a layer with a long number": {
        "parameters": {"step": [1], **{f"e.blocks.{'9' * 60}.w{i}": [1.0] for i in range(4)}},
    },
    "an endless rung": {"speed": {"rung": [math.inf] * 4, "mode": ["train"] * 4, "step_s": [1.0] * 4,
                                  "valid_tokens": [1] * 4, "memory_bytes": [1] * 4}},
}  # fmt: skip


def page(folder: Path, work: list[Work]) -> str:
    return render(read_sweep(write_sweep(folder, work)))


@pytest.mark.parametrize("name", TABLES)
def test_absurd_tables_make_a_page_all_the_same(tmp_path, name):
    columns = {**tables(0.5), **TABLES[name]}
    text = page(tmp_path / "s", [(training("gru", 16, seed, 0.5), columns) for seed in range(2)])
    assert "How to repeat this" in text
    assert len(text) < 2_500_000


def absurd(**parts: Any) -> Run:
    run = training("gru", 16, 0, 0.5)
    return dataclasses.replace(
        run, **{name: {**getattr(run, name), **value} for name, value in parts.items()}
    )


RUNS = {
    "floors": absurd(card=card(floors={"chance": HUGE})),
    "notes": absurd(card=card(notes={"rows": HUGE, "more": 10**4000})),
    "solved_at": absurd(config={"task": {"name": "order", "solved_at": HUGE}}),
    "train": absurd(config={"train": {"lr": HUGE, "clip": HUGE, "epochs": HUGE, "steps": HUGE}}),
    "metrics": absurd(metrics={"width": HUGE, "test_answers": HUGE, "oracle_score": HUGE, "steps": HUGE}),
    "metric": absurd(card=card(metric=["accuracy"])),
}


@pytest.mark.parametrize("name", RUNS)
def test_absurd_numbers_in_a_record_make_a_page_all_the_same(tmp_path, name):
    text = page(tmp_path / "s", [(RUNS[name], tables(0.5))])
    assert "How to repeat this" in text
    assert len(text) < 1_000_000


def test_numbers_are_tamed_and_nothing_else():
    plain = {"a": [1, -2.5, True, None, "x"], "b": {"c": 1e99}}
    assert tamed(plain) == plain
    assert tamed({"a": math.inf, "b": [HUGE], "c": json.loads("-1e999")}) == {
        "a": None,
        "b": [None],
        "c": None,
    }
