"""Figures of notebook 12: errors by group, nouns confused, the worth of the filter; and how long captions are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from bncap.config import MAIN
from bncap.experiments import paper
from bncap.experiments.error_labels import NOTHING
from bncap.report.plotting import PALETTE, SPLIT_COLOURS, save, use_style, wrap

Records = Sequence[dict[str, Any]]
KINDS = 24
"""As many kinds are shown at most, the most frequent ones: COCO has 80."""
PANELS = (
    ("object", "named", "Objects named (%)"),
    ("colour", "colour_right", "Colour right,\nwhere one is given (%)"),
    ("relation", "relation_right", "Relation right,\nwhere one is given (%)"),
    ("number", "named", "Objects named (%),\nby their number"),
    ("number", "B4", "BLEU-4,\nby the number of objects"),
)
"""Dimension, measure, title; those that were not measured are left out."""
_FAULTS = (("faulty_accepted", "of the accepted", "o:"), ("faulty_pairs", "of those trained on", "o-"))


def groups_figure(found: dict[str, Records], path: Path, variant: str = MAIN) -> Path:
    """``errors.png``: what :func:`bncap.experiments.error_analysis.measure` found of ``variant``, on both splits.

    A dot is the value of a group, a line its interval; a broken line is what one answer for all would get.
    """
    use_style()
    rows = [row for row in found["rows"] if row["variant"] == variant and row["value"] is not None]
    panels = {panel: [row for row in rows if _is_of(row, panel)] for panel in PANELS}
    panels = {panel: found for panel, found in panels.items() if found}
    groups = {panel: _groups(panel, found) for panel, found in panels.items()}
    first, *others = panels
    fig, axes = plt.subplot_mosaic(
        [[first[2], panel[2]] for panel in others],
        figsize=(7.6, 1.6 + 0.17 * max(len(groups[first]), 18)),
        height_ratios=[1.6 + len(groups[panel]) for panel in others],
    )
    for panel, chosen in panels.items():
        guesses = [g for g in found["guesses"] if g["variant"] == variant and g["measure"] == panel[1]]
        _draw_groups(axes[panel[2]], chosen, groups[panel])
        if guesses:
            _draw_guesses(axes[panel[2]], guesses, panel[0] == "colour")
        axes[panel[2]].set_title(panel[2], loc="left")
    for end, (split, colour) in zip((0.66, 1.0), SPLIT_COLOURS.items(), strict=True):
        axes[first[2]].annotate(paper.SPLITS[split], (end, 1.01), xycoords="axes fraction", ha="right", color=colour)
    return save(fig, path)


def confusion_figure(records: Records, path: Path, variant: str = MAIN) -> Path:
    """``confusion.png``: what is said (across) of what is there (down), a panel for each split, all pictures.

    A row is a kind; its cells are per cent of the times that it is there, and those that are not drawn are none.
    """
    use_style()
    chosen = [r for r in records if r["variant"] == variant and r["pictures"] == "all"]
    splits = [split for split in SPLIT_COLOURS if any(r["split"] == split for r in chosen)]
    times: dict[str, int] = {}
    for record in chosen:
        times[record["there"]] = max(times.get(record["there"], 0), record["times"])
    kinds = sorted(sorted(times, key=lambda kind: -times[kind])[:KINDS])
    fig, axes = plt.subplots(1, len(splits), figsize=(3.8 * len(splits), 3.95), squeeze=False, sharey=True)
    for axis, split in zip(axes[0], splits, strict=True):
        cells = {(r["there"], r["said"]): r["share"] for r in chosen if r["split"] == split}
        table = np.array([[cells.get((there, said), 0.0) for said in [*kinds, NOTHING]] for there in kinds])
        image = axis.imshow(np.where(table > 0, table, np.nan), cmap="viridis_r", norm=LogNorm(0.5, 100))
        axis.set_xticks(range(len(kinds) + 1), [*kinds, NOTHING], rotation=90)
        axis.set_yticks(range(len(kinds)), kinds)
        axis.tick_params(length=0)
        axis.set(xlabel="said", title=paper.SPLITS[split].capitalize())
    axes[0, 0].set_ylabel("in the picture")
    bar = fig.colorbar(image, ax=axes, shrink=0.6, ticks=[0.5, 1, 5, 10, 50, 100], format="%g", aspect=30)
    bar.set_label("% of the times that the kind is there")
    bar.minorticks_off()
    return save(fig, path)


def filter_figure(found: dict[str, Records], path: Path) -> Path:
    """``filter.png``: the faulty pairs that each threshold lets in (where faults are not known, all pairs that it lets
    in), and what it changes in the captioner's scores.
    """
    use_style()
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6))
    thresholds = [f"{record['threshold']:g}" for record in found["pairs"]]
    names = [record["filter"] for record in found["pairs"]]
    _draw_faults(axes[0], thresholds, found["pairs"])
    for axis, (metric, title) in zip(axes[1:], (("B4", "BLEU-4"), ("noun_precision", "Noun precision")), strict=True):
        for place, (split, colour) in enumerate(SPLIT_COLOURS.items()):
            records = [r for r in found["differences"] if r["split"] == split and r["metric"] == metric]
            for record in (record for record in records if record["difference"] is not None):
                _draw_difference(axis, names.index(record["variant"]) + (place - 0.5) * 0.24, record, colour)
            name = {"transform": axis.transAxes, "color": colour, "fontsize": 7, "va": "top"}
            axis.text(0.03, 0.99 - 0.08 * place, paper.SPLITS[split], **name)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_xticks(range(1, len(names)), thresholds[1:])
        axis.set(xlim=(0.5, len(names) - 0.5), title=f"{title} less that of τ = {thresholds[0]}")
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.2 * (high - low))
    for axis in axes:
        axis.set_xlabel("threshold τ on the cosine (Eq. 4)")
        axis.grid(axis="y")
    return save(fig, path)


def lengths_figure(records: Records, path: Path, split: str = "ood") -> Path:
    """``lengths.png``: lengths of each variant's captions (line) over those of the references (grey), in tokens."""
    use_style()
    human, *others = [record for record in records if record["split"] == split]
    rows = -(-len(others) // 5)
    fig, axes = plt.subplots(rows, 5, figsize=(7.6, 0.4 + 1.35 * rows), sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(others) :]:
        axis.set_visible(False)
    for axis, record in zip(axes.flat, others, strict=False):
        axis.bar(range(len(human["lengths"])), human["lengths"], width=1, color="0.8")
        edges = np.arange(len(record["lengths"]) + 1) - 0.5
        axis.stairs(record["lengths"], edges, color=PALETTE[1 if record["degenerate"] else 0], linewidth=1.2)
        axis.set_title(wrap(paper.label(record["variant"]), 22), fontsize=7)
        note = f"{record['distinct']:.0f} % distinct\n{record['vocabulary']:.0f} words"
        axis.text(0.98, 0.95, note, transform=axis.transAxes, ha="right", va="top", fontsize=7)
    axes[0, 0].set_ylim(0, 1.3 * axes[0, 0].get_ylim()[1])
    axes[0, 0].annotate("references", (0.98, 0.4), xycoords="axes fraction", ha="right", color="0.5", fontsize=7)
    fig.supxlabel(f"tokens in a caption, {paper.SPLITS[split]}", fontsize=8)
    fig.supylabel("% of captions", fontsize=8)
    return save(fig, path)


def _is_of(row: dict[str, Any], panel: tuple[str, str, str]) -> bool:
    return (row["dimension"], row["measure"]) == panel[:2]


def _groups(panel: tuple[str, str, str], rows: Records) -> list[str]:
    """Numbers in their order, the others by their mean over the splits, best first; of many the most frequent."""
    names = list(dict.fromkeys(row["group"] for row in rows))
    if panel[0] == "number":
        return names
    if len(names) > KINDS:
        pictures = {name: sum(row["pictures"] for row in rows if row["group"] == name) for name in names}
        names = sorted(names, key=lambda name: (-pictures[name], name))[:KINDS]
    means = {name: np.mean([row["value"] for row in rows if row["group"] == name]) for name in names}
    return sorted(names, key=lambda name: (-means[name], name))


def _draw_groups(axis: Axes, rows: Records, groups: list[str]) -> None:
    for place, (split, colour) in enumerate(SPLIT_COLOURS.items()):
        chosen = {row["group"]: row for row in rows if row["split"] == split}
        for line, group in enumerate(groups):
            if row := chosen.get(group):
                y = line + (place - 0.5) * 0.3
                axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=0.9)
                axis.plot(row["value"], y, "o", color=colour, markersize=3.5)
    axis.set_yticks(range(len(groups)), groups)
    axis.set(ylim=(len(groups) - 0.5, -0.5), xlim=(0, 102))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")


