"""What a sweep costs beside training, and what running seeds side by side saves."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from pathlib import Path

import pytest
from bench import like_a_run, tell  # noqa: F401
from conftest import ROOT
from faults.observe import runs_below

pytestmark = [pytest.mark.perf, pytest.mark.timeout(1200)]
HOOK = Path(__file__).parent / "hook"
BARE = ["-m", "seqbench", "-m", "task=temporal_order", "speed.enabled=false", "canaries=false"]
SHOWN = {  # parts of seqbench by what they do for the reader; each is timed in the process that it runs in
    "compose": "composition",
    "plan": "planning",
    "import seqbench.worker": "server: torch and seqbench",
    "Pool._aside": "waiting for the server, and widths",
    "libraries": "the report's libraries (meanwhile)",
    "execute": "runs, training included",
    "Pool._start": "  starting them",
    "build": "  networks and their widths",
    "check_contract": "  contract",
    "Recorder._probe": "  probes",
    "Training.to_end": "  training",
    "Recorder._test": "  test set",
    "Recorder._commit": "  records",
    "finish": "report",
}


@pytest.fixture
def swept(python_in, tmp_path):
    """Run a sweep from a cold start; gives its wall seconds and its training runs."""

    def sweep(name: str, *settings: str, **variables: str) -> tuple[float, list]:
        start = time.perf_counter()
        ended = python_in(tmp_path, *BARE, f"sweep={name}", *settings, cold=True, timeout=900, **variables)
        wall_s = time.perf_counter() - start
        assert ended.returncode == 0, ended.stdout + ended.stderr
        runs = [run for path, run in runs_below(tmp_path).values() if path.parent.name == name]
        return wall_s, runs

    return sweep


def test_five_seeds_side_by_side(benchmark, tell, swept):  # noqa: F811
    """Five seeds of an LSTM on the default ladder: two workers against one, in turns."""
    walls: dict[int, list[float]] = defaultdict(list)
    cpus: dict[int, list[float]] = defaultdict(list)

    def four_sweeps() -> None:
        for number, workers in enumerate((2, 1, 1, 2)):
            settings = ("model=lstm", "seeds=5", "train.stop_when_solved=false", f"workers={workers}")
            wall_s, runs = swept(f"round{number}", *settings)
            walls[workers].append(wall_s)
            cpus[workers].append(sum(run.metrics["train_cpu_s"] for run in runs))

    benchmark.pedantic(four_sweeps, rounds=1)
    share = statistics.median(walls[2]) / statistics.median(walls[1])
    slower = statistics.median(cpus[2]) / statistics.median(cpus[1])
    tell(
        f"five seeds side by side take x{share:.2f} of one after another ({min(walls[2]):.0f} s, "
        f"{min(walls[1]):.0f} s); the same training takes x{slower:.2f} CPU time with a neighbour",
        goal="at most x0.55 on two cores",
        share=share, cpu_ratio=slower, two_workers_s=min(walls[2]), one_worker_s=min(walls[1]),
    )  # fmt: skip
    benchmark.group = "whole commands"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_harness_costs(benchmark, tell, swept, tmp_path, workers):  # noqa: F811
    """Twenty runs of twenty steps: everything but the training that their records tell of."""
    notes = tmp_path / "phases.txt"
    paths = os.pathsep.join([str(HOOK), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = ("model=lstm,rnn", "task.lengths=[16]", "seeds=10", "train.steps=20", f"workers={workers}")
    variables = {"SEQBENCH_PHASES": str(notes), "PYTHONPATH": paths}
    wall_s, runs = benchmark.pedantic(swept, args=("tiny", *settings), kwargs=variables, rounds=1)
    assert len(runs) == 20
    parts = phases(notes)
    training_s = sum(run.metrics["train_wall_s"] for run in runs) / workers
    each_s = (parts["execute"][0] - parts["Training.to_end"][0] + parts["Pool._start"][0]) / len(runs)
    around_s = wall_s - training_s - each_s * len(runs) / workers
    named = {name: parts[key] for key, name in SHOWN.items()}
    told = [f"a sweep of 20 runs with {workers} workers beside {training_s:.1f} s of training:"]
    told += [f"  {name:<38} {wall:6.2f} s wall {cpu:6.2f} s CPU" for name, (wall, cpu) in named.items()]
    tell(
        "\n".join(told)
        + f"\n  per run {each_s:.2f} s, per sweep {around_s:.1f} s, together {wall_s - training_s:.1f} s",
        goal="under 0.5 s per run and under 5 s per sweep of 20 runs",
        per_run_s=each_s, per_sweep_s=around_s, together_s=wall_s - training_s,
        **{key: wall for key, (wall, _) in parts.items()},
    )  # fmt: skip
    benchmark.group = "whole commands"


def phases(notes: Path) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of every part, over all its calls."""
    found: dict[str, tuple[float, float]] = {}
    for line in notes.read_text(encoding="utf-8").splitlines():
        _, wall, cpu, name = line.split(" ", 3)
        before = found.get(name, (0.0, 0.0))
        found[name] = (before[0] + float(wall), before[1] + float(cpu))
    return found
