"""The report's tables, as text, from the records of ``results.json`` and the tables' CSVs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bncap.config import MAIN, VARIANTS
from bncap.experiments import convergence, gap, paper
from bncap.experiments.diversity import REFERENCE
from bncap.experiments.records import Record, interval, one, select
from bncap.report import grounding_text, layout


@dataclass(frozen=True)
class Line:
    """A row; ``kind`` is "ours" for what was measured here and "paper" for what the paper prints."""

    cells: tuple[str, ...]
    kind: str = "ours"


@dataclass(frozen=True)
class Grid:
    """A table ready to be set: ``text_columns``, from the left, hold no numbers; ``captions`` is the one that holds a
    caption in the target language, counted from 1, 0 for none.
    """

    id: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[Line, ...]
    text_columns: int = 1
    notes: tuple[str, ...] = ()
    captions: int = 0
    kind: str = "table"


def of_layout(table: layout.Layout) -> list[Grid]:
    """One of the paper's tables and, below it, its differences."""
    grids = [_of_layout(table, table.name, f"Table {table.number}", table.notes)]
    if table.differences is not None:
        grids.append(_of_layout(table.differences, f"{table.name}_differences", "", ()))
    return grids


def _of_layout(table: layout.Layout, name: str, title: str, notes: Sequence[str]) -> Grid:
    rows = tuple(Line(row.cells, "ours" if row.ours else "paper") for row in table.rows)
    return Grid(name, title, table.caption, table.header, rows, table.text_columns, tuple(notes))


def training(found: Record) -> Grid:
    """How training went: means over the seeds, and the differences from cross-entropy alone."""
    rows = []
    for measure, words in convergence.MEASURES.items():
        for row in (r for r in found["rows"] if r["measure"] == measure):
            apart = select(found["differences"], variant=row["variant"], measure=measure)
            value = f"{row['mean']:.4f}" + ("" if row["std"] is None else f" ± {row['std']:.4f}")
            shown = interval(apart[0], 4) + " *" * apart[0]["excludes_zero"] if apart else ""
            rows.append(Line((words, paper.label(row["variant"]), value, shown)))
    caption = (
        "Means ± standard deviation over the seeds, nats a token; the differences are from cross-entropy alone, with "
        "their 95 % intervals over the seeds (Student's t), * where 0 is left out. The total has more terms in it the "
        "more the objective has."
    )
    return Grid("training_table", "Losses", caption, ("Loss", "Objective", "Value", "Difference"), tuple(rows), 2)


def alignment(found: Record) -> Grid:
    header, rows = gap.table(found)
    return Grid("alignment_table", "Before and after training", gap.caption(found), header, _lines(rows), 2)


def grounding(found: Record) -> Grid:
    header, rows = grounding_text.table(found)
    return Grid("grounding_table", "In numbers", grounding_text.CAPTION, header, _lines(rows), 3)


def variety(records: Sequence[Record]) -> Grid:
    """Diversity of every variant's captions and of the references."""
    rows = []
    for record in records:
        own = record["variant"] == REFERENCE
        name = "references" if own else paper.label(record["variant"])
        numbers = (f"{record[m]:.1f}" for m in ("distinct", "vocabulary", "mean_length", "most_frequent_share"))
        said = record["most_frequent"] + (" (degenerate)" if record["degenerate"] else "")
        rows.append(Line((name, paper.SPLITS[record["split"]], said, *numbers), "paper" if own else "ours"))
    header = ("Captions of", "Images", "Most frequent caption", "Distinct, %", "Words", "Length", "Its share, %")
    caption = (
        "Means over the seeds. Distinct: the share of different captions; words: how many different ones are used; "
        "length: words and marks a caption."
    )
    return Grid("variety_table", "Diversity", caption, header, tuple(rows), 3, captions=3)


READING_MEASURES = {
    "relevant/mmd_rbf": "MMD, text-relevant",
    "relevant/relative_centroid_distance": "Centroids / spread",
    "logged/pal": "PAL",
    "logged/infonce": "InfoNCE",
    "logged/ot": "OT",
    "attended_patches": "Patches attended",
}
"""What of notebook 11 stands beside the scores, and how it is called."""


