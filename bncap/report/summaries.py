"""The report's other tables: each part of ``results.json`` as a table of text cells, captioned in captions.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bncap.config import ALL_VARIANTS, BASE, MAIN
from bncap.experiments import paper
from bncap.experiments.alignment import CHANCE
from bncap.experiments.comparisons import LOSSES, REFERENCE
from bncap.experiments.estimates import Record, first, select
from bncap.pipeline import paths
from bncap.report.tables import FormattedTable, format_interval, format_mean, format_number

CAPTIONS: dict[str, Any] = tomllib.loads((paths.PACKAGE / "report" / "captions.toml").read_text("utf-8"))
PATCH_SETS, DISTANCES, GROUNDING, BESIDE, READING_MEASURES = (
    CAPTIONS["names"][kind] for kind in ("patch_sets", "distances", "grounding", "beside", "readings")
)
"""How tables name what was measured; of ``BESIDE``, what a measure of grounding is compared with."""
CLAIM_DIGITS = {"pairs": 2, "grounding": 1, "alignment": 3, "convergence": 4}
"""Decimals of a claim's difference, by the part of ``results.json`` that holds it."""
ERROR_GROUPS = ("all", "number", "relation", "colour")
"""The dimensions that the report's table shows; figure and CSV have the objects too."""


def _make(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1,
    notes: tuple[str, ...] = (), paper_rows: Collection[int] = (), caption_column: str = "", **values: str,
) -> FormattedTable:  # fmt: skip
    """The table ``name`` with the title and the caption of captions.toml, ``values`` in their places."""
    words = CAPTIONS["tables"][name]
    title, caption = words["title"], words["caption"].format(**values)
    return FormattedTable(name, title, caption, columns, rows, text_columns, notes, paper_rows, caption_column)


def _marked(record: Record | None, digits: int = 2) -> str:
    """The difference of ``record`` with its interval, marked where this leaves out 0; nothing without a record."""
    return format_interval(record, digits=digits, mark=" *") if record else ""


def headline(results: Mapping[str, Any]) -> FormattedTable:
    """The full objective beside cross-entropy alone: scores, grounding and distances, with what the paper prints."""
    rows = []
    for split, metric in (("test", "B4"), ("ood", "B4"), ("ood", "METEOR"), ("ood", "noun_precision")):
        if record := first(results["pairs"], variant=MAIN, against=BASE, split=split, metric=metric):
            name = f"{paper.NAMES.get(metric, metric)} {paper.SPLITS[split]}"
            claim = first(results["claims"], section="pairs", first=MAIN, second=BASE, measure=name)
            values = [format_number(record[side]) for side in ("first", "second")]
            rows.append([name, *values, _marked(record), format_number(claim["paper"] if claim else None, sign="+")])
    share = {"source": "generated", "measure": "share"}
    for record in select(results["grounding"]["differences"], variant=MAIN, against=BASE, **share):
        place = {"split": record["split"], **share}
        shares = [first(results["grounding"]["rows"], variant=variant, **place)["value"] for variant in (MAIN, BASE)]
        name = f"noun attention in the object's box {paper.SPLITS[record['split']]}, %"
        rows.append([name, *(format_number(value, 1) for value in shares), _marked(record, 1), format_number(None)])
    for patches, metric in (("relevant", "centroid_distance"), ("all", "umap_centroid_distance")):
        pair = {"variant": MAIN, "against": BASE, "set": patches, "metric": metric}
        if record := first(results["alignment"]["differences"], **pair):
            values = [format_number(record[side], 3) for side in ("first", "second")]
            name = f"{DISTANCES[metric]}, {PATCH_SETS[patches]} patches, after training"
            rows.append([name, *values, _marked(record, 3), format_number(None)])
    columns = ["Measure", paper.label(MAIN), paper.label(BASE), "Difference", "Paper's difference"]
    return _make("headline_table", columns, rows)


