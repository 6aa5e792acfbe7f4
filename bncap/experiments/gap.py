"""How far training closes the gap between real and synthetic patches, over all seeds (Fig. 3, Sec. 5.6).

Read from the step folders of :mod:`bncap.experiments.alignment` alone.  A distance is compared in three ways: the full objective
after training with itself before, with cross-entropy alone after training, and text-relevant patches with background
ones.  And as the paper measures on a picture that UMAP draws, the same patches are measured in UMAPs of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bncap import stats
from bncap.config import BASE, MAIN
from bncap.experiments import paper
from bncap.experiments.records import selected, with_interval
from bncap.pipeline import artifacts, paths
from bncap.report import layout
from bncap.settings import Config

STEP = "08_umap_mmd"
DIGITS = 4
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
PRINTED = {"umap_centroid_distance": paper.CENTROID_DISTANCE, "umap_mmd_rbf": paper.MMD}
"""What the paper has a number for, on all patches; for the centroids it does not say in which space."""
APART = "relevant less background"
"""The set of the differences between the two sets of patches."""
CHANGES = {"centroid_distance": "centroid_change", "domain_mixing": "mixing_change"}
"""What is compared between the sets: the relative change of a distance, the change of a share."""

TERMS = (
    "Text-relevant: patches that the trained full model's w (Eq. 8) keeps for the caption, at the same places in both "
    "pictures of a pair, whatever model is measured; background: the others. Spread: root mean square distance of all "
    "points from their mean. Domain mixing: the share of a patch's ten nearest neighbours from the other kind of "
    "picture, 0.5 where the two cannot be told apart. Paired cosine: of the two pooled descriptors of one caption. "
    "By chance: what the points after the full objective give when they are split at random."
)
"""What the words of the table mean."""

CHANCE = "_chance"
"""What a measure ends in where its points are parted at random (:func:`bncap.analysis.mmd_rbf_chance`)."""

BySeed = Mapping[int, Mapping[str, float]]


def folder_of(config: Config, seed: int, umap_seed: int | None = None) -> Path:
    """Where :func:`bncap.experiments.alignment.build_alignment` puts the runs of ``seed``, or their map of another UMAP seed."""
    name = "analysis" if umap_seed in (None, seed) else f"map{umap_seed}"
    return paths.step_dir(config.profile, STEP, name, seed)


def umap_seeds(config: Config, first_seed: int) -> tuple[int, ...]:
    """The UMAP seeds that the first seed's patches are drawn with; the first of them gives Fig. 3."""
    return tuple(range(first_seed, first_seed + config.experiment.umap_seeds))


def summarise(config: Config, first_seed: int) -> dict[str, Any]:
    """The numbers of notebook 08, as far as it has been run; all are rounded, an unknown one is None.

    - ``by_seed``: seed -> ``model/moment/set/metric`` -> value;
    - ``summary``: for each variant, set and metric the means over seeds before and after training with their standard
      deviations, the relative ``change`` of the means, the least and the most change of a seed (``change_low``,
      ``change_high``), and in how many seeds the value ``fell``;
    - ``differences``: ``variant`` after training less ``against``, which is "before" or CE after training, with the
      95 % interval over seeds (Student's t); those of the full objective come first.  The set
      "relevant less background" has the differences of two changes in training: ``centroid_change``, relative, and
      ``mixing_change``;
    - ``umap_seeds``: the same patches of the first seed under each UMAP seed, in two dimensions;
    - ``umap_range``: over those, the least and the most ``change`` in training, the ``span`` between them, which is
      the share ``span_of_paper`` of the change that the paper reports, and the least and the most of what they show of
      the patches ``before`` training.
    """
    seeds = config.seeds(first_seed)
    found = {s: _read(folder) for s in seeds if artifacts.is_finished(folder := folder_of(config, s))}
    drawn = {umap_seed: folder_of(config, seeds[0], umap_seed) for umap_seed in umap_seeds(config, seeds[0])}
    maps = {umap_seed: _read(folder) for umap_seed, folder in drawn.items() if artifacts.is_finished(folder)}
    under = list(_under_umap_seeds(maps))
    return {
        "by_seed": {str(seed): values for seed, values in found.items()},
        "summary": list(_summary(found)),
        "differences": [*_differences(found), *_apart(found)],
        "umap_seeds": [{name: _known(value) for name, value in record.items()} for record in under],
        "umap_range": list(_umap_range(under)),
    }


def write_table(config: Config, first_seed: int) -> tuple[Path, Path]:
    """Write ``figures/<profile>/alignment.csv``, a row for each seed, and ``.md``, means over seeds; their paths.

    The CSV's ``change`` is relative.  In the ``.md`` a star marks a difference from CE whose interval leaves out 0.
    """
    content = summarise(config, first_seed)
    folder = paths.figures_dir(config.profile)
    csv, md = folder / "alignment.csv", folder / "alignment.md"
    rows = [
        (variant, part, metric, seed, before, after, _relative(before, after))
        for variant, part, metric, moments in _moments(content["by_seed"])
        for seed, (before, after) in moments.items()
    ]
    artifacts.write_csv(csv, ("variant", "set", "metric", "seed", "before", "after", "change"), rows)
    header, lines = table(content)
    artifacts.write_text(md, layout.markdown_table(caption(content), header, lines, text_columns=2))
    return csv, md


