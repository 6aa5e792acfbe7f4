"""Where the words look: the mass in the objects' boxes and the pointing game, from saved records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bncap.config import BASE
from bncap.experiments import grounding, paper
from bncap.experiments.records import Record, one
from bncap.report.plotting import PALETTE, save, use_style

TITLES = {
    "share": "Attention in the box of the noun's object",
    "pointing": "Strongest patch in the box (pointing game)",
}
SOURCES = {"generated": (PALETTE[0], "o", "its own captions"), "reference": (PALETTE[1], "s", "reference captions")}
"""Colour, marker and name."""
BESIDE = {
    "chance": ("|", "0.35", "chance"),
    "mean_map": ("d", "0.55", "mean map"),
    "other": ("x", "0.35", "other objects"),
}
APART = 0.2
"""Half the distance of the two sources' lines of a variant."""


def grounding_figure(found: Record, path: Path) -> Path:
    """``grounding.png`` of what :func:`bncap.experiments.grounding.summarise` found.

    Above, both measures of each variant and split with their 95 % intervals, beside what they are compared with; below,
    the differences from CE alone.  Filled where the interval leaves out 0.
    Returns the PNG; a PDF lies beside it.  Where no split has boxes, the figure says so.
    """
    splits = list(dict.fromkeys(row["split"] for row in found["rows"]))
    use_style()
    if not splits:
        fig = plt.figure(figsize=(7.6, 0.6))
        fig.text(0.5, 0.5, "\n".join(grounding.sentences(found)), ha="center", va="center")
        return save(fig, path, pdf=True)
    variants = {"rows": grounding.VARIANTS, "differences": [name for name in grounding.VARIANTS if name != BASE]}
    lines = {part: [(s, v) for s in splits for v in names] for part, names in variants.items()}
    heights = [0.6 + 0.36 * len(lines["rows"]), 0.6 + 0.36 * len(lines["differences"])]
    fig, axes = plt.subplots(2, 2, figsize=(7.6, sum(heights) + 0.5), sharey="row", sharex="row", height_ratios=heights)
    for column, measure in enumerate(grounding.MEASURES):
        values = [row for row in found["rows"] if row["measure"].startswith(measure)]
        _draw_values(axes[0, column], values, measure, lines["rows"])
        differences = [d for d in found["differences"] if d["measure"] == measure and d["against"] == BASE]
        _draw_differences(axes[1, column], differences, lines["differences"])
        axes[0, column].set_title(TITLES[measure])
        axes[0, column].set_xlabel("per cent")
        axes[1, column].set_xlabel(f"points more than {paper.label(BASE)}")
    for axis, part in zip(axes[:, 0], lines, strict=True):
        _name_lines(axis, lines[part], len(variants[part]))
    fig.legend(handles=_legend(), loc="outside lower center", ncols=5)
    return save(fig, path, pdf=True)


def _draw_values(axis: Axes, rows: Sequence[Record], measure: str, lines: Sequence[tuple[str, str]]) -> None:
    for y, (split, variant) in enumerate(lines):
        for offset, source in zip((-APART, APART), SOURCES, strict=True):
            place = {"split": split, "variant": variant, "source": source}
            _interval(axis, one(rows, **place, measure=measure), "value", y + offset, source, filled=True)
            for name, (marker, colour, _) in BESIDE.items():
                value = one(rows, **place, measure=f"{measure}_{name}")["value"]
                if value is not None:
                    axis.plot(value, y + offset, marker, color=colour, markersize=5 if marker == "|" else 3)
    axis.set_xlim(0, 100)


def _draw_differences(axis: Axes, differences: Sequence[Record], lines: Sequence[tuple[str, str]]) -> None:
    axis.axvline(0, color="0.5", linewidth=0.6)
    for y, (split, variant) in enumerate(lines):
        for offset, source in zip((-APART, APART), SOURCES, strict=True):
            record = one(differences, split=split, variant=variant, source=source)
            _interval(axis, record, "difference", y + offset, source, filled=record["excludes_zero"])


def _interval(axis: Axes, record: Record, name: str, y: float, source: str, *, filled: bool) -> None:
    if record[name] is None:  # too few nouns to tell
        return
    colour, marker, _ = SOURCES[source]
    axis.plot([record["low"], record["high"]], [y, y], color=colour, linewidth=1)
    axis.plot(record[name], y, marker, color=colour, markerfacecolor=colour if filled else "white", markersize=4.5)


def _name_lines(axis: Axes, lines: Sequence[tuple[str, str]], together: int) -> None:
    """Variant and split at the axis, and a line between the splits, in all panels of the row."""
    axis.set_yticks(range(len(lines)), [f"{paper.label(variant)}, {paper.SPLITS[split]}" for split, variant in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    for other in axis.get_figure().axes:
        if other.get_shared_y_axes().joined(axis, other):
            other.grid(axis="x")
            other.tick_params(axis="y", length=0)
            for y in range(together, len(lines), together):
                other.axhline(y - 0.5, color="0.8", linewidth=0.6)


def _legend() -> list[Line2D]:
    own = [
        Line2D([], [], color=colour, marker=marker, markersize=4.5, label=name)
        for colour, marker, name in SOURCES.values()
    ]
    beside = [
        Line2D([], [], linestyle="", color=colour, marker=marker, markersize=4, label=name)
        for marker, colour, name in BESIDE.values()
    ]
    return own + beside
