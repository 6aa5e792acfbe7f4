"""A trained captioner's captions of the test pictures and their scores, as files."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bncap import metrics
from bncap.data.corpus import Pair, collect_references
from bncap.data.readers import read_boxes
from bncap.decoders import decode
from bncap.device import default_device
from bncap.encoders.feature_store import FeatureStore
from bncap.errors import BncapError
from bncap.experiments import caption_scores
from bncap.model import Captioner
from bncap.pipeline import artifacts, hub, paths
from bncap.settings import Config
from bncap.text import iso

SPLITS = ("test", "ood")
Object = tuple[str, tuple[float, float, float, float]]
"""Kind and box (x, y, width, height) px."""
Objects = Mapping[str, list[Object]]
"""Picture (path in the dataset) -> what is in it."""
CAPTION_COLUMNS = ("image", "caption", "score", "bleu4", "meteor", "reference")


def evaluate(model: Captioner, store: FeatureStore, pairs: Sequence[Pair], config: Config, folder: Path) -> dict:
    """Write ``captions_<split>.csv`` for each test split and ``scores.json`` into ``folder``; returns the scores.

    ``items_<split>.csv`` has what each caption adds to them (:mod:`bncap.experiments.caption_scores`).

    ``scores.json`` holds for each split B1-B4, METEOR, BERT-F1 (0-100), their signature, noun precision and recall
    (0-100, where the pictures' objects are known) and the diversity of the captions.
    """
    lang = iso(config.data.lang)
    scorer = bertscore_model(hub.path(config, config.components.bertscore), config.components.bertscore_layer)
    scores = {}
    for split in SPLITS:
        images, refs = collect_references(pairs, split)
        if not images:  # data of one's own have no second test set
            continue
        features = store.take(split, store.rows(split, images))
        found = decode.caption(model, features, config.decode, config.model.max_tokens, f"captions: {split}")
        hypotheses = [c.text for c in found]
        scored = metrics.per_caption(hypotheses, refs, lang, scorer)
        scores[split] = metrics.of_corpus(scored) | {"signature": metrics.signature(refs, lang, scorer)}
        scores[split]["images"] = len(images)
        scores[split]["diversity"] = metrics.diversity(hypotheses, lang)
        nouns = _noun_counts(config, split, images, hypotheses, lang)
        caption_scores.write(folder, split, images, scored, nouns)
        if nouns is not None:
            named, right, there = nouns.sum(axis=0).tolist()
            scores[split]["noun_precision"] = 100 * right / named if named else None  # None: no noun is named
            scores[split]["noun_recall"] = 100 * right / there if there else None
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


def _noun_counts(
    config: Config, split: str, images: list[str], hypotheses: list[str], lang: str
) -> NDArray[np.int64] | None:
    """(N, 3) kinds named, named rightly, and present, where objects of the pictures and words for them are known."""
    objects = objects_of(config, split)
    if objects is None:
        return None
    present = [{kind for kind, _ in objects_in(objects, image)} for image in images]
    return metrics.noun_counts(hypotheses, present, noun_lexicon(config), lang)


def noun_lexicon(config: Config) -> dict[str, str]:
    """Word or phrase of the target language -> object kind of the annotations; empty where no lexicon is known."""
    if config.data.source == "mini":
        from bncap.mini.lexicon import NOUN_LEXICON_BN

        return NOUN_LEXICON_BN
    if config.data.source == "coco" and iso(config.data.lang) == "bn":
        from bncap.data.coco_lexicon import NOUN_LEXICON_BN

        return NOUN_LEXICON_BN
    return {}


def objects_files(config: Config) -> dict[str, Path]:
    """Test split -> where the objects of its pictures are annotated, if they are; Flickr30k itself has no such file.

    Empty where there is no data set here, as on a machine that has the artefacts alone.
    """
    names = {"test": "annotations/instances_val2014.json", "ood": "flickr30k/instances.json"}
    try:
        files = {split: paths.data_path(config, name) for split, name in names.items()}
    except BncapError:
        return {}
    return {split: file for split, file in files.items() if file.is_file()}


def objects_of(config: Config, split: str) -> Objects | None:
    """The objects of a test split's pictures; None where they, or words for their kinds, are not known."""
    file = objects_files(config).get(split)
    if not noun_lexicon(config) or file is None:
        return None
    return _objects(file, "flickr30k/flickr30k_images" if split == "ood" else "val2014", file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)  # COCO's file has 290,000 objects, and each run of a series asks for them
def _objects(file: Path, folder: str, _written: int) -> Objects:
    return {f"{folder}/{name}": boxes for name, boxes in read_boxes(file).items()}


def objects_in(objects: Objects, image: str) -> list[Object]:
    """The objects of one picture; :class:`BncapError` if the annotations do not list it."""
    if image not in objects:
        raise BncapError(
            f"the objects' annotations (instances) do not list {image}; put those that belong to the captions there"
        )
    return objects[image]


def sample_by_rank(captions: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """``count`` rows of a ``captions_<split>.csv`` evenly spaced by their METEOR rank, best first; no hand in it."""
    ranked = sorted(captions, key=lambda row: (-float(row["meteor"]), row["image"]))
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, count).round().astype(int)]
