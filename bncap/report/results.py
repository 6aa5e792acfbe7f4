"""``results.json``: every number of the tables, the figures and the report, with what it was measured on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from bncap.config import BASE, COMPARED
from bncap.experiments import alignment, comparisons, estimates, grounding, paper
from bncap.experiments.comparisons import read_scores, seed_mean_std
from bncap.experiments.estimates import DIGITS, rounded
from bncap.experiments.runs import TABLES
from bncap.pipeline import artifacts, paths
from bncap.settings import Config

NOUNS = ("noun_precision", "noun_recall")
FIG3 = {"centroid_distance": paper.CENTROID_DISTANCE, "mmd": paper.MMD}
"""What the paper prints of Fig. 3."""
VARIETY = ("distinct", "vocabulary", "mean_length", "most_frequent_share")


def write_results(config: Config, first_seed: int) -> Path:
    """Write every number behind the tables, the figures and the report to ``figures/<profile>/results.json``.

    - ``results``: a record for each variant, seed, split and metric, with ``value`` and the scores' ``signature``;
    - ``summary``: mean and sample standard deviation over the seeds, with what the paper prints;
    - ``differences``: each row of each table against cross-entropy alone and against the row above it, and ``pairs``,
      all others that are compared, with their intervals (:mod:`bncap.experiments.comparisons`);
    - ``grounding``, ``alignment``, ``convergence``, ``diversity``: what their ``summarise_...`` function gives;
    - ``readings``, ``error_analysis``: what notebooks 11 and 12 last found, with its date and commit; null before;
    - ``encoders``: how well those of Table 1 tell kinds in the mini world, else null;
    - ``claims``: the paper's claims, each with a verdict; ``paper``: what it prints of Fig. 3.

    A number that is not known is null.  Nothing in the file depends on when or how fast it was made.
    Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    seeds = config.seeds(first_seed)
    records = [record for variant in COMPARED for seed in seeds for record in _records(config, variant, seed)]
    records.sort(key=lambda r: (r["variant"], r["split"], r["metric"], r["seed"]))
    content = {
        "profile": config.profile,
        "seeds": list(seeds),
        "results": records,
        "summary": _summary(records),
        "differences": [record for name in TABLES for record in comparisons.compare_table(config, first_seed, name)],
        "pairs": comparisons.compare_with_base(config, first_seed)
        + comparisons.compare_pairs(config, first_seed, [pair for pair in paper.score_pairs() if pair[1] != BASE]),
        "grounding": grounding.summarise_grounding(config, first_seed),
        "alignment": alignment.summarise_alignment(config, first_seed),
        "convergence": comparisons.summarise_convergence(config, first_seed),
        "diversity": comparisons.summarise_diversity(config, first_seed),
        **{name: estimates.read_extended(config.profile, name) for name in estimates.EXTENDED},
        "encoders": comparisons.encoder_accuracy(config) if config.data.source == "mini" else None,
        "paper": {name: {**asdict(change), "change": round(change.relative, DIGITS)} for name, change in FIG3.items()},
    }
    content["claims"] = paper.check_claims(content)
    path = paths.figures_dir(config.profile) / "results.json"
    artifacts.write_json(path, content)
    return path


def _records(config: Config, variant: str, seed: int) -> list[dict[str, Any]]:
    records = []
    for split, scores in read_scores(config, variant, seed).items():
        values = {metric: scores[metric] for metric in (*paper.METRICS, "images")}
        values |= {metric: scores[metric] for metric in NOUNS if metric in scores}
        values |= {metric: scores["diversity"][metric] for metric in VARIETY}
        same = {"variant": variant, "seed": seed, "split": split, "signature": scores["signature"]}
        records += [{**same, "metric": metric, "value": rounded(value)} for metric, value in values.items()]
    return records


def _summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    summary = []
    for (variant, split, metric), group in pd.DataFrame(records).groupby(["variant", "split", "metric"]):
        mean, std = seed_mean_std(group["value"].astype(float))
        printed = {place: row[metric] for place, row in paper.printed(variant, split).items() if metric in row}
        entry = {"variant": variant, "split": split, "metric": metric, "mean": rounded(mean), "std": rounded(std)}
        summary.append({**entry, "seeds": len(group), "paper": printed})
    return summary
