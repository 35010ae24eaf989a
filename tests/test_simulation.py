"""Statistics under repetition: how often intervals cover, tests cry wolf, and promises of power are kept.

Every number is from seeded draws; the bounds leave about three standard errors of the simulation itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import Work, training, write_sweep
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from seqbench import stats
from seqbench.compare import judge
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.task import Task
from seqbench.report.verdict import compare
from seqbench.stats import Outcome

Draws = NDArray[np.float64]


def noise(repeats: int) -> float:
    """Three standard errors of a share near 5 %."""
    return 3 * math.sqrt(0.05 * 0.95 / repeats)


def normal(seed: int, *shape: int) -> Draws:
    return np.random.default_rng(seed).normal(size=shape)


def solve_or_not(seed: int, solving: float, repeats: int, models: int, seeds: int) -> Draws:
    """Identical models whose runs end at 1 or at the floor 1/8, with a trace of noise."""
    rng = np.random.default_rng(seed)
    solved = rng.random((repeats, models, seeds)) < solving
    return np.where(solved, 1.0, 0.125 + rng.normal(0, 0.005, solved.shape))


def family(scores: Draws, *, pool: bool) -> list[Outcome]:
    """Verdicts on every model (a row of seeds each) against the first, as the page gives them."""
    pooled = stats.pooled_spread(scores) if pool else None
    results = [stats.paired(other, scores[0], pooled=pooled) for other in scores[1:]]
    return [one.outcome for one in stats.judge(results)]


def false_winners(draws: Draws, *, pool: bool) -> float:
    """Share of sweeps of identical models in which any is called better or worse."""
    named = [{Outcome.BETTER, Outcome.WORSE} & set(family(scores, pool=pool)) for scores in draws]
    return float(np.mean([bool(one) for one in named]))


# Coverage


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_t_interval_covers_as_often_as_it_says(n: int):
    draws = normal(n, 3000, n)
    found = [stats.mean_interval(row) for row in draws]
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(("n", "least", "most"), [(3, 0.70, 0.78), (5, 0.80, 0.87)])
def test_the_percentile_bootstrap_would_cover_far_too_seldom(n: int, least: float, most: float):
    """Why the page has no bootstrap bands: it covers 72 to 75 % at three seeds, 84 % at five."""
    draws = normal(20 + n, 800, n)
    every = np.array(list(itertools.product(range(n), repeat=n)))
    low, high = np.percentile(draws[:, every].mean(axis=2), [2.5, 97.5], axis=1, method="inverted_cdf")
    assert least < np.mean((low <= 0) & (high >= 0)) < most


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_wilson_covers_near_one_where_wald_does_not(share: float):
    """Exact sums over the binomial, not draws: 100 answers of a test set."""
    successes = np.arange(101)
    weight = scipy_stats.binom.pmf(successes, 100, share)
    found = [stats.wilson(int(k), 100) for k in successes]
    covered = weight @ np.array([one.low <= share <= one.high for one in found])
    assert covered > 0.92
    half = 1.96 * np.sqrt(successes / 100 * (1 - successes / 100) / 100)
    wald = weight @ (np.abs(successes / 100 - share) <= half)
    assert (wald < 0.7) == (share == 0.99)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_what_was_never_seen_has_the_share_that_it_says_at_most(n: int):
    assert (1 - stats.unseen(n)) ** n == pytest.approx(0.05)
    seen = np.random.default_rng(n).random((20_000, n)) < stats.unseen(n)
    assert np.mean(~seen.any(axis=1)) == pytest.approx(0.05, abs=0.006)


# False winners


def five_alike() -> tuple[float, float]:
    """Share of sweeps of five identical models in which any of ten pairs differs: plain, and with Holm."""
    plain = corrected = 0
    first, second = np.triu_indices(5, 1)
    repeats = 800
    for scores in normal(5, repeats, 5, 5):
        d = scores[first] - scores[second]
        t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / math.sqrt(5))
        p = list(2 * scipy_stats.t.sf(np.abs(t), 4))
        plain += min(p) < 0.05
        corrected += min(stats.holm(p)) < 0.05
    return plain / repeats, corrected / repeats


def test_five_identical_models_have_a_false_winner_in_one_sweep_of_four_uncorrected():
    """A quarter to a third of sweeps, over all pairs at five seeds."""
    plain, corrected = five_alike()
    assert 0.22 < plain < 0.38
    assert corrected < 0.05


@pytest.mark.parametrize("n", [3, 5])
def test_against_a_reference_false_winners_are_rarer_than_five_in_a_hundred(n: int):
    """Through the page's own verdicts; scores of which none lies within the margin of another."""
    assert false_winners(normal(30 + n, 500, 5, n), pool=False) < 0.05


