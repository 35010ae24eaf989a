"""Writing and reading the record of a run of the usual size."""

from __future__ import annotations

import dataclasses

import pytest
from bench import like_a_run  # noqa: F401
from made import training
from many_runs import usual_tables

from seqbench import records

pytestmark = pytest.mark.perf


@pytest.fixture
def written(tmp_path):
    """A run of 400 steps and its folder."""
    run = dataclasses.replace(training("lstm", 128, 0, 0.9), identity="0" * 64)
    return records.write_run(tmp_path, run, usual_tables()), tmp_path


def test_writing_a_run(benchmark, written):
    """Every table, flushed to the disk, then the record that commits them."""
    benchmark.group = "record of a run"
    run, folder = written
    tables = usual_tables()
    benchmark(records.write_run, folder, run, tables)


def test_reading_a_run(benchmark, written):
    """The record, and the hashes of all its files."""
    benchmark.group = "record of a run"
    _, folder = written
    assert benchmark(lambda: records.files_intact(folder, records.read_run(folder)))


def test_reading_its_tables(benchmark, written):
    """Every table, verified and parsed."""
    benchmark.group = "record of a run"
    run, folder = written
    names = [name.removesuffix(".parquet") for name in run.files if name.endswith(".parquet")]
    rows = benchmark(lambda: [records.read_table(folder, run, name).num_rows for name in names])
    assert min(rows) > 0
