"""What the paper claims, each claim set against what was measured: it holds here, does not hold, or cannot be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bncap import paper
from bncap.config import BASE, MAIN

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
VERDICTS = (HOLDS, FAILS, OPEN)
LEVEL = 0.95

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """The paper says ``says`` in ``where``; ``measure`` of ``first`` less that of ``second`` should have ``sign``.

    ``section`` is the part of ``results.json`` whose differences hold the measurement, ``select`` what its record must
    have; ``paper`` is the difference that the paper prints, None where it prints none.
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


def _score(name: str, says: str, where: str, first: str, second: str, metric: str = "B4", table: int = 3) -> Claim:
    """A claim on the scores of two variants out of domain; what the paper prints is read in ``table``."""
    select = (("variant", first), ("against", second), ("split", "ood"), ("metric", metric))
    rows = [_printed(variant, table).get(metric) for variant in (first, second)]
    difference = None if None in rows else round(rows[0] - rows[1], 2)
    measure = f"{METRIC_NAMES.get(metric, metric)} out of domain"
    return Claim(name, says, where, measure, first, second, "pairs", select, difference)


def _printed(variant: str, table: int) -> Mapping[str, float]:
    return {1: paper.TABLE1, 3: paper.TABLE3, 4: paper.TABLE4}[table].get(variant, {})


def _gap(
    name: str, says: str, metric: str, measure: str, change: paper.Change, against: str, part: str = "all"
) -> Claim:
    select = (("variant", MAIN), ("set", part), ("metric", metric), ("against", against))
    printed = round(change.after - change.before, 3) if (part, against) == ("all", "before") else None
    second = "before training" if against == "before" else against
    return Claim(name, says, "Fig. 3, Sec. 5.6", measure, MAIN, second, "alignment", select, printed, sign=-1)


def _loss(name: str, says: str, variant: str, measure: str, words: str) -> Claim:
    select = (("variant", variant), ("measure", measure))
    return Claim(name, says, "Fig. 3, Sec. 5.6", words, variant, BASE, "convergence", select, sign=-1)


def _look(name: str, says: str, where: str, variant: str, split: str) -> Claim:
    select = (
        ("variant", variant), ("against", BASE), ("split", split), ("source", "generated"), ("measure", "share"),
    )  # fmt: skip
    measure = f"share of a noun's attention in its object's box, {paper.SPLITS[split]}"
    return Claim(name, says, where, measure, variant, BASE, "grounding", select)


SHOWN_DIGITS = {"pairs": 2, "grounding": 1, "alignment": 3, "convergence": 4}
"""Decimals that the report shows of a claim, by its section."""

METRIC_NAMES = {"B4": "BLEU-4", "noun_precision": "noun precision"}