def test_a_sweep_with_one_true_winner_names_no_other():
    """Holm holds the rate also when some models do differ: the worst case of a family."""
    draws = normal(41, 500, 5, 5)
    draws[:, 4] += 50
    outcomes = [family(scores, pool=False) for scores in draws]
    assert np.mean([one[3] is Outcome.BETTER for one in outcomes]) > 0.99
    others = [bool({Outcome.BETTER, Outcome.WORSE} & set(one[:3])) for one in outcomes]
    assert np.mean(others) < 0.05 + noise(500)


@pytest.mark.parametrize("solving", [0.3, 0.5, 0.7])
def test_solve_or_not_at_three_seeds_needs_the_spread_of_all_models(solving: float):
    """Three equal scores look like no spread at all; the other models show what the spread is."""
    draws = solve_or_not(7, solving, 500, 5, 3)
    assert false_winners(draws, pool=True) < 0.05 + noise(500)
    if solving == 0.5:
        assert false_winners(draws, pool=False) > 0.07


def test_solve_or_not_with_a_dozen_models_would_name_a_winner_in_every_sixth_sweep():
    draws = solve_or_not(8, 0.5, 200, 12, 3)
    assert false_winners(draws, pool=False) > 0.12
    assert false_winners(draws, pool=True) < 0.08


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("solving", [0.5, 0.9])
def test_solve_or_not_needs_no_help_from_five_seeds_on(n: int, solving: float):
    assert false_winners(solve_or_not(n, solving, 300, 5, n), pool=False) < 0.05 + noise(300)


def test_two_seeds_are_too_few_since_one_pair_in_eight_of_identical_models_differs_in_both():
    draws = solve_or_not(9, 0.5, 800, 2, 2)
    apart = (np.abs(draws[:, 1] - draws[:, 0]) > 0.5).all(axis=1)
    same_way = np.sign(draws[:, 1] - draws[:, 0]).sum(axis=1) != 0
    assert np.mean(apart & same_way) == pytest.approx(1 / 8, abs=0.04)
    assert {outcome for scores in draws[:20] for outcome in family(scores, pool=True)} == {Outcome.TOO_FEW}


# Through the page's own verdicts: runs that were lost, coarse test sets


def pretended(folder: Path, models: int, seeds: int, **changes: Any) -> Sweep:
    """A sweep whose scores are to be drawn, from a test set of very many answers."""
    changes = {"metrics": {"test_answers": 10**9}} | changes
    work: list[Work] = [
        (training(f"m{model}", 16, seed, 0.5, **changes), {})
        for model in range(models)
        for seed in range(seeds)
    ]
    return read_sweep(write_sweep(folder / "s", work))


def outcomes(sweep: Sweep, scores: Draws) -> list[Outcome]:
    """The page's verdicts on these scores (models by seeds; NaN: the run failed)."""
    drawn = scores.ravel()
    runs = sweep.runs.assign(test_score=drawn, status=np.where(np.isnan(drawn), "failed", "done"))
    return [c.judged.outcome for c in compare(dataclasses.replace(sweep, runs=runs), whole=True)]


def lossy(seed: int, repeats: int) -> Draws:
    """Six identical models at four seeds; one run in ten is lost, of the sixth model most."""
    draws = solve_or_not(seed, 0.5, repeats, 6, 4)
    lost = np.random.default_rng(seed + 1).random(draws.shape) < np.array([0.1] * 5 + [0.6])[:, None]
    return np.where(lost, np.nan, draws)


def test_lost_runs_take_the_guard_from_nobody(tmp_path: Path):
    draws = lossy(70, 500)
    assert false_winners(draws, pool=True) < 0.05 + noise(500)
    sweep = pretended(tmp_path, 6, 4)
    found = [outcomes(sweep, scores) for scores in draws[:30]]
    assert found == [family(scores, pool=True) for scores in draws[:30]]
    three = solve_or_not(72, 0.5, 500, 6, 3)
    three[:, 5, 1:] = np.nan  # no seed but the first is one that all models have
    assert false_winners(three, pool=True) < 0.05 + noise(500)
    assert false_winners(three, pool=False) > 0.07


