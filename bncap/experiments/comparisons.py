"""What finished runs give: scores and their differences with intervals, training losses, diversity of captions.

Differences are of two systems on the same pictures and seeds, with intervals over both.
"""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bncap import metrics, stats
from bncap.config import BASE, BASELINES, MAIN, PART_BASE, SENSITIVITY, VARIANTS
from bncap.data.pairs import collect_references, read_corpus
from bncap.errors import BncapError
from bncap.experiments import estimates, paper
from bncap.experiments.estimates import DIGITS, rounded
from bncap.experiments.evaluate import read_caption_scores
from bncap.experiments.runs import TABLES, run_dir, weights_dir
from bncap.pipeline import artifacts, hub, paths
from bncap.settings import Config
from bncap.text import iso, tokenise

METRICS = (*paper.METRICS, "noun_precision", "noun_recall")
TO_BASE, TO_ABOVE = "base", "above"
COLUMNS = (
    "variant", "against", "split", "metric", "first", "second", "difference", "low", "high", "level", "images", "seeds",
    "excludes_zero",
)  # fmt: skip
TABLE_COLUMNS = ("table", "relation", *COLUMNS)

CONVERGENCE_VARIANTS = (BASE, "pal", MAIN)
LOSSES = {
    "ce_on_the_way": "cross-entropy, mean over all steps",
    "ce_at_the_end": "cross-entropy, mean over the last epoch",
    "total_at_the_end": "total loss, mean over the last epoch",
    "ce_held_out": "cross-entropy on held-out captions, best epoch",
}
"""Measures of convergence; cross-entropy in nats a token, the total in nats and weighted terms."""

REFERENCE = "references"
"""Stands in the place of a variant for the reference captions of the same pictures."""
DIVERSITY = ("distinct", "vocabulary", "mean_length", "most_frequent_share")
DIVERSITY_COLUMNS = ("variant", "split", *DIVERSITY, "most_frequent", "degenerate", "captions", "seeds")
DEGENERATE = 50
"""Per cent of the pictures: a run that gives more than this share of them one caption is degenerate."""

STYLES = ("real", "ood", "synthetic")

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

    ``first`` and ``second`` are the means over the seeds as the tables have them, 0 to 100.  [``low``, ``high``] is the
    central 95 % of the differences in bootstrap samples of images and of seeds, the same for both systems and, with the
    same ``purpose``, for all pairs; BLEU and noun scores are those of the whole sample, from summed counts, and samples
    that name no noun at all are left out.  None where a score is not known.

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
    samples = stats.resamples(len(runs[0].images), len(seeds), seed=zlib.crc32(purpose.encode()))
    by_seed = [run.corpus_scores(samples.items) for run in runs]
    replicates = {m: samples.over_seeds(np.stack([s[m] for s in by_seed], axis=1)) for m in by_seed[0]}
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
        replicates = a.replicates[metric] - b.replicates[metric]
        difference = estimates.bootstrap_estimate("difference", round(first - second, DIGITS), replicates)
        records.append({
            "variant": variant, "against": against, "split": split, "metric": metric,
            "first": rounded(first), "second": rounded(second), **difference,
            "level": stats.LEVEL, "images": len(a.images), "seeds": a.seeds,
        })  # fmt: skip
    return records


def _check_same_images(a: tuple[str, ...], b: tuple[str, ...], first: str, second: str, split: str) -> None:
    if a != b:
        odd = min(set(a) ^ set(b), default="their order")
        raise BncapError(
            f"{first} and {second} were scored on other images of split {split} ({odd}): run both on the same data"
        )


def _differences_file(profile: str, name: str) -> Path:
    return paths.figures_dir(profile) / (f"{name}_differences.csv" if name in TABLES else f"{name}.csv")


def summarise_convergence(config: Config, first_seed: int) -> dict[str, list[dict[str, Any]]]:
    """Training losses from the logs of finished runs.

    ``rows``: variant, measure (:data:`LOSSES`), mean and deviation over the seeds; ``differences`` from cross-entropy
    alone, with Student's t intervals over the seeds.
    """
    seeds = config.seeds(first_seed)
    losses = {variant: {s: _read_losses(config, variant, s) for s in seeds} for variant in CONVERGENCE_VARIANTS}
    rows, differences = [], []
    for measure in LOSSES:
        by_variant = {v: {seed: values[measure] for seed, values in runs.items()} for v, runs in losses.items()}
        for variant, values in by_variant.items():
            mean, std = map(rounded, stats.mean_std(list(values.values())))
            rows.append({"variant": variant, "measure": measure, "mean": mean, "std": std, "seeds": len(values)})
        for variant in CONVERGENCE_VARIANTS[1:]:
            difference = estimates.seed_difference(by_variant[variant], by_variant[BASE])
            differences.append({"variant": variant, "against": BASE, "measure": measure, **difference})
    return {"rows": rows, "differences": differences}


def _read_losses(config: Config, variant: str, seed: int) -> dict[str, float]:
    weights = artifacts.require(weights_dir(config, variant, seed))
    steps = pd.read_csv(weights / "steps.csv", float_precision="round_trip")
    last = last_epoch(steps)
    validation = pd.read_csv(weights / "validation.csv", float_precision="round_trip")
    return {
        "ce_on_the_way": float(steps["ce"].mean()),
        "ce_at_the_end": float(last["ce"].mean()),
        "total_at_the_end": float(last["total"].mean()),
        "ce_held_out": float(validation["ce"].min()),
    }


