"""Scores of finished runs, and differences of two systems on the same pictures and seeds, with intervals over both."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bncap import stats
from bncap.config import BASE, BASELINES, PART_BASE, SENSITIVITY, VARIANTS
from bncap.errors import BncapError
from bncap.experiments import estimates, paper
from bncap.experiments.estimates import DIGITS
from bncap.experiments.evaluate import read_caption_scores
from bncap.experiments.runs import TABLES, run_dir
from bncap.pipeline import artifacts, paths
from bncap.settings import Config

METRICS = (*paper.METRICS, "noun_precision", "noun_recall")
TO_BASE, TO_ABOVE = "base", "above"
COLUMNS = (
    "variant", "against", "split", "metric", "first", "second", "difference", "low", "high", "level", "images", "seeds",
    "excludes_zero",
)  # fmt: skip
TABLE_COLUMNS = ("table", "relation", *COLUMNS)

Pair = tuple[str, str, str]
"""(variant, against, split)."""


def read_scores(config: Config, variant: str, seed: int) -> dict[str, Any]:
    """``scores.json`` of a finished run, by split, NaN for what is not known.

    Raises BncapError with the command that makes it if there is none.
    """
    saved = artifacts.read_json(artifacts.require(run_dir(config, variant, seed)) / "scores.json")
    return {
        split: {name: math.nan if value is None else value for name, value in scores.items()}
        for split, scores in saved.items()
    }


def seed_mean_std(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and deviation over seeds, rounded once, so that tables and ``results.json`` cannot differ in a last digit.

    Scores are rounded before they are averaged, as they stand in the files.  NaN where one of them is not known.
    """
    if any(math.isnan(score) for score in scores):
        return math.nan, math.nan
    mean, std = stats.mean_std([round(score, DIGITS) for score in scores])
    return round(mean, DIGITS), round(std, DIGITS)


def compare_pairs(
    config: Config, first_seed: int, pairs: Iterable[Pair], purpose: str = "scores"
) -> list[dict[str, Any]]:
    """A record for each pair and each of :data:`METRICS` that both were scored with, with the keys :data:`COLUMNS`.

    ``first`` and ``second`` are the means over the seeds as the tables have them, ``difference`` theirs, 0 to 100, four
    decimals.  [``low``, ``high``] is the central 95 % of the differences in bootstrap samples of images and of seeds,
    the same samples for both systems; BLEU and noun scores are those of the whole sample, from summed counts, and
    samples that name no noun at all are left out.  None where a score is not known.  ``purpose`` chooses the samples:
    comparisons with the same one, and as many images and seeds, share them, so that the same pair has the same interval
    wherever it is shown.

    Raises BncapError for a run that is missing, was not scored on the split, or has other images than its counterpart.
    """
    seeds, systems = config.seeds(first_seed), {}
    records = []
    for variant, against, split in pairs:
        for name in (variant, against):
            if (name, split) not in systems:
                systems[name, split] = _read_system(config, name, seeds, split, purpose)
        records += _compare((variant, against, split), systems[variant, split], systems[against, split])
    return records


def compare_table(config: Config, first_seed: int, name: str, variants: Sequence[str] = ()) -> list[dict[str, Any]]:
    """:func:`compare_pairs` of a table's rows, or of other ``variants``, each record with ``table`` and ``relation``.

    ``relation`` is ``"base"`` for the comparison with cross-entropy alone on the same data and split, and ``"above"``
    for that with the row above in the same split.
    """
    variants = variants or TABLES[name].variants
    scored = read_scores(config, variants[0], first_seed)  # data of one's own have one test set
    relations: list[tuple[str, Pair]] = []
    for split in (split for split in TABLES[name].splits if split in scored):
        for above, variant in zip((None, *variants), variants, strict=False):
            base = PART_BASE if variant in SENSITIVITY else BASE
            for relation, against in ((TO_BASE, base), (TO_ABOVE, above)):
                if against not in (None, variant):
                    relations.append((relation, (variant, against, split)))
    records = compare_pairs(config, first_seed, dict.fromkeys(pair for _, pair in relations))
    return [
        {"table": name, "relation": relation, **record}
        for relation, (variant, against, split) in relations
        for record in estimates.select(records, variant=variant, against=against, split=split)
    ]


