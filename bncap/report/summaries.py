"""The report's other tables: each part of ``results.json`` as a table of text cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bncap.config import ALL_VARIANTS, BASE, MAIN
from bncap.experiments import paper
from bncap.experiments.alignment import CHANCE
from bncap.experiments.diagnostics import LOSSES, REFERENCE
from bncap.experiments.estimates import Record, first, select
from bncap.report.tables import FormattedTable, format_interval, format_mean, format_number

PATCH_SETS = {"all": "all", "relevant": "text-relevant", "background": "background"}
DISTANCES = {
    "centroid_distance": "centroid distance",
    "relative_centroid_distance": "centroid distance / spread",
    "spread": "spread",
    "mmd_rbf": "MMD-RBF",
    "domain_mixing": "domain mixing",
    "paired_cosine": "paired cosine",
    "umap_centroid_distance": "centroid distance, UMAP",
    "umap_mmd_rbf": "MMD-RBF, UMAP",
}
GROUNDING = {"share": "Mass in box", "pointing": "Pointing game"}
BESIDE = {"share": {"chance": "chance", "mean_map": "mean map", "other": "other objects"}}
BESIDE["pointing"] = {"chance": "chance", "mean_map": "mean map"}
"""What a measure of grounding is compared with."""
READING_MEASURES = {
    "relevant/mmd_rbf": "MMD, text-relevant",
    "relevant/relative_centroid_distance": "Centroids / spread",
    "logged/pal": "PAL",
    "logged/infonce": "InfoNCE",
    "logged/ot": "OT",
    "attended_patches": "Patches attended",
}
CLAIM_DIGITS = {"pairs": 2, "grounding": 1, "alignment": 3, "convergence": 4}
"""Decimals of a claim's difference, by the part of ``results.json`` that holds it."""
ERROR_GROUPS = ("all", "number", "relation", "colour")
"""The dimensions that the report's table shows; figure and CSV have the objects too."""


def headline(results: Mapping[str, Any]) -> FormattedTable:
    """The full objective beside cross-entropy alone: scores, grounding and distances, with what the paper prints."""
    rows = []
    for split, metric in (("test", "B4"), ("ood", "B4"), ("ood", "METEOR"), ("ood", "noun_precision")):
        record = first(results["pairs"], variant=MAIN, against=BASE, split=split, metric=metric)
        if record is not None:
            name = f"{paper.NAMES.get(metric, metric)} {paper.SPLITS[split]}"
            claim = first(results["claims"], section="pairs", first=MAIN, second=BASE, measure=name)
            values = [format_number(record[side]) for side in ("first", "second")]
            printed = format_number(claim["paper"] if claim else None, sign="+")
            rows.append([name, *values, format_interval(record, mark=" *"), printed])
    attention = {"source": "generated", "measure": "share"}
    for record in select(results["grounding"]["differences"], variant=MAIN, against=BASE, **attention):
        shares = {
            row["variant"]: row for row in select(results["grounding"]["rows"], split=record["split"], **attention)
        }
        values = [format_number(shares[variant]["value"], 1) for variant in (MAIN, BASE)]
        name = f"noun attention in the object's box {paper.SPLITS[record['split']]}, %"
        rows.append([name, *values, format_interval(record, digits=1, mark=" *"), format_number(None)])
    for patches, metric in (("relevant", "centroid_distance"), ("all", "umap_centroid_distance")):
        record = first(results["alignment"]["differences"], variant=MAIN, against=BASE, set=patches, metric=metric)
        if record is not None:
            values = [format_number(record[side], 3) for side in ("first", "second")]
            name = f"{DISTANCES[metric]}, {PATCH_SETS[patches]} patches, after training"
            rows.append([name, *values, format_interval(record, digits=3, mark=" *"), format_number(None)])
    columns = ["Measure", paper.label(MAIN), paper.label(BASE), "Difference", "Paper's difference"]
    caption = "Means over the seeds. *: 0 lies outside the 95 % interval of the difference."
    return FormattedTable("headline_table", "Main results", caption, pd.DataFrame(rows, columns=columns))


