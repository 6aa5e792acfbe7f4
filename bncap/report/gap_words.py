"""What the numbers of :func:`bncap.experiments.gap.summarise` say of Fig. 3, in sentences made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bncap.config import BASE, MAIN
from bncap.experiments.gap import APART, CHANCE, PRINTED, SETS, number, percent, signed
from bncap.experiments.records import Record, one, with_interval

SUBJECTS = {
    "centroid_distance": "Distance of the centroids of real and synthetic patches behind the bridge",
    "umap_centroid_distance": "The same distance in the two dimensions of UMAP",
    "umap_mmd_rbf": "MMD-RBF of real and synthetic patches in the two dimensions of UMAP",
}
DRAWN = {"umap_centroid_distance": "the distance of the centroids", "umap_mmd_rbf": "the MMD-RBF"}
READING = {
    "higher": "higher, beyond the scatter of seeds",
    "lower": "lower, beyond the scatter of seeds",
    "open": "the seeds do not settle its sign",
}


def sentences(content: Mapping[str, Any]) -> list[str]:
    """On all patches beside the paper's numbers, on the two sets of patches, on collapse, and on UMAP's own seed.

    content: what :func:`bncap.experiments.gap.summarise` gives.  What was not measured is left out.
    """
    said = [_moved(content, metric) for metric in SUBJECTS]
    said += [_spaces(content), _where(content), _spread(content)]
    return [sentence for sentence in said if sentence] + [_of_umap(pair) for pair in _ranges(content)]


def _moved(content: Mapping[str, Any], metric: str) -> str:
    ce, full = (_summary(content, variant, "all", metric) for variant in (BASE, MAIN))
    if not ce or not full:
        return ""
    against = _difference(content, BASE, "all", metric)
    printed = PRINTED.get(metric)
    chance = _summary(content, MAIN, "all", metric + CHANCE)
    return (
        f"{SUBJECTS[metric]}: {number(full['before'])} before training, {_after(full)} after the full objective and "
        f"{_after(ce)} after cross-entropy alone; full objective against cross-entropy: {_verdict(against)}."
        + (f" {_by_chance(chance)}" if chance else "")
        + (f" The paper: {printed.before} to {printed.after} ({percent(printed.relative)})." if printed else "")
    )


def _spaces(content: Mapping[str, Any]) -> str:
    """Whether the picture shows what happens in the space that the decoder reads, and how much of it is scale."""
    names = ("centroid_distance", "umap_centroid_distance")
    inside, drawn = (_summary(content, MAIN, "all", name) for name in names)
    if not inside or not drawn or None in (inside["change"], drawn["change"]):
        return ""
    word = "agree" if (inside["change"] < 0) == (drawn["change"] < 0) else "disagree"
    settled = all(_difference(content, "before", "all", name)["excludes_zero"] for name in names)
    chance = _summary(content, MAIN, "all", names[1] + CHANCE)  # in proportion to the spread of the points
    return (
        f"The picture and the space that the decoder reads {word if settled else 'cannot be compared'}: the full "
        f"objective changes the distance of the centroids by {percent(drawn['change'])} in two dimensions and by "
        f"{percent(inside['change'])} in all, {'both' if settled else 'not both'} beyond the scatter of seeds."
        + (
            f" The picture's points draw together as a whole, by {percent(chance['change'])}."
            if _shrinks(chance)
            else ""
        )
    )


def _shrinks(chance: Record | None) -> bool:
    return chance is not None and chance["change"] is not None and chance["change"] < 0


def _by_chance(chance: Record, points: str = "the same points") -> str:
    return (
        f"By chance, {points} split at random, it is {number(chance['before'])} before training and "
        f"{number(chance['after'])} after the full objective."
    )


def _where(content: Mapping[str, Any]) -> str:
    parts = {part: _summary(content, MAIN, part, "centroid_distance") for part in ("relevant", "background")}
    apart = _difference(content, "background", APART, "centroid_change")
    if not all(parts.values()) or not apart:
        return ""
    told = "; ".join(
        f"{SETS[part]} patches {number(r['before'])} to {number(r['after'])} ({percent(r['change'])}), closer in "
        f"{r['fell']} of {r['seeds']} seeds"
        for part, r in parts.items()
    )
    chance = _summary(content, MAIN, "relevant", "centroid_distance" + CHANCE)
    return (
        f"Where the caption looks, after the full objective: {told}; seed by seed the first change less the "
        f"second, in points: {_verdict(apart, points)}."
        + (f" {_by_chance(chance, 'the text-relevant patches')}" if chance else "")
    )


def points(share: float | None) -> str:
    """A difference of relative changes, in points; a dash where it is not known."""
    return "–" if share is None else f"{100 * share:+.1f}"


def _spread(content: Mapping[str, Any]) -> str:
    """The paper: the distribution does not collapse, background variation remains."""
    background = _summary(content, MAIN, "background", "spread")
    difference = _difference(content, "before", "background", "spread")
    if not background or not difference:
        return ""
    return (
        f"Variation of the background patches, their root mean square distance from the mean: "
        f"{number(background['before'])} before and {number(background['after'])} after the full objective "
        f"({percent(background['change'])}); change: {_verdict(difference)}."
    )


def _ranges(content: Mapping[str, Any]) -> list[tuple[Record, Record]]:
    """For each measure that the paper draws, the ranges over UMAP's seeds after CE and after the full objective."""
    records = (r for r in content["umap_range"] if r["set"] == "all" and r["umap_seeds"] > 1 and r["span"] is not None)
    found = {(r["variant"], r["metric"]): r for r in records}
    return [(found[BASE, m], found[MAIN, m]) for m in PRINTED if {(BASE, m), (MAIN, m)} <= found.keys()]


def _of_umap(ranges: tuple[Record, Record]) -> str:
    """How much of a change of the picture is made by the choice of its seed."""
    ce, full = ranges
    widest = max(ranges, key=lambda record: record["span"])
    return (
        f"UMAP's seed alone: drawn with {full['umap_seeds']} of them, the same patches of the runs of the first seed "
        f"show {DRAWN[full['metric']]} change in training by {_range(full)} with the full objective and by "
        f"{_range(ce)} with cross-entropy alone. The widest of these spans {100 * widest['span']:.1f} points, "
        f"{widest['span_of_paper']:.1%} of the change that the paper reports ({percent(full['paper_change'])}). Before "
        f"training, the same patches have {number(full['before_low'])} to {number(full['before_high'])}."
    )


def _range(record: Record) -> str:
    return f"{percent(record['change_low'])} to {percent(record['change_high'])}"


def _after(record: Record) -> str:
    return f"{number(record['after'])} ({percent(record['change'])})"


def _verdict(record: Record, shown: Callable[[float], str] = signed) -> str:
    """A difference with its interval, in words too."""
    if record["low"] is None:
        return f"{shown(record['difference'])}, with one seed, which tells nothing of chance"
    reading = "open" if not record["excludes_zero"] else "higher" if record["low"] > 0 else "lower"
    return f"{with_interval(record, shown)}, {READING[reading]}"


def _summary(content: Mapping[str, Any], variant: str, part: str, metric: str) -> Record | None:
    return one(content["summary"], variant=variant, set=part, metric=metric)


def _difference(content: Mapping[str, Any], against: str, part: str, metric: str) -> Record | None:
    """Of the full objective."""
    return one(content["differences"], variant=MAIN, against=against, set=part, metric=metric)
