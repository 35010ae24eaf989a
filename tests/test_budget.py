"""A budget in time: its arithmetic, and that whole rounds of seeds end in time, whatever the pilot says."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbench import budget, forecast, pace
from seqbench.budget import Cost, duration_s, in_words, makespan, more_rounds, most
from seqbench.config import Job, checked
from seqbench.earlier import Earlier
from seqbench.errors import UsageError
from seqbench.forecast import Forecast, kind
from seqbench.pace import Chosen, Pace
from seqbench.plan import Unit, plan
from seqbench.registry import lookup

MODELS = ("rnn", "gru", "bag")
SLOTS = 2


def jobs_of(models: tuple[str, ...] = MODELS, **options: object) -> list[Job]:
    task = lookup("task", "temporal_order")(lengths=[8, 16])
    made = [Job(model=lookup("model", name)(), task=task, **{"budget": "10m", **options}) for name in models]
    return [checked(job) for job in made]


def seconds_of(unit: Unit) -> float:
    """What a run truly takes here."""
    return 0.2 + 0.03 * (unit.rung or 16) * (1 + MODELS.index(unit.job.model.name))


def foretold(jobs: list[Job], error: float = 1.0) -> Forecast:
    """A forecast that is wrong by a factor."""
    units = plan(pace.seeded(jobs, [0]), Path("nowhere"))
    costs = {}
    for unit in units:
        run_s = error * (1.0 if unit.kind == "speed" else seconds_of(unit) if not unit.companion else 0.1)
        costs[kind(unit)] = Cost(run_s, 0.0, 0.0, 0.0, steps=400, every=50)
    return Forecast(costs, SLOTS, Earlier())


@pytest.mark.parametrize(
    "text", ["banana", "0s", "0h0m", "-5m", "10", "5 m", "1m1h", "1e9m", "5m,10m", "m", "1d"]
)
def test_what_is_no_time_is_refused_in_a_line_that_shows_one(text):
    with pytest.raises(UsageError, match=r"^budget=[^\n]*10m[^\n]*$"):
        duration_s(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_hours_minutes_and_seconds_add_up(hours, minutes, seconds):
    assert duration_s(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@given(st.floats(0.0, 1e6))
def test_a_time_in_words_is_near_what_it_says(seconds):
    words = in_words(seconds).split()
    units = {"s": 1, "min": 60, "h": 3600}
    said = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(said - seconds) <= (1.0 if seconds < 3500 else 30.5)


@given(st.lists(st.floats(0.0, 100.0), max_size=40), st.integers(1, 8))
def test_runs_side_by_side_take_no_longer_than_after_each_other_and_no_less_than_their_share(seconds, slots):
    took = makespan(seconds, slots)
    assert took <= sum(seconds) + 1e-6
    assert took >= max([sum(seconds) / slots, *seconds]) - 1e-6


@given(st.integers(-5, 60), st.integers(1, 9), st.integers(1, 5), st.integers(1, 50))
def test_the_most_that_fits_is_found_without_asking_for_much_more(true, least, step, limit):
    asked: list[int] = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= true

    found = most(fits, least, step, limit)
    steps = [number for number in range(least, limit + 1, step) if number <= true]
    assert found == (steps[-1] if steps else 0)
    assert max(asked, default=0) <= max(2 * found, least) + 2 * step


@given(st.floats(0.0, 1e4), st.floats(0.1, 1e3))
def test_rounds_that_are_added_fit_and_one_is_added_where_one_fits(left, one):
    count = more_rounds(left, one)
    assert count * one <= left + 1e-6
    assert (count > 0) == (left >= one)


def test_a_round_of_unknown_length_is_not_begun():
    assert more_rounds(100.0, math.nan) == more_rounds(100.0, 0.0) == more_rounds(-1.0, 5.0) == 0


@given(st.floats(0.01, 2.0), st.integers(1, 500))
def test_a_run_that_stops_early_costs_less_and_one_of_more_steps_no_more_than_all(step_s, steps):
    cost = Cost(0.5, step_s, 0.1, 0.05, steps=steps, every=50)
    assert cost.fixed_s < cost.run_s(steps / 2) <= cost.run_s() == cost.run_s(10 * steps)
    assert cost.trial_s(0.5) < cost.trial_s(1.0) <= cost.run_s()


class Clock:
    """Time as the tests want it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def sweep(
    jobs: list[Job], limit_s: float, *, error: float, early: float, folder: Path, clock: Clock
) -> tuple[Chosen, list[Unit], float]:
    """A sweep with runs that only let time pass: what was chosen, what ran, and when the report is written.

    Args:
        error: how much too long the pilot said that runs take.
        early: what share of its time a run really takes.
    """
    began = clock.now
    ahead = Pace(foretold(jobs, error), ["-m"], lambda _: folder, began, limit_s)
    chosen = ahead.choose(jobs)
    ran: list[Unit] = []
    for units, _ in ahead.stages(chosen, lambda seeds: plan(pace.seeded(jobs, seeds), folder)):
        took = [
            early * (0.1 if unit.companion else seconds_of(unit)) for unit in units if unit.kind == "train"
        ]
        clock.now += makespan(took, SLOTS) + sum(unit.kind == "speed" for unit in units)
        ran += units
    return chosen, ran, clock.now - began + pace.report_s(ran)


