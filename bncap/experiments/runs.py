"""The runs behind every table: which variants, which seeds, where each run lies; each is trained and scored once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from bncap.config import (
    ALL_VARIANTS,
    BASE,
    BASELINES,
    FILTERS,
    MAIN,
    READINGS,
    REFERENCES,
    SENSITIVITY,
    VARIANTS,
    Variant,
)
from bncap.data.pairs import read_corpus
from bncap.device import default_device
from bncap.encoders.features import FeatureStore, build_features
from bncap.errors import BncapError
from bncap.experiments import evaluate, training
from bncap.pipeline import artifacts, paths, workers
from bncap.settings import Config, override

TRAINING = "04_training"
BASELINE = "05_baselines"
ABLATION = "06_ablations"
SENSITIVITY_STEP = "07_sensitivity"
READING_STEP = "11_readings"
FILTER_STEP = "12_error_analysis"

TRAINED_BY: Mapping[str, Mapping[str, Variant]] = {
    TRAINING: {name: VARIANTS[name] for name in (BASE, MAIN)},
    BASELINE: BASELINES,
    ABLATION: {name: variant for name, variant in VARIANTS.items() if name not in (BASE, MAIN)},
    SENSITIVITY_STEP: REFERENCES | SENSITIVITY,
    READING_STEP: READINGS,
    FILTER_STEP: FILTERS,
}
"""Notebook -> the variants that it trains.  Every variant of :data:`bncap.config.ALL_VARIANTS` stands here once."""


@dataclass(frozen=True)
class Table:
    """What a table holds: its number in the paper, the variants of its rows, and their splits."""

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
"""Table -> its rows.  A new entry of :data:`bncap.config.VARIANTS` is trained by notebook 06 and a row of Table 3."""


@dataclass(frozen=True)
class Inputs:
    """Step folders that a run reads: pairs of all splits, its training triplets, features of their pictures."""

    corpus: Path
    triplets: Path
    features: Path


def step_of(variant: str) -> str:
    """The notebook that trains ``variant``."""
    for step, variants in TRAINED_BY.items():
        if variant in variants:
            return step
    raise BncapError(f"unknown variant {variant!r}: choose one of {', '.join(ALL_VARIANTS)}")


def run_dir(config: Config, variant: str, seed: int) -> Path:
    """The step folder of the captions and scores of a run."""
    return paths.step_dir(config.profile, step_of(variant), variant, seed)


def weights_dir(config: Config, variant: str, seed: int) -> Path:
    """The step folder of the weights and the training log of a run."""
    return paths.step_dir(config.profile, step_of(variant), f"{variant}.weights", seed)


def inputs_of(config: Config, variant: str) -> Inputs:
    """Where the data of ``variant`` lie."""
    features = "02_synthesis", "features"
    if variant in BASELINES:
        features = BASELINE, f"features-{encoder_part(variant)}"
    elif variant in READINGS and config.features.penultimate:
        features = READING_STEP, "features"
    elif variant in FILTERS:
        features = FILTER_STEP, "features"
    triplets = (FILTER_STEP, f"pairs-{variant}") if variant in FILTERS else ("02_synthesis", "images")
    steps = (("01_data_build", "corpus"), triplets, features)
    return Inputs(*(paths.step_dir(config.profile, *step, config.data.seed) for step in steps))


def encoder_part(variant: str) -> str:
    """The field of ``config.components`` that names the encoder of ``variant``."""
    return variant.partition("_")[0] if variant in BASELINES else "encoder"


def trainable(config: Config) -> dict[str, Variant]:
    """The variants of notebook 04: cross-entropy alone and, where captions have pictures, the full objective."""
    images = paths.step_dir(config.profile, "02_synthesis", "images", config.data.seed)
    paired = artifacts.read_json(artifacts.require(images) / "counts.json")["paired"]
    return {name: VARIANTS[name] for name in ((BASE, MAIN) if paired else (BASE,))}


def run_main(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 04: the variants of :func:`trainable`."""
    return run_variants(config, trainable(config), seeds)


