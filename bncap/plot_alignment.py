"""Fig. 3 (bottom): the UMAP of real and synthetic patches before and after training, from saved points."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bncap.artifacts import read_csv, read_json, require
from bncap.config import BASE, MAIN
from bncap.plotting import PALETTE, save, use_style

PANELS = {
    (MAIN, "before"): "Before training",
    (BASE, "after"): "After CE alone",
    (MAIN, "after"): "After the full objective",
}
COLOURS = {"real": PALETTE[0], "synthetic": PALETTE[1]}
CENTROIDS = {"real": ("o", 11), "synthetic": ("X", 8)}
"""Marker and size, so that both are seen where they coincide."""


def umap_panels(folder: Path, path: Path) -> Path:
    """The three states side by side in one UMAP: real and synthetic patches, text-relevant ones dark, and centroids.

    Below each panel its centroid distance and MMD-RBF in these two dimensions, over all patches and over the
    text-relevant ones.  Returns the PNG; a PDF lies beside it.
    """
    use_style()
    summary = read_json(require(folder) / "summary.json")
    points = read_csv(folder / "points.csv")
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 3.3), sharex=True, sharey=True)
    for axis, (state, title) in zip(axes, PANELS.items(), strict=True):
        _draw_state(axis, [row for row in points if (row["model"], row["moment"]) == state])
        axis.set_title(title)
        lines = [_label(summary, state, name, shown) for name, shown in (("all", "all"), ("relevant", "text-relevant"))]
        axis.set_xlabel("\n".join(lines), fontsize=7)
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3)
    return save(fig, path, pdf=True)


def _draw_state(axis: Axes, rows: list[dict[str, str]]) -> None:
    places = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    relevant = np.array([row["relevant"] == "1" for row in rows])
    domain = np.array([row["domain"] for row in rows])
    colours = np.array([COLOURS[name] for name in domain])
    # one scatter of both domains, so that neither lies on top of the other; shuffled with a seed of its own
    for members, size, opacity in ((~relevant, 2.0, 0.25), (relevant, 4.0, 0.8)):
        order = np.random.default_rng(0).permutation(np.flatnonzero(members))
        axis.scatter(*places[order].T, c=colours[order], s=size, alpha=opacity, linewidths=0, rasterized=True)
    centroids = np.stack([places[domain == name].mean(0) for name in COLOURS])
    axis.plot(*centroids.T, color="black", linewidth=1.2, zorder=3)
    for centroid, name in zip(centroids, COLOURS, strict=True):
        axis.plot(*centroid, zorder=4, **_centroid(name))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)


def _label(summary: dict[str, float], state: tuple[str, str], name: str, shown: str) -> str:
    key = "/".join((*state, name))
    distance, mmd = summary[f"{key}/umap_centroid_distance"], summary[f"{key}/umap_mmd_rbf"]
    return f"{shown}: centroids {distance:.2f} apart, MMD {mmd:.4f}"


def _legend() -> list[Line2D]:
    """Two entries for each column of the legend, which fills column by column: a row for each domain."""
    dots = {"text-relevant": {"markersize": 4, "alpha": 0.8}, "background": {"markersize": 3, "alpha": 0.35}}
    handles = [
        Line2D([], [], linestyle="", marker="o", color=colour, label=f"{name}, {kind}", **look)
        for kind, look in dots.items()
        for name, colour in COLOURS.items()
    ]
    return handles + [Line2D([], [], linestyle="", label=f"{name}, centroid", **_centroid(name)) for name in COLOURS]


def _centroid(name: str) -> dict[str, object]:
    marker, size = CENTROIDS[name]
    return {
        "marker": marker, "markersize": size, "color": COLOURS[name],
        "markeredgecolor": "white", "markeredgewidth": 0.8,
    }  # fmt: skip
