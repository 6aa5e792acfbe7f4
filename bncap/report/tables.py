"""Tables 1 to 4, read from the scores that finished runs have saved."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bncap import stats
from bncap.config import MAIN, PART_BASE, SENSITIVITY, VARIANTS
from bncap.errors import BncapError
from bncap.experiments import comparisons, paper
from bncap.experiments.scores import DIGITS, TABLES, read_scores, spread
from bncap.pipeline import artifacts, paths
from bncap.report import layout
from bncap.settings import Config

SETTINGS = ("lambda", "tau", "rho")
MARKS = {comparisons.TO_BASE: "*", comparisons.TO_ABOVE: "†"}
COMPARED = ("B4", "METEOR", "BERT-F1", "noun_precision")
"""What the block of differences below a table shows; its CSV has all metrics."""

Records = Sequence[Mapping[str, Any]]


def table1(config: Config, first_seed: int) -> pd.DataFrame:
    """Table 1 (Sec. 5.2): a row for each of the three captioners and each seed.

    Columns ``method, split, seed, B1, B2, B3, B4, METEOR, BERT-F1`` and, where the pictures' objects are known,
    ``noun_precision``; ``method`` is the variant's name, scores are 0 to 100.  The seeds are
    ``config.seeds(first_seed)``.  Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    return _frame(config, first_seed, "table1_baselines")


def table2(config: Config, first_seed: int, variant: str = MAIN) -> pd.DataFrame:
    """Table 2 (Sec. 5.3): the main model, or another ``variant``, on the test splits that it was scored on.

    Columns and errors as in :func:`table1`.
    """
    return _frame(config, first_seed, "table2_main", (variant,))


def table3(config: Config, first_seed: int) -> pd.DataFrame:
    """Table 3 (Sec. 5.4): every variant of the objective.  Columns and errors as in :func:`table1`."""
    return _frame(config, first_seed, "table3_ablations")


def table4(config: Config, first_seed: int) -> pd.DataFrame:
    """Table 4 (Sec. 5.5): settings of PAL, with ``lambda, tau, rho`` for ``method``; else as :func:`table1`."""
    return _frame(config, first_seed, "table4_sensitivity")


def variant_of(row: pd.Series) -> str:
    """The variant whose run a row of a table is about."""
    if "method" in row:
        return row["method"]
    return f"lambda{row['lambda']}-tau{row['tau']}-rho{row['rho']}"


def write_table(frame: pd.DataFrame, name: str, config: Config) -> list[Path]:
    """Write ``frame`` as ``figures/<profile>/<name>.csv``, ``.md`` and ``.tex``; returns their paths.

    ``name`` is one of :data:`bncap.experiments.scores.TABLES`.  The CSV holds the rows as they are; the other two show mean ±
    sample standard deviation over the seeds, each method above what the paper prints for it, and below the table the
    differences from cross-entropy alone and from the row above.  Those go into ``<name>_differences.csv`` too.
    """
    if name not in TABLES:
        raise BncapError(f"unknown table {name!r}: choose one of {', '.join(TABLES)}")
    folder = paths.figures_dir(config.profile)
    csv, md, tex = (folder / f"{name}{suffix}" for suffix in (".csv", ".md", ".tex"))
    variants = list(dict.fromkeys(frame.apply(variant_of, axis=1)))
    differences = comparisons.of_table(config, int(frame["seed"].iloc[0]), name, variants)
    artifacts.write_text(csv, frame.to_csv(index=False, lineterminator="\n"))
    comparisons.write(config, name, differences)
    laid_out = arrange(frame, name, config, differences)
    artifacts.write_text(md, layout.markdown(laid_out))
    artifacts.write_text(tex, layout.latex(laid_out))
    return [csv, md, tex]


def arrange(frame: pd.DataFrame, name: str, config: Config, differences: Records) -> layout.Layout:
    """The table ``name`` as it is shown: means and deviations over seeds, with the paper's rows and the caption.

    ``differences``: its records of :func:`bncap.experiments.comparisons.of_table`, which set the marks at the means and
    fill the block below the table.
    """
    keys = [*SETTINGS] if "lambda" in frame else ["method"]
    several = frame["split"].nunique() > 1
    own = config.data.source == "own"  # which the paper's numbers have nothing to do with
    metrics = [*paper.METRICS, *(["noun_precision"] if "noun_precision" in frame else [])]
    marks = _marks(differences)
    rows, notes, images = [], [], {}
    for _, group in frame.groupby([*keys, "split"], sort=False):
        variant, split = variant_of(group.iloc[0]), group["split"].iloc[0]
        images[split] = read_scores(config, variant, int(group["seed"].iloc[0]))[split]["images"]
        names = tuple(str(group[key].iloc[0]) for key in keys) if len(keys) > 1 else (paper.label(variant),)
        shown = (layout.spread(*spread(group[m]), marks.get((variant, split, m), "")) for m in metrics)
        where = (paper.SPLITS[split],) if several else ()
        rows.append(layout.Row((*names, *where, "here", *shown), ours=True))
        printed = {} if own else paper.printed(variant, split)
        for place, scores in printed.items():
            cells = tuple(layout.number(scores.get(metric, math.nan)) for metric in metrics)
            where = (paper.DATASETS[split],) if several else ()
            rows.append(layout.Row((*[""] * len(keys), *where, f"paper, {place}", *cells), ours=False))
        notes += [] if own else _notes(variant, printed)
    if "lambda" in frame:
        notes.append(_part_base(config, sorted(set(frame["seed"])), metrics))
    columns = (*keys, *(["split"] if several else []), "source")
    header = tuple(layout.HEADINGS.get(column, column) for column in (*columns, *metrics))
    title = "The captioner on pictures that it was not trained on" if own else TABLES[name].title
    caption = f"{title}. {_how(frame, images, config)}{_marked(differences)}"
    below = _differences(differences, several) if differences else None
    return layout.Layout(name, TABLES[name].number, caption, header, tuple(rows), tuple(notes), len(columns), below)


