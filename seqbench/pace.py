"""Keeping to a budget: what to run in the time there is, whole rounds of seeds, and when to stop.

A round is one more seed of every model on every rung, baselines included, so that none gets fewer. How many
rounds run depends on times alone, never on scores: who stops when a difference looks clear finds too many.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import budget, records
from seqbench.budget import FEWEST_SEEDS, FEWEST_TRIALS, MOST_TRIALS, OVERRUN, TUNING_SHARE, in_words
from seqbench.config import Job, checked, seed_list
from seqbench.errors import UsageError
from seqbench.forecast import Forecast
from seqbench.plan import Unit, finished, plan
from seqbench.store import DamagedFile
from seqbench.tune import rounds

_MOST_SEEDS = 1_000
_REPORT_S, _REPORT_CELL_S, _REPORT_RUN_S = 1.5, 0.1, 0.005  # of a page, of each model at a rung, of a run
_CAUTION = 1.05  # what a round may take more than the last ones did
Planned = Callable[[list[int]], list[Unit]]  # the units of the comparison at some seeds
Stage = tuple[list[Unit], str]  # what runs together, and its name in words


@dataclass(frozen=True)
class Chosen:
    """What a command is to do, and why.

    Attributes:
        seeds: those that fit if the pilot is right; ``grows``: how many there are is decided round by round.
        trials: of tuning, for each model; ``tuning``: why so many, in words.
    """

    jobs: list[Job]
    seeds: list[int]
    grows: bool
    trials: int
    tuning: str


def check(jobs: Sequence[Job], *, launched: bool = False) -> None:
    """Refuse a budget that cannot be kept or says several things.

    Args:
        launched: a launcher's workers do the runs.

    Raises:
        UsageError: with the setting to change.
    """
    job = jobs[0]
    if len({(one.budget, one.dry_run) for one in jobs}) > 1:
        raise UsageError("budget and dry_run are for the whole command: give one value each")
    if not job.budget:
        return
    if launched:
        raise UsageError(
            f"budget={job.budget}: how long runs take under a launcher is not known here: leave it out and "
            "give seeds=N"
        )
    if any(one.speed.only for one in jobs):
        raise UsageError(f"budget={job.budget} speed.only=true: a budget is for training: leave one out")
    if len({tuple(one.seeds) for one in jobs}) > 1:
        raise UsageError(f"budget={job.budget}: every model gets the same seeds: give one value of seeds")


def seeded(jobs: Sequence[Job], seeds: list[int]) -> list[Job]:
    """Jobs with other seeds."""
    return [dataclasses.replace(job, seeds=list(seeds)) for job in jobs]


def report_s(units: Sequence[Unit]) -> float:
    """Seconds to write the report of some runs, by what that took on a core of a server."""
    cells = {(one.job.task.name, one.rung, one.job.model.variant()) for one in units if one.kind == "train"}
    return _REPORT_S + _REPORT_CELL_S * len(cells) + _REPORT_RUN_S * len(units)


@dataclass
class Pace:
    """A command's way through its time.

    Args:
        words: the command's.
        place: the folder of the sweep of some jobs.
        began: monotonic clock when the command started.
        limit_s: its budget; infinite where it has none.
    """

    forecast: Forecast
    words: Sequence[str]
    place: Callable[[Sequence[Job]], Path]
    began: float
    limit_s: float = math.inf
    _factor: float = field(default=1.0, init=False)  # how much longer runs take than foretold

    @property
    def left_s(self) -> float:
        """Seconds until the budget is spent."""
        return self.began + self.limit_s - time.monotonic()

    def todo(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that have not ended before, or are to be redone."""
        return [unit for unit in units if unit.job.force or finished(unit) is None]

    def whole_s(self, units: Sequence[Unit]) -> float:
        """The most that the units of a comparison and its report can take."""
        return self.forecast.stage_s(self.todo(units), at_most=True) + report_s(units)

    def search_s(self, jobs: Sequence[Job]) -> float:
        """Seconds of the trials of some jobs, as far as they have not ended before."""
        if not jobs[0].tune:
            return 0.0
        units = [one for one in plan(seeded(jobs, [0]), Path()) if one.kind == "train" and not one.companion]
        whole_s = self.forecast.search_s(units, jobs[0].tune, jobs[0].tuning)
        trials = sum(one.trials for one in rounds(jobs[0].tune, jobs[0].tuning.halvings))
        runs = trials * len(jobs[0].tuning.seeds) * len(units)
        done = 0 if jobs[0].force else _recorded_trials(self.place(jobs))
        return whole_s * max(0.0, 1 - done / max(1, runs))

    # Choosing

    def choose(self, jobs: list[Job]) -> Chosen:
        """What to do in the time there is.

        Raises:
            UsageError: not even the fewest seeds fit.
        """
        if math.isinf(self.limit_s):
            return Chosen(jobs, jobs[0].seeds, False, jobs[0].tune, "")
        typed = {word.split("=")[0].lstrip("+~") for word in self.words}
        grows = "seeds" not in typed
        least = seed_list(_fewest(jobs)) if grows else jobs[0].seeds
        trials, why = self._trials(jobs, typed, least)
        tuned = _with_trials(jobs, trials)
        search_s = self.search_s(tuned)
        self._refuse(tuned, least, search_s)
        seeds = self._sure(lambda some: self._plan(tuned, some), tuned, search_s) if grows else least
        return Chosen([checked(job) for job in seeded(tuned, seeds)], seeds, grows, trials, why)

    def _plan(self, jobs: Sequence[Job], seeds: list[int]) -> list[Unit]:
        return plan(seeded(jobs, seeds), self.place(jobs))

    def _sure(self, planned: Planned, jobs: Sequence[Job], before_s: float) -> list[int]:
        """As many seeds as surely fit, at least the fewest."""
        least, step, allowed_s = _fewest(jobs), _stack(jobs), max(self.left_s - before_s, 0.0)
        first = planned(seed_list(least))
        todo, pages_s = self.todo(first), report_s(first)

        @functools.cache
        def round_of(start: int) -> list[Unit]:
            return self.todo(_added(planned, list(range(start, start + step))))

        def fits(count: int) -> bool:
            more = [unit for start in range(least, count, step) for unit in round_of(start)]
            whole_s = self.forecast.stage_s([*todo, *more], at_most=True)
            return whole_s + pages_s + _REPORT_RUN_S * len(more) <= allowed_s

        return seed_list(max(budget.most(fits, least, step, _most_seeds(jobs)), least))

    def _refuse(self, jobs: Sequence[Job], least: list[int], search_s: float) -> None:
        """Refuse what cannot end in time.

        Raises:
            UsageError: how long it would take, and what to change.
        """
        job = jobs[0]
        needed_s = self.limit_s - self.left_s + search_s + self.whole_s(self._plan(jobs, least))
        if needed_s <= self.limit_s * (1 + OVERRUN):
            return
        models = len(list(jobs))
        named = f"{models} models" if models > 1 else f"{job.model.name} on {job.task.name}"
        tuning = f" after tune={job.tune}" if job.tune else ""
        raise UsageError(
            f"budget={job.budget}: {len(least)} seeds of {named}{tuning} take up to {in_words(needed_s)} "
            f"here: give budget={math.ceil(needed_s / 60)}m, or fewer models, rungs or train.steps"
        )

    def _trials(self, jobs: list[Job], typed: set[str], least: list[int]) -> tuple[int, str]:
        """How many trials of tuning each model gets, and why."""
        open_jobs = [job for job in jobs if not (job.train.tuned or job.model.canary)]
        if (given := self._given(jobs, typed, open_jobs)) is not None:
            return given
        rest_s = self.whole_s(self._plan(jobs, least))

        def fits(trials: int) -> bool:
            search_s = self.search_s(_with_trials(jobs, trials))
            return search_s <= TUNING_SHARE * self.limit_s and search_s + rest_s <= self.left_s

        try:
            trials = budget.most(fits, FEWEST_TRIALS, 1, MOST_TRIALS)
        except UsageError as error:  # this training cannot be tuned
            return 0, str(error)
        lacking = f"{len(open_jobs)} of {len(jobs)} models have no tuned settings on their task"
        if trials:
            return trials, lacking
        needed = in_words(self.search_s(_with_trials(jobs, FEWEST_TRIALS)))
        return 0, f"{lacking}, but {FEWEST_TRIALS} trials for each would take {needed}"

    def _given(
        self, jobs: Sequence[Job], typed: set[str], open_jobs: Sequence[Job]
    ) -> tuple[int, str] | None:
        """The number of trials where nothing is left to choose, and why."""
        if "tune" in typed:
            return jobs[0].tune, "as typed"
        if fixed := typed & {"train.lr", "train.tuned"}:
            return 0, f"{min(fixed)} was typed"
        if begun := self._begun(jobs):
            return begun, "as the same command began to"
        return None if open_jobs else (0, "every model has tuned settings on its task")

    def _begun(self, jobs: Sequence[Job]) -> int:
        """The trials of the same command, begun earlier; 0 without any."""
        for trials in range(MOST_TRIALS, FEWEST_TRIALS - 1, -1):
            try:
                folder = self.place(_with_trials(jobs, trials))
            except UsageError:  # this training cannot be tuned
                return 0
            if _trials_in(folder) == trials:
                return trials
        return 0

    # Keeping to it

    def stages(self, chosen: Chosen, planned: Planned) -> Iterator[Stage]:
        """What to run, one stage after the other; the clock is read between them.

        Args:
            planned: units of the comparison; after tuning with what it found.
        """
        if not chosen.grows:
            yield planned(chosen.seeds), ""
            return
        jobs, step = chosen.jobs, _stack(chosen.jobs)
        seeds = self._done(planned, jobs)  # so few: the clock is read early
        units = planned(seeds)
        yield from self._watched([unit for unit in units if unit.kind != "speed"], _named(seeds))
        if speed := [unit for unit in units if unit.kind == "speed"]:
            yield speed, "speed"
        while len(seeds) + step <= _most_seeds(jobs) and (count := self._more(planned, seeds, step, units)):
            added = list(range(len(seeds), min(len(seeds) + count * step, _most_seeds(jobs))))
            new = _added(planned, added)
            seeds, units = seeds + added, units + new
            yield from self._watched(new, _named(added))

    def _done(self, planned: Planned, jobs: Sequence[Job]) -> list[int]:
        """The fewest seeds, and all rounds after them that earlier commands did."""
        seeds, step = seed_list(_fewest(jobs)), _stack(jobs)
        while len(seeds) + step <= _most_seeds(jobs):
            following = list(range(len(seeds), len(seeds) + step))
            if self.todo(_added(planned, following)):
                break
            seeds += following
        return seeds

    def _more(self, planned: Planned, seeds: list[int], step: int, units: list[Unit]) -> int:
        """How many rounds more fit now, by what runs have taken so far."""
        new = _added(planned, list(range(len(seeds), len(seeds) + step)))
        round_s = self.forecast.stage_s(self.todo(new), at_most=False) * self._factor * _CAUTION
        return budget.more_rounds(self.left_s - report_s(units), round_s + _REPORT_RUN_S * len(new))

    def _watched(self, units: list[Unit], line: str) -> Iterator[Stage]:
        """A stage whose time tells how long later ones take."""
        todo, began = self.todo(units), time.monotonic()
        yield units, line
        took_s = time.monotonic() - began
        self.forecast.earlier.learn([run for unit in todo if (run := finished(unit)) is not None])
        expected_s = self.forecast.stage_s(todo, at_most=False)
        if expected_s > 0:
            self._factor = took_s / expected_s


