"""Figures of results: scores, differences with intervals, losses over training, readings, errors and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm

from bncap.config import BASE, BASELINES, MAIN
from bncap.experiments import paper
from bncap.experiments.error_analysis import NOTHING
from bncap.experiments.estimates import select
from bncap.experiments.runs import TRAINING
from bncap.pipeline.artifacts import require
from bncap.pipeline.paths import step_dir
from bncap.report import tables
from bncap.report.style import PALETTE, SPLIT_COLOURS, add_legend, draw_intervals, save, use_style, wrap
from bncap.settings import Config

Records = Sequence[Mapping[str, Any]]

WAYS = {
    "logged": ("read as in its training", PALETTE[1]), "default": ("same weights, read as the default", PALETTE[0]),
    "gap": ("gap: MMD, text-relevant", PALETTE[2]),
}  # fmt: skip
"""What a loss of a reading is measured with -> its label and colour."""
KINDS = 24
"""So many kinds of objects are shown at most, the most frequent ones: COCO has 80."""
ERROR_PANELS = (
    ("object", "named", "Objects named (%)"),
    ("colour", "colour_right", "Colour right, where one is given (%)"),
    ("relation", "relation_right", "Relation right, where one is given (%)"),
    ("number", "named", "Objects named (%), by their number"),
    ("number", "B4", "BLEU-4, by the number of objects"),
)
"""Dimension, measure, title; those that were not measured are left out."""


def draw_scores(frame: pd.DataFrame, path: Path, metrics: Sequence[str] = ("B4", "noun_precision")) -> Path:
    """A dot for each seed and a bar at the mean: a panel a metric, a line a variant; returns the PNG.

    ``frame`` is one of :mod:`bncap.report.tables` with rows of one split.  Metrics that it lacks are left out.
    """
    use_style()
    shown = [metric for metric in metrics if metric in frame]
    labels = frame.apply(tables.variant_of, axis=1).map(paper.label)
    fig, axes = plt.subplots(1, len(shown), figsize=(7.6, 0.7 + 0.28 * labels.nunique()), squeeze=False, sharey=True)
    bar = {"color": "black", "linestyle": "none", "marker": "|", "markersize": 13, "markeredgewidth": 1.4}
    for axis, metric, colour in zip(axes[0], shown, PALETTE, strict=False):
        sns.stripplot(x=frame[metric], y=labels, ax=axis, color=colour, alpha=0.75, jitter=False, size=4)
        sns.pointplot(x=frame[metric], y=labels, ax=axis, errorbar=None, **bar)
        axis.set(xlabel=f"{_name(metric)} (0–100)", ylabel="")
        axis.grid(axis="y")
        axis.tick_params(axis="y", length=0)
    return save(fig, path)


def draw_differences(records: Records, path: Path, metrics: Sequence[str] = ("B4", "METEOR")) -> Path:
    """Forest plot of each variant's differences from one other: a panel a metric, a colour a split; returns the PNG.

    ``records`` are such as :func:`bncap.experiments.comparisons.compare_with_base` gives; the lines have their order,
    and baselines stand below, on a scale of their own.  A dot is filled where the 95 % interval leaves out 0.
    """
    frame = _read_records(records)
    frame["line"] = frame["variant"].map(paper.label)
    groups = [list(part["line"].unique()) for _, part in frame.groupby(frame["variant"].isin(list(BASELINES)))]
    return _draw_forest(frame, groups, metrics, f"difference from {paper.label(records[0]['against'])}", path)


def draw_readings(content: Mapping[str, Any], path: Path, metrics: Sequence[str] = ("B4", "noun_precision")) -> Path:
    """``readings.png``: differences of scores that each reading makes, a panel a metric, a colour a split.

    ``content`` comes from :func:`bncap.experiments.readings.summarise_readings`.  Metrics that were not measured are
    left out.
    """
    frame = _read_records(content["scores"])
    shown = [metric for metric in metrics if frame.loc[frame["metric"] == metric, "value"].notna().any()]
    return _draw_forest(frame, [_order_readings(content)], shown, "difference (0–100)", path)


def _draw_forest(
    frame: pd.DataFrame, groups: Sequence[Sequence[str]], metrics: Sequence[str], xlabel: str, path: Path
) -> Path:
    """A column of panels a metric, a row a group of lines."""
    use_style()
    colours = {split: colour for split, colour in SPLIT_COLOURS.items() if split in set(frame["series"])}
    heights = [len(lines) for lines in groups]
    size = 7.6, 1.0 + 0.36 * sum(heights)
    shape = len(groups), len(metrics)
    fig, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharey="row", height_ratios=heights)
    for row, lines in zip(axes, groups, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            chosen = frame[(frame["metric"] == metric) & frame["line"].isin(lines)]
            draw_intervals(axis, chosen, lines, colours, numbers=True)
    for above, below, metric in zip(axes[0], axes[-1], metrics, strict=True):
        above.set_title(_name(metric), loc="left", fontweight="bold")
        below.set_xlabel(f"{xlabel}\nfilled: 0 lies outside the 95 % interval")
    add_legend(fig, colours, paper.SPLITS)
    return save(fig, path)


def _read_records(records: Records) -> pd.DataFrame:
    """Differences as :func:`draw_intervals` reads them, the lines those of the readings."""
    frame = pd.DataFrame(list(records)).rename(columns={"difference": "value", "split": "series"})
    return frame.assign(line=[_name_reading(r["variant"], r["against"]) for r in records])


def _name(metric: str) -> str:
    return paper.NAMES.get(metric, metric)


def draw_convergence(config: Config, seeds: Sequence[int], path: Path, variants: Sequence[str] = (BASE, MAIN)) -> Path:
    """Fig. 3 (top): total loss and cross-entropy of each step, and held-out cross-entropy of each epoch, by variant.

    Every seed's curve is drawn faintly, with the moving average of their mean over it.  Returns the PNG; a PDF lies
    beside it.  Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    use_style()
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6))
    panels = [
        ("steps.csv", "step", "total", "Total loss (Eq. 6)", "nats and weighted terms"),
        ("steps.csv", "step", "ce", "Cross-entropy (Eq. 7)", "nats a token"),
        ("validation.csv", "epoch", "ce", "Cross-entropy, held-out captions", "nats a token"),
    ]
    for axis, (file, x, y, title, unit) in zip(axes, panels, strict=True):
        for variant, colour in zip(variants, (PALETTE[1], PALETTE[0], *PALETTE[2:]), strict=False):
            runs = {seed: require(step_dir(config.profile, TRAINING, f"{variant}.weights", seed)) for seed in seeds}
            by_seed = pd.DataFrame({seed: pd.read_csv(run / file, index_col=x)[y] for seed, run in runs.items()})
            axis.plot(by_seed, color=colour, linewidth=0.4, alpha=0.35)
            # a mean over 3 % of the steps on either side, over fewer at the ends
            mean = by_seed.mean(axis=1).rolling(1 + 2 * round(0.03 * len(by_seed)), center=True, min_periods=1).mean()
            axis.plot(mean, "o-" if x == "epoch" else "-", color=colour, label=paper.label(variant))
        axis.set(title=title, ylabel=unit, ylim=(0, 1.05 * axis.get_ylim()[1]))
        axis.set_xlabel("accumulation step" if x == "step" else "epoch")
        axis.grid(axis="y")
        axis.xaxis.get_major_locator().set_params(integer=True)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(variants))
    return save(fig, path, pdf=True)


