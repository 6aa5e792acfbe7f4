"""Word-by-word attention to be touched: one piece of HTML without scripts, for notebooks and the report."""

from __future__ import annotations

import base64
import hashlib
import io
import unicodedata
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from bncap.commands.captioning import strongest
from bncap.decoders.decode import WordAttention
from bncap.errors import BncapError
from bncap.pipeline.artifacts import read_json, require
from bncap.report import fonts
from bncap.report.plot_attention import Example, heat, saved_examples

CELL = 100
"""Side of a patch in the units of the drawing."""

NUMBERS = (
    "font-family='system-ui,sans-serif' font-size='36' font-weight='600' text-anchor='middle' "
    "stroke='#fff' stroke-width='5' paint-order='stroke'"
)
STYLE = """
.bncap-attention { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 1.5rem;
  max-width: 79rem; font: .875rem/1.5 system-ui, sans-serif; text-align: start; }
.bncap-attention * { box-sizing: border-box; }
.bncap-attention form { position: relative; margin: 0; min-width: 0; }
.bncap-attention img { display: block; width: 100%; height: auto; aspect-ratio: 1; margin: 0; }
.bncap-attention .map { display: none; position: absolute; top: 0; left: 0; background: rgba(255, 255, 255, .35);
  -webkit-backdrop-filter: grayscale(1); backdrop-filter: grayscale(1); }
.bncap-attention br { display: none; }
.bncap-attention p { margin: .2rem 0; max-width: none; }
.bncap-attention .small { font-size: .8125rem; opacity: .8; }
.bncap-attention .small [lang] { font-size: .9375rem; }
.bncap-attention .words { display: flex; flex-wrap: wrap; gap: .25rem; margin-top: .5rem; font-size: 1.0625rem; }
.bncap-attention [lang] { font-family: var(--bncap-letters) system-ui, sans-serif; }
.bncap-attention label { display: contents; }
.bncap-attention input { position: absolute; width: 1px; height: 1px; margin: 0; opacity: 0; }
.bncap-attention .word { padding: .2rem .5rem; min-width: 2.25rem; min-height: 2.25rem; text-align: center;
  border: 1px solid rgba(127, 127, 127, .6); border-radius: .3rem; cursor: pointer; }
.bncap-attention .none { font-family: system-ui, sans-serif; font-size: .8125rem; line-height: 1.75rem; }
.bncap-attention .word:hover { border-color: #0072b2; }
.bncap-attention input:checked ~ .word { background: #0072b2; border-color: #0072b2; color: #fff; }
.bncap-attention input:focus-visible ~ .word { outline: 3px solid #e69f00; outline-offset: 1px; }
.bncap-attention .said { display: none; order: 1; flex: 0 0 100%; min-height: 4.75em; font-size: .8125rem;
  font-family: system-ui, sans-serif; }
.bncap-attention input:checked ~ .map, .bncap-attention input:checked ~ .said { display: block; }
"""


def view(examples: Sequence[Example], lang: str = "bn") -> str:
    """HTML of ``examples``: touching a word of a caption shows on the picture where the word looks, in per cent.

    A patch is coloured, and has its share of the word's attention written on it, if it gets more than an even share;
    the strongest is framed.  What is chosen is held by radio buttons: touch, mouse and keyboard (Tab, then the arrow
    keys) choose; where style sheets are taken out, all words are shown one below the other.  Nothing is loaded from
    elsewhere: pictures are in the page, and so are the letters of the captions, from the fonts of :mod:`bncap.report.fonts`.
    There are no ids, and each picture is a form of its own, so that a page may hold the same view twice.

    lang: the language of the captions as HTML names it.  Raises :class:`BncapError` if there is no example.
    """
    if not examples:
        raise BncapError("attention can be shown for 1 picture or more, not 0")
    written = "".join(" ".join((e.caption, e.reference, *(w.word for w in e.words))) for e in examples)
    families, faces = _letters(written)
    head = f'<div class="bncap-attention" style="--bncap-letters:{families}">'
    return "\n".join((head, f"<style>{faces}{STYLE}</style>", *(_picture(e, lang) for e in examples), "</div>"))


def from_samples(samples: Path) -> str:
    """:func:`view` of the pictures that :func:`bncap.experiments.samples.build_samples` saved in the folder ``samples``."""
    return view(saved_examples(samples), read_json(require(samples) / "samples.json")["lang"])


