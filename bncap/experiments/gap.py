from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bncap.config import BASE, MAIN
from bncap.experiments.alignment import CHANCE as CHANCE
from bncap.experiments.alignment import PRINTED as PRINTED
from bncap.experiments.alignment import SET_DIFFERENCE as APART  # noqa: F401
from bncap.experiments.alignment import analysis_dir as folder_of  # noqa: F401
from bncap.experiments.alignment import summarise_alignment as summarise
from bncap.experiments.alignment import umap_seeds as umap_seeds
from bncap.experiments.alignment import write_alignment
from bncap.experiments.records import with_interval
from bncap.pipeline import artifacts
from bncap.report import layout
from bncap.settings import Config

SETS = {"all": "all", "relevant": "text-relevant", "background": "background"}
"""Sets of patches, and how they are called."""
METRICS = {
    "centroid_distance": "centroid distance",
    "relative_centroid_distance": "centroid distance / spread",
    "spread": "spread",
    "mmd_rbf": "MMD-RBF",
    "domain_mixing": "domain mixing",
    "paired_cosine": "paired cosine",
    "umap_centroid_distance": "centroid distance, UMAP",
    "umap_mmd_rbf": "MMD-RBF, UMAP",
}
"""What the table shows, and how it is called."""
TERMS = (
    "Text-relevant: patches that the trained full model's w (Eq. 8) keeps for the caption, at the same places in both "
    "pictures of a pair, whatever model is measured; background: the others. Spread: root mean square distance of all "
    "points from their mean. Domain mixing: the share of a patch's ten nearest neighbours from the other kind of "
    "picture, 0.5 where the two cannot be told apart. Paired cosine: of the two pooled descriptors of one caption. "
    "By chance: what the points after the full objective give when they are split at random."
)
"""What the words of the table mean."""


def write_table(config: Config, first_seed: int) -> tuple[Path, Path]:
    content = summarise(config, first_seed)
    csv = write_alignment(config, content)
    md = csv.with_suffix(".md")
    header, lines = table(content)
    artifacts.write_text(md, layout.markdown_table(caption(content), header, lines, text_columns=2))
    return csv, md


def table(content: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: means over seeds, what chance leaves after the full objective, and its difference from CE."""
    summary = {(r["variant"], r["set"], r["metric"]): r for r in content["summary"]}
    against = {
        (r["set"], r["metric"]): r for r in content["differences"] if (r["variant"], r["against"]) == (MAIN, BASE)
    }
    rows = []
    for part, patches in SETS.items():
        for metric, measure in METRICS.items():
            ce, full = (summary.get((variant, part, metric)) for variant in (BASE, MAIN))
            if ce and full:
                chance = summary.get((MAIN, part, metric + CHANCE), {}).get("after")
                moved = [cell for r in (ce, full) for cell in (number(r["after"]), percent(r["change"]))]
                apart = against[part, metric]
                difference = with_interval(apart, signed) + " *" * apart["excludes_zero"]
                rows.append((patches, measure, number(full["before"]), *moved, number(chance), difference))
    header = ("Patches", "Measure", "Before", "After CE", "", "After full objective", "", "By chance", "Full less CE")
    return header, rows


def caption(content: Mapping[str, Any]) -> str:
    seeds = len(content["by_seed"])
    return (
        f"Real and synthetic patches behind the bridge, where the decoder reads them, before and after training, means "
        f"over {seeds} seed{'s' * (seeds != 1)}, with relative changes. {TERMS} Last: mean difference of the two "
        f"objectives with its 95 % interval over seeds (Student's t), * where it leaves out 0. Distances shrink where "
        f"all points do: their spread is given."
    )


def number(value: float | None) -> str:
    """As it stands in the records; a dash where it is not known."""
    return layout.UNKNOWN if value is None else f"{value:.4f}"


def signed(value: float) -> str:
    return f"{value:+.4f}"


def percent(value: float | None) -> str:
    """A relative change, with its sign."""
    return layout.UNKNOWN if value is None else f"{value:+.1%}"