CLAIMS: tuple[Claim, ...] = (
    *(
        _score(f"full_{metric}", "The tri-loss beats cross-entropy alone", "Abstract, Table 3", MAIN, BASE, metric)
        for metric in ("B4", "METEOR", "BERT-F1")
    ),
    _score("pal", "PAL drives the core improvement", "Sec. 5.4", "pal", BASE),
    _score("pal_alone", "PAL is worth more than InfoNCE and OT together", "Sec. 5.4", "pal", "ce_infonce_ot"),
    _score("refine", "InfoNCE and OT refine PAL", "Sec. 5.4", MAIN, "pal"),
    _score("refine_ot", "OT on top of PAL and InfoNCE adds to BLEU", "Sec. 5.4", MAIN, "pal_infonce"),
    _score("synthetic", "Captions on synthetic pictures help a little", "Table 3", "ce_real_syn", BASE),
    _score("infonce", "InfoNCE lifts BLEU without PAL", "Sec. 5.4", "ce_infonce", "ce_real_syn"),
    _score("vit_gpt2", "The main model beats ViT + GPT-2", "Table 1", MAIN, "vit_gpt2", table=1),
    _score("cnn_lstm", "The main model beats CNN + LSTM", "Table 1", MAIN, "cnn_lstm", table=1),
    _score(
        "sharp", "A lower τ and λ raise BLEU", "Sec. 5.5",
        "lambda0.3-tau0.7-rho0.5", "lambda0.5-tau1.0-rho0.5", table=4,
    ),
    _score(
        "small_rho", "A small ρ raises METEOR", "Sec. 5.5",
        "lambda0.5-tau0.7-rho0.1", "lambda0.5-tau1.0-rho0.5", "METEOR", table=4,
    ),
    _score("nouns", "Fewer spurious things are named", "Abstract", MAIN, BASE, "noun_precision"),
    *(
        _look(f"grounding_{variant}_{split}", says, "Abstract, Sec. 5.6", variant, split)
        for variant, says in ((MAIN, "The tri-loss improves grounding"), ("pal", "PAL improves grounding"))
        for split in paper.SPLITS
    ),
    _gap(
        "centroids", "The real-synthetic centroid gap narrows in training", "centroid_distance",
        "distance of the centroids behind the bridge", paper.CENTROID_DISTANCE, "before",
    ),
    _gap(
        "centroids_relevant", "Descriptors move closer in the regions that the decoder attends to", "centroid_distance",
        "distance of the centroids of text-relevant patches", paper.CENTROID_DISTANCE, "before", "relevant",
    ),
    _gap(
        "centroids_umap", "The same gap narrows in the UMAP", "umap_centroid_distance",
        "distance of the centroids in two dimensions", paper.CENTROID_DISTANCE, "before",
    ),
    _gap("mmd_umap", "The MMD falls in the UMAP", "umap_mmd_rbf", "MMD-RBF in two dimensions", paper.MMD, "before"),
    _gap(
        "centroids_ce", "The alignment terms, not training as such, narrow the gap", "centroid_distance",
        "distance of the centroids behind the bridge", paper.CENTROID_DISTANCE, BASE,
    ),
    Claim(
        "where_it_matters", "The gap narrows where the caption looks more than elsewhere", "Sec. 5.6",
        "relative change of the centroid distance, text-relevant less background", MAIN, MAIN,
        "alignment", (("variant", MAIN), ("set", "relevant less background"), ("metric", "centroid_change")), sign=-1,
    ),
    _loss("ce_way", "PAL converges faster", "pal", "ce_on_the_way", "training cross-entropy over all steps, nats"),
    _loss("ce_end", "PAL lowers the cross-entropy", "pal", "ce_at_the_end", "training cross-entropy at the end, nats"),
    _loss("total_end", "PAL lowers the total loss", "pal", "total_at_the_end", "total loss at the end"),
)  # fmt: skip
"""In the order in which the report lists them."""


def score_pairs() -> list[tuple[str, str, str]]:
    """(variant, against, split) of the claims on scores, each once, for :mod:`bncap.evidence.comparisons`."""
    selected = (dict(claim.select) for claim in CLAIMS if claim.section == "pairs")
    return list(dict.fromkeys((s["variant"], s["against"], s["split"]) for s in selected))


def judge(results: Results, claims: Iterable[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """A record for each claim whose difference is known: its words, the difference with its interval, and a verdict.

    A claim holds where the whole interval has the claimed sign, does not hold where all of it has the other, and cannot
    be told where 0 lies within or where there is no interval, as with one seed.
    """
    judged = []
    for claim in claims:
        found = _measured(results, claim)
        if found is None or found["difference"] is None:
            continue
        low, high = found["low"], found["high"]
        verdict = OPEN
        if low is not None and high is not None and (low > 0 or high < 0):
            verdict = HOLDS if claim.sign * low > 0 else FAILS
        judged.append({
            "id": claim.id, "section": claim.section, "says": claim.says, "where": claim.where,
            "measure": claim.measure, "first": claim.first, "second": claim.second, "paper": claim.paper,
            **{name: found[name] for name in ("difference", "low", "high")}, "verdict": verdict,
        })  # fmt: skip
    return judged


def count(judged: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict, all verdicts named."""
    verdicts = [record["verdict"] for record in judged]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def _measured(results: Results, claim: Claim) -> Mapping[str, Any] | None:
    section = results.get(claim.section) or []
    records = section if isinstance(section, list) else section.get("differences", [])
    wanted = dict(claim.select)
    return next((record for record in records if wanted.items() <= record.items()), None)