def coarse(seed: int, repeats: int, tasks: int, answers: int) -> Draws:
    """Two identical models on several tasks at three seeds, scored by a small test set, near a step of it."""
    rng = np.random.default_rng(seed)
    scores = 0.8 + 0.5 / answers + rng.normal(0, 0.2 / answers, (repeats, tasks, 2, 3))
    return np.round(scores * answers) / answers


def test_a_coarse_test_set_names_a_winner_among_equals_unless_its_steps_are_a_spread(tmp_path: Path):
    draws = coarse(73, 2000, 4, 40)

    def rate(least: float) -> float:
        families = [[stats.paired(a, b, least=least) for a, b in tasks] for tasks in draws]
        named = [{Outcome.BETTER, Outcome.WORSE} & {v.outcome for v in stats.judge(f)} for f in families]
        return float(np.mean([bool(one) for one in named]))

    assert rate(0.0) > 0.09
    assert rate(stats.rounding_spread([40])) < 0.05
    sweep = pretended(tmp_path, 2, 3, metrics={"test_answers": 40})
    found = [outcomes(sweep, tasks[0]) for tasks in draws[:30]]
    assert {Outcome.BETTER, Outcome.WORSE}.isdisjoint(itertools.chain(*found))


# False equivalence, power, exact tests


@pytest.mark.parametrize("sd", [0.005, 0.02])
def test_a_difference_at_the_margin_is_seldom_called_equivalent(sd: float):
    draws = stats.MARGIN + sd * normal(11, 2000, 5)
    found = np.mean([stats.equivalence(row) < 0.05 for row in draws])
    assert found < 0.05 + noise(2000)
    assert found > 0.03 or sd > 0.01  # it is not simply never said


@pytest.mark.parametrize("models", [2, 5, 10])
def test_a_family_at_the_margin_is_seldom_called_equivalent_in_any_place(models: int):
    """Uncorrected, one of nine models that differ by the whole margin would be in every fourth sweep."""
    draws = 0.002 * normal(75, 1500, models, 5)
    draws[:, 1:] += stats.MARGIN
    equal = np.mean([Outcome.EQUIVALENT in family(scores, pool=False) for scores in draws])
    assert equal < 0.05 + noise(1500)
    alone = [min(stats.equivalence(other - scores[0]) for other in scores[1:]) < 0.05 for scores in draws]
    assert np.mean(alone) > {2: 0.03, 5: 0.1, 10: 0.17}[models]


def test_equivalence_of_solve_or_not_is_blind_to_rare_failures():
    """The page says so beside the verdict: a third of sweeps look the same although 30 % fail."""
    rng = np.random.default_rng(12)
    scores = np.where(rng.random((2000, 3)) < 0.7, 1.0, 0.125)
    assert np.mean([stats.equivalence(row - 1.0) < 0.05 for row in scores]) == pytest.approx(0.7**3, abs=0.04)
    assert stats.unseen(3) > 0.3


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (5, 0.05), (10, 0.05), (5, 0.05 / 4)])
def test_what_could_be_detected_is_found_in_four_of_five_sweeps(n: int, alpha: float):
    draws = stats.detectable(2.0, n, alpha=alpha) + 2.0 * normal(50 + n, 6000, n)
    found = np.mean(scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < alpha)
    assert found == pytest.approx(0.8, abs=0.016)


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_the_seeds_said_to_be_needed_suffice_and_one_fewer_does_not(size: float):
    needed = stats.seeds_needed(size, 1.0)
    assert needed is not None

    def power(n: int) -> float:
        tests = scipy_stats.ttest_1samp(size + normal(60, 20_000, n), 0, axis=1)
        return float(np.mean(tests.pvalue < 0.05))

    assert power(needed) > 0.79
    assert power(needed - 1) < 0.81 < power(needed + 2)


