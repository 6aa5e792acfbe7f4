"""A trained captioner's captions of the test pictures and their scores, of the corpus and of each caption, as files."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bncap import metrics
from bncap.config import BASELINES
from bncap.data.pairs import Pair, collect_references
from bncap.data.readers import NOUN_LEXICON_BN, read_boxes
from bncap.decoders import baselines, decode
from bncap.decoders.captioner import CaptionModel
from bncap.device import default_device
from bncap.encoders.features import FeatureStore
from bncap.errors import BncapError
from bncap.mini import grammar
from bncap.model import load_captioner
from bncap.pipeline import artifacts, hub, paths
from bncap.settings import Config
from bncap.text import iso

SPLITS = ("test", "ood")
CAPTION_COLUMNS = ("image", "caption", "score", "bleu4", "meteor", "reference")
BLEU_COLUMNS = ("hyp_len", "ref_len", *(f"matched{n}" for n in (1, 2, 3, 4)), *(f"ngrams{n}" for n in (1, 2, 3, 4)))
MEAN_COLUMNS = ("METEOR", "BERT-F1")
NOUN_COLUMNS = ("nouns_named", "nouns_right", "nouns_there")
SCORE_COLUMNS = ("image", *BLEU_COLUMNS, *MEAN_COLUMNS, *NOUN_COLUMNS)
"""Of ``items_<split>.csv``: what each caption adds to the scores, so that intervals over images need no model."""

Array = NDArray[np.float64]
Object = tuple[str, tuple[float, float, float, float]]
"""Kind and box (x, y, width, height) px."""
Objects = Mapping[str, list[Object]]
"""Picture (path in the dataset) -> the objects in it."""


def load_run(config: Config, variant: str, trained: Path, moment: str = "best") -> CaptionModel:
    """The captioner of a finished training step at its ``"best"`` epoch or in its ``"initial"`` state."""
    folder = artifacts.require(trained) / moment
    if variant in BASELINES:
        return baselines.load_baseline(variant, folder)
    if moment == "initial":
        return load_captioner(folder, hub.path(config, config.components.decoder))[0]
    return load_captioner(folder)[0]


def evaluate(model: CaptionModel, store: FeatureStore, pairs: Sequence[Pair], config: Config, folder: Path) -> dict:
    """Write ``captions_<split>.csv`` and ``items_<split>.csv`` for each test split, and ``scores.json``, into
    ``folder``; returns the scores.

    ``items_<split>.csv`` has :data:`SCORE_COLUMNS`.  ``scores.json`` holds for each split B1-B4, METEOR, BERT-F1
    (0-100), their signature, noun precision and recall (0-100, where the pictures' objects are known) and the diversity
    of the captions.
    """
    lang = iso(config.data.lang)
    scorer = cached_bertscore(hub.path(config, config.components.bertscore), config.components.bertscore_layer)
    scores = {}
    for split in SPLITS:
        images, refs = collect_references(pairs, split)
        if not images:  # data of one's own have no second test set
            continue
        features = store.take(split, store.rows(split, images))
        captions = decode.caption(model, features, config.decode, config.model.max_tokens, f"captions: {split}")
        texts = [caption.text for caption in captions]
        scored = metrics.per_caption(texts, refs, lang, scorer)
        scores[split] = metrics.of_corpus(scored) | {"signature": metrics.signature(refs, lang, scorer)}
        scores[split]["images"] = len(images)
        scores[split]["diversity"] = metrics.diversity(texts, lang)
        nouns, objects = None, objects_of(config, split)
        if objects is not None:
            present = [{kind for kind, _ in objects_in(objects, image)} for image in images]
            nouns = metrics.noun_counts(texts, present, noun_lexicon(config), lang)
            named, right, there = nouns.sum(axis=0).tolist()
            scores[split]["noun_precision"] = 100 * right / named if named else None  # None: no noun is named
            scores[split]["noun_recall"] = 100 * right / there if there else None
        write_caption_scores(folder, split, images, scored, nouns)
        single = metrics.sentence_scores(texts, refs, lang)
        rows = [
            [image, caption.text, f"{caption.score:.6f}", f"{s['B4']:.4f}", f"{s['METEOR']:.4f}", reference[0]]
            for image, caption, s, reference in zip(images, captions, single, refs, strict=True)
        ]
        artifacts.write_csv(folder / f"captions_{split}.csv", CAPTION_COLUMNS, rows)
    artifacts.write_json(folder / "scores.json", scores)
    return scores


@functools.cache
def cached_bertscore(path: str, layer: int) -> metrics.BertScore:
    """:func:`bncap.metrics.load_bertscore` on this machine's device, read once."""
    return metrics.load_bertscore(path, layer, str(default_device()))


@dataclass(frozen=True)
class CaptionScores:
    """What the captions of N images add to the scores of a run.

    ``images``: sorted; ``values``: column -> (N,) float64, NaN where something is not known.
    """

    images: tuple[str, ...]
    values: dict[str, Array]

    def corpus_scores(self, counts: Array | None = None) -> dict[str, Array]:
        """Corpus scores of R samples of the images: metric -> (R,), 0 to 100, NaN where there is none.

        counts: (R, N), how often each image is in each sample, such as bootstrap draws; None is every image once.
        Metrics are ``B1``..``B4`` (unsmoothed, from summed counts), ``METEOR``, ``BERT-F1`` (means over captions) and,
        where the nouns are known, ``noun_precision`` and ``noun_recall`` (shares of summed counts).
        """
        counts = np.ones((1, len(self.images))) if counts is None else np.asarray(counts, dtype=np.float64)
        drawn = counts.sum(axis=1)
        scores = {metric: counts @ self.values[metric] / drawn for metric in MEAN_COLUMNS}
        scores |= _bleu(counts @ np.stack([self.values[name] for name in BLEU_COLUMNS], axis=1))  # (R, 10)
        if not np.isnan(self.values["nouns_named"]).any():
            named, right, there = (counts @ self.values[name] for name in NOUN_COLUMNS)
            scores["noun_precision"], scores["noun_recall"] = _percentage(right, named), _percentage(right, there)
        return scores

    def subset(self, mask: NDArray[np.bool_]) -> CaptionScores:
        """The images where ``mask`` (N,) is true."""
        images = tuple(image for image, chosen in zip(self.images, mask, strict=True) if chosen)
        return CaptionScores(images, {name: values[mask] for name, values in self.values.items()})


def write_caption_scores(
    folder: Path, split: str, images: list[str], scored: dict[str, NDArray], nouns: NDArray[np.int64] | None
) -> None:
    """Write ``items_<split>.csv``: ``scored`` as of :func:`bncap.metrics.per_caption`, ``nouns`` (N, 3) or None."""
    unknown = np.full((len(images), len(NOUN_COLUMNS)), math.nan)
    columns = images, scored["bleu"], scored["METEOR"], scored["BERT-F1"], unknown if nouns is None else nouns
    rows = (
        [image, *bleu, f"{meteor:.8f}", f"{f1:.8f}", *("" if math.isnan(n) else n for n in counts)]
        for image, bleu, meteor, f1, counts in zip(*columns, strict=True)
    )
    artifacts.write_csv(folder / f"items_{split}.csv", SCORE_COLUMNS, rows)


def read_caption_scores(folder: Path, split: str) -> CaptionScores:
    """``items_<split>.csv`` of a finished run; :class:`BncapError` if the run has none for that split."""
    path = folder / f"items_{split}.csv"
    if not path.is_file():
        raise BncapError(f"{path} is missing: the run was not scored on that split; delete {folder} and score it again")
    frame = pd.read_csv(path, dtype={"image": str}, float_precision="round_trip")
    values = {name: frame[name].to_numpy(np.float64) for name in SCORE_COLUMNS[1:]}
    return CaptionScores(tuple(frame["image"]), values)


def _bleu(sums: Array) -> dict[str, Array]:
    """``B1``..``B4`` of summed statistics (R, 10), as :func:`bncap.metrics.bleu_from_statistics`."""
    hyp, ref, matched, total = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.where(hyp < ref, np.exp(1 - ref / hyp), 1.0)
        logs = np.where(matched > 0, np.log(matched / total), -np.inf)  # (R, 4)
    return {f"B{n}": 100 * brevity * np.exp(logs[:, :n].mean(axis=1)) for n in (1, 2, 3, 4)}


def _percentage(part: Array, whole: Array) -> Array:
    return 100 * np.divide(part, whole, out=np.full_like(whole, math.nan), where=whole > 0)


def noun_lexicon(config: Config) -> dict[str, str]:
    """Word or phrase of the target language -> object kind of the annotations; empty where no lexicon is known."""
    if config.data.source == "mini":
        return grammar.NOUN_LEXICON_BN
    if config.data.source == "coco" and iso(config.data.lang) == "bn":
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
    return _read_objects(file, "flickr30k/flickr30k_images" if split == "ood" else "val2014", file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)  # COCO's file has 290,000 objects, and each run of a series reads them
def _read_objects(file: Path, folder: str, _written: int) -> Objects:
    return {f"{folder}/{name}": boxes for name, boxes in read_boxes(file).items()}


def objects_in(objects: Objects, image: str) -> list[Object]:
    """The objects of one picture; :class:`BncapError` if the annotations do not list it."""
    if image not in objects:
        raise BncapError(
            f"the objects' annotations (instances) do not list {image}; put those that belong to the captions there"
        )
    return objects[image]


def sample_by_rank(captions: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """``count`` rows of a ``captions_<split>.csv`` evenly spaced by their METEOR rank, best first."""
    ranked = sorted(captions, key=lambda row: (-float(row["meteor"]), row["image"]))
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, count).round().astype(int)]