def claims(records: Sequence[Record]) -> FormattedTable:
    """The paper's claims with their verdicts, in the order of the paper."""
    rows = []
    for r in records:
        left, right = (paper.label(r[side]) if r[side] in ALL_VARIANTS else r[side] for side in ("first", "second"))
        digits = CLAIM_DIGITS[r["section"]]
        compared = left if left == right else f"{left} against {right}"
        difference = format_interval(r, digits=digits), format_number(r["paper"], digits, "+")
        rows.append([r["says"], r["verdict"], *difference, r["measure"], compared, r["where"], r["note"]])
    columns = ["Claim", "Verdict", "Difference", "Paper", "Measure", "Compared", "Where", "Note"]
    caption = (
        "A claim holds if the whole 95 % interval of the difference has the claimed sign, does not hold if all of it "
        "has the other sign, and cannot be told if 0 lies within or there is one seed. Intervals of scores and "
        "grounding are over images and seeds (bootstrap), those of losses and distances over seeds (Student's t)."
    )
    cells = pd.DataFrame(rows, columns=columns)
    return FormattedTable("claims_table", "The paper's claims", caption, cells, text_columns=len(columns))


def encoder_accuracy(accuracy: Mapping[str, Mapping[str, float]]) -> FormattedTable:
    """How well the frozen encoders of Table 1 classify objects, per cent of cells."""
    rows = [[name, *(f"{styles[style]:.1f}" for style in ("real", "ood"))] for name, styles in accuracy.items()]
    caption = (
        "Per cent of object cells whose kind a linear probe reads off the frozen encoder. Table 1 compares encoders as "
        "much as decoders: those of the baselines were pretrained far less."
    )
    cells = pd.DataFrame(rows, columns=["Encoder of", "In domain", "Out of domain"])
    return FormattedTable("encoders_table", "Accuracy of the frozen encoders", caption, cells)


def grounding(content: Mapping[str, Any]) -> FormattedTable:
    """Attention of nouns in the boxes of their objects (:func:`bncap.experiments.grounding.summarise_grounding`)."""
    rows = []
    for split, source, variant in dict.fromkeys((r["split"], r["source"], r["variant"]) for r in content["rows"]):
        place = {"split": split, "source": source, "variant": variant}
        values = {r["measure"]: r for r in select(content["rows"], **place)}
        size = values["share"]
        row = {"Images": paper.SPLITS[split], "Captions": source, "Method": paper.label(variant)}
        row["Nouns"] = f"{size['words']} of {size['named']}"
        for measure, name in GROUNDING.items():
            row[name] = format_interval(values[measure], "value", 1)
            for other, words in BESIDE[measure].items():
                row[f"{name}: {words}"] = format_number(values[f"{measure}_{other}"]["value"], 1)
            difference = first(content["differences"], **place, measure=measure, against=BASE)
            row[f"{name}: less CE"] = format_interval(difference, digits=1, mark=" *") if difference else ""
        rows.append(row)
    caption = (
        "Attention of nouns while they are written, per cent: the mass in the object's box, and how often the "
        "strongest patch lies in it. Means over nouns, then seeds, with 95 % intervals over images and seeds; *: the "
        f"difference from {paper.label(BASE)} leaves out 0. Nouns: those whose object has a box, of all that are "
        "named. Chance: a uniform map; mean map: that of all nouns; other objects: the mass in boxes of other kinds."
    )
    splits = " and ".join(paper.SPLITS[split] for split in content["without_boxes"])
    notes = (f"Without boxes, or without words for their kinds, and left out: pictures {splits}.",) if splits else ()
    return FormattedTable("grounding_table", "Grounding", caption, pd.DataFrame(rows), 3, notes)


def alignment(content: Mapping[str, Any]) -> FormattedTable:
    """Distances of the patches in training, from :func:`bncap.experiments.alignment.summarise_alignment`."""
    rows = []
    for patches, words in PATCH_SETS.items():
        for metric, name in DISTANCES.items():
            place = {"set": patches, "metric": metric}
            base, full = (first(content["summary"], variant=variant, **place) for variant in (BASE, MAIN))
            if base and full:
                by_chance = first(content["summary"], variant=MAIN, set=patches, metric=metric + CHANCE)
                after = [f"{format_number(r['after'], 4)} ({_format_change(r['change'])})" for r in (base, full)]
                difference = first(content["differences"], variant=MAIN, against=BASE, **place)
                chance = format_number(by_chance["after"] if by_chance else None, 4)
                shown = format_interval(difference, digits=4, mark=" *")
                rows.append([words, name, format_number(full["before"], 4), *after, chance, shown])
    columns = ["Patches", "Measure", "Before", "After CE", "After full objective", "By chance", "Full less CE"]
    seeds = len(content["by_seed"])
    caption = (
        f"Real and synthetic patches behind the bridge, before and after training, means over {seeds} "
        f"seed{'s' * (seeds != 1)} with relative changes. Text-relevant: the patches that the full model's w (Eq. 8) "
        "keeps. Spread: root mean square distance from the mean. Domain mixing: share of the ten nearest neighbours "
        "from the other kind of picture. Paired cosine: of the pooled descriptors of one caption. By chance: the "
        "points after the full objective, split at random. Last: 95 % interval over seeds, * if it leaves out 0."
    )
    return FormattedTable(
        "alignment_table", "Distances of the patches", caption, pd.DataFrame(rows, columns=columns), 2
    )


