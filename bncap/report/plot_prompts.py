"""How long the joint prompts are by each tokenizer, and how many of their words survive the cutting."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from bncap.pipeline.artifacts import require
from bncap.report.plotting import PALETTE, save, use_style
from bncap.synthesis.prompts import WINDOW
from bncap.synthesis.shards import PROMPTS

NAMES = {"prior": "prior (CLIP)", "decoder": "decoder (XLM-R)"}
"""What the tokenizers of ``prompts.csv`` are called; others by their own names."""


def prompts_figure(images: Path, language: str, path: Path) -> Path:
    """Left, the prompts' lengths before cutting, against what is read; right, the words of ``language`` that are left.

    Args:
        images: the finished step folder with ``prompts.csv``, see :func:`bncap.synthesis.prompts.fit_prompt`.
        language: English name of the target language.

    Returns the path of the PNG.
    """
    with (require(images) / PROMPTS).open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        header = next(rows)
        values = np.array(list(rows), dtype=np.int64)  # as numbers: 110,000 rows
    table = dict(zip(header, values.T, strict=True))
    use_style()
    fig, (lengths, words) = plt.subplots(1, 2, figsize=(6.8, 2.6))
    _draw_lengths(lengths, table)
    _draw_words(words, table, language)
    return save(fig, path)


def _draw_lengths(axis: Axes, table: dict[str, np.ndarray]) -> None:
    names = [column.removesuffix("_prompt") for column in table if column.endswith("_prompt")]
    longest = max(int(table[f"{name}_prompt"].max()) for name in names)
    width = max(1, -(-max(longest, WINDOW) // 60))
    bins = np.arange(0, max(longest, WINDOW) + 2 * width, width)
    for name, colour in zip(names, PALETTE, strict=False):
        counts = table[f"{name}_prompt"]
        label = f"{NAMES.get(name, name)}: {(counts > WINDOW).mean():.1%} over"
        axis.hist(counts, bins - 0.5, histtype="stepfilled", color=colour, alpha=0.35)
        axis.hist(counts, bins - 0.5, histtype="step", color=colour, label=label)
    axis.axvline(WINDOW, color="0.2", linewidth=0.9, linestyle="--")
    axis.text(WINDOW, 1.0, f" {WINDOW}", transform=axis.get_xaxis_transform(), va="top", color="0.2", fontsize=7)
    unit = "words" if names == ["words"] else "tokens"
    axis.set(xlabel=f"{unit} of the whole prompt, before cutting", ylabel="prompts")
    axis.set_title("length of the joint prompt")
    over = longest > WINDOW
    # the legend stands clear of the line, on the side with more room
    axis.set(xlim=(0, max(longest, 3 * WINDOW) if over else None), ylim=(0, 1.35 * axis.dataLim.y1))
    axis.legend(loc="upper right" if over else "upper left", handlelength=1.2)


def _draw_words(axis: Axes, table: dict[str, np.ndarray], language: str) -> None:
    words, kept = table["target_words"], table["target_words_kept"]
    captions = np.bincount(words)
    left = np.bincount(words, kept, minlength=len(captions))
    cut = np.bincount(words, words - kept, minlength=len(captions))
    lengths = np.arange(len(captions))
    axis.bar(lengths, left, 0.85, color=PALETTE[0], label="left in the prompt")
    axis.bar(lengths, cut, 0.85, bottom=left, color=PALETTE[1], label="cut")
    share = kept.sum() / max(1, words.sum())
    axis.set_title(f"{share:.1%} of the {language} words survive")
    axis.set(xlabel=f"words of the {language} caption", ylabel="words in all captions of that length")
    axis.set_xlim(max(0, lengths[captions > 0].min() - 1), lengths[-1] + 1)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(0, 1.3 * max(1, int((left + cut).max())))
    axis.legend(loc="upper right", ncols=2)
