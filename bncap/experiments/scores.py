"""Scores of finished runs, and which runs each table of the paper is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bncap import stats
from bncap.config import BASELINES, MAIN, SENSITIVITY, VARIANTS
from bncap.experiments.runs import folder_of
from bncap.pipeline import artifacts
from bncap.settings import Config

DIGITS = 4  # of a score in CSV and JSON: finer differences are those of processors


@dataclass(frozen=True)
class Table:
    """What a table holds: its number in the paper, the runs of its rows, and their splits."""

    number: int
    title: str
    variants: tuple[str, ...]
    splits: tuple[str, ...] = ("ood",)


TABLES: dict[str, Table] = {
    "table1_baselines": Table(1, "The main model beside two established captioners, out of domain", (MAIN, *BASELINES)),
    "table2_main": Table(2, "The main model in and out of domain", (MAIN,), ("test", "ood")),
    "table3_ablations": Table(3, "Variants of the objective, out of domain", tuple(VARIANTS)),
    "table4_sensitivity": Table(4, "Hyper-parameters of PAL, on a part of the data, out of domain", tuple(SENSITIVITY)),
}


def read_scores(config: Config, variant: str, seed: int) -> dict[str, Any]:
    """``scores.json`` of a finished run, by split, NaN for what is not known.

    Raises BncapError with the command that makes it if there is none.
    """
    saved = artifacts.read_json(artifacts.require(folder_of(config, variant, seed)) / "scores.json")
    return {
        split: {name: math.nan if value is None else value for name, value in scores.items()}
        for split, scores in saved.items()
    }


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and deviation over seeds, rounded once, so that tables and ``results.json`` cannot differ in a last digit.

    Scores are rounded before they are averaged, as they stand in the files.  NaN where one of them is not known.
    """
    if any(math.isnan(value) for value in values):
        return math.nan, math.nan
    mean, std = stats.mean_std([round(value, DIGITS) for value in values])
    return round(mean, DIGITS), round(std, DIGITS)


def known(value: float) -> float | None:
    """``value`` with the digits of the tables; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(float(value), DIGITS)
