"""Figures of the corpus, drawn from the files of the step ``01_data_build``.

Captions that are in the target language already have no cosine; where all of them are, a figure says so.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bncap.pipeline.artifacts import read_csv, read_json, require
from bncap.report.plotting import PALETTE, save, use_style

SPLIT_LABELS = {"train": "train", "validation": "validation", "test": "test", "ood": "out of domain"}
GREY = "0.4"
THRESHOLD_AXIS = "threshold on the cosine (Eq. 4)"


def acceptance_curve(folder: Path, path: Path) -> Path:
    """Share of accepted pairs over the threshold, a line for each split; returns the file.

    Where faults are known, beside it precision, recall and F1 of accepting faultless pairs of the validation split.
    """
    use_style()
    threshold = read_json(require(folder) / "counts.json")["threshold"]
    rows = read_csv(folder / "acceptance.csv")
    quality = _optional(folder / "filter_quality.csv", "validation")
    fig, axes = plt.subplots(1, 2 if quality else 1, figsize=(7.2 if quality else 3.6, 2.6), squeeze=False)
    if not rows:
        return _nothing_verified(fig, axes[0, 0], path)
    of_split = {split: [row for row in rows if row["split"] == split] for split in SPLIT_LABELS}
    lines = {SPLIT_LABELS[split]: chosen for split, chosen in of_split.items() if chosen}
    _draw_lines(axes[0, 0], {label: (chosen, "accepted") for label, chosen in lines.items()}, threshold, PALETTE)
    axes[0, 0].set(xlabel=THRESHOLD_AXIS, ylabel="accepted pairs (%)", title="Acceptance")
    if quality:
        lines = {name: (quality, name.lower()) for name in ("precision", "recall", "F1")}
        _draw_lines(axes[0, 1], lines, threshold, (PALETTE[4], PALETTE[5], PALETTE[7]))
        axes[0, 1].set(xlabel=THRESHOLD_AXIS, ylabel="%", title="Quality of the filter, validation captions")
    return save(fig, path)


def similarity_histogram(folder: Path, path: Path) -> Path:
    """Distribution of the cosine over the training captions, faulty ones apart where known; returns the file."""
    use_style()
    threshold = read_json(require(folder) / "counts.json")["threshold"]
    faulty = {row["caption_id"] for row in _optional(folder / "faults.csv", "train")}
    similarity, is_faulty = _training_cosines(folder, faulty)
    fig, axis = plt.subplots(figsize=(3.6, 2.6))
    if not similarity.size:
        return _nothing_verified(fig, axis, path)
    groups = {"faultless": ~is_faulty, "faulty": is_faulty} if faulty else {"all": ~is_faulty}
    for colour, (label, mask) in zip(PALETTE, groups.items(), strict=False):
        axis.hist(similarity[mask], np.linspace(-1, 1, 41), color=colour, alpha=0.6, label=label)
    # faultless captions outnumber the faulty ones many times: a logarithmic axis shows both
    axis.set(xlabel="cosine of the pair (Eq. 4)", ylabel="training captions", yscale="log")
    axis.set_title("Cosines; −1 stands for an empty translation")
    axis.legend(loc="upper left")
    _mark_threshold(axis, threshold, height=0.94)
    return save(fig, path)


def _draw_lines(
    axis: Axes, lines: Mapping[str, tuple[list[dict[str, str]], str]], threshold: float, colours: tuple[str, ...]
) -> None:
    """Per cent of a column over the threshold, each line with its label at its right end."""
    ends = []
    for colour, (label, (rows, name)) in zip(colours, lines.items(), strict=False):
        y = 100 * _column(rows, name)
        axis.plot(_column(rows, "threshold"), y, color=colour)
        ends.append((y[-1], label, colour))
    low, high = axis.get_ylim()
    axis.set_ylim(low, high)
    gap, free = 0.065 * (high - low), np.inf
    for y, label, colour in sorted(ends, reverse=True):
        free = min(y, free - gap)  # pushed down where the label above would touch it
        axis.annotate(
            label, (1.0, free), xycoords=("axes fraction", "data"), color=colour, va="center", fontsize=7,
            xytext=(2, 0), textcoords="offset points",
        )  # fmt: skip
    axis.margins(x=0.02)
    _mark_threshold(axis, threshold)


def _mark_threshold(axis: Axes, threshold: float, height: float = 0.02) -> None:
    axis.grid(axis="y")
    left, right = axis.get_xlim()
    if left < threshold < right:
        axis.axvline(threshold, color=GREY, linewidth=0.8, linestyle=":")
        axis.annotate(
            f"{threshold:.2f}", (threshold, height), xycoords=("data", "axes fraction"), color=GREY, fontsize=7,
            xytext=(2, 0), textcoords="offset points",
        )  # fmt: skip


def _nothing_verified(fig: Figure, axis: Axes, path: Path) -> Path:
    axis.axis("off")
    text = "Nothing was translated or verified:\nthe captions are in the target language."
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
    return save(fig, path)


def _training_cosines(folder: Path, faulty: set[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the training captions that have one, and which of them are in ``faulty``; read row by row."""
    similarity, is_faulty = array("d"), array("b")
    for shard in sorted((folder / "shards").glob("*.csv")):
        with shard.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["similarity"]:
                    similarity.append(float(row["similarity"]))
                    is_faulty.append(row["caption_id"] in faulty)
    return np.array(similarity), np.array(is_faulty, dtype=bool)


def _optional(path: Path, split: str) -> list[dict[str, str]]:
    """Rows of ``split`` in a table that only translators with known faults yield; none if it is not there."""
    return [row for row in read_csv(path) if row["split"] == split] if path.is_file() else []


def _column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])