def umap_seeds(content: Mapping[str, Any]) -> FormattedTable:
    """How far UMAP's own seed moves what Fig. 3 shows, from :func:`bncap.experiments.alignment.summarise_alignment`."""
    rows = []
    for r in (r for r in content["umap_range"] if r["set"] == "all" and r["umap_seeds"] > 1):
        change = f"{_format_change(r['change_low'])} to {_format_change(r['change_high'])}"
        paper_change = _format_change(r["paper_change"])
        rows.append([DISTANCES[r["metric"]], paper.label(r["variant"]), str(r["umap_seeds"]), change, paper_change])
    columns = ["Measure", "Method", "UMAP seeds", "Change in training", "Paper"]
    caption = "The same patches of the first seed's runs under several seeds of UMAP: least and most relative change."
    return FormattedTable("umap_table", "UMAP's own seed", caption, pd.DataFrame(rows, columns=columns), 2)


def training(content: Mapping[str, Any]) -> FormattedTable:
    """Losses by objective, from :func:`bncap.experiments.diagnostics.summarise_convergence`."""
    rows = []
    for measure, name in LOSSES.items():
        for row in select(content["rows"], measure=measure):
            difference = first(content["differences"], variant=row["variant"], measure=measure)
            shown = format_interval(difference, digits=4, mark=" *") if difference else ""
            rows.append([name, paper.label(row["variant"]), format_mean(row["mean"], row["std"], digits=4), shown])
    caption = (
        "Nats a token, means ± standard deviation over the seeds; differences from cross-entropy alone with 95 % "
        "intervals over seeds (Student's t), * if 0 is left out. A total loss with more terms is larger by them."
    )
    cells = pd.DataFrame(rows, columns=["Loss", "Objective", "Value", "Difference"])
    return FormattedTable("training_table", "Losses", caption, cells, 2)


def diversity(records: Sequence[Record]) -> FormattedTable:
    """Variety of captions and references, from :func:`bncap.experiments.diagnostics.summarise_diversity`."""
    rows: list[list[str]] = []
    written = set()
    for r in records:
        if r["variant"] == REFERENCE:
            written.add(len(rows))
        name = REFERENCE if r["variant"] == REFERENCE else paper.label(r["variant"])
        numbers = [f"{r[m]:.1f}" for m in ("distinct", "vocabulary", "mean_length", "most_frequent_share")]
        caption = r["most_frequent"] + " (degenerate)" * r["degenerate"]
        rows.append([name, paper.SPLITS[r["split"]], caption, *numbers])
    columns = ["Captions of", "Images", "Most frequent caption", "Distinct, %", "Words", "Length", "Its share, %"]
    caption = "Means over the seeds: share of distinct captions, number of distinct words, tokens a caption."
    cells = pd.DataFrame(rows, columns=columns)
    return FormattedTable(
        "diversity_table", "Diversity", caption, cells, 3, paper_rows=frozenset(written), caption_column=columns[2]
    )


