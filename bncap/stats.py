"""Spread over seeds, and differences of two systems on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Scores = Sequence[float] | np.ndarray


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
