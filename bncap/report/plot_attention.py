"""Where the words look: attention over the picture word by word, and Fig. 1, from the files of the samples step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from bncap.decoders.decode import WordAttention
from bncap.encoders.features import open_picture
from bncap.errors import BncapError
from bncap.experiments import paper
from bncap.pipeline.artifacts import read_json, require
from bncap.report.plotting import PALETTE, save, use_style, wrap

WORDS_A_ROW = 9
MOST = 20
"""So many pictures fit into one figure."""


@dataclass(frozen=True)
class Example:
    """A picture as the encoder sees it, its caption, the words' attention, a line of small print and a reference."""

    image: Image.Image
    caption: str
    words: Sequence[WordAttention]
    note: str = ""
    reference: str = ""


def draw_examples(examples: Sequence[Example], path: Path) -> Path:
    """Each picture with its caption above and, to its right, one copy for each word; returns the file.

    Under a word stands the share of its attention that its strongest patch has.  Raises :class:`BncapError` for more
    than :data:`MOST` pictures.
    """
    if not 1 <= len(examples) <= MOST:
        raise BncapError(f"attention can be drawn for 1 to {MOST} pictures at a time, not {len(examples)}")
    use_style()
    rows = [max(1, -(-len(e.words) // WORDS_A_ROW)) for e in examples]
    # a line on the whole, then for each picture a strip for the caption and the rows of pictures
    heights = [0.2, *(part for count in rows for part in (0.3, *[1.0] * count))]
    fig = plt.figure(figsize=(7.6, 1.12 * sum(heights)))
    grid = fig.add_gridspec(len(heights), WORDS_A_ROW + 1, height_ratios=heights)
    legend = fig.add_subplot(grid[0, :])
    legend.axis("off")
    legend.text(0, 0.5, _legend(examples), fontsize=8, va="center")
    top = 1
    for example, count in zip(examples, rows, strict=True):
        _write_line(fig.add_subplot(grid[top, :]), example.caption or "(no words)", example.note)
        show_picture(fig.add_subplot(grid[top + 1, 0]), example.image)
        in_a_row = -(-len(example.words) // count)  # rows of one caption are about as long as each other
        for i, word in enumerate(example.words):
            axis = fig.add_subplot(grid[top + 1 + i // in_a_row, 1 + i % in_a_row])
            show_attention(axis, example.image, word.weights, word.word)
            axis.set_xlabel(f"{max(word.weights):.0%}", fontsize=7, labelpad=1.5, color="0.4")
        top += 1 + count
    return save(fig, path)


def attention_figure(samples: Path, path: Path) -> Path:
    """``attention.png``: the words of all saved samples, each test split from best to worst; returns the file."""
    return draw_examples(saved_examples(samples), path)


def saved_examples(samples: Path) -> list[Example]:
    """What :func:`bncap.experiments.samples.build_samples` saved in the folder ``samples``, in its order, ranks in the notes."""
    captions = read_json(require(samples) / "samples.json")["captions"]
    return [
        Example(
            open_picture(samples / c["picture"]),
            c["caption"],
            [WordAttention(w["word"], np.array(w["weights"])) for w in c["words"]],
            note,
            c["reference"],
        )
        for c, note in zip(captions, sample_notes(captions), strict=True)
    ]


def sample_notes(captions: Sequence[dict[str, Any]]) -> list[str]:
    """The small print of saved samples: rank by METEOR, METEOR and, where there are two test sets, which."""
    where = paper.SPLITS if len({c["split"] for c in captions}) > 1 else {}
    return [
        ", ".join(filter(None, (where.get(c["split"]), f"rank {c['rank']} of {c['of']}", f"METEOR {c['meteor']:.1f}")))
        for c in captions
    ]


def fig1_patches(samples: Path, path: Path) -> Path:
    """Fig. 1 from a real picture: the frozen maps, the two kinds of attention, the patches, and what the words weigh.

    Maps are shown by their first three principal components as colours.  Returns the PNG; a PDF lies beside it.
    """
    use_style()
    record = read_json(require(samples) / "samples.json")
    sample, stages = record["captions"][0], record["stages"]
    with np.load(samples / "stages.npz") as maps:
        colours = {stage["name"]: maps[stage["name"]] for stage in stages}
    image = open_picture(samples / sample["picture"])
    rows = max(1, -(-len(sample["words"]) // (WORDS_A_ROW + 1)))
    fig = plt.figure(figsize=(7.6, 4.4 + 1.25 * rows), layout="constrained")
    encoder, attention, decoder = fig.subfigures(3, 1, height_ratios=(2.0, 2.0, 0.4 + 1.25 * rows))
    _draw_stages(encoder, image, stages, colours)
    _draw_partitions(attention, image, stages, colours, sample)
    _draw_words(decoder, image, sample, rows)
    return save(fig, path, pdf=True)


def show_picture(axis: Axes, image: Image.Image | np.ndarray, title: str = "") -> None:
    """A picture without ticks, its title above; maps of features keep their square cells."""
    smooth = isinstance(image, Image.Image)
    axis.imshow(image, extent=(0, 1, 0, 1), interpolation="antialiased" if smooth else "nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=8, pad=3)


def show_attention(axis: Axes, image: Image.Image, weights: ArrayLike, title: str = "") -> None:
    """A faded picture, warm where its patches have :func:`heat`, interpolated."""
    heated = _square(heat(weights))
    grey = Image.blend(Image.new("L", image.size, 255), image.convert("L"), 0.6)
    show_picture(axis, grey.convert("RGB"), title)
    smooth = Image.fromarray(heated.astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC)
    shown = np.asarray(smooth).clip(0, 1)
    axis.imshow(shown, extent=(0, 1, 0, 1), cmap="autumn_r", alpha=0.85 * shown**0.6, vmin=0, vmax=1)


def heat(weights: ArrayLike) -> np.ndarray:
    """How warm a patch is drawn: (S,) weights that sum to 1 -> (S,), 0 at an even share and below 0 under it.

    1 is the largest weight, or three even shares where no weight is larger, so that diffuse attention looks diffuse.
    """
    shares = np.asarray(weights, dtype=float) * len(weights)
    return (shares - 1) / (max(shares.max(), 3.0) - 1)


def _legend(examples: Sequence[Example]) -> str:
    said = "Warm: more than an even share of the word's attention. Below: the share of the strongest patch"
    patches = {len(word.weights) for example in examples for word in example.words}
    return f"{said}; an even share is {1 / patches.pop():.0%}." if len(patches) == 1 else f"{said}."


def _write_line(axis: Axes, text: str, note: str) -> None:
    axis.axis("off")
    axis.text(0, 0, text, fontsize=10, va="bottom")
    axis.text(1, 0, note, fontsize=7, va="bottom", ha="right", color="0.4", transform=axis.transAxes)


def _draw_stages(
    part: Figure, image: Image.Image, stages: list[dict[str, Any]], colours: dict[str, np.ndarray]
) -> None:
    part.suptitle("(a) The maps of the frozen encoder, stage by stage", x=0.01, ha="left", fontsize=9)
    axes = part.subplots(1, 1 + len(stages))
    show_picture(axes[0], image, f"picture\n{image.width} × {image.height} px")
    for axis, stage in zip(axes[1:], stages, strict=True):
        title = f"{stage['name']}\n{stage['side']} × {stage['side']} × {stage['channels']}"
        show_picture(axis, colours[stage["name"]], title)


def _draw_partitions(
    part: Figure,
    image: Image.Image,
    stages: list[dict[str, Any]],
    colours: dict[str, np.ndarray],
    sample: dict[str, Any],
) -> None:
    """One window and one grid on the finest-windowed late map, then the patches, w before and after the choice."""
    part.suptitle(
        "(b) Window and grid attention on a late map          (c) The patches, and those that the words weigh",
        x=0.01, ha="left", fontsize=9,
    )  # fmt: skip
    axes = part.subplots(1, 5)
    windowed = [stage for stage in stages if stage["window"] and stage["side"] > stage["window"]]
    if windowed:
        _mark_cells(axes[0], colours, windowed[-1], grid=False)
        _mark_cells(axes[1], colours, windowed[-1], grid=True)
    for axis in axes[:2]:
        axis.axis("off")
    side = round(len(sample["weights"]) ** 0.5)
    show_picture(axes[2], image, f"{side} × {side} patches")
    _rule(axes[2], side)
    mean = np.mean([w["weights"] for w in sample["words"]], axis=0) if sample["words"] else np.ones(side * side)
    show_attention(axes[3], image, mean, "mean over words")
    _draw_kept(axes[4], image, sample["weights"])


def _mark_cells(axis: Axes, colours: dict[str, np.ndarray], stage: dict[str, Any], grid: bool) -> None:
    """The cells that attend to each other in one window, or in one grid of the same number of cells."""
    side, window = stage["side"], stage["window"]
    stride = side // window
    show_picture(
        axis, colours[stage["name"]], f"{'grid' if grid else 'window'}, {window} × {window} of {side} × {side}"
    )
    first, step = (0, stride) if grid else (side - window, 1)
    for row in range(window):
        for column in range(window):
            x, y = column * step if grid else column, row * step + first
            cell = (x / side, 1 - (y + 1) / side)
            axis.add_patch(Rectangle(cell, 1 / side, 1 / side, fill=False, edgecolor="white", linewidth=0.9))


def _draw_kept(axis: Axes, image: Image.Image, weights: list[float]) -> None:
    """The kept patches as they are, the others faded, framed by their weight."""
    w = _square(weights)
    side = len(w)
    show_picture(axis, image, f"w: {(w > 0).sum()} of {w.size} kept")
    for (row, column), value in np.ndenumerate(w):
        corner = (column / side, 1 - (row + 1) / side)
        if value == 0:
            axis.add_patch(Rectangle(corner, 1 / side, 1 / side, facecolor="white", alpha=0.82, linewidth=0))
        else:
            axis.add_patch(Rectangle(corner, 1 / side, 1 / side, fill=False, edgecolor=PALETTE[1], linewidth=0.8))
    _rule(axis, side)


def _draw_words(part: Figure, image: Image.Image, sample: dict[str, Any], rows: int) -> None:
    """Every word of the caption, in as many rows as they take."""
    title = f"(d) The decoder's cross-attention, word by word\n{wrap(sample['caption'], 90)}"
    part.suptitle(title, x=0.01, ha="left", fontsize=9)
    words = sample["words"]
    axes = part.subplots(rows, WORDS_A_ROW + 1, squeeze=False).flat
    for axis, word in zip(axes, words, strict=False):
        show_attention(axis, image, word["weights"], word["word"])
    for axis in axes[len(words) :]:
        axis.axis("off")


def _rule(axis: Axes, side: int) -> None:
    for i in range(1, side):
        axis.axhline(i / side, color="white", linewidth=0.5)
        axis.axvline(i / side, color="white", linewidth=0.5)


def _square(weights: ArrayLike) -> np.ndarray:
    weights = np.asarray(weights, dtype=float)
    side = round(len(weights) ** 0.5)
    return weights.reshape(side, side)