def _picture(example: Example, lang: str) -> str:
    caption = escape(example.caption or "(no words)")
    hint = "Choose a word: the patches that it looks at are shown on the picture." if example.words else caption
    words = [_choice(w.word, 'class="word"', _attention(w, lang)) for w in example.words]
    words.insert(0, _choice("picture", 'class="word none" lang="en" dir="ltr"', _said(hint), " checked"))
    small = [f'<p class="small">{escape(example.note)}</p>'] if example.note else []
    if example.reference:
        reference = f'<span lang="{lang}" dir="auto">{escape(example.reference)}</span>'
        small.append(f'<p class="small">a reference: {reference}</p>')
    return (
        f'<form method="dialog" autocomplete="off"><img alt="{caption}" src="{_jpeg(example.image)}">{"".join(small)}'
        f'<div class="words" lang="{lang}" dir="auto">{"".join(words)}</div></form>'
    )


def _choice(text: str, attributes: str, shown: str, state: str = "") -> str:
    # JupyterLab would take the keys for its own, unless the very element that has the focus forbids it
    button = f'<input type="radio" name="word" data-lm-suppress-shortcuts="true"{state}>'
    return f"<label>{button}<span {attributes}>{escape(text)}</span> {shown}<br></label>\n"


def _said(text: str) -> str:
    return f'<span class="said" lang="en" dir="ltr">{text}</span>'


def _attention(word: WordAttention, lang: str) -> str:
    """The drawing that lies over the picture, and its sentence."""
    shares = np.asarray(word.weights, dtype=float)
    side, heated = round(len(shares) ** 0.5), heat(shares)
    above = [(i, shares[i]) for i in np.flatnonzero(heated > 1e-6)]  # not for an even share's rounding
    cells = "".join(f"<path d='{_cell(i, side)}' opacity='{0.15 + 0.7 * heated[i]:.2f}'/>" for i, _ in above)
    numbers = "".join(
        f"<text x='{i % side * CELL + CELL // 2}' y='{i // side * CELL + 62}'>{100 * share:.0f}</text>"
        for i, share in above
    )
    most = f"<path d='{_cell(int(shares.argmax()), side)}' fill='none' stroke='#000' stroke-width='.06'/>"
    drawing = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {side * CELL} {side * CELL}'>"
        f"<g fill='#d55e00' transform='scale({CELL})'>{cells}{most}</g><g {NUMBERS}>{numbers}</g></svg>"
    )
    row, column = strongest(word)
    held = sum(share for _, share in above)
    said = (
        f'“<span lang="{lang}">{escape(word.word)}</span>”: {shares.max():.0%} of its attention is on one patch, row '
        f"{row}, column {column}; {held:.0%} on the {len(above)} patches that have more than an even share of "
        f"{1 / len(shares):.1%}."
    )
    # a picture, as JupyterLab keeps those even of a notebook that it does not trust, at the size of a thumbnail
    source = f"data:image/svg+xml;base64,{_base64(drawing.encode())}"
    return f'<img class="map" alt="" width="112" src="{source}">{_said(said)}'


def _cell(index: int, side: int) -> str:
    row, column = divmod(int(index), side)
    return f"M{column} {row}h1v1h-1z"


def _jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=75, subsampling=0)
    return f"data:image/jpeg;base64,{_base64(buffer.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _letters(text: str) -> tuple[str, str]:
    """A CSS list of families, a comma after each, that have the letters of ``text``, and their ``@font-face`` rules.

    A font is cut down to those letters, what they are made of and what they join to, and named after what is in it, as
    two views of one page may need different letters.
    """
    from fontTools.ttLib import TTFont
    from matplotlib.font_manager import findfont

    # a browser takes some vowel signs apart and sets their parts
    spelled = text + unicodedata.normalize("NFD", text) + unicodedata.normalize("NFC", text)
    families, faces, wanted = "", "", {ord(char) for char in spelled if char.isprintable()}
    for family in fonts.families(text)[1:]:  # the first is DejaVu Sans, whose letters every system has
        font = TTFont(findfont(family, fallback_to_default=False), fontNumber=0, recalcTimestamp=False)
        here = wanted & set(font.getBestCmap())
        wanted -= here
        if any(point > 0x24F for point in here):  # more than Latin
            data = _cut(font, here)
            name = f"bncap-{hashlib.sha256(data).hexdigest()[:8]}"
            families += f"{name},"
            source = f"data:font/woff;base64,{_base64(data)}"
            faces += f'@font-face {{ font-family: {name}; src: url({source}) format("woff"); }}\n'
    return families, faces


def _cut(font, points: set[int]) -> bytes:
    """The WOFF file of ``font``, a fontTools TTFont, with the characters ``points`` and what they join to."""
    from fontTools import subset

    options = subset.Options(flavor="woff", hinting=False, layout_features=["*"], notdef_outline=True)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=points)
    cutter.subset(font)
    font.flavor = "woff"
    buffer = io.BytesIO()
    font.save(buffer)
    return buffer.getvalue()
