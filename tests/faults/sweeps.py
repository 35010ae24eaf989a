"""Sweeps stopped at random moments, by kill -9 or in order, and gone on with until they are complete."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import warm

from faults.campaign import Campaign, Figure
from faults.observe import bits, planned, runs_below
from seqbench import records

COMMAND = [
    "-m", "seqbench", "-m", "model=rnn,lstm,transformer", "task=temporal_order", "task.lengths=[8,40]",
    "train.steps=600", "train.eval_every=100", "train.eval_examples=64", "train.test_examples=64",
    "train.stop_when_solved=false", "seeds=2", "match.target=2000", "network.dropout=0.1", "speed.lengths=[]",
    "speed.seconds=0", "checkpoint_s=0", "canaries=false", "sweep=s",
]  # fmt: skip
ACKNOWLEDGED = re.compile(r"^\[ *\d+/\d+\] done +(?P<label>\S.*?\S) +(accuracy|speed measured)", re.MULTILINE)
KILLS_IN_A_ROW = 10
PROMISED_S = 2.0


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a sweep: plain output and locks of its own."""
    return {**os.environ, "SEQBENCH_LOCKS": str(folder), "NO_COLOR": "1", "COLUMNS": "200"}


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the sweep, or go on with it, in a session of its own; what it prints is kept."""
    with (folder / "terminal.txt").open("ab") as terminal:
        return subprocess.Popen(
            [sys.executable, *COMMAND],
            cwd=folder, env=surroundings(folder), stdout=terminal, stderr=terminal, start_new_session=True,
        )  # fmt: skip


def to_the_end(folder: Path) -> int:
    """Run the sweep undisturbed and return its exit code."""
    done = warm.shared().run(COMMAND, folder, surroundings(folder), timeout=300)
    with (folder / "terminal.txt").open("a") as terminal:
        terminal.write(done.stdout + done.stderr)
    return done.returncode


def wait_up_to(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Let it run for a while."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)


def training(folder: Path) -> bool:
    """Whether some run is being trained: it has told of its progress and left no record yet."""
    return any(not (path.parent / records.RUN_FILE).exists() for path in folder.glob("runs/*/*/events.jsonl"))


def wait_for_training(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the sweep does something that a kill can spoil, or ends."""
    stale = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/events.jsonl")}
    while process.poll() is None:
        for path in folder.glob("runs/*/*/events.jsonl"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime_ns != stale.get(path):
                    return
        time.sleep(0.02)


def acknowledged(folder: Path) -> set[str]:
    """Labels of the runs that the terminal has shown as done."""
    text = (folder / "terminal.txt").read_text(errors="replace")
    return {match["label"] for match in ACKNOWLEDGED.finditer(text)}


def broken(folder: Path, undisturbed: dict[str, object]) -> list[str]:
    """Promises that do not hold for a sweep that was stopped."""
    if not list(folder.glob("runs/*/plan.json")):
        return ["acknowledged runs without a plan"] if acknowledged(folder) else []
    runs = runs_below(folder)
    whole = {
        run.label for place, run in runs.values() if run.status == "done" and records.files_intact(place, run)
    }
    done = {name: one for name, one in bits(folder).items() if one[1] == "done"}
    checks = {
        f"acknowledged but lost: {acknowledged(folder) - whole}": acknowledged(folder) <= whole,
        "a done run differs from the undisturbed one": done.items() <= undisturbed.items(),
        "a record that no plan names": set(runs) <= planned(folder),
    }
    return [what for what, good in checks.items() if not good]


def chain(
    folder: Path, kills: int, rng: random.Random, undisturbed: dict[str, object]
) -> tuple[list[str], int, int]:
    """Kill one sweep ``kills`` times at random moments of its life, then let it end.

    Returns:
        Broken promises, kills in the middle of a training, trainings that went on from a checkpoint.
    """
    problems, hits = [], 0
    folder.mkdir()
    for number in range(kills):
        process = start(folder)
        wait_for_training(folder, process)
        wait_up_to(process, rng.uniform(0.0, 2.0))
        hits += training(folder)
        kill = os.killpg if rng.random() < 0.5 else os.kill  # the whole session, or the driver alone
        with contextlib.suppress(ProcessLookupError):
            kill(process.pid, signal.SIGKILL)
        process.wait()
        problems += [f"kill {number}: {problem}" for problem in broken(folder, undisturbed)]
    code = to_the_end(folder)
    problems += [] if code == 0 else [f"the last command ended with {code}"]
    problems += [] if bits(folder) == undisturbed else ["not the undisturbed table"]
    resumed = sum(bool(run.metrics.get("resumed_step")) for _, run in runs_below(folder).values())
    shutil.rmtree(folder) if not problems else None
    return [f"{folder.name}: {problem}" for problem in problems], hits, resumed


def kills(size: int, folder: Path, rng: random.Random) -> Figure:
    """Kill sweeps with SIGKILL at ``size`` random moments, ten in a row, two sweeps at a time."""
    undisturbed = control(folder)
    rows = [min(KILLS_IN_A_ROW, size - first) for first in range(0, size, KILLS_IN_A_ROW)]
    seeds = [random.Random(rng.random()) for _ in rows]
    with ThreadPoolExecutor(2) as pool:
        work = enumerate(zip(rows, seeds, strict=True))
        found = list(pool.map(lambda one: chain(folder / f"chain-{one[0]}", *one[1], undisturbed), work))
    violations = [line for lines, _, _ in found for line in lines]
    hits, resumed = (sum(one[place] for one in found) for place in (1, 2))
    note = f"{hits} hit a training; {len(rows)} sweeps complete, {resumed} trainings from a checkpoint"
    return Figure(size, violations, note)


def control(folder: Path) -> dict[str, object]:
    """The table of a sweep that nobody disturbs."""
    place = folder / "control"
    place.mkdir()
    code = to_the_end(place)
    assert code == 0, (place / "terminal.txt").read_text()
    return dict(bits(place))


def stops(size: int, folder: Path, rng: random.Random) -> Figure:
    """Stop sweeps with Ctrl-C or SIGTERM: in two seconds, nothing left behind, and the way on is shown."""
    violations, slowest = [], 0.0
    for number in range(size):
        here = folder / f"stop-{number}"
        here.mkdir()
        process = start(here)
        if number % 3:  # else at any moment, also while it starts
            wait_for_training(here, process)
        wait_up_to(process, rng.uniform(0.3, 2.5))
        name = rng.choice(["SIGINT", "SIGTERM"])
        began = time.monotonic()
        send(process, name)
        process.wait()
        took_s = time.monotonic() - began
        slowest = max(slowest, took_s)
        violations += [f"{name}, number {number}: {problem}" for problem in unclean(here, process, took_s)]
        shutil.rmtree(here)
    return Figure(size, violations, f"the slowest took {slowest:.2f} s")


def send(process: subprocess.Popen[bytes], name: str) -> None:
    """Ctrl-C reaches the whole process group of a terminal; SIGTERM the process alone."""
    with contextlib.suppress(ProcessLookupError):
        if name == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGTERM)


