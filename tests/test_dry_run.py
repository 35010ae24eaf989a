"""What a command will do, said and not done; and a budget that a whole sweep keeps."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from faults.observe import runs_below
from rich.console import Console

from seqbench import records, stats
from seqbench.budget import Cost
from seqbench.earlier import Earlier, Spread
from seqbench.forecast import Forecast, kind
from seqbench.outlook import detectable, show
from seqbench.pace import Chosen, Pace
from seqbench.plan import plan

SMALL = [
    "-m", "model=rnn,gru", "task=temporal_order", "task.lengths=[8]", "train.steps=20", "train.eval_every=10",
    "train.eval_examples=64", "train.test_examples=64", "match.target=2000", "speed.seconds=0",
    "speed.lengths=[]",
]  # fmt: skip


# In words


def test_detectable_differences_stand_in_the_score_where_a_spread_is_known(make_job):
    jobs = [make_job(model) for model in ("rnn", "gru", "lstm")]
    (unknown,) = detectable(jobs, 5, Earlier())
    size = stats.detectable(1.0, 5, alpha=stats.ALPHA / 2)
    assert f"{size:.2g} times their standard deviation" in unknown
    assert "5 seeds, power 0.8 and 2 comparisons" in unknown
    known = Earlier()
    known.spread = lambda _: Spread(0.01, 30)  # type: ignore[method-assign]
    (told,) = detectable(jobs, 5, known)
    assert f"differences of {0.01 * size:.2g} in accuracy" in told
    assert "30 earlier runs" in told


def test_one_model_and_two_seeds_detect_nothing(make_job):
    assert detectable([make_job()], 5, Earlier()) == []
    assert "takes 3 at least" in detectable([make_job("rnn"), make_job("gru")], 2, Earlier())[0]


def test_the_table_counts_every_run_and_its_most(make_job, tmp_path):
    jobs = [make_job(model, task_options={"lengths": [8, 16]}, canaries=True) for model in ("rnn", "gru")]
    units = plan(jobs, tmp_path)
    costs = {kind(unit): Cost(2.0, 0.0, 0.0, 0.0, steps=1, every=1, peak_bytes=1 << 30) for unit in units}
    ahead = Pace(Forecast(costs, 2, Earlier()), [], lambda _: tmp_path, time.monotonic())
    text = io.StringIO()
    show(Console(file=text, width=120), ahead, Chosen(jobs, [0, 1, 2], False, 0, ""), units)
    rows = {tuple(line.split()[:2]): line.split() for line in text.getvalue().splitlines()}
    assert rows["temporal_order", "rnn"][2:] == ["6", "0", "2.0", "0.2"]
    assert rows["temporal_order", "bag"][3:] == ["2", "0", "2.0", "0.1"]
    assert "2 runs side by side, each up to 1.0 GiB" in text.getvalue()
    assert "time: at most" in text.getvalue()


# Whole commands


@pytest.mark.parametrize("more", [[], ["match.by=time", "match.target=null"], ["budget=10m"], ["tune=3"]])
def test_a_dry_run_says_what_would_be_and_leaves_nothing(seqbench, tmp_path, more):
    result = seqbench(*SMALL, *more, "dry_run=true", *([] if "budget=10m" in more else ["seeds=4"]))
    assert result.returncode == 0, result.stderr
    assert re.search(r"temporal_order +rnn +\d+ +0 +\d+\.\d", result.stdout)
    assert "time: at most" in result.stdout
    assert "detectable" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["budget=banana", "budget=0s", "budget=-5m", "budget=10", "budget=5m,10m"])
def test_what_is_no_budget_is_refused_in_one_line(seqbench, tmp_path, word):
    result = seqbench(*SMALL, word)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "budget" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_matched_is_refused(seqbench, tmp_path):
    result = seqbench(*SMALL, "match.target=3", "dry_run=true")
    assert result.returncode == 2
    assert "match.target=3: out of reach" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_budget_that_is_too_small_leaves_nothing_and_says_what_would_do(seqbench, tmp_path):
    result = seqbench(*SMALL, "budget=1s")
    assert result.returncode == 2
    assert re.search(r"3 seeds of 2 models.* take up to .*: give budget=1m", result.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("budget")


@pytest.fixture(scope="module")
def first(python_in, folder):
    began = time.monotonic()
    result = python_in(folder, "-m", "seqbench", *SMALL, "budget=20s", "train.lr=0.01")
    return result, time.monotonic() - began


def seeds_of(folder: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for _, run in runs_below(folder).values():
        if run.kind == "train" and run.status == "done":
            found.setdefault(run.model, set()).add(run.seed)
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_budget_runs_the_same_seeds_of_every_model_and_ends_in_time(first, folder):
    result, took = first
    assert result.returncode == 0, result.stdout + result.stderr
    seeds = seeds_of(folder)
    assert seeds["rnn"] == seeds["gru"] == set(range(len(seeds["rnn"])))
    assert len(seeds["rnn"]) >= 3
    assert seeds["bag"] == seeds["constant"] == {0}
    assert 0.5 * 20 < took < 1.5 * 20  # others use the machine too; alone it is 15 %
    (plan_file,) = folder.glob("runs/*/plan.json")
    planned = {run["folder"] for run in records.read_plan(plan_file.parent)["runs"]}
    assert planned == set(runs_below(folder))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_same_command_reuses_what_is_done_and_may_add_seeds(first, folder, python_in):
    before = {path: path.read_bytes() for path in folder.glob("runs/*/*/run.json")}
    result = python_in(folder, "-m", "seqbench", *SMALL, "budget=12s", "train.lr=0.01")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list(folder.glob("runs/*"))) == 1
    assert {path: path.read_bytes() for path in before} == before
    after = seeds_of(folder)
    assert after["rnn"] == after["gru"] == set(range(len(after["rnn"])))
    assert (
        len(after["rnn"]) * 2 + 2 >= sum(path.parent.name.startswith(("rnn", "gru")) for path in before) / 2
    )
