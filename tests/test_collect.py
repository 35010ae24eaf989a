"""Runs of several machines come together in one sweep: by copying folders, or by seqbench.collect."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made import Work, settings, tables, timing, training

from seqbench import collect, collected, ledger, locks, records, store
from seqbench.records import Run
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render

GROUND = {"code": "c", "model": "m", "task": "t", "machine": "here"}
SCORES = {"rnn": 0.2, "gru": 0.9}


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(os, "fsync", lambda _: None)


def known(run: Run, columns: dict[str, Any], **ground: str) -> Work:
    """The run with all that its place among others is decided by."""
    asked = store.digest({"of": [dict(run.config), run.kind, run.model, run.task, run.rung, run.seed]})
    stands = {**GROUND, **ground}
    identity = store.digest({"asked": asked, "ground": stands})
    label = f"{run.model} T={run.rung} {run.kind} {run.seed}"
    return dataclasses.replace(run, asked=asked, ground=stands, identity=identity, label=label), columns


def runs(seeds: Iterable[int], models: Iterable[str] = SCORES, rungs: Iterable[int] = (16,), **ground: str):
    """Training runs of models, whose scores differ from seed to seed."""
    return [
        known(training(m, rung, seed, SCORES.get(m, 0.5) + 0.01 * seed), tables(0.5), **ground)
        for m in models
        for rung in rungs
        for seed in seeds
    ]


def with_steps(steps: int, seeds: Iterable[int], **ground: str) -> list[Work]:
    config = settings("rnn", 16)
    config = {**config, "train": {**config["train"], "steps": steps}}
    return [known(training("rnn", 16, seed, 0.3, config=config), {}, **ground) for seed in seeds]


def folder_of(run: Run) -> str:
    return records.folder_name(run.label, run.identity)


def entry(run: Run, job: int, companion: bool, base: str) -> dict[str, Any]:
    kept = (
        "identity", "asked", "kind", "label", "task", "rung", "model", "seed", "ground", "config",
    )  # fmt: skip
    told = {"folder": folder_of(run), "command": 0, "job": job, "companion": companion, "base": base}
    return {**{key: getattr(run, key) for key in kept}, **told}


def sweep_at(
    folder: Path, work: list[Work], command: str, pending: int = 0, beside: Iterable[str] = (), base: str = ""
) -> Path:
    """A sweep as a command leaves it; models in ``beside`` are canaries beside the comparison."""
    jobs: dict[str, int] = {}
    entries = []
    for number, (run, columns) in enumerate(work):
        companion = run.model in beside
        job = jobs.setdefault(store.digest(dict(run.config["model"]) | run.config["train"]), len(jobs))
        entries.append(entry(run, job, companion, base))
        told = dataclasses.replace(run, metrics={**run.metrics, "companion": companion})
        if number < len(work) - pending:
            records.write_run(folder / folder_of(run), told, columns)
    models = [one["model"] for one in entries if not one["companion"]]
    plan = {"sweep": folder.name, "program": ["seqbench"], "commands": [[command]], "runs": entries}
    folder.mkdir(parents=True, exist_ok=True)
    named = list(dict.fromkeys(models))
    records.write_plan(folder, {**plan, "models": named, "reference": named[0]})
    return folder


def copied(source: Path, place: Path, *, plan: bool) -> Path:
    """What ``cp -r`` does, with or without the plan."""
    place.mkdir(parents=True, exist_ok=True)
    for one in source.iterdir():
        if one.is_dir():
            shutil.copytree(one, place / one.name, dirs_exist_ok=True)
        elif plan:
            shutil.copy(one, place / one.name)
    return place


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != records.LOCK_FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def page(folder: Path) -> str:
    """A sweep's page without the seeds of its commands."""
    return re.sub(r"seeds=\d+-\d+", "seeds", render(read_sweep(folder)))


def places(sweep: Sweep) -> set[tuple[Any, ...]]:
    return set(zip(sweep.runs["label"], sweep.runs["rung"], sweep.runs["seed"], strict=True))


