"""One style for all figures: fonts, colours, files with the same bytes from the same data, and shared drawing parts."""

from __future__ import annotations

import pkgutil
import re
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from PIL import Image

from bncap.experiments import paper
from bncap.pipeline import paths
from bncap.pipeline.artifacts import atomic

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's eight colours, which colour-blind readers can tell apart; the most distinct first."""
SPLIT_COLOURS = dict(zip(paper.SPLITS, PALETTE, strict=False))
DPI = 200

FAMILIES = ("DejaVu Sans", "Hind Siliguri", "Hind")
"""Always installed: Latin, Greek, Cyrillic, Hebrew, Arabic, Georgian; Bengali; Devanagari."""
OPTIONAL_FAMILIES = (
    "Noto Sans Arabic", "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thai", "Noto Sans Khmer",
    "Noto Sans Myanmar", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR",
)  # fmt: skip
"""Used where installed, as a system font or as a package of the family ``fontpkg-*``."""

STYLE = paths.PACKAGE / "report" / "bncap.mplstyle"


def use_style() -> None:
    """Make every figure from here on follow :data:`STYLE`; matplotlib shapes Bengali letters itself."""
    for module in pkgutil.iter_modules():
        if module.name.startswith("fontpkg_") and (spec := find_spec(module.name)):
            for folder in spec.submodule_search_locations or ():
                known = {font.fname for font in fontManager.ttflist}
                for path in sorted(Path(folder, "files").glob("*.[to]tf")):
                    if path.stem.endswith(("-Regular", "-Bold")) and str(path) not in known:
                        fontManager.addfont(path)
    names = fontManager.get_font_names()
    families = [*FAMILIES, *(family for family in OPTIONAL_FAMILIES if family in names)]
    plt.style.use(STYLE)
    plt.rcParams.update({"font.family": families, "axes.prop_cycle": plt.cycler(color=PALETTE)})


def save(fig: Figure, path: Path, pdf: bool = False) -> Path:
    """Write ``fig`` as ``<path>.png`` at 200 dpi, and as ``.pdf`` beside it if asked; close it; return the PNG's path.

    ``path`` may end in ``.png`` or have no suffix.  No date and no version goes into the files, so the same data give
    the same bytes.  Letters that no font has are drawn as boxes; one line on stderr names their script and the remedy.
    """
    png = path if path.suffix == ".png" else path.with_name(path.name + ".png")
    # matplotlib gives a figure without a layout the default one after writing, which would spoil the second file
    with plt.rc_context({"figure.constrained_layout.use": False}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with atomic(png) as temporary:
            fig.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        if pdf:
            with atomic(png.with_suffix(".pdf")) as temporary:
                fig.savefig(temporary, format="pdf", dpi=DPI, metadata={"CreationDate": None, "Producer": None})
    plt.close(fig)
    scripts = set(re.findall(r"Glyph \d+ \(\\N\{(\w+)", "\n".join(str(warning.message) for warning in caught)))
    if scripts:
        names = ", ".join(sorted(script.capitalize() for script in scripts))
        print(
            f"{png.name}: no installed font has letters of {names}, drawn as boxes; "
            "install a Noto Sans font for them in the system and start again",
            file=sys.stderr,
        )
    return png


def save_note(text: str, path: Path, size: tuple[float, float], pdf: bool = False) -> Path:
    """:func:`save` a figure of ``size`` in inches that says ``text``, in place of one that has nothing to show."""
    fig = plt.figure(figsize=size)
    fig.text(0.5, 0.5, text, ha="center", va="center")
    return save(fig, path, pdf)


def wrap(text: str, width: int) -> str:
    """``text`` with line breaks so that a line has at most ``width`` characters; its own line breaks stay."""
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def image_grid(
    images: Sequence[Image.Image], captions: Sequence[str], path: Path, *, columns: int = 6, inches: float = 1.5
) -> Path:
    """Contact sheet: ``images`` in rows of ``columns``, each ``inches`` wide, with its caption wrapped beneath.

    Returns the PNG's path.  Raises ValueError if the two lists differ in length or are empty.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images, {len(captions)} captions: a contact sheet needs as many of both")
    texts = [wrap(caption, round(inches * 18)) for caption in captions]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    shape = max(image.height / image.width for image in images)
    height = rows * (inches * shape + 0.135 * max(text.count("\n") + 2 for text in texts))
    fig, axes = plt.subplots(rows, columns, figsize=(columns * (inches + 0.06), height), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, image, text in zip(axes.flat, images, texts, strict=False):
        # small pictures show their own pixels, which also halves the file
        axis.imshow(image, interpolation="nearest" if image.width < inches * DPI else "antialiased")
        axis.set_xlabel(text, fontsize=7)
    return save(fig, path)


def side_by_side(*images: Image.Image, gap: int = 4) -> Image.Image:
    """``images`` in one row on white, scaled to the height of the first, ``gap`` px apart."""
    height = images[0].height
    scaled = [image.convert("RGB").resize((image.width * height // image.height, height)) for image in images]
    row = Image.new("RGB", (sum(s.width for s in scaled) + gap * (len(scaled) - 1), height), "white")
    left = 0
    for image in scaled:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row


def draw_intervals(
    axis: Axes, estimates: pd.DataFrame, lines: Sequence[str], colours: Mapping[str, str], *,
    zero: bool = True, numbers: bool = False,
) -> None:  # fmt: skip
    """A dot with its interval for each row of ``estimates``, filled where the interval leaves out 0.

    estimates: columns ``line`` (one of ``lines``, from above), ``series`` (a key of ``colours``; the series of a line
    stand below each other), ``value``, ``low``, ``high`` and ``excludes_zero``.  Rows without a value are left out.
    zero: draw a line at 0.  numbers: write each value in a column to the right of the panel.
    """
    if zero:
        axis.axvline(0, color="black", linewidth=0.8, zorder=0)
    steps = np.linspace(-0.2, 0.2, len(colours)) if len(colours) > 1 else [0.0]
    offsets = dict(zip(colours, steps, strict=True))
    for r in estimates.dropna(subset=["value"]).itertuples():
        y, colour = lines.index(r.line) + offsets[r.series], colours[r.series]
        axis.plot([r.low, r.high], [y, y], color=colour)
        axis.plot(r.value, y, "o", color=colour, markerfacecolor=colour if r.excludes_zero else "white")
        if numbers:
            axis.annotate(
                f"{r.value:+.2f}".replace("-", "−"), (1.14, y), xycoords=("axes fraction", "data"), ha="right",
                va="center", fontsize=7, color=colour, fontweight="bold" if r.excludes_zero else "normal",
            )  # fmt: skip
    for line in range(1, len(lines)):
        axis.axhline(line - 0.5, color="0.88", linewidth=0.5, zorder=0)
    axis.set(yticks=range(len(lines)), yticklabels=lines, ylim=(len(lines) - 0.5, -0.5))
    axis.tick_params(axis="y", length=0)


def add_legend(fig: Figure, colours: Mapping[str, str], labels: Mapping[str, str]) -> None:
    """A legend above the panels: the label of each series in its colour."""
    handles = [Line2D([], [], color=colours[name], marker="o", label=labels[name]) for name in colours]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8)