def draw_reading_losses(content: Mapping[str, Any], path: Path) -> Path:
    """``readings_gap.png``: each alignment term at the end of training and the gap, in per cent of the default's.

    Shaded are the readings that ``content`` flags: their own loss ends lower and the gap larger than the default's.
    """
    use_style()
    frame = _read_records(content["measures"])
    lines = [line for line in _order_readings(content) if line in set(frame["line"])]
    bounds = frame[["value", "low", "high"]].astype(float).mul(100 / frame["second"], axis=0)
    frame[["value", "low", "high"]] = bounds.T.fillna(bounds["value"]).T
    frame["series"], _, frame["term"] = frame["measure"].str.partition("/").values.T
    frame.loc[frame["measure"] == "relevant/mmd_rbf", ["series", "term"]] = "gap"
    names = {"pal": "PAL", "infonce": "InfoNCE", "ot": "OT", "gap": "the gap"}
    fig, axes = plt.subplots(1, len(names), figsize=(7.6, 0.9 + 0.3 * len(lines)), sharey=True)
    flagged = {_name_reading(flag["variant"], flag["against"]) for flag in content["flags"]}
    for axis, (term, name) in zip(axes, names.items(), strict=True):
        chosen = frame[(frame["term"] == term) & frame["series"].isin(list(WAYS))]
        colours = {way: colour for way, (_, colour) in WAYS.items() if (way == "gap") == (term == "gap")}
        draw_intervals(axis, chosen, lines, colours)
        axis.set_xlabel(f"{name}, difference in %")
        for y in (y for y, line in enumerate(lines) if line in flagged):
            axis.axhspan(y - 0.5, y + 0.5, color="#FFF3D6", zorder=-2, linewidth=0)
    labels, colours = ({way: pair[i] for way, pair in WAYS.items()} for i in (0, 1))
    add_legend(fig, colours, labels)
    return save(fig, path)