def last_epoch(steps: pd.DataFrame) -> pd.DataFrame:
    """The rows of a run's ``steps.csv`` that belong to its last epoch."""
    return steps[steps["epoch"] == steps["epoch"].iloc[-1]]


def summarise_diversity(config: Config, first_seed: int) -> list[dict[str, Any]]:
    """A record for each split and each variant of Tables 1 and 3, and first for the references.

    - ``distinct`` and ``most_frequent_share`` (per cent), ``vocabulary`` (words) and ``mean_length`` (tokens): means
      over the seeds of :func:`bncap.metrics.diversity`;
    - ``most_frequent``: the most frequent caption of all seeds' runs together;
    - ``degenerate``: in some seed's run one caption stands under more than :data:`DEGENERATE` per cent of the pictures;
    - ``lengths``: per cent of the captions that have 0, 1, 2, ... tokens, over all seeds.

    For the references one caption of each picture is drawn with each seed, so that there are as many as a run has.
    Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    corpus = paths.step_dir(config.profile, "01_data_build", "corpus", config.data.seed)
    pairs, seeds, records = read_corpus(corpus), config.seeds(first_seed), []
    for split in paper.SPLITS:
        images, refs = collect_references(pairs, split)
        drawn = [[rng.choice(captions) for captions in refs] for rng in map(random.Random, seeds)]
        records.append(_measure_diversity(config, REFERENCE, split, drawn))
        for variant in (*VARIANTS, *BASELINES):
            folders = [artifacts.require(run_dir(config, variant, seed)) for seed in seeds]
            tables = [artifacts.read_csv(folder / f"captions_{split}.csv") for folder in folders]
            if len(tables[0]) != len(images):
                raise BncapError(
                    f"{variant} has {len(tables[0])} captions of the {len(images)} pictures of split {split}; "
                    "score it again"
                )
            captions = [[row["caption"] for row in table] for table in tables]
            records.append(_measure_diversity(config, variant, split, captions))
    return records


def write_diversity(config: Config, records: Sequence[dict[str, Any]]) -> Path:
    """``figures/<profile>/diversity.csv``, a row for each record of :func:`summarise_diversity`."""
    return estimates.write_csv(paths.figures_dir(config.profile) / "diversity.csv", records, DIVERSITY_COLUMNS)


def _measure_diversity(config: Config, variant: str, split: str, runs: Sequence[Sequence[str]]) -> dict[str, Any]:
    lang = iso(config.data.lang)
    by_seed = [metrics.diversity(captions, lang) for captions in runs]
    together = [caption for captions in runs for caption in captions]
    lengths = Counter(len(tokenise(caption, lang)) for caption in together)
    return {
        "variant": variant,
        "split": split,
        **{name: rounded(float(np.mean([run[name] for run in by_seed]))) for name in DIVERSITY},
        "most_frequent": metrics.diversity(together, lang)["most_frequent"],
        "degenerate": max(run["most_frequent_share"] for run in by_seed) > DEGENERATE,
        "lengths": [rounded(100 * lengths[n] / len(together)) for n in range(max(lengths) + 1)],
        "captions": len(runs[0]),
        "seeds": len(runs),
    }


def score_shuffled(config: Config, variant: str, seed: int) -> list[dict[str, Any]]:
    """Scores of a run's captions with their own references and with those of the next picture, which they were not
    written for: how much a sentence of the right style earns without the picture.

    A record for each test split and metric (B1, B4, METEOR; 0 to 100) with ``own`` and ``next``.
    """
    pairs = read_corpus(paths.step_dir(config.profile, "01_data_build", "corpus", config.data.seed))
    folder, records = artifacts.require(run_dir(config, variant, seed)), []
    for split in paper.SPLITS:
        _, refs = collect_references(pairs, split)
        if not refs:
            continue
        texts = [row["caption"] for row in artifacts.read_csv(folder / f"captions_{split}.csv")]
        own, other = (metrics.score(order, refs, config.data.lang) for order in (texts, texts[-1:] + texts[:-1]))
        records += [{"split": split, "metric": m, "own": own[m], "next": other[m]} for m in ("B1", "B4", "METEOR")]
    return records


def encoder_accuracy(config: Config) -> dict[str, dict[str, float]]:
    """How well the frozen encoders of Table 1 tell kinds of objects in the mini world: per cent of object cells, by
    style of picture (:data:`STYLES`), keyed by the label of the captioner.

    Raises BncapError where notebook 00 has not been run.
    """
    parts, accuracy = config.components, {}
    for variant, name in {MAIN: parts.encoder, "vit_gpt2": parts.vit, "cnn_lstm": parts.cnn}.items():
        folder = Path(hub.path(config, name))
        if (folder / "card.json").is_file():  # the encoder that ships with the package
            kinds = {style: a["kind"] for style, a in artifacts.read_json(folder / "card.json")["accuracy"].items()}
        else:
            figures = artifacts.read_json(artifacts.require(folder) / "figures.json")
            kinds = {style: figures[f"kind_{style}"] for style in STYLES}
        accuracy[paper.label(variant)] = {style: round(100 * kinds[style], 2) for style in STYLES}
    return accuracy
