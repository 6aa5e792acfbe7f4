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
from bncap.experiments.runs import TRAINING
from bncap.pipeline.artifacts import require
from bncap.pipeline.paths import step_dir
from bncap.report import tables
from bncap.report.style import PALETTE, SPLIT_COLOURS, add_legend, draw_intervals, save, use_style, wrap
from bncap.settings import Config

Records = Sequence[Mapping[str, Any]]

SMOOTHING = 0.06
"""Width of the moving average as a share of the steps."""
CURVES = {
    "total": "Total loss (Eq. 6)",
    "ce": "Cross-entropy (Eq. 7)",
    "validation": "Cross-entropy, held-out captions",
}
TERMS = {"pal": "PAL", "infonce": "InfoNCE", "ot": "OT"}
GAP = "relevant/mmd_rbf"
WAYS = {"logged": PALETTE[1], "default": PALETTE[0], "gap": PALETTE[2]}
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
    for axis, metric, colour in zip(axes[0], shown, PALETTE, strict=False):
        sns.stripplot(x=frame[metric], y=labels, ax=axis, color=colour, alpha=0.75, jitter=False, size=4)
        sns.pointplot(
            x=frame[metric], y=labels, ax=axis, color="black", errorbar=None, linestyle="none", marker="|",
            markersize=13, markeredgewidth=1.4,
        )  # fmt: skip
        axis.set(xlabel=f"{paper.NAMES.get(metric, metric)} (0–100)", ylabel="")
        axis.grid(axis="y")
        axis.tick_params(axis="y", length=0)
    return save(fig, path)