def claims(records: Sequence[Record]) -> FormattedTable:
    """The paper's claims with their verdicts, in the order of the paper."""
    rows = []
    for r in records:
        sides = [paper.label(r[side]) if r[side] in ALL_VARIANTS else r[side] for side in ("first", "second")]
        digits, compared = CLAIM_DIGITS[r["section"]], " against ".join(dict.fromkeys(sides))
        difference = format_interval(r, digits=digits), format_number(r["paper"], digits, "+")
        rows.append([r["says"], r["verdict"], *difference, r["measure"], compared, r["where"], r["note"]])
    columns = ["Claim", "Verdict", "Difference", "Paper", "Measure", "Compared", "Where", "Note"]
    return _make("claims_table", columns, rows, len(columns))


def encoder_accuracy(accuracy: Mapping[str, Mapping[str, float]]) -> FormattedTable:
    """How well the frozen encoders of Table 1 classify objects, per cent of cells."""
    rows = [[name, *(f"{styles[style]:.1f}" for style in ("real", "ood"))] for name, styles in accuracy.items()]
    return _make("encoders_table", ["Encoder of", "In domain", "Out of domain"], rows)


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
            row[f"{name}: less CE"] = _marked(difference, 1)
        rows.append(row)
    splits = " and ".join(paper.SPLITS[split] for split in content["without_boxes"])
    notes = (f"Without boxes, or without words for their kinds, and left out: pictures {splits}.",) if splits else ()
    cells = [list(row.values()) for row in rows]
    return _make("grounding_table", list(rows[0]) if rows else [], cells, 3, notes, base=paper.label(BASE))


def alignment(content: Mapping[str, Any]) -> FormattedTable:
    """Distances of the patches in training, from :func:`bncap.experiments.alignment.summarise_alignment`."""
    rows = []
    for place in ({"set": patches, "metric": metric} for patches in PATCH_SETS for metric in DISTANCES):
        base, full = (first(content["summary"], variant=variant, **place) for variant in (BASE, MAIN))
        if base and full:
            by_chance = first(content["summary"], variant=MAIN, set=place["set"], metric=place["metric"] + CHANCE)
            after = [f"{format_number(r['after'], 4)} ({_format_change(r['change'])})" for r in (base, full)]
            chance = format_number(by_chance["after"] if by_chance else None, 4)
            difference = first(content["differences"], variant=MAIN, against=BASE, **place)
            shown = format_interval(difference, digits=4, mark=" *")
            words = PATCH_SETS[place["set"]], DISTANCES[place["metric"]]
            rows.append([*words, format_number(full["before"], 4), *after, chance, shown])
    columns = ["Patches", "Measure", "Before", "After CE", "After full objective", "By chance", "Full less CE"]
    seeds = len(content["by_seed"])
    return _make("alignment_table", columns, rows, 2, seeds=f"{seeds} seed{'s' * (seeds != 1)}")


def umap_seeds(content: Mapping[str, Any]) -> FormattedTable:
    """How far UMAP's own seed moves what Fig. 3 shows, from :func:`bncap.experiments.alignment.summarise_alignment`."""
    rows = []
    for r in (r for r in content["umap_range"] if r["set"] == "all" and r["umap_seeds"] > 1):
        change = f"{_format_change(r['change_low'])} to {_format_change(r['change_high'])}"
        printed = _format_change(r["paper_change"])
        rows.append([DISTANCES[r["metric"]], paper.label(r["variant"]), str(r["umap_seeds"]), change, printed])
    return _make("umap_table", ["Measure", "Method", "UMAP seeds", "Change in training", "Paper"], rows, 2)


def training(content: Mapping[str, Any]) -> FormattedTable:
    """Losses by objective, from :func:`bncap.experiments.comparisons.summarise_convergence`."""
    rows = []
    for measure, name in LOSSES.items():
        for row in select(content["rows"], measure=measure):
            difference = first(content["differences"], variant=row["variant"], measure=measure)
            value = format_mean(row["mean"], row["std"], digits=4)
            rows.append([name, paper.label(row["variant"]), value, _marked(difference, 4)])
    return _make("training_table", ["Loss", "Objective", "Value", "Difference"], rows, 2)


