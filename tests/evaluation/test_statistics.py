import numpy as np
import pytest
import scipy.stats
from made_up import make_up

from sonodetr.evaluation.matches import match
from sonodetr.evaluation.metrics import figures
from sonodetr.evaluation.statistics import (
    bootstrap_intervals,
    draw,
    paired_differences,
    weighted_percentiles,
)


def mean_of(values):
    return lambda weights: {"mean": weights @ values / weights.sum(1)}


def test_draw_is_with_replacement_and_seeded():
    weights = draw(7, 5003, seed=11)
    assert weights.shape == (5003, 7)
    assert (weights.sum(1) == 7).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.05)
    np.testing.assert_allclose(weights.var(0), 6 / 7, atol=0.08)  # binomial(7, 1/7)
    np.testing.assert_array_equal(weights, draw(7, 5003, seed=11))
    assert (weights != draw(7, 5003, seed=12)).any()


def test_mean_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=41)
    ours = bootstrap_intervals(mean_of(values), 41, resamples=20000)["mean"]
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=1
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.defined == 1


def test_one_unit_has_no_interval():
    one = bootstrap_intervals(mean_of(np.array([3.0])), 1)["mean"]
    assert one.to_dict() == {"value": 3.0, "low": None, "high": None, "defined": 0.0}


def test_constant_has_no_width():
    same = bootstrap_intervals(mean_of(np.full(5, 2.0)), 5)["mean"]
    assert same.to_dict() == {"value": 2.0, "low": 2.0, "high": 2.0, "defined": 1.0}


def test_undefined_resamples_are_left_out_and_counted():
    def ratio(weights):  # undefined where unit 0 is not drawn
        return {"ratio": np.where(weights[:, 0] > 0, 1.0, np.nan)}

    interval = bootstrap_intervals(ratio, 3, resamples=20000)["ratio"]
    assert (interval.low, interval.high) == (1, 1)
    assert interval.defined == pytest.approx(1 - (2 / 3) ** 3, abs=0.02)


def test_paired_difference_cancels_what_both_share():
    random = np.random.default_rng(0)
    hard = random.normal(0, 1, 31)
    first, second = hard + 0.1, hard
    gain = paired_differences(mean_of(first), mean_of(second), 31)["mean"]
    assert gain.value == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)
    alone = bootstrap_intervals(mean_of(first), 31)["mean"]
    assert alone.high - alone.low > 0.5


def test_interval_of_ap_covers_the_truth_about_as_often_as_it_says():
    # AP of many recordings stands for the truth; samples of 31 of them should cover it.
    videos, detections = make_up(620, 1)
    matches = match(videos, detections)
    truth = figures(matches, np.ones((1, 620), np.int64))["ap50"][0]
    covered = 0
    for start in range(0, 620, 31):
        part = matches.only((matches.video >= start) & (matches.video < start + 31))
        ap50 = bootstrap_intervals(lambda w, p=part: figures(p, w), 31, resamples=200)["ap50"]
        covered += ap50.low <= truth <= ap50.high
    assert covered >= 16  # of 20


def test_same_seed_same_interval():
    videos, detections = make_up(11, 2)
    matches = match(videos, detections)
    once, again, other = (
        bootstrap_intervals(
            lambda w: figures(matches, w[:, matches.video]), 11, resamples=50, seed=seed
        )
        for seed in (5, 5, 6)
    )
    assert once["ap"] == again["ap"] != other["ap"]
    assert once["ap"].low < once["ap"].value < once["ap"].high
    assert np.isnan(once["ap/needle"].value)


def test_weighted_percentiles_equal_those_of_copies():
    random = np.random.default_rng(2)
    values, unit = random.normal(0, 1, 31), random.integers(0, 7, 31)
    values[:3] = np.nan, np.inf, values[4]
    weights = draw(7, 53, seed=0)
    percents = (0.0, 13.0, 50.0, 95.0, 100.0)
    ours = weighted_percentiles(values, unit, weights, percents)
    known = np.isfinite(values)
    for row, weight in enumerate(weights):
        copies = np.repeat(values[known], weight[unit[known]])
        np.testing.assert_allclose(ours[:, row], np.percentile(copies, percents), atol=1e-12)
    nothing = weighted_percentiles(np.array([np.nan]), np.array([0]), weights, percents)
    assert np.isnan(nothing).all()
