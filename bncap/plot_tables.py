"""A table of scores as a picture: a dot for each seed, a bar at the mean."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from bncap import findings, paper, tables
from bncap.plotting import PALETTE, save, use_style


def dot_plot(frame: pd.DataFrame, path: Path, metrics: tuple[str, ...] = ("B4", "noun_precision")) -> Path:
    """One panel a metric, one line a variant in the table's order; metrics that ``frame`` lacks are left out.

    ``frame`` is one of :mod:`bncap.tables` with rows of one split.  Returns the PNG's path.
    """
    use_style()
    shown = [metric for metric in metrics if metric in frame]
    variant = frame.apply(tables.variant_of, axis=1)
    variants = list(dict.fromkeys(variant))
    fig, axes = plt.subplots(1, len(shown), figsize=(1.8 + 2.5 * len(shown), 0.7 + 0.28 * len(variants)), squeeze=False)
    for ax, metric, colour in zip(axes[0], shown, PALETTE, strict=False):
        for line, name in enumerate(variants):
            values = frame.loc[variant == name, metric]
            ax.plot(values, [line] * len(values), "o", color=colour, alpha=0.6, markeredgewidth=0)
            ax.plot(values.mean(), line, "|", color="black", markersize=11, markeredgewidth=1.4)
        name = f"{findings.NAMES.get(metric, metric)} (0–100)"
        ax.set(xlabel=name, yticks=range(len(variants)), ylim=(len(variants) - 0.5, -0.5))
        ax.grid(axis="y")
        ax.set_yticklabels([])
    axes[0, 0].set_yticklabels([paper.label(name) for name in variants])
    return save(fig, path)
