"""Run a sweep: plan, prepare data, train side by side, time alone, leave records."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from seqbench import environment, ledger, locks, records, store, tune, tuned_file
from seqbench.collected import Plan
from seqbench.config import Job, settings
from seqbench.display import Display, outcome
from seqbench.errors import UsageError
from seqbench.isolate import Pool
from seqbench.launch.base import Engine
from seqbench.launch.choice import Choice
from seqbench.launch.crew import Crew
from seqbench.outlook import foresee
from seqbench.pace import Chosen, Pace, check, seeded
from seqbench.plan import Unit, expected_device, finished, plan
from seqbench.records import Run


def sweep_folder(jobs: list[Job]) -> Path:
    """The folder of a sweep: the same command (whatever its seeds) always gives the same one.

    Where the command tunes, these are the jobs without what tuning chooses, so that a file it has written
    does not lead elsewhere.
    """
    job = jobs[0]
    if job.sweep:
        return Path(job.runs_dir) / safe_name(job.sweep)
    tasks = "+".join(dict.fromkeys(one.task.name for one in jobs))
    models = "-".join(dict.fromkeys(one.model.name for one in jobs))
    search = {"tune": job.tune, **dataclasses.asdict(job.tuning), "dir": None} if job.tune else {}
    plain = [settings(one) | {"device": expected_device(one)} for one in jobs]
    digest = store.digest({"jobs": plain, **search})
    return Path(job.runs_dir) / records.folder_name(f"{tasks} {models}", digest)[:80]


def safe_name(name: str) -> str:
    """Refuse sweep names that would leave the runs folder.

    Raises:
        UsageError: the name holds anything but letters, digits, dots, dashes and underscores.
    """
    safe = all((c.isascii() and c.isalnum()) or c in "._-" for c in name)
    if not safe or name.startswith(".") or len(name) > 80:
        raise UsageError(
            f"sweep={name}: use at most 80 letters, digits, '-', '_' and '.', not starting with '.'"
        )
    return name


def slots(job: Job) -> int:
    """How many runs go side by side: one per core, or one where a GPU is used."""
    if job.workers is not None:
        return job.workers
    return 1 if expected_device(job) == "cuda" else environment.cores()


@dataclass(frozen=True)
class Start:
    """How a command started.

    Attributes:
        began: monotonic clock when it did.
        settled: waits until nothing of it disturbs what is timed.
    """

    began: float
    settled: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Swept:
    """What a command ran.

    Attributes:
        runs: names of the folders of its runs; the sweep may hold others of earlier commands.
        unrecorded: in words, the runs whose failure could not be recorded (a full disk).
    """

    folder: Path
    runs: frozenset[str]
    unrecorded: tuple[str, ...]


def run_sweep(
    jobs: list[Job],
    command: list[str],
    console: Console,
    launcher: Choice | None = None,
    start: Start | None = None,
) -> Swept | None:
    """Run everything that is not done yet: with ``tune`` first the trials, then the comparison.

    Args:
        launcher: what does the runs, where that is not this process.
        start: when the command began; now, where it is not given.

    Returns:
        What was run; None where the command only asked what would be.

    Raises:
        UsageError: the data of a task, or what was asked of tuning or matching, cannot be used; nothing
            has been trained.
        KeyboardInterrupt: stopped by the user; what was running is recorded as interrupted.
    """
    check(jobs, launched=launcher is not None)
    ahead = None
    if jobs[0].budget or jobs[0].dry_run:
        ahead = _ahead(
            jobs, command, console, start or Start(time.monotonic()), launched=launcher is not None
        )
        if jobs[0].dry_run:
            return None
        jobs = ahead[1].jobs
    studies = tune.studies(jobs, command)
    folder = sweep_folder([study.job for study in studies] or jobs)
    engine = launcher.engine() if launcher else None
    with contextlib.closing(engine) if engine else contextlib.nullcontext():
        return _run_all(Work(folder, jobs, command, console, engine), studies, ahead)


def _ahead(
    jobs: list[Job], command: list[str], console: Console, start: Start, *, launched: bool
) -> tuple[Pace, Chosen]:
    """What the command will do and how long it takes, said before anything runs."""
    start.settled()

    def place(some: Sequence[Job]) -> Path:
        studies = tune.studies(some, command)
        return sweep_folder([study.job for study in studies] or list(some))

    return foresee(jobs, command, place, slots(jobs[0]), console, start.began, launched=launched)


def _run_all(work: Work, studies: list[tune.Study], ahead: tuple[Pace, Chosen] | None) -> Swept:
    """The trials, where there are any, then the comparison: at once, or as the clock allows."""
    found: list[tune.Finding] = []
    if studies:
        some = tune.search(studies, lambda units, line: work.stage(lambda: units, line), work.folder)
        if some is None:
            return work.swept()
        work.tell(some)
        found = some

    def planned(seeds: list[int]) -> list[Unit]:
        if not found:
            return plan(seeded(work.jobs, seeds), work.folder)
        tuned = [one.at_seeds(seeds) for one in found]
        return tune.marked(plan(tune.compared(tuned), work.folder), tuned, work.folder)

    if ahead is not None:
        pace, chosen = ahead
        for units, line in pace.stages(chosen, planned):
            if not work.stage(functools.partial(list, units), line):
                break
    elif found:
        work.stage(lambda: tune.marked(plan(tune.compared(found), work.folder), found, work.folder))
    else:
        work.stage(lambda: plan(work.jobs, work.folder))
    return work.swept()


class Work:
    """A sweep under way: what its command has planned so far, and what could not be recorded."""

    def __init__(
        self,
        folder: Path,
        jobs: list[Job],
        command: list[str],
        console: Console,
        engine: Engine | None = None,
    ) -> None:
        self.folder, self.jobs, self.command, self.console = folder, jobs, command, console
        self.engine = engine
        self.units: list[Unit] = []
        self.left: list[str] = []
        self._prepared: set[str] = set()

    def stage(self, planned: Callable[[], list[Unit]], line: str = "") -> bool:
        """Plan and run some units; says whether to go on (``fail_fast`` ends a sweep).

        Raises:
            UsageError: the data of a task cannot be used, or a model cannot be matched.
            KeyboardInterrupt: stopped by the user.
        """
        with locks.busy():
            store.make_folder(self.folder)
            units = planned()
            if self.jobs[0].force:
                _forget(units)
            reused = {unit.identity for unit in units if finished(unit) is not None}
        todo = [unit for unit in units if unit.identity not in reused]
        self._prepare(todo)
        self.units += units
        own = ledger.describe(self.jobs, self.units, self.folder.name, program(), self.command)
        written, remark = ledger.write(self.folder, own)
        before = len(written["runs"]) - len(self.units)
        say(
            self.console,
            (f"{line}: " if line else "") + _opening(self.folder, len(units), len(reused), before),
        )
        if remark:
            say(self.console, remark)
        try:
            unrecorded, whole = _run(self.jobs[0], todo, len(units), self.console, self.engine)
        except KeyboardInterrupt:
            say(self.console, ledger.tally(self.folder, written))
            raise
        _settle(self.folder, own, unrecorded)
        self.left += [f"{unit.label}: {outcome(run)}" for unit, run in unrecorded if not _recorded(unit)]
        return whole

    def _prepare(self, todo: list[Unit]) -> None:
        """Check the device, cache data sets and solve widths: once, before anything is trained."""
        data = self._new({_key(unit, "task"): unit for unit in todo})
        solved = [unit for unit in _matched(todo) if _solved_here(unit)]
        networks = self._new({_key(unit, "task", "model", "network", "match"): unit for unit in solved})
        try:
            with tempfile.TemporaryDirectory(prefix="seqbench-") as scratch:
                failure = Path(scratch) / "failure.txt"
                if data:
                    Pool(1).prepare([_for_data(unit.job) for unit in data], failure)
                if not self.units and any(unit.job.match.by == "time" for unit in networks):
                    say(self.console, "matching the time of a step: some seconds for each model")
                if networks:
                    Pool(1).solve_widths(networks, failure)
        except UsageError:
            _take_back(self.folder)
            raise

    def _new(self, wanted: dict[str, Unit]) -> list[Unit]:
        """Units whose keys stand for what has not been prepared; from now on it counts as prepared."""
        new = [unit for key, unit in wanted.items() if key not in self._prepared]
        self._prepared |= set(wanted)
        return new

    def tell(self, found: list[tune.Finding]) -> None:
        """Say what tuning chose, and write it where it holds for later commands too."""
        for finding in found:
            say(self.console, tuned_file.in_words(finding))
            reason = tuned_file.why_not(finding, found, self.command)
            try:
                place = "" if reason else tuned_file.write(finding, program(), self.command)
            except (OSError, UsageError) as error:
                reason, place = str(error), ""
            say(self.console, f"  written: {place}" if place else f"  for this sweep only: {reason}")

    def swept(self) -> Swept:
        """What was run."""
        return Swept(self.folder, frozenset(unit.folder.name for unit in self.units), tuple(self.left))


def _key(unit: Unit, *groups: str) -> str:
    """Some of a unit's settings, as a hash."""
    jobs = [{name: settings(job)[name] for name in ("device", *groups)} for job in unit.jobs]
    return store.digest({"jobs": jobs})