def draw_differences(
    records: Records, path: Path, metrics: Sequence[str] = ("B4", "METEOR"), pdf: bool = False
) -> Path:
    """Forest plot of each variant's differences from one other: a panel a metric, a colour a split.

    ``records`` are such as :func:`bncap.experiments.comparisons.compare_with_base` gives; the lines have their order,
    and baselines stand below, on a scale of their own.  A dot is filled where the 95 % interval leaves out 0.  Returns
    the PNG.
    """
    use_style()
    frame = pd.DataFrame(list(records)).rename(columns={"difference": "value", "split": "series"})
    frame["line"] = frame["variant"].map(paper.label)
    frame["baseline"] = frame["variant"].isin(list(BASELINES))
    groups = [list(part["line"].unique()) for _, part in frame.groupby("baseline")]
    colours = {split: colour for split, colour in SPLIT_COLOURS.items() if split in set(frame["series"])}
    fig, axes = plt.subplots(
        len(groups), len(metrics), figsize=(7.6, 1.0 + 0.36 * sum(map(len, groups))), squeeze=False, sharey="row",
        height_ratios=list(map(len, groups)),
    )  # fmt: skip
    for row, lines in zip(axes, groups, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            chosen = frame[(frame["metric"] == metric) & frame["line"].isin(lines)]
            axis.axvline(0, color="black", linewidth=0.8, zorder=0)
            draw_intervals(axis, chosen, lines, colours, numbers=True)
    for axis, metric in zip(axes[0], metrics, strict=True):
        axis.set_title(paper.NAMES.get(metric, metric), loc="left", fontweight="bold")
    for axis in axes[-1]:
        axis.set_xlabel(
            f"difference from {paper.label(records[0]['against'])}\nfilled: 0 lies outside the 95 % interval"
        )
    add_legend(fig, colours, paper.SPLITS)
    return save(fig, path, pdf)


def draw_convergence(config: Config, seeds: Sequence[int], path: Path, variants: Sequence[str] = (BASE, MAIN)) -> Path:
    """Fig. 3 (top): total loss and cross-entropy of each step, and held-out cross-entropy of each epoch, by variant.

    Every seed's curve is drawn faintly, with the moving average of their mean over it.  Returns the PNG; a PDF lies
    beside it.  Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    use_style()
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6))
    for variant, colour in zip(variants, (PALETTE[1], PALETTE[0], *PALETTE[2:]), strict=False):
        runs = {seed: require(step_dir(config.profile, TRAINING, f"{variant}.weights", seed)) for seed in seeds}
        steps, epochs = (
            pd.concat([pd.read_csv(folder / file).assign(seed=seed) for seed, folder in runs.items()])
            for file in ("steps.csv", "validation.csv")
        )
        curves = {"total": ("step", "total", steps), "ce": ("step", "ce", steps), "validation": ("epoch", "ce", epochs)}
        for axis, (x, y, frame) in zip(axes, curves.values(), strict=True):
            by_seed = frame.pivot(index=x, columns="seed", values=y)
            axis.plot(by_seed, color=colour, linewidth=0.4, alpha=0.35)
            # a mean over as many steps on either side, over fewer at the ends
            width = 1 + 2 * round(SMOOTHING * len(by_seed) / 2)
            mean = by_seed.mean(axis=1).rolling(width, center=True, min_periods=1).mean()
            axis.plot(mean, "o-" if x == "epoch" else "-", color=colour, label=paper.label(variant))
            axis.set_xlabel("accumulation step" if x == "step" else "epoch")
    for axis, title, unit in zip(
        axes, CURVES.values(), ("nats and weighted terms", *["nats a token"] * 2), strict=True
    ):
        axis.set(title=title, ylabel=unit, ylim=(0, 1.05 * axis.get_ylim()[1]))
        axis.grid(axis="y")
        axis.xaxis.get_major_locator().set_params(integer=True)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(variants))
    return save(fig, path, pdf=True)


def draw_readings(content: Mapping[str, Any], path: Path, metrics: Sequence[str] = ("B4", "noun_precision")) -> Path:
    """``readings.png``: differences of scores that each reading makes, a panel a metric, a colour a split.

    ``content`` comes from :func:`bncap.experiments.readings.summarise_readings`.  Metrics that were not measured are
    left out.
    """
    use_style()
    frame = pd.DataFrame(content["scores"]).rename(columns={"difference": "value", "split": "series"})
    frame["line"] = [_name_line(r["variant"], r["against"]) for r in content["scores"]]
    shown = [metric for metric in metrics if frame.loc[frame["metric"] == metric, "value"].notna().any()]
    lines = _order_readings(content)
    fig, axes = plt.subplots(1, len(shown), figsize=(7.6, 0.9 + 0.34 * len(lines)), sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], shown, strict=True):
        axis.axvline(0, color="black", linewidth=0.8, zorder=0)
        draw_intervals(axis, frame[frame["metric"] == metric], lines, SPLIT_COLOURS, numbers=True)
        axis.set_xlabel(f"{paper.NAMES.get(metric, metric)}, difference (0–100)")
    add_legend(fig, SPLIT_COLOURS, paper.SPLITS)
    return save(fig, path)


def draw_reading_losses(content: Mapping[str, Any], path: Path) -> Path:
    """``readings_gap.png``: each alignment term at the end of training and the gap, in per cent of the default's.

    Shaded are the readings that ``content`` flags: their own loss ends lower and the gap larger than the default's.
    """
    use_style()
    frame = pd.DataFrame(content["measures"])
    frame["line"] = [_name_line(r["variant"], r["against"]) for r in content["measures"]]
    lines = [line for line in _order_readings(content) if line in set(frame["line"])]
    frame["value"] = 100 * frame["difference"] / frame["second"]
    for end in ("low", "high"):
        frame[end] = (100 * frame[end].astype(float) / frame["second"]).fillna(frame["value"])
    fig, axes = plt.subplots(1, len(TERMS) + 1, figsize=(7.6, 0.9 + 0.3 * len(lines)), sharey=True)
    flagged = {_name_line(flag["variant"], flag["against"]) for flag in content["flags"]}
    for axis, (term, name) in zip(axes, {**TERMS, GAP: "the gap"}.items(), strict=True):
        ways = ["gap"] if term == GAP else ["logged", "default"]
        parts = [
            frame[frame["measure"] == (GAP if way == "gap" else f"{way}/{term}")].assign(series=way) for way in ways
        ]
        axis.axvline(0, color="black", linewidth=0.8, zorder=0)
        draw_intervals(axis, pd.concat(parts), lines, {way: WAYS[way] for way in ways})
        axis.set_xlabel(f"{name}, difference in %")
        for y in (y for y, line in enumerate(lines) if line in flagged):
            axis.axhspan(y - 0.5, y + 0.5, color="#FFF3D6", zorder=-2, linewidth=0)
    labels = {
        "logged": "read as in its training",
        "default": "same weights, read as the default",
        "gap": "gap: MMD, text-relevant",
    }
    add_legend(fig, WAYS, labels)
    return save(fig, path)


def _name_line(variant: str, against: str) -> str:
    """A reading's label; for a row of Table 3 with captions on synthetic pictures also what it is compared with."""
    row, on_synthetic, _ = paper.label(variant).partition(", CE on")
    return f"{row}, synthetic CE\nless {paper.label(against)}" if on_synthetic else row


def _order_readings(content: Mapping[str, Any]) -> list[str]:
    """The lines of the readings' figures from above."""
    trained = [r for r in content["readings"] if r["trained"]]
    return list(dict.fromkeys(_name_line(r["variant"], against) for r in trained for against in r["against"]))


def draw_error_groups(content: Mapping[str, Records], path: Path, variant: str = MAIN) -> Path:
    """``errors.png``: accuracy of ``variant`` by group of pictures, a colour a split.

    ``content`` comes from :func:`bncap.experiments.error_analysis.summarise_errors`.  A dot is the value of a group, a
    line its interval; a broken line is what one answer for all would get.
    """
    use_style()
    frame = pd.DataFrame(content["rows"])
    frame = frame[(frame["variant"] == variant) & frame["value"].notna()]
    frame = frame.assign(line=frame["group"].astype(str), series=frame["split"], excludes_zero=True)
    guesses = pd.DataFrame(content["guesses"], columns=["variant", "split", "measure", "value"])
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
        draw_intervals(axes[title], chosen, lines, SPLIT_COLOURS)
        answers = guesses[(guesses["variant"] == variant) & (guesses["measure"] == measure)]
        for guess in answers.itertuples():
            axes[title].axvline(guess.value, color=SPLIT_COLOURS[guess.split], linewidth=0.8, linestyle="--", zorder=0)
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
    if pairs["faulty_pairs"].notna().all():
        axes[0].plot(pairs["faulty_accepted"], thresholds, "o:", color="black", label="of the accepted")
        axes[0].plot(pairs["faulty_pairs"], thresholds, "o-", color="black", label="of those trained on")
        axes[0].set(title="Faulty translations (%)")
        axes[0].legend()
    else:
        axes[0].plot(100 * pairs["accepted"] / pairs["candidates"], thresholds, "o-", color="black")
        axes[0].set(title="Pairs accepted (%)")
    axes[0].set(xlim=(0, None), ylabel="threshold on the cosine (Eq. 4)")
    frame = pd.DataFrame(content["differences"]).rename(columns={"difference": "value", "split": "series"})
    frame["line"] = frame["variant"].map(dict(zip(pairs["filter"], thresholds, strict=True)))
    for axis, metric in zip(axes[1:], ("B4", "noun_precision"), strict=True):
        axis.axvline(0, color="black", linewidth=0.8, zorder=0)
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
