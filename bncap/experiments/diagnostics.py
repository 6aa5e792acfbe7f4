"""What else tells how runs went: training losses (Sec. 5.6), diversity of captions, accuracy of the frozen encoders."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bncap import metrics
from bncap.config import BASE, BASELINES, MAIN, VARIANTS
from bncap.data.pairs import collect_references, read_corpus
from bncap.errors import BncapError
from bncap.experiments import estimates, paper
from bncap.experiments.estimates import rounded
from bncap.experiments.runs import run_dir, weights_dir
from bncap.pipeline import artifacts, hub, paths
from bncap.settings import Config
from bncap.stats import mean_std
from bncap.text import iso, tokenise

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
            mean, std = map(rounded, mean_std(list(values.values())))
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
        runs = {REFERENCE: [_draw_references(refs, seed) for seed in seeds]}
        for variant in (*VARIANTS, *BASELINES):
            runs[variant] = [_read_captions(config, variant, seed, split) for seed in seeds]
            if len(runs[variant][0]) != len(images):
                raise BncapError(
                    f"{variant} has {len(runs[variant][0])} captions of the {len(images)} pictures of split {split}; "
                    "score it again"
                )
        records += [_measure_diversity(config, variant, split, captions) for variant, captions in runs.items()]
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


def _draw_references(refs: Sequence[Sequence[str]], seed: int) -> list[str]:
    rng = random.Random(seed)
    return [rng.choice(captions) for captions in refs]


def _read_captions(config: Config, variant: str, seed: int, split: str) -> list[str]:
    folder = artifacts.require(run_dir(config, variant, seed))
    return [row["caption"] for row in artifacts.read_csv(folder / f"captions_{split}.csv")]


def score_shuffled(config: Config, variant: str, seed: int) -> list[dict[str, Any]]:
    """Scores of a run's captions with their own references and with those of the next picture, which they were not
    written for: how much a sentence of the right style earns without the picture.

    A record for each test split and metric (B1, B4, METEOR; 0 to 100) with ``own`` and ``next``.
    """
    pairs = read_corpus(paths.step_dir(config.profile, "01_data_build", "corpus", config.data.seed))
    records = []
    for split in paper.SPLITS:
        _, refs = collect_references(pairs, split)
        if not refs:
            continue
        texts = _read_captions(config, variant, seed, split)
        own, other = (metrics.score(order, refs, config.data.lang) for order in (texts, texts[-1:] + texts[:-1]))
        records += [{"split": split, "metric": m, "own": own[m], "next": other[m]} for m in ("B1", "B4", "METEOR")]
    return records


def encoder_accuracy(config: Config) -> dict[str, dict[str, float]]:
    """How well the frozen encoders of Table 1 tell kinds of objects in the mini world: per cent of object cells, by
    style of picture (:data:`STYLES`), keyed by the label of the captioner.

    Raises BncapError where notebook 00 has not been run.
    """
    parts = config.components
    accuracy = {}
    for variant, name in {MAIN: parts.encoder, "vit_gpt2": parts.vit, "cnn_lstm": parts.cnn}.items():
        folder = Path(hub.path(config, name))
        if (folder / "card.json").is_file():  # the encoder that ships with the package
            kinds = {style: a["kind"] for style, a in artifacts.read_json(folder / "card.json")["accuracy"].items()}
        else:
            figures = artifacts.read_json(artifacts.require(folder) / "figures.json")
            kinds = {style: figures[f"kind_{style}"] for style in STYLES}
        accuracy[paper.label(variant)] = {style: round(100 * kinds[style], 2) for style in STYLES}
    return accuracy
