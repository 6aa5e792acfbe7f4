"""What each caption of a run adds to its scores, saved, so that intervals over images need no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bncap.errors import BncapError
from bncap.pipeline import artifacts

BLEU_COLUMNS = ("hyp_len", "ref_len", *(f"matched{n}" for n in (1, 2, 3, 4)), *(f"ngrams{n}" for n in (1, 2, 3, 4)))
NOUN_COLUMNS = ("nouns_named", "nouns_right", "nouns_there")
MEAN_COLUMNS = ("METEOR", "BERT-F1")
COLUMNS = ("image", *BLEU_COLUMNS, *MEAN_COLUMNS, *NOUN_COLUMNS)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """``images``: N of them, sorted; ``values``: column -> (N,) float64, NaN where something is not known."""

    images: tuple[str, ...]
    values: dict[str, Array]

    def scores(self, counts: Array | None = None) -> dict[str, Array]:
        """Corpus scores of R samples of the images: metric -> (R,), 0 to 100, NaN where there is none.

        counts: (R, N), how often each image is in each sample, such as bootstrap draws; None is every image once.
        Metrics are ``B1``..``B4`` (unsmoothed, from summed counts), ``METEOR``, ``BERT-F1`` (means over captions) and,
        where the nouns are known, ``noun_precision`` and ``noun_recall`` (shares of summed counts).
        """
        counts = np.ones((1, len(self.images))) if counts is None else np.asarray(counts, dtype=np.float64)
        drawn = counts.sum(axis=1)
        found = {metric: counts @ self.values[metric] / drawn for metric in MEAN_COLUMNS}
        found |= _bleu(counts @ np.stack([self.values[name] for name in BLEU_COLUMNS], axis=1))  # (R, 10)
        if not np.isnan(self.values["nouns_named"]).any():
            named, right, there = (counts @ self.values[name] for name in NOUN_COLUMNS)
            found["noun_precision"], found["noun_recall"] = _share(right, named), _share(right, there)
        return found


def write(
    folder: Path, split: str, images: list[str], scored: dict[str, NDArray], nouns: NDArray[np.int64] | None
) -> None:
    """Write ``items_<split>.csv``: ``scored`` as of :func:`bncap.metrics.per_caption`, ``nouns`` (N, 3) or None."""
    unknown = np.full((len(images), len(NOUN_COLUMNS)), math.nan)
    columns = images, scored["bleu"], scored["METEOR"], scored["BERT-F1"], unknown if nouns is None else nouns
    rows = (
        [image, *bleu, *(f"{value:.8f}" for value in (meteor, f1)), *("" if math.isnan(n) else n for n in counts)]
        for image, bleu, meteor, f1, counts in zip(*columns, strict=True)
    )
    artifacts.write_csv(folder / f"items_{split}.csv", COLUMNS, rows)


def read(folder: Path, split: str) -> Items:
    """``items_<split>.csv`` of a finished run; :class:`BncapError` if the run has none for that split."""
    path = folder / f"items_{split}.csv"
    if not path.is_file():
        raise BncapError(f"{path} is missing: the run was not scored on that split; score it anew, without {folder}")
    rows = artifacts.read_csv(path)
    numbers = {name: np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS[1:]}
    return Items(tuple(row["image"] for row in rows), numbers)


def _bleu(sums: Array) -> dict[str, Array]:
    """``B1``..``B4`` of summed statistics (R, 10), as :func:`bncap.metrics.bleu_from_statistics`."""
    hyp, ref, matched, total = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.where(hyp < ref, np.exp(1 - ref / hyp), 1.0)
        logs = np.where(matched > 0, np.log(matched / total), -np.inf)  # (R, 4)
    return {f"B{n}": 100 * brevity * np.exp(logs[:, :n].mean(axis=1)) for n in (1, 2, 3, 4)}


def _share(part: Array, whole: Array) -> Array:
    return 100 * np.divide(part, whole, out=np.full_like(whole, math.nan), where=whole > 0)
