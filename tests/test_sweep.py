"""One small sweep from command to report: records verify, are reused, and one seed gives the same bits."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults.observe import bits, planned, runs_below, tables

from seqbench import records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

COMMAND = [
    "-m", "seqbench", "-m", "model=rnn,transformer", "task=temporal_order", "task.lengths=[8]",
    "train.steps=20", "train.eval_every=10", "train.eval_examples=64", "train.test_examples=64", "seeds=2",
    "match.target=2000", "speed.seconds=0", "speed.lengths=[]", "canaries=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def result(python_in, folder) -> subprocess.CompletedProcess:
    return python_in(folder, *COMMAND, cold=True)


@pytest.fixture
def swept(folder, result) -> Path:
    assert len(runs_below(folder)) == 6, result.stdout + result.stderr
    return folder


def test_the_sweep_ends_well_and_says_so(result, swept):
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "[6/6]" in result.stdout
    assert "Traceback" not in result.stdout


def test_every_planned_run_left_a_record_that_verifies(swept):
    runs = runs_below(swept)
    assert planned(swept) == set(runs)
    for path, run in runs.values():
        assert run.status == "done"
        assert records.files_intact(path, run)
        assert all(len(next(iter(table.values()))) > 0 for table in tables(path, run).values())


def test_a_training_record_holds_what_the_report_needs(swept):
    for path, run in runs_below(swept).values():
        if run.kind != "train":
            continue
        assert run.metrics["steps"] == 20
        assert 0 <= run.metrics["test_accuracy"] <= 1
        assert run.metrics["test_answers"] == 64
        assert run.metrics["parameters"] > run.metrics["matched_parameters"] > 1_000
        assert run.metrics["peak_memory_bytes"] > 1e7
        assert run.environment["threads"] == 1
        found = tables(path, run)
        looks = {"gradient_flow", "state_flow", "hops"}
        assert set(found) == {"steps", "parameters", "updates", "evaluations", *looks}
        assert set(run.files) == {f"{name}.parquet" for name in found} | {"log.txt"}
        assert found["steps"]["step"] == list(range(1, 21))
        assert found["evaluations"]["step"] == [10, 20]
        for name in looks:
            assert set(found[name]["moment"]) == {"init", "step 10", "final"}
        assert run.metrics["oracle_score"] == 1.0


def test_a_speed_record_holds_raw_seconds_of_single_steps(swept):
    speeds = [(path, run) for path, run in runs_below(swept).values() if run.kind == "speed"]
    assert {run.model for _, run in speeds} == {"rnn", "transformer"}
    for path, run in speeds:
        table = tables(path, run)["speed"]
        assert 0 <= run.metrics["others_busy_cores"] < 64
        assert set(table["mode"]) == {"train", "forward"}
        assert min(table["step_s"]) > 0
        assert all(
            valid <= padded
            for valid, padded in zip(table["valid_tokens"], table["padded_tokens"], strict=True)
        )


def test_all_models_of_a_seed_saw_the_same_data(swept):
    hashes: dict[int, set[object]] = {}
    for _, run in runs_below(swept).values():
        if run.kind == "train":
            hashes.setdefault(run.seed, set()).add(
                (run.metrics["first_batch_sha256"], run.metrics["data_sha256"])
            )
    assert set(hashes) == {0, 1}
    assert all(len(seen) == 1 for seen in hashes.values())
    assert hashes[0] != hashes[1]


def test_the_report_lies_where_the_sweep_says(result, swept):
    pages = {path.name: path for path in (swept / "reports").rglob("*.html")}
    assert all(name in result.stdout for name in pages)
    assert pages.pop("index.html").is_file()
    [report] = pages.values()
    assert "<html" in report.read_text(encoding="utf-8")[:500]


def test_the_same_seed_gives_the_same_bits_in_another_process(python_in, swept, tmp_path):
    python_in(tmp_path, *COMMAND, "workers=1")  # a warm process, which hashes words in another order too
    first, second = bits(swept), bits(tmp_path)
    assert len(first) == 4
    assert first == second


def test_a_second_call_reuses_every_run_and_redoes_only_what_is_damaged_or_gone(python_in, swept, tmp_path):
    shutil.copytree(swept / "runs", tmp_path / "runs")
    before = {path: path.read_bytes() for path in tmp_path.glob("runs/*/*/run.json")}
    again = python_in(tmp_path, *COMMAND)
    assert "6 reused" in again.stdout
    assert "done" not in again.stdout.split("reused")[0]
    assert {path: path.read_bytes() for path in before} == before
    damaged, gone, *whole = sorted(before)
    damaged.write_text(damaged.read_text().replace('"status": "done"', '"status": "dome"'))
    gone.unlink()
    mended = python_in(tmp_path, *COMMAND)
    assert "4 reused" in mended.stdout
    assert {path: path.read_bytes() for path in whole} == {path: before[path] for path in whole}
    assert bits(tmp_path) == bits(swept)


def test_canaries_run_on_many_to_many_and_say_which_probe_does_not_apply(python_in, tmp_path):
    command = [word for word in COMMAND if not word.startswith(("model=", "task", "seeds="))]
    result = python_in(tmp_path, *command, "model=constant,bag", "task=mqar", "task.pairs=[2]", "seeds=[3]")
    runs = {run.model: run for _, run in runs_below(tmp_path).values() if run.kind == "train"}
    assert {run.status for run in runs.values()} == {"done"}, result.stdout + result.stderr
    assert "does not depend on the input" in runs["constant"].metrics["gradient_flow_not_applicable"]
    assert "gradient_flow.parquet" in runs["bag"].files
    assert "slices.parquet" in runs["bag"].files
    assert {run.seed for run in runs.values()} == {3}
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_single_job_works_without_m(python_in, tmp_path):
    command = [word for word in COMMAND if not word.startswith(("model=", "seeds="))]
    del command[2]
    result = python_in(tmp_path, *command, "model=gru", "seeds=1", "speed.enabled=false", "device=cpu")
    [(_, run)] = runs_below(tmp_path).values()
    assert (run.status, run.model) == ("done", "gru"), result.stdout + result.stderr
    assert result.returncode == 0, result.stdout + result.stderr
    assert [path for path in (tmp_path / "reports").rglob("*.html") if path.name in result.stdout]


def test_two_identical_sweeps_at_once_share_their_work(python_in, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: python_in(tmp_path, *COMMAND, "speed.enabled=false"), range(2)))
    assert [result.returncode for result in both] == [0, 0], both[0].stderr + both[1].stderr
    runs = runs_below(tmp_path)
    assert [run.status for _, run in runs.values()] == ["done"] * 4
    assert all(records.files_intact(path, run) for path, run in runs.values())
