"""What a run costs beside its training under each launcher, measured with runs that train next to nothing.

    python tests/perf/launch_overheads.py [basic par slurm ray]

Sweeps of few and of many runs, two side by side, are timed in turns; the difference is what a run takes, the
rest what a sweep takes. Slurm is the tests' own of one node, and is left out where it is not installed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLURM = Path(__file__).parents[1] / "launchers" / "one_node_slurm.sh"
LAUNCHERS = {
    "basic": ["workers=2"],
    "par": ["hydra/launcher=par", "hydra.launcher.n_jobs=2"],
    "slurm": ["hydra/launcher=slurm", "hydra.launcher.array_parallelism=2", "hydra.launcher.mem_gb=1"],
    "ray": ["hydra/launcher=ray"],
}
TINY = [
    "model=rnn,gru", "task=temporal_order", "task.lengths=[8]", "train.steps=4", "train.eval_every=4",
    "probes=[]", "train.eval_examples=8", "train.test_examples=8", "canaries=false", "speed.enabled=false",
]  # fmt: skip
FEW, MANY = 2, 12  # seeds of each of two models
REPEATS = 3


def seconds(words: list[str], seeds: int, variables: dict[str, str]) -> float:
    """How long a sweep takes, with a report, in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-m", "seqbench", "-m", *words, *TINY, f"seeds={seeds}"],
            cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        took = time.monotonic() - started
    if result.returncode != 0:
        sys.exit(result.stdout + result.stderr)
    return took


def main(names: list[str]) -> None:
    """Measure in turns and print a table."""
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    variables = {name: {} for name in names}
    if "slurm" in names:
        if shutil.which("slurmctld") is None:
            sys.exit("no Slurm here: name basic, par and ray alone")
        started = {**os.environ, "CPUS": str(os.cpu_count())}
        subprocess.run([SLURM, "start", str(place)], check=True, env=started)
        said = subprocess.run([SLURM, "env", str(place)], check=True, capture_output=True, text=True).stdout
        variables["slurm"] = dict(line.split("=", 1) for line in said.splitlines())
    found: dict[tuple[str, int], list[float]] = {}
    try:
        for _ in range(REPEATS):
            for name in names:
                for seeds in (FEW, MANY):
                    took = seconds(LAUNCHERS[name], seeds, variables[name])
                    found.setdefault((name, seeds), []).append(took)
    finally:
        if "slurm" in names:
            subprocess.run([SLURM, "stop", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)
    heads = ("launcher", f"{2 * FEW} runs, s", f"{2 * MANY} runs, s", "s a run", "s a sweep")
    print("{:<9}{:>12}{:>12}{:>9}{:>11}".format(*heads))  # noqa: T201
    for name in names:
        few, many = (statistics.median(found[name, seeds]) for seeds in (FEW, MANY))
        run = (many - few) / (2 * (MANY - FEW))
        print(f"{name:<9}{few:12.1f}{many:12.1f}{run:9.2f}{few - 2 * FEW * run:11.1f}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:] or list(LAUNCHERS))
