"""The parts of the report: which tables, figures and sentences stand together, from ``results.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bncap.config import EXTENDED_NOTEBOOKS
from bncap.experiments import claims, diversity
from bncap.report import findings, gap_words, grounding_text, report_grids
from bncap.report.report_grids import Grid

FIGURES: dict[str, tuple[str, str]] = {
    "differences": (
        "06_ablations",
        "Every variant and baseline against cross-entropy alone, with 95 % intervals over images and seeds; filled "
        "where 0 is left out.",
    ),
    "table3_ablations": (
        "06_ablations",
        "The variants of Table 3, out of domain: a dot for each seed, a bar at the mean; note where the axes begin.",
    ),
    "table4_sensitivity": (
        "07_sensitivity",
        "The settings of Table 4, out of domain: a dot for each seed, a bar at the mean; note where the axes begin.",
    ),
    "grounding": (
        "08_umap_mmd",
        "Where the words look: the share of a noun's attention in its object's box, and how often the strongest patch "
        "lies in it, beside what chance and maps that know nothing of the word would have.",
    ),
    "attention": (
        "04_training",
        "Where each word looks, in held-out pictures at even ranks of their METEOR, best to worst.",
    ),
    "fig3_umap": (
        "08_umap_mmd",
        "Fig. 3, bottom: patches of real and synthetic pictures before and after training, in one UMAP of the runs of "
        "the first seed; the text has the means over all seeds.",
    ),
    "umap_seeds": (
        "08_umap_mmd",
        "The same patches of the same runs of the first seed, drawn by UMAPs of other seeds.",
    ),
    "fig3_convergence": (
        "04_training",
        "Fig. 3, top: the losses over training, the full objective beside cross-entropy alone.",
    ),
    "lengths": ("09_report", "How long the captions are out of domain, beside the references."),
    "readings": ("11_readings", "What each other reading of the paper changes in the scores."),
    "readings_gap": ("11_readings", "What each reading does to the losses, and to the gap that they are to close."),
    "errors": ("12_error_analysis", "What the captions get right, by group of pictures."),
    "confusion": ("12_error_analysis", "What is said (across) of what is there (down), per cent; white: never."),
    "filter": ("12_error_analysis", "The captioner after each threshold of the verifier, on equally many pairs."),
    "fig2_pipeline": (
        "04_training",
        "Fig. 2: the pipeline from an English caption to the losses, with a training triplet drawn by the seed.",
    ),
    "fig1_patches": (
        "04_training",
        "Fig. 1: a test picture on its way through the frozen encoder, its patches, and where each word looks.",
    ),
    "acceptance": ("01_data_build", "Acceptance: the share of translated captions that pass the verifier (Eq. 4)."),
    "pairs": ("02_synthesis", "Pairs: real pictures beside the synthetic ones drawn from their captions (Eq. 5)."),
    "prompts": ("02_synthesis", "Prompts: their length as the model counts it, and how many words its window leaves."),
    "captions": (
        "04_training",
        "Captions of the main model, at even ranks of their METEOR, each with the first of its references.",
    ),
}
"""Figure -> the notebook that draws it, and one sentence on what it shows."""

GROUPS = ("all", "number", "relation", "colour")
"""Of notebook 12's groups, those of the report's table; the figure and the CSV have the objects too."""

KINDS = {claims.HOLDS: "holds", claims.FAILS: "fails", claims.OPEN: "open"}

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    name: str
    kind: str = "figure"


@dataclass(frozen=True)
class Html:
    """A part that is HTML already."""

    html: str
    kind: str = "html"


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; ``made`` says when, where that is not this run."""

    id: str
    title: str
    sentences: Sequence[str]
    parts: Sequence[Grid | Figure | Html]
    text: Sequence[str] = ()
    made: str = ""