@settings(max_examples=10, deadline=None)
@given(st.integers(60, 120), st.floats(0.6, 1.6), st.floats(0.3, 1.0))
def test_a_budget_is_kept_within_15_percent_and_every_model_gets_the_same_seeds(limit, error, early):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "time", clock)
        jobs = jobs_of()
        chosen, ran, took = sweep(jobs, limit, error=error, early=early, folder=Path("nowhere"), clock=clock)
    trained = [unit for unit in ran if unit.kind == "train" and not unit.companion]
    counts = Counter((unit.job.model.name, unit.rung) for unit in trained)
    assert set(counts) == {(name, rung) for name in MODELS for rung in (8, 16)}
    assert len(set(counts.values())) == 1
    (count,) = set(counts.values())
    assert {unit.seed for unit in trained} == set(range(count))
    assert min(count, len(chosen.seeds)) >= budget.FEWEST_SEEDS
    assert early > 0.8 or count >= len(chosen.seeds)
    assert len({unit.identity for unit in ran}) == len(ran)
    assert 0.85 * limit <= took <= 1.15 * limit


@pytest.fixture
def ahead(monkeypatch, tmp_path) -> Callable[..., Pace]:
    monkeypatch.setattr(pace, "time", clock := Clock())

    def make(jobs: list[Job], limit_s: float, *words: str) -> Pace:
        return Pace(foretold(jobs), words, lambda _: tmp_path, clock.now, limit_s)

    return make


def test_more_time_never_gives_fewer_seeds(ahead):
    jobs = [dataclasses.replace(job, train=dataclasses.replace(job.train, tuned=True)) for job in jobs_of()]
    counts = [len(ahead(jobs, limit).choose(jobs).seeds) for limit in range(20, 200, 20)]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] >= budget.FEWEST_SEEDS


def test_what_surely_fits_ends_within_the_budget(ahead):
    jobs = jobs_of()
    for limit in (30.0, 60.0, 300.0):
        found = ahead(jobs, limit)
        chosen = found.choose(jobs)
        assert found.whole_s(plan(chosen.jobs, Path("nowhere"))) <= limit


def test_too_little_time_for_three_seeds_says_how_long_they_take_and_what_would_do(ahead):
    jobs = jobs_of()
    with pytest.raises(
        UsageError, match=r"^budget=10m: 3 seeds of 3 models take up to \d+ s here: give budget=1m"
    ):
        ahead(jobs, 5.0).choose(jobs)


def test_seeds_that_were_typed_stay(ahead):
    jobs = jobs_of(seeds=[4, 7])
    chosen = ahead(jobs, 600.0, "seeds=[4,7]").choose(jobs)
    assert (chosen.seeds, chosen.grows) == ([4, 7], False)
    stages = list(
        ahead(jobs, 600.0).stages(chosen, lambda seeds: plan(pace.seeded(jobs, seeds), Path("nowhere")))
    )
    assert {unit.seed for unit in stages[0][0] if not unit.companion} == {4, 7}
    assert len(stages) == 1


