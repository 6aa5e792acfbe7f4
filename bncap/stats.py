"""Intervals: crossed bootstrap over items and seeds, and Student's t over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

Scores = Sequence[float] | np.ndarray

LEVEL = 0.95
"""Of all intervals."""
REPLICATES = 2000
"""Resamples behind an interval of the tables."""


@dataclass(frozen=True)
class Interval:
    """A measured ``value`` and the central ``level`` of what resampling gave instead: [low, high]."""

    value: float
    low: float
    high: float
    level: float = LEVEL


@dataclass(frozen=True)
class Resamples:
    """R bootstrap samples of items and of seeds: how often each is drawn, (R, N) and (R, K) float64.

    Both are drawn with replacement and independently of each other: a sample has the same items for every seed, as the
    runs of all seeds share their test images, and pairs are kept because both systems are read with the same counts.
    """

    items: np.ndarray
    seeds: np.ndarray

    def over_seeds(self, per_seed: np.ndarray) -> np.ndarray:
        """Mean over each sample's seeds of a statistic (R, K) of each sample and seed: (R,)."""
        return (per_seed * self.seeds).sum(axis=1) / self.seeds.shape[1]


def resamples(n_items: int, n_seeds: int, n: int = REPLICATES, *, seed: int) -> Resamples:
    """``n`` samples of ``n_items`` items and ``n_seeds`` seeds (crossed bootstrap; Owen, Ann. Appl. Stat. 2007).

    Scatter that is peculiar to an image and a seed enters up to three times, that of few seeds by a share of
    1 - 1 / ``n_seeds`` only; on 400 captions and 5 seeds, 95 % intervals held the truth in 94 to 100 % of simulations.
    The same arguments give the same samples.  Raises ValueError for a number below 1.
    """
    if min(n_items, n_seeds, n) < 1:
        raise ValueError(f"items, seeds and samples must be at least 1, got {n_items}, {n_seeds} and {n}")
    rng = np.random.default_rng(seed)
    items = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=n)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n)
    return Resamples(items.astype(np.float64), seeds.astype(np.float64))


def interval(value: float, replicates: Scores, level: float = LEVEL) -> Interval:
    """Percentile interval: ``value`` with the central ``level`` of ``replicates`` (R,).

    Raises ValueError for no replicates, wrong shapes or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    low, high = np.quantile(_scores(replicates), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), level)


def mean_std(values: Scores) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1; NaN for one value) of (n,); ValueError for no values."""
    values = _scores(values)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def student_interval(values: Scores, level: float = LEVEL) -> Interval:
    """Mean of ``values`` (n,) with its interval by Student's t, NaN for one value; ValueError for no values."""
    values = _scores(values)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan, level)
    half = float(scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * scipy.stats.sem(values))
    return Interval(mean, mean - half, mean + half, level)


def _scores(values: Scores) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"scores must be a non-empty list of numbers, got shape {array.shape}")
    return array
