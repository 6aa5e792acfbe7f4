"""The paper's claims as comparisons that can be measured, and whether each holds here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bncap.config import BASE, MAIN
from bncap.experiments import estimates, paper

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
VERDICTS = (HOLDS, FAILS, OPEN)
BEFORE = "before training"

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


def _score_claims(
    name: str,
    says: str,
    where: str,
    pair: tuple[str, str],
    metrics: tuple[str, ...] = ("B4",),
    *,
    table: int = 3,
    split: str = "ood",
    note: str = "",
) -> Iterator[Claim]:
    """Claims on scores of the first of ``pair`` less the second; what the paper prints is read in ``table``."""
    printed = {1: paper.TABLE1, 3: paper.TABLE3, 4: paper.TABLE4}[table] if split == "ood" else {}
    for metric in metrics:
        select = (("variant", pair[0]), ("against", pair[1]), ("split", split), ("metric", metric))
        rows = [row[metric] for variant in pair if metric in (row := printed.get(variant, {}))]
        difference = round(rows[0] - rows[1], 2) if len(rows) == 2 else None
        measure = f"{paper.NAMES.get(metric, metric)} {paper.SPLITS[split]}"
        yield Claim(f"{name}_{metric}", says, where, measure, *pair, "pairs", select, difference, note=note)


def _grounding_claims(says: str, variant: str) -> Iterator[Claim]:
    for split, words in paper.SPLITS.items():
        select = (
            ("variant", variant), ("against", BASE), ("split", split), ("source", "generated"), ("measure", "share"),
        )  # fmt: skip
        measure = f"share of a noun's attention in its object's box, {words}, points"
        where = "Abstract, Sec. 5.6"
        yield Claim(f"grounding_{variant}_{split}", says, where, measure, variant, BASE, "grounding", select)


def _alignment_claims(
    name: str, says: str, metric: str, measure: str, part: str = "all", change: paper.Change | None = None
) -> Iterator[Claim]:
    """Two claims on a distance after the full objective: it is smaller than before, and than after CE alone."""
    printed = round(change.after - change.before, 3) if change else None
    for against, second, change_in_paper in (("before", BEFORE, printed), (BASE, BASE, None)):
        select = (("variant", MAIN), ("set", part), ("metric", metric), ("against", against))
        words = says if against == "before" else f"{says}, beyond what cross-entropy does"
        where = "Fig. 3, Sec. 5.6"
        note = MAP_SHRINKS if metric.startswith("umap_") and against == "before" else ""
        yield Claim(
            f"{name}_{against}", words, where, measure, MAIN, second, "alignment", select, change_in_paper, -1, note
        )


def _localisation_claim(name: str, metric: str, measure: str, sign: int) -> Claim:
    select = (("variant", MAIN), ("set", "relevant less background"), ("metric", metric))
    words = f"{measure}, text-relevant less background patches"
    says = "Training brings text-relevant patches closer than background patches"
    return Claim(name, says, "Sec. 5.6", words, MAIN, MAIN, "alignment", select, sign=sign)


def _loss_claims(says: str, measure: str, words: str, note: str = "") -> Iterator[Claim]:
    for variant in ("pal", MAIN):
        select = (("variant", variant), ("measure", measure))
        name, where = f"{measure}_{variant}", "Fig. 3, Sec. 5.6"
        yield Claim(name, says, where, words, variant, BASE, "convergence", select, sign=-1, note=note)


MAP_SHRINKS = "Distances also fall if all points of the map contract: compare with the distances by chance."
ENCODERS = "The baselines also have other encoders: see their accuracy."
TWO_CHANGES = "The rows differ in two things: InfoNCE is added, and captions on synthetic pictures are dropped."
MORE_TERMS = "The objective has further terms, none of which is negative, so that its total is the larger for them."
AGAINST_ITS_TABLE = "The one pair of Table 4 that differs in τ alone; the paper's own numbers say the reverse."
OTHER_SETTINGS = "The two settings differ in more than what is named, as in the paper."
ALL, NOUNS = ("B4", "METEOR", "BERT-F1"), ("noun_precision",)
ADOPTED = "lambda0.5-tau1.0-rho0.5"

CLAIMS: tuple[Claim, ...] = (
    *_score_claims("full", "The tri-loss beats cross-entropy alone", "Abstract, Table 3", (MAIN, BASE), ALL),
    *_score_claims(
        "full_test", "The tri-loss beats cross-entropy in domain", "Sec. 1", (MAIN, BASE), ALL, split="test"
    ),
    *_score_claims("pal", "PAL drives the core improvement", "Sec. 5.4", ("pal", BASE), ALL),
    *_score_claims("pal_alone", "PAL beats InfoNCE and OT together", "Sec. 5.4", ("pal", "ce_infonce_ot"), ALL),
    *_score_claims("pal_infonce", "InfoNCE refines PAL", "Sec. 5.4", ("pal_infonce", "pal"), ("B4", "METEOR")),
    *_score_claims("refine", "InfoNCE and OT refine PAL", "Sec. 5.4", (MAIN, "pal"), ALL),
    *_score_claims("refine_ot", "OT adds to PAL and InfoNCE", "Sec. 5.4", (MAIN, "pal_infonce"), ("B4", "BERT-F1")),
    *_score_claims("ot", "OT adds to InfoNCE", "Sec. 5.4", ("ce_infonce_ot", "ce_infonce"), ("METEOR", "BERT-F1")),
    *_score_claims(
        "infonce", "InfoNCE lifts the scores without PAL", "Sec. 5.4", ("ce_infonce", "ce_real_syn"),
        ("B4", "BERT-F1"), note=TWO_CHANGES,
    ),
    *_score_claims("synthetic", "Captions on synthetic pictures raise BLEU a little", "Table 3", ("ce_real_syn", BASE)),
    *_score_claims(
        "vit_gpt2", "The main model beats ViT + GPT-2", "Table 1", (MAIN, "vit_gpt2"), ALL, table=1, note=ENCODERS
    ),
    *_score_claims(
        "cnn_lstm", "The main model beats CNN + LSTM", "Table 1", (MAIN, "cnn_lstm"), ALL, table=1, note=ENCODERS
    ),
    *_score_claims(
        "sharp", "A lower τ raises BLEU and METEOR", "Sec. 5.5", (ADOPTED, "lambda0.5-tau1.3-rho0.5"),
        ("B4", "METEOR"), table=4, note=AGAINST_ITS_TABLE,
    ),
    *_score_claims(
        "sharp_light", "A lower τ with a lower λ raises BLEU and METEOR", "Sec. 5.5",
        ("lambda0.3-tau0.7-rho0.5", ADOPTED), ("B4", "METEOR"), table=4, note=OTHER_SETTINGS,
    ),
    *_score_claims(
        "small_rho", "A small ρ raises METEOR and BERT-F1", "Sec. 5.5", ("lambda0.5-tau0.7-rho0.1", ADOPTED),
        ("METEOR", "BERT-F1"), table=4, note=OTHER_SETTINGS,
    ),
    *_score_claims("nouns", "Fewer wrong objects are named", "Abstract", (MAIN, BASE), NOUNS),
    *_score_claims(
        "nouns_test", "Fewer wrong objects are named in domain", "Abstract", (MAIN, BASE), NOUNS, split="test"
    ),
    *_grounding_claims("The tri-loss improves grounding", MAIN),
    *_grounding_claims("PAL improves grounding", "pal"),
    *_alignment_claims(
        "centroids", "Real and synthetic patches come closer", "centroid_distance",
        "distance of the centroids in the space that the decoder reads", change=paper.CENTROID_DISTANCE,
    ),
    *_alignment_claims(
        "relevant", "Text-relevant real and synthetic patches come closer", "centroid_distance",
        "distance of the centroids of text-relevant patches", "relevant",
    ),
    *_alignment_claims(
        "umap", "Real and synthetic patches come closer in the UMAP", "umap_centroid_distance",
        "distance of the centroids in the map's two dimensions", change=paper.CENTROID_DISTANCE,
    ),
    *_alignment_claims(
        "mmd", "The MMD of real and synthetic patches falls in the UMAP", "umap_mmd_rbf", "MMD-RBF in two dimensions",
        change=paper.MMD,
    ),
    _localisation_claim("where_by_distance", "centroid_change", "relative change of the distance of the centroids", -1),
    _localisation_claim("where_by_mixing", "mixing_change", "change of the domains' mixing", 1),
    *_loss_claims("Alignment makes training faster", "ce_on_the_way", "training cross-entropy over all steps, nats"),
    *_loss_claims(
        "Alignment lowers the cross-entropy", "ce_at_the_end", "training cross-entropy in the last epoch, nats"
    ),
    *_loss_claims("Alignment lowers the total loss", "total_at_the_end", "total loss in the last epoch", MORE_TERMS),
)  # fmt: skip

NOT_TESTED = (
    "freezing the encoder, unfreezing the decoder step by step, the Bengali half of the prompts, the number of "
    "synthetic pictures, and OT on small or several objects"
)
"""What the paper also credits with an effect, and no variant here tests."""


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
        difference = _find_difference(results, claim)
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


def _find_difference(results: Results, claim: Claim) -> Mapping[str, Any] | None:
    section = results.get(claim.section) or []
    records = section if isinstance(section, list) else section.get("differences", [])
    return estimates.first(records, **dict(claim.select))
