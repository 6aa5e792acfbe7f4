"""Differences of two systems on the same pictures and seeds, with intervals over both."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bncap import stats
from bncap.config import BASE, BASELINES, PART_BASE, SENSITIVITY, VARIANTS
from bncap.errors import BncapError
from bncap.experiments import caption_scores, paper
from bncap.experiments.runs import folder_of
from bncap.experiments.scores import DIGITS, TABLES, read_scores, spread
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


def compare(
    config: Config, first_seed: int, variant: str, against: str, split: str, purpose: str = "scores"
) -> list[dict[str, Any]]:
    """How far ``variant`` scores above ``against`` on ``split``: a record a metric, as :func:`of_pairs` has them."""
    return of_pairs(config, first_seed, [(variant, against, split)], purpose)


def of_pairs(config: Config, first_seed: int, pairs: Iterable[Pair], purpose: str = "scores") -> list[dict[str, Any]]:
    """A record for each pair and each of :data:`METRICS` that both were scored with, with the keys :data:`COLUMNS`.

    ``first`` and ``second`` are the means over the seeds as the tables have them, ``difference`` theirs, 0 to 100, four
    decimals.  [``low``, ``high``] is the central 95 % of the differences in bootstrap samples of images and of seeds,
    the same samples for both systems; BLEU and noun scores are those of the whole sample, from summed counts, and
    samples that name no noun at all are left out.  None where a score is not known.  ``purpose`` chooses the samples:
    comparisons with the same one, and as many images and seeds, share them, so that the same pair has the same interval
    wherever it is shown.

    Raises BncapError for a run that is missing, was not scored on the split, or has other images than its counterpart.
    """
    seeds, read = config.seeds(first_seed), {}
    records = []
    for variant, against, split in pairs:
        for name in (variant, against):
            if (name, split) not in read:
                read[name, split] = _system(config, name, seeds, split, purpose)
        records += _differences((variant, against, split), read[variant, split], read[against, split])
    return records


def of_table(config: Config, first_seed: int, name: str, variants: Sequence[str] = ()) -> list[dict[str, Any]]:
    """:func:`of_pairs` of a table's rows, or those of other ``variants``, each record with ``table`` and ``relation``.

    ``relation`` is ``"base"`` for the comparison with cross-entropy alone on the same data and split, and ``"above"``
    for that with the row above in the same split.
    """
    variants = variants or TABLES[name].variants
    splits = [split for split in TABLES[name].splits if _scored(config, first_seed, variants[0], split)]
    pairs, relations = [], []
    for split in splits:
        for above, variant in zip((None, *variants), variants, strict=False):
            base = PART_BASE if variant in SENSITIVITY else BASE
            for relation, against in ((TO_BASE, base), (TO_ABOVE, above)):
                if against not in (None, variant):
                    pairs.append((variant, against, split))
                    relations.append(relation)
    records = of_pairs(config, first_seed, dict.fromkeys(pairs))
    by_pair = {pair: [r for r in records if (r["variant"], r["against"], r["split"]) == pair] for pair in pairs}
    return [
        {"table": name, "relation": relation, **record}
        for pair, relation in zip(pairs, relations, strict=True)
        for record in by_pair[pair]
    ]


def against_base(config: Config, first_seed: int) -> list[dict[str, Any]]:
    """:func:`of_pairs` of every variant of Tables 1 and 3 against cross-entropy alone, on both test splits."""
    variants = [name for name in (*VARIANTS, *BASELINES) if name != BASE]
    return of_pairs(config, first_seed, [(name, BASE, split) for name in variants for split in paper.SPLITS])


def write(config: Config, name: str, records: Sequence[dict[str, Any]]) -> Path:
    """Write ``records`` as a CSV; returns its path.  What is not known is empty.

    For one of the tables it is ``figures/<profile>/<name>_differences.csv`` with the columns :data:`TABLE_COLUMNS`, for
    another ``name`` ``<name>.csv`` with :data:`COLUMNS`.
    """
    path = _path(config.profile, name)
    frame = pd.DataFrame(list(records), columns=list(TABLE_COLUMNS if name in TABLES else COLUMNS))
    artifacts.write_text(path, frame.to_csv(index=False, lineterminator="\n"))
    return path


def read(config: Config, name: str) -> list[dict[str, Any]]:
    """The records of :func:`write`, None for what is not known; BncapError if the file is missing."""
    path = _path(config.profile, name)
    if not path.is_file():
        raise BncapError(f"{path} is missing: the notebook that writes the table {name!r} writes it too")
    frame = pd.read_csv(path).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


@dataclass(frozen=True)
class System:
    """A variant's runs on a split: the images, metric -> mean over the seeds, and in each of R samples (R,)."""

    images: tuple[str, ...]
    seeds: int
    means: dict[str, float]
    replicates: dict[str, np.ndarray]


