"""The accepted pairs of the corpus, which training, synthesis and scoring read: ``corpus.csv``.

They stand apart from :mod:`bncap.data.corpus`, which makes them, so that an edit of that does not train again what only
reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bncap.pipeline import artifacts


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that is used: ``en`` is "" where there is no English side, ``similarity`` (Eq. 4's s_i) None where
    ``target`` was not translated; ``image`` and ``synthetic``, if there is one, are below the data sets' root.
    """

    caption_id: int
    image_id: str
    image: str
    split: str
    en: str
    target: str
    similarity: float | None
    synthetic: str = ""


PAIR_COLUMNS = tuple(field.name for field in dataclasses.fields(Pair))


def read_corpus(folder: Path) -> list[Pair]:
    """The pairs of a finished corpus step, in the order of splits and captions."""
    table = pd.read_csv(artifacts.require(folder) / "corpus.csv", dtype=str, keep_default_na=False)
    return [
        Pair(int(caption_id), image_id, image, split, en, target, float(similarity) if similarity else None, synthetic)
        for caption_id, image_id, image, split, en, target, similarity, synthetic in table.itertuples(index=False)
    ]


def collect_references(pairs: Iterable[Pair], split: str) -> tuple[list[str], list[list[str]]]:
    """Images of ``split`` (sorted, relative to the root of the datasets) and each one's reference captions."""
    by_image: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.split == split:
            by_image.setdefault(pair.image, []).append(pair.target)
    images = sorted(by_image)
    return images, [by_image[image] for image in images]