def _draw_guesses(axis: Axes, guesses: Records, labelled: bool) -> None:
    """What one answer for all pictures of a split would get right, in the split's colour."""
    for guess in guesses:
        axis.axvline(guess["value"], color=SPLIT_COLOURS[guess["split"]], linewidth=0.8, linestyle="--", zorder=0)
    if labelled:
        place = max(guess["value"] for guess in guesses), 0.5
        where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axis.annotate("one answer\nfor all", place, (3, 0), **where, va="center", color="0.4", fontsize=7)


def _draw_difference(axis: Axes, x: float, record: dict[str, Any], colour: str) -> None:
    """A dot with its interval, filled where 0 is left out."""
    axis.plot([x, x], [record["low"], record["high"]], color=colour, linewidth=0.9)
    axis.plot(
        x, record["difference"], "o", color=colour, markerfacecolor=colour if record["excludes_zero"] else "white"
    )


def _draw_faults(axis: Axes, thresholds: list[str], pairs: Records) -> None:
    if pairs[0]["faulty_pairs"] is None:
        axis.set(ylim=(0, 105), title="Pairs accepted (%)")
        axis.plot(
            thresholds, [100 * record["accepted"] / record["candidates"] for record in pairs], "o-", color="black"
        )
        return
    axis.set(
        ylim=(0, 1.3 * max(record[name] for record in pairs for name, *_ in _FAULTS)), title="Faulty translations (%)"
    )
    for name, label, style in _FAULTS:
        shares = [record[name] for record in pairs]
        above = shares[0] == max(pairs[0][name] for name, *_ in _FAULTS)
        axis.plot(thresholds, shares, style, color="black")
        place = {"xy": (0, shares[0]), "xytext": (0, 7 if above else -7), "textcoords": "offset points"}
        axis.annotate(label, **place, va="bottom" if above else "top", fontsize=7)
