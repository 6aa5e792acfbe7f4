"""Tables 1 to 4 and ``results.json``, read from the scores that finished runs have saved."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bncap import artifacts, layout, paper, paths, stats
from bncap.config import BASELINES, MAIN, SENSITIVITY, VARIANTS
from bncap.errors import BncapError
from bncap.experiments import folder_of
from bncap.settings import Config

NOUNS = ("noun_precision", "noun_recall")
VARIETY = ("distinct", "vocabulary", "mean_length", "most_frequent_share")
SETTINGS = ("lambda", "tau", "rho")
ANALYSIS = "08_umap_mmd"
DIGITS = 4  # of a score in CSV and JSON: finer differences are those of processors


@dataclass(frozen=True)
class Table:
    """What a table holds: its number in the paper, the runs of its rows, and their splits."""

    number: int
    title: str
    variants: tuple[str, ...]
    splits: tuple[str, ...] = ("ood",)


TABLES: dict[str, Table] = {
    "table1_baselines": Table(1, "The main model beside two established captioners, out of domain", (MAIN, *BASELINES)),
    "table2_main": Table(2, "The main model in and out of domain", (MAIN,), ("test", "ood")),
    "table3_ablations": Table(3, "Variants of the objective, out of domain", tuple(VARIANTS)),
    "table4_sensitivity": Table(4, "Hyper-parameters of PAL, on a part of the data, out of domain", tuple(SENSITIVITY)),
}


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


def read_scores(config: Config, variant: str, seed: int) -> dict[str, Any]:
    """``scores.json`` of a finished run, by split, NaN for what is not known.

    Raises BncapError with the command that makes it if there is none.
    """
    saved = artifacts.read_json(artifacts.require(folder_of(config, variant, seed)) / "scores.json")
    return {
        split: {name: math.nan if value is None else value for name, value in scores.items()}
        for split, scores in saved.items()
    }


def as_results(frame: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The scores of a table in the form of ``results.json``, so that :mod:`bncap.findings` can read it alone."""
    records = []
    for _, row in frame.iterrows():
        same = {"variant": variant_of(row), "seed": int(row["seed"]), "split": row["split"]}
        values = row.drop([*SETTINGS, "method", "split", "seed"], errors="ignore").items()
        records += [{**same, "metric": metric, "value": _known(value)} for metric, value in values]
    return {"results": records}


def write_table(frame: pd.DataFrame, name: str, config: Config) -> list[Path]:
    """Write ``frame`` as ``figures/<profile>/<name>.csv``, ``.md`` and ``.tex``; returns their paths.

    ``name`` is one of :data:`TABLES`.  The CSV holds the rows as they are; the other two show mean ± sample standard
    deviation over the seeds, each method above what the paper prints for it.
    """
    if name not in TABLES:
        raise BncapError(f"unknown table {name!r}: choose one of {', '.join(TABLES)}")
    folder = paths.figures_dir(config.profile)
    csv, md, tex = (folder / f"{name}{suffix}" for suffix in (".csv", ".md", ".tex"))
    artifacts.write_text(csv, frame.to_csv(index=False, lineterminator="\n"))
    laid_out = arrange(frame, name, config)
    artifacts.write_text(md, layout.markdown(laid_out))
    artifacts.write_text(tex, layout.latex(laid_out))
    return [csv, md, tex]


def arrange(frame: pd.DataFrame, name: str, config: Config) -> layout.Layout:
    """The table ``name`` as it is shown: means and deviations over seeds, with the paper's rows and the caption."""
    keys = [*SETTINGS] if "lambda" in frame else ["method"]
    several = frame["split"].nunique() > 1
    own = config.data.source == "own"  # which the paper's numbers have nothing to do with
    metrics = [*paper.METRICS, *(["noun_precision"] if "noun_precision" in frame else [])]
    rows, notes, images = [], [], {}
    for _, group in frame.groupby([*keys, "split"], sort=False):
        variant, split = variant_of(group.iloc[0]), group["split"].iloc[0]
        images[split] = read_scores(config, variant, int(group["seed"].iloc[0]))[split]["images"]
        names = tuple(str(group[key].iloc[0]) for key in keys) if len(keys) > 1 else (paper.label(variant),)
        shown = tuple(layout.spread(*_spread(group[metric])) for metric in metrics)
        where = (paper.SPLITS[split],) if several else ()
        rows.append(layout.Row((*names, *where, "here", *shown), ours=True))
        printed = {} if own else paper.printed(variant, split)
        for place, scores in printed.items():
            cells = tuple(layout.number(scores.get(metric, math.nan)) for metric in metrics)
            where = (paper.DATASETS[split],) if several else ()
            rows.append(layout.Row((*[""] * len(keys), *where, f"paper, {place}", *cells), ours=False))
        notes += [] if own else _notes(variant, printed)
    header = tuple(layout.HEADINGS.get(c, c) for c in (*keys, *(["split"] if several else []), "source", *metrics))
    title = "The captioner on pictures that it was not trained on" if own else TABLES[name].title
    caption = f"{title}. {_how(frame, images, config)}"
    return layout.Layout(name, TABLES[name].number, caption, header, tuple(rows), tuple(notes))