def _read(folder: Path) -> dict[str, float]:
    return artifacts.read_json(folder / "summary.json")


def _moments(by_seed: BySeed) -> Iterator[tuple[str, str, str, dict[int, tuple[float, float]]]]:
    """(variant, set, metric, seed -> before and after training) of all that was measured at both moments."""
    names = sorted({name for values in by_seed.values() for name in values if "/after/" in name})
    for name in names:
        variant, _, part, metric = name.split("/")
        before = name.replace("/after/", "/before/")
        pairs = {s: (values[before], values[name]) for s, values in by_seed.items() if {before, name} <= values.keys()}
        if pairs:
            yield variant, part, metric, pairs


def _summary(found: BySeed) -> Iterator[dict[str, Any]]:
    for variant, part, metric, pairs in _moments(found):
        before, after = zip(*pairs.values(), strict=True)
        (mean_before, std_before), (mean_after, std_after) = stats.mean_std(before), stats.mean_std(after)
        changes = [_relative(*pair) for pair in pairs.values()]
        yield {
            "variant": variant, "set": part, "metric": metric,
            "before": _known(mean_before), "before_std": _known(std_before),
            "after": _known(mean_after), "after_std": _known(std_after),
            "change": _known(_relative(mean_before, mean_after)),
            "change_low": _known(min(changes)), "change_high": _known(max(changes)),
            "fell": sum(b < a for a, b in pairs.values()), "seeds": len(pairs),
        }  # fmt: skip


def _differences(found: BySeed) -> Iterator[dict[str, Any]]:
    moments = {(variant, part, metric): pairs for variant, part, metric, pairs in _moments(found)}
    for variant, against in ((MAIN, "before"), (MAIN, BASE), (BASE, "before")):
        for (name, part, metric), pairs in moments.items():
            other, moment = (variant, 0) if against == "before" else (against, 1)
            if name == variant and (other, part, metric) in moments and not metric.endswith(CHANCE):
                after = {seed: pair[1] for seed, pair in pairs.items()}
                reference = {seed: pair[moment] for seed, pair in moments[other, part, metric].items()}
                yield _difference(variant, against, part, metric, after, reference)


def _apart(found: BySeed) -> Iterator[dict[str, Any]]:
    moments = {(variant, part, metric): pairs for variant, part, metric, pairs in _moments(found)}
    for variant in (MAIN, BASE):
        for metric, name in CHANGES.items():
            if (variant, "relevant", metric) in moments and (variant, "background", metric) in moments:
                change = _relative if name == "centroid_change" else lambda before, after: after - before
                relevant, background = (
                    {seed: change(*pair) for seed, pair in moments[variant, part, metric].items()}
                    for part in ("relevant", "background")
                )
                yield _difference(variant, "background", APART, name, relevant, background)


def _difference(
    variant: str, against: str, part: str, metric: str, a: Mapping[int, float], b: Mapping[int, float]
) -> dict[str, Any]:
    record = stats.difference(a, b).as_record(DIGITS)
    return {"variant": variant, "against": against, "set": part, "metric": metric, **record}


def _under_umap_seeds(maps: BySeed) -> Iterator[dict[str, Any]]:
    for variant, part, metric, pairs in _moments(maps):
        if metric in PRINTED:
            for umap_seed, (before, after) in pairs.items():
                same = {"umap_seed": umap_seed, "variant": variant, "set": part, "metric": metric}
                yield {**same, "before": before, "after": after, "change": _relative(before, after)}


def _umap_range(under: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    keys = dict.fromkeys((r["variant"], r["set"], r["metric"]) for r in under)
    for variant, part, metric in keys:
        same = {"variant": variant, "set": part, "metric": metric}
        records = [r for r in under if selected(r, **same)]
        before, change = ([r[name] for r in records] for name in ("before", "change"))
        yield {
            **same, "umap_seeds": len(records),
            "change_low": _known(min(change)), "change_high": _known(max(change)),
            "span": _known(max(change) - min(change)),
            "before_low": _known(min(before)), "before_high": _known(max(before)),
            "paper_change": _known(PRINTED[metric].relative),
            "span_of_paper": _known((max(change) - min(change)) / abs(PRINTED[metric].relative)),
        }  # fmt: skip


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


def _relative(before: float, after: float) -> float:
    return after / before - 1 if before else math.nan


def _known(value: Any) -> Any:
    """``value`` rounded, None for NaN; text and whole numbers as they are."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else round(value, DIGITS)