def build(results: Results, tables: Sequence[Grid], view: str, encoders: Sequence[str]) -> list[Section]:
    """All sections in order; those of notebooks 11 and 12 where they have been run.

    ``tables`` are the paper's, ``view`` the words of samples to be touched, ``encoders`` what is to be said of Table 1.
    """
    looked = [report_grids.grounding(results["grounding"])] if results["grounding"]["rows"] else []  # no boxes
    found = [
        Section(
            "scores",
            "Scores: Tables 1 to 4",
            scores_said(results),
            [Figure("differences"), *tables, *_figures("table3_ablations", "table4_sensitivity")],
            encoders,
        ),
        Section(
            "grounding",
            "Where the words look",
            grounding_text.sentences(results["grounding"]),
            [
                Figure("grounding"),
                *looked,
                Html(view),
                Figure("attention"),
            ],
            ("Below the figure and the table: touch a word of a caption to see which patches it looks at.",),
        ),
        Section(
            "alignment",
            "Real and synthetic patches",
            gap_words.sentences(results["alignment"]),
            [Figure("fig3_umap"), report_grids.alignment(results["alignment"]), Figure("umap_seeds")],
        ),
        Section(
            "training", "Training", (), [Figure("fig3_convergence"), report_grids.training(results["convergence"])]
        ),
        Section(
            "variety",
            "Collapse and diversity",
            diversity.sentences(results["diversity"]),
            [Figure("lengths"), report_grids.variety(results["diversity"])],
        ),
    ]
    if results["readings"]:
        found.append(_readings(results["readings"]))
    if results["error_analysis"]:
        found.append(_errors(results["error_analysis"]))
    method = _figures("fig2_pipeline", "fig1_patches", "acceptance", "pairs", "prompts", "captions")
    return [*found, Section("method", "Method and data", (), method)]


def figures_shown(results: Results) -> list[str]:
    """The names of :data:`FIGURES`, without those of the extended notebooks that have never been run."""
    run = dict(zip(EXTENDED_NOTEBOOKS, (results["readings"], results["error_analysis"]), strict=True))
    return [name for name, (notebook, _) in FIGURES.items() if run.get(notebook[:2], True)]


def scores_said(results: Results) -> list[str]:
    """What is to be read in Tables 1 to 4 besides the claims."""
    return [
        findings.transfer(results),
        *findings.nouns(results),
        findings.ranking(results),
        findings.spread_of_variants(results),
        findings.sensitivity(results),
    ]


def claimed(results: Results) -> list[dict[str, Any]]:
    """The claims by verdict; those that say the same of the same two models are told together, a line a measure."""
    titles = {claims.HOLDS: "Holds here", claims.FAILS: "Does not hold here", claims.OPEN: "Cannot be told here"}
    groups = []
    for verdict, title in titles.items():
        records = [record for record in results["claims"] if record["verdict"] == verdict]
        told: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for record in records:
            told.setdefault(tuple(record[name] for name in ("says", "where", "first", "second")), []).append(record)
        kind = KINDS[verdict]
        groups.append({"title": title, "kind": kind, "count": len(records), "told": list(map(_told, told.values()))})
    return groups


def _told(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    one = records[0]
    first, second = (findings.named(one[side]) for side in ("first", "second"))
    compared = f"{first} against {second}" if first != second else first
    lines = [_measured(record) for record in records]
    return {"says": one["says"], "where": one["where"], "compared": compared, "lines": lines, "note": one["note"]}


def _measured(record: Mapping[str, Any]) -> str:
    digits = claims.SHOWN_DIGITS[record["section"]]
    text = f"{record['measure']}: {findings.interval(record, digits)}"
    return text if record["paper"] is None else f"{text}; the paper: {record['paper']:+.{digits}f}"


def _readings(content: Mapping[str, Any]) -> Section:
    found = content["found"]
    parts = [Figure("readings"), report_grids.readings(found), Figure("readings_gap")]
    return Section("readings", "The paper read otherwise", found["sentences"], parts, made=_made(content))


def _errors(content: Mapping[str, Any]) -> Section:
    found = content["found"]
    parts: list[Grid | Figure] = [Figure("filter"), report_grids.filters(found["filter"])]
    if found["rows"]:
        parts += [Figure("errors"), report_grids.groups(found, GROUPS), Figure("confusion")]
    title = "Errors, and what the filter is worth"
    return Section("errors", title, found["sentences"], parts, made=_made(content))


def _made(content: Mapping[str, Any]) -> str:
    made = content["made"]
    return f"Measured on {made['date']} at commit {made['commit']}, by ./run_all.sh --extended."


def _figures(*names: str) -> list[Figure]:
    return [Figure(name) for name in names]