def _solved_here(unit: Unit) -> bool:
    """Whether this machine can tell a unit's width: times are those of the machine that runs it."""
    return not (unit.job.anywhere and unit.job.match.by == "time")


def _for_data(job: Job) -> Job:
    """A job as its data are prepared here: on a device that this machine has, where another one runs it."""
    if not job.anywhere:
        return job
    train = dataclasses.replace(job.train, precision="float32", cuda_graph=False)
    return dataclasses.replace(job, device="cpu", train=train)


def _matched(units: list[Unit]) -> list[Unit]:
    """Units with a width to solve; canaries have none."""
    return [
        unit
        for unit in units
        if unit.job.match.by != "none" and unit.job.model.hidden is None and not unit.job.model.canary
    ]


def _take_back(folder: Path) -> None:
    """Remove the folder of a sweep of which nothing was planned; one of earlier commands stays."""
    with contextlib.suppress(OSError):
        found = list(folder.iterdir())
        if not any(path.is_dir() or path.name == records.PLAN_FILE for path in found):
            for path in found:  # solved widths
                store.remove(path)
            folder.rmdir()


def _opening(folder: Path, runs: int, reused: int, before: int) -> str:
    """What is about to be done, in a line."""
    parts = [f"{runs} runs in {folder}"]
    parts += [f"{reused} reused"] if reused else []
    parts += [f"and {before} of earlier commands in the same sweep"] if before > 0 else []
    return ", ".join(parts)


