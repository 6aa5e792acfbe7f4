"""The figure of how time and memory grow, from ``growth-<size>-<device>.json`` alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bncap.report.plotting import PALETTE, save, use_style

TIME, MEMORY, DISK = PALETTE[:3]


def growth_figure(record: Mapping[str, Any], path: Path) -> Path:
    """Write ``<path>.png`` and ``.pdf``: a column for each axis, time above memory.

    Times are medians, with the range of the repeats shaded.
    """
    use_style()
    axes = record["details"]["axes"]
    fig, panels = plt.subplots(2, len(axes), figsize=(7.1, 3.3), layout="constrained")
    for number, (axis, what) in enumerate(axes):
        points = sorted((p for p in record["details"]["points"] if p["axis"] == axis), key=lambda p: p["value"])
        _time(panels[0][number], points)
        _memory(panels[1][number], points)
        panels[1][number].set_xlabel(what.replace(" ", "\n", 1) if len(what) > 16 else what)
        epoch = any("disk" in point for point in points)
        if number == 0 or epoch:
            panels[0][number].set_ylabel("s an epoch" if epoch else "s a step")
            panels[1][number].set_ylabel("GB" if epoch else "peak GB")
    fig.get_layout_engine().set(w_pad=0.02, wspace=0.03)
    return save(fig, path, pdf=True)


def _time(panel: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    values = [point["value"] for point in points]
    middle = [statistics.median(point["seconds"]) for point in points]
    panel.fill_between(
        values, [min(p["seconds"]) for p in points], [max(p["seconds"]) for p in points], color=TIME, alpha=0.2, lw=0
    )
    panel.plot(values, middle, "o-", color=TIME)
    _finish(panel, values, max(max(p["seconds"]) for p in points))
    _label(panel, values[-1], middle[-1], f"{middle[-1]:.2g} s", TIME)


def _memory(panel: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    values, peaks = [p["value"] for p in points], [p["peak"] / 1e9 for p in points]
    panel.plot(values, peaks, "s-", color=MEMORY)
    disks = [p["disk"] / 1e9 for p in points if "disk" in p]
    _finish(panel, values, max(peaks + disks))
    if disks:
        panel.plot(values, disks, "^-", color=DISK)
        _label(panel, values[-1], disks[-1], f"disk {disks[-1]:.2g}", DISK)
    _label(panel, values[-1], peaks[-1], f"{'memory ' if disks else ''}{peaks[-1]:.2g}{'' if disks else ' GB'}", MEMORY)


def _label(panel: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Beside the last point, to the left of it and above, where the curve has come from below."""
    panel.annotate(text, (x, y), (-1, 5), textcoords="offset points", ha="right", va="bottom", color=colour, fontsize=7)


def _finish(panel: Axes, values: Sequence[float], top: float) -> None:
    panel.set_ylim(0, 1.28 * top)
    panel.set_xlim(0, 1.06 * values[-1])
    panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    panel.grid(axis="y")
