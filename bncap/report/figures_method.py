"""Figures of the method: Fig. 1 and Fig. 2 with real samples, the objective by hand, and a gallery of captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from bncap.encoders.features import open_picture
from bncap.pipeline.artifacts import read_json, require
from bncap.report.attention import describe_samples, show_attention, show_picture
from bncap.report.style import PALETTE, image_grid, save, use_style, wrap

WORDS_PER_ROW = 10
WIDTH, HEIGHT = 9.9, 4.65
"""Of Fig. 2 in inches; every place in it is in inches from the lower left corner."""
DATA, FROZEN, TRAINED, LOSS = "#EEEEEE", "#D6E9F5", "#FBE3C8", "#D5EFE3"
GREY = "0.35"
REAL, SYNTHETIC = 3.85, 1.05
"""Height of the two pictures' rows in Fig. 2."""
LOSSES = {
    3.85: "cross-entropy\n(Eq. 7), real x only",
    2.3: "PAL: $1-\\cos(r,\\tilde{r})$\n(Eq. 10)",
    1.5: "InfoNCE over $r,\\tilde{r}$\n(Eq. 11)",
    0.7: "OT: $\\langle P^*, C\\rangle$, masses w\n(Eqs. 12, 13)",
}
TOTAL = "$L=L_{CE}+\\lambda L_{PAL}$\n$+\\,\\alpha L_{InfoNCE}+\\beta L_{OT}$\n(Eq. 6)"
POOLED = "pool by w (Eq. 9)\n$r=\\Sigma_s w_s E_s(x)$\n$\\tilde{r}=\\Sigma_s w_s E_s(\\tilde{x})$"
LINES = ("-", "--", ":", "-.")  # beside the colours, so that curves that coincide can both be seen

Box = tuple[float, float, float, float]  # left, bottom, width, height


