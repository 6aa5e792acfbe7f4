"""Fig. 2: the pipeline, with a real triplet going through it, from the files of the samples step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from bncap.encoders.features import open_picture
from bncap.pipeline.artifacts import read_json, require
from bncap.report.plotting import save, use_style, wrap

WIDTH, HEIGHT = 9.9, 4.65
"""Inches; every place below is in inches from the lower left corner."""
DATA, FROZEN, TRAINED, LOSS = "#EEEEEE", "#D6E9F5", "#FBE3C8", "#D5EFE3"
GREY = "0.35"
REAL_ROW, SYNTHETIC_ROW = 3.85, 1.05

Box = tuple[float, float, float, float]  # left, bottom, width, height


def fig2_pipeline(samples: Path, path: Path, language: str = "Bengali") -> Path:
    """From an English caption to the losses: text, pictures, maps and weights are those of a saved training triplet.

    ``language`` is the English name of the captions' language.  What a data set brought of itself is not shown as made:
    a caption that was not translated, a synthetic picture that was not drawn here.  Returns the PNG; a PDF lies beside
    it.
    """
    use_style()
    triplet = read_json(require(samples) / "samples.json")["triplet"]
    with np.load(samples / "stages.npz") as maps:
        features = maps["real"], maps["synthetic"]
    fig = plt.figure(figsize=(WIDTH, HEIGHT), layout="none")
    axis = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axis.axis("off")
    pictures = [open_picture(samples / triplet[name]) for name in ("real", "synthetic")]
    _draw_data(axis, triplet, pictures, language)
    _draw_encoder(axis, features)
    _draw_decoder(axis, triplet, pictures[0])
    _draw_losses(axis)
    _draw_legend(axis)
    return save(fig, path, pdf=True)


def _draw_data(axis: Axes, triplet: dict[str, Any], pictures: list[Image.Image], language: str) -> None:
    left, width = 0.12, 2.2
    translated, drawn = triplet["similarity"] is not None, bool(triplet["prompt"])
    en, target, prompt = (wrap(triplet[name], 28) for name in ("en", "target", "prompt"))
    if translated:
        _box(axis, (left, REAL_ROW - 0.45, width, 0.9), en, DATA, title="English caption")
    _box(axis, (left, 2.05, width, 0.8), target, DATA, title=f"{language} caption y")
    if drawn:
        _box(axis, (left, SYNTHETIC_ROW - 0.62, width, 1.05), prompt, DATA, title="prompt (Eq. 5)", size=7)
    middle = left + 0.35
    if translated:
        _arrow(axis, (middle, REAL_ROW - 0.45), (middle, 3.07))
        cosines = f"{triplet['similarity']:.2f} ≥ {triplet['threshold']:.2f}".replace("-", "−")
        verified = f"translate, verify (Eq. 4)\ncosine {cosines}"
        axis.text(middle + 0.12, 3.24, verified, fontsize=7, color=GREY, va="center")
    if drawn:
        _arrow(axis, (middle, 2.05), (middle, SYNTHETIC_ROW + 0.65))
        axis.text(middle + 0.12, 1.88, "join the two captions", fontsize=7, color=GREY, va="center")
    for row, picture, label in zip((REAL_ROW, SYNTHETIC_ROW), pictures, ("real x", "synthetic x̃"), strict=True):
        _picture(axis, (2.85, row - 0.45, 0.9, 0.9), picture, label)
        _arrow(axis, (3.75, row), (3.98, row))
    if drawn:
        _arrow(axis, (left + width, SYNTHETIC_ROW), (2.83, SYNTHETIC_ROW), "draw")
    if translated:
        axis.plot([left + width, 2.83], [REAL_ROW] * 2, color=GREY, linewidth=0.9, linestyle=":")


def _draw_encoder(axis: Axes, features: tuple[np.ndarray, np.ndarray]) -> None:
    bottom, height = SYNTHETIC_ROW - 0.5, REAL_ROW - SYNTHETIC_ROW + 1
    _box(axis, (4.0, bottom, 0.42, height), "frozen MaxViT encoder (Eq. 2)", FROZEN, turned=True)
    _box(axis, (5.55, bottom, 0.42, height), "bridge: linear + LayerNorm (Eq. 3)", TRAINED, turned=True)
    for row, colours, label in zip((REAL_ROW, SYNTHETIC_ROW), features, ("F(x)", "F(x̃)"), strict=True):
        _arrow(axis, (4.42, row), (4.64, row))
        _picture(axis, (4.66, row - 0.33, 0.66, 0.66), colours, label)
        _arrow(axis, (5.32, row), (5.53, row))


def _draw_decoder(axis: Axes, triplet: dict[str, Any], picture: Image.Image) -> None:
    left, width = 6.5, 1.5
    _arrow(axis, (5.97, REAL_ROW), (left - 0.02, REAL_ROW), "E(x)")
    _box(axis, (left, REAL_ROW - 0.45, width, 0.9), "mBART-50 decoder\npredicts y word by word", TRAINED, size=7.5)
    centre = left + width / 2
    _arrow(axis, (centre, REAL_ROW - 0.45), (centre, 3.0))
    axis.text(left - 0.02, 3.2, "cross-\nattention", fontsize=7, color=GREY, va="center")
    side = 0.9
    _kept_patches(axis, (centre - side / 2, 2.08, side, side), picture, triplet["weights"])
    axis.text(centre - side / 2 - 0.06, 2.55, "w\n(Eq. 8)", fontsize=7.5, ha="right", va="center")
    _arrow(axis, (centre, 2.06), (centre, SYNTHETIC_ROW + 0.47))
    _arrow(axis, (5.97, SYNTHETIC_ROW), (left - 0.02, SYNTHETIC_ROW), "E(x)\nE(x̃)")
    pooled = "pool by w (Eq. 9)\n$r=\\Sigma_s w_s E_s(x)$\n$\\tilde{r}=\\Sigma_s w_s E_s(\\tilde{x})$"
    _box(axis, (left, SYNTHETIC_ROW - 0.45, width, 0.9), pooled, DATA)


def _draw_losses(axis: Axes) -> None:
    left, width, height = 8.42, 1.36, 0.56
    losses = {
        REAL_ROW: "cross-entropy\n(Eq. 7), real x only",
        2.3: "PAL: $1-\\cos(r,\\tilde{r})$\n(Eq. 10)",
        1.5: "InfoNCE over $r,\\tilde{r}$\n(Eq. 11)",
        0.7: "OT: $\\langle P^*, C\\rangle$, masses w\n(Eqs. 12, 13)",
    }
    _arrow(axis, (8.0, REAL_ROW), (left - 0.02, REAL_ROW))
    for row, text in losses.items():
        _box(axis, (left, row - height / 2, width, height), text, LOSS, size=7)
        if row != REAL_ROW:
            _arrow(axis, (8.0, SYNTHETIC_ROW + 0.15 * (row - SYNTHETIC_ROW)), (left - 0.02, row))
    total = "$L=L_{CE}+\\lambda L_{PAL}$\n$+\\,\\alpha L_{InfoNCE}+\\beta L_{OT}$\n(Eq. 6)"
    axis.text(left + width / 2, 3.08, total, fontsize=7.5, ha="center", va="center")


def _draw_legend(axis: Axes) -> None:
    left = 4.0
    for colour, label in ((DATA, "data"), (FROZEN, "frozen"), (TRAINED, "trained"), (LOSS, "loss")):
        _box(axis, (left, 0.1, 0.22, 0.16), "", colour)
        axis.text(left + 0.28, 0.18, label, fontsize=7.5, va="center")
        left += 0.95


def _box(
    axis: Axes, box: Box, text: str, colour: str, *, title: str = "", turned: bool = False, size: float = 8
) -> None:
    left, bottom, width, height = box
    style = "round,pad=0,rounding_size=0.06"
    axis.add_patch(
        FancyBboxPatch((left, bottom), width, height, style, facecolor=colour, edgecolor=GREY, linewidth=0.6)
    )
    axis.text(
        left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=size,
        rotation=90 if turned else 0, linespacing=1.35,
    )  # fmt: skip
    axis.text(left + 0.02, bottom + height + 0.05, title, fontsize=7.5, fontweight="bold", va="bottom")


def _picture(axis: Axes, box: Box, image: Image.Image | np.ndarray, label: str = "") -> None:
    left, bottom, width, height = box
    smooth = "antialiased" if isinstance(image, Image.Image) else "nearest"
    axis.imshow(image, extent=(left, left + width, bottom, bottom + height), interpolation=smooth, aspect="auto")
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axis.text(left + width / 2, bottom + height + 0.05, label, ha="center", va="bottom", fontsize=8)


def _kept_patches(axis: Axes, box: Box, picture: Image.Image, weights: list[float]) -> None:
    """The picture with the patches that Eq. 8 drops faded."""
    _picture(axis, box, picture)
    left, bottom, width, _ = box
    side = round(len(weights) ** 0.5)
    cell = width / side
    for i, weight in enumerate(weights):
        if weight == 0:
            row, column = divmod(i, side)
            corner = (left + column * cell, bottom + (side - 1 - row) * cell)
            axis.add_patch(Rectangle(corner, cell, cell, facecolor="white", alpha=0.8, linewidth=0))
    axis.add_patch(Rectangle((left, bottom), width, width, fill=False, edgecolor=GREY, linewidth=0.6))


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "") -> None:
    style = {"arrowstyle": "-|>", "color": GREY, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axis.annotate("", end, start, arrowprops=style)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axis.text(x, y + 0.06, label, ha="center", va="bottom", fontsize=7, color=GREY)
