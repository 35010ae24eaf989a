"""Statistics against closed forms and other libraries; what repetition shows stands in test_simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
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
        ([0.9, 0.9], [0.1, 0.1], Outcome.TOO_FEW),
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


def test_nothing_is_detectable_without_a_spread():
    assert math.isnan(stats.detectable(1.0, 1))
    assert math.isnan(stats.detectable(NAN, 3))


def test_more_degrees_of_freedom_detect_less():
    assert stats.detectable(1.0, 3, df=8) < stats.detectable(1.0, 3) == stats.detectable(1.0, 3, df=2)


def test_seeds_needed_agree_with_statsmodels():
    for size in (0.4, 0.8, 1.7):
        wanted = math.ceil(TTestPower().solve_power(effect_size=size, alpha=0.05, power=0.8))
        assert stats.seeds_needed(-size, 1.0) == wanted
    assert stats.seeds_needed(0.1, 1.0) is None  # 787 of them
    assert stats.seeds_needed(NAN, 1.0) is None
    assert stats.seeds_needed(0.5, NAN) is None
    assert stats.seeds_needed(0.5, 0.0) == 2


def test_pooled_spread_is_the_error_of_a_block_design():
    scores = np.random.default_rng(6).random((4, 3)) + np.array([0.0, 5.0, 9.0])
    found = stats.pooled_spread(scores)
    assert found is not None
    rows = [(float(v), m, s) for m, row in enumerate(scores) for s, v in enumerate(row)]
    table = pd.DataFrame(rows, columns=["score", "model", "seed"])
    error = AnovaRM(table, "score", "seed", within=["model"]).fit().anova_table
    assert found.df == int(error["Den DF"].iloc[0]) == 6
    between = 3 * scores.mean(axis=1).var(ddof=1)
    assert found.sd**2 / 2 == pytest.approx(between / error["F Value"].iloc[0])


def test_pooled_spread_of_too_little():
    assert stats.pooled_spread([[1, 2, 3], [1, 2, 4]]) is None
    assert stats.pooled_spread([[1], [2], [3]]) is None
    assert stats.pooled_spread([[1, 2], [2, 3], [3, NAN]]) is None
    assert stats.pooled_spread([]) is None


def test_pooled_spread_of_what_is_there_is_the_error_of_a_fit_without_the_rest():
    """The residual mean square of statsmodels' two-way model on the scores that were not lost."""
    scores = np.random.default_rng(8).random((4, 5))
    scores[1, 2] = scores[3, 0] = scores[3, 4] = NAN
    rows = [(float(v), m, s) for m, row in enumerate(scores) for s, v in enumerate(row) if math.isfinite(v)]
    table = pd.DataFrame(rows, columns=["score", "model", "seed"])
    fit = ols("score ~ C(model) + C(seed)", table).fit()
    found = stats.pooled_spread(scores)
    assert found is not None
    assert (found.sd**2 / 2, found.df) == (pytest.approx(fit.mse_resid), fit.df_resid)


def test_a_model_with_one_score_says_nothing_about_the_spread_and_hides_nothing():
    scores = [[0.125, 0.126, 0.125], [1, 1, 1], [1, 0.125, 0.125], [0.125, 1, 0.125]]
    whole, found = stats.pooled_spread(scores), stats.pooled_spread([*scores, [0.125, NAN, NAN]])
    assert whole is not None
    assert found is not None
    assert (found.sd, found.df) == (pytest.approx(whole.sd), whole.df)
    assert stats.pooled_spread([[1, 2, NAN, NAN, NAN, NAN], [NAN, NAN, 3, 4, NAN, NAN], [NAN] * 6]) is None
    apart = [[1, 2, NAN, NAN, NAN, NAN], [NAN, NAN, 3, 5, NAN, NAN], [NAN, NAN, NAN, NAN, 4, 9]]
    assert stats.pooled_spread(apart) is None


def test_pooled_spread_of_equal_scores_is_exactly_none():
    assert stats.pooled_spread([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3], [0.7, 0.7, 0.7]]) == stats.Spread(0.0, 4)