def _name_reading(variant: str, against: str) -> str:
    """A reading's label; for a row of Table 3 with captions on synthetic pictures also what it is compared with."""
    row, on_synthetic, _ = paper.label(variant).partition(", CE on")
    return f"{row}, synthetic CE\nless {paper.label(against)}" if on_synthetic else row


def _order_readings(content: Mapping[str, Any]) -> list[str]:
    """The lines of the readings' figures from above."""
    trained = [r for r in content["readings"] if r["trained"]]
    return list(dict.fromkeys(_name_reading(r["variant"], against) for r in trained for against in r["against"]))


def draw_error_groups(content: Mapping[str, Records], path: Path, variant: str = MAIN) -> Path:
    """``errors.png``: accuracy of ``variant`` by group of pictures, a colour a split.

    ``content`` comes from :func:`bncap.experiments.error_analysis.summarise_errors`.  A dot is the value of a group, a
    line its interval; a broken line is what one answer for all would get.
    """
    use_style()
    frame = pd.DataFrame(content["rows"])
    frame = frame[(frame["variant"] == variant) & frame["value"].notna()]
    frame = frame.assign(line=frame["group"].astype(str), series=frame["split"], excludes_zero=True)
    panels = {}
    for dimension, measure, title in ERROR_PANELS:
        chosen = frame[(frame["dimension"] == dimension) & (frame["measure"] == measure)]
        if len(chosen):
            panels[title] = (measure, chosen, _order_groups(dimension, chosen))
    first, *others = panels
    fig, axes = plt.subplot_mosaic(
        [[first, title] for title in others] or [[first]],
        figsize=(7.6, 1.6 + 0.17 * max(len(panels[first][2]), 18)),
        height_ratios=[1.6 + len(panels[title][2]) for title in others] or [1],
    )
    for title, (measure, chosen, lines) in panels.items():
        draw_intervals(axes[title], chosen, lines, SPLIT_COLOURS, zero=False)
        for guess in select(content["guesses"], variant=variant, measure=measure):
            colour = SPLIT_COLOURS[guess["split"]]
            axes[title].axvline(guess["value"], color=colour, linewidth=0.8, linestyle="--", zorder=0)
        axes[title].set(xlim=(0, 102))
        axes[title].set_title(title, loc="left")
    add_legend(fig, SPLIT_COLOURS, paper.SPLITS)
    return save(fig, path)


def _order_groups(dimension: str, frame: pd.DataFrame) -> list[str]:
    """Numbers in their order, others by their mean over the splits, best first; of many the most frequent."""
    if dimension == "number":
        return list(frame["line"].unique())
    groups = frame.groupby("line")
    frequent = groups["pictures"].sum().sort_values(ascending=False, kind="stable").index[:KINDS]
    return list(groups["value"].mean()[frequent].sort_values(ascending=False, kind="stable").index)


