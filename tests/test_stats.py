"""Statistics against closed forms, and against what repetition shows: coverage and false winners."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from seqbench import stats
from seqbench.stats import Outcome

NAN = float("nan")


def test_interval_is_students_t():
    values = [0.2, 0.5, 0.9, 0.4]
    low, high = scipy_stats.t.interval(0.95, 3, np.mean(values), scipy_stats.sem(values))
    found = stats.mean_interval(values)
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 4)


def test_interval_of_degenerate_samples():
    same = stats.mean_interval([0.7, 0.7, 0.7])
    assert same.low == same.mean == same.high == pytest.approx(0.7)
    one = stats.mean_interval([0.3, NAN])
    assert (one.mean, one.n) == (0.3, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert stats.mean_interval([]).n == 0
    assert math.isnan(stats.mean_interval([NAN]).mean)


def test_interval_covers_as_often_as_it_says_at_three_seeds():
    draws = np.random.default_rng(1).normal(size=(2000, 3))
    intervals = [stats.mean_interval(row) for row in draws]
    covered = np.mean([one.low <= 0 <= one.high for one in intervals])
    assert 0.935 < covered < 0.965


def test_paired_agrees_with_scipy_and_statsmodels():
    a, b = [0.91, 0.93, 0.95, 0.9], [0.9, 0.92, 0.91, 0.91]
    found = stats.paired(a, b)
    assert found.p_t == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)
    assert found.p_equivalent == pytest.approx(ttost_paired(np.array(a), np.array(b), -0.02, 0.02)[0])
    exact = scipy_stats.permutation_test(
        (np.subtract(a, b),), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert found.p_flip == pytest.approx(exact)


def test_paired_leaves_out_incomplete_pairs_and_refuses_unequal_ones():
    assert stats.paired([1.0, NAN, 3.0], [0.0, 5.0, 2.0]).n == 2
    with pytest.raises(ValueError, match="equal numbers"):
        stats.paired([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("a", "b", "outcome"),
    [
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], Outcome.EQUIVALENT),
        ([1.0, 1.0, 1.0], [0.1, 0.1, 0.1], Outcome.BETTER),
        ([0.1, 0.1, 0.1], [1.0, 1.0, 1.0], Outcome.WORSE),
        ([0.98, 1.0, 0.99], [0.11, 0.12, 0.1], Outcome.BETTER),
        ([0.50, 0.501, 0.499], [0.5, 0.5, 0.5], Outcome.EQUIVALENT),
        ([0.1, 0.5, 0.9], [0.5, 0.5, 0.5], Outcome.UNDECIDED),
        ([0.9], [0.1], Outcome.TOO_FEW),
        ([], [], Outcome.TOO_FEW),
        ([NAN, NAN], [0.1, 0.2], Outcome.TOO_FEW),
    ],
)
def test_outcome(a: list[float], b: list[float], outcome: Outcome):
    (found,) = stats.judge([stats.paired(a, b)])
    assert found.outcome is outcome
    assert found.margin == 0.02


def test_what_could_be_detected_is_corrected_like_the_decision():
    result = stats.paired([0.4, 0.6, 0.5, 0.55], [0.1, 0.1, 0.2, 0.3])
    (alone,) = stats.judge([result])
    family = stats.judge([result, *[stats.paired([0.1, 0.5, 0.9], [0.5, 0.5, 0.5])] * 7])
    assert alone.outcome is Outcome.BETTER
    assert family[0].outcome is Outcome.UNDECIDED
    assert family[0].alone
    assert family[0].comparisons == 8
    assert family[0].detectable == stats.detectable(result.sd, 4, alpha=0.05 / 8) > alone.detectable
    assert not family[1].alone


def test_comparisons_without_pairs_are_not_counted_as_tests():
    some = stats.paired([0.1, 0.5, 0.9], [0.5, 0.5, 0.5])
    found = stats.judge([some, stats.paired([0.9], [0.1])])
    assert [one.comparisons for one in found] == [1, 1]
    assert math.isnan(found[1].detectable)


def test_no_undecided_difference_is_above_what_could_be_detected():
    rng = np.random.default_rng(4)
    for _ in range(40):
        family = [stats.paired(rng.normal(0.3, 0.2, 3), rng.normal(0.0, 0.2, 3)) for _ in range(6)]
        for result, found in zip(family, stats.judge(family), strict=True):
            assert found.outcome is not Outcome.UNDECIDED or abs(result.mean) < found.detectable


def test_sign_flip_counts_patterns():
    assert stats.sign_flip([1, 1, 1]) == 0.25
    assert stats.sign_flip([0, 0, 0]) == 1.0
    assert stats.sign_flip([1.0] * 10) == 2 / 1024
    assert stats.sign_flip([3, -1, -1, -1]) == 1.0
    assert math.isnan(stats.sign_flip([]))
    assert stats.sign_flip([0.5] * 20) == stats.sign_flip([0.5] * 20) < 0.001


def test_holm_by_hand_and_by_statsmodels():
    p = np.random.default_rng(0).random(12) / 10
    assert stats.holm(list(p)) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []
    assert all(math.isnan(p) for p in stats.holm([NAN, NAN]))


def test_five_identical_models_seldom_have_a_winner_with_holm():
    """Four comparisons with a common reference: uncorrected, one in seven sweeps names a false winner."""
    rng = np.random.default_rng(2)
    plain = corrected = 0
    for _ in range(600):
        reference, *others = rng.normal(0.5, 0.1, (5, 5))
        p = [stats.paired(other, reference).p_t for other in others]
        plain += min(p) < 0.05
        corrected += min(stats.holm(p)) < 0.05
    assert plain / 600 > 0.08
    assert corrected / 600 < 0.05


def test_detectable_difference_is_found_with_the_power_it_promises():
    size = stats.detectable(1.0, 5)
    draws = np.random.default_rng(3).normal(size, 1.0, (1500, 5))
    found = np.mean(scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert 0.77 < found < 0.83
    assert math.isnan(stats.detectable(1.0, 1))
    assert math.isnan(stats.detectable(NAN, 3))


def test_wilson_ends():
    assert stats.wilson(0, 3).low == 0.0
    assert stats.wilson(3, 3).high == 1.0
    middle = stats.wilson(5, 10)
    z2 = scipy_stats.norm.ppf(0.975) ** 2
    assert middle.high == pytest.approx((0.5 + z2 / 20 + math.sqrt(z2 * (0.025 + z2 / 400))) / (1 + z2 / 10))
    assert math.isnan(stats.wilson(0, 0).mean)


@pytest.mark.parametrize(
    ("times", "median"),
    [
        ([50, 100, None], 100),
        ([50, None, None], None),
        ([50, 100, None, None], 100),
        ([50.0, NAN], 50),
        ([], None),
        ([None], None),
    ],
)
def test_censored_median(times: list[float | None], median: float | None):
    assert stats.censored_median(times) == median


def test_decay_of_exact_exponentials():
    distance = np.arange(60)
    curves = [(distance, scale * 0.5**distance) for scale in (1.0, 3.0, 0.1)]
    found = stats.decay(curves)
    assert found.factor == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))
    assert found.half_life == pytest.approx(1.0)
    assert found.horizon == 10  # 2^-10 is the first power of a half below a thousandth


def test_decay_of_flat_missing_and_underflowed_curves():
    flat = stats.decay([([0, 1, 2], [0.2, 0.2, 0.2])])
    assert flat.factor == pytest.approx(1.0)
    assert flat.half_life == math.inf
    assert flat.horizon is None
    assert stats.decay([]).n == 0
    assert math.isnan(stats.decay([([0], [1.0])]).factor)
    assert stats.decay_factor([0, 1, 2, 3], [1.0, 0.1, 0.0, NAN]) == pytest.approx(0.1)
    assert stats.horizon([0, 1], [0.0, 0.0]) is None
