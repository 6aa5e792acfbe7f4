"""A trained captioner's captions of the test pictures and their scores, as files."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bncap import artifacts, decode, hub, metrics, paths
from bncap.captions import read_boxes
from bncap.corpus import Pair, references
from bncap.device import default_device
from bncap.feature_store import FeatureStore
from bncap.model import Captioner
from bncap.settings import Config
from bncap.text import iso

SPLITS = ("test", "ood")
CAPTION_COLUMNS = ("image", "caption", "score", "bleu4", "meteor", "reference")


def evaluate(model: Captioner, store: FeatureStore, pairs: Sequence[Pair], config: Config, folder: Path) -> dict:
    """Write ``captions_<split>.csv`` for each test split and ``scores.json`` into ``folder``; returns the scores.

    ``scores.json`` holds for each split B1-B4, METEOR, BERT-F1 (0-100), their signature, noun precision and recall
    (0-100, where the pictures' objects are known) and the diversity of the captions.
    """
    lang = iso(config.data.lang)
    scorer = bertscore_model(hub.path(config, config.components.bertscore), config.components.bertscore_layer)
    scores = {}
    for split in SPLITS:
        images, refs = references(pairs, split)
        if not images:  # data of one's own have no second test set
            continue
        features = store.take(split, store.rows(split, images))
        found = decode.caption(model, features, config.decode, config.model.max_tokens, f"captions: {split}")
        hypotheses = [c.text for c in found]
        scores[split] = metrics.score(hypotheses, refs, lang, scorer)
        scores[split]["images"] = len(images)
        scores[split]["diversity"] = metrics.diversity(hypotheses, lang)
        scores[split] |= _noun_scores(config, split, images, hypotheses, lang)
        single = metrics.sentence_scores(hypotheses, refs, lang)
        rows = [
            [image, c.text, f"{c.score:.6f}", f"{s['B4']:.4f}", f"{s['METEOR']:.4f}", reference[0]]
            for image, c, s, reference in zip(images, found, single, refs, strict=True)
        ]
        artifacts.write_csv(folder / f"captions_{split}.csv", CAPTION_COLUMNS, rows)
    artifacts.write_json(folder / "scores.json", scores)
    return scores


@functools.cache
def bertscore_model(path: str, layer: int) -> metrics.BertScore:
    return metrics.load_bertscore(path, layer, str(default_device()))


def _noun_scores(
    config: Config, split: str, images: list[str], hypotheses: list[str], lang: str
) -> dict[str, float | None]:
    """Noun precision and recall, where the objects of the pictures and a lexicon of their names are known."""
    objects = objects_of(config, split)
    if objects is None:
        return {}
    present = [{kind for kind, _ in objects[image]} for image in images]
    lexicon = noun_lexicon(config)
    found = {
        "noun_precision": metrics.noun_precision(hypotheses, present, lexicon, lang),
        "noun_recall": metrics.noun_recall(hypotheses, present, lexicon, lang),
    }
    return {name: None if math.isnan(value) else value for name, value in found.items()}  # NaN: no noun is named


def noun_lexicon(config: Config) -> dict[str, str]:
    """Word of the target language -> object kind of the annotations; empty where no lexicon is known."""
    if config.data.source == "mini":
        from bncap.mini.lexicon import NOUN_LEXICON_BN

        return NOUN_LEXICON_BN
    return {}


def objects_of(config: Config, split: str) -> dict[str, list[tuple[str, tuple[float, float, float, float]]]] | None:
    """Picture (path in the dataset) -> its objects' kinds and boxes (x, y, w, h) px; None where they are not known."""
    if split == "ood":
        name, folder = "flickr30k/instances.json", "flickr30k/flickr30k_images"
    else:
        name, folder = "annotations/instances_val2014.json", "val2014"
    file = paths.data_path(config, name)
    if not file.is_file() or not noun_lexicon(config):
        return None
    return {f"{folder}/{name}": boxes for name, boxes in read_boxes(file).items()}


def sample_by_rank(captions: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """``count`` rows of a ``captions_<split>.csv`` evenly spaced by their METEOR rank, best first; no hand in it."""
    ranked = sorted(captions, key=lambda row: (-float(row["meteor"]), row["image"]))
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, count).round().astype(int)]
