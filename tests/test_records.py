"""Records: committed at once or not at all, verified when read, safe to read from anybody's folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqbench import records, store
from seqbench.errors import UsageError
from seqbench.records import Run
from seqbench.store import DamagedFile

TABLES = {
    "steps": {"step": [1, 2, 3], "loss": [0.5, 0.25, math.nan]},
    "evaluations": {"step": [3], "accuracy": [1.0]},
}


@pytest.fixture
def run() -> Run:
    return Run(
        kind="train", identity="ab" * 32, status="done", task="mqar", rung=8, model="lstm", seed=0,
        config={"train": {"lr": 0.003}},
        metrics={"test_accuracy": 0.1 + 0.2, "note": "<é\u2028>", "none": None},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, run):
    records.write_run(tmp_path / "run", run, TABLES)
    return tmp_path / "run"


def test_a_record_comes_back_bit_equal(folder, run):
    read = records.read_run(folder)
    assert dataclasses.replace(read, files={}) == run
    table = records.read_table(folder, read, "steps").to_pydict()
    assert table["step"] == [1, 2, 3]
    assert table["loss"][:2] == [0.5, 0.25]
    assert math.isnan(table["loss"][2])
    assert records.read_table(folder, read, "unknown") is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_becomes_null(tmp_path, run, value):
    records.write_run(tmp_path, dataclasses.replace(run, metrics={"loss": value, "list": [value]}), {})
    assert records.read_run(tmp_path).metrics == {"loss": None, "list": [None]}
    assert "NaN" not in (tmp_path / "run.json").read_text()


def test_every_single_bit_flip_in_the_record_is_detected(folder, run):
    path = folder / "run.json"
    content = bytearray(path.read_bytes())
    rng = random.Random(0)
    for place in rng.sample(range(8 * len(content)), 400):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            read = records.read_run(folder)
        except DamagedFile:
            continue
        assert dataclasses.replace(read, files={}) == run  # white space between values carries nothing


def test_every_bit_flip_in_a_table_is_detected(folder):
    run = records.read_run(folder)
    for name in TABLES:
        path = folder / f"{name}.parquet"
        content = path.read_bytes()
        for place in random.Random(1).sample(range(8 * len(content)), 200):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            with pytest.raises(DamagedFile, match="checksum"):
                records.read_table(folder, run, name)
        path.write_bytes(content[:-1])
        with pytest.raises(DamagedFile, match="checksum"):
            records.read_table(folder, run, name)
        path.unlink()
        with pytest.raises(DamagedFile, match="missing"):
            records.read_table(folder, run, name)


def rewrite(folder, **changes) -> None:
    """Change a record and give it a checksum that fits, as an editor with intent would."""
    plain = json.loads((folder / "run.json").read_text()) | changes
    plain.pop("sha256")
    plain["sha256"] = store.digest(plain)
    (folder / "run.json").write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schema": records.SCHEMA + 1},
            f"schema {records.SCHEMA + 1}, this version reads up to {records.SCHEMA}: use a newer",
        ),
        ({"schema": None}, "schema None"),
        ({"status": "splendid"}, "unknown status 'splendid'"),
        ({"surprise": 1}, "unexpected keyword argument 'surprise'"),
    ],
)
def test_records_of_another_shape_are_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(DamagedFile, match=message):
        records.read_run(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}']
)
def test_what_is_not_a_record_is_damaged_not_a_crash(folder, content):
    (folder / "run.json").write_bytes(content)
    with pytest.raises(DamagedFile):
        records.read_run(folder)


def test_a_run_without_a_record_never_finished(tmp_path):
    with pytest.raises(FileNotFoundError):
        records.read_run(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
@pytest.mark.timeout(10)
def test_only_regular_files_are_read(folder, kind):
    for name in ("run.json", "steps.parquet"):
        run = records.read_run(folder) if name != "run.json" else None
        path = folder / name
        path.rename(folder / f"real-{name}")
        if kind == "link":
            path.symlink_to(folder / f"real-{name}")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(DamagedFile):
            records.read_run(folder) if run is None else records.read_table(folder, run, "steps")
        path.rmdir() if kind == "folder" else path.unlink()
        (folder / f"real-{name}").rename(path)


def test_a_file_larger_than_the_limit_is_refused(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 11)
    assert store.read_bytes(tmp_path / "big", 11) == b"x" * 11
    with pytest.raises(DamagedFile, match="at most 10 bytes"):
        store.read_bytes(tmp_path / "big", 10)


class Crash(BaseException):
    """A power cut."""


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_while_committing_leaves_the_old_record_whole(folder, run, where, monkeypatch):
    def crash(*_args: object) -> None:
        raise Crash

    before = (folder / "run.json").read_bytes()
    monkeypatch.setattr(os, where, crash)
    with pytest.raises(Crash):
        records.write_run(folder, dataclasses.replace(run, status="failed"), {})
    assert (folder / "run.json").read_bytes() == before


def test_the_record_is_written_after_every_table(tmp_path, run, monkeypatch):
    order: list[str] = []

    def look_before_writing(path, _value) -> None:
        order.extend(sorted(other.name for other in path.parent.iterdir()))

    monkeypatch.setattr(store, "write_sealed", look_before_writing)
    records.write_run(tmp_path, run, TABLES)
    assert order == ["evaluations.parquet", "steps.parquet"]


def test_commits_leave_no_temporary_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluations.parquet",
        "run.json",
        "steps.parquet",
    ]


def test_identity_ignores_the_order_of_keys_and_nothing_else():
    assert store.digest({"a": 1, "b": [1, 2]}) == store.digest({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": 1.5, "b": [1, 2]}, {"a": "1", "b": [1, 2]}, {"a": 1}]
    assert len({store.digest(one) for one in others}) == 4


@pytest.mark.parametrize(
    "label", ["../../etc/passwd", "a" * 300, "", "-", "Ünï cödé", "x\n\0y", "con/aux|nul", ".hidden"]
)
def test_folder_names_are_safe_whatever_the_label(label):
    name = records.folder_name(label, "0123456789abcdef")
    assert len(name) <= 71
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not name.startswith("-")
    assert name.endswith("-0123456789")


GOLDEN = sorted((Path(__file__).parent / "golden").glob("schema-*"))


@pytest.mark.parametrize("sweep", GOLDEN, ids=[path.name for path in GOLDEN])
def test_every_schema_there_ever_was_is_still_read(sweep):
    plan = records.read_plan(sweep)
    assert plan["schema"] == records.PLAN_SCHEMA
    assert plan["commands"][0][0] == "-m"
    assert plan["runs"]
    for entry in plan["runs"]:
        read = records.read_run(sweep / entry["folder"])
        assert (read.identity, read.schema) == (entry["identity"], records.SCHEMA)
        assert read.label
        assert records.files_intact(sweep / entry["folder"], read)
        for file in read.files:
            if file.endswith(".parquet"):
                table = records.read_table(sweep / entry["folder"], read, file.removesuffix(".parquet"))
                assert table.num_rows > 0


def test_there_is_a_golden_sweep_of_every_older_schema():
    names = {path.name for path in GOLDEN}
    assert {f"schema-{number}" for number in range(1, records.SCHEMA)} <= names


def test_a_damaged_record_of_an_older_schema_is_detected(tmp_path):
    [source] = [path for path in GOLDEN if path.name == "schema-1-diverged"]
    [path] = source.glob("*/run.json")
    (tmp_path / "run.json").write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DamagedFile, match="checksum"):
        records.read_run(tmp_path)


def test_the_log_is_part_of_the_record_without_secrets_and_out_of_reach_of_stragglers(
    tmp_path, run, monkeypatch
):
    monkeypatch.setenv("MY_API_KEY", "canary-value")
    straggler = (tmp_path / "log.txt").open("w", buffering=1)
    straggler.write("x" * (2 << 20) + "\nthe key is canary-value\n")
    written = records.write_run(tmp_path, run, {})
    straggler.write("still here\n")
    straggler.close()
    assert records.files_intact(tmp_path, written)
    log = (tmp_path / "log.txt").read_text()
    assert log.endswith("the key is ***\n")
    assert len(log) <= 1 << 20
    (tmp_path / "log.txt").write_text(log + "!")
    assert not records.files_intact(tmp_path, written)


@pytest.mark.parametrize("name", ["../x.parquet", "/etc/passwd", "a/b.parquet", "x.pkl", ".parquet", ""])
def test_a_record_cannot_name_a_file_outside_its_folder(folder, name):
    rewrite(folder, files={name: "0" * 64})
    with pytest.raises(DamagedFile, match="impossible file"):
        records.read_run(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"x": [[1, 2]]}), "column of type list"),
        (pa.table({"x": [{"a": 1}]}), "column of type struct"),
        (pa.table({"x": [b"bytes"]}), "column of type binary"),
    ],
)
def test_a_table_of_another_kind_is_refused(folder, table, message):
    forge(folder, table)
    with pytest.raises(DamagedFile, match=message):
        records.read_table(folder, records.read_run(folder), "steps")


def test_a_table_that_blows_up_when_unpacked_is_refused(folder):
    forge(folder, pa.table({"x": [0] * 1000}), compression="zstd")
    with pytest.raises(DamagedFile, match="compressed with ZSTD"):
        records.read_table(folder, records.read_run(folder), "steps")
    forge(folder, pa.table({"x": pa.nulls(30_000_001)}))
    with pytest.raises(DamagedFile, match="30000001 rows"):
        records.read_table(folder, records.read_run(folder), "steps")


def forge(folder, table: pa.Table, **options: str) -> None:
    """Replace a table and give the record a checksum that fits, as an editor with intent would."""
    pq.write_table(table, folder / "steps.parquet", **options)
    content = (folder / "steps.parquet").read_bytes()
    rewrite(folder, files={"steps.parquet": store.sha256(content)})


def test_a_plan_that_says_the_settings_of_every_run_is_still_read(tmp_path):
    """The second schema."""
    runs = [{"folder": f"r{seed}", "config": {"lr": 0.1}, "ground": {"code": "a"}} for seed in range(2)]
    plan = {"commands": [["-m"]], "runs": runs}
    store.write_sealed(tmp_path / records.PLAN_FILE, {**plan, "schema": 2})
    assert records.read_plan(tmp_path) == {**plan, "schema": records.PLAN_SCHEMA}


def test_what_planned_runs_have_alike_is_written_once(tmp_path):
    def size(seeds: int) -> int:
        run = {"config": {"text": "x" * 1000, "none": float("nan")}, "ground": {"code": "a" * 16}}
        plan = {"runs": [{"folder": f"r{seed}", **run} for seed in range(seeds)], "commands": []}
        records.write_plan(tmp_path, plan)
        read = records.read_plan(tmp_path)["runs"]
        assert [one["folder"] for one in read] == [one["folder"] for one in plan["runs"]]
        assert {one["config"]["text"] for one in read} == {"x" * 1000}
        assert read[-1]["config"]["none"] is None
        return (tmp_path / records.PLAN_FILE).stat().st_size

    assert size(20) < size(1) + 20 * 100


@pytest.mark.parametrize(
    "shared",
    [5, {}, {"config": 3}, {"config": []}, {"config": [{}], "ground": None}, {"config": {"0": {}}}],
)
@pytest.mark.parametrize("place", [0, 7, -1, True, None, "zero", {}])
def test_places_in_a_plan_that_do_not_exist_harm_nothing(tmp_path, shared, place):
    plan = {"runs": [{"config": place, "ground": place}, 3], "shared": shared, "schema": records.PLAN_SCHEMA}
    store.write_sealed(tmp_path / records.PLAN_FILE, plan)
    assert len(records.read_plan(tmp_path)["runs"]) == 2


def test_a_plan_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    records.write_plan(tmp_path, {"runs": [], "commands": []})
    monkeypatch.setattr(records, "_MOST_PLAN_BYTES", 300)
    with pytest.raises(UsageError, match="9 runs are too many for one sweep; split it"):
        records.write_plan(tmp_path, {"runs": [{"folder": "x" * 40} for _ in range(9)], "commands": []})
    assert records.read_plan(tmp_path)["runs"] == []