def test_typed_seeds_that_cannot_end_in_time_are_refused(ahead):
    jobs = jobs_of(seeds=500)
    with pytest.raises(UsageError, match="budget=10m: 500 seeds of 3 models take up to .* give budget="):
        ahead(jobs, 20.0, "seeds=500").choose(jobs)


def test_models_without_tuned_settings_get_equal_trials_within_their_share(ahead):
    jobs = jobs_of()
    found = ahead(jobs, 300.0)
    chosen = found.choose(jobs)
    assert chosen.trials >= budget.FEWEST_TRIALS
    assert {job.tune for job in chosen.jobs} == {chosen.trials}
    assert found.search_s(chosen.jobs) <= budget.TUNING_SHARE * 300.0
    assert "2 of 3 models have no tuned settings" in chosen.tuning


@pytest.mark.parametrize(
    ("words", "change", "trials"),
    [
        (["tune=5"], {"tune": 5}, 5),
        (["tune=0"], {"tune": 0}, 0),
        (["train.lr=0.1"], {}, 0),
    ],
)
def test_tuning_is_left_as_it_was_typed(ahead, words, change, trials):
    jobs = jobs_of(**change)
    assert ahead(jobs, 600.0, *words).choose(jobs).trials == trials


def test_where_every_model_is_tuned_all_time_goes_to_seeds(ahead):
    jobs = [dataclasses.replace(job, train=dataclasses.replace(job.train, tuned=True)) for job in jobs_of()]
    untuned = ahead(jobs_of(), 300.0).choose(jobs_of())
    chosen = ahead(jobs, 300.0).choose(jobs)
    assert chosen.trials == 0
    assert len(chosen.seeds) > len(untuned.seeds)


def test_too_little_time_for_tuning_is_said(ahead):
    jobs = jobs_of()
    least = ahead(jobs, 1e4).whole_s(plan(pace.seeded(jobs, [0, 1, 2]), Path("nowhere")))
    chosen = ahead(jobs, least + 3).choose(jobs)
    assert chosen.trials == 0
    assert "but 3 trials for each would take" in chosen.tuning


def test_stacked_seeds_come_in_whole_stacks(ahead):
    jobs = jobs_of(stack=4)
    chosen = ahead(jobs, 60.0).choose(jobs)
    assert len(chosen.seeds) % 4 == 0


@pytest.mark.parametrize(
    ("jobs", "launched", "words"),
    [
        ([*jobs_of(("rnn",)), *jobs_of(("gru",), budget="5m")], False, "give one value each"),
        ([*jobs_of(("rnn",)), *jobs_of(("gru",), dry_run=True)], False, "give one value each"),
        ([*jobs_of(("rnn",)), *jobs_of(("gru",), seeds=2)], False, "the same seeds"),
        (jobs_of(("rnn",)), True, "under a launcher"),
    ],
)
def test_what_no_budget_can_be_kept_for_is_refused(jobs, launched, words):
    with pytest.raises(UsageError, match=words):
        pace.check(jobs, launched=launched)


def test_without_a_budget_nothing_is_refused():
    pace.check([*jobs_of(("rnn",), budget="", seeds=2), *jobs_of(("gru",), budget="")], launched=True)


def test_budget_and_dry_run_are_no_part_of_a_run(tmp_path):
    plain, timed = jobs_of(budget=""), jobs_of(budget="5m", dry_run=True)
    assert [unit.identity for unit in plan(plain, tmp_path)] == [
        unit.identity for unit in plan(timed, tmp_path)
    ]


@given(st.dictionaries(st.integers(4, 512), st.floats(1e-4, 10.0), min_size=1), st.integers(1, 2048))
def test_a_step_on_another_rung_is_foretold_between_linear_bounds(known, rung):
    step_s = forecast.extrapolated(known, rung)
    last = max(known)
    assert step_s == known.get(rung, step_s)
    if rung > last:
        assert known[last] <= step_s * (1 + 1e-9)
        assert step_s <= known[last] * (rung / last) ** 2 * (1 + 1e-9)
