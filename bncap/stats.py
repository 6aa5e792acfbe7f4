"""Spread over seeds, and differences of two systems on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Scores = Sequence[float] | np.ndarray


REPLICATES = 2000
"""Resamples behind an interval of the tables."""


@dataclass(frozen=True)
class Interval:
    """A measured ``value`` and the central ``level`` of what resampling gave instead: [low, high]."""

    value: float
    low: float
    high: float
    level: float = 0.95

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


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
    1 - 1 / ``n_seeds`` only.  On scores of 400 captions and 5 seeds, where the former is the larger part, intervals of
    95 % held the truth in 94 to 100 % of simulations: they err on the cautious side.

    The same arguments give the same samples.  Raises ValueError for a number below 1.
    """
    if min(n_items, n_seeds, n) < 1:
        raise ValueError(f"items, seeds and samples must be at least 1, got {n_items}, {n_seeds} and {n}")
    rng = np.random.default_rng(seed)
    items = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=n)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n)
    return Resamples(items.astype(np.float64), seeds.astype(np.float64))


def interval(value: float, replicates: Scores, level: float = 0.95) -> Interval:
    """Percentile interval: ``value`` with the central ``level`` of ``replicates`` (R,).

    Raises ValueError for no replicates, wrong shapes or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    low, high = np.quantile(_scores(replicates), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), level)


@dataclass(frozen=True)
class PairedDifference:
    """Difference of means `a` minus `b` with its confidence interval [low, high] at `level`, over `n_items` items."""

    difference: float
    low: float
    high: float
    level: float
    n_items: int


def mean_std(values: Scores) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1), such as over seeds.

    values: (n,), n at least 1. The deviation of a single value is not known and is returned as NaN.
    Raises ValueError for no values or wrong shapes.
    """
    values = _scores(values)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def paired_bootstrap(a: Scores, b: Scores, n: int = 1000, *, seed: int, level: float = 0.95) -> PairedDifference:
    """Paired bootstrap of mean(a) - mean(b) over per-item scores of two systems (Koehn, EMNLP 2004).

    Items are resampled n times with replacement, both systems' scores of an item together; the interval holds the
    central `level` of the resampled differences (percentile interval). a, b: (N,), item i in the same place of both.
    0 < level < 1. The same seed gives the same interval.
    Raises ValueError for wrong shapes, unequal lengths, n < 1 or a level outside (0, 1).
    """
    a, b = _scores(a), _scores(b)
    if len(a) != len(b):
        raise ValueError(f"paired scores must be equally many, got {len(a)} and {len(b)}")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n must be at least 1 and level in (0, 1), got {n} and {level}")
    differences = a - b
    rng = np.random.default_rng(seed)
    resampled = [differences[rng.integers(len(a), size=len(a))].mean() for _ in range(n)]
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return PairedDifference(float(differences.mean()), float(low), float(high), level, len(a))


def _scores(values: Scores) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"scores must be a non-empty list of numbers, got shape {array.shape}")
    return array
