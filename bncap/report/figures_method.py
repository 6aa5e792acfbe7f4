"""Figures of the method: Fig. 1 and Fig. 2 with real samples, the objective by hand, and a gallery of captions."""

from __future__ import annotations

import tomllib
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
from bncap.pipeline import paths
from bncap.pipeline.artifacts import read_json, require
from bncap.report.attention import describe_samples, show_attention, show_picture
from bncap.report.style import PALETTE, image_grid, save, use_style, wrap

WORDS_PER_ROW = 10
WIDTH, HEIGHT = 9.9, 4.65
"""Of Fig. 2 in inches."""
PIPELINE = tomllib.loads((paths.PACKAGE / "report" / "pipeline.toml").read_text("utf-8"))
COLOURS = {"data": "#EEEEEE", "frozen": "#D6E9F5", "trained": "#FBE3C8", "loss": "#D5EFE3"}
GREY = "0.35"
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

    left: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 9}
    encoder.suptitle("(a) The maps of the frozen encoder, stage by stage", **left)
    axes = encoder.subplots(1, 1 + len(stages))
    show_picture(axes[0], image, f"picture\n{image.width} × {image.height} px")
    for axis, stage in zip(axes[1:], stages, strict=True):
        size = f"{stage['side']} × {stage['side']} × {stage['channels']}"
        show_picture(axis, colours[stage["name"]], f"{stage['name']}\n{size}")

    parts = attention.subfigures(1, 2, width_ratios=(2, 3))
    parts[0].suptitle("(b) Window and grid attention on a late map", **left)
    late = [stage for stage in stages if stage["window"] and stage["side"] > stage["window"]]
    for axis, kind in zip(parts[0].subplots(1, 2), ("window", "grid"), strict=True):
        axis.axis("off")
        if late:
            _mark_partition(axis, colours[late[-1]["name"]], late[-1], kind)

    parts[1].suptitle("(c) The patches, and those that the words weigh", **left)
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

    decoder.suptitle(f"(d) The decoder's cross-attention, word by word\n{wrap(sample['caption'], 100)}", **left)
    axes = decoder.subplots(rows, WORDS_PER_ROW, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, word in zip(axes.flat, sample["words"], strict=False):
        show_attention(axis, image, word["weights"], word["word"])
    return save(fig, path, pdf=True)


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
    fig = plt.figure(figsize=(WIDTH, HEIGHT), layout="none")
    axis = fig.add_axes((0, 0, 1, 1))
    axis.axis("off")
    made = {"always": True, "translated": triplet["similarity"] is not None, "drawn": bool(triplet["prompt"])}
    values = {"{target}": wrap(triplet["target"], 32), "{language}": f"{language} caption y"}
    values["{prompt}"] = wrap(triplet["prompt"] or "", 36)
    if made["translated"]:
        values["{english}"] = wrap(triplet["en"], 28)
        cosine = f"{triplet['similarity']:.2f} ≥ {triplet['threshold']:.2f}".replace("-", "−")
        values["{cosine}"] = f"translate, verify (Eq. 4)\ncosine {cosine}"
        axis.plot([2.32, 2.83], [3.85, 3.85], color=GREY, linewidth=0.9, linestyle=":")

    weighed = (6.8, 2.08, 0.9, 0.9)
    with np.load(samples / "stages.npz") as maps:
        for name, y, x, f in (("real", 3.85, "real x", "F(x)"), ("synthetic", 1.05, "synthetic x̃", "F(x̃)")):
            picture = open_picture(samples / triplet[name])
            _add_picture(axis, (2.85, y - 0.45, 0.9, 0.9), picture, x)
            _add_picture(axis, (4.66, y - 0.33, 0.66, 0.66), maps[name], f)
            if name == "real":
                _add_picture(axis, weighed, picture)
    _fade_dropped(axis, weighed, triplet["weights"])
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    shown = {kind: [e for e in elements if made[e.get("when", "always")]] for kind, elements in PIPELINE.items()}
    for box in shown["boxes"]:
        _add_box(axis, box, values)
    small = {"fontsize": 7.5, "color": GREY, "va": "center"}
    for text in shown["texts"]:
        axis.text(*text["at"], values.get(text["text"], text["text"]), ha=text.get("ha", "left"), **small)
    style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    for arrow in shown["arrows"]:
        axis.annotate("", arrow["end"], arrow["start"], arrowprops=style)
        x, y = np.mean([arrow["start"], arrow["end"]], axis=0)
        axis.text(x, y + 0.06, arrow.get("label", ""), ha="center", va="bottom", fontsize=7, color=GREY)
    return save(fig, path, pdf=True)


def _add_box(axis: Axes, element: Mapping[str, Any], values: Mapping[str, str]) -> None:
    left, bottom, width, height = element["box"]
    style = "round,pad=0,rounding_size=0.06"
    face = COLOURS[element["colour"]]
    axis.add_patch(FancyBboxPatch((left, bottom), width, height, style, linewidth=0.6, facecolor=face, edgecolor=GREY))
    text, title = (values.get(element.get(key, ""), element.get(key, "")) for key in ("text", "title"))
    axis.text(
        left + width / 2, bottom + height / 2, text, fontsize=element.get("size", 8), ha="center", va="center",
        rotation=element.get("rotation", 0), linespacing=1.35,
    )  # fmt: skip
    axis.text(left + 0.02, bottom + height + 0.05, title, fontsize=7.5, fontweight="bold", va="bottom")


def _add_picture(axis: Axes, box: Box, image: Image.Image | np.ndarray, label: str = "") -> None:
    left, bottom, width, height = box
    smooth = "antialiased" if isinstance(image, Image.Image) else "nearest"
    axis.imshow(image, extent=(left, left + width, bottom, bottom + height), interpolation=smooth, aspect="auto")
    axis.text(left + width / 2, bottom + height + 0.05, label, ha="center", va="bottom", fontsize=8)


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
