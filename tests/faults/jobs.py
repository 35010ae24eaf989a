"""Whatever a run does to itself, anywhere in a sweep: a status, nothing else lost, and a clean second try.

A user's file plays the model. Which run misbehaves, and how, stands in the environment and not in the
settings, so that the same command without it must bring the sweep to the end that an undisturbed one has.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import warm

from faults.campaign import Campaign, Figure
from faults.observe import bits, planned, runs_below

FAULTY = '''
import ctypes, os, pathlib, shutil, signal, subprocess, sys, time
from dataclasses import dataclass

from seqbench.cli import main
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting


def misbehave(how):
    """Do what the environment says; the run's folder is where the log is."""
    import torch

    folder = pathlib.Path(os.readlink("/proc/self/fd/1")).parent
    disk = folder.parent.parent
    print("misbehaving:", how, flush=True)
    match how:
        case "raise": raise ValueError("wrong by design")
        case "sys.exit": sys.exit(5)
        case "sys.exit(0)": sys.exit(0)
        case "os._exit": os._exit(3)
        case "kill -9": os.kill(os.getpid(), signal.SIGKILL)
        case "segfault": ctypes.string_at(0)
        case "hang in C": ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock
        case "out of memory": torch.empty(1 << 50)
        case "memory limit": torch.ones(1 << 30)
        case "server killed": os.kill(os.getppid(), signal.SIGKILL); time.sleep(5)
        case "run folder deleted": shutil.rmtree(folder)
        case "sweep folder deleted": shutil.rmtree(folder.parent)
        case "full disk":
            with (disk / "filler").open("wb", buffering=0) as filler:
                for size in (1 << 16, 1 << 10, 1):
                    try:
                        while True: filler.write(b"x" * size)
                    except OSError: pass
        case "read-only disk":
            for descriptor in (1, 2):  # a disk that somebody writes to cannot be made read-only
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@register("model")
@dataclass
class Faulty(ModelConfig):
    """A model that fails where the environment says."""

    name: str = "faulty"
    place: int = setting(0, "tells the runs of a sweep apart")

    def build(self, width_in, hidden):
        import torch

        from seqbench.layers.recurrent import GRULayer

        how, _, place = os.environ.get("FAULT", "@").rpartition("@")
        here = place == str(self.place)

        class Layer(GRULayer):
            calls = 0

            def forward(self, x_BTD, *, mask_BT=None, state=None):
                y_BTH, state = super().forward(x_BTD, mask_BT=mask_BT, state=state)
                if here and how == "NaN at step 3" and self.training and torch.is_grad_enabled():
                    Layer.calls += 1
                    y_BTH = y_BTH * float("nan") if Layer.calls > 3 else y_BTH
                return y_BTH, state

        layer = Layer(width_in, hidden, None)
        if here and layer.parameters().__next__().device.type != "meta":
            misbehave(how)
        return layer


if __name__ == "__main__":
    main()