def readings(found: Record) -> Grid:
    """What each reading changes against what it departs from."""
    rows = []
    for reading in (r for r in found["readings"] if r["trained"]):
        for against in reading["against"]:
            place = {"variant": reading["variant"], "against": against}
            scores = [
                one(found["scores"], **place, split="ood", metric=metric)
                for metric in ("B4", "METEOR", "noun_precision")
            ]
            measured = [one(found["measures"], **place, measure=measure) for measure in READING_MEASURES]
            cells = (_marked(r, 2) for r in scores), (_marked(r, 4) for r in measured)
            rows.append(Line((reading["label"], paper.label(against), *cells[0], *cells[1])))
    header = ("Reading", "Against", "BLEU-4", "METEOR", "Noun prec.", *READING_MEASURES.values())
    caption = (
        "Differences of the reading from what it departs from, out of domain, with 95 % intervals (scores: over images "
        "and seeds; the rest: over seeds), * where 0 is left out. The losses are those that each run logs at its end."
    )
    return Grid("readings_table", "What each reading changes", caption, header, tuple(rows), 2)


def filters(found: Record) -> Grid:
    """What the verification threshold lets in, and what the captioner makes of it."""
    rows = []
    for pairs in found["pairs"]:
        same = {"filter": pairs["filter"], "split": "ood"}
        scores = [one(found["scores"], **same, metric=m) for m in ("B4", "METEOR")]
        apart = select(found["differences"], variant=pairs["filter"], split="ood", metric="B4")
        faulty = layout.UNKNOWN if pairs["faulty_pairs"] is None else f"{pairs['faulty_pairs']:.1f}"
        values = (layout.spread(s["mean"], s["std"]) for s in scores)
        shown = _marked(apart[0], 2) if apart else ""
        counts = f"{pairs['accepted']} of {pairs['candidates']}", str(pairs["pairs"])
        rows.append(Line((paper.label(pairs["filter"]), *counts, faulty, *values, shown)))
    header = ("Threshold", "Accepted", "Trained on", "Faulty, %", "BLEU-4", "METEOR", "BLEU-4, less the lowest")
    caption = "Cross-entropy alone on equally many pairs of those that each threshold accepts, scored out of domain."
    return Grid("filter_table", "What the filter is worth", caption, header, tuple(rows))


def groups(found: Record, dimensions: Sequence[str]) -> Grid:
    """Scores by group of pictures, the full objective beside cross-entropy alone; out of domain, if boxes are there."""
    split = found["differences"][-1]["split"]
    rows = []
    for apart in found["differences"]:
        if apart["split"] == split and apart["dimension"] in dimensions:
            same = {name: apart[name] for name in ("split", "dimension", "group", "measure")}
            value = one(found["rows"], **same, variant=MAIN)
            if value["value"] is not None:
                first = f"{value['value']:.1f} [{value['low']:.1f}, {value['high']:.1f}]"
                measure = paper.NAMES.get(apart["measure"], apart["measure"].replace("_", " "))
                named = apart["dimension"], apart["group"], measure
                rows.append(Line((*named, str(value["pictures"]), first, _marked(apart, 1))))
    header = ("By", "Group", "Measure", "Pictures", paper.label(MAIN), f"less {VARIANTS['ce_real'].label}")
    words = paper.SPLITS[split]
    caption = f"Per cent (BLEU-4 and METEOR: 0 to 100), {words}, with 95 % intervals over images and seeds."
    return Grid("groups_table", "By group of pictures", caption, header, tuple(rows), 3)


def _marked(record: Record | None, digits: int) -> str:
    """A difference with its interval and a star where 0 is left out; a dash where it is not known."""
    if record is None or record["difference"] is None:
        return layout.UNKNOWN
    return interval(record, digits) + " *" * record["excludes_zero"]


def _lines(rows: Iterable[Sequence[str]]) -> tuple[Line, ...]:
    return tuple(Line(tuple(row)) for row in rows)
