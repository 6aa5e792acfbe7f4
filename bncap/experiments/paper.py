"""What the paper prints in Tables 1 to 4 (Sec. 5.2 to 5.5, 0 to 100) and Fig. 3 (Sec. 5.6), and what it claims.

Rows are keyed by the variants of :mod:`bncap.config`; the splits are ``test`` (MSCOCO-1k) and ``ood`` (Flickr30k-1k).
``claims.csv`` has the claims, each as a comparison that can be measured; :func:`check_claims` says whether it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bncap.config import ALL_VARIANTS, MAIN
from bncap.experiments import estimates
from bncap.pipeline import artifacts

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


HOLDS, FAILS, OPEN = VERDICTS = ("holds", "does not hold", "cannot be told")
BEFORE = "before training"
NOT_TESTED = (
    "freezing the encoder, unfreezing the decoder step by step, the Bengali half of the prompts, the number of "
    "synthetic pictures, and OT on small or several objects"
)
"""What the paper also credits with an effect, and no variant here tests."""

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """The paper says ``says`` in ``where``; ``measure`` of ``first`` less that of ``second`` should have ``sign``.

    ``section`` is the part of ``results.json`` whose differences hold the measurement, ``select`` what its record must
    have; ``paper`` is the difference that the paper prints, None where it prints none; ``note`` is what a reader must
    know of the comparison, whatever comes out.
    """

    id: str
    says: str
    where: str
    measure: str
    first: str
    second: str
    section: str
    select: tuple[tuple[str, Any], ...]
    paper: float | None = None
    sign: int = 1
    note: str = ""


def _read_claims() -> Iterator[Claim]:
    """The claims of ``claims.csv``; its column ``select`` is written as ``variant=pal; against=ce_real``."""
    for row in artifacts.read_csv(Path(__file__).with_name("claims.csv")):
        pairs = (part.partition("=") for part in row.pop("select").split("; "))
        select = tuple((key, value) for key, _, value in pairs)
        paper, sign = row.pop("paper"), int(row.pop("sign"))
        yield Claim(**row, select=select, paper=float(paper) if paper else None, sign=sign)


CLAIMS = tuple(_read_claims())


def score_pairs() -> list[tuple[str, str, str]]:
    """(variant, against, split) of the claims on scores, each once, for :mod:`bncap.experiments.comparisons`."""
    selected = (dict(claim.select) for claim in CLAIMS if claim.section == "pairs")
    return list(dict.fromkeys((s["variant"], s["against"], s["split"]) for s in selected))


def check_claims(results: Results, claims: Iterable[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """A record for each claim whose difference is known: its words, the difference with its interval, and a verdict.

    A claim holds where the whole interval has the claimed sign, does not hold where all of it has the other, and cannot
    be told where 0 lies within, or with one seed, which cannot tell of the scatter over seeds.
    """
    records = []
    for claim in claims:
        section = results.get(claim.section) or []
        known = section if isinstance(section, list) else section.get("differences", [])
        difference = estimates.first(known, **dict(claim.select))
        if difference is None or difference["difference"] is None:
            continue
        verdict = OPEN
        seeds = difference.get("seeds", len(results.get("seeds", ())))
        if seeds > 1 and estimates.excludes_zero(difference["low"], difference["high"]):
            verdict = HOLDS if claim.sign * difference["low"] > 0 else FAILS
        names = ("id", "section", "says", "where", "measure", "first", "second", "paper", "note")
        numbers = {name: difference[name] for name in ("difference", "low", "high")}
        records.append({**{name: getattr(claim, name) for name in names}, **numbers, "verdict": verdict})
    return records


def count_verdicts(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict, all verdicts named."""
    verdicts = [record["verdict"] for record in records]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}
