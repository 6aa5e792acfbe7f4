"""The effect of the verification threshold (Eq. 4): the captioner trained on pairs that each threshold accepts.

For each of :data:`bncap.config.FILTERS` as many pairs are drawn, so that the thresholds differ in what they let in and
not in how much.  Held-out pairs are those of the default threshold throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bncap.config import BASE, FILTERS
from bncap.data.corpus import find_valid
from bncap.data.pairs import Pair, read_corpus
from bncap.encoders import features
from bncap.errors import BncapError
from bncap.experiments import comparisons, estimates, paper
from bncap.experiments.runs import inputs_of, run_variants
from bncap.pipeline import artifacts, hub, paths
from bncap.settings import Config, override
from bncap.synthesis.generate import TRIPLETS_HEADER, draw_pairs

TABLE_COLUMNS = (
    "threshold", "split", "metric", "accepted", "pairs", "faulty_pairs", "mean", "std", "difference", "low", "high",
    "excludes_zero",
)  # fmt: skip


def run_filters(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """:func:`build_pairs`, make their features, train and score with each seed; the folders by (filter, seed)."""
    drawn = build_pairs(config)
    _build_features(config, drawn)
    return run_variants(config, drawn, seeds)


def threshold_of(name: str) -> float:
    """The threshold τ of one of :data:`FILTERS`."""
    return override(Config(), FILTERS[name].overrides).data.threshold


def build_pairs(config: Config) -> list[str]:
    """Write ``pairs-<filter>-s<seed>`` for each filter, with ``triplets.csv`` and ``counts.json``; the filters drawn.

    A filter that accepts fewer pairs than make a batch is left out, and a line says so: a verifier that was not trained
    may refuse all.  Raises :class:`BncapError` if fewer than two are left to be compared.
    """
    corpus = _corpus(config)
    candidates = _read_candidates(corpus)
    most = {}
    for name in FILTERS:
        passed = accepted_pairs(config, candidates, threshold_of(name))
        most[name] = len(_draw(config, passed, config.data.triplets))
        if most[name] < config.train.batch:
            print(f"{name}: {len(passed)} of {len(candidates)} pairs are accepted, too few to train on; left out")
            del most[name]
    if len(most) < 2:
        raise BncapError(
            f"{paths.short_name(corpus)}: fewer than two of the thresholds accept enough pairs to train on; enlarge "
            "the corpus, or train.batch=N with a smaller N"
        )
    for name in most:
        _write_pairs(config, name, candidates, min(most.values()))
    return list(most)


def _read_candidates(corpus: Path) -> list[Pair]:
    """Every training caption with its translation, accepted or not, whose picture can be used."""
    images = {row["image_id"]: row["image"] for row in artifacts.read_csv(corpus / "splits" / "train.csv")}
    pairs = []
    for table in sorted((corpus / "shards").glob("*.csv")):
        for row in artifacts.read_csv(table):
            if (image_id := row["image_id"]) in images:
                similarity = float(row["similarity"]) if row["similarity"] else None
                ids = int(row["caption_id"]), image_id, images[image_id]
                pairs.append(Pair(*ids, "train", row["en"], row["target"], similarity))
    return pairs


def accepted_pairs(config: Config, pairs: Sequence[Pair], threshold: float) -> list[Pair]:
    """Those of ``pairs`` that the corpus would hold had ``data.threshold`` been ``threshold``."""
    similarity = np.array([np.nan if pair.similarity is None else pair.similarity for pair in pairs])
    en, target = [pair.en for pair in pairs], [pair.target for pair in pairs]
    valid = find_valid(en, target, similarity, threshold, reject_copies=config.data.reject_copies)
    return [pair for pair, accepted in zip(pairs, valid, strict=True) if accepted]


def _build_features(config: Config, names: Sequence[str]) -> Path:
    """``features-s<seed>``: the pictures of all filters' pairs as one training set, and those of the other splits."""
    corpus, drawn = _corpus(config), [inputs_of(config, name).triplets for name in names]

    def build(folder: Path) -> None:
        pictures = sorted({row["image"] for pairs in drawn for row in artifacts.read_csv(pairs / "triplets.csv")})
        sets = {"train": paths.data_paths(config, pictures)}
        held_out = read_corpus(corpus)
        for split in features.EVALUATION_SETS:
            sets[split] = paths.data_paths(config, (pair.image for pair in held_out if pair.split == split))
        features.extract(hub.path(config, config.components.encoder), config.features, sets, folder)

    return artifacts.run_step(
        inputs_of(config, names[0]).features,
        settings={"encoder": config.components.encoder, **asdict(config.features)},
        inputs=[corpus, *drawn, *(paths.dataset_roots(config)[:1] if config.data.source == "mini" else ())],
        components=[config.components.encoder],
        build=build,
        config=config,
    )


def drawn_filters(config: Config) -> list[str]:
    """Those of :data:`FILTERS` for which :func:`build_pairs` drew pairs."""
    return [name for name in FILTERS if artifacts.is_finished(inputs_of(config, name).triplets)]


