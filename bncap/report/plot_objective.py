"""Pictures of the objective for notebook 03: weights over patches, costs and plans as matrices, losses as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from bncap.report.plotting import use_style

LINES = ("-", "--", ":", "-.")  # beside the colours, so that curves that coincide can both be seen


@dataclass(frozen=True)
class Curves:
    """One panel of `draw_curves`: lines over a logarithmic x, levels as dotted horizontals, `mark` as a vertical."""

    xlabel: str
    ylabel: str
    x: ArrayLike
    lines: Mapping[str, ArrayLike]
    levels: Mapping[str, float]
    mark: float


def draw_weights(rows: Mapping[str, ArrayLike]) -> Figure:
    """Heat map of vectors over the same patches, one row each, its name beside it; exact zeros are left white.

    rows: name -> (S,) numbers in [0, 1].
    """
    use_style()
    matrix = np.stack([np.asarray(row, dtype=float) for row in rows.values()])
    fig, ax = plt.subplots(figsize=(1.9 + 0.75 * matrix.shape[1], 0.5 + 0.34 * len(matrix)))
    _draw_matrix(ax, matrix, list(rows), [f"patch {s + 1}" for s in range(matrix.shape[1])], top=1.0)
    return fig


def draw_matrices(panels: Mapping[str, ArrayLike], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Matrices side by side, each under its name and on a colour scale of its own from 0; exact zeros are left white.

    panels: title -> (len(rows), len(columns)) non-negative numbers. rows: real patches, columns: synthetic ones.
    """
    use_style()
    fig, axes = plt.subplots(1, len(panels), figsize=(2.3 * len(panels), 2.2), squeeze=False)
    for ax, (title, panel) in zip(axes[0], panels.items(), strict=True):
        matrix = np.asarray(panel, dtype=float)
        _draw_matrix(ax, matrix, rows, columns, top=matrix.max() or 1.0)
        ax.set_title(title)
    axes[0, 0].set_ylabel("real")
    fig.supxlabel("synthetic", fontsize=8)
    return fig


def draw_curves(panels: Sequence[Curves]) -> Figure:
    """Curves side by side over logarithmic x, each panel with its own legend."""
    use_style()
    fig, axes = plt.subplots(1, len(panels), figsize=(2.7 * len(panels), 2.5), squeeze=False)
    for ax, panel in zip(axes[0], panels, strict=True):
        for style, (name, y) in zip(LINES, panel.lines.items(), strict=False):
            ax.plot(panel.x, y, style, label=name)
        for name, level in panel.levels.items():
            ax.axhline(level, color="0.45", linestyle=":", linewidth=0.9)
            ax.annotate(name, (0.98, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        ax.axvline(panel.mark, color="0.45", linewidth=0.9, label=f"this profile, {panel.mark:g}")
        ax.set(xscale="log", xlabel=panel.xlabel, ylabel=panel.ylabel)
        ax.margins(y=0.12)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24))
    return fig


def _draw_matrix(ax: Axes, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], top: float) -> None:
    """The matrix as coloured cells with its numbers written in them."""
    ax.imshow(np.ma.masked_equal(matrix, 0), cmap="cividis", vmin=0, vmax=top, aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        light = value > top / 2 or value == 0
        number = f"{value:.3g}" if value >= 1e-3 or value == 0 else "≈ 0"
        ax.text(j, i, number, ha="center", va="center", fontsize=7, color="black" if light else "white")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(True)
