"""Reading a sweep and building its page; a sweep of a thousand runs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

import pytest
from bench import like_a_run, tell  # noqa: F401
from made_pages import SWEEPS
from many_runs import multiplied

from seqbench.report import build_index
from seqbench.report.frame import read_sweep
from seqbench.report.lesson import write_lesson
from seqbench.report.page import render

pytestmark = pytest.mark.perf


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A sweep with every figure and table: three models, two rungs, two seeds."""
    return SWEEPS["full"](tmp_path_factory.mktemp("runs") / "full")


def test_reading_a_sweep(benchmark, full):
    benchmark.group = "page of a sweep"
    assert benchmark(lambda: read_sweep(full)).labels


def test_its_tables(benchmark, full):
    benchmark.group = "page of a sweep"
    benchmark(lambda: read_sweep(full).read_all())


def test_building_its_page(benchmark, full):
    benchmark.group = "page of a sweep"
    assert "<svg" in benchmark.pedantic(lambda: render(read_sweep(full)), rounds=5)


def test_building_its_lesson(benchmark, full, tmp_path):
    benchmark.group = "page of a sweep"
    benchmark.pedantic(lambda: write_lesson(read_sweep(full), tmp_path / "lesson.html"), rounds=5)


def test_building_the_index(benchmark, full, tmp_path):
    """Its cache is taken away every time."""
    benchmark.group = "page of a sweep"

    def build() -> None:
        (tmp_path / ".index.json").unlink(missing_ok=True)
        build_index(full.parent, tmp_path / "index.html")

    benchmark.pedantic(build, rounds=5)


@pytest.mark.timeout(600)
def test_a_report_of_a_thousand_runs(benchmark, tell, python_in, tmp_path, monkeypatch):  # noqa: F811
    """20 models with 50 seeds each, made of the records of one real run with its speed measurement."""
    real = python_in(
        tmp_path, "-m", "seqbench", "model=lstm", "task=temporal_order", "task.lengths=[64]", "seeds=1",
        "canaries=false", "sweep=real", "probes=[gradient_flow,state_flow,hops,jacobian,gates]",
    )  # fmt: skip
    assert real.returncode == 0, real.stdout + real.stderr
    with monkeypatch.context() as quick:
        quick.setattr(os, "fsync", lambda _: None)
        runs = multiplied(tmp_path / "runs/real", tmp_path / "runs/many", models=20, seeds=50)
    environment = {**os.environ, "SEQBENCH_LOCKS": str(tmp_path)}
    command = [sys.executable, "-m", "seqbench.report", "runs/many"]

    def report() -> tuple[float, resource.struct_rusage]:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return time.perf_counter() - start, used

    wall_s, used = benchmark.pedantic(report, rounds=1)
    cpu_s, peak_bytes = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    tell(
        f"report of {runs} runs: {wall_s:.1f} s ({cpu_s:.1f} CPU s), {peak_bytes / 1e6:.0f} MB",
        goal="1,000 runs in under 10 s and 1 GB",
        wall_s=wall_s, cpu_s=cpu_s, peak_bytes=peak_bytes,
    )  # fmt: skip
    benchmark.group = "whole commands"