def draw_patches(samples: Path, path: Path) -> Path:
    """Fig. 1 from a real picture: the frozen maps, the two kinds of attention, the patches, and what the words weigh.

    Maps are shown by their first three principal components as colours.  Returns the PNG; a PDF lies beside it.
    """
    use_style()
    record = read_json(require(samples) / "samples.json")
    sample, stages = record["captions"][0], record["stages"]
    image = open_picture(samples / sample["picture"])
    with np.load(samples / "stages.npz") as maps:
        colours = {stage["name"]: maps[stage["name"]] for stage in stages}
    rows = max(1, -(-len(sample["words"]) // WORDS_PER_ROW))
    fig = plt.figure(figsize=(7.6, 4.4 + 1.25 * rows), layout="constrained")
    encoder, attention, decoder = fig.subfigures(3, 1, height_ratios=(2.0, 2.0, 0.4 + 1.25 * rows))

    _set_title(encoder, "(a) The maps of the frozen encoder, stage by stage")
    axes = encoder.subplots(1, 1 + len(stages))
    show_picture(axes[0], image, f"picture\n{image.width} × {image.height} px")
    for axis, stage in zip(axes[1:], stages, strict=True):
        size = f"{stage['side']} × {stage['side']} × {stage['channels']}"
        show_picture(axis, colours[stage["name"]], f"{stage['name']}\n{size}")

    parts = attention.subfigures(1, 2, width_ratios=(2, 3))
    _set_title(parts[0], "(b) Window and grid attention on a late map")
    late = [stage for stage in stages if stage["window"] and stage["side"] > stage["window"]]
    for axis, kind in zip(parts[0].subplots(1, 2), ("window", "grid"), strict=True):
        axis.axis("off")
        if late:
            _mark_partition(axis, colours[late[-1]["name"]], late[-1], kind)

    _set_title(parts[1], "(c) The patches, and those that the words weigh")
    axes = parts[1].subplots(1, 3)
    w = np.asarray(sample["weights"])
    side = round(len(w) ** 0.5)
    show_picture(axes[0], image, f"{side} × {side} patches")
    for edge in np.arange(1, side) / side:
        axes[0].axhline(edge, color="white", linewidth=0.5)
        axes[0].axvline(edge, color="white", linewidth=0.5)
    words = [word["weights"] for word in sample["words"]]
    show_attention(axes[1], image, np.mean(words, axis=0) if words else np.ones(len(w)) / len(w), "mean over words")
    show_picture(axes[2], image, f"w: {(w > 0).sum()} of {w.size} kept")
    _fade_dropped(axes[2], (0, 0, 1, 1), sample["weights"])

    _set_title(decoder, f"(d) The decoder's cross-attention, word by word\n{wrap(sample['caption'], 100)}")
    axes = decoder.subplots(rows, WORDS_PER_ROW, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, word in zip(axes.flat, sample["words"], strict=False):
        show_attention(axis, image, word["weights"], word["word"])
    return save(fig, path, pdf=True)


def _set_title(part: Figure, title: str) -> None:
    part.suptitle(title, x=0.01, ha="left", fontsize=9)


def _mark_partition(axis: Axes, colours: np.ndarray, stage: Mapping[str, Any], kind: str) -> None:
    """The cells that attend to each other in one window, or in one grid of the same number of cells."""
    side, window = stage["side"], stage["window"]
    show_picture(axis, colours, f"{kind}, {window} × {window} of {side} × {side}")
    step = side // window if kind == "grid" else 1
    for row, column in np.ndindex(window, window):
        corner = (column * step / side, 1 - (row * step + 1) / side if kind == "grid" else row / side)
        axis.add_patch(Rectangle(corner, 1 / side, 1 / side, fill=False, edgecolor="white", linewidth=0.9))


def _fade_dropped(axis: Axes, box: Box, weights: Sequence[float]) -> None:
    """Fade the patches of weight 0 in the picture that fills ``box``, and frame the others."""
    left, bottom, width, _ = box
    side = round(len(weights) ** 0.5)
    cell = width / side
    for i, weight in enumerate(weights):
        row, column = divmod(i, side)
        corner = (left + column * cell, bottom + (side - 1 - row) * cell)
        patch = Rectangle(corner, cell, cell, facecolor="white", alpha=0.82, linewidth=0)
        if weight:
            patch.set(fill=False, edgecolor=PALETTE[1], linewidth=0.7, alpha=1)
        axis.add_patch(patch)


def draw_pipeline(samples: Path, path: Path, language: str = "Bengali") -> Path:
    """Fig. 2, from an English caption to the losses: text, pictures, maps and weights of a saved training triplet.

    ``language`` is the English name of the captions' language.  A caption that was not translated and a synthetic
    picture that was not drawn here are not shown as made.  Returns the PNG; a PDF lies beside it.
    """
    use_style()
    triplet = read_json(require(samples) / "samples.json")["triplet"]
    real, synthetic = (open_picture(samples / triplet[name]) for name in ("real", "synthetic"))
    with np.load(samples / "stages.npz") as maps:
        features = maps["real"], maps["synthetic"]
    fig = plt.figure(figsize=(WIDTH, HEIGHT), layout="none")
    axis = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axis.axis("off")

    translated, drawn = triplet["similarity"] is not None, bool(triplet["prompt"])
    _add_box(axis, (0.12, 2.05, 2.2, 0.8), wrap(triplet["target"], 32), DATA, title=f"{language} caption y")
    if translated:
        _add_box(axis, (0.12, REAL - 0.45, 2.2, 0.9), wrap(triplet["en"], 28), DATA, title="English caption")
        _add_arrow(axis, (0.47, REAL - 0.45), (0.47, 3.07))
        cosine = f"{triplet['similarity']:.2f} ≥ {triplet['threshold']:.2f}".replace("-", "−")
        _add_text(axis, 0.59, 3.24, f"translate, verify (Eq. 4)\ncosine {cosine}")
        axis.plot([2.32, 2.83], [REAL, REAL], color=GREY, linewidth=0.9, linestyle=":")
    if drawn:
        _add_box(axis, (0.12, SYNTHETIC - 0.62, 2.2, 1.05), wrap(triplet["prompt"], 36), DATA, "prompt (Eq. 5)", 7)
        _add_arrow(axis, (0.47, 2.05), (0.47, SYNTHETIC + 0.65))
        _add_text(axis, 0.59, 1.88, "join the two captions")
        _add_arrow(axis, (2.32, SYNTHETIC), (2.83, SYNTHETIC), "draw")

    rows = (REAL, real, features[0], "real x", "F(x)"), (SYNTHETIC, synthetic, features[1], "synthetic x̃", "F(x̃)")
    for row, picture, map_, x, f in rows:
        _add_picture(axis, (2.85, row - 0.45, 0.9, 0.9), picture, x)
        _add_picture(axis, (4.66, row - 0.33, 0.66, 0.66), map_, f)
        for start, end in ((3.75, 3.98), (4.42, 4.64), (5.32, 5.53)):
            _add_arrow(axis, (start, row), (end, row))
    _add_box(axis, (4.0, 0.55, 0.42, 3.8), "frozen MaxViT encoder (Eq. 2)", FROZEN, rotation=90)
    _add_box(axis, (5.55, 0.55, 0.42, 3.8), "bridge: linear + LayerNorm (Eq. 3)", TRAINED, rotation=90)

    _add_arrow(axis, (5.97, REAL), (6.48, REAL), "E(x)")
    _add_box(axis, (6.5, REAL - 0.45, 1.5, 0.9), "mBART-50 decoder\npredicts y word by word", TRAINED, size=7.5)
    _add_arrow(axis, (7.25, REAL - 0.45), (7.25, 3.0))
    _add_text(axis, 6.48, 3.2, "cross-\nattention")
    box = (6.8, 2.08, 0.9, 0.9)
    _add_picture(axis, box, real)
    _fade_dropped(axis, box, triplet["weights"])
    _add_text(axis, 6.74, 2.55, "w\n(Eq. 8)", ha="right")
    _add_arrow(axis, (7.25, 2.06), (7.25, SYNTHETIC + 0.47))
    _add_arrow(axis, (5.97, SYNTHETIC), (6.48, SYNTHETIC), "E(x)\nE(x̃)")
    _add_box(axis, (6.5, SYNTHETIC - 0.45, 1.5, 0.9), POOLED, DATA)

    for row, text in LOSSES.items():
        _add_box(axis, (8.42, row - 0.28, 1.36, 0.56), text, LOSS, size=7)
        _add_arrow(axis, (8.0, row if row == REAL else SYNTHETIC + 0.15 * (row - SYNTHETIC)), (8.4, row))
    _add_text(axis, 9.1, 3.08, TOTAL, ha="center")
    for i, (colour, label) in enumerate({DATA: "data", FROZEN: "frozen", TRAINED: "trained", LOSS: "loss"}.items()):
        _add_box(axis, (4.0 + 0.95 * i, 0.1, 0.22, 0.16), "", colour)
        _add_text(axis, 4.28 + 0.95 * i, 0.18, label)
    return save(fig, path, pdf=True)


def _add_box(
    axis: Axes, box: Box, text: str, colour: str, title: str = "", size: float = 8, rotation: float = 0
) -> None:
    left, bottom, width, height = box
    style = "round,pad=0,rounding_size=0.06"
    axis.add_patch(
        FancyBboxPatch((left, bottom), width, height, style, facecolor=colour, edgecolor=GREY, linewidth=0.6)
    )
    axis.text(
        left + width / 2, bottom + height / 2, text, fontsize=size, rotation=rotation, ha="center", va="center",
        linespacing=1.35,
    )  # fmt: skip
    axis.text(left + 0.02, bottom + height + 0.05, title, fontsize=7.5, fontweight="bold", va="bottom")


def _add_picture(axis: Axes, box: Box, image: Image.Image | np.ndarray, label: str = "") -> None:
    left, bottom, width, height = box
    smooth = "antialiased" if isinstance(image, Image.Image) else "nearest"
    axis.imshow(image, extent=(left, left + width, bottom, bottom + height), interpolation=smooth, aspect="auto")
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axis.text(left + width / 2, bottom + height + 0.05, label, ha="center", va="bottom", fontsize=8)


def _add_text(axis: Axes, x: float, y: float, text: str, ha: str = "left") -> None:
    axis.text(x, y, text, fontsize=7.5, color=GREY, ha=ha, va="center")


def _add_arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "") -> None:
    style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axis.annotate("", end, start, arrowprops=style)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axis.text(x, y + 0.06, label, ha="center", va="bottom", fontsize=7, color=GREY)


def draw_captions(samples: Path, path: Path) -> Path:
    """``captions.png``: held-out pictures evenly spaced by METEOR rank, with caption and first reference."""
    use_style()
    captions = read_json(require(samples) / "samples.json")["captions"]
    texts = [
        f"{note}\ncaption: {c['caption'] or '(no words)'}\na reference: {c['reference']}"
        for c, note in zip(captions, describe_samples(captions), strict=True)
    ]
    return image_grid([open_picture(samples / c["picture"]) for c in captions], texts, path, columns=4, inches=1.9)


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
    fig, axis = plt.subplots(figsize=(1.9 + 0.75 * matrix.shape[1], 0.5 + 0.34 * len(matrix)))
    _draw_matrix(axis, matrix, list(rows), [f"patch {s + 1}" for s in range(matrix.shape[1])], top=1.0)
    return fig


def draw_matrices(panels: Mapping[str, ArrayLike], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Matrices side by side, each under its name and on a colour scale of its own from 0; exact zeros are left white.

    panels: title -> (len(rows), len(columns)) non-negative numbers. rows: real patches, columns: synthetic ones.
    """
    use_style()
    fig, axes = plt.subplots(1, len(panels), figsize=(2.3 * len(panels), 2.2), squeeze=False)
    for axis, (title, panel) in zip(axes[0], panels.items(), strict=True):
        matrix = np.asarray(panel, dtype=float)
        _draw_matrix(axis, matrix, rows, columns, top=matrix.max() or 1.0)
        axis.set_title(title)
    axes[0, 0].set_ylabel("real")
    fig.supxlabel("synthetic", fontsize=8)
    return fig


def _draw_matrix(axis: Axes, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], top: float) -> None:
    numbers = np.where((matrix < 1e-3) & (matrix > 0), "≈ 0", np.vectorize(lambda value: f"{value:.3g}")(matrix))
    sns.heatmap(
        np.ma.masked_equal(matrix, 0).filled(np.nan), annot=numbers, fmt="", cmap="cividis", vmin=0, vmax=top, ax=axis,
        cbar=False, xticklabels=columns, yticklabels=rows, annot_kws={"fontsize": 7},
    )  # fmt: skip
    axis.tick_params(length=0, rotation=0)


def draw_curves(panels: Sequence[Curves]) -> Figure:
    """Curves side by side over logarithmic x, each panel with its own legend."""
    use_style()
    fig, axes = plt.subplots(1, len(panels), figsize=(2.7 * len(panels), 2.5), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for style, (name, y) in zip(LINES, panel.lines.items(), strict=False):
            axis.plot(panel.x, y, style, label=name)
        for name, level in panel.levels.items():
            axis.axhline(level, color="0.45", linestyle=":", linewidth=0.9)
            axis.annotate(name, (0.98, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        axis.axvline(panel.mark, color="0.45", linewidth=0.9, label=f"this profile, {panel.mark:g}")
        axis.set(xscale="log", xlabel=panel.xlabel, ylabel=panel.ylabel)
        axis.margins(y=0.12)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24))
    return fig
