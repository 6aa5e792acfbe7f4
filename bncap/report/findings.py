"""What the numbers say, in sentences made from ``results.json``: no claim here is written before it is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from bncap import stats
from bncap.config import ALL_VARIANTS, BASE, MAIN, VARIANTS
from bncap.experiments import claims, paper
from bncap.experiments.records import interval as interval
from bncap.experiments.records import one, select

DEGENERATE = 50  # per cent of the captions: from here on one caption is most of the output
GAP = "centroid_distance"
LOOKS = {"variant": MAIN, "against": BASE, "source": "generated", "measure": "share"}
"""Of notebook 08's grounding, the difference that the overview tells."""
BEYOND = {"variant": MAIN, "against": BASE, "set": "relevant", "metric": GAP}
"""Of its alignment, the control: the same distance after cross-entropy alone."""

Results = Mapping[str, Any]


def _mean(values: Mapping[int, float]) -> float:
    return round(float(np.mean(list(values.values()))), 4)


def scores(results: Results, variant: str, split: str, metric: str) -> dict[int, float]:
    """Seed -> score, the unknown ones left out; empty if the metric was not measured."""
    same = {"variant": variant, "split": split, "metric": metric}
    found = (r for r in results["results"] if same.items() <= r.items() and r["value"] is not None)
    return {r["seed"]: r["value"] for r in found}


def overview(results: Results) -> list[str]:
    """The result in four sentences: what the alignment terms do to the scores, to where the words look and to the gap
    between real and synthetic patches, and how the paper's claims fare.  Needs all of ``results.json``.
    """
    verdicts = results["derived"]["verdicts"]
    counted = (
        f"Of {sum(verdicts.values())} comparisons that put the paper's claims to a test, {verdicts[claims.HOLDS]} come "
        f"out as it says, {verdicts[claims.FAILS]} the other way round, and {verdicts[claims.OPEN]} cannot be told."
    )
    return [_of_scores(results), *_of_looks(results), *_of_gap(results), counted]


def _of_scores(results: Results) -> str:
    d = one(results["pairs"], variant=MAIN, against=BASE, split="ood", metric="B4")
    counts = results["derived"]
    told = "do not tell whether the terms raise or lower it"
    if d["excludes_zero"]:
        told = f"say that the terms {'raise' if d['difference'] > 0 else 'do not raise'} it"
    return (
        f"The paper finds that its alignment terms raise the scores. In these runs the full objective reaches a mean "
        f"BLEU-4 out of domain of {d['first']:.2f} and cross-entropy alone {d['second']:.2f}; the "
        f"difference and its interval, {interval(d)}, {told}. Of the "
        f"{counts['aligned']} variants with an alignment term {counts['aligned_above']} have a higher mean than "
        f"cross-entropy alone; in the paper {counts['aligned_above_in_paper']} have."
    )


def _of_looks(results: Results) -> Iterator[str]:
    found = [r for r in select(results["grounding"]["differences"], **LOOKS) if r["difference"] is not None]
    if found:
        d = found[-1]  # out of domain, where those pictures have boxes
        told = "no difference can be told"
        if d["excludes_zero"]:
            told = f"{'more' if d['difference'] > 0 else 'less'} with the full objective"
        yield (
            f"Its title says that it aligns where the words look. The share of a noun's attention that lies in its "
            f"object's box, {paper.SPLITS[d['split']]}, the full objective less cross-entropy alone: {interval(d, 1)} "
            f"points, {told}. The paper does not measure it."
        )


def _of_gap(results: Results) -> Iterator[str]:
    relevant, background = (_change(results, part) for part in ("relevant", "background"))
    drawn = _change(results, "all", f"umap_{GAP}")
    d = one(results["alignment"]["differences"], **BEYOND)
    if d is not None and None not in (relevant, background, drawn):
        told = "the difference from cross-entropy alone cannot be told"
        if d["excludes_zero"]:
            told = f"{'more' if d['difference'] < 0 else 'less'} than with cross-entropy alone"
        yield (
            f"Training with the full objective changes the distance between the centroids of real and synthetic "
            f"patches by {relevant:+.1%} where the caption looks ({told}), by {background:+.1%} in the background, and "
            f"by {drawn:+.1%} in the UMAP, where the paper measures {paper.CENTROID_DISTANCE.relative:+.1%}."
        )


