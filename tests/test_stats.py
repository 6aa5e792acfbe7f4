"""Spread and paired bootstrap against known answers and SciPy."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bncap.stats import mean_std, paired_bootstrap


def test_mean_and_sample_deviation_agree_with_the_standard_library():
    values = [12.29, 11.8, 12.6, 12.0]
    assert mean_std(values) == pytest.approx((statistics.mean(values), statistics.stdev(values)))


def test_the_deviation_of_one_value_is_not_known_and_no_values_are_refused():
    mean, std = mean_std([3.5])
    assert mean == 3.5 and math.isnan(std)
    with pytest.raises(ValueError, match="non-empty"):
        mean_std([])


def scores(n: int = 200, gain: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    item = rng.normal(size=n)
    return item + gain + 0.5 * rng.normal(size=n), item


def test_a_constant_difference_has_an_interval_of_no_width():
    result = paired_bootstrap([1.5, 2.5, 3.5], [1.0, 2.0, 3.0], seed=0)
    assert (result.difference, result.low, result.high) == (0.5, 0.5, 0.5)
    assert (result.level, result.n_items) == (0.95, 3)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_agrees_with_scipys_percentile_bootstrap(level):
    a, b = scores()
    oracle = scipy_stats.bootstrap(
        (a - b,), np.mean, n_resamples=5000, confidence_level=level, method="percentile", rng=1
    ).confidence_interval
    ours = paired_bootstrap(a, b, n=5000, seed=2, level=level)
    assert ours.difference == pytest.approx(a.mean() - b.mean())
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=0.006)


def test_pairing_makes_the_interval_narrower_than_that_of_unrelated_items():
    a, b = scores()
    paired, shuffled = (paired_bootstrap(a, other, seed=0) for other in (b, np.random.default_rng(1).permutation(b)))
    assert paired.difference == pytest.approx(shuffled.difference)
    assert paired.high - paired.low < 0.6 * (shuffled.high - shuffled.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    intervals = [paired_bootstrap(*scores(60, seed=s), n=200, seed=s, level=0.8) for s in range(200)]
    assert 0.7 < np.mean([i.low <= 0.3 <= i.high for i in intervals]) < 0.88


def test_the_seed_decides_the_interval_and_exchanging_the_systems_changes_its_sign():
    a, b = scores()
    once = paired_bootstrap(a, b, seed=1)
    assert once == paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b, seed=2)
    back = paired_bootstrap(b, a, seed=1)
    assert (back.difference, back.low, back.high) == pytest.approx((-once.difference, -once.high, -once.low))


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([1.0, 2.0], [1.0], {}, "2 and 1"),
        ([], [], {}, "non-empty"),
        ([1.0], [1.0], {"n": 0}, "at least 1"),
        ([1.0], [1.0], {"level": 1.0}, r"\(0, 1\)"),
    ],
)
def test_the_bootstrap_refuses_what_it_cannot_pair(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b, seed=0, **options)