def run_baselines(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 05: the two captioners of Table 1, on features of their own encoders."""
    for part in map(encoder_part, BASELINES):
        build_features(config, getattr(config.components, part), BASELINE, f"features-{part}", with_synthetic=False)
    return run_variants(config, BASELINES, seeds)


def run_ablations(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 06: the variants of Table 3 that notebook 04 has not trained."""
    return run_variants(config, TRAINED_BY[ABLATION], seeds)


def run_sensitivity(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 07: the settings of Table 4, and cross-entropy alone, on a part of the triplets."""
    return run_variants(config, TRAINED_BY[SENSITIVITY_STEP], seeds)


def run_variants(config: Config, variants: Iterable[str], seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Train and score each variant with each seed; returns the folder of each run, by (variant, seed).

    Finished runs are skipped.  On a CPU the runs stand side by side, one thread each, the slowest first so that no
    worker is left alone with one; on a GPU one after the other.
    """
    runs = [(variant, seed) for seed in seeds for variant in variants]
    started = sorted(runs, key=lambda run: not _is_slow(run[0]))  # else in the given order
    arguments = [(config, *run) for run in started]
    jobs = 1 if torch.cuda.is_available() else None
    label = step_of(runs[0][0]) if runs else ""
    made = dict(zip(started, workers.run_parallel(train_and_score, arguments, jobs, label=label), strict=True))
    for run in runs:
        seconds = artifacts.read_json(made[run] / artifacts.MANIFEST)["seconds"]
        print(f"{made[run].parent.name}/{made[run].name}: {seconds:.0f} s")
    return {run: made[run] for run in runs}


def _is_slow(variant: str) -> bool:
    """Whether a run takes up to twice as long as others: an LSTM word by word, or captions on twice the pictures."""
    return variant == "cnn_lstm" or any("ce_on=real+" in change for change in ALL_VARIANTS[variant].overrides)


def train_and_score(config: Config, variant: str, seed: int) -> Path:
    """Train and score one variant, in two steps, so that other decoding settings need no new training.

    ``config`` is that of the profile; what the variant changes is put on top here.
    """
    config = override(config, ALL_VARIANTS[variant].overrides)
    _train(config, variant, seed)
    return _score(config, variant, seed)


def _train(config: Config, variant: str, seed: int) -> Path:
    data = inputs_of(config, variant)
    share = config.experiment.sensitivity_triplets if step_of(variant) == SENSITIVITY_STEP else 1.0
    decoder = config.components.gpt2 if variant == "vit_gpt2" else config.components.decoder
    encoder = getattr(config.components, encoder_part(variant))
    origin = {"variant": variant, "seed": seed, "profile": config.profile, "encoder": encoder, "pretrained": decoder}
    settings = {
        "model": asdict(config.model),
        "loss": asdict(config.loss),
        "train": asdict(config.train),
        "lang": config.data.lang,
        "share": share,
        "decoder": decoder,
        "encoder": encoder,
    }
    return artifacts.run_step(
        weights_dir(config, variant, seed),
        settings=settings,
        inputs=[data.triplets, data.corpus, data.features],
        components=[decoder],
        build=partial(training.train_run, config, origin, data.corpus, data.triplets, data.features, share),
        config=config,
        quiet=True,
    )


def _score(config: Config, variant: str, seed: int) -> Path:
    data, trained = inputs_of(config, variant), weights_dir(config, variant, seed)

    def build(folder: Path) -> None:
        model = evaluate.load_run(config, variant, trained).to(default_device())
        evaluate.evaluate(model, FeatureStore(data.features), read_corpus(data.corpus), config, folder)

    settings = {
        "decode": asdict(config.decode),
        "max_tokens": config.model.max_tokens,
        "bertscore": [config.components.bertscore, config.components.bertscore_layer],
        "lang": config.data.lang,
        "items": evaluate.SCORE_COLUMNS,
    }
    inputs = [trained, data.corpus, data.features]
    if config.data.source == "mini":
        inputs += paths.dataset_roots(config)  # the objects of its pictures
    elif config.data.source == "coco":
        inputs += evaluate.objects_files(config).values()
    return artifacts.run_step(
        run_dir(config, variant, seed),
        settings=settings,
        inputs=inputs,
        components=[config.components.bertscore],
        build=build,
        config=config,
        quiet=True,
    )
