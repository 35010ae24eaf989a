"""The same sweep by every launcher: equal results run by run, although one worker of each is killed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from launchers.watch import children, processes, python_path
from seqbench import records
from seqbench.records import Run

SWEEP = [
    "-m", "model=rnn,gru", "seeds=2", "task=temporal_order", "task.lengths=[8]", "task.solved_at=null",
    "train.steps=1500", "train.eval_every=500", "train.eval_examples=8", "train.test_examples=64",
    "train.log_every=10", "canaries=false", "model.hidden=4", "match.by=none", "speed.enabled=false",
    "checkpoint_s=0.2",
]  # fmt: skip
LAUNCHERS = {
    "basic": ["device=cpu"],
    "par": ["device=cpu", "hydra/launcher=par"],
    "slurm": ["hydra/launcher=slurm", "hydra.launcher.mem_gb=1"],
    "ray": ["hydra/launcher=ray"],
}
# What another place, or going on after an end, may change: times, memory, and at which step a run went on.
MAY_DIFFER = re.compile(r".*_s|.*_bytes|resumed_step")
TABLES_WITH_TIMES = {"evaluations.parquet", "log.txt"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    """What the sweep gives when nothing happens to it: results by model and seed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, LAUNCHERS["basic"], {})
    finish(process)
    return results(folder)


def start(folder: Path, words: list[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start the sweep in a folder of its own."""
    own = {"NO_COLOR": "1", "COLUMNS": "200", "SEQBENCH_LOCKS": str(folder), "PYTHONPATH": python_path()}
    env = {**os.environ, **own, **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "seqbench", *SWEEP, *words], cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What the sweep printed; it ended well."""
    try:
        out, _ = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, _ = process.communicate(timeout=30)
        pytest.fail(f"the sweep did not end: {out}")
    assert process.returncode == 0, out
    assert "4 runs planned = 4 done" in out
    return out


def results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What the runs below a folder have found: scalars, and hashes of what they recorded step by step."""
    runs = [records.read_run(path.parent) for path in folder.glob("runs/*/*/run.json")]
    assert {run.status for run in runs} == {"done"}
    found = {(run.model, run.seed): _result(run) for run in runs}
    assert len(found) == len(runs) == 4
    return found


def _result(run: Run) -> dict[str, Any]:
    tables = {name: digest for name, digest in run.files.items() if name not in TABLES_WITH_TIMES}
    assert "steps.parquet" in tables
    scalars = {name: value for name, value in run.metrics.items() if not MAY_DIFFER.fullmatch(name)}
    assert {"test_loss", "test_accuracy", "steps", "first_batch_sha256"} <= set(scalars)
    return {"asked": run.asked, **tables, **scalars}


def begun(folder: Path) -> bool:
    """Whether a run has trained for a while and saved where it was."""
    return any(folder.glob("runs/*/*/checkpoint.pt"))


def in_batches(folder: Path, driver: int) -> list[int]:
    """Workers of an engine that have a batch of the sweep in this folder at work."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"seqbench.launch.work" in words and (process / "cwd").readlink() == folder:
                found.append(int(words[words.index(b"seqbench.launch.work") + 1]))
    assert driver not in found
    return found


def at_work_here(_folder: Path, driver: int) -> list[int]:
    """Child processes that the sweep itself has given a run: each leads a process group."""
    found = []
    for process in children(driver) - {driver}:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process) == process:
                found.append(process)
    return found


def wait_until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_of_which_a_worker_is_killed_ends_complete_and_as_an_undisturbed_one(
    launcher, undisturbed, request, tmp_path
):
    if launcher == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: make launchers")
    variables = request.getfixturevalue("slurm") if launcher == "slurm" else {}
    process = start(tmp_path, LAUNCHERS[launcher], variables)
    try:
        wait_until(lambda: begun(tmp_path) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        workers = at_work_here if launcher == "basic" else in_batches
        victim = wait_until(lambda: workers(tmp_path, process.pid))[0]
        os.kill(victim, signal.SIGKILL)
        out = finish(process)
    finally:
        process.kill()
    assert [line for line in out.splitlines() if line.startswith("  again")], out
    assert results(tmp_path) == undisturbed


def test_a_sweep_that_slurm_preempts_goes_on_from_its_checkpoints(undisturbed, slurm, tmp_path):
    words = [*LAUNCHERS["slurm"], "hydra.launcher.partition=low", "hydra.launcher.cpus_per_task=4"]
    process = start(tmp_path, words, slurm)
    try:
        wait_until(lambda: begun(tmp_path) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        urgent = ["srun", "--partition=high", "--ntasks=1", "--cpus-per-task=4", "true"]
        subprocess.run(urgent, check=True, timeout=60, capture_output=True)
        out = finish(process)
    finally:
        process.kill()
    assert "  again" not in out, "Slurm queues it again by itself"
    assert results(tmp_path) == undisturbed
    runs = [records.read_run(path.parent) for path in tmp_path.glob("runs/*/*/run.json")]
    assert [run for run in runs if run.metrics["resumed_step"] > 0]


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_a_sweep_that_is_stopped_leaves_nothing_at_work(launcher, request, tmp_path):
    if launcher == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: make launchers")
    variables = request.getfixturevalue("slurm") if launcher == "slurm" else {}
    process = start(tmp_path, LAUNCHERS[launcher], variables)
    try:
        wait_until(lambda: begun(tmp_path) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        started = children(process.pid) - {process.pid}
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "go on with: " in out
    assert "Traceback" not in out
    assert not in_batches(tmp_path, process.pid)
    assert not started & set(processes(""))
    runs = [records.read_run(path.parent) for path in tmp_path.glob("runs/*/*/run.json")]
    assert "interrupted" in {run.status for run in runs}
    assert {run.status for run in runs} <= {"interrupted", "done"}
