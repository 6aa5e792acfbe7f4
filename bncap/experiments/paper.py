"""The scores that the paper prints, on its 0-100 scale: Tables 1 to 4 (Sec. 5.2 to 5.5) and Fig. 3 (Sec. 5.6).

Rows are keyed by the names of this package: :data:`bncap.config.VARIANTS`, :data:`bncap.config.SENSITIVITY`
and :data:`bncap.config.BASELINES`; the splits are ``test`` (MSCOCO-1k) and ``ood`` (Flickr30k-1k).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bncap.config import ALL_VARIANTS, MAIN

METRICS = ("B1", "B2", "B3", "B4", "METEOR", "BERT-F1")
NAMES = {"B4": "BLEU-4", "noun_precision": "noun precision", "noun_recall": "noun recall"}
"""How metrics are called that are not called by their key."""
IMAGES = 1000  # in each of the two test sets
SPLITS = {"test": "in domain", "ood": "out of domain"}
DATASETS = {"test": "MSCOCO-1k", "ood": "Flickr30k-1k"}

Row = Mapping[str, float]


def _row(*scores: float) -> Row:
    return dict(zip(METRICS, scores, strict=True))


TABLE1: Mapping[str, Row] = {
    MAIN: _row(48.01, 28.59, 17.19, 10.85, 27.64, 71.20),
    "vit_gpt2": _row(26.84, 12.32, 4.68, 3.21, 26.62, 57.34),
    "cnn_lstm": _row(28.03, 15.45, 6.51, 3.98, 22.57, 70.98),
}
"""Sec. 5.2, out of domain."""

TABLE2: Mapping[str, Row] = {
    "test": _row(38.61, 25.11, 17.43, 12.00, 28.14, 75.40),
    "ood": _row(49.14, 29.64, 18.11, 12.29, 27.98, 71.20),
}
"""Sec. 5.3: the main model, by split."""

TABLE3: Mapping[str, Row] = {
    "ce_real": _row(36.57, 23.81, 12.37, 5.80, 24.96, 68.38),
    "ce_real_syn": _row(40.34, 24.46, 12.93, 5.91, 24.51, 68.69),
    "ce_infonce": _row(43.60, 25.67, 11.98, 7.50, 24.99, 69.70),
    "ce_infonce_ot": _row(42.56, 24.00, 11.85, 7.52, 26.22, 70.21),
    "pal": _row(46.53, 27.80, 16.30, 10.19, 27.29, 70.97),
    "pal_infonce": _row(46.86, 27.96, 16.57, 10.34, 27.49, 70.69),
    MAIN: _row(49.14, 29.64, 18.11, 12.29, 27.98, 71.20),
}
"""Sec. 5.4, out of domain.  The compute-matched row is this project's own and has no counterpart."""

TABLE4: Mapping[str, Row] = {
    "lambda0.3-tau0.7-rho0.5": {"B4": 2.77, "METEOR": 12.8, "BERT-F1": 62.2},
    "lambda0.5-tau0.7-rho0.1": {"B4": 2.50, "METEOR": 17.5, "BERT-F1": 63.7},
    "lambda0.5-tau1.0-rho0.5": {"B4": 2.37, "METEOR": 10.9, "BERT-F1": 61.3},
    "lambda0.5-tau1.3-rho0.5": {"B4": 2.42, "METEOR": 15.8, "BERT-F1": 61.9},
}
"""Sec. 5.5; the test set is not named."""

CHOSEN = "lambda0.5-tau1.0-rho0.5"
"""The setting of Table 4 that the paper adopts."""


@dataclass(frozen=True)
class Change:
    """A distance between real and synthetic patches before and after training."""

    before: float
    after: float

    @property
    def relative(self) -> float:
        """Change as a share of the first value; -0.41 is a fall by 41 %."""
        return self.after / self.before - 1


CENTROID_DISTANCE = Change(0.361, 0.213)
"""Fig. 3 and Sec. 5.6."""

MMD = Change(0.013, 0.002)
"""Fig. 3 and Sec. 5.6: with a Gaussian kernel, on the two dimensions of UMAP."""


def label(variant: str) -> str:
    """The name of a row as tables show it."""
    return ALL_VARIANTS[variant].label


def printed(variant: str, split: str) -> dict[str, Row]:
    """Every row that the paper prints for ``variant`` on ``split``, by where it stands; empty if there is none.

    The main model has two different ones out of domain.
    """
    rows: dict[str, Row] = {}
    if split == "ood" and variant in TABLE1:
        rows["Table 1"] = TABLE1[variant]
    if variant == MAIN:
        rows["Tables 2, 3" if split == "ood" else "Table 2"] = TABLE2[split]
    elif split == "ood" and variant in TABLE3:
        rows["Table 3"] = TABLE3[variant]
    elif split == "ood" and variant in TABLE4:
        rows["Table 4"] = TABLE4[variant]
    return rows