def diversity(records: Sequence[Record]) -> FormattedTable:
    """Variety of captions and references, from :func:`bncap.experiments.comparisons.summarise_diversity`."""
    rows = []
    for r in records:
        name = REFERENCE if r["variant"] == REFERENCE else paper.label(r["variant"])
        numbers = [f"{r[m]:.1f}" for m in ("distinct", "vocabulary", "mean_length", "most_frequent_share")]
        rows.append([name, paper.SPLITS[r["split"]], r["most_frequent"] + " (degenerate)" * r["degenerate"], *numbers])
    columns = ["Captions of", "Images", "Most frequent caption", "Distinct, %", "Words", "Length", "Its share, %"]
    written = {i for i, r in enumerate(records) if r["variant"] == REFERENCE}
    return _make("diversity_table", columns, rows, 3, (), written, columns[2])


def readings(content: Mapping[str, Any]) -> FormattedTable:
    """Differences that each reading makes out of domain, from :func:`bncap.experiments.readings.summarise_readings`."""
    rows = []
    for reading in select(content["readings"], trained=True):
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
    notes = tuple(f"{record['label']}: {record['why']}" for record in content["same"])
    return _make("readings_table", columns, rows, 2, notes)


def flagged_readings(content: Mapping[str, Any]) -> FormattedTable:
    """Readings whose loss ends lower than the default's while the gap ends larger."""
    rows = []
    for flag in content["flags"]:
        losses = "; ".join(f"{READING_MEASURES[t['measure']]} {format_interval(t, digits=4)}" for t in flag["terms"])
        growth = "yes" if flag["above_before"] else "no"
        rows.append([paper.label(flag["variant"]), losses, format_interval(flag["gap"], digits=4), growth])
    columns = ["Reading", "Losses that end lower", "MMD, text-relevant", "Gap larger than before training"]
    return _make("flags_table", columns, rows, 2)


def filters(content: Mapping[str, Any]) -> FormattedTable:
    """What each verification threshold accepts and what the captioner scores, from :mod:`bncap.experiments.filters`."""
    rows = []
    for pairs in content["pairs"]:
        name = pairs["filter"]
        scores = [first(content["scores"], filter=name, split="ood", metric=metric) for metric in ("B4", "METEOR")]
        counts = [f"{pairs['accepted']} of {pairs['candidates']}", str(pairs["pairs"])]
        means = [format_mean(score["mean"], score["std"]) for score in scores]
        difference = first(content["differences"], variant=name, split="ood", metric="B4")
        faulty = format_number(pairs["faulty_pairs"], 1)
        rows.append([paper.label(name), *counts, faulty, *means, _marked(difference)])
    columns = ["Threshold", "Accepted", "Trained on", "Faulty, %", "BLEU-4", "METEOR", "BLEU-4 less the lowest's"]
    return _make("filter_table", columns, rows)


def error_groups(content: Mapping[str, Any]) -> FormattedTable:
    """The full objective beside cross-entropy alone by group of pictures, on the last split that has boxes."""
    split = content["differences"][-1]["split"]
    rows = []
    for difference in select(content["differences"], split=split):
        place = {name: difference[name] for name in ("split", "dimension", "group", "measure")}
        [value] = select(content["rows"], variant=MAIN, **place)
        if difference["dimension"] in ERROR_GROUPS and value["value"] is not None:
            measure = paper.NAMES.get(difference["measure"], difference["measure"].replace("_", " "))
            numbers = [format_interval(value, "value", 1), _marked(difference, 1)]
            rows.append([difference["dimension"], difference["group"], measure, str(value["pictures"]), *numbers])
    columns = ["By", "Group", "Measure", "Pictures", paper.label(MAIN), f"less {paper.label(BASE)}"]
    return _make("groups_table", columns, rows, 3, split=paper.SPLITS[split])


def _format_change(share: float | None) -> str:
    """A relative change with its sign; a dash where it is not known."""
    return format_number(None if share is None else 100 * share, 1, "+") + "%" * (share is not None)
