"""A small tuned sweep from command to report: trials, files, comparison; the same command goes on with it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment
from faults.observe import bits, planned, runs_below, tables
from omegaconf import OmegaConf

from seqbench import records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COMMAND = [
    "-m", "seqbench", "-m", "model=rnn,gru", "task=temporal_order", "task.lengths=[8]", "tune=3",
    "tuning.halvings=1", "tuning.dir=own/tuned", "train.steps=20", "train.eval_every=10",
    "train.eval_examples=64", "train.test_examples=64", "seeds=1", "match.target=2000",
    "speed.enabled=false", "canaries=false",
    "sweep=s",
]  # fmt: skip
TRIALS = 2 * 2 * (3 + 2)  # models, tuning seeds, trials of both rounds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def result(python_in, folder) -> subprocess.CompletedProcess:
    return python_in(folder, *COMMAND, timeout=200)


@pytest.fixture
def swept(folder, result) -> Path:
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_terminal_says_what_is_happening(result, swept):
    assert "tuning 1 of 2: 3 trials for each of 2 models, 10 steps: 12 runs in runs/s" in result.stdout
    assert "tuning 2 of 2: 2 trials for each of 2 models, 20 steps: 8 runs in runs/s" in result.stdout
    assert re.search(r"gru temporal_order: learning rate [\d.]+ update_bias=\S+ [\d.]+", result.stdout)
    assert "written: own/tuned/temporal_order-gru.yaml" in result.stdout
    assert f"{TRIALS + 2} runs planned = {TRIALS + 2} done" in result.stdout
    assert result.stderr == ""


def test_trials_are_records_that_saw_no_test_set(swept):
    runs = runs_below(swept)
    assert planned(swept) == set(runs)
    trials = [run for _, run in runs.values() if run.kind == "trial"]
    assert len(trials) == TRIALS
    assert {run.seed for run in trials} == {1000, 1001}
    for run in trials:
        assert not [name for name in run.metrics if name.startswith("test_")]
        assert run.metrics["best_valid_score"] is not None
        assert run.metrics["best_valid_loss"] > 0
        assert run.config["train"]["tuned"] is False
    for place, run in runs.values():
        assert records.files_intact(place, run)
        assert ("gradient_flow" in tables(place, run)) == (run.kind == "train")


def test_the_comparison_uses_what_the_files_say(swept):
    compared = [run for _, run in runs_below(swept).values() if run.kind == "train"]
    assert {(run.model, run.seed) for run in compared} == {("rnn", 0), ("gru", 0)}
    for run in compared:
        plain = OmegaConf.to_container(OmegaConf.load(swept / f"own/tuned/temporal_order-{run.model}.yaml"))
        assert plain["train"] == {"lr": run.config["train"]["lr"], "tuned": True}
        assert run.config["train"]["tuned"] is True
        assert run.config["train"]["steps"] == 20
        for name, value in plain.get("model", {}).items():
            assert run.config["model"][name] == value


def test_the_page_shows_the_response_and_compares_no_trial(swept):
    page = (swept / "reports/s.html").read_text()
    assert 'id="figure-response0"' in page
    assert "3 trials for each model" in page
    assert "the same for every model" in page
    assert "smoke: 1 seed<" in page.replace("1 seeds", "1 seed")


def test_the_same_command_again_reuses_everything(python_in, swept, tmp_path):
    shutil.copytree(swept, tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy").rglob("runs/*/*/run.json")}
    files = {path: path.read_bytes() for path in (tmp_path / "copy/own/tuned").iterdir()}
    again = python_in(tmp_path / "copy", *COMMAND)
    assert again.returncode == 0, again.stdout + again.stderr
    for count in (12, 8, 2):
        assert f"{count} runs in runs/s, {count} reused" in again.stdout
    assert len(before) == TRIALS + 2
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.read_bytes() for path in files} == files
    assert again.stdout.count("repeat: ") == 1


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *COMMAND], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment(folder), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def test_an_interrupted_tuning_goes_on_where_it_was_and_ends_the_same(python_in, swept, tmp_path):
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[ 5/12]"):
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "go on with: " in errors, rest
    done = {path for path in tmp_path.glob("runs/*/*/run.json") if '"done"' in path.read_text()}
    assert 5 <= len(done) < 12
    assert not (tmp_path / "own/tuned").exists()
    kept = {path: path.read_bytes() for path in done}
    again = python_in(tmp_path, *COMMAND)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(done)} reused" in again.stdout
    assert {path: path.read_bytes() for path in kept} == kept
    assert bits(tmp_path) == bits(swept)
    for path in (swept / "own/tuned").iterdir():
        assert (tmp_path / "own/tuned" / path.name).read_bytes() == path.read_bytes()
    assert len(records.read_plan(tmp_path / "runs/s")["commands"]) == 1


def test_a_failed_trial_is_the_worst_and_fail_fast_stops_at_it(python_in, tmp_path):
    (tmp_path / "mine.py").write_text(FAILING)
    words = ["mine.py", *COMMAND[2:]]
    words[words.index("model=rnn,gru")] = "model=mine"
    result = python_in(tmp_path, *words)
    assert result.returncode == 1
    assert re.search(r"mine temporal_order: learning rate 0\.000?3 ", result.stdout)
    text = (tmp_path / "own/tuned/temporal_order-mine.yaml").read_text()
    assert "0.03 2 of 2 failed" in text
    runs = [run for _, run in runs_below(tmp_path).values()]
    assert {run.status for run in runs if run.config["train"]["lr"] == 0.03} == {"failed"}
    assert {run.status for run in runs if run.kind == "train"} == {"done"}
    stopped = python_in(tmp_path, *words, "fail_fast=true", "sweep=other", "workers=1")
    assert stopped.returncode == 1
    assert "stopped at the first run" in stopped.stdout
    assert "tuning 2 of 2" not in stopped.stdout


FAILING = """
import inspect
from dataclasses import dataclass

