"""The plan of a sweep grows with every command, never mixes other ground in, and is found again when lost."""

from __future__ import annotations

import pytest

from seqbench import ledger, records
from seqbench.config import Job
from seqbench.errors import UsageError
from seqbench.ledger import Plan, describe, extended
from seqbench.plan import Unit, plan
from seqbench.records import Run

NO_SPEED = {"enabled": False}


def written(jobs: list[Job], folder, command: str) -> tuple[Plan, list[Unit]]:
    units = plan(jobs, folder)
    return describe(jobs, units, "s", ["seqbench"], [command]), units


def record(unit: Unit, status: str = "done") -> None:
    run = Run(
        kind=unit.kind, identity=unit.identity, status=status, task=unit.job.task.name, rung=unit.rung,
        model=unit.job.model.name, seed=unit.seed, config={"a": 1}, label=unit.label, asked=unit.asked,
        ground=unit.ground,
    )  # fmt: skip
    records.write_run(unit.folder, run, {})


def test_a_plan_keeps_the_runs_of_earlier_commands_whatever_became_of_them(make_job, tmp_path):
    first, units = written([make_job("gru", seeds=[0, 1, 2])], tmp_path, "model=gru")
    second, _ = written([make_job("lstm", seeds=[0])], tmp_path, "model=lstm")
    both = extended(second, first)
    kept = [run for run in both["runs"] if run["model"] == "gru"]
    assert {run["identity"] for run in kept} == {unit.identity for unit in units}
    assert both["commands"] == [["model=gru"], ["model=lstm"]]
    assert {run["command"] for run in kept} == {0}
    assert {run["command"] for run in both["runs"] if run["model"] == "lstm"} == {1}
    assert both["models"] == ["gru", "lstm"]
    assert both["reference"] == "gru"


def test_the_reference_is_the_newest_one_where_the_one_before_has_no_runs_left(make_job, tmp_path):
    old, _ = written([make_job("gru", seeds=[0])], tmp_path, "model=gru")
    for run in old["runs"]:
        run["ground"] |= {"code": "other"}
    new, _ = written([make_job("lstm", seeds=[0])], tmp_path, "model=lstm")
    both = extended(new, old)
    assert (both["reference"], both["models"]) == ("lstm", ["lstm"])


def test_jobs_keep_their_numbers_when_a_sweep_grows(make_job, tmp_path):
    def with_steps(*steps: int, seeds: int = 1) -> Plan:
        jobs = [make_job("rnn", seeds=list(range(seeds)), train={"steps": one}) for one in steps]
        return written(jobs, tmp_path, f"steps={steps} seeds={seeds}")[0]

    def numbers(plan: Plan) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for run in plan["runs"]:
            found.setdefault(run["config"]["train"]["steps"], set()).add(run["job"])
        return found

    first = with_steps(200, 400)
    assert numbers(first) == {200: {0}, 400: {1}}  # not longest first, as they are run
    assert numbers(extended(with_steps(400, 200, seeds=2), first)) == {200: {0}, 400: {1}}
    grown = extended(with_steps(100, 400), first)
    assert numbers(grown) == {200: {0}, 400: {1}, 100: {2}}
    assert numbers(extended(with_steps(800, 100), grown)) == {200: {0}, 400: {1}, 100: {2}, 800: {3}}


def test_a_plan_without_numbers_is_extended(make_job, tmp_path):
    old, _ = written([make_job("gru", seeds=[0])], tmp_path, "old")
    for run in old["runs"]:
        del run["job"]
    new, _ = written([make_job("gru", seeds=[0, 1]), make_job("lstm", seeds=[0])], tmp_path, "new")
    both = extended(new, old)
    assert {(run["model"], run["job"]) for run in both["runs"]} == {("gru", 0), ("lstm", 1)}


def test_the_same_command_twice_is_one_command(make_job, tmp_path):
    first, units = written([make_job("gru", seeds=[0, 1])], tmp_path, "seeds=2")
    again, _ = written([make_job("gru", seeds=[0, 1])], tmp_path, "seeds=2")
    both = extended(again, first)
    assert (both["commands"], len(both["runs"])) == ([["seeds=2"]], len(units))


def test_more_seeds_add_to_a_sweep_and_fewer_take_nothing_away(make_job, tmp_path):
    two, _ = written([make_job("gru", seeds=[0, 1], speed=NO_SPEED)], tmp_path, "seeds=2")
    three, units = written([make_job("gru", seeds=[0, 1, 2], speed=NO_SPEED)], tmp_path, "seeds=3")
    for plans in ((two, three), (three, two)):
        both = extended(plans[1], plans[0])
        assert {run["identity"] for run in both["runs"]} == {unit.identity for unit in units}


@pytest.mark.parametrize(
    ("part", "kept"), [("code", False), ("task", False), ("model", True), ("machine", True)]
)
def test_a_plan_never_mixes_runs_of_other_ground(make_job, tmp_path, part, kept):
    """Another model's plugin and, for training, another machine may differ; code and data may not."""
    old, units = written([make_job("gru", seeds=[0], speed=NO_SPEED)], tmp_path, "old")
    for run in old["runs"]:
        run["ground"] |= {part: "other"}
    new, _ = written([make_job("lstm", seeds=[0])], tmp_path, "new")
    assert len(extended(new, old)["runs"]) - len(new["runs"]) == (len(units) if kept else 0)


def test_speed_of_another_machine_stays_for_the_page_to_keep_apart(make_job, tmp_path):
    old, units = written([make_job("gru", seeds=[0])], tmp_path, "old")
    for run in old["runs"]:
        run["ground"]["machine"] = "other"
    new, _ = written([make_job("lstm", seeds=[0])], tmp_path, "new")
    mixed = [run for run in extended(new, old)["runs"] if run["model"] == "gru"]
    assert {run["identity"] for run in mixed} == {unit.identity for unit in units}
    assert {run["kind"] for run in mixed} == {"train", "speed"}


