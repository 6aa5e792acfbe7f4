"""Fig. 3 (bottom): the UMAP of real and synthetic patches before and after training, from saved points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from bncap.config import BASE, MAIN
from bncap.experiments import gap
from bncap.pipeline.artifacts import read_csv, read_json, require
from bncap.report.plotting import PALETTE, save, use_style
from bncap.settings import Config

PANELS = {
    (MAIN, "before"): "Before training",
    (BASE, "after"): "After CE alone",
    (MAIN, "after"): "After the full objective",
}
COLOURS = {"real": PALETTE[0], "synthetic": PALETTE[1]}
CENTROIDS = {"real": ("o", 6.5), "synthetic": ("X", 6.5)}
"""Marker and size."""
LOOKS = {"background": {"s": 3.0, "alpha": 0.22}, "text-relevant": {"s": 7.0, "alpha": 0.85}}
"""Size (points squared) and opacity of a patch."""


def umap_panels(folder: Path, path: Path) -> Path:
    """The three states side by side in one UMAP: real and synthetic patches, text-relevant ones dark, and centroids.

    Below each panel its centroid distance and MMD-RBF in these two dimensions, over all patches and over the
    text-relevant ones.  Returns the PNG; a PDF lies beside it.
    """
    use_style()
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 3.5), sharex=True, sharey=True)
    summary = _draw_row(axes, folder)
    for axis, state in zip(axes, PANELS, strict=True):
        told = (
            f"{words}: centroids {distance:.2f} apart, MMD {mmd:.4f}"
            for part, words in (("all", "all"), ("relevant", "text-relevant"))
            for distance, mmd in [_distances(summary, state, part)]
        )
        axis.set_xlabel("\n".join(told), fontsize=7)
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3, handletextpad=0.2)
    return save(fig, path, pdf=True)


def umap_seeds(config: Config, first_seed: int, path: Path) -> Path:
    """The patches of the first seed's runs as UMAPs of several seeds draw them, a row for each seed; returns the PNG.

    Below each panel its distances as in :func:`umap_panels`, over all patches, with their change since before training.
    Raises BncapError for a map that has not been drawn.
    """
    use_style()
    seed = config.seeds(first_seed)[0]
    drawn = gap.umap_seeds(config, seed)
    fig, grid = plt.subplots(
        len(drawn), 3, figsize=(7.6, 0.5 + 2.15 * len(drawn)), squeeze=False, sharex="row", sharey="row"
    )
    for axes, umap_seed in zip(grid, drawn, strict=True):
        summary = _draw_row(axes, gap.folder_of(config, seed, umap_seed))
        before = _distances(summary, (MAIN, "before"), "all")
        for axis, state in zip(axes, PANELS, strict=True):
            distance, mmd = _distances(summary, state, "all")
            moved = [
                f" ({new / old - 1:+.0%})" * (state[1] == "after" and old > 0)
                for old, new in zip(before, (distance, mmd), strict=True)
            ]
            axis.set_xlabel(f"centroids {distance:.2f} apart{moved[0]}\nMMD {mmd:.4f}{moved[1]}", fontsize=7)
        axes[0].set_ylabel(f"UMAP seed {umap_seed}")
    for axis in grid[1:].flat:
        axis.set_title("")
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3, handletextpad=0.2)
    return save(fig, path)


def _draw_row(axes: Sequence[Axes], folder: Path) -> dict[str, float]:
    """The three states of one UMAP under their titles; returns the summary that has their distances."""
    points = read_csv(require(folder) / "points.csv")
    for axis, (state, title) in zip(axes, PANELS.items(), strict=True):
        _draw_state(axis, [row for row in points if (row["model"], row["moment"]) == state])
        axis.set_title(title)
    return read_json(folder / "summary.json")


def _draw_state(axis: Axes, rows: list[dict[str, str]]) -> None:
    places = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    relevant = np.array([row["relevant"] == "1" for row in rows])
    domain = np.array([row["domain"] for row in rows])
    colours = np.array([COLOURS[name] for name in domain])
    # one scatter of both domains, so that neither lies on top of the other; shuffled with a seed of its own
    for members, look in zip((~relevant, relevant), LOOKS.values(), strict=True):
        order = np.random.default_rng(0).permutation(np.flatnonzero(members))
        axis.scatter(*places[order].T, c=colours[order], **look, linewidths=0, rasterized=True)
    centroids = np.stack([places[domain == name].mean(0) for name in COLOURS])
    white = [withStroke(linewidth=3, foreground="white")]
    axis.plot(*centroids.T, color="black", linewidth=1.2, zorder=3, path_effects=white)
    for centroid, name in zip(centroids, COLOURS, strict=True):
        axis.plot(*centroid, zorder=4, **_centroid(name))
    axis.margins(0.04)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)


def _distances(summary: dict[str, float], state: tuple[str, str], part: str) -> tuple[float, float]:
    """Of the centroids, and MMD-RBF, in two dimensions."""
    key = "/".join((*state, part))
    return summary[f"{key}/umap_centroid_distance"], summary[f"{key}/umap_mmd_rbf"]


def _legend() -> list[Line2D]:
    """Two entries for each column of the legend, which fills column by column: a row for each domain."""
    handles = [
        Line2D([], [], linestyle="", marker="o", markeredgewidth=0, color=colour, label=f"{name}, {kind}",
               markersize=look["s"] ** 0.5 + 1, alpha=look["alpha"])
        for kind, look in reversed(LOOKS.items())
        for name, colour in COLOURS.items()
    ]  # fmt: skip
    return handles + [Line2D([], [], linestyle="", label=f"{name}, centroid", **_centroid(name)) for name in COLOURS]


def _centroid(name: str) -> dict[str, object]:
    marker, size = CENTROIDS[name]
    return {
        "marker": marker, "markersize": size, "color": COLOURS[name],
        "markeredgecolor": "black", "markeredgewidth": 0.9,
    }  # fmt: skip