def write_results(config: Config, first_seed: int) -> Path:
    """Write every number behind the tables to ``figures/<profile>/results.json``.

    - ``results``: a record for each variant, seed, split and metric, with ``value`` and the scores' ``signature``;
    - ``summary``: mean and sample standard deviation over the seeds, with what the paper prints;
    - ``alignment``: by seed, the numbers of notebook 08, where it has been run; ``alignment_summary``: their means over
      seeds before and after training.

    A number that is not known is null.  Nothing in the file depends on when or how fast it was made.
    Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    seeds = config.seeds(first_seed)
    records = []
    for variant in (*VARIANTS, *BASELINES, *SENSITIVITY):
        for seed in seeds:
            records += _records(config, variant, seed)
    records.sort(key=lambda r: (r["variant"], r["split"], r["metric"], r["seed"]))
    alignment = _alignment(config, seeds)
    content = {
        "profile": config.profile,
        "seeds": list(seeds),
        "results": records,
        "summary": _summary(records),
        "alignment": alignment,
        "alignment_summary": _alignment_summary(alignment),
        "paper": {"centroid_distance": asdict(paper.CENTROID_DISTANCE), "mmd": asdict(paper.MMD)},
    }
    path = paths.figures_dir(config.profile) / "results.json"
    artifacts.write_json(path, content)
    return path


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


def _records(config: Config, variant: str, seed: int) -> list[dict[str, Any]]:
    records = []
    for split, scores in read_scores(config, variant, seed).items():
        values = {metric: scores[metric] for metric in (*paper.METRICS, "images")}
        values |= {metric: scores[metric] for metric in NOUNS if metric in scores}
        values |= {metric: scores["diversity"][metric] for metric in VARIETY}
        same = {"variant": variant, "seed": seed, "split": split, "signature": scores["signature"]}
        records += [{**same, "metric": metric, "value": _known(value)} for metric, value in values.items()]
    return records


def _summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    summary = []
    for (variant, split, metric), group in pd.DataFrame(records).groupby(["variant", "split", "metric"]):
        mean, std = _spread(group["value"].astype(float))
        printed = {place: row[metric] for place, row in paper.printed(variant, split).items() if metric in row}
        entry = {"variant": variant, "split": split, "metric": metric, "mean": _known(mean), "std": _known(std)}
        summary.append({**entry, "seeds": len(group), "paper": printed})
    return summary


def _spread(values: pd.Series) -> tuple[float, float]:
    """Mean and deviation rounded once, so that tables and ``results.json`` cannot differ in a last digit."""
    if values.isna().any():
        return math.nan, math.nan
    mean, std = stats.mean_std(values)
    return round(mean, DIGITS), round(std, DIGITS)


def _alignment(config: Config, seeds: tuple[int, ...]) -> dict[str, dict[str, float]]:
    folders = {str(seed): paths.step_dir(config.profile, ANALYSIS, "analysis", seed) for seed in seeds}
    return {
        seed: artifacts.read_json(folder / "summary.json")
        for seed, folder in folders.items()
        if artifacts.is_finished(folder)
    }


def _alignment_summary(alignment: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A record for each model, set of patches and metric that was taken both before and after training."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for values in alignment.values():
        for name, value in values.items():
            model, moment, part, metric = name.split("/")
            found.setdefault((model, part, metric), {}).setdefault(moment, []).append(value)
    summary = []
    for (model, part, metric), moments in sorted(found.items()):
        if {"before", "after"} <= moments.keys():
            means = {moment: _known(_spread(pd.Series(moments[moment]))[0]) for moment in ("before", "after")}
            summary.append({"variant": model, "set": part, "metric": metric, **means, "seeds": len(moments["after"])})
    return summary


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else round(value, DIGITS)