def _marks(differences: Records) -> dict[tuple[str, str, str], str]:
    """(variant, split, metric) -> the marks of the differences that exclude 0."""
    marks: dict[tuple[str, str, str], str] = {}
    for relation, mark in MARKS.items():
        for r in differences:
            if r["relation"] == relation and r["excludes_zero"]:
                place = r["variant"], r["split"], r["metric"]
                marks[place] = marks.get(place, "") + mark
    return marks


def _marked(differences: Records) -> str:
    """The part of a caption that explains the marks."""
    if not differences:
        return ""
    base = next(r["against"] for r in differences if r["relation"] == comparisons.TO_BASE)
    meanings = [f"{MARKS[comparisons.TO_BASE]} differs from {paper.label(base)}"]
    if any(r["relation"] == comparisons.TO_ABOVE for r in differences):
        meanings.append(f"{MARKS[comparisons.TO_ABOVE]} from the row above")
    return f" {'; '.join(meanings)}: 0 lies outside the {differences[0]['level']:.0%} interval of the difference."


def _differences(differences: Records, several: bool) -> layout.Layout:
    """The block below a table: a row for each row of the table and each that it is compared with."""
    found: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for r in differences:
        found.setdefault((r["split"], r["variant"], r["relation"]), {})[r["metric"]] = r
    metrics = [m for m in COMPARED if any(r["metric"] == m for r in differences)]
    rows = []
    for (split, variant, relation), records in found.items():
        shown = (
            layout.difference(r["difference"], r["low"], r["high"], MARKS[relation] * r["excludes_zero"])
            if (r := records.get(metric))
            else layout.UNKNOWN
            for metric in metrics
        )
        against = (
            "row above" if relation == comparisons.TO_ABOVE else paper.label(next(iter(records.values()))["against"])
        )
        where = (paper.SPLITS[split],) if several else ()
        rows.append(layout.Row((paper.label(variant), *where, against, *shown), ours=True))
    columns = ("method", *(["split"] if several else []), "against")
    header = tuple(layout.HEADINGS.get(column, column) for column in (*columns, *metrics))
    level, seeds = differences[0]["level"], differences[0]["seeds"]
    caption = (
        f"Difference of the means with its {level:.0%} interval: paired bootstrap over the test images"
        f"{f' and the {seeds} seeds' if seeds > 1 else ''}, {stats.REPLICATES} samples, BLEU of each whole sample. "
        "A mark (* or †, as above) says that the interval leaves out 0. Each interval stands by itself: where nothing "
        f"differs, up to {1 - level:.0%} of them would still be marked."
    )
    return layout.Layout("differences", 0, caption, header, tuple(rows), (), len(columns))


def _frame(config: Config, first_seed: int, name: str, variants: Sequence[str] = ()) -> pd.DataFrame:
    rows = []
    for variant in variants or TABLES[name].variants:
        for split in TABLES[name].splits:
            for seed in config.seeds(first_seed):
                scores = read_scores(config, variant, seed).get(split)
                if scores is None:  # data of one's own have one test set
                    continue
                measured = {metric: round(scores[metric], DIGITS) for metric in paper.METRICS}
                if "noun_precision" in scores:
                    measured["noun_precision"] = round(scores["noun_precision"], DIGITS)
                rows.append({**_first_columns(variant), "split": split, "seed": seed, **measured})
    return pd.DataFrame(rows)


def _first_columns(variant: str) -> dict[str, Any]:
    if variant not in SENSITIVITY:
        return {"method": variant}
    values = map(float, re.findall(r"[\d.]+", variant))
    return dict(zip(SETTINGS, values, strict=True))


def _notes(variant: str, printed: dict[str, paper.Row]) -> list[str]:
    """What a reader must know of the paper's rows for ``variant``."""
    name = paper.label(variant)
    if not printed:
        return [f"{name} has no counterpart in the paper: {VARIANTS[variant].reason}."]
    if len({tuple(row.items()) for row in printed.values()}) > 1:
        values = " and ".join(f"{row['B4']:.2f} in {place}" for place, row in printed.items())
        return [f"The paper prints different scores for {name} on the same images, BLEU-4 {values}; both are shown."]
    return []


def _part_base(config: Config, seeds: Sequence[int], metrics: Sequence[str]) -> str:
    """What the settings of Table 4 are compared with is no row of it."""
    saved = [read_scores(config, PART_BASE, seed)["ood"] for seed in seeds]
    scores = {layout.HEADINGS.get(m, m): layout.spread(*spread([s[m] for s in saved])) for m in metrics}
    return f"{paper.label(PART_BASE)}, has {', '.join(f'{name} {score}' for name, score in scores.items())}."


def _how(frame: pd.DataFrame, images: dict[str, int], config: Config) -> str:
    """The part of a caption that says what was averaged over what."""
    seeds = sorted(set(frame["seed"]))
    listed = ", ".join(map(str, seeds))
    averaged = (
        f"Mean ± standard deviation over {len(seeds)} seeds ({listed})"
        if len(seeds) > 1
        else f"One seed ({listed}), so no standard deviation"
    )
    closing = f"Profile {config.profile}; all scores 0–100, higher is better."
    if config.data.source == "own":
        return f"{averaged}; {sum(images.values())} test images. {closing}"
    tested = " and ".join(f"{count} test images {paper.SPLITS[split]}" for split, count in images.items())
    return f"{averaged}; {tested}; the paper has {paper.IMAGES}. {closing}"