def readings(content: Mapping[str, Any]) -> FormattedTable:
    """Differences that each reading makes out of domain, from :func:`bncap.experiments.readings.summarise_readings`."""
    rows = []
    for reading in (r for r in content["readings"] if r["trained"]):
        for against in reading["against"]:
            place = {"variant": reading["variant"], "against": against}
            scores = [
                first(content["scores"], **place, split="ood", metric=m) for m in ("B4", "METEOR", "noun_precision")
            ]
            measures = [first(content["measures"], **place, measure=measure) for measure in READING_MEASURES]
            cells = [format_interval(r, mark=" *") for r in scores]
            cells += [format_interval(r, digits=4, mark=" *") for r in measures]
            rows.append([reading["label"], paper.label(against), *cells])
    columns = ["Reading", "Against", "BLEU-4", "METEOR", "Noun prec.", *READING_MEASURES.values()]
    caption = (
        "Out of domain, with 95 % intervals (scores: over images and seeds; the rest: over seeds), * if 0 is left out. "
        "Losses are those that each run logs at its end."
    )
    notes = tuple(f"{record['label']}: {record['why']}" for record in content["same"])
    cells = pd.DataFrame(rows, columns=columns)
    return FormattedTable("readings_table", "Differences made by each reading", caption, cells, 2, notes)


def flagged_readings(content: Mapping[str, Any]) -> FormattedTable:
    """Readings whose loss ends lower than the default's while the gap ends larger."""
    rows = []
    for flag in content["flags"]:
        losses = "; ".join(f"{READING_MEASURES[t['measure']]} {format_interval(t, digits=4)}" for t in flag["terms"])
        growth = "yes" if flag["above_before"] else "no"
        gap_difference = format_interval(flag["gap"], digits=4)
        rows.append([paper.label(flag["variant"]), losses, gap_difference, growth])
    columns = ["Reading", "Losses that end lower", "MMD, text-relevant", "Gap larger than before training"]
    caption = (
        "Readings whose own loss ends lower than the default's while the gap ends larger, beyond the seeds' scatter."
    )
    return FormattedTable("flags_table", "Lower loss, larger gap", caption, pd.DataFrame(rows, columns=columns), 2)


def filters(content: Mapping[str, Any]) -> FormattedTable:
    """What each verification threshold accepts and what the captioner scores, from :mod:`bncap.experiments.filters`."""
    rows = []
    for pairs in content["pairs"]:
        place = {"filter": pairs["filter"], "split": "ood"}
        scores = {r["metric"]: r for r in select(content["scores"], **place)}
        means = [format_mean(scores[metric]["mean"], scores[metric]["std"]) for metric in ("B4", "METEOR")]
        against = first(content["differences"], variant=pairs["filter"], split="ood", metric="B4")
        counts = [f"{pairs['accepted']} of {pairs['candidates']}", str(pairs["pairs"])]
        faulty = format_number(pairs["faulty_pairs"], 1)
        difference = format_interval(against, mark=" *") if against else ""
        rows.append([paper.label(pairs["filter"]), *counts, faulty, *means, difference])
    columns = ["Threshold", "Accepted", "Trained on", "Faulty, %", "BLEU-4", "METEOR", "BLEU-4 less the lowest's"]
    caption = "Cross-entropy alone on equally many pairs of those that each threshold accepts, scored out of domain."
    return FormattedTable("filter_table", "The verification threshold", caption, pd.DataFrame(rows, columns=columns))


def error_groups(content: Mapping[str, Any]) -> FormattedTable:
    """The full objective beside cross-entropy alone by group of pictures, on the last split that has boxes."""
    split = content["differences"][-1]["split"]
    rows = []
    for difference in select(content["differences"], split=split):
        place = {name: difference[name] for name in ("split", "dimension", "group", "measure")}
        [value] = select(content["rows"], variant=MAIN, **place)
        if difference["dimension"] in ERROR_GROUPS and value["value"] is not None:
            measure = paper.NAMES.get(difference["measure"], difference["measure"].replace("_", " "))
            numbers = [format_interval(value, "value", 1), format_interval(difference, digits=1, mark=" *")]
            rows.append([difference["dimension"], difference["group"], measure, str(value["pictures"]), *numbers])
    columns = ["By", "Group", "Measure", "Pictures", paper.label(MAIN), f"less {paper.label(BASE)}"]
    caption = f"Per cent (BLEU-4, METEOR: 0 to 100), {paper.SPLITS[split]}, with 95 % intervals over images and seeds."
    cells = pd.DataFrame(rows, columns=columns)
    return FormattedTable("groups_table", "Scores by group of pictures", caption, cells, 3)


def _format_change(share: float | None) -> str:
    """A relative change with its sign; a dash where it is not known."""
    return format_number(None if share is None else 100 * share, 1, "+") + "%" * (share is not None)
