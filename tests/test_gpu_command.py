"""``make gpu`` as far as it can be seen without a GPU: what it records, what it says, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from gpu import __main__ as command
from gpu import measure, record
from gpu.measure import Section
from gpu.work import Size, batches, network, ready, settings

from seqbench.config import TrainConfig
from seqbench.graphs import shape_of
from seqbench.stepper import Stepper

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
CPU = torch.device("cpu")


@without_gpu
def test_without_a_gpu_nothing_is_measured_and_it_says_so(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path / "runs")]) == 3
    assert "finds no CUDA device" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_try_on_a_cpu_records_what_it_measured_and_what_it_could_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    names = ["scan", "stacked"]
    monkeypatch.setitem(measure.SECTIONS, "stacked", lambda *_: Section("Stacked", "", missed=["not there"]))
    assert command.main(["--cpu", "--no-tests", "--out", str(tmp_path / "gpu"), "--sections", *names]) == 1
    [folder] = (tmp_path / "gpu").iterdir()
    told = json.loads((folder / "gpu.json").read_text())
    assert told["environment"]["torch"] == torch.__version__
    assert [section["title"] for section in told["sections"]] == [
        "Linear recurrence, forward and backward", "Stacked",
    ]  # fmt: skip
    [row] = told["sections"][0]["rows"]
    assert row["scan_ms"] > row["copy_ms"] > 0
    assert "goal_met" not in row  # tiny sizes meet no goal
    page = (folder / "gpu.md").read_text()
    assert page.strip() in capsys.readouterr().out
    assert "say nothing about speed" in page
    assert "- not there" in page


def test_what_fails_is_said_and_the_rest_goes_on():
    section = Section("A", "about")
    for number in range(2):
        with section.tried(f"row {number}"):
            if number == 0:
                raise RuntimeError("no kernel\nfor this")
            section.rows.append({"ms": 1.0})
    assert section.missed == ["row 0: RuntimeError: no kernel for this"]
    assert section.rows == [{"ms": 1.0}]
    found = {"sections": [measure.plain(section)], "tests": {}}
    assert command.failed(found)
    assert not command.failed({"sections": [measure.plain(Section("A", ""))], "tests": {"exit_code": 0}})
    assert command.failed({"sections": [], "tests": {"exit_code": 1}})


def test_outcomes_of_tests_are_counted(tmp_path):
    cases = (
        '<testcase classname="a" name="good"/><testcase classname="a" name="bad"><failure/></testcase>'
        '<testcase classname="a" name="out"><skipped/></testcase>'
    )
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    counts = command.counted(tmp_path / "tests.xml")
    assert counts == {"passed": 1, "failed": 1, "skipped": 1, "failures": ["a::bad"]}
    page = record.markdown(
        {
            "environment": {"device": "cuda", "card": "a card"}, "tests": {"exit_code": 1, **counts},
            "sections": [], "left_out": ["the sweep"],
        }
    )  # fmt: skip
    assert page.startswith("# seqbench on a card")
    assert "1 passed, 1 failed, 1 skipped (pytest ended with 1)" in page
    assert "- failed: a::bad" in page
    assert "- left out: the sweep" in page


@without_gpu
def test_its_tests_are_found_by_an_interpreter_without_plugins_and_skip(tmp_path):
    left_out: list[str] = []
    told = command.tests(tmp_path, left_out)
    assert (told["exit_code"], told["passed"], told["failed"], left_out) == (0, 0, 0, [])
    assert told["skipped"] > 300


@pytest.mark.parametrize("many", [False, True])
def test_batches_of_one_size_share_a_shape(many):
    found = ready(Size(4, 24, 8, 13, 6, 5), CPU, 5, many=many)
    assert len({shape_of(batch) for batch in found}) == 1
    for batch in batches(Size(4, 24, 8, 13, 6, 5), 2, many=many):
        batch.checked(13, 5)
    assert len({batch.ids_BT.sum().item() for batch in found}) == 5


def test_a_step_is_timed_with_its_log():
    from gpu.clock import busy_s, steps_s, training

    size = Size(2, 6, 8, 11, 6)
    one = Stepper(network(settings("gru"), size, CPU), TrainConfig(log_every=2), steps=1000)
    some = ready(size, CPU, 2)
    assert steps_s(one, some, rounds=2) > 0
    assert one.done == 5 + 2 * 4
    assert len(one._pending) < 2  # the log is fetched as in a run
    busy = busy_s(training(one, some), CPU, count=2)
    assert busy is not None
    assert 0 < busy < 1