from seqbench.cli import main
from seqbench.models.recurrent import RNN
from seqbench.registry import register


@register("model")
@dataclass
class Mine(RNN):
    "An RNN that cannot be built in a trial at 0.03."

    name: str = "mine"

    def build(self, width_in, hidden):
        frame = inspect.currentframe()
        while frame is not None:
            job = frame.f_locals.get("job")
            if job is not None and getattr(job.train, "lr", 0) == 0.03:
                raise RuntimeError("not at 0.03")
            frame = frame.f_back
        return super().build(width_in, hidden)


if __name__ == "__main__":
    main()
"""


def test_a_network_has_one_width_in_trials_and_comparison_whatever_is_matched(python_in, tmp_path):
    (tmp_path / "mine.py").write_text(DEEP)
    words = [word for word in COMMAND[2:] if not word.startswith(("model=", "match.target=", "train.steps="))]
    matched = "model=gru,deep", "match.by=flops,state,time", "tuning.seeds=[1000]", "train.steps=2"
    result = python_in(tmp_path, "mine.py", *words, *matched, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    widths: dict[tuple[str, str, int], set[float]] = {}
    for _, run in runs_below(tmp_path).values():
        key = (run.config["match"]["by"], run.model, run.config["model"]["layers"])
        widths.setdefault(key, set()).add(run.metrics["width"])
    assert {key: len(found) for key, found in widths.items()} == dict.fromkeys(
        [
            (by, *model)
            for by in ("flops", "state", "time")
            for model in (("gru", 1), ("deep", 1), ("deep", 2))
        ],
        1,
    )
    assert (
        len({widths[by, "gru", 1].pop() for by in ("flops", "state", "time")}) == 1
    )  # it is the first model
    assert widths["flops", "deep", 2].pop() < widths["flops", "deep", 1].pop()


DEEP = """
from dataclasses import dataclass
from typing import ClassVar

from seqbench.cli import main
from seqbench.models.recurrent import RNN
from seqbench.registry import register


@register("model")
@dataclass
class Deep(RNN):
    "An RNN whose depth is tuned."

    tuned_settings: ClassVar = {"layers": (1, 2)}

    name: str = "deep"


if __name__ == "__main__":
    main()
"""


def test_bad_input_is_one_line_before_anything_runs(python_in, tmp_path):
    (tmp_path / "file").write_text("")
    slips = {
        "tune=1": "tune=1: expected 0, or 3 or more trials",
        "tune=8 train.lr=0.1": "tune=8 with train.lr",
        "tune=8 tuning.dir=file/x": "not a folder",
        "tune=8 tuning.dir=": "tuning.dir=: expected a folder",
        "tune=8 tuning.halvings=6 train.steps=8": "tuning.halvings=6: 8 steps can be halved 3 times",
        "tune=8 tuning.hihg=1": "no setting 'tuning.hihg' for tuning; did you mean 'high'?",
    }
    for line, wanted in slips.items():
        result = python_in(tmp_path, "-m", "seqbench", *line.split())
        assert (result.returncode, result.stdout) == (2, ""), line
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert wanted in result.stderr
    assert os.listdir(tmp_path) == ["file"]
