"""What a sweep of many runs costs beside the runs: ``python tests/perf/scale.py 1000 10000 100000``.

For every size it makes a sweep of that many small runs (a grid of learning rates and seeds at two lengths),
writes a record of each without training, and measures what the command that owns the sweep, the report and
the index do. Each part runs in a process of its own, whose peak memory is told. What would take longer than
``--minutes`` by the power of the sizes before is extrapolated instead, marked "~". Nothing is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
LENGTHS, COMPOSED = 2, 24
GROWTH = 1.0  # how a cost is taken to grow where only one size was measured

Figures = dict[str, float]


@contextlib.contextmanager
def timed(found: Figures, name: str) -> Iterator[None]:
    """Keep how long something takes: CPU seconds, and seconds as ``name, wall s``."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    found[f"{name}, CPU s"] = time.process_time() - cpu
    found[f"{name}, wall s"] = time.perf_counter() - wall


def shape(runs: int) -> tuple[int, int]:
    """Variants of a model and seeds of a sweep: both grow with its size."""
    variants = max(1, round(math.sqrt(runs / LENGTHS)))
    return variants, max(1, runs // (LENGTHS * variants))


def jobs_of(runs: int) -> list[Any]:
    """Jobs that differ in their learning rate, with so many runs together."""
    from seqbench.cli import compose

    [job] = compose(
        ["model=lstm", "task=temporal_order", "task.lengths=[16,32]", "canaries=false", "speed.enabled=false"]
    )
    variants, seeds = shape(runs)
    rates = [1e-4 * 1.01**number for number in range(variants)]
    return [
        dataclasses.replace(job, seeds=list(range(seeds)), train=dataclasses.replace(job.train, lr=rate))
        for rate in rates
    ]


def composing(_runs: int, _folder: Path) -> Figures:
    """Hydra's part: a job for each point of the command line."""
    from seqbench.cli import compose

    found: Figures = {}
    rates = ",".join(f"{1e-4 * 1.01**number:.6g}" for number in range(COMPOSED))
    compose(["model=lstm", "task=temporal_order"])  # imports
    with timed(found, "one"):
        jobs = compose(["-m", "model=lstm", "task=temporal_order", f"train.lr={rates}"])
    assert len(jobs) == COMPOSED
    return {name: value / COMPOSED for name, value in found.items()}


def driving(runs: int, folder: Path) -> Figures:
    """What the process that owns the sweep does beside running anything."""
    from seqbench import ledger, records
    from seqbench.plan import finished, plan

    found: Figures = {}
    jobs = jobs_of(runs)
    folder.mkdir(parents=True)
    with timed(found, "plan the runs"):
        units = plan(jobs, folder)
    with timed(found, "describe them"):
        own = ledger.describe(jobs, units, folder.name, ["seqbench"], ["-m"])
    with timed(found, "write plan.json"):
        ledger.write(folder, own)
    found["plan.json, MB"] = (folder / records.PLAN_FILE).stat().st_size / 1e6
    with timed(found, "(making the records)"):
        _record(units)
    with timed(found, "find what is finished"):
        assert all(finished(unit) is not None for unit in units)
    with timed(found, "count by status"):
        ledger.tally(folder, own)
    with timed(found, "write plan.json again"):
        ledger.write(folder, own)
    found["runs"] = len(units)
    return found


def _record(units: list[Any]) -> None:
    """A small record of each run, as if it had been trained; nothing waits for the disk."""
    import made

    from seqbench import records

    keep, os.fsync = os.fsync, lambda _: None
    tables = {name: made.tables(0.7)[name] for name in ("evaluations", "gradient_flow")}
    like = made.training("lstm", 16, 0, 0.7)
    for number, unit in enumerate(units):
        scored = {"test_accuracy": 0.5 + 0.4 * math.sin(number) ** 2, "first_batch_sha256": f"{unit.seed}"}
        run = dataclasses.replace(
            like, identity=unit.identity, task=unit.job.task.name, rung=unit.rung, seed=unit.seed,
            config=settings_of(unit.job), label=unit.label, asked=unit.asked, ground=unit.ground,
            metrics={**like.metrics, **scored, "data_sha256": f"{unit.seed}"},
        )  # fmt: skip
        records.write_run(unit.folder, run, tables)
    os.fsync = keep


def settings_of(job: Any) -> dict[str, Any]:
    """The settings of a job as its record has them."""
    from seqbench.config import settings

    return settings(job)


def reading(_runs: int, folder: Path) -> Figures:
    """The report of the whole sweep."""
    from seqbench.report import load
    from seqbench.report.frame import read_sweep
    from seqbench.report.page import render

    found: Figures = {}
    load.libraries()
    with load.uncollected():
        with timed(found, "read and verify"):
            sweep = read_sweep(folder)
        with timed(found, "read the tables"):
            sweep.read_all()
        with timed(found, "draw the page"):
            page = render(sweep)
    found["page, MB"] = len(page.encode()) / 1e6
    return found


def indexing(_runs: int, folder: Path) -> Figures:
    """The index over the folder of the sweep, without and with what it kept."""
    from seqbench.report import build_index, load

    found: Figures = {}
    load.libraries()
    out = folder.parent.parent / "index" / "index.html"
    for name in ("index", "index again"):
        with timed(found, name):
            build_index(folder.parent, out)
    return found


def collecting(_runs: int, folder: Path) -> Figures:
    """Collecting all runs into a new place, every file flushed to the disk."""
    from seqbench.collect import collect

    found: Figures = {}
    with timed(found, "collect"):
        told, _, _ = collect(folder.parent.parent / "collected" / folder.name, [folder])
    assert not told.refused
    return found


PHASES = {
    "compose a job": composing, "the command": driving, "the report": reading, "the index": indexing,
    "collecting": collecting,
}  # fmt: skip


def in_own_process(phase: str, runs: int, folder: Path) -> Figures:
    """Run a phase and give its figures with its peak memory."""
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, __file__, "--phase", phase, "--folder", str(folder), str(runs)]
    environment = {**os.environ, "SEQBENCH_LOCKS": str(folder.parent.parent)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def expected(found: dict[int, Figures], name: str, runs: int) -> float:
    """A figure at a size that was not measured: along the power of the two largest that were."""
    known = sorted((size, figures[name]) for size, figures in found.items() if figures.get(name, 0) > 0)
    if not known:
        return math.nan
    power = GROWTH
    if len(known) > 1:
        (small, less), (large, more) = known[-2:]
        power = max(0.0, math.log(more / less) / math.log(large / small))
    size, value = known[-1]
    return value * (runs / size) ** power


def measured(sizes: list[int], folder: Path, minutes: float) -> dict[str, dict[int, Figures]]:
    """Every phase at every size, but those that would take too long."""
    found: dict[str, dict[int, Figures]] = {phase: {} for phase in PHASES}
    for runs in sizes:
        place = folder / str(runs) / "runs" / "many"
        for phase, known in found.items():
            if phase == "compose a job" and known:
                continue
            whole = sum(
                expected(known, name, runs) for name in next(iter(known.values()), {}) if "wall" in name
            )
            if whole <= 60 * minutes and (place.exists() or phase in ("compose a job", "the command")):
                known[runs] = in_own_process(phase, runs, place)
                print(f"{runs} runs, {phase}: {json.dumps(known[runs])}", file=sys.stderr)  # noqa: T201
        shutil.rmtree(folder / str(runs), ignore_errors=True)
    return found


def table(found: dict[str, dict[int, Figures]], sizes: list[int]) -> Iterator[str]:
    """The figures as a table in Markdown."""
    yield "| | " + " | ".join(f"{runs:,} runs" for runs in sizes) + " |"
    yield "|---|" + "---|" * len(sizes)
    [each] = found["compose a job"].values()
    jobs = [f"{each['one, CPU s'] * shape(runs)[0]:.3g}" for runs in sizes]
    yield "| compose the jobs (Hydra), CPU s | " + " | ".join(jobs) + " |"
    for phase, known in found.items():
        for name in next(iter(known.values()), {}) if phase != "compose a job" else ():
            cells = [
                f"{known[runs][name]:.3g}" if runs in known else f"~{expected(known, name, runs):.3g}"
                for runs in sizes
            ]
            yield f"| {phase}: {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, help="where the sweeps are made (default: a temporary folder)")
    parser.add_argument("--minutes", type=float, default=10.0, help="the longest that a phase may take")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        found = PHASES[given.phase](given.runs[0], given.folder)
        found["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps(found))  # noqa: T201
        return
    with tempfile.TemporaryDirectory(prefix="seqbench-scale-", dir=given.folder) as folder:
        figures = measured(sorted(given.runs), Path(folder), given.minutes)
    print("\n".join(table(figures, sorted(given.runs))))  # noqa: T201


if __name__ == "__main__":
    main()