def test_a_changed_plugin_of_the_same_name_is_not_mixed_in(make_job, tmp_path):
    old, _ = written([make_job("gru", seeds=[0])], tmp_path, "old")
    for run in old["runs"]:
        run["ground"]["model"] = "an older source"
    new, _ = written([make_job("gru", seeds=[7])], tmp_path, "new")
    assert len(extended(new, old)["runs"]) == len(new["runs"])


def test_a_plan_of_the_first_schema_is_not_extended(make_job, tmp_path):
    old, _ = written([make_job("gru", seeds=[0])], tmp_path, "old")
    for run in old["runs"]:
        del run["ground"], run["asked"]
    new, _ = written([make_job("lstm", seeds=[0])], tmp_path, "new")
    assert extended(new, old)["runs"] == new["runs"]


def test_the_runs_of_a_damaged_plan_are_found_again(make_job, tmp_path):
    first, units = written([make_job("gru", seeds=[0, 1], speed=NO_SPEED)], tmp_path, "model=gru")
    for unit in units[:3]:
        record(unit)
    ledger.write(tmp_path, first)
    path = tmp_path / records.PLAN_FILE
    path.write_text(path.read_text().replace("gru", "gry", 1))
    second, _ = written([make_job("lstm", seeds=[0], speed=NO_SPEED)], tmp_path, "model=lstm")
    both, remark = ledger.write(tmp_path, second)
    assert "does not match its checksum" in remark
    assert (tmp_path / "plan.json.damaged").exists()
    found = {run["identity"]: run for run in both["runs"] if run["model"] == "gru"}
    assert set(found) == {unit.identity for unit in units[:3]}
    original = {run["identity"]: run for run in first["runs"]}
    for identity, run in found.items():
        same = {"command": 0, "config": {}, "job": 0}
        assert {**run, **same} == {**original[identity], **same}
    assert both["commands"] == [["model=lstm"]]
    assert records.read_plan(tmp_path) == both | {"schema": records.PLAN_SCHEMA}
    assert ledger.write(tmp_path, second)[1] == ""


def test_a_plan_of_a_newer_version_is_left_alone(make_job, tmp_path):
    new, _ = written([make_job("gru", seeds=[0])], tmp_path, "x")
    ledger.write(tmp_path, new)
    path = tmp_path / records.PLAN_FILE
    path.write_text(
        path.read_text().replace(f'"schema": {records.PLAN_SCHEMA}', f'"schema": {records.PLAN_SCHEMA + 1}')
    )
    before = path.read_bytes()
    with pytest.raises(UsageError, match="use a newer seqbench, or choose another sweep=NAME"):
        ledger.write(tmp_path, new)
    assert path.read_bytes() == before


def test_the_tally_adds_up(make_job, tmp_path):
    new, units = written([make_job("gru", seeds=[0, 1, 2, 3], speed=NO_SPEED)], tmp_path, "x")
    for unit, status in zip(units, ("done", "done", "interrupted", "failed"), strict=False):
        record(unit, status)
    (units[4].folder).mkdir()
    (units[4].folder / records.RUN_FILE).write_text("{")
    pending = len(units) - 5
    assert ledger.tally(tmp_path, new) == (
        f"{len(units)} runs planned = 2 done + 1 failed + 1 interrupted + 1 damaged + {pending} pending"
    )


def test_a_plan_that_names_the_runs_of_a_command_is_left_alone(make_job, tmp_path):
    own, _ = written([make_job("gru", seeds=[0])], tmp_path, "x")
    ledger.ensure(tmp_path, own)
    newer = {**own, "runs": [{**run, "ground": {**run["ground"], "code": "newer"}} for run in own["runs"]]}
    records.write_plan(tmp_path, newer)
    before = (tmp_path / records.PLAN_FILE).read_bytes()
    ledger.ensure(tmp_path, own)  # another command planned the same with newer code: it has the last word
    assert (tmp_path / records.PLAN_FILE).read_bytes() == before
    other, _ = written([make_job("lstm", seeds=[0])], tmp_path, "y")
    ledger.ensure(tmp_path, other)
    assert {run["model"] for run in records.read_plan(tmp_path)["runs"]} == {"lstm"}


def test_a_canary_that_an_earlier_command_named_stays_a_contestant(make_job, tmp_path):
    named, _ = written([make_job("bag", seeds=[0], speed=NO_SPEED, train={"lr": 0.01})], tmp_path, "bag")
    later, _ = written([make_job("gru", seeds=[0], speed=NO_SPEED, canaries=True)], tmp_path, "gru")
    asked = {run["asked"] for run in named["runs"]}
    both = extended(later, named)["runs"]
    assert {run["companion"] for run in both if run["asked"] in asked} == {False}
    assert {run["companion"] for run in both if run["model"] == "constant"} == {True}


@pytest.mark.parametrize("bag_first", [True, False])
def test_a_canary_that_any_command_names_is_no_companion_beside_it(make_job, tmp_path, bag_first):
    bag, _ = written([make_job("bag", seeds=[0], speed=NO_SPEED)], tmp_path, "bag")
    gru, _ = written([make_job("gru", seeds=[0], speed=NO_SPEED, canaries=True)], tmp_path, "gru")
    both = extended(gru, bag) if bag_first else extended(bag, gru)
    found = [(run["model"], run["companion"], run["rung"]) for run in both["runs"]]
    assert {one[:2] for one in found} == {("bag", False), ("gru", False), ("constant", True)}
    assert len(found) == len(set(found))
