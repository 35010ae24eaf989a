"""Times of several machines never stand in one ranking: one machine's are shown, and it is said whose."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made import Work, tables, timing, training, usual, write_sweep
from rich.console import Console

from seqbench import hooks, records
from seqbench.records import Run
from seqbench.report.clocks import machine_of
from seqbench.report.export import export
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.lesson import render as render_lesson
from seqbench.report.page import render
from seqbench.report.premises import premises
from seqbench.report.speeds import points, speeds
from seqbench.report.summary import until_solved

THREE = {"rnn": 0.12, "lstm": 0.998, "gru": 0.998}
HERE = {"cpu": "a chip", "threads": 1, "versions": {"torch": "1"}}
THERE = {**HERE, "cpu": "another chip"}
SPEED = "Speed and peak memory were measured on 2 machines and are not comparable between them"
# A time that is found nowhere else, so that it can be looked for in whatever is written.
TELLTALE_S = 0.7654321


def grid() -> dict[str, list[Any]]:
    rows = [(t, m, 1e-4 * t * k) for t in (16, 32, 64, 128) for m in ("train", "forward") for k in (1, 1.1)]
    steps, mode, step_s = map(list, zip(*rows, strict=True))
    return {
        "steps": steps, "batch_size": [4] * len(steps), "mode": mode, "step_s": step_s,
        "valid_tokens": [4 * t for t in steps], "memory_bytes": [1e5 * t for t in steps],
    }  # fmt: skip


def slow(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {**columns, "step_s": [TELLTALE_S] * len(columns["step_s"])}


def elsewhere(work: Work) -> Work:
    """The same run from another machine, with times that are easily found again."""
    run, columns = work
    times = {key: TELLTALE_S for key, value in run.metrics.items() if key.endswith("_s") and value}
    timed = {name: slow(table) if name in ("speed", "grid") else table for name, table in columns.items()}
    return dataclasses.replace(run, environment=THERE, metrics={**run.metrics, **times}), timed


def work(*there: str) -> list[Work]:
    """Three models with all that is timed; those that are named are from another machine."""
    found = [
        (run, {**columns, "grid": grid()} if run.kind == "speed" else columns)
        for run, columns in usual(THREE)
    ]
    return [elsewhere(one) if one[0].model in there else one for one in found]


def read(folder: Path, made: list[Work], **plan: Any) -> Sweep:
    return read_sweep(write_sweep(folder / "s", made, **plan))


def terminal(folder: Path, reports: Path) -> str:
    console = Console(file=io.StringIO(), width=250, no_color=True)
    hooks.finish(folder, reports, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Sweep:
    return read(tmp_path_factory.mktemp("two"), work("gru"))


def test_the_machine_with_most_models_is_shown_and_the_others_have_no_times(two: Sweep):
    assert two.clocks.of["speed"].machine == machine_of(training("rnn", 16, 0, 0.5))
    assert set(speeds(two)["label"]) == set(points(two)["label"]) == {"rnn", "lstm"}
    (line,) = [one for one in two.clocks.words() if "Speed" in one]
    assert line.startswith(
        SPEED.replace("Speed and peak memory", "Speed and peak memory and times of training")
    )
    assert "Shown: those of a chip; not shown: those of another chip." in line
    assert "no times stand beside gru" in line


def test_scores_sizes_and_verdicts_are_those_of_one_machine(two: Sweep, tmp_path: Path):
    one = read(tmp_path, work())
    kept = [column for column in one.runs if not column.endswith("_s") and column != "elsewhere"]
    pd.testing.assert_frame_equal(two.runs[kept], one.runs[kept])
    assert premises(two) == premises(one) == []


def test_no_time_of_the_other_machine_is_anywhere(two: Sweep, tmp_path: Path):
    export(two, tmp_path / "out", ["csv", "md", "tex"])
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    shown = {"page": render(two), "lesson": render_lesson(two), "terminal": terminal(two.folder, tmp_path)}
    milliseconds = re.compile(r"0\.76543|765\.4|0\.765|765[ \u2009,]")
    assert {name for name, text in {**written, **shown}.items() if milliseconds.search(text)} == set()
    for column in ("train_cpu_s", "solved_cpu_s"):
        runs = pd.read_csv(tmp_path / "out/runs.csv")
        assert runs.loc[runs["label"] == "gru", column].isna().all()
        assert runs.loc[runs["label"] == "lstm", column].notna().any()


def test_everything_that_shows_times_says_whose(two: Sweep, tmp_path: Path):
    page, lesson, shown = render(two), render_lesson(two), terminal(two.folder, tmp_path)
    for text in (page, lesson, shown):
        assert "not comparable between them" in text
        assert "not shown: those of another chip" in text
    captions = re.findall(r"<caption>(.*?)</caption>", page, re.DOTALL)
    with_times = [
        c
        for c in captions
        if "speed and memory" in c or "Every length" in c or "whole task" in c or "costs" in c
    ]
    assert len(with_times) == 4
    assert all("times of one machine: a chip" in caption for caption in with_times)


def row(text: str, model: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip(" |│┃").startswith(model))


def test_the_terminal_has_a_dash_where_a_time_is_of_another_machine(two: Sweep, tmp_path: Path):
    shown = terminal(two.folder, tmp_path)
    assert row(shown, "gru").count("—") + row(shown, "gru").count("-") > row(shown, "lstm").count("—")


def test_one_machine_changes_nothing(tmp_path: Path):
    sweep = read(tmp_path, work())
    assert (sweep.clocks.words(), sweep.clocks.caption(), sweep.clocks.caption("train")) == ([], "", "")
    assert not sweep.runs["elsewhere"].any()
    assert set(speeds(sweep)["label"]) == set(THREE)
    for text in (render(sweep), render_lesson(sweep), terminal(sweep.folder, tmp_path)):
        assert "of one machine" not in text
        assert "not comparable between" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cores": 8}, "cores"), ({"device": "cuda"}, "device cuda"), ({"threads": 2}, "threads: 2"),
        ({"platform": "other"}, "other"), ({"versions": {"torch": "2"}}, "torch 2"),
    ],
)  # fmt: skip
def test_what_decides_times_makes_a_machine(tmp_path: Path, changes: dict[str, Any], words: str):
    made = [timing("rnn"), timing("lstm"), timing("gru", environment={**HERE, **changes})]
    (line,) = read(tmp_path, made).clocks.words()
    assert line.startswith(SPEED)
    assert words in line


def test_hosts_that_are_alike_are_one_machine(tmp_path: Path):
    made = [timing("rnn"), timing("gru", environment={**HERE, "load_average": 3.0, "hostname": "b"})]
    sweep = read(tmp_path, made)
    assert sweep.clocks.words() == []
    assert set(speeds(sweep)["label"]) == {"rnn", "gru"}


def test_a_model_timed_on_both_is_shown_of_the_machine_that_is_shown(tmp_path: Path):
    sweep = read(tmp_path, [timing("rnn"), timing("gru"), elsewhere(timing("gru"))])
    times = speeds(sweep)
    assert set(times["label"]) == {"rnn", "gru"}
    assert times["median_s"].max() < TELLTALE_S
    (line,) = sweep.clocks.words()
    assert "Those of gru are of a part of the runs." in line


def test_which_machine_is_shown_does_not_depend_on_the_order_of_the_plan(tmp_path: Path):
    made = [timing("rnn"), elsewhere(timing("gru"))]
    one, other = read(tmp_path / "a", made), read(tmp_path / "b", made[::-1])
    assert one.clocks.of["speed"].machine == other.clocks.of["speed"].machine


def test_training_is_shown_of_the_machine_that_timed(tmp_path: Path):
    """Most trained elsewhere, but times to solve and speeds are those of one machine."""
    made = [training(m, 16, seed, 1.0) for m in THREE for seed in range(3)]
    trained = [elsewhere((run, tables(1.0))) if run.model != "rnn" else (run, tables(1.0)) for run in made]
    sweep = read(tmp_path, [*trained, timing("rnn")])
    shown = sweep.runs[sweep.runs["kind"].eq("train") & sweep.runs["elsewhere"].ne(True)]
    assert set(shown["label"]) == {"rnn"}


def _solved(times: list[tuple[bool, float, bool]]) -> float | None:
    frame = pd.DataFrame(times, columns=["solved", "solved_cpu_s", "elsewhere"])
    return until_solved(frame, "solved_cpu_s")


def test_time_to_solve_is_of_the_runs_that_are_shown():
    assert _solved([(True, 1.0, False), (True, 3.0, False), (True, 5.0, False)]) == 3.0
    assert _solved([(True, 1.0, False), (True, float("nan"), True), (True, float("nan"), True)]) == 1.0
    unknown = _solved([(True, float("nan"), True)] * 3)
    assert unknown is not None
    assert math.isnan(unknown)
    assert _solved([(False, float("nan"), True)] * 2 + [(True, 1.0, False)]) is None  # seldom solved


def test_curves_of_the_other_machine_have_no_clock(tmp_path: Path):
    def clocked(run: Run, columns: dict[str, Any]) -> Work:
        seen = {**columns["evaluations"], "train_cpu_s": [TELLTALE_S] * 5, "train_wall_s": [TELLTALE_S] * 5}
        return run, {**columns, "evaluations": seen}

    made = [clocked(*one) if one[0].kind == "train" else one for one in work("gru")]
    table = read(tmp_path, made).table("evaluations")
    assert table.loc[table["label"] == "gru", ["train_cpu_s", "train_wall_s"]].isna().all(axis=None)
    assert table.loc[table["label"] == "rnn", "train_cpu_s"].notna().all()
    assert table["score"].notna().all()


def test_strange_facts_of_a_machine_are_words(tmp_path: Path):
    made = [timing("rnn"), timing("gru", environment={"cpu": ["<b>"], "cores": {}, "versions": 5})]
    sweep = read(tmp_path, made)
    assert len(sweep.clocks.words()) == 1
    assert "<b>" not in render(sweep)
    assert records.read_plan(sweep.folder)
