"""What the readings of notebook 11 change: scores as a forest plot, and losses beside the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bncap.config import MAIN
from bncap.experiments import paper
from bncap.experiments.reading_measures import GAP
from bncap.experiments.records import Record, select
from bncap.report.plotting import PALETTE, SPLIT_COLOURS, save, use_style
from bncap.report.reading_sentences import TERMS

METRICS = {"B4": "BLEU-4", "METEOR": "METEOR", "BERT-F1": "BERT-F1", "noun_precision": "noun precision"}
WAYS = {"logged": ("read as in its training", PALETTE[1]), "default": ("same weights, read as the default", PALETTE[0])}
GAP_COLOUR = PALETTE[2]
FLAGGED = "#FFF3D6"
LINE = 0.36
"""Inches a line."""

Row = tuple[str, str] | str
"""(variant, against), or a heading."""


def forest(content: Record, path: Path, metrics: Sequence[str] = ("B4", "noun_precision")) -> Path:
    """Differences of scores of :func:`bncap.experiments.readings.measure`, a panel a metric, a line a split.

    A dot is filled where the 95 % interval leaves out 0.  Metrics that were not measured are left out.
    """
    use_style()
    scores = content["scores"]
    shown = [metric for metric in metrics if any(r["metric"] == metric and _known(r) for r in scores)]
    rows = _rows(content, beside_ce=True)
    fig, axes = _panels(content, rows, len(shown), [2.6] * len(shown))
    for axis, metric in zip(axes, shown, strict=True):
        for line, row in enumerate(rows):
            for split, place in zip(paper.SPLITS, (-LINE / 2, LINE / 2), strict=True):
                for record in _of(scores, row, split=split, metric=metric):
                    _whisker(axis, record, line + place, SPLIT_COLOURS[split], label=_signed(record["difference"]))
        axis.set_xlabel(f"{METRICS.get(metric, metric)}, difference (0–100)")
        axis.margins(x=0.16)
    _legend(fig, {paper.SPLITS[split]: colour for split, colour in SPLIT_COLOURS.items()})
    return save(fig, path)


def loss_and_gap(content: Record, path: Path) -> Path:
    """Each alignment term at the end of training and the gap that it should close, in per cent of the default's.

    Shaded are the readings that ``content`` flags: a loss that they log ends lower than the default's, and the gap ends
    larger than the default's.
    """
    use_style()
    rows = _rows(content, beside_ce=False)
    fig, axes = _panels(content, rows, len(TERMS) + 1, [1.35] * len(TERMS) + [1.5])
    flagged = {(flag["variant"], flag["against"]) for flag in content["flags"]}
    for axis, (term, name) in zip(axes, TERMS.items(), strict=False):
        for line, row in enumerate(rows):
            for (way, (_, colour)), place in zip(WAYS.items(), (-LINE / 2, LINE / 2), strict=True):
                for record in _of(content["measures"], row, measure=f"{way}/{term}"):
                    _whisker(axis, record, line + place, colour, scale=100 / record["second"])
        axis.set_xlabel(f"{name}, difference in %")
    for line, row in enumerate(rows):
        for record in _of(content["measures"], row, measure=GAP):
            _whisker(axes[-1], record, line, GAP_COLOUR, scale=100 / record["second"])
        if row in flagged:
            for axis in axes:
                axis.axhspan(line - 0.5, line + 0.5, color=FLAGGED, zorder=-2, linewidth=0)
    axes[-1].set_xlabel("the gap, difference in %")
    shaded = Patch(color=FLAGGED, label="loss ends lower, gap ends larger")
    _legend(fig, {**dict(WAYS.values()), "the gap: MMD of text-relevant patches": GAP_COLOUR}, [shaded])
    return save(fig, path)


def _rows(content: Record, beside_ce: bool) -> list[Row]:
    """Lines of a figure from above: the readings of the main model, then those with captions on synthetic pictures."""
    trained = [r for r in content["readings"] if r["trained"]]
    rows: list[Row] = ["against the default", *((r["variant"], MAIN) for r in trained if len(r["against"]) == 1)]
    on_synthetic = [r for r in trained if len(r["against"]) > 1]
    for place, heading in enumerate(
        ("CE on synthetic too,\nagainst the row without", "CE on synthetic too,\nagainst CE (Real+Syn)")
    ):
        if on_synthetic and (beside_ce or place == 0):
            rows += [heading, *((r["variant"], r["against"][place]) for r in on_synthetic)]
    return rows


def _panels(content: Record, rows: Sequence[Row], count: int, widths: Sequence[float]) -> tuple[Figure, Sequence[Axes]]:
    labels = {r["variant"]: r["label"].partition(", CE on")[0] for r in content["readings"]}
    fig, grid = plt.subplots(
        1, count, figsize=(7.6, 0.9 + 0.3 * len(rows)), width_ratios=widths, sharey=True, squeeze=False
    )
    for axis in grid[0]:
        axis.axvline(0, color="black", linewidth=0.8, zorder=-1)
        axis.set(ylim=(len(rows) - 0.5, -0.5))
        axis.tick_params(axis="y", length=0)
        for line in range(len(rows)):
            axis.axhline(line - 0.5, color="0.88", linewidth=0.5, zorder=-1)
    grid[0, 0].set_yticks(range(len(rows)), [row if isinstance(row, str) else labels[row[0]] for row in rows])
    for text, row in zip(grid[0, 0].get_yticklabels(), rows, strict=True):
        if isinstance(row, str):
            text.set(fontweight="bold")
    return fig, grid[0]


def _of(records: Sequence[Record], row: Row, **wanted: Any) -> list[Record]:
    if isinstance(row, str):
        return []
    return [r for r in select(records, variant=row[0], against=row[1], **wanted) if _known(r)]


def _known(record: Record) -> bool:
    return record["difference"] is not None


def _whisker(
    axis: Axes, record: Record, line: float, colour: str, scale: float = 1.0, label: str | None = None
) -> None:
    """A difference times ``scale`` with its interval, where more than one seed gives one."""
    low, high = (record["difference"] if record[end] is None else record[end] for end in ("low", "high"))
    axis.plot([scale * low, scale * high], [line, line], color=colour, linewidth=1.2)
    face = colour if record["excludes_zero"] else "white"
    axis.plot(scale * record["difference"], line, "o", color=colour, markerfacecolor=face, markersize=4.5)
    if label:
        place = (scale * high, line)
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
        axis.annotate(
            label, place, (3, 0), textcoords="offset points", va="center", fontsize=7, color=colour, bbox=ground
        )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _legend(fig: Figure, names: Mapping[str, str], more: Sequence[Patch] = ()) -> None:
    """Names in their colours above the panels."""
    handles = [Line2D([], [], color=colour, marker="o", markersize=4.5, label=name) for name, colour in names.items()]
    legend = fig.legend(handles=[*handles, *more], loc="outside upper center", ncols=len(names), fontsize=8)
    for text, colour in zip(legend.get_texts(), names.values(), strict=False):
        text.set_color(colour)
