"""Spread, bootstrap and Student's interval against known answers and SciPy."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bncap.stats import Interval, interval, mean_std, resamples, student_interval


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


def paired(a, b, n: int = 1000, *, seed: int, level: float = 0.95) -> Interval:
    """The interval of mean(a) - mean(b) over items, of one seed."""
    differences = np.asarray(a) - np.asarray(b)
    drawn = resamples(len(differences), 1, n, seed=seed)
    return interval(differences.mean(), drawn.items @ differences / len(differences), level)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_agrees_with_scipys_percentile_bootstrap(level):
    a, b = scores()
    oracle = scipy_stats.bootstrap(
        (a - b,), np.mean, n_resamples=5000, confidence_level=level, method="percentile", rng=1
    ).confidence_interval
    ours = paired(a, b, n=5000, seed=2, level=level)
    assert ours.value == pytest.approx(a.mean() - b.mean())
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=0.006)


def test_students_interval_is_that_of_scipys_t_test_and_of_one_value_unknown():
    values = [2.0, 1.0, 3.5]
    oracle = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    result = student_interval(values)
    assert (result.value, result.low, result.high) == pytest.approx((6.5 / 3, oracle.low, oracle.high))
    alone = student_interval([2.0])
    assert alone.value == 2 and math.isnan(alone.low)


def test_samples_draw_as_many_items_and_seeds_as_there_are_and_the_same_ones_again():
    drawn = resamples(7, 3, 50, seed=4)
    assert drawn.items.shape == (50, 7) and drawn.seeds.shape == (50, 3)
    assert (drawn.items.sum(axis=1) == 7).all() and (drawn.seeds.sum(axis=1) == 3).all()
    again, other = resamples(7, 3, 50, seed=4), resamples(7, 3, 50, seed=5)
    assert (drawn.items == again.items).all() and (drawn.seeds == again.seeds).all()
    assert (drawn.items != other.items).any()
    assert resamples(7, 3, seed=4).items.shape == (2000, 7)


def test_the_mean_over_seeds_counts_a_seed_as_often_as_it_is_drawn():
    drawn = resamples(2, 3, 5, seed=0)
    values = np.arange(15.0).reshape(5, 3)
    by_hand = [np.repeat(row, times.astype(int)).mean() for row, times in zip(values, drawn.seeds, strict=True)]
    assert drawn.over_seeds(values) == pytest.approx(by_hand)


def test_replicates_are_distributed_as_all_samples_of_three_images_and_two_seeds_are():
    table = np.array([[3.0, 1.0], [0.5, 4.0], [2.0, 9.0]])
    every = [
        table[np.ix_(images, seeds)].mean()
        for images in itertools.product(range(3), repeat=3)
        for seeds in itertools.product(range(2), repeat=2)
    ]
    drawn = resamples(3, 2, 40_000, seed=1)
    replicates = drawn.over_seeds(drawn.items @ table / 3)
    exact, counts = np.unique(np.round(every, 9), return_counts=True)
    values, found = np.unique(np.round(replicates, 9), return_counts=True)
    assert values == pytest.approx(exact) and len(every) == 27 * 4
    assert found / 40_000 == pytest.approx(counts / len(every), abs=0.008)
    place = int(np.argmax(counts))  # a bound in the middle of the most frequent value is the same whatever is drawn
    below = (counts[:place].sum() + counts[place] / 2) / len(every)
    found = interval(table.mean(), replicates, abs(1 - 2 * below))
    assert (found.low if below < 0.5 else found.high) == pytest.approx(exact[place])


def test_an_interval_has_the_quantiles_of_its_replicates():
    found = interval(5.0, range(101), 0.5)
    assert found == Interval(5.0, 25.0, 75.0, 0.5)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_no_images_no_seeds_and_no_samples_are_refused(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        resamples(*numbers, seed=0)


@pytest.mark.parametrize(("replicates", "level"), [([], 0.95), ([1.0], 0.0), ([1.0], 1.0)])
def test_an_interval_of_nothing_or_of_no_level_is_refused(replicates, level):
    with pytest.raises(ValueError, match="scores|level"):
        interval(0.0, replicates, level)
