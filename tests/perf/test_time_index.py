"""Building the index of all sweeps over ten thousand run folders, with nothing kept of an earlier one."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import tell  # noqa: F401
from many_runs import multiplied

pytestmark = pytest.mark.perf

SHAPES = {"20 sweeps of 500 runs": (20, 10, 50), "1 sweep of 10,000 runs": (1, 20, 500)}


@pytest.fixture(scope="module")
def real(tmp_path_factory, python_in) -> Path:
    """A small real sweep without speed measurement, so that every made run is a training run."""
    folder = tmp_path_factory.mktemp("real")
    done = python_in(
        folder, "-m", "seqbench", "model=lstm", "task=temporal_order", "task.lengths=[32]", "seeds=1",
        "canaries=false", "speed.enabled=false", "train.steps=50", "sweep=real",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs/real"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_index_of_ten_thousand_runs(benchmark, tell, real, tmp_path, monkeypatch, shape):  # noqa: F811
    sweeps, models, seeds = SHAPES[shape]
    with monkeypatch.context() as quick:
        quick.setattr(os, "fsync", lambda _: None)
        made = [multiplied(real, tmp_path / f"runs/s{n}", models=models, seeds=seeds) for n in range(sweeps)]
    environment = {**os.environ, "SEQBENCH_LOCKS": str(tmp_path)}

    def index() -> tuple[float, resource.struct_rusage]:
        shutil.rmtree(tmp_path / "reports", ignore_errors=True)  # with it what an index keeps for the next
        start = time.perf_counter()
        command = [sys.executable, "-m", "seqbench.report"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return time.perf_counter() - start, used

    wall_s, used = benchmark.pedantic(index, rounds=1)
    assert (tmp_path / "reports/index.html").is_file()
    cpu_s, peak_bytes = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    tell(
        f"index of {shape} ({sum(made)}): {wall_s:.1f} s ({cpu_s:.1f} CPU s), {peak_bytes / 1e6:.0f} MB",
        goal="10,000 runs in under 30 s",
        wall_s=wall_s, cpu_s=cpu_s, peak_bytes=peak_bytes,
    )  # fmt: skip
    benchmark.group = "whole commands"
    shutil.rmtree(tmp_path / "runs")
