"""Tables of scores as pictures: a dot for each seed, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from bncap.config import BASELINES
from bncap.experiments import paper
from bncap.report import tables
from bncap.report.plotting import PALETTE, SPLIT_COLOURS, save, use_style


def dot_plot(frame: pd.DataFrame, path: Path, metrics: tuple[str, ...] = ("B4", "noun_precision")) -> Path:
    """One panel a metric, one line a variant in the table's order; metrics that ``frame`` lacks are left out.

    ``frame`` is one of :mod:`bncap.report.tables` with rows of one split.  Returns the PNG's path.
    """
    use_style()
    shown = [metric for metric in metrics if metric in frame]
    variant = frame.apply(tables.variant_of, axis=1)
    variants = list(dict.fromkeys(variant))
    fig, axes = plt.subplots(1, len(shown), figsize=(7.6, 0.7 + 0.28 * len(variants)), squeeze=False)
    for ax, metric, colour in zip(axes[0], shown, PALETTE, strict=False):
        for line, name in enumerate(variants):
            values = frame.loc[variant == name, metric]
            ax.plot(values.mean(), line, "|", color="black", markersize=14, markeredgewidth=1.4)
            ax.plot(values, [line] * len(values), "o", color=colour, alpha=0.75, markeredgewidth=0)
        name = f"{paper.NAMES.get(metric, metric)} (0–100)"
        ax.set(xlabel=name, yticks=range(len(variants)), ylim=(len(variants) - 0.5, -0.5))
        ax.grid(axis="y")
        ax.tick_params(axis="y", length=0)
        ax.set_yticklabels([])
    axes[0, 0].set_yticklabels([paper.label(name) for name in variants])
    return save(fig, path)


def differences(
    records: Sequence[Mapping[str, Any]], path: Path, metrics: tuple[str, ...] = ("B4", "METEOR"), pdf: bool = False
) -> Path:
    """Forest plot of :func:`bncap.experiments.comparisons.against_base` or the like: each variant's differences from one
    and the same other, a panel a metric, a line a split, with its 95 % interval and its value.

    A dot is filled where the interval leaves out 0.  Where a difference is not known, its line stays empty.  Variants
    are in the order of ``records``; baselines stand below, on a scale of their own.  Returns the PNG's path.
    """
    use_style()
    names = list(dict.fromkeys(r["variant"] for r in records))
    groups = [[name for name in names if (name in BASELINES) is own] for own in (False, True)]
    groups = [group for group in groups if group]
    fig, axes = plt.subplots(
        len(groups), len(metrics), figsize=(7.6, 0.7 + 0.34 * len(names) + 0.3 * len(groups)), squeeze=False,
        height_ratios=[len(group) for group in groups],
    )  # fmt: skip
    for row, group in zip(axes, groups, strict=True):
        for ax, metric in zip(row, metrics, strict=True):
            _forest(ax, [r for r in records if r["metric"] == metric and r["variant"] in group], group)
        row[0].set_yticklabels([paper.label(name) for name in group])
    for ax, metric in zip(axes[0], metrics, strict=True):
        ax.set_title(paper.NAMES.get(metric, metric), loc="left", fontweight="bold")
    for ax in axes[-1]:
        against = paper.label(records[0]["against"])
        ax.set_xlabel(f"difference from {against}\nfilled: 0 lies outside the 95 % interval")
    for split, line in zip(paper.SPLITS, (1, 0), strict=True):
        if any(r["split"] == split for r in records):
            place = dict(xycoords="axes fraction", textcoords="offset points", ha="right", fontsize=7)
            axes[0, 0].annotate(paper.SPLITS[split], (0, 1), (-4, 3 + 9 * line), color=SPLIT_COLOURS[split], **place)
    return save(fig, path, pdf)


def _forest(ax: Axes, records: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> None:
    """One panel: intervals with their values in a column at the right, where they cover nothing."""
    splits = [split for split in paper.SPLITS if any(r["split"] == split for r in records)]
    ax.axvline(0, color="black", linewidth=0.8, zorder=0)
    for r in records:
        if r["low"] is None:
            continue
        line = variants.index(r["variant"]) + 0.4 * (splits.index(r["split"]) - (len(splits) - 1) / 2)
        colour = SPLIT_COLOURS[r["split"]]
        ax.plot([r["low"], r["high"]], [line, line], color=colour)
        ax.plot(r["difference"], line, "o", color=colour, markerfacecolor=colour if r["excludes_zero"] else "white")
        ax.annotate(
            f"{r['difference']:+.2f}", (1.13, line), xycoords=("axes fraction", "data"), ha="right", va="center",
            fontsize=7, color=colour, fontweight="bold" if r["excludes_zero"] else "normal",
        )  # fmt: skip
    for line in range(1, len(variants)):
        ax.axhline(line - 0.5, color="0.85", linewidth=0.5, zorder=0)
    ax.set(yticks=range(len(variants)), yticklabels=[], ylim=(len(variants) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
