"""The training of one run: the untrained captioner of a variant, its triplets and held-out captions, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bncap.batches import Triplets
from bncap.config import BASELINES, FILTERS
from bncap.data.pairs import read_corpus
from bncap.decoders import baselines
from bncap.decoders.captioner import CaptionModel
from bncap.encoders.features import FeatureStore
from bncap.model import Captioner, build_captioner
from bncap.objective import term_weights
from bncap.pipeline import artifacts, hub
from bncap.settings import Config
from bncap.train import remove_checkpoints, train, validation_set


def train_run(
    config: Config, origin: dict[str, Any], corpus: Path, triplets: Path, features: Path, share: float, folder: Path
) -> None:
    """Train the run that ``origin`` describes and save its weights in ``folder``, or go on where it was interrupted.

    origin: ``variant``, ``seed``, ``profile``, ``encoder`` and ``pretrained``, kept beside the weights.
    corpus, triplets, features: step folders with the pairs of all splits, the training triplets, their features.
    share: the part of the triplets that is trained on, in (0, 1].

    ``initial/`` holds the state before training (of the paper's own captioners), ``best/`` that of the epoch with the
    lowest cross-entropy on held-out captions; ``steps.csv`` and ``validation.csv`` are the log.
    """
    if not (folder / "best" / "captioner.json").is_file():  # written last: only checkpoints are left to remove
        store = FeatureStore(features)
        torch.manual_seed(origin["seed"])
        model = build_model(config, origin["variant"], store, corpus, triplets)
        batches = load_triplets(config, model, store, triplets, share)
        if isinstance(model, Captioner):  # notebook 08 compares the paper's captioners with their state before training
            model.save_initial(folder / "initial", origin)
        validation = validation_set(model, store, corpus, config.model.max_tokens)
        record = train(model, batches, validation, config, origin["seed"], folder)
        model.save(folder / "best", {**origin, **record})
    remove_checkpoints(folder)


def load_triplets(
    config: Config, model: CaptionModel, store: FeatureStore, folder: Path, share: float = 1.0
) -> Triplets:
    """The training triplets of the step ``folder`` with their features in ``store`` and the labels of ``model``.

    share: the part of the triplets that is used, in (0, 1].  Synthetic pictures are read only if the objective of
    ``config`` uses them.  Notebook 04 takes its first batch from here.
    """
    return Triplets(
        folder,
        store,
        lambda captions: model.labels(captions, config.model.max_tokens),
        share=share,
        share_seed=config.data.seed,
        penultimate=config.model.multi_scale,
        paired=len(term_weights(config.loss)) > 1 or config.loss.ce_on == "real+synthetic",
    )


def build_model(config: Config, variant: str, store: FeatureStore, corpus: Path, triplets: Path) -> CaptionModel:
    """The untrained captioner of ``variant`` over the features of ``store``, with the vocabulary of its captions."""
    captions = None
    if config.model.trim_vocabulary:
        captions = [pair.target for pair in read_corpus(corpus) if pair.split == "train"]
        if variant in FILTERS:  # some of which the corpus refuses
            captions += [row["target"] for row in artifacts.read_csv(triplets / "triplets.csv")]
    if variant in BASELINES:
        return baselines.build_baseline(variant, config, store.channels(), captions)
    decoder, last_k = hub.path(config, config.components.decoder), config.model.last_k
    penultimate = store.channels(penultimate=True) if config.model.multi_scale else None
    return build_captioner(decoder, config.data.lang, store.channels(), last_k, penultimate, captions)
