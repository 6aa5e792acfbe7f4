"""How training went and what it gives: Fig. 3 (top) and a gallery of captions, from the files of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from bncap.config import BASE, MAIN, VARIANTS
from bncap.encoders.features import open_picture
from bncap.experiments.runs import TRAINING
from bncap.pipeline.artifacts import read_csv, read_json, require
from bncap.pipeline.paths import step_dir
from bncap.report.plot_attention import sample_notes
from bncap.report.plotting import PALETTE, image_grid, save, use_style, wrap
from bncap.settings import Config

LABELS = {BASE: "CE alone", MAIN: VARIANTS[MAIN].label}
COLOURS = {BASE: PALETTE[1], MAIN: PALETTE[0]}
SMOOTHING = 0.06
"""Width of the moving average as a share of the steps."""


def convergence(config: Config, seeds: Sequence[int], path: Path, variants: Sequence[str] = (BASE, MAIN)) -> Path:
    """Fig. 3 (top): total loss and cross-entropy of each accumulation step, and held-out cross-entropy of each epoch.

    ``variants`` are those of notebook 04 that were trained.  Every seed's curve is drawn faintly, with the moving
    average of their mean over it.  Returns the PNG; a PDF lies beside it.
    """
    use_style()
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6))
    for variant in variants:
        runs = [step_dir(config.profile, TRAINING, f"{variant}.weights", seed) for seed in seeds]
        steps = [read_csv(require(run) / "steps.csv") for run in runs]
        epochs = [read_csv(run / "validation.csv") for run in runs]
        _draw_runs(axes[0], steps, "total", variant)
        _draw_runs(axes[1], steps, "ce", variant)
        _draw_epochs(axes[2], epochs, variant)
    axes[0].set(title="Total loss (Eq. 6)", xlabel="accumulation step", ylabel="loss (nats and weighted terms)")
    axes[1].set(title="Cross-entropy (Eq. 7)", xlabel="accumulation step", ylabel="nats a token")
    axes[2].set(title="Cross-entropy, held-out captions", xlabel="epoch", ylabel="nats a token")
    for axis in axes:
        axis.grid(axis="y")
        axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return save(fig, path, pdf=True)


def caption_gallery(samples: Path, path: Path) -> Path:
    """``captions.png``: held-out pictures evenly spaced by METEOR rank, with caption and first reference."""
    use_style()
    captions = read_json(require(samples) / "samples.json")["captions"]
    images = [open_picture(samples / c["picture"]) for c in captions]
    notes = sample_notes(captions)
    texts = [
        f"{note}\ncaption: {c['caption'] or '(no words)'}\na reference: {c['reference']}"
        for c, note in zip(captions, notes, strict=True)
    ]
    return image_grid(images, [wrap(text, 29) for text in texts], path, columns=4, inches=1.9)


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over ``width`` values, over fewer at the ends; values: (T,)."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _draw_runs(axis: Axes, runs: list[list[dict[str, str]]], column: str, variant: str) -> None:
    curves = np.array([[float(row[column]) for row in rows] for rows in runs])  # (seeds, T)
    steps = [int(row["step"]) for row in runs[0]]
    for curve in curves:
        axis.plot(steps, curve, color=COLOURS[variant], linewidth=0.4, alpha=0.3)
    width = min(len(steps), 1 + 2 * round(SMOOTHING * len(steps) / 2))
    axis.plot(steps, moving_average(curves.mean(0), width), color=COLOURS[variant], label=LABELS[variant])


def _draw_epochs(axis: Axes, runs: list[list[dict[str, str]]], variant: str) -> None:
    curves = np.array([[float(row["ce"]) for row in rows] for rows in runs])  # (seeds, epochs)
    epochs = [int(row["epoch"]) for row in runs[0]]
    for curve in curves:
        axis.plot(epochs, curve, color=COLOURS[variant], linewidth=0.5, alpha=0.4)
    axis.plot(epochs, curves.mean(0), "o-", color=COLOURS[variant])