def _forget(units: list[Unit]) -> None:
    """Take back the records of runs that are to be redone; where another sweep is at work, it redoes them."""
    for unit in units:
        if unit.folder.is_dir():
            lock = locks.file_lock(unit.folder / records.LOCK_FILE, patience_s=0)
            with contextlib.suppress(BlockingIOError), lock:
                store.remove(unit.folder / records.RUN_FILE)
                store.remove(unit.folder / records.CHECKPOINT_FILE)


def _run(
    job: Job, todo: list[Unit], total: int, console: Console, engine: Engine | None
) -> tuple[list[tuple[Unit, Run]], bool]:
    """Train side by side, then time alone: by an engine, or else here; on this machine time always here.

    Returns:
        The runs whose record could not be written, and whether to go on after them.
    """
    unrecorded = []
    with Display(console, total, total - len(todo)) as display:
        for kinds, at_once in ((("trial", "train"), slots(job)), (("speed",), 1)):
            some = [unit for unit in todo if unit.kind in kinds]
            here = engine is None or (kinds == ("speed",) and not engine.remote)
            crew = Pool(at_once, display.again) if engine is None or here else Crew(engine, display.again)
            with contextlib.closing(crew.run(some, display.tick)) as ended:
                for unit, run in ended:
                    display.ended(unit, run)
                    if run.status != "done" and not _recorded(unit):
                        unrecorded.append((unit, run))
                    if not _ended_well(run) and job.fail_fast:
                        say(console, "stopped at the first run that did not end well (fail_fast=true)")
                        return unrecorded, False
    return unrecorded, True


def _ended_well(run: Run) -> bool:
    """Whether a run is done; a trial that diverges has told what it was asked."""
    return run.status == "done" or (run.kind == "trial" and run.status == "diverged")


def _recorded(unit: Unit) -> bool:
    return (unit.folder / records.RUN_FILE).exists()


def _settle(folder: Path, own: Plan, unrecorded: list[tuple[Unit, Run]]) -> None:
    """Write what could not be written while the disk was full or the folder gone, if that works now."""
    for unit, run in unrecorded:
        with contextlib.suppress(OSError):  # also where another sweep is at work on the run
            store.make_folder(unit.folder)
            with locks.file_lock(unit.folder / records.LOCK_FILE, patience_s=0):
                if finished(unit) is None:
                    records.write_run(unit.folder, run, {})
    with contextlib.suppress(OSError, UsageError):
        store.make_folder(folder)
        ledger.ensure(folder, own)


def say(console: Console, line: str) -> None:
    """Print words as they are."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def program() -> list[str]:
    """The words that start this program, for repeating a command."""
    name = Path(sys.argv[0])
    if name.name == "__main__.py":
        return ["python", "-m", "seqbench"]
    return ["python", sys.argv[0]] if name.suffix == ".py" else [name.name]


def resume_command(command: list[str]) -> str:
    """What to type to go on where a sweep stopped."""
    return shlex.join([*program(), *(word for word in command if not word.startswith("force="))])