def draw_confusion(records: Records, path: Path, variant: str = MAIN) -> Path:
    """``confusion.png``: kinds named (across) by kinds in the picture (down), a panel for each split, all pictures.

    Cells are per cent of the times that the row's kind is in a picture; white: never.
    """
    use_style()
    frame = pd.DataFrame(list(records))
    frame = frame[(frame["variant"] == variant) & (frame["pictures"] == "all")]
    kinds = sorted(frame.groupby("there")["times"].max().sort_values(ascending=False, kind="stable").index[:KINDS])
    splits = [split for split in SPLIT_COLOURS if (frame["split"] == split).any()]
    fig, axes = plt.subplots(1, len(splits), figsize=(3.8 * len(splits), 3.95), squeeze=False, sharey=True)
    for axis, split in zip(axes[0], splits, strict=True):
        table = frame[frame["split"] == split].pivot(index="there", columns="said", values="share")
        table = table.reindex(index=kinds, columns=[*kinds, NOTHING])
        sns.heatmap(
            table, ax=axis, cmap="viridis_r", norm=LogNorm(0.5, 100), cbar=split == splits[-1], xticklabels=True,
            yticklabels=True, cbar_kws={"ticks": [0.5, 1, 5, 10, 50, 100], "format": "%g", "label": "% of the times"},
        )  # fmt: skip
        axis.tick_params(length=0)
        axis.set(xlabel="named", ylabel="in the picture" if split == splits[0] else "")
        axis.set_title(paper.SPLITS[split].capitalize())
    return save(fig, path)


def draw_filter(content: Mapping[str, Records], path: Path) -> Path:
    """``filter.png``: the faulty pairs that each threshold accepts, and what it changes in the captioner's scores.

    Where faults are not known, all pairs that it accepts.
    """
    use_style()
    pairs = pd.DataFrame(content["pairs"])
    thresholds = [f"τ = {threshold:g}" for threshold in pairs["threshold"]]
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6), sharey=True)
    title = "Pairs accepted (%)"
    if pairs["faulty_pairs"].notna().all():
        title = "Faulty translations (%)"
        axes[0].plot(pairs["faulty_accepted"], thresholds, "o:", color="black", label="of the accepted")
        axes[0].plot(pairs["faulty_pairs"], thresholds, "o-", color="black", label="of those trained on")
        axes[0].legend()
    else:
        axes[0].plot(100 * pairs["accepted"] / pairs["candidates"], thresholds, "o-", color="black")
    axes[0].set(title=title, xlim=(0, None), ylabel="threshold on the cosine (Eq. 4)")
    frame = _read_records(content["differences"])
    frame["line"] = frame["variant"].map(dict(zip(pairs["filter"], thresholds, strict=True)))
    for axis, metric in zip(axes[1:], ("B4", "noun_precision"), strict=True):
        draw_intervals(axis, frame[frame["metric"] == metric], thresholds, SPLIT_COLOURS)
        axis.set_title(f"{paper.NAMES[metric]} less that of {thresholds[0]}")
    add_legend(fig, SPLIT_COLOURS, paper.SPLITS)
    return save(fig, path)


def draw_lengths(records: Records, path: Path, split: str = "ood") -> Path:
    """``lengths.png``: lengths of each variant's captions (line) over those of the references (grey), in tokens."""
    use_style()
    human, *others = [record for record in records if record["split"] == split]
    rows = -(-len(others) // 5)
    fig, axes = plt.subplots(rows, 5, figsize=(7.6, 0.4 + 1.35 * rows), sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(others) :]:
        axis.set_visible(False)
    for axis, record in zip(axes.flat, others, strict=False):
        axis.bar(range(len(human["lengths"])), human["lengths"], width=1, color="0.8")
        edges = np.arange(len(record["lengths"]) + 1) - 0.5
        axis.stairs(record["lengths"], edges, color=PALETTE[1 if record["degenerate"] else 0], linewidth=1.2)
        axis.set_title(wrap(paper.label(record["variant"]), 22), fontsize=7)
        note = f"{record['distinct']:.0f} % distinct\n{record['vocabulary']:.0f} words"
        axis.text(0.98, 0.95, note, transform=axis.transAxes, ha="right", va="top", fontsize=7)
    axes[0, 0].set_ylim(0, 1.3 * axes[0, 0].get_ylim()[1])
    axes[0, 0].annotate("references", (0.98, 0.4), xycoords="axes fraction", ha="right", color="0.5", fontsize=7)
    fig.supxlabel(f"tokens in a caption, {paper.SPLITS[split]}", fontsize=8)
    fig.supylabel("% of captions", fontsize=8)
    return save(fig, path)
