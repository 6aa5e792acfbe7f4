"""How the project's figures look and are written: one style, shaped letters, the same bytes from the same data."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from bncap.experiments import paper
from bncap.pipeline.artifacts import atomic
from bncap.report import fonts

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's eight colours, told apart by colour-blind readers too; the most distinct first."""
SPLIT_COLOURS = dict(zip(paper.SPLITS, PALETTE, strict=False))

DPI = 200
UNSPACED_SCRIPTS = re.compile("[\u0e00-\u0e7f\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Thai, Burmese, Khmer, Japanese, Chinese."""

STYLE = {
    "font.family": list(fonts.FAMILIES),
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "figure.figsize": (3.4, 2.4),
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "pdf.fonttype": 42,  # text stays text, as journals ask
}


def use_style() -> None:
    """Make every figure from here on follow :data:`STYLE`; letters of any script are shaped (:mod:`bncap.report.fonts`)."""
    fonts.register()
    plt.rcParams.update(STYLE)


def save(fig: Figure, path: Path, pdf: bool = False) -> Path:
    """Write ``fig`` as ``<path>.png`` at 200 dpi, and as ``.pdf`` beside it if asked; close it; return the PNG's path.

    ``path`` may end in ``.png`` or have no suffix.  No date and no version goes into the files, so the same data give
    the same bytes.  Folders are created.  Where the style's fonts lack letters of the text, others are looked for.
    """
    _find_fonts(fig)
    png = path if path.suffix == ".png" else path.with_name(path.name + ".png")
    # after writing, matplotlib gives a figure without a layout the default one, which would spoil the second file
    with plt.rc_context({"figure.constrained_layout.use": False}), warnings.catch_warnings():
        # one line was said by then, where matplotlib would have one for each letter and file
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        with atomic(png) as temporary:
            fig.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        if pdf:
            with atomic(png.with_suffix(".pdf")) as temporary:
                fig.savefig(temporary, format="pdf", dpi=DPI, metadata={"CreationDate": None, "Producer": None})
    plt.close(fig)
    return png


def _find_fonts(fig: Figure) -> None:
    texts = fig.findobj(Text)
    families = fonts.families("".join(sorted({char for text in texts for char in text.get_text()})))
    if len(families) > len(fonts.FAMILIES):
        for text in texts:
            text.set_family(families)


def image_grid(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    path: Path,
    *,
    columns: int = 6,
    inches: float = 1.5,
    pdf: bool = False,
) -> Path:
    """Contact sheet: ``images`` in rows of ``columns``, each ``inches`` wide, with its caption wrapped beneath.

    A caption may hold line breaks; each line is wrapped by itself.  Returns the PNG's path, as :func:`save` does.
    Raises ValueError if the two lists differ in length or are empty.
    """
    if not images or len(images) != len(captions):
        raise ValueError(
            f"a contact sheet needs a caption for each image: {len(images)} images, {len(captions)} captions"
        )
    columns, margin, line = min(columns, len(images)), 0.06, 0.145
    texts = [wrap(caption, int(inches * 17)) for caption in captions]
    rows = [range(first, min(first + columns, len(images))) for first in range(0, len(images), columns)]
    tiles = [inches * max(images[i].height / images[i].width for i in row) for row in rows]
    heights = [
        t + margin * 2 + line * max(texts[i].count("\n") + 1 for i in row) for t, row in zip(tiles, rows, strict=True)
    ]
    width, height = columns * (inches + margin), sum(heights) + margin
    fig = plt.figure(figsize=(width, height), layout="none")
    top = height - margin
    for row, tile, taken in zip(rows, tiles, heights, strict=True):
        for column, i in enumerate(row):
            left = column * (inches + margin) + margin / 2
            axis = fig.add_axes((left / width, (top - tile) / height, inches / width, tile / height))
            axis.axis("off")
            # small pictures show their own pixels, which also halves the file
            small = images[i].width < inches * DPI
            axis.imshow(images[i], interpolation="nearest" if small else "antialiased")
            axis.text(0.5, -margin / tile, texts[i], transform=axis.transAxes, ha="center", va="top", fontsize=7)
        top -= taken
    return save(fig, path, pdf)


def wrap(text: str, width: int) -> str:
    """``text`` with line breaks between words so that a line shows at most ``width`` characters.

    Combining marks, such as Bengali vowel signs, take no width.  A word longer than a line stays whole, but in a script
    that is written without blanks a line ends after any letter with its marks.
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for gap, piece in (part for word in paragraph.split() for part in _pieces(word)):
            longer = f"{line}{gap}{piece}" if line else piece
            if line and _shown(longer) > width:
                lines.append(line)
                longer = piece
            line = longer
        lines.append(line)
    return "\n".join(lines)


def _pieces(word: str) -> list[tuple[str, str]]:
    """(what stands before it, piece) of ``word``: itself, or letters with their marks where no blanks are written."""
    if not UNSPACED_SCRIPTS.search(word):
        return [(" ", word)]
    letters = re.findall(r".[\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u102b-\u103e\u17b4-\u17d3]*", word)
    return [(" " if i == 0 else "", letter) for i, letter in enumerate(letters)]


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


def _shown(text: str) -> int:
    return sum(not unicodedata.category(character).startswith("M") for character in text)