def told(capsys) -> str:
    seen = capsys.readouterr()
    return str(seen.out + seen.err)


def run(*words: object) -> int:
    return collect.main([str(word) for word in words])


# Copied by hand


@pytest.fixture
def parted(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Seeds 0 to 2, seeds 3 to 5 and all of them, each with every model."""
    first = sweep_at(tmp_path / "a/s", runs(range(3)), "seeds=0-2")
    second = sweep_at(tmp_path / "b/s", runs(range(3, 6)), "seeds=3-5")
    return first, second, sweep_at(tmp_path / "c/s", runs(range(6)), "seeds=0-5")


@pytest.mark.parametrize("plan", [False, True])
def test_seeds_of_two_machines_copied_together_are_one_sweep(parted, plan: bool):
    first, second, whole = parted
    merged = read_sweep(copied(second, first, plan=plan))
    assert places(merged) == places(read_sweep(whole))
    assert (merged.reference, merged.labels) == ("rnn", ["rnn", "gru"])
    assert (dict(merged.left_out), merged.problems) == ({}, [])


def _results(text: str) -> list[str]:
    """Verdicts, tables and figures of a page."""
    wanted = r'<table.*?</table>|<svg.*?</svg>|<p class="headline">.*?</p>|<ul class="verdicts">.*?</ul>'
    return re.findall(wanted, text, re.DOTALL)


def test_the_page_of_a_merged_sweep_is_that_of_one_command(parted):
    first, second, whole = parted
    by_command = shutil.copytree(first, first.parent.parent / "d/s")
    expected, by_hand = page(whole), page(copied(second, first, plan=False))
    csv = r"base64,[A-Za-z0-9+/=]+"  # the same rows in another order
    assert re.sub(csv, "", by_hand) == re.sub(csv, "", expected)
    assert run(by_command, second) == 0
    assert len(_results(expected)) > 5
    assert _results(page(by_command)) == _results(expected)


@pytest.mark.parametrize("other", [("lstm",), ("lstm", "rnn")])
def test_other_models_and_rungs_of_another_machine_are_shown_too(tmp_path: Path, other: tuple[str, ...]):
    first = sweep_at(tmp_path / "a/s", runs(range(3), rungs=(16,)), "a")
    second = sweep_at(tmp_path / "b/s", runs(range(3), other, rungs=(32,), machine="there"), "b")
    sweep = read_sweep(copied(second, first, plan=False))
    assert sweep.labels == ["rnn", "gru", "lstm"]
    assert places(sweep) >= {(model, 32, seed) for model in other for seed in range(3)}


def test_variants_keep_their_order_and_the_reference_stays(tmp_path: Path):
    first = sweep_at(tmp_path / "a/s", with_steps(200, range(3)), "a")
    second = sweep_at(tmp_path / "b/s", with_steps(1000, range(3)) + with_steps(400, range(3)), "b")
    by_hand = read_sweep(copied(second, copied(first, tmp_path / "h", plan=True), plan=False))
    assert by_hand.labels == [f"rnn (steps={steps})" for steps in (200, 400, 1000)]  # by size
    assert run(first, second) == 0
    collected_ = read_sweep(first)
    assert collected_.labels == [f"rnn (steps={steps})" for steps in (200, 1000, 400)]  # as declared there
    assert by_hand.reference == collected_.reference == "rnn (steps=200)"


@pytest.mark.parametrize(
    ("ground", "why"),
    [
        ({"code": "newer"}, collected.CODE),
        ({"model": "another"}, collected.MODEL),
        ({"task": "another"}, collected.TASK),
    ],
)
def test_what_stands_on_other_ground_is_left_out_and_counted(tmp_path: Path, ground, why: str, capsys):
    first = sweep_at(tmp_path / "a/s", runs(range(3)), "a")
    second = sweep_at(tmp_path / "b/s", runs(range(3, 5), **ground), "b")
    before = files(first)
    assert run(first, second) == 1
    assert f"refused, {why}: 4" in told(capsys)
    assert files(first) == before
    sweep = read_sweep(copied(second, first, plan=False))
    assert (dict(sweep.left_out), len(sweep.runs)) == ({why: 4}, 6)
    assert f"4 finished runs of this folder ({why}: 4)" in re.sub("&#39;", "'", render(sweep))


def test_the_same_run_from_another_machine_is_left_out(tmp_path: Path, capsys):
    first = sweep_at(tmp_path / "a/s", runs(range(3)), "a")
    second = sweep_at(tmp_path / "b/s", runs(range(1, 4), machine="there"), "b")
    assert run(first, second) == 1
    assert f"refused, {collected.ELSEWHERE}: 4" in told(capsys)
    sweep = read_sweep(copied(second, first, plan=False))
    assert (dict(sweep.left_out), len(sweep.runs)) == ({collected.ELSEWHERE: 4}, 8)


@pytest.mark.parametrize("by_command", [False, True])
def test_a_planned_run_without_a_record_is_filled_by_the_same_one_of_another_machine(
    tmp_path: Path, by_command
):
    first = sweep_at(tmp_path / "a/s", runs(range(3)), "a")
    second = sweep_at(tmp_path / "b/s", runs(range(1, 4), machine="there"), "b")
    for run_ in runs([2]):  # a was stopped before its last seed
        shutil.rmtree(first / folder_of(run_[0]))
    if by_command:
        assert run(first, second) == 1  # seed 1 is there already
        assert records.read_plan(first)["commands"] == [["a"], ["b"]]
    sweep = read_sweep(first if by_command else copied(second, first, plan=False))
    assert set(sweep.runs["status"]) == {"done"}
    assert sorted(sweep.runs["seed"]) == sorted([0, 1, 2, 3] * 2)
    assert sweep.labels == list(SCORES)
    assert by_command or dict(sweep.left_out) == {collected.ELSEWHERE: 2}


def test_a_command_does_its_own_runs_whatever_was_copied(tmp_path: Path):
    first = sweep_at(tmp_path / "a/s", runs(range(2)), "a")
    plan = records.read_plan(first)
    second = sweep_at(tmp_path / "b/s", runs(range(2), machine="there"), "b")
    for run_ in runs([1]):
        shutil.rmtree(first / folder_of(run_[0]))
    copied(second, first, plan=False)
    written, _ = ledger.write(first, plan)
    assert {entry["folder"] for entry in written["runs"]} == {entry["folder"] for entry in plan["runs"]}


def test_canaries_beside_the_comparison_stay_beside_it(tmp_path: Path):
    first = sweep_at(tmp_path / "a/s", runs(range(2), ("rnn", "bag")), "a", beside=["bag"])
    second = sweep_at(tmp_path / "b/s", runs(range(2, 4), ("rnn", "bag")), "b", beside=["bag"])
    third = sweep_at(tmp_path / "d/s", runs(range(2), ("rnn", "bag")), "d")
    sweep = read_sweep(copied(second, first, plan=False))
    assert sweep.labels == ["rnn"]
    assert sweep.runs["companion"].sum() == 4
    compared = read_sweep(copied(second, third, plan=False))  # there it is compared by name
    assert (compared.labels, dict(compared.left_out)) == (["rnn", "bag"], {collected.BESIDE: 2})


def test_trials_keep_what_they_were_made_for(tmp_path: Path):
    trial = dataclasses.replace(training("gru", 16, 1000, 0.5), kind="trial")
    first = sweep_at(tmp_path / "a/s", runs(range(2)), "a")
    tuned = sweep_at(tmp_path / "b/s", [*runs(range(2, 4), ("gru",)), known(trial, {})], "b", base="of gru")
    assert run(first, tuned) == 0
    bases = {one["kind"]: one["base"] for one in records.read_plan(first)["runs"] if one["base"]}
    assert bases == {"train": "of gru", "trial": "of gru"}
    assert list(read_sweep(first).trials["label"]) == ["gru"]


# By command


def test_collecting_twice_changes_nothing(parted, capsys):
    first, second, _ = parted
    assert run(first, second) == 0
    assert f"{first}: 6 runs taken, 0 there already" in told(capsys)
    before = files(first)
    assert run(first, second) == 0
    assert "0 runs taken, 6 there already" in told(capsys)
    assert run(first) == 0
    assert files(first) == before
    plan = records.read_plan(first)
    assert plan["commands"] == [["seeds=0-2"], ["seeds=3-5"]]
    assert {one["seed"]: one["command"] for one in plan["runs"]} == dict(enumerate([0, 0, 0, 1, 1, 1]))


def test_a_new_folder_takes_everything(parted, tmp_path: Path):
    first, second, whole = parted
    assert run(tmp_path / "new/s", first, second) == 0
    assert places(read_sweep(tmp_path / "new/s")) == places(read_sweep(whole))


def test_a_pending_run_is_filled_and_what_is_finished_stays(tmp_path: Path):
    work = runs(range(3))
    here = sweep_at(tmp_path / "a/s", work, "a", pending=2)
    there = sweep_at(tmp_path / "b/s", [(r, tables(0.1)) for r, _ in work], "a")
    before = files(here)
    assert run(here, there) == 0
    after = files(here)
    assert {name: after[name] for name in before if name != records.PLAN_FILE} == {
        name: content for name, content in before.items() if name != records.PLAN_FILE
    }
    assert set(read_sweep(here).runs["status"]) == {"done"}


def test_a_failed_run_is_replaced_by_one_that_ended_but_never_the_other_way(tmp_path: Path):
    ((good, columns),) = runs([0], ["rnn"])
    bad = dataclasses.replace(good, status="killed", metrics={})
    one = sweep_at(tmp_path / "a/s", [(bad, {})], "a")
    two = sweep_at(tmp_path / "b/s", [(good, columns)], "a")
    (one / folder_of(good) / records.CHECKPOINT_FILE).write_bytes(b"of the run that was killed")
    assert run(one, two) == 0
    assert records.read_run(one / folder_of(good)).status == "done"
    assert not (one / folder_of(good) / records.CHECKPOINT_FILE).exists()
    killed = sweep_at(tmp_path / "d/s", [(bad, {})], "a")
    before = files(two)
    assert run(two, killed) == 0
    assert files(two) == before


def test_a_run_that_is_at_work_here_is_not_touched(parted, capsys):
    first, second, _ = parted
    place = first / folder_of(runs([3], ["rnn"])[0][0])
    place.mkdir()
    with locks.file_lock(place / records.LOCK_FILE):
        assert run(first, second) == 1
    assert f"refused, {collect.AT_WORK}: 1" in told(capsys)
    assert not (place / records.RUN_FILE).exists()
    assert run(first, second) == 0


def test_a_following_command_keeps_what_was_adopted(parted):
    first, second, _ = parted
    copied(second, first, plan=False)
    plan = records.read_plan(first)
    for plans in (plan, {**plan, "commands": [["more"]], "runs": plan["runs"][:1]}):
        written, remark = ledger.write(first, {k: v for k, v in plans.items() if k != "schema"})
        assert ({(one["model"], one["seed"]) for one in written["runs"]}, remark) == (
            {(model, seed) for model in SCORES for seed in range(6)},
            "",
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "no such folder"),
        (["a/s", "nowhere"], "no such folder"),
        (["a/s", "a/s"], "it is the sweep that takes the runs"),
        (["a/s", "a/../a/s"], "it is the sweep that takes the runs"),
        (["new", "empty"], "no plan.json there"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    parted, tmp_path: Path, monkeypatch, words, says: str, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run(*words) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert says in error


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(parted, monkeypatch, capsys):
    first, second, whole = parted
    write, left = store.write_file, [7]

    def full(*args: Any, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_file", full)
        assert run(first, second) == 2
    assert told(capsys) == "seqbench.collect: [Errno 28] No space left on device\n"
    assert run(first, second) == 0
    assert places(read_sweep(first)) == places(read_sweep(whole))


# Nobody is trusted


def _cut(place: Path) -> None:
    content = (place / "evaluations.parquet").read_bytes()
    (place / "evaluations.parquet").write_bytes(content[:-1])


def _gone(place: Path) -> None:
    (place / "steps.parquet").unlink()


def _changed(place: Path) -> None:
    text = (place / records.RUN_FILE).read_text()
    (place / records.RUN_FILE).write_text(text.replace('"test_accuracy": ', '"test_accuracy": 1'))


def _linked(place: Path) -> None:
    (place / "steps.parquet").rename(place.parent.parent / "kept")
    (place / "steps.parquet").symlink_to(place.parent.parent / "kept")


def _record_linked(place: Path) -> None:
    (place / records.RUN_FILE).rename(place.parent.parent / "kept")
    (place / records.RUN_FILE).symlink_to(place.parent.parent / "kept")


def _pipe(place: Path) -> None:
    (place / "steps.parquet").unlink()
    os.mkfifo(place / "steps.parquet")


@pytest.mark.parametrize("harm", [_cut, _gone, _changed, _linked, _record_linked, _pipe])
def test_a_damaged_run_is_refused_and_a_finding_where_it_was_copied_by_hand(parted, harm, capsys):
    first, second, _ = parted
    name = folder_of(runs([3], ["rnn"])[0][0])
    harm(second / name)
    assert run(first, second) == 1
    said = told(capsys)
    assert "5 runs taken" in said
    assert f"refused, {collect.DAMAGED}: 1\n  {second / name}: " in said
    assert not (first / name).exists()
    with contextlib.suppress(OSError):
        (second / "steps.parquet").unlink()
    (first / name).mkdir()
    for one in (second / name).iterdir():
        os.link(one, first / name / one.name, follow_symlinks=False)
    sweep = read_sweep(first)
    assert (len(sweep.runs), len(sweep.problems)) == (11, 1)
    assert name in sweep.problems[0]


def test_links_are_never_followed(parted, tmp_path: Path):
    first, second, _ = parted
    linked, planted = (folder_of(runs([seed], ["rnn"])[0][0]) for seed in (3, 4))
    (second / linked).rename(tmp_path / "outside")
    (second / linked).symlink_to(tmp_path / "outside")
    (tmp_path / "target").mkdir()
    (first / planted).symlink_to(tmp_path / "target")
    assert run(first, second) == 1
    assert not (first / linked).exists()
    assert list((tmp_path / "target").iterdir()) == []
    (first / planted).unlink()
    (first / planted).mkdir()
    (tmp_path / "precious").write_text("precious")
    for name in (records.RUN_FILE, "steps.parquet"):
        (first / planted / name).symlink_to(tmp_path / "precious")
    assert run(first, second) == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert records.files_intact(first / planted, records.read_run(first / planted))


HOSTILE: dict[str, Any] = {
    "folder": ["../../evil", "/etc", ".", "..", "a/b", "", "x" * 5000, 7, None, ["a"]],
    "kind": ["code", None, {}], "seed": ["0", None, 10**400, True], "rung": ["16", 10**400, []],
    "model": [None, ["x"], 5], "task": [None, {}], "asked": [["list"], 5, {}], "ground": [5, {"code": []}],
    "command": ["0", -1, [0], 10**400], "job": ["0", [], 10**400, None], "base": [[], 5],
    "identity": [[], 5, {}], "companion": ["yes", [1], {}], "config": [5, [], "x"], "label": [5, {}],
}  # fmt: skip


def _hostile_plans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    strange = [{**plan["runs"][0], key: value} for key, values in HOSTILE.items() for value in values]
    yield {**plan, "runs": [*plan["runs"], *strange, 5, None, "x", []]}
    for value in (5, "x", None, {}, [[], {}, 5, None]):
        yield {
            **plan,
            "models": value,
            "commands": value,
            "reference": value,
            "sweep": value,
            "program": value,
        }


def test_a_hostile_plan_leads_nowhere_and_stops_nothing(parted, tmp_path: Path):
    first, second, _ = parted
    plan = records.read_plan(second)
    outside = files(tmp_path / "c")
    for number, hostile in enumerate(_hostile_plans(plan)):
        records.write_plan(second, hostile)
        here = copied(first, tmp_path / f"to{number}/s", plan=True) if number == 0 else None
        here = here or shutil.copytree(first, tmp_path / f"to{number}/s")
        assert run(here, second) == 0
        assert {"rnn", "gru"} <= set(read_sweep(here).labels)
        over = copied(second, shutil.copytree(first, tmp_path / f"over{number}/s"), plan=True)
        assert len(places(read_sweep(over))) >= 12
        own = {key: value for key, value in plan.items() if key != "schema"}
        assert len(ledger.write(over, own)[0]["runs"]) >= 12
        assert {path.name for path in (tmp_path / f"to{number}").iterdir()} == {"s"}
    assert files(tmp_path / "c") == outside


def _sealed(path: Path, **changes: Any) -> None:
    """The record with other content and a seal that fits."""
    plain = json.loads(path.read_text())
    content = {key: value for key, value in (plain | changes).items() if key != "sha256"}
    path.write_text(json.dumps(content | {"sha256": store.digest(content)}))


def _nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 10**400}, {"seed": "0"}, {"rung": []}, {"kind": "code"}, {"kind": "../../x"},
        {"files": {"../../evil.txt": "0" * 64}}, {"files": {"plan.json": "0" * 64}}, {"schema": 99},
        {"files": {"a.txt": "0"}}, {"ground": {"code": 5}}, {"asked": ""}, {"config": []},
    ],
)  # fmt: skip
def test_a_hostile_record_is_refused(parted, tmp_path: Path, changes: dict[str, Any], capsys):
    first, second, _ = parted
    name = folder_of(runs([3], ["rnn"])[0][0])
    _sealed(second / name / records.RUN_FILE, **changes)
    before = {path.name for path in tmp_path.iterdir()}
    assert run(first, second) == 1
    assert "5 runs taken" in told(capsys)
    assert not (first / name).exists()
    assert {path.name for path in tmp_path.iterdir()} == before
    shutil.copytree(second / name, first / name)
    assert len(read_sweep(first).runs) == 11


@pytest.mark.parametrize("depth", [200, 400, 900])
def test_settings_that_are_nested_deeply_stop_nothing(parted, depth: int):
    first, second, _ = parted
    name = folder_of(runs([3], ["rnn"])[0][0])
    config = {**settings("rnn", 16), "more": _nested(depth)}
    _sealed(second / name / records.RUN_FILE, config=config, asked="another")
    assert run(first, second) in (0, 1)
    shutil.copytree(second / name, first / name, dirs_exist_ok=True)
    assert len(read_sweep(first).runs) in (11, 12)


def test_words_of_a_hostile_place_cannot_write_on_the_terminal(parted, capsys):
    first, second, _ = parted
    name = folder_of(runs([3], ["rnn"])[0][0])
    _sealed(second / name / records.RUN_FILE, status="\x1b[31mred\nline")
    assert run(first, second) == 1
    assert "\x1b" not in told(capsys)


def test_speed_of_another_machine_is_adopted_for_the_page_to_keep_apart(tmp_path: Path):
    first = sweep_at(tmp_path / "a/s", [*runs(range(2)), known(*timing("rnn"))], "a")
    second = sweep_at(tmp_path / "b/s", [known(*timing("gru"), machine="there")], "b")
    assert run(first, second) == 0
    assert (read_sweep(first).runs["kind"] == "speed").sum() == 2
