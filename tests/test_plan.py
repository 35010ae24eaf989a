"""Plans: what is run, what is reused, and what makes two runs the same."""

from __future__ import annotations

import dataclasses

import pytest

from seqbench import records
from seqbench.config import Job, seed_list
from seqbench.errors import UsageError
from seqbench.ledger import describe
from seqbench.plan import Unit, finished, plan
from seqbench.records import Run
from seqbench.sweep import sweep_folder


@pytest.fixture
def job(make_job) -> Job:
    return make_job("gru", seeds=[0, 1], task_options={"lengths": [8, 32]})


def first(job: Job, tmp_path) -> Unit:
    return plan([job], tmp_path)[0]


def test_every_seed_and_rung_is_a_run_and_each_job_is_timed_once(job, tmp_path):
    units = plan([job], tmp_path)
    assert [(u.kind, u.rung, u.seed) for u in units] == [
        ("train", 32, 0), ("train", 32, 1), ("train", 8, 0), ("train", 8, 1), ("speed", None, 0),
    ]  # fmt: skip
    assert len({unit.folder for unit in units}) == len({unit.identity for unit in units}) == 5
    assert all(unit.folder.parent == tmp_path for unit in units)


def test_speed_is_measured_on_the_rungs_and_on_the_extra_lengths(make_job, tmp_path):
    job = make_job(speed={"lengths": [64, 8]}, task_options={"lengths": [8, 32]})
    assert [one.task.rung() for one in plan([job], tmp_path)[-1].jobs] == [8, 32, 64]
    without = dataclasses.replace(job, speed=dataclasses.replace(job.speed, enabled=False))
    assert {unit.kind for unit in plan([without], tmp_path)} == {"train"}


def test_the_same_job_twice_is_run_once(job, tmp_path):
    assert len(plan([job, job], tmp_path)) == len(plan([job], tmp_path))


IDENTITY_CHANGES = {
    "train": {"lr": 0.5}, "network": {"dropout": 0.1}, "match": {"target": 1_000}, "device": "cuda",
    "probes": [],
}  # fmt: skip
NO_CHANGES = {
    "seeds": [0, 1, 2], "workers": 7, "sweep": "name", "runs_dir": "elsewhere", "reports_dir": "there",
    "cache_dir": "here", "force": True, "fail_fast": True, "limit": {"time_s": 5.0, "memory_mib": 100.0},
    "checkpoint_s": 1.0, "report": "lesson", "retries": 0,
}  # fmt: skip


def changed(job: Job, name: str, value) -> Job:
    old = getattr(job, name)
    return dataclasses.replace(
        job, **{name: dataclasses.replace(old, **value) if isinstance(value, dict) else value}
    )


@pytest.mark.parametrize("name", IDENTITY_CHANGES)
def test_what_changes_a_result_changes_the_identity(job, tmp_path, name):
    other = changed(job, name, IDENTITY_CHANGES[name])
    assert first(other, tmp_path).identity != first(job, tmp_path).identity


@pytest.mark.parametrize("name", NO_CHANGES)
def test_where_and_how_often_do_not_change_the_identity(job, tmp_path, name):
    other = changed(job, name, NO_CHANGES[name])
    assert first(other, tmp_path).identity == first(job, tmp_path).identity


@pytest.mark.parametrize("options", [{"hidden": 12}, {"layers": 2}, {"update_bias": 1.0}])
def test_every_setting_of_a_model_is_part_of_the_identity_and_of_the_label(make_job, tmp_path, options):
    base, other = (first(make_job("gru", model_options=o), tmp_path) for o in ({}, options))
    assert base.identity != other.identity
    assert base.label != other.label


@pytest.mark.parametrize("what", ["code_sha256", "cpu_model", "versions"])
def test_code_machine_and_versions_are_part_of_the_identity(job, tmp_path, monkeypatch, what):
    before = first(job, tmp_path).identity
    other = {"torch": "another"} if what == "versions" else "another"
    monkeypatch.setattr(f"seqbench.environment.{what}", lambda: other)
    assert first(job, tmp_path).identity != before


def test_the_identity_is_the_same_in_every_process(job, run_python, tmp_path):
    code = (
        "import pathlib; from seqbench.config import Job, checked; from seqbench.plan import plan; "
        "from seqbench.registry import lookup; "
        "job = Job(model=lookup('model', 'gru')(), task=lookup('task', 'temporal_order')(lengths=[8, 32]), "
        "seeds=[0, 1], canaries=False); print(*[u.identity for u in plan([checked(job)], pathlib.Path('x'))])"
    )
    one, two = (run_python("-c", code, PYTHONHASHSEED=str(seed)).stdout.split() for seed in (1, 2))
    assert one == two == [unit.identity for unit in plan([job], tmp_path)]


def record(unit: Unit, status: str = "done", identity: str | None = None) -> None:
    run = Run(
        kind=unit.kind, identity=identity or unit.identity, status=status, task="t", rung=1, model="m",
        seed=0, config={},
    )  # fmt: skip
    records.write_run(unit.folder, run, {})


def test_a_finished_identical_run_is_reused(job, tmp_path):
    unit = first(job, tmp_path)
    assert finished(unit) is None
    record(unit)
    assert finished(unit) is not None
    record(unit, "diverged")  # settings decide that too: it would diverge again
    assert finished(unit) is not None


@pytest.mark.parametrize("status", [status for status in records.STATUSES if status not in records.ENDED])
def test_a_run_that_did_not_finish_is_run_again(job, tmp_path, status):
    unit = first(job, tmp_path)
    record(unit, status)
    assert finished(unit) is None


