"""What the readings of notebook 11 show, in sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bncap.config import MAIN, READINGS
from bncap.experiments import paper
from bncap.experiments.reading_measures import GAP
from bncap.experiments.records import Record, interval, select

METRIC = "B4"
METRICS = {METRIC: "BLEU-4", "noun_precision": "Noun precision"}
"""What is said of scores, and how it is called."""
CHANCE = "Of 95 % intervals one in twenty leaves out 0 by chance alone."
TERMS = {"pal": "PAL", "infonce": "InfoNCE", "ot": "OT"}
CENTROIDS = "relevant/relative_centroid_distance"
ATTENDED, KEPT, FLOOR = "attended_patches", "kept_patches", "ot_floor_share"


def sentences(content: Record) -> list[str]:
    """What the numbers of :func:`bncap.experiments.readings.measure` say, a sentence or two to each item."""
    said = [_on_scores(content, split, metric) for metric in METRICS for split in paper.SPLITS]
    said = [sentence for sentence in said if sentence]
    said += [
        CHANCE,
        *_on_synthetic(content),
        _on_flags(content["flags"]),
        *(_on_flag(content, f) for f in content["flags"]),
    ]
    said += [_on_attention(content), _on_floor(content)]
    return [*said, *(f"{record['label']}: {record['why']}" for record in content["same"])]


def main_readings(content: Record) -> list[str]:
    """Readings that were trained and depart from the main model, in the order of the configuration."""
    return [r["variant"] for r in content["readings"] if r["trained"] and r["against"] == [MAIN]]


def _on_scores(content: Record, split: str, metric: str) -> str:
    """Empty where the metric was not measured."""
    names = main_readings(content)
    records = [r for r in select(content["scores"], split=split, metric=metric) if r["variant"] in names]
    records = [r for r in records if r["difference"] is not None]
    moved = [f"{_label(r)} {interval(r)}" for r in records if r["excludes_zero"]]
    differ = f"{len(moved)} differ" if len(moved) > 1 else "one differs" if moved else "none differs"
    if not records:
        return ""
    return (
        f"{METRICS[metric]} {paper.SPLITS[split]}: of {len(records)} readings, each against the default, {differ} "
        f"beyond the scatter of pictures and seeds{': ' + ', '.join(moved) if moved else ''}."
    )


def _on_synthetic(content: Record) -> Iterator[str]:
    """The rows of Table 3 with captions on synthetic pictures: beside the same rows without, and beside CE alone."""
    rows = [r for r in content["readings"] if len(r["against"]) > 1]
    for place, beside in enumerate(
        ("the same row without", "cross-entropy alone with them, the baseline that the paper's text names")
    ):
        found = [
            record
            for row in rows
            for record in select(
                content["scores"], variant=row["variant"], against=row["against"][place], split="ood", metric=METRIC
            )
        ]
        shifts = ", ".join(f"{_label(record).partition(', CE')[0]} {interval(record)}" for record in found)
        yield f"Captions on synthetic pictures too, BLEU-4 out of domain against {beside}: {shifts}."


def _on_flags(flags: Sequence[Record]) -> str:
    if not flags:
        return (
            "No reading ends with a lower loss of its own and a larger gap than what it is compared with, both beyond "
            "the scatter of seeds."
        )
    both = {_label(f): [TERMS[_term(record)] for record in f["terms"] if record["in_both"]] for f in flags}
    named = ", ".join(f"{name} ({', '.join(terms)})" for name, terms in both.items() if terms)
    return (
        f"Losses that end lower than the default's while the gap ends larger than the default's: {', '.join(both)}. "
        f"Lower also when the loss is read as the default reads it: {named or 'none of them'}. The gap is larger than "
        f"before training in {sum(f['above_before'] for f in flags)} of {len(flags)}."
    )


def _on_flag(content: Record, flag: Record) -> str:
    where = {"variant": flag["variant"], "against": flag["against"]}
    terms = (f"{TERMS[_term(r)]} {_pair(r)}, as the default reads it {_pair(r['default'])}" for r in flag["terms"])
    [centroids] = select(content["measures"], **where, measure=CENTROIDS)
    before = content["before"]
    return (
        f"{_label(flag)}: its own losses end lower ({'; '.join(terms)}), the gap larger: MMD of text-relevant patches "
        f"{_pair(flag['gap'])}, {before[GAP]:.4g} before training; distance of their centroids in units of the spread "
        f"{_pair(centroids)}, {before[CENTROIDS]:.4g} before."
    )


def _on_attention(content: Record) -> str:
    names = main_readings(content)
    attended, kept = (
        [r for r in select(content["measures"], measure=measure) if r["variant"] in names]
        for measure in (ATTENDED, KEPT)
    )
    fewest, most = (choose(attended, key=lambda r: r["first"]) for choose in (min, max))
    few, many = (choose(kept, key=lambda r: r["first"]) for choose in (min, max))
    return (
        f"Attended patches (exponential of the entropy): {attended[0]['second']:.3g} in the default, from "
        f"{fewest['first']:.3g} ({_label(fewest)}) to {most['first']:.3g} ({_label(most)}) in the readings; patches of "
        f"weight above 0: {kept[0]['second']:.3g} in the default, from {few['first']:.3g} ({_label(few)}) to "
        f"{many['first']:.3g} ({_label(many)})."
    )


def _on_floor(content: Record) -> str:
    floor = next(iter(select(content["measures"], against=MAIN, measure=FLOOR)))
    said = (
        f"Of the default's OT loss {floor['second']:.3g} % is what it costs to carry each picture's patches to "
        "themselves"
    )
    gap = select(content["measures"], variant="divergence", measure=GAP)
    return f"{said}; without it (Sinkhorn divergence) the gap ends at {_pair(gap[0])}." if gap else f"{said}."


def _term(record: Record) -> str:
    return record["measure"].partition("/")[2]


def _label(record: Record) -> str:
    return READINGS[record["variant"]].label


def _pair(record: Record) -> str:
    return f"{record['first']:.4g} against {record['second']:.4g}"
