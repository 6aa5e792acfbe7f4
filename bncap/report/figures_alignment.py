"""Figures of alignment: Fig. 3 (bottom), the same patches under other seeds of UMAP, and grounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from bncap.config import BASE, MAIN
from bncap.experiments import alignment, paper
from bncap.pipeline.artifacts import read_json, require
from bncap.report.style import PALETTE, draw_intervals, save, save_note, use_style
from bncap.report.summaries import BESIDE as BESIDE_NAMES
from bncap.settings import Config

STATES = {
    (MAIN, "before"): "Before training", (BASE, "after"): "After CE alone", (MAIN, "after"): "After the full objective",
}  # fmt: skip
COLOURS = {"real": PALETTE[0], "synthetic": PALETTE[1]}
CENTROIDS: dict[str, dict[str, Any]] = {
    domain: {"marker": marker, "markersize": 6.5, "color": COLOURS[domain], "mec": "black", "mew": 0.9}
    for domain, marker in (("real", "o"), ("synthetic", "X"))
}
PATCHES = {"background": {"s": 3.0, "alpha": 0.22}, "text-relevant": {"s": 7.0, "alpha": 0.85}}
"""Size (points squared) and opacity of a patch."""
GROUNDING = {
    "share": "Attention in the box of the noun's object", "pointing": "Strongest patch in the box (pointing game)",
}  # fmt: skip
SOURCES = {"generated": "generated captions", "reference": "reference captions"}
SOURCE_COLOURS = dict(zip(SOURCES, PALETTE, strict=False))
BESIDE = {"chance": ("|", "0.3"), "mean_map": ("d", "0.5"), "other": ("x", "0.3")}
"""Marker and grey of what a measure of grounding is compared with."""


def draw_umap(folder: Path, path: Path) -> Path:
    """The three states side by side in one UMAP: real and synthetic patches, text-relevant ones dark, and centroids.

    Below each panel its centroid distance and MMD-RBF in these two dimensions, over all patches and over the
    text-relevant ones.  Returns the PNG; a PDF lies beside it.
    """
    use_style()
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 3.5), sharex=True, sharey=True)
    summary = _draw_states(axes, folder)
    for axis, state in zip(axes, STATES, strict=True):
        lines = []
        for patches, words in (("all", "all"), ("relevant", "text-relevant")):
            distance, mmd = _read_distances(summary, state, patches)
            lines.append(f"{words}: centroids {distance:.2f} apart, MMD {mmd:.4f}")
        axis.set_xlabel("\n".join(lines), fontsize=7)
    return _save_with_legend(fig, path, pdf=True)


def draw_umap_seeds(config: Config, first_seed: int, path: Path) -> Path:
    """The patches of the first seed's runs as UMAPs of several seeds draw them, a row for each seed; returns the PNG.

    Below each panel its distances over all patches, with their change since before training.
    Raises BncapError for a map that has not been made.
    """
    use_style()
    seed = config.seeds(first_seed)[0]
    drawn = alignment.umap_seeds(config, seed)
    height = 0.5 + 2.15 * len(drawn)
    fig, grid = plt.subplots(len(drawn), 3, figsize=(7.6, height), squeeze=False, sharex="row", sharey="row")
    for axes, umap_seed in zip(grid, drawn, strict=True):
        summary = _draw_states(axes, alignment.analysis_dir(config, seed, umap_seed))
        before = _read_distances(summary, (MAIN, "before"), "all")
        for axis, state in zip(axes, STATES, strict=True):
            values = np.array(_read_distances(summary, state, "all"))
            changes = ["" if state[1] == "before" else f" ({change:+.0%})" for change in values / before - 1]
            axis.set_xlabel(f"centroids {values[0]:.2f} apart{changes[0]}\nMMD {values[1]:.4f}{changes[1]}", fontsize=7)
        axes[0].set_ylabel(f"UMAP seed {umap_seed}")
    for axis in grid[1:].flat:
        axis.set_title("")
    return _save_with_legend(fig, path)


def _draw_states(axes: Sequence[Axes], folder: Path) -> dict[str, float]:
    """The three states of one UMAP under their titles; returns the summary that has their distances."""
    points = pd.read_csv(require(folder) / "points.csv")
    for axis, ((model, moment), title) in zip(axes, STATES.items(), strict=True):
        state = points[(points["model"] == model) & (points["moment"] == moment)]
        # one scatter of both domains in random order, so that neither lies on top of the other
        for relevant, look in enumerate(PATCHES.values()):
            chosen = state[state["relevant"] == relevant].sample(frac=1, random_state=0)
            colours = chosen["domain"].map(COLOURS)
            size, alpha = look["s"], look["alpha"]
            axis.scatter(chosen["x"], chosen["y"], c=colours, s=size, alpha=alpha, linewidths=0, rasterized=True)
        centroids = state.groupby("domain")[["x", "y"]].mean().loc[list(COLOURS)]
        white = [withStroke(linewidth=3, foreground="white")]
        axis.plot(centroids["x"], centroids["y"], color="black", zorder=3, path_effects=white)
        for domain, (x, y) in centroids.iterrows():
            axis.plot(x, y, zorder=4, **CENTROIDS[domain])
        axis.margins(0.04)
        axis.set(title=title, xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
    return read_json(folder / "summary.json")


def _read_distances(summary: Mapping[str, float], state: tuple[str, str], patches: str) -> tuple[float, float]:
    """Centroid distance and MMD-RBF in two dimensions."""
    key = "/".join((*state, patches))
    return summary[f"{key}/umap_centroid_distance"], summary[f"{key}/umap_mmd_rbf"]


def _save_with_legend(fig: Figure, path: Path, pdf: bool = False) -> Path:
    """Two entries for each column of the legend, which fills column by column: a row for each domain."""
    handles = [
        Line2D([], [], linestyle="", marker="o", markeredgewidth=0, color=colour, label=f"{domain}, {patches}",
               markersize=look["s"] ** 0.5 + 1, alpha=look["alpha"])
        for patches, look in reversed(PATCHES.items())
        for domain, colour in COLOURS.items()
    ]  # fmt: skip
    handles += [Line2D([], [], linestyle="", label=f"{d}, centroid", **style) for d, style in CENTROIDS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, handletextpad=0.2)
    return save(fig, path, pdf)


def draw_grounding(content: Mapping[str, Any], path: Path) -> Path:
    """``grounding.png`` of what :func:`bncap.experiments.grounding.summarise_grounding` gives.

    Above, both measures of each variant and split with 95 % intervals, and in grey what they are compared with; below,
    the differences from cross-entropy alone, filled where the interval leaves out 0.  Returns the PNG; a PDF lies
    beside it.  Where no split has boxes, the figure says so.
    """
    use_style()
    if not content["rows"]:
        return save_note("The pictures have no boxes of their objects.", path, (7.6, 0.6), pdf=True)
    rows, differences = (_name_lines(pd.DataFrame(content[part])) for part in ("rows", "differences"))
    differences = differences[differences["against"] == BASE].assign(value=differences["difference"])
    lines, below = (list(part["line"].unique()) for part in (rows, differences))
    heights = [0.6 + 0.36 * len(lines), 0.6 + 0.36 * len(below)]
    fig, axes = plt.subplots(2, 2, figsize=(7.6, sum(heights) + 0.5), sharey="row", sharex="row", height_ratios=heights)
    for (above, under), (measure, title) in zip(axes.T, GROUNDING.items(), strict=True):
        measured = rows[rows["measure"] == measure].assign(excludes_zero=True)
        draw_intervals(above, measured, lines, SOURCE_COLOURS, zero=False)
        for name, (marker, grey) in BESIDE.items():
            chosen = rows[(rows["measure"] == f"{measure}_{name}") & rows["value"].notna()]
            y = [lines.index(r.line) + (0.2 if r.series == "reference" else -0.2) for r in chosen.itertuples()]
            above.plot(chosen["value"], y, marker, color=grey, markersize=5 if marker == "|" else 3.5)
        above.set(title=title, xlabel="per cent", xlim=(0, 100))
        draw_intervals(under, differences[differences["measure"] == measure], below, SOURCE_COLOURS)
        under.set_xlabel(f"points more than {paper.label(BASE)}")
    handles = [Line2D([], [], color=c, marker="o", label=SOURCES[s]) for s, c in SOURCE_COLOURS.items()]
    handles += [
        Line2D([], [], linestyle="", color=grey, marker=marker, label=BESIDE_NAMES["share"][name])
        for name, (marker, grey) in BESIDE.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=5)
    return save(fig, path, pdf=True)


def _name_lines(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each variant and split, a series for each source of captions."""
    lines = frame["variant"].map(paper.label) + ", " + frame["split"].map(paper.SPLITS)
    return frame.assign(line=lines, series=frame["source"])