def test_rounding_spread_is_the_deviation_of_a_rounding_error():
    """Values spread over many steps, rounded to answers of a test set, and averaged over two test sets."""
    rng = np.random.default_rng(10)
    sets = (40, 25)
    errors = []
    for answers in sets:
        a, b = rng.random((2, 200_000))
        errors.append((np.round(a * answers) - np.round(b * answers)) / answers - (a - b))
    assert np.std(errors[0]) == pytest.approx(stats.rounding_spread(sets[:1]), rel=0.01)
    assert np.std((errors[0] + errors[1]) / 2) == pytest.approx(stats.rounding_spread(sets), rel=0.01)
    assert stats.rounding_spread([NAN, 0.0]) == 0.0


def test_one_answer_of_forty_in_each_of_three_seeds_is_no_proof():
    a, b = [0.875, 0.9, 0.875], [0.85, 0.875, 0.85]
    plain, rounded = stats.paired(a, b), stats.paired(a, b, least=stats.rounding_spread([40]))
    assert plain.p_t < 1e-6
    assert rounded.sd == stats.rounding_spread([40])
    t = rounded.mean / (rounded.sd / math.sqrt(3))
    assert rounded.p_t == pytest.approx(2 * scipy_stats.t.sf(t, 2)) == pytest.approx(0.051, abs=1e-3)
    assert rounded.low < 0 < rounded.high
    varied = [0.9, 0.5, 0.7]
    assert stats.paired(varied, b, least=stats.rounding_spread([40])) == stats.paired(varied, b)


def test_equivalence_is_corrected_for_the_comparisons_too():
    close = stats.paired([0.506, 0.494, 0.507, 0.515], [0.5] * 4)
    assert 0.0125 < close.p_equivalent < 0.025
    assert [one.outcome for one in stats.judge([close] * 2)] == [Outcome.EQUIVALENT] * 2
    assert [one.outcome for one in stats.judge([close] * 4)] == [Outcome.UNDECIDED] * 4
    surely = stats.paired([0.5] * 4, [0.5] * 4)
    assert [one.outcome for one in stats.judge([close, surely])] == [Outcome.EQUIVALENT] * 2
    few = stats.paired([0.5] * 2, [0.5] * 2)
    assert stats.judge([close, close, few, few])[0].outcome is Outcome.EQUIVALENT


def test_a_claim_must_survive_both_spreads():
    a, b = [1.0, 1.01, 1.0], [0.1, 0.1, 0.11]
    wide, narrow = stats.Spread(0.6, 8), stats.Spread(1e-6, 8)
    alone, guarded = stats.paired(a, b), stats.paired(a, b, pooled=wide)
    assert guarded.p_t == pytest.approx(2 * scipy_stats.t.sf(guarded.mean / (0.6 / math.sqrt(3)), 8))
    assert guarded.high - guarded.mean == pytest.approx(scipy_stats.t.ppf(0.975, 8) * 0.6 / math.sqrt(3))
    assert guarded.detectable() == stats.detectable(0.6, 3, df=8) > alone.detectable()
    assert stats.paired(a, b, pooled=narrow).p_t == alone.p_t
    same = stats.paired(a, a, pooled=wide)
    assert same.p_equivalent > 0.4 > stats.paired(a, a).p_equivalent
    assert stats.paired([1.0], [0.1], pooled=wide).spreads == []


def test_refused_is_no_test():
    found = stats.refused(0.02)
    assert (found.outcome, found.comparisons, found.needed) == (Outcome.REFUSED, 0, None)
    assert math.isnan(found.p)


def test_interquartile_mean_cuts_a_quarter_from_either_end():
    assert stats.interquartile_mean([9, 0, 0.4, 0.6]) == pytest.approx(0.5)
    assert stats.interquartile_mean([1, NAN, 2, 6]) == pytest.approx(3)
    assert math.isnan(stats.interquartile_mean([]))


def test_expected_best_is_the_mean_over_all_subsets():
    scores = [0.3, 0.9, 0.1, 0.5, NAN]
    for trials in (1, 2, 3, 4):
        subsets = list(itertools.combinations(scores[:4], trials))
        assert stats.expected_best(scores, trials) == pytest.approx(np.mean([max(one) for one in subsets]))
        least = stats.expected_best(scores, trials, higher=False)
        assert least == pytest.approx(np.mean([min(one) for one in subsets]))
    assert math.isnan(stats.expected_best(scores, 5))
    assert math.isnan(stats.expected_best(scores, 0))


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
