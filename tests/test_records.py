"""Records: committed at once or not at all, verified when read, safe to read from anybody's folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random

import pytest

from seqbench import records, store
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