def summarise_filters(config: Config, first_seed: int) -> dict[str, Any]:
    """What :func:`run_filters` left.

    - ``pairs``: for each threshold how many of the candidates it accepts, how many were drawn, and the share of faulty
      translations among either, per cent, None where faults are not known;
    - ``scores``: mean and sample standard deviation over seeds by filter, split and metric;
    - ``differences``: records of :func:`bncap.experiments.comparisons.compare_pairs`, each filter against the lowest
      threshold;
    - ``twin``: the same of the filter whose pairs are those of :data:`bncap.config.BASE`, against that run; what it
      shows is the scatter of two trainings that differ in the last bit of some features.  Empty where there is none.

    Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    names = drawn_filters(config)
    records: list[dict[str, Any]] = []
    for name in names:
        runs = [comparisons.read_scores(config, name, seed) for seed in config.seeds(first_seed)]
        for split, metric in itertools.product(paper.SPLITS, comparisons.METRICS):
            if metric in runs[0].get(split, {}):
                values = comparisons.seed_mean_std([run[split][metric] for run in runs])
                mean, std = map(estimates.rounded, values)
                same = {"filter": name, "threshold": threshold_of(name), "split": split, "metric": metric}
                records.append({**same, "mean": mean, "std": std, "seeds": len(runs)})
    splits, twin = dict.fromkeys(record["split"] for record in records), twin_of_base(config)
    pairs: list[comparisons.Pair] = [(name, names[0], split) for name in names[1:] for split in splits]
    twins: list[comparisons.Pair] = [(twin, BASE, split) for split in splits if twin]
    return {
        "pairs": [artifacts.read_json(inputs_of(config, name).triplets / "counts.json") for name in names],
        "scores": records,
        "differences": comparisons.compare_pairs(config, first_seed, pairs),
        "twin": comparisons.compare_pairs(config, first_seed, twins),
    }


def twin_of_base(config: Config) -> str | None:
    """The filter whose pairs are those of the default corpus, line by line; None if there is none."""
    names = (BASE, *drawn_filters(config))
    tables = {name: artifacts.read_csv(inputs_of(config, name).triplets / "triplets.csv") for name in names}
    ids = {name: [row["caption_id"] for row in table] for name, table in tables.items()}
    return next((name for name in names[1:] if ids[name] == ids[BASE]), None)


def write_filters(config: Config, content: dict[str, Any]) -> Path:
    """``figures/<profile>/filter.csv`` from :func:`summarise_filters`: a row for each threshold, split and metric."""
    pairs = pd.DataFrame(content["pairs"]).drop(columns="threshold")
    differences = pd.DataFrame(content["differences"], columns=list(comparisons.COLUMNS), dtype=object)
    differences = differences.rename(columns={"variant": "filter"}).drop(columns="seeds")
    frame = pd.DataFrame(content["scores"]).astype({"mean": object, "std": object}).merge(pairs, on="filter")
    frame = frame.merge(differences, how="left", on=["filter", "split", "metric"])
    frame = frame.astype(object).where(frame.notna(), None)
    path = paths.figures_dir(config.profile) / "filter.csv"
    return estimates.write_csv(path, frame.to_dict("records"), TABLE_COLUMNS)


def _write_pairs(config: Config, name: str, candidates: Sequence[Pair], size: int) -> None:
    passed = accepted_pairs(config, candidates, threshold_of(name))

    def build(folder: Path) -> None:
        pairs = _draw(config, passed, size)
        rows = [(pair.caption_id, pair.image_id, pair.image, "", pair.en, pair.target) for pair in pairs]
        artifacts.write_csv(folder / "triplets.csv", TRIPLETS_HEADER, rows)
        counts = {"filter": name, "threshold": threshold_of(name), "candidates": len(candidates)}
        counts |= {"accepted": len(passed), "pairs": len(pairs), "pictures": len({pair.image for pair in pairs})}
        for part, chosen in (("accepted", passed), ("pairs", pairs)):
            counts[f"faulty_{part}"] = _faulty_share(_corpus(config), chosen)
        artifacts.write_json(folder / "counts.json", counts)

    data = config.data
    settings = {"threshold": threshold_of(name), "pairs": size, "reject_copies": data.reject_copies, "seed": data.seed}
    settings["captions_per_image"] = data.captions_per_image
    folder = inputs_of(config, name).triplets
    artifacts.run_step(folder, settings=settings, inputs=[_corpus(config)], build=build, config=config)


def _faulty_share(corpus: Path, pairs: Sequence[Pair]) -> float | None:
    """Per cent of ``pairs`` whose translation is faulty; None where the translator cannot tell."""
    if not (corpus / "faults.csv").is_file():
        return None
    faulty = {row["caption_id"] for row in artifacts.read_csv(corpus / "faults.csv") if row["split"] == "train"}
    return round(100 * sum(str(pair.caption_id) in faulty for pair in pairs) / len(pairs), 2)


def _draw(config: Config, pairs: Sequence[Pair], size: int) -> list[Pair]:
    return draw_pairs(pairs, size, config.data.captions_per_image, config.data.seed)


def _corpus(config: Config) -> Path:
    return artifacts.require(paths.step_dir(config.profile, "01_data_build", "corpus", config.data.seed))