def _change(results: Results, part: str, metric: str = GAP) -> float | None:
    """How a distance changes in training with the full objective, relative; None where it was not measured."""
    found = one(results["alignment"]["summary"], variant=MAIN, set=part, metric=metric)
    return found and found["change"]


def named(side: str) -> str:
    """How one side of a claim is called: the label of a variant, or the words that stand for it."""
    return paper.label(side) if side in ALL_VARIANTS else side


def derive(results: Results) -> dict[str, Any]:
    """The numbers of the sentences that no other part of ``results.json`` has."""
    means = {v: _mean(scores(results, v, "ood", "B4")) for v in paper.TABLE3}
    aligned = [v for v in paper.TABLE3 if v not in (BASE, "ce_real_syn")]
    groups = {"table3": list(VARIANTS), "table4": list(paper.TABLE4)}
    spans = {
        name: _span([list(scores(results, v, "ood", "B4").values()) for v in group]) for name, group in groups.items()
    }
    return {
        "aligned": len(aligned),
        "aligned_above": sum(means[v] > means[BASE] for v in aligned),
        "aligned_above_in_paper": sum(paper.TABLE3[v]["B4"] > paper.TABLE3[BASE]["B4"] for v in aligned),
        "rank_correlation": rank_correlation(results),
        "spans": {name: {"span": span, "of_seeds": of_seeds} for name, (span, of_seeds) in spans.items()},
        "places": dict(zip(("here", "paper"), _places(results), strict=True)),
        "verdicts": claims.count(results["claims"]),
        "judged": {"claims": len(results["claims"]), "by_chance": round(len(results["claims"]) * (1 - stats.LEVEL), 4)},
    }


def rank_correlation(results: Results, metric: str = "B4") -> float | None:
    """Spearman's, of the means of the variants of Table 3 here and in the paper; None where all are the same here."""
    ours = [_mean(scores(results, v, "ood", metric)) for v in paper.TABLE3]
    if len(set(ours)) == 1:
        return None
    found = scipy_stats.spearmanr(ours, [row[metric] for row in paper.TABLE3.values()]).statistic
    return round(float(found), 4)


def ranking(results: Results, metric: str = "B4") -> str:
    """How far the order of the variants here agrees with that of the paper's Table 3."""
    means = {v: _mean(scores(results, v, "ood", metric)) for v in paper.TABLE3}
    name, rho = paper.NAMES.get(metric, metric), rank_correlation(results, metric)
    if rho is None:
        return (
            f"All variants of Table 3 have the same {name}, {means[BASE]:.2f}: the table tells them apart in nothing."
        )
    return (
        f"Of the paper's {len(means)} variants in its Table 3, {paper.label(max(means, key=means.get))} has the "
        f"highest mean {name} here; the rank correlation of their means with the paper's is {rho:+.2f} (1: same order, "
        f"0: unrelated, -1: reversed)."
    )


def spread_of_variants(results: Results, metric: str = "B4") -> str:
    """Whether the variants differ by more than their seeds do."""
    groups = [list(scores(results, v, "ood", metric).values()) for v in VARIANTS]
    return _spread("variants of Table 3", groups, metric)


def sensitivity(results: Results, metric: str = "B4") -> str:
    """Whether the settings of Table 4 differ by more than their seeds do, and where the chosen one stands."""
    groups = [list(scores(results, v, "ood", metric).values()) for v in paper.TABLE4]
    here, printed = _places(results, metric)
    return (
        f"{_spread('settings of Table 4', groups, metric)} The setting that the paper chooses "
        f"({paper.label(paper.CHOSEN)}) is number {here} of {len(groups)} by "
        f"{paper.NAMES.get(metric, metric)} here and number {printed} in the paper."
    )


