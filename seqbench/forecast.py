"""How long runs will take on this machine: from a timed pilot, and from what such runs took before."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import store
from seqbench.budget import UNKNOWN, Cost, makespan
from seqbench.config import Job, TuningConfig, settings
from seqbench.earlier import Earlier, kind_of
from seqbench.errors import UsageError
from seqbench.isolate import Pool, end_group, warm_server
from seqbench.plan import Unit
from seqbench.sealed import Sealed
from seqbench.tune import rounds

_FORWARD = 1 / 3  # of the time of training steps goes to forward passes (speed.py)
_SPEED_STEPS = 4  # beside those that are timed
_STEEPEST = 2.0  # how a step's time may grow with the length: attention's power
_MOST_BYTES = 1 << 16
WIDTHS_FILE = "widths.json"  # as in match.py, which would load torch


@dataclass
class Forecast:
    """Seconds of runs.

    Attributes:
        costs: of each kind of run that was timed, by :func:`kind`.
        slots: runs side by side.
    """

    costs: Mapping[str, Cost]
    slots: int
    earlier: Earlier
    _kinds: dict[str, tuple[str, str]] = field(default_factory=dict, init=False)

    def cost(self, unit: Unit) -> Cost:
        """What a unit of its kind costs; unknown where its pilot failed."""
        return self.costs.get(self._kinds_of(unit)[0], UNKNOWN)

    def _kinds_of(self, unit: Unit) -> tuple[str, str]:
        """Of which kind a unit is by its cost, and by its settings; kept, as both take a while."""
        key = f"{unit.kind} {unit.rung} {unit.identity}"
        if key not in self._kinds:
            self._kinds[key] = kind(unit), kind_of(settings(unit.job))
        return self._kinds[key]

    def run_s(self, unit: Unit, *, at_most: bool) -> float:
        """Seconds of a run: with all of its steps, or with as many as such runs did before. 0: not known."""
        if unit.kind == "speed":
            return self.speed_s(unit)
        cost, alike = self.cost(unit), self._kinds_of(unit)[1]
        if not cost.known:
            return 0.0
        return cost.run_s(self.earlier.most_steps(alike) if at_most else self.earlier.usual_steps(alike))

    def speed_s(self, unit: Unit) -> float:
        """Seconds of a speed measurement; time over more lengths and batch sizes is a lower bound."""
        cost, speed = self.cost(unit), unit.job.speed
        if not cost.known:
            return 0.0
        spent = 0.0
        for step_s in self._steps_of(unit):
            spent += max(speed.seconds, speed.min_steps * step_s) + _SPEED_STEPS * step_s
            spent += max(speed.seconds, speed.min_steps * step_s) * _FORWARD + cost.fixed_s
        points = len(speed.steps) + len(speed.batch_sizes)
        return spent + points * speed.seconds * (1 + _FORWARD)

    def _steps_of(self, unit: Unit) -> list[float]:
        """Seconds of a training step on each rung of a speed unit, beyond the trained ones by growth."""
        known: dict[int, float] = {}
        for job in unit.jobs:
            cost = self.cost(dataclasses.replace(unit, kind="train", jobs=(job,)))
            if cost.known:
                known[job.task.rung() or 1] = cost.step_s
        return [extrapolated(known, job.task.rung() or 1) for job in unit.jobs]

    def stage_s(self, units: Sequence[Unit], *, at_most: bool) -> float:
        """Seconds until all of some units are done: training side by side, then speed alone."""
        seconds = [self.run_s(unit, at_most=at_most) for unit in units if unit.kind != "speed"]
        alone = [self.speed_s(unit) for unit in units if unit.kind == "speed"]
        return makespan(seconds, self.slots) + sum(alone)

    def search_s(self, units: Sequence[Unit], trials: int, tuning: TuningConfig) -> float:
        """Seconds of the trials of tuning.

        Args:
            units: a training run of every model on every rung.
        """
        spent = 0.0
        for one in rounds(trials, tuning.halvings):
            costs = [cost.trial_s(one.share) for unit in units if (cost := self.cost(unit)).known]
            each = [seconds for seconds in costs for _ in range(one.trials * len(tuning.seeds))]
            spent += makespan(sorted(each, reverse=True), self.slots)
        return spent

    def unknown(self, units: Sequence[Unit]) -> list[str]:
        """Why some of the units could not be timed."""
        return list(dict.fromkeys(cost.error for unit in units if (cost := self.cost(unit)).error))

    @property
    def peak_bytes(self) -> int:
        """Most memory of one process; 0: not known."""
        return max((cost.peak_bytes for cost in self.costs.values()), default=0)


def extrapolated(known: Mapping[int, float], rung: int) -> float:
    """Seconds of a step on a rung, from those on other rungs; 0 where none is known.

    >>> [extrapolated({16: 1.0, 32: 2.0}, rung) for rung in (16, 32, 64)], extrapolated({}, 8)
    ([1.0, 2.0, 4.0], 0.0)
    """
    if rung in known or not known:
        return known.get(rung, 0.0)
    *before, last = sorted(known)
    power = 1.0
    if before and rung > last:
        power = math.log(known[last] / known[before[-1]]) / math.log(last / before[-1])
    return known[last] * math.pow(rung / last, min(max(power, 0.0), _STEEPEST))


def kind(unit: Unit) -> str:
    """A hash of what decides how long a run takes: not its seed, learning rate or initial values."""
    job = unit.job
    train = dataclasses.replace(job.train, lr=0.0, tuned=False)
    usual, searched = type(job.model)(), type(job.model).tuned_settings
    model = dataclasses.replace(job.model, **{name: getattr(usual, name) for name in searched})
    task = _one_rung(job) if unit.kind == "speed" else job.task
    plain = settings(dataclasses.replace(job, train=train, model=model, task=task))
    parts = {name: plain[name] for name in ("task", "model", "network", "train", "match", "device")}
    parts["match"] = {**parts["match"], "reference": None}
    return store.digest({"speed": unit.kind == "speed", **parts})


def _one_rung(job: Job) -> Any:
    """A task whose ladder does not count: of a speed measurement only one rung is timed."""
    if job.task.ladder is None:
        return job.task
    ladder: dict[str, Any] = {job.task.ladder: [1]}
    return dataclasses.replace(job.task, **ladder)


@contextlib.contextmanager
def scratch(sweep: Path) -> Iterator[Path]:
    """A folder for pilots, with the widths that the sweep has."""
    with tempfile.TemporaryDirectory(prefix="seqbench-") as place:
        with contextlib.suppress(OSError):
            (Path(place) / WIDTHS_FILE).write_bytes((sweep / WIDTHS_FILE).read_bytes())
        yield Path(place)


def hand_on(place: Path, sweep: Path) -> None:
    """Give a sweep the widths that pilots had: a measured one is never the same twice."""
    here, there = place / WIDTHS_FILE, sweep / WIDTHS_FILE
    if here.exists() and not there.exists():
        store.make_folder(sweep)
        store.write_file(there, here.read_bytes())


def pilot(units: Sequence[Unit], slots: int, place: Path) -> dict[str, Cost]:
    """Time one unit of each kind, as many side by side as runs will be.

    Args:
        units: planned in the folder ``place``.

    Raises:
        UsageError: the data of a task cannot be used, or a model cannot be matched.
    """
    some = list({kind(unit): unit for unit in reversed(units)}.values())[::-1]
    if not some:
        return {}
    failure = place / "failure.txt"
    tasks = {store.digest({"task": settings(unit.job)["task"]}): unit.job for unit in some}
    Pool(1).prepare(list(tasks.values()), failure)
    if matched := [unit for unit in some if unit.job.match.by != "none" and not unit.job.model.canary]:
        Pool(1).solve_widths(matched, failure)
    _side_by_side(some, min(slots, len(some)), place)
    return {kind(unit): _read(place / f"{number}.json", unit) for number, unit in enumerate(some)}


def _side_by_side(units: list[Unit], slots: int, place: Path) -> None:
    """Let children time the units until all are taken."""
    context, limit = warm_server(), time.monotonic() + units[0].job.limit.time_s
    processes = []
    try:
        for _ in range(slots):
            sealed = Sealed.of((units, place, time.monotonic()))
            processes.append(context.Process(target=_pilot, args=(sealed,)))
            processes[-1].start()
        for process in processes:
            process.join(max(0.0, limit - time.monotonic()))
    except (OSError, EOFError) as error:
        raise UsageError(f"no child process could be started: {error}") from error
    finally:
        for process in processes:
            if process.exitcode is None:
                end_group(process)


def _pilot(sealed: Sealed) -> None:
    from seqbench.worker import pilot as timed

    timed(*sealed.opened())


def _read(path: Path, unit: Unit) -> Cost:
    try:
        return Cost(**json.loads(store.read_bytes(path, _MOST_BYTES)))
    except FileNotFoundError:
        return dataclasses.replace(UNKNOWN, error=f"{unit.label}: its pilot ended without an answer")
