"""How training went under each objective: cross-entropy on the way, at its end, on held-out captions (Sec. 5.6).

Read from the logs that the runs kept; losses in nats a token, the total in nats and weighted terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bncap.config import BASE, MAIN
from bncap.experiments.runs import weights_of
from bncap.experiments.scores import known
from bncap.pipeline import artifacts
from bncap.settings import Config
from bncap.stats import difference, mean_std

VARIANTS = (BASE, "pal", MAIN)
MEASURES = {
    "ce_on_the_way": "cross-entropy, mean over all steps",
    "ce_at_the_end": "cross-entropy, mean over the last epoch",
    "total_at_the_end": "total loss, mean over the last epoch",
    "ce_held_out": "cross-entropy on held-out captions, best epoch",
}


def summarise(config: Config, first_seed: int) -> dict[str, list[dict[str, Any]]]:
    """``rows``: variant, measure, mean and deviation over the seeds; ``differences`` from cross-entropy alone.

    An interval is Student's over the seeds; it is None with one seed.
    """
    seeds = config.seeds(first_seed)
    found = {variant: {seed: _measure(config, variant, seed) for seed in seeds} for variant in VARIANTS}
    rows, differences = [], []
    for measure in MEASURES:
        by_variant = {v: {seed: values[measure] for seed, values in runs.items()} for v, runs in found.items()}
        rows += [_row(variant, measure, values) for variant, values in by_variant.items()]
        for variant in VARIANTS[1:]:
            d = difference(by_variant[variant], by_variant[BASE])
            differences.append({"variant": variant, "against": BASE, "measure": measure, **d.as_record()})
    return {"rows": rows, "differences": differences}


def _measure(config: Config, variant: str, seed: int) -> dict[str, float]:
    weights = artifacts.require(weights_of(config, variant, seed))
    steps = artifacts.read_csv(weights / "steps.csv")
    last = last_epoch(steps)
    return {
        "ce_on_the_way": _mean(steps, "ce"),
        "ce_at_the_end": _mean(last, "ce"),
        "total_at_the_end": _mean(last, "total"),
        "ce_held_out": min(float(row["ce"]) for row in artifacts.read_csv(weights / "validation.csv")),
    }


def last_epoch(steps: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The rows of a run's ``steps.csv`` that belong to its last epoch."""
    return [row for row in steps if row["epoch"] == steps[-1]["epoch"]]


def _mean(rows: Sequence[Mapping[str, str]], column: str) -> float:
    return float(np.mean([float(row[column]) for row in rows]))


def _row(variant: str, measure: str, values: Mapping[int, float]) -> dict[str, Any]:
    mean, std = map(known, mean_std(list(values.values())))
    return {"variant": variant, "measure": measure, "mean": mean, "std": std, "seeds": len(values)}