def _system(config: Config, variant: str, seeds: Sequence[int], split: str, purpose: str) -> System:
    runs = [caption_scores.read(artifacts.require(folder_of(config, variant, seed)), split) for seed in seeds]
    for seed, run in zip(seeds, runs, strict=True):
        _same_images(runs[0].images, run.images, f"{variant}-s{seeds[0]}", f"{variant}-s{seed}", split)
    samples = _samples(len(runs[0].images), len(seeds), purpose)
    by_seed = [run.scores(samples.items) for run in runs]
    replicates = {
        metric: samples.over_seeds(np.stack([scores[metric] for scores in by_seed], axis=1)) for metric in by_seed[0]
    }
    saved = [read_scores(config, variant, seed)[split] for seed in seeds]
    means = {metric: spread([scores.get(metric, math.nan) for scores in saved])[0] for metric in METRICS}
    return System(runs[0].images, len(seeds), means, replicates)


def _differences(pair: Pair, a: System, b: System) -> list[dict[str, Any]]:
    variant, against, split = pair
    _same_images(a.images, b.images, variant, against, split)
    records = []
    for metric in METRICS:
        if metric not in a.replicates or metric not in b.replicates:
            continue  # the pictures' objects are not known
        first, second = a.means[metric], b.means[metric]
        replicates = a.replicates[metric] - b.replicates[metric]
        found = _interval(round(first - second, DIGITS), replicates[~np.isnan(replicates)])
        values = {"first": first, "second": second, "difference": found.value, "low": found.low, "high": found.high}
        records.append({
            "variant": variant, "against": against, "split": split, "metric": metric,
            **{name: None if math.isnan(value) else value for name, value in values.items()},
            "level": found.level, "images": len(a.images), "seeds": a.seeds, "excludes_zero": found.excludes_zero,
        })  # fmt: skip
    return records


def _interval(difference: float, replicates: np.ndarray) -> stats.Interval:
    """Rounded before it is judged, so that a mark and the bounds beside it cannot disagree."""
    if math.isnan(difference) or not len(replicates):
        return stats.Interval(math.nan, math.nan, math.nan)
    found = stats.interval(difference, replicates)
    return stats.Interval(difference, round(found.low, DIGITS), round(found.high, DIGITS), found.level)


@functools.lru_cache(maxsize=4)
def _samples(images: int, seeds: int, purpose: str) -> stats.Resamples:
    return stats.resamples(images, seeds, seed=zlib.crc32(purpose.encode()))


def _same_images(a: tuple[str, ...], b: tuple[str, ...], first: str, second: str, split: str) -> None:
    if a != b:
        odd = min(set(a) ^ set(b), default="their order")
        raise BncapError(
            f"{first} and {second} were scored on other images of split {split} ({odd}): run both on the same data"
        )


def _scored(config: Config, first_seed: int, variant: str, split: str) -> bool:
    """Data of one's own have one test set."""
    return split in read_scores(config, variant, config.seeds(first_seed)[0])


def _path(profile: str, name: str) -> Path:
    return paths.figures_dir(profile) / (f"{name}_differences.csv" if name in TABLES else f"{name}.csv")