@pytest.mark.parametrize(
    "draw", [normal, lambda seed, *shape: np.random.default_rng(seed).laplace(size=shape)]
)
def test_sign_flip_p_is_uniform_where_nothing_differs(draw: Callable[..., Draws]):
    """Each of the 64 exact values that six pairs can give comes as often as it should, whatever the shape."""
    p = np.array([stats.sign_flip(row) for row in draw(13, 2500, 6)])
    steps = np.round(p * 32).astype(int)
    assert np.allclose(p * 32, steps)
    counts = np.bincount(steps, minlength=33)[1:]
    assert scipy_stats.chisquare(counts).pvalue > 0.001


def test_sign_flip_keeps_its_level_for_solve_or_not():
    draws = solve_or_not(14, 0.5, 1500, 2, 7)
    p = np.array([stats.sign_flip(one[1] - one[0]) for one in draws])
    assert np.mean(p <= 0.05) < 0.05 + noise(1500)


def test_the_expected_best_is_unbiased_and_drawing_with_replacement_is_not():
    """Dodge et al. 2019 replaced, and told too little; Tang et al. 2020 do not."""
    draws = np.random.default_rng(15).random((4000, 8))
    ours = np.mean([stats.expected_best(row, 4) for row in draws])
    ranks = np.arange(1, 9) / 8
    replaced = np.mean(np.sort(draws, axis=1) @ (ranks**4 - (ranks - 1 / 8) ** 4))
    assert ours == pytest.approx(4 / 5, abs=0.005)
    assert replaced < 4 / 5 - 0.02


def test_an_interval_of_the_interquartile_mean_covers_its_mean_over_seeds():
    draws = normal(16, 1000, 3, 6) + np.array([0, 0, 0, 1, 2, 9.0])
    means = np.array([stats.interquartile_mean(row) for row in draws.reshape(-1, 6)])
    truth, found = means.mean(), [stats.mean_interval(seeds) for seeds in means.reshape(-1, 3)]
    assert np.mean([one.low <= truth <= one.high for one in found]) == pytest.approx(0.95, abs=0.022)


# Two sweeps of the same code


def compared_rows(a: Draws, b: Draws) -> list[judge.Row]:
    """Rows of a comparison before they are judged: models by seeds in two sweeps."""
    task = Task("order", "T", 0.998, [None], {})
    return [
        judge.Row(
            task, None, True, f"m{number}", stats.mean_interval(x), stats.mean_interval(y), (0, 3), (0, 3),
            refused=(), equal=False, scores_equal=False, result=stats.paired(y, x),
            differences=tuple(float(d) for d in y - x),
        )
        for number, (x, y) in enumerate(zip(a, b, strict=True))
    ]  # fmt: skip


def false_alarms(models: int, repeats: int) -> tuple[float, float]:
    """Share of comparisons of identical code with any model better or worse: by own spreads, as judged."""
    changed = {Outcome.BETTER, Outcome.WORSE}
    own, found = [], []
    draws = zip(*(solve_or_not(70 + side, 0.5, repeats, models, 3) for side in (0, 1)), strict=True)
    for a, b in draws:
        rows = compared_rows(a, b)
        alone = stats.judge([row.result for row in rows if row.result is not None])
        own.append(bool(changed & {one.outcome for one in alone}))
        found.append(bool(changed & {row.outcome for row in judge.judged(rows)}))
    return float(np.mean(own)), float(np.mean(found))


@pytest.mark.parametrize(("models", "alone"), [(2, 0.02), (5, 0.08), (10, 0.2)])
def test_the_same_code_twice_is_seldom_called_worse_or_better(models: int, alone: float):
    """A gate must not fail for nothing: three seeds that solve a task or do not."""
    own, found = false_alarms(models, 400)
    assert own > alone
    assert found < 0.05 + noise(400)


def test_a_model_that_got_worse_is_still_found_beside_others():
    """Five models of which one lost what the others kept; the pooled spread is that of noise."""
    rng = np.random.default_rng(80)
    hits = []
    for _ in range(100):
        a, b = 0.9 + 0.01 * rng.normal(size=(2, 5, 3))
        b[0] -= 0.2
        hits.append([row.outcome for row in judge.judged(compared_rows(a, b))])
    assert np.mean([one[0] is Outcome.WORSE for one in hits]) > 0.95
    assert np.mean([Outcome.WORSE in one[1:] or Outcome.BETTER in one[1:] for one in hits]) < 0.1
