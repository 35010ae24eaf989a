"""The pilot: what a kind of run costs, found without running it, and what earlier records add to it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import ClassVar

import pytest
from made import training

from seqbench import earlier, forecast, match, pace, pilot
from seqbench.batch import Batch
from seqbench.budget import Cost
from seqbench.config import settings
from seqbench.earlier import Earlier, kind_of
from seqbench.forecast import Forecast, kind
from seqbench.plan import Unit, plan
from seqbench.recorder import Recorder
from seqbench.tasks.base import Data

SMALL = {
    "train": {"steps": 60, "eval_every": 20, "eval_examples": 512, "test_examples": 1024},
    "match": {"target": 2000},
    "speed": {"seconds": 0.0, "lengths": []},
    "seeds": [0],
}


@pytest.fixture
def unit(make_job, tmp_path):
    def make(model: str = "gru", kind: str = "train", **options: object) -> Unit:
        job = make_job(model, task_options={"lengths": [8]}, **{**SMALL, **options})
        return next(one for one in plan([job], tmp_path / "sweep") if one.kind == kind)

    return make


def timed(units: list[Unit], folder: Path) -> list[Cost]:
    folder.mkdir(exist_ok=True)
    pilot.time_runs(units, False, folder, 0.0)
    return [Cost(**json.loads((folder / f"{number}.json").read_bytes())) for number in range(len(units))]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a child's end closes files
def test_a_run_costs_about_what_its_pilot_says(unit, tmp_path):
    one = unit()
    timed([one], tmp_path / "warm")
    (cost,) = timed([one], tmp_path / "pilot")
    began = time.perf_counter()
    whole = dataclasses.replace(one, folder=tmp_path / "whole")
    whole.folder.mkdir()
    run = Recorder(whole, False).run()
    took = time.perf_counter() - began
    assert run.status == "done"
    assert (cost.steps, cost.every, cost.error) == (60, 20, "")
    assert took / 4 < cost.run_s(float(run.metrics["steps"] or 0)) < 4 * took  # others use the machine too
    assert cost.peak_bytes > 1e7


def test_the_pilot_of_a_speed_measurement_times_one_rung(unit, tmp_path):
    (cost,) = timed([unit(kind="speed")], tmp_path / "pilot")
    assert cost.known
    assert 0 < cost.fixed_s < 30
    assert math.isnan(cost.step_s)


def test_what_somebody_has_taken_is_not_timed_again(unit, tmp_path):
    folder = tmp_path / "pilot"
    folder.mkdir()
    (folder / "0.taken").touch()
    pilot.time_runs([unit()], False, folder, 0.0)
    assert not (folder / "0.json").exists()


def test_a_layer_that_fails_leaves_the_reason_and_costs_nothing_for_certain(unit, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("seqbench.recorder.build", broken)
    (cost,) = timed([unit()], tmp_path / "pilot")
    assert "RuntimeError: no such kernel" in cost.error
    assert not cost.known
    ahead = Forecast({kind(unit()): cost}, 1, Earlier())
    assert ahead.run_s(unit(), at_most=True) == 0.0
    assert ahead.unknown([unit()]) == [cost.error]


def test_a_network_that_cannot_be_matched_says_so(unit, tmp_path):
    (cost,) = timed([unit(match={"target": 3})], tmp_path / "pilot")
    assert "match.target=3: out of reach" in cost.error


class Held(Data):
    """A data set of a thousand held-out rows."""

    vocabulary_size, classes, examples_per_epoch = 5, 2, 100
    rows: ClassVar[int] = 1000

    def __init__(self, inner: Data) -> None:
        self.inner = inner

    def train(self, batch_size):
        return self.inner.train(batch_size)

    def held_out(self, split: str, examples: int) -> list[Batch]:
        return self.inner.held_out(split, self.rows)

    def probe(self, examples: int) -> Batch:
        return self.inner.probe(examples)


@pytest.mark.parametrize("fixed", [False, True])
def test_held_out_sets_are_read_in_part_and_counted_whole(make_job, tmp_path, fixed):
    job = make_job(task_options={"lengths": [8]})
    data = job.task.open(0, tmp_path)
    seen = pilot.Seen()
    part = pilot.Part(Held(data) if fixed else data, seen)
    given = part.held_out("test", 4096)
    rows = sum(len(batch.lengths_B) for batch in given)
    assert 256 <= rows <= 512
    assert seen.rows["test"] == (rows, 1000 if fixed else 4096)
    assert (seen.left_out_s == 0) == fixed
    whole = part.held_out("valid", 100)
    assert fixed or seen.rows["valid"] == (sum(len(batch.lengths_B) for batch in whole), 100) == (100, 100)


def test_a_kind_is_what_decides_the_time_and_nothing_else(unit, make_job, tmp_path):
    one = unit()
    assert kind(one) == kind(dataclasses.replace(one, seed=7))
    assert kind(one) == kind(unit(train={**SMALL["train"], "lr": 0.5, "tuned": True}))
    assert kind(one) == kind(unit(model_options={"update_bias": 2.0}))
    for other in (unit("rnn"), unit(train={**SMALL["train"], "steps": 61}), unit(match={"target": 99})):
        assert kind(one) != kind(other)
    assert kind(one) != kind(dataclasses.replace(one, kind="speed"))


def test_widths_lie_where_the_runs_look_for_them(tmp_path):
    assert forecast.WIDTHS_FILE == match.WIDTHS_FILE
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / match.WIDTHS_FILE).write_text("{}")
    with forecast.scratch(sweep) as place:
        assert (place / match.WIDTHS_FILE).read_text() == "{}"
        (place / match.WIDTHS_FILE).write_text('{"a": 1}')
        forecast.hand_on(place, sweep)
        forecast.hand_on(place, tmp_path / "new")
    assert (sweep / match.WIDTHS_FILE).read_text() == "{}"  # what runs have stood on stays
    assert (tmp_path / "new" / match.WIDTHS_FILE).read_text() == '{"a": 1}'


# What earlier records add


def records_of(scores: dict[str, list[float]], steps: int = 100) -> Earlier:
    found = Earlier()
    found.learn(
        training(model, 16, seed, score, metrics={"steps": steps})
        for model, some in scores.items()
        for seed, score in enumerate(some)
    )
    return found


def test_earlier_runs_tell_how_many_steps_such_runs_do():
    run = training("rnn", 16, 0, 0.5)
    alike = kind_of(run.config)
    found = Earlier()
    assert found.usual_steps(alike) is None
    for steps in (20, 40):
        found.add(dataclasses.replace(run, metrics={**run.metrics, "steps": steps}))
    assert found.usual_steps(alike) == 30
    assert found.most_steps(alike) is None  # two are too few to expect no longer one
    found.add(dataclasses.replace(run, metrics={**run.metrics, "steps": 90}))
    assert found.most_steps(alike) == 90
    assert found.usual_steps(kind_of(training("gru", 16, 0, 0.5).config)) is None


@pytest.mark.parametrize(
    "change", [{"status": "failed"}, {"kind": "speed"}, {"kind": "trial"}, {"metrics": {"steps": None}}]
)
def test_what_is_no_whole_training_run_tells_nothing(change):
    found = Earlier()
    found.add(training("rnn", 16, 0, 0.5, **change))
    assert not found.steps
    assert not found.scores


def test_a_run_is_of_the_kind_of_its_unit(unit):
    one = unit()
    assert kind_of(settings(one.job)) == kind_of(
        json.loads(json.dumps({**settings(one.job), "device": "cpu"}))
    )


def test_the_spread_is_that_of_paired_differences():
    two = records_of({"rnn": [0.5, 0.6, 0.7], "gru": [0.5, 0.7, 0.6]})
    spread = two.spread("order")
    assert spread is not None
    assert spread.sd == pytest.approx(0.1)  # of differences 0, 0.1 and -0.1
    assert spread.runs == 6
    three = records_of({"rnn": [0.5, 0.6, 0.7], "gru": [0.5, 0.7, 0.6], "lstm": [0.4, 0.4, 0.5]}).spread(
        "order"
    )
    assert three is not None
    assert 0.01 < three.sd < 0.2


@pytest.mark.parametrize("scores", [{}, {"rnn": [0.5]}, {"rnn": [0.5, 0.5], "gru": [0.6, 0.6]}])
def test_a_spread_that_nobody_knows_is_not_invented(scores):
    assert records_of(scores).spread("order") is None


def test_the_newest_sweeps_are_read_first_after_the_sweep_itself(tmp_path):
    for age, name in enumerate(("mine", "newer", "old")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    found = [path.name for path in earlier.sweeps(tmp_path, tmp_path / "old")]
    assert found == ["old", "mine", "newer"]
    assert list(earlier.sweeps(tmp_path / "none", tmp_path / "none" / "x")) == [tmp_path / "none" / "x"]


def test_reports_of_more_models_and_runs_take_longer(make_job, tmp_path):
    jobs = [make_job(model, task_options={"lengths": [8, 16]}) for model in ("rnn", "gru")]
    one, both = (plan(some, tmp_path) for some in (jobs[:1], jobs))
    assert 0 < pace.report_s(one) < pace.report_s(both)