'''

COMMAND = [
    "faulty.py", "-m", "model=faulty", "model.place=0,1,2", "model.hidden=4", "task=temporal_order",
    "task.lengths=[8]", "train.steps=8", "train.eval_every=4", "train.eval_examples=8",
    "train.test_examples=8", "train.log_every=1", "seeds=1", "speed.enabled=false", "workers=1",
    "limit.time_s=6", "limit.memory_mib=600", "canaries=false", "sweep=s",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One way to break.

    Attributes:
        statuses: how its run may be counted.
        says: what the terminal must say about it.
        others_done: whether the other runs of the sweep must be done.
        own_disk: whether it needs a small disk that it can fill or freeze.
    """

    name: str
    statuses: tuple[str, ...]
    says: str
    others_done: bool = True
    own_disk: bool = False


FAULTS = (
    Fault("raise", ("failed",), "ValueError: wrong by design"),
    Fault("sys.exit", ("failed",), "exit code 5"),
    Fault("sys.exit(0)", ("failed",), "exit code 0"),
    Fault("os._exit", ("failed",), "exit code 3"),
    Fault("kill -9", ("killed",), "signal 9"),
    Fault("segfault", ("killed",), "signal 11"),
    Fault("hang in C", ("timeout",), "longer than limit.time_s=6"),
    Fault("NaN at step 3", ("diverged",), "step 4: loss nan"),
    Fault("out of memory", ("oom",), "can't allocate memory"),
    Fault("memory limit", ("oom",), "can't allocate memory"),
    Fault("server killed", ("failed",), "its server has gone"),
    Fault("run folder deleted", ("done", "failed"), ""),
    Fault("sweep folder deleted", ("done", "failed", "pending"), "", others_done=False),
    Fault("full disk", ("failed", "pending"), "No space left on device", others_done=False, own_disk=True),
    Fault("read-only disk", ("failed", "pending"), "Read-only file system", others_done=False, own_disk=True),
)
CASES = tuple(itertools.product(FAULTS, (0, 1, 2)))


def job_faults(size: int, folder: Path, rng: random.Random) -> Figure:
    """Inject ``size`` of the faults at first, middle and last place, two sweeps at a time."""
    control = folder / "control"
    run(control)
    undisturbed = bits(control)
    assert len(undisturbed) == 3, "the undisturbed sweep did not end well"
    cases = list(CASES) if size >= len(CASES) else rng.sample(CASES, size)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: try_one(folder, *case, undisturbed), cases))
    skipped = sum(one is None for one in found)
    violations = [line for one in found if one is not None for line in one]
    note = f"{skipped} skipped: no disk of their own could be mounted" if skipped else ""
    return Figure(len(cases) - skipped, violations, note)


def run(folder: Path, fault: str = "", *options: str) -> subprocess.CompletedProcess[str]:
    """Run the sweep in ``folder``, with or without a fault."""
    folder.mkdir(exist_ok=True)
    (folder / "faulty.py").write_text(FAULTY)
    told = {"FAULT": fault, "SEQBENCH_LOCKS": str(folder), "NO_COLOR": "1", "COLUMNS": "200"}
    return warm.shared().run([*COMMAND, *options], folder, {**os.environ, **told}, timeout=180)


def try_one(folder: Path, fault: Fault, place: int, undisturbed: dict[str, object]) -> list[str] | None:
    """One fault at one place: the sweep with it, then the same command without. None: not possible here."""
    here = folder / f"{re.sub('[^a-z0-9]+', '-', fault.name.lower())}-{place}"
    here.mkdir()
    with contextlib.ExitStack() as stack:
        if fault.own_disk and not stack.enter_context(small_disk(here / "runs")):
            return None
        first = run(here, f"{fault.name}@{place}")
        problems = judged(here, fault, place, first, undisturbed)
        if fault.own_disk:
            mend_disk(here / "runs")
        again = run(here, "", *(["force=true"] if fault.name.startswith("NaN") else []))
        problems += [] if again.returncode == 0 else [f"second try: exit code {again.returncode}"]
        problems += [] if bits(here) == undisturbed else ["second try: not the undisturbed table"]
        shown = [f"{fault.name} at place {place}: {problem}" for problem in problems]
        if shown:
            shown[-1] += (
                f"\n{first.stdout[-1500:]}{first.stderr[-1500:]}{again.stdout[-800:]}{again.stderr[-800:]}"
            )
    shutil.rmtree(here)
    return shown


def judged(
    here: Path,
    fault: Fault,
    place: int,
    result: subprocess.CompletedProcess[str],
    undisturbed: dict[str, object],
) -> list[str]:
    """Which promises the sweep with the fault broke."""
    output = result.stdout + result.stderr
    found = {run.config["model"]["place"]: run.status for _, run in runs_below(here).values()}
    status = found.get(place, "pending")
    others = [found.get(other, "pending") for other in (0, 1, 2) if other != place]
    all_done = [status, *others] == ["done"] * 3
    done = {name: one for name, one in bits(here).items() if one[1] == "done"}
    checks = {
        f"counted as {status}": status in fault.statuses,
        f"others are {others}": not fault.others_done or others == ["done", "done"],
        f"exit code {result.returncode}": result.returncode == (0 if all_done else 1),
        f"does not say '{fault.says}'": fault.says in output,
        "a traceback in the terminal": "Traceback" not in output,
        "not all runs counted": "3 runs planned = " in output,
        "a done run differs from the undisturbed one": done.items() <= undisturbed.items(),
        "the plan is lost": len(planned(here)) == 3,
    }
    return [what for what, good in checks.items() if not good]


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A file system of a few MiB of its own; whether it could be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def mend_disk(place: Path) -> None:
    """Make the disk writable again, with room on it."""
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    (place / "filler").unlink(missing_ok=True)


CAMPAIGNS = [Campaign("a run breaks, first, middle or last", job_faults, 4, len(CASES))]