def unclean(here: Path, process: subprocess.Popen[bytes], took_s: float) -> list[str]:
    """What a sweep that was stopped left undone."""
    text = (here / "terminal.txt").read_text(errors="replace")
    left = [run.status for _, run in runs_below(here).values() if run.status not in ("done", "interrupted")]
    stopped = (
        process.returncode == 1 and "go on with: python -m seqbench -m model=rnn,lstm,transformer" in text
    )
    checks = {
        f"exit code {process.returncode}, no way on:\n{text[-800:]}": stopped or process.returncode == 0,
        "a traceback in the terminal": "Traceback" not in text,
        f"{took_s:.1f} s": took_s <= PROMISED_S,
        f"runs recorded as {left}": not left,
        "processes left behind": not processes_in(here),
    }
    return [what for what, good in checks.items() if not good]


def processes_in(folder: Path) -> list[int]:
    """Processes that work in a folder, after a moment for the last ones to go."""
    for _ in range(20):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").readlink() == folder:
                    found.append(int(pid))
        if not found:
            break
        time.sleep(0.05)
    return found


CAMPAIGNS = [
    Campaign("sweeps killed with SIGKILL and gone on with", kills, 1, 100),
    Campaign("Ctrl-C and SIGTERM, two seconds", stops, 0, 30),
]
