import numpy as np
import pytest
import scipy.stats

from sonodetr.evaluation.statistics import draw
from sonodetr.experiment.statistics import (
    Estimate,
    Pair,
    compare,
    difference,
    estimate,
    gap_closed,
    holm,
    percentile_interval,
    seed_shares,
    two_sided_p,
)


def means(values, weights):
    """`[resamples, seeds]` means over drawn recordings of values `[recordings, seeds]`."""
    return weights @ values / weights.sum(1, keepdims=True)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.2.
    assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    # A smaller factor must not put a larger p below a smaller one: 0.021 stays at 0.06.
    assert holm([0.02, 0.021, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_interval_is_that_of_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).gamma(2.0, size=41)
    weights = draw(41, 20000, seed=0)
    ours = percentile_interval(values.mean(), weights @ values / 41)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=1
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_zero_out():
    random = np.random.default_rng(1)
    agree = 0
    for shift in np.linspace(-3.5, 3.5, 71):
        drawn = random.normal(shift, 1, 1999)
        interval = percentile_interval(shift, drawn)
        agree += (two_sided_p(drawn) <= 0.05) == (interval.low > 0 or interval.high < 0)
    assert agree == 71


def test_p_of_a_paired_mean_is_about_that_of_the_t_test():
    differences = np.random.default_rng(7).normal(0.25, 1.0, 83)
    drawn = draw(83, 9999, seed=0) @ differences / 83
    expected = scipy.stats.ttest_1samp(differences, 0).pvalue
    assert two_sided_p(drawn) == pytest.approx(expected, abs=0.01)


def test_mean_of_drawn_seeds_varies_as_the_mean_of_so_many():
    values = np.array([0.31, 0.35, 0.42])
    drawn = seed_shares(3, 100_000, "plain") @ values
    assert drawn.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.02)
    other = seed_shares(3, 100_000, "attention") @ values
    assert np.corrcoef(drawn, other)[0, 1] == pytest.approx(0, abs=0.01)
    np.testing.assert_array_equal(drawn, seed_shares(3, 100_000, "plain") @ values)


def test_deviation_over_seeds_by_hand():
    three = Estimate((1.0, 2.0, 6.0), np.zeros(5))
    assert three.value == 3
    assert three.deviation == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert np.isnan(Estimate((1.0,), np.zeros(5)).deviation)


def test_what_both_find_hard_cancels():
    hard = np.random.default_rng(0).normal(0, 1, (31, 1))
    weights = draw(31, 999, seed=0)
    plain = estimate([hard.mean()], means(hard, weights), "plain")
    better = estimate([hard.mean() + 0.1], means(hard + 0.1, weights), "better")
    gain = difference(better, plain).interval()
    assert (gain.low, gain.value, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    assert plain.interval().high - plain.interval().low > 0.5


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_the_true_difference_about_as_often_as_they_say(seeds):
    # Methods, recordings and seeds as random effects; the true difference is 0.
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(400):
        recordings = 37
        hard = random.normal(0, 0.2, (recordings, 1))
        methods = [
            hard + random.normal(0, 0.02, seeds) + random.normal(0, 0.1, (recordings, seeds))
            for _ in range(2)
        ]
        weights = draw(recordings, 399, seed=trial)
        first, second = (
            estimate(list(values.mean(0)), means(values, weights), f"{trial}-{number}")
            for number, values in enumerate(methods)
        )
        interval = difference(first, second).interval()
        covered += interval.low <= 0 <= interval.high
    # What a run makes of one recording alone counts twice: a little too wide, never too narrow.
    assert 0.93 < covered / 400 < 1.0


def test_gap_closed_by_hand_and_without_bounds_where_the_lead_may_be_zero():
    drawn = np.linspace(-0.01, 0.01, 199)
    against = Estimate((0.30,), 0.30 + drawn)
    student = Estimate((0.36,), 0.36 + drawn)
    closed = gap_closed(student, against, Estimate((0.50,), 0.50 + drawn))
    assert (closed.low, closed.value, closed.high) == pytest.approx((0.3, 0.3, 0.3))
    unsure = gap_closed(student, against, Estimate((0.305,), 0.305 + 10 * drawn))
    assert unsure.value == pytest.approx(12)
    assert np.isnan([unsure.low, unsure.high]).all()
    none = gap_closed(student, against, Estimate((0.2,), 0.2 + drawn))
    assert np.isnan([none.value, none.low, none.high]).all()


def test_a_resample_without_a_lead_counts_as_infinite():
    drawn = np.r_[np.full(98, 0.1), -0.1, -0.1]  # two of a hundred
    zero = Estimate((0.0,), np.zeros(100))
    closed = gap_closed(Estimate((0.05,), np.full(100, 0.05)), zero, Estimate((0.1,), drawn))
    assert (closed.low, closed.value) == (0.5, 0.5)
    assert closed.high == 0.5  # the two lie beyond the 97.5th percentile
    assert closed.defined == 1


def test_a_table_is_corrected_as_a_whole_and_says_what_cannot_be_told():
    random = np.random.default_rng(3)
    noise = random.normal(0, 0.01, (4, 9999))
    methods = {
        ("anchor", name): Estimate((value,), value + row)
        for (name, value), row in zip(
            {"plain": 0.30, "good": 0.36, "same": 0.301, "bad": 0.2}.items(), noise, strict=True
        )
    }
    methods[None, "2D"] = Estimate((0.5,), np.full(9999, 0.5))
    pairs = [
        Pair("anchor", "good", "plain", "2D"),
        Pair("anchor", "same", "plain", "2D"),
        Pair("anchor", "bad", "plain"),
    ]
    good, same, bad = compare(pairs, methods, 10)
    assert (good["queries"], good["method"], good["against"]) == ("anchor", "good", "plain")
    assert good["verdict"] == "better"
    assert good["difference"]["value"] == pytest.approx(0.06)
    assert good["difference"]["low"] > 0
    closed = good["gap_closed"]
    assert closed["value"] == pytest.approx(0.3)
    assert closed["low"] < 0.3 < closed["high"]
    assert same["verdict"] == "not distinguishable from zero"
    assert same["p_corrected"] == same["p"]  # the largest of the three
    assert bad["verdict"] == "worse"
    assert (bad["p"], bad["p_corrected"]) == pytest.approx((0.0002, 0.0006))
    assert bad["gap_closed"] is None
    for row, few in zip((good, same, bad), compare(pairs, methods, 9), strict=True):
        untested = {"p": None, "p_corrected": None, "verdict": "not tested"}
        assert few == row | untested