def test_another_identity_and_a_damaged_record_are_run_again(job, tmp_path):
    unit = first(job, tmp_path)
    record(unit, identity="00" * 32)
    assert finished(unit) is None
    record(unit)
    path = unit.folder / records.RUN_FILE
    content = path.read_text()
    path.write_text(content.replace('"seed": 0', '"seed": 1'))
    assert finished(unit) is None
    path.write_text(content)
    assert finished(unit) is not None


def test_the_written_plan_lists_every_run_and_its_reference(make_job, tmp_path):
    jobs = [make_job("bag", seeds=[0]), make_job("lstm", seeds=[0]), make_job("rnn", seeds=[0])]
    units = plan(jobs, tmp_path)
    written = describe(jobs, units, "name", ["python", "x.py"], ["model=bag,lstm,rnn"])
    assert [run["identity"] for run in written["runs"]] == [unit.identity for unit in units]
    assert written["reference"] == "lstm"  # a canary is no reference
    assert written["models"] == ["bag", "lstm", "rnn"]
    records.write_plan(tmp_path, written)
    assert records.read_plan(tmp_path) == {**written, "schema": records.PLAN_SCHEMA}


def test_how_speed_is_measured_does_not_change_what_training_gives(job, tmp_path):
    other = changed(job, "speed", {"seconds": 5.0})
    same = {unit.kind: unit.identity for unit in plan([job], tmp_path)}
    found = {unit.kind: unit.identity for unit in plan([other], tmp_path)}
    assert found["train"] == same["train"]
    assert found["speed"] != same["speed"]


@pytest.mark.parametrize(("value", "seeds"), [(1, [0]), (3, [0, 1, 2]), ([5, 2], [5, 2])])
def test_seeds_are_a_number_or_a_list(value, seeds):
    assert seed_list(value) == seeds


@pytest.mark.parametrize("value", [0, -1, [], [1, 1], [-1], [1.5], ["a"], "x", True, None, 2.0])
def test_impossible_seeds_are_refused(value):
    with pytest.raises(UsageError, match="seeds="):
        seed_list(value)


def test_the_same_command_finds_its_folder_whatever_its_seeds(job):
    more = dataclasses.replace(job, seeds=[0, 1, 2], workers=1)
    assert sweep_folder([job]) == sweep_folder([more])
    assert sweep_folder([job]) != sweep_folder([changed(job, "train", {"lr": 0.5})])
    assert sweep_folder([dataclasses.replace(job, sweep="my.sweep-1")]).name == "my.sweep-1"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "x" * 81, "a b", "a\n"])
def test_sweep_names_cannot_leave_the_runs_folder(job, name):
    with pytest.raises(UsageError, match="sweep="):
        sweep_folder([dataclasses.replace(job, sweep=name)])


# Canaries that nobody named


def beside(jobs: list[Job], tmp_path) -> list[tuple]:
    units = [unit for unit in plan(jobs, tmp_path) if unit.companion]
    return [(u.kind, u.job.model.name, u.job.task.name, u.rung, u.seed) for u in units]


def test_canaries_run_beside_every_task_once_with_one_seed_and_no_timing(make_job, tmp_path):
    options = {"task_options": {"lengths": [8, 32]}, "seeds": [3, 4], "canaries": True}
    jobs = [make_job(model, **options) for model in ("gru", "lstm")]
    wanted = {("train", name, "temporal_order", rung, 3) for name in ("bag", "constant") for rung in (8, 32)}
    found = beside(jobs, tmp_path)
    assert (set(found), len(found)) == (wanted, 4)
    everything = plan(jobs, tmp_path)
    assert len(everything) == len(plan([dataclasses.replace(j, canaries=False) for j in jobs], tmp_path)) + 4


def test_a_canary_that_was_named_is_a_contestant(make_job, tmp_path):
    jobs = [make_job(model, canaries=True, task_options={"lengths": [8]}) for model in ("gru", "bag")]
    assert {model for _, model, *_ in beside(jobs, tmp_path)} == {"constant"}


def test_tasks_with_other_settings_have_canaries_of_their_own(make_job, tmp_path):
    jobs = [
        make_job(canaries=True, task_options={"lengths": [8], "symbols": symbols}) for symbols in (2, 3, 2)
    ]
    assert len(beside(jobs, tmp_path)) == 4


def test_a_canary_gets_the_budget_of_the_task_and_its_own_learning_rate(make_job, tmp_path):
    job = make_job("gru", canaries=True, train={"steps": 7, "lr": 0.5, "tuned": True})
    trained = [unit.job.train for unit in plan([job], tmp_path) if unit.companion]
    assert {(train.steps, train.lr, train.tuned) for train in trained} == {(7, 0.01, False)}


def test_whether_canaries_run_does_not_change_what_other_runs_are(make_job, tmp_path):
    job = make_job("gru", canaries=True)
    without = {unit.identity for unit in plan([dataclasses.replace(job, canaries=False)], tmp_path)}
    assert without == {unit.identity for unit in plan([job], tmp_path) if not unit.companion}


def test_a_plan_on_disk_says_which_canaries_nobody_named(make_job, tmp_path):
    units = plan([job := make_job("gru", canaries=True, task_options={"lengths": [8]})], tmp_path)
    runs = describe([job], units, "s", [], [])["runs"]
    assert {run["model"]: run["companion"] for run in runs} == {"gru": False, "bag": True, "constant": True}
    assert describe([job], units, "s", [], [])["models"] == ["gru"]
