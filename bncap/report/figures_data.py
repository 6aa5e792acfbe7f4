"""Figures of the data: acceptance and cosines of the verifier (Eq. 4), length of the prompts (Eq. 5).

Captions that are in the target language already have no cosine; where all of them are, a figure says so.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bncap.pipeline.artifacts import read_json, require
from bncap.report.style import PALETTE, save, save_note, use_style
from bncap.synthesis.prompts import WINDOW
from bncap.synthesis.shards import PROMPTS

SPLITS = {
    "train": ("train", PALETTE[0]), "validation": ("validation", PALETTE[1]), "test": ("test", PALETTE[2]),
    "ood": ("out of domain", PALETTE[3]),
}  # fmt: skip
QUALITY = {name: (name, PALETTE[i]) for name, i in (("precision", 4), ("recall", 5), ("F1", 7))}
"""Line -> its label and colour."""
TOKENIZERS = {"prior": "prior (CLIP)", "decoder": "decoder (XLM-R)"}
"""What the tokenizers of ``prompts.csv`` are called; others by their own names."""
NOT_VERIFIED = "Nothing was translated or verified:\nthe captions are in the target language."


def draw_acceptance(folder: Path, path: Path) -> Path:
    """Share of accepted pairs over the threshold, a line for each split; returns the PNG.

    Where faults are known, beside it precision, recall and F1 of accepting faultless pairs of the validation split.
    """
    use_style()
    threshold = read_json(require(folder) / "counts.json")["threshold"]
    rows = pd.read_csv(folder / "acceptance.csv")
    if rows.empty:
        return save_note(NOT_VERIFIED, path, (3.6, 2.6))
    file = folder / "filter_quality.csv"
    quality = pd.read_csv(file).query("split == 'validation'") if file.is_file() else pd.DataFrame()
    panels = [("accepted pairs (%)", "Acceptance", rows.pivot(index="threshold", columns="split", values="accepted"))]
    if len(quality):
        quality = quality.set_index("threshold").rename(columns={"f1": "F1"})
        panels.append(("%", "Quality of the filter, validation captions", quality))
    fig, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 2.6), squeeze=False)
    for axis, (unit, title, shares), names in zip(axes[0], panels, (SPLITS, QUALITY), strict=False):
        for name, (label, colour) in names.items():
            if name in shares:
                axis.plot(100 * shares[name], color=colour, label=label)
        axis.set(ylabel=unit, title=title, xlabel="threshold on the cosine (Eq. 4)")
        axis.grid(axis="y")
        axis.legend()
        _mark_threshold(axis, threshold)
    return save(fig, path)


def draw_cosines(folder: Path, path: Path) -> Path:
    """Distribution of the cosine over the training captions, faulty ones apart where known; returns the PNG."""
    use_style()
    threshold = read_json(require(folder) / "counts.json")["threshold"]
    shards = [pd.read_csv(shard) for shard in sorted((folder / "shards").glob("*.csv"))]
    captions = pd.concat(shards, ignore_index=True).dropna(subset=["similarity"]).assign(captions="all")
    if captions.empty:
        return save_note(NOT_VERIFIED, path, (3.6, 2.6))
    if (file := folder / "faults.csv").is_file():
        faulty = captions["caption_id"].isin(pd.read_csv(file).query("split == 'train'")["caption_id"])
        captions["captions"] = np.where(faulty, "faulty", "faultless")
    fig, axis = plt.subplots(figsize=(3.6, 2.6))
    order = [name for name in ("faultless", "faulty", "all") if (captions["captions"] == name).any()]
    sns.histplot(
        captions, x="similarity", hue="captions", hue_order=order, bins=np.linspace(-1, 1, 41), ax=axis, alpha=0.6,
        linewidth=0, palette=list(PALETTE[: len(order)]),
    )  # fmt: skip
    # faultless captions outnumber the faulty ones many times: a logarithmic axis shows both
    axis.set(xlabel="cosine of the pair (Eq. 4)", ylabel="training captions", yscale="log")
    axis.set_title("Cosines; −1 stands for an empty translation")
    sns.move_legend(axis, "upper left", title=None)
    _mark_threshold(axis, threshold, 0.94)
    return save(fig, path)


def draw_prompts(images: Path, language: str, path: Path) -> Path:
    """Left, the prompts' lengths before cutting, against what is read; right, the words of ``language`` that are left.

    images: the finished step folder with ``prompts.csv`` (:func:`bncap.synthesis.prompts.fit_prompt`); language: the
    target language's English name.  Returns the PNG.
    """
    table = pd.read_csv(require(images) / PROMPTS)
    use_style()
    fig, (lengths, words) = plt.subplots(1, 2, figsize=(6.8, 2.6))
    names = [column.removesuffix("_prompt") for column in table if column.endswith("_prompt")]
    longest = int(table[[f"{name}_prompt" for name in names]].max(axis=None))
    over = longest > WINDOW
    for name, colour in zip(names, PALETTE, strict=False):
        counts = table[f"{name}_prompt"]
        label = f"{TOKENIZERS.get(name, name)}: {(counts > WINDOW).mean():.1%} over"
        sns.histplot(counts, ax=lengths, element="step", color=colour, alpha=0.35, label=label, discrete=longest <= 120)
    lengths.axvline(WINDOW, color="0.2", linewidth=0.9, linestyle="--")
    lengths.text(WINDOW, 1.0, f" {WINDOW}", transform=lengths.get_xaxis_transform(), va="top", color="0.2", fontsize=7)
    unit = "words" if names == ["words"] else "tokens"
    lengths.set(
        xlabel=f"{unit} of the whole prompt, before cutting", ylabel="prompts", title="length of the joint prompt"
    )
    # the legend stands clear of the line, on the side with more room
    lengths.set(xlim=(0, max(longest, 3 * WINDOW) if over else 1.06 * WINDOW), ylim=(0, 1.35 * lengths.get_ylim()[1]))
    lengths.legend(loc="upper right" if over else "upper left", handlelength=1.2)

    sums = table.groupby("target_words")[["target_words", "target_words_kept"]].sum()
    words.bar(sums.index, sums["target_words_kept"], 0.85, color=PALETTE[0], label="left in the prompt")
    cut = sums["target_words"] - sums["target_words_kept"]
    words.bar(sums.index, cut, 0.85, bottom=sums["target_words_kept"], color=PALETTE[1], label="cut")
    share = sums["target_words_kept"].sum() / max(1, sums["target_words"].sum())
    words.set(title=f"{share:.1%} of the {language} words survive", ylim=(0, 1.3 * max(1, sums["target_words"].max())))
    words.set(xlabel=f"words of the {language} caption", ylabel="words in all captions of that length")
    words.xaxis.get_major_locator().set_params(integer=True)
    words.legend(loc="upper right", ncols=2)
    return save(fig, path)


def _mark_threshold(axis: Axes, threshold: float, height: float = 0.03) -> None:
    left, right = axis.get_xlim()
    if left < threshold < right:
        axis.axvline(threshold, color="0.4", linewidth=0.8, linestyle=":")
        axis.text(threshold, height, f" {threshold:.2f}", transform=axis.get_xaxis_transform(), color="0.4", fontsize=7)
