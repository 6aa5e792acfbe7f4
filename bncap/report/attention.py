"""Attention of a caption's words over its picture: as a static grid, and as an interactive viewer without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from bncap.decoders.decode import WordAttention
from bncap.encoders.features import open_picture
from bncap.errors import BncapError
from bncap.experiments import paper
from bncap.pipeline import paths
from bncap.pipeline.artifacts import read_json, require
from bncap.report.style import save, use_style

WORDS_PER_ROW = 9
MAX_PICTURES = 20
"""Pictures that fit into one figure."""

VIEWER = paths.PACKAGE / "report" / "viewer.html"


@dataclass(frozen=True)
class Example:
    """A picture as the encoder sees it, its caption, the words' attention, a line of small print and a reference."""

    image: Image.Image
    caption: str
    words: Sequence[WordAttention]
    note: str = ""
    reference: str = ""


def read_examples(samples: Path) -> list[Example]:
    """What :func:`bncap.experiments.samples.build_samples` saved in the folder ``samples``, ranks in the notes."""
    captions = read_json(require(samples) / "samples.json")["captions"]
    examples = []
    for c, note in zip(captions, describe_samples(captions), strict=True):
        words = [WordAttention(w["word"], np.array(w["weights"])) for w in c["words"]]
        examples.append(Example(open_picture(samples / c["picture"]), c["caption"], words, note, c["reference"]))
    return examples