def _with_trials(jobs: Sequence[Job], trials: int) -> list[Job]:
    return [dataclasses.replace(job, tune=trials) for job in jobs]


def _stack(jobs: Sequence[Job]) -> int:
    """Seeds of a round: as many as train as one."""
    return max(job.stack for job in jobs)


def _fewest(jobs: Sequence[Job]) -> int:
    """The fewest seeds, in whole rounds."""
    return math.ceil(FEWEST_SEEDS / _stack(jobs)) * _stack(jobs)


def _most_seeds(jobs: Sequence[Job]) -> int:
    """Seeds that a budget chooses at most; those of tuning are never among them."""
    return min([_MOST_SEEDS, *(seed for job in jobs if job.tune for seed in job.tuning.seeds)])


def _added(planned: Planned, seeds: list[int]) -> list[Unit]:
    """The training runs of more seeds; canaries beside the comparison have had theirs."""
    return [unit for unit in planned(seeds) if unit.kind == "train" and not unit.companion]


def _named(seeds: Sequence[int]) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"


def _trials_in(folder: Path) -> int:
    """Trials of each model in a sweep's plan."""
    rates: dict[tuple[str, str], set[float]] = {}
    for run in _planned_trials(folder):
        rates.setdefault((run["task"], run["model"]), set()).add(run["config"]["train"]["lr"])
    return max((len(found) for found in rates.values()), default=0)


def _recorded_trials(folder: Path) -> int:
    """Runs of tuning in a sweep's plan that have a record."""
    return sum((folder / run["folder"] / records.RUN_FILE).is_file() for run in _planned_trials(folder))


def _planned_trials(folder: Path) -> list[dict[str, Any]]:
    try:
        return [run for run in records.read_plan(folder)["runs"] if run.get("kind") == "trial"]
    except (FileNotFoundError, DamagedFile):
        return []