def _places(results: Results, metric: str = "B4") -> list[int]:
    """The chosen setting's place in Table 4, here and in the paper."""
    here = {v: _mean(scores(results, v, "ood", metric)) for v in paper.TABLE4}
    printed = {v: row[metric] for v, row in paper.TABLE4.items()}
    return [1 + sum(value > ranked[paper.CHOSEN] for value in ranked.values()) for ranked in (here, printed)]


def _spread(what: str, groups: list[list[float]], metric: str) -> str:
    span, of_seeds = _span(groups)
    name = paper.NAMES.get(metric, metric)
    text = f"From the lowest to the highest, the mean {name} of the {len(groups)} {what} spans {span:.2f}"
    if of_seeds is None:
        return f"{text}; with one seed each, what seeds alone would do is not known."
    return f"{text}; seeds of one row scatter by a standard deviation of {of_seeds:.2f}."


def _span(groups: list[list[float]]) -> tuple[float, float | None]:
    """Highest less lowest mean of ``groups``, and the pooled standard deviation within them, None for one seed each."""
    means = [float(np.mean(group)) for group in groups]
    deviations = [stats.mean_std(group)[1] for group in groups]
    known = not any(math.isnan(d) for d in deviations)
    return round(max(means) - min(means), 4), round(
        float(np.sqrt(np.mean(np.square(deviations)))), 4
    ) if known else None


def transfer(results: Results, variant: str = MAIN, metric: str = "B4") -> str:
    """How a model does out of domain beside in domain, here and in the paper's Table 2."""
    means = {s: _mean(scores(results, variant, s, metric)) for s in paper.SPLITS}
    printed = {s: paper.TABLE2[s][metric] for s in paper.SPLITS}
    return (
        f"{paper.label(variant)}, {paper.NAMES.get(metric, metric)}: {means['test']:.2f} in domain and "
        f"{means['ood']:.2f} out of domain; the paper prints {printed['test']:.2f} and {printed['ood']:.2f}."
    )


def nouns(results: Results) -> list[str]:
    """BLEU rewards set phrases too, so what share of the named things is there is said beside it."""
    sentences = []
    for split, words in paper.SPLITS.items():
        named = [scores(results, MAIN, split, m) for m in ("noun_precision", "noun_recall")]
        if all(named):
            precision, recall = map(_mean, named)
            sentences.append(
                f"Nouns {words}: {precision:.1f} % of the things that the main model ({paper.label(MAIN)}) names "
                f"are in the picture, and it names {recall:.1f} % of what is there."
            )
    return sentences


def warnings(results: Results) -> list[str]:
    """Variants whose captions are mostly one and the same on a split: their scores say nothing of pictures."""
    worst: dict[tuple[str, str], dict[int, float]] = {}
    for record in results["results"]:
        if record["metric"] == "most_frequent_share" and record["value"] > DEGENERATE:
            worst.setdefault((record["variant"], record["split"]), {})[record["seed"]] = record["value"]
    return [
        f"Degenerate captions: {paper.label(variant)}, {paper.SPLITS[split]}: one and the same caption for up to "
        f"{max(shares.values()):.1f} % of the images (seeds {', '.join(map(str, sorted(shares)))})."
        for (variant, split), shares in worst.items()
    ]


def contradictions() -> list[str]:
    """Where the paper's tables disagree with each other, from its numbers."""
    one, three = paper.TABLE1[MAIN], paper.TABLE3[MAIN]
    different = [
        f"{paper.NAMES.get(m, m)} {one[m]:.2f} and {three[m]:.2f}" for m in paper.METRICS if one[m] != three[m]
    ]
    chosen = paper.TABLE4[paper.CHOSEN]
    lowest = [m for m in chosen if chosen[m] == min(row[m] for row in paper.TABLE4.values())]
    return [
        f"The paper's Table 1 and Table 3 give the main model different scores on the same images: "
        f"{', '.join(different)}.",
        f"The setting that the paper adopts, {paper.label(paper.CHOSEN)}, has the lowest "
        f"{', '.join(paper.NAMES.get(m, m) for m in lowest)} of its Table 4.",
    ]