def describe_samples(captions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The small print of saved samples: the split if there are several, the rank by METEOR, and METEOR."""
    splits = paper.SPLITS if len({c["split"] for c in captions}) > 1 else {}
    return [
        ", ".join(filter(None, (splits.get(c["split"]), f"rank {c['rank']} of {c['of']}", f"METEOR {c['meteor']:.1f}")))
        for c in captions
    ]


def compute_heat(weights: ArrayLike) -> np.ndarray:
    """How warm a patch is drawn: (S,) weights that sum to 1 -> (S,), 0 at an even share and below 0 under it.

    1 is the largest weight, or three even shares where no weight is larger, so that diffuse attention looks diffuse.
    """
    shares = np.asarray(weights, dtype=float)
    shares = shares * len(shares)
    return (shares - 1) / (max(shares.max(), 3.0) - 1)


def show_picture(axis: Axes, image: Image.Image | np.ndarray, title: str = "") -> None:
    """A picture without ticks, its title above; maps of features keep their square cells."""
    smooth = isinstance(image, Image.Image)
    axis.imshow(image, extent=(0, 1, 0, 1), interpolation="antialiased" if smooth else "nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=8, pad=3)


def show_attention(axis: Axes, image: Image.Image, weights: ArrayLike, title: str = "") -> None:
    """A faded picture, warm where its patches have :func:`compute_heat`, interpolated."""
    heat = compute_heat(weights)
    side = round(len(heat) ** 0.5)
    grey = Image.blend(Image.new("L", image.size, 255), image.convert("L"), 0.6)
    show_picture(axis, grey.convert("RGB"), title)
    square = Image.fromarray(heat.reshape(side, side).astype(np.float32))
    smooth = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC)).clip(0, 1)
    axis.imshow(smooth, extent=(0, 1, 0, 1), cmap="autumn_r", alpha=0.85 * smooth**0.6, vmin=0, vmax=1)


def draw_maps(
    image: Image.Image, maps: Mapping[str, ArrayLike], path: Path, boxes: Sequence[tuple[float, ...]] = ()
) -> Path:
    """A picture and, beside it, a copy for each of ``maps`` (title -> (S,) weights); returns the PNG.

    boxes: (left, top, width, height) in px of ``image``, outlined in every panel.
    """
    use_style()
    count = 1 + len(maps)
    fig, axes = plt.subplots(1, count, figsize=(2 * count, 2.2), squeeze=False, layout="constrained")
    show_picture(axes[0, 0], image, "picture")
    for axis, (title, weights) in zip(axes[0, 1:], maps.items(), strict=True):
        show_attention(axis, image, weights, title)
    for axis in axes[0]:
        for left, top, width, height in boxes:
            corner = left / image.width, 1 - (top + height) / image.height
            size = width / image.width, height / image.height
            axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#0072b2", linewidth=1.5))
    return save(fig, path)


def draw_examples(examples: Sequence[Example], path: Path) -> Path:
    """Each picture with its caption above and, to its right, one copy for each word; returns the PNG.

    Under a word stands the share of its attention that its strongest patch has.  Raises :class:`BncapError` for more
    than :data:`MAX_PICTURES` pictures.
    """
    if not 1 <= len(examples) <= MAX_PICTURES:
        raise BncapError(f"attention can be drawn for 1 to {MAX_PICTURES} pictures at a time, not {len(examples)}")
    use_style()
    rows = [max(1, -(-len(example.words) // WORDS_PER_ROW)) for example in examples]
    heights = [0.5 + count for count in rows]
    fig = plt.figure(figsize=(7.6, 0.25 + sum(heights)), layout="constrained")
    fig.suptitle(
        "Warm: more than an even share of the word's attention. Below: the share of the strongest patch.",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
    parts = fig.subfigures(len(examples), 1, height_ratios=heights, squeeze=False)
    for part, example, count in zip(parts[:, 0], examples, rows, strict=True):
        part.suptitle(f"{example.caption or '(no words)'}\n{example.note}", x=0.01, ha="left", fontsize=8.5)
        axes = part.subplots(count, WORDS_PER_ROW + 1, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        show_picture(axes[0, 0], example.image)
        in_row = -(-len(example.words) // count)  # the rows of one caption are about as long as each other
        for i, word in enumerate(example.words):
            axis = axes[i // in_row, 1 + i % in_row]
            show_attention(axis, example.image, word.weights, word.word)
            axis.text(0.5, -0.04, f"{max(word.weights):.0%}", ha="center", va="top", fontsize=7, color="0.4")
    return save(fig, path)


def draw_samples(samples: Path, path: Path) -> Path:
    """``attention.png``: the words of all saved samples, each test split from best to worst; returns the PNG."""
    return draw_examples(read_examples(samples), path)


def render_viewer(examples: Sequence[Example], lang: str = "bn") -> str:
    """Interactive word-attention viewer as HTML: choosing a word colours the patches that it attends to.

    A patch with more than an even share is coloured and has its share in per cent written on it; the strongest is
    framed.  The words are radio buttons: no script is needed, and touch, mouse and keyboard work.  Each picture is a
    form of its own without ids, so that a page may hold the viewer twice.  Nothing is loaded from elsewhere.

    lang: the language of the captions as HTML names it.  Raises :class:`BncapError` if there is no example.
    """
    if not examples:
        raise BncapError("attention can be shown for 1 picture or more, not 0")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(VIEWER.read_text("utf-8"))
    pictures = [_encode_picture(example.image) for example in examples]
    return template.render(examples=examples, pictures=pictures, lang=lang, draw_map=_encode_map)


def render_samples(samples: Path) -> str:
    """:func:`render_viewer` of what :func:`bncap.experiments.samples.build_samples` saved in ``samples``."""
    return render_viewer(read_examples(samples), read_json(require(samples) / "samples.json")["lang"])


def _encode_picture(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=75, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()


def _encode_map(weights: ArrayLike) -> str:
    """The drawing that lies over the picture: coloured patches, their shares in per cent, a frame around the strongest.

    It is an image and no inline SVG, since JupyterLab removes that from a notebook that it does not trust.
    """
    shares = np.asarray(weights, dtype=float)
    side = round(len(shares) ** 0.5)
    parts = []
    for i in np.flatnonzero((heat := compute_heat(shares)) > 1e-6):  # not for an even share's rounding
        row, column = divmod(int(i), side)
        square = f"x='{column}' y='{row}' width='1' height='1'"
        frame = " stroke='#000' stroke-width='.06'" if i == shares.argmax() else ""
        parts.append(f"<rect {square} fill='#d55e00' fill-opacity='{0.15 + 0.7 * heat[i]:.2f}'{frame}/>")
        parts.append(f"<text x='{column + 0.5}' y='{row + 0.62}'>{100 * shares[i]:.0f}</text>")
    text = "font-family='system-ui,sans-serif' font-size='.36' font-weight='600' text-anchor='middle'"
    outline = "stroke='#fff' stroke-width='.05' paint-order='stroke'"
    size = f"viewBox='0 0 {side} {side}' width='{100 * side}' height='{100 * side}'"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' {size}><g {text}>{''.join(parts)}</g></svg>"
    return base64.b64encode(svg.replace("<text", f"<text {outline}").encode()).decode()