def compare_with_base(config: Config, first_seed: int) -> list[dict[str, Any]]:
    """:func:`compare_pairs` of every variant of Tables 1 and 3 with cross-entropy alone, on both test splits."""
    variants = [name for name in (*VARIANTS, *BASELINES) if name != BASE]
    return compare_pairs(config, first_seed, [(name, BASE, split) for name in variants for split in paper.SPLITS])


def write_differences(config: Config, name: str, records: Sequence[dict[str, Any]]) -> Path:
    """Write ``records`` as ``figures/<profile>/<name>_differences.csv`` with :data:`TABLE_COLUMNS` for one of the
    tables, for another ``name`` as ``<name>.csv`` with :data:`COLUMNS`; returns its path.
    """
    columns = TABLE_COLUMNS if name in TABLES else COLUMNS
    return estimates.write_csv(_differences_file(config.profile, name), records, columns)


def read_differences(config: Config, name: str) -> list[dict[str, Any]]:
    """The records of :func:`write_differences`; BncapError if the file is missing."""
    path = _differences_file(config.profile, name)
    if not path.is_file():
        raise BncapError(f"{path} is missing: the notebook that writes the table {name!r} writes it too")
    return estimates.read_csv(path)


@dataclass(frozen=True)
class System:
    """A variant's runs on a split: the images, metric -> mean over the seeds, and in each of R samples (R,)."""

    images: tuple[str, ...]
    seeds: int
    means: dict[str, float]
    replicates: dict[str, np.ndarray]


def _read_system(config: Config, variant: str, seeds: Sequence[int], split: str, purpose: str) -> System:
    runs = [read_caption_scores(artifacts.require(run_dir(config, variant, seed)), split) for seed in seeds]
    for seed, run in zip(seeds, runs, strict=True):
        _check_same_images(runs[0].images, run.images, f"{variant}-s{seeds[0]}", f"{variant}-s{seed}", split)
    samples = _samples(len(runs[0].images), len(seeds), purpose)
    by_seed = [run.corpus_scores(samples.items) for run in runs]
    replicates = {
        metric: samples.over_seeds(np.stack([scores[metric] for scores in by_seed], axis=1)) for metric in by_seed[0]
    }
    saved = [read_scores(config, variant, seed)[split] for seed in seeds]
    means = {metric: seed_mean_std([scores.get(metric, math.nan) for scores in saved])[0] for metric in METRICS}
    return System(runs[0].images, len(seeds), means, replicates)


def _compare(pair: Pair, a: System, b: System) -> list[dict[str, Any]]:
    variant, against, split = pair
    _check_same_images(a.images, b.images, variant, against, split)
    records = []
    for metric in METRICS:
        if metric not in a.replicates or metric not in b.replicates:
            continue  # the pictures' objects are not known
        first, second = a.means[metric], b.means[metric]
        difference = estimates.bootstrap_estimate(
            "difference", round(first - second, DIGITS), a.replicates[metric] - b.replicates[metric]
        )
        records.append({
            "variant": variant, "against": against, "split": split, "metric": metric,
            "first": estimates.rounded(first), "second": estimates.rounded(second), **difference,
            "level": stats.LEVEL, "images": len(a.images), "seeds": a.seeds,
        })  # fmt: skip
    return records


@functools.lru_cache(maxsize=4)
def _samples(images: int, seeds: int, purpose: str) -> stats.Resamples:
    return stats.resamples(images, seeds, seed=zlib.crc32(purpose.encode()))


def _check_same_images(a: tuple[str, ...], b: tuple[str, ...], first: str, second: str, split: str) -> None:
    if a != b:
        odd = min(set(a) ^ set(b), default="their order")
        raise BncapError(
            f"{first} and {second} were scored on other images of split {split} ({odd}): run both on the same data"
        )


def _differences_file(profile: str, name: str) -> Path:
    return paths.figures_dir(profile) / (f"{name}_differences.csv" if name in TABLES else f"{name}.csv")
