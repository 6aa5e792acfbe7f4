"""What the numbers say, in sentences made from ``results.json``: no claim here is written before it is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from bncap import paper, stats
from bncap.config import BASE, MAIN, VARIANTS
from bncap.errors import BncapError

LEVEL = 0.95
DEGENERATE = 50  # per cent of the captions: from here on one caption is most of the output
NAMES = {"B4": "BLEU-4", "noun_precision": "noun precision"}
READING = {
    "higher": "higher, beyond the scatter of seeds",
    "lower": "lower, beyond the scatter of seeds",
    "open": "the seeds do not settle its sign",
}
ONE_SEED = "one seed, which tells nothing of chance"
DISTANCES = {
    "centroid_distance": ("Distance of the centroids of real and synthetic patches", paper.CENTROID_DISTANCE),
    "umap_centroid_distance": ("The same distance in the two dimensions of UMAP", paper.CENTROID_DISTANCE),
    "umap_mmd_rbf": ("MMD-RBF of real and synthetic patches in the two dimensions of UMAP", paper.MMD),
}
"""What of notebook 08 the paper has a number for, on all patches; it does not say in which space its centroids lie."""

PARTS = {"relevant": "text-relevant patches alone", "background": "background patches alone"}

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """The paper says that ``better`` scores higher than ``worse``; ``printed`` is by how much, None if it does not."""

    better: str
    worse: str
    metric: str = "B4"
    split: str = "ood"
    table: str = "Table 3"

    @property
    def printed(self) -> float | None:
        rows = [paper.printed(variant, self.split) for variant in (self.better, self.worse)]
        # the main model's row of Tables 2 and 3 is that of Table 3
        chosen = [next((row for place, row in found.items() if self.table[-1] in place), None) for found in rows]
        if None in chosen or any(self.metric not in row for row in chosen):
            return None
        return chosen[0][self.metric] - chosen[1][self.metric]


CLAIMS = (
    *(Claim("pal_infonce_ot", "ce_real", metric) for metric in ("B4", "METEOR", "BERT-F1", "noun_precision")),
    Claim("pal", "ce_infonce_ot"),
    Claim("pal_infonce_ot", "pal"),
    Claim("pal", "ce_real"),
    Claim("ce_infonce", "ce_real_syn"),
    Claim("ce_real_syn", "ce_real"),
    Claim("ce_real_syn", "ce_real_matched"),
    Claim("pal_infonce_ot", "ce_real_matched"),
    Claim("pal_infonce_ot", "vit_gpt2", table="Table 1"),
    Claim("pal_infonce_ot", "cnn_lstm", table="Table 1"),
)
"""What Sec. 5.2 and 5.4 compare, and the two comparisons that the compute-matched row is there for."""


@dataclass(frozen=True)
class Difference:
    """Means of two variants over the same seeds, and the mean difference with its ``LEVEL`` interval (Student's t).

    With one seed the deviation and the interval are NaN.
    """

    first: float
    second: float
    mean: float
    std: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """``"higher"``, ``"lower"``, or ``"open"`` where the interval holds 0 or is not known."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "open"

    @property
    def reading(self) -> str:
        """The verdict in words."""
        return f"measured with {ONE_SEED}" if self.seeds == 1 else READING[self.verdict]


def scores(results: Results, variant: str, split: str, metric: str) -> dict[int, float]:
    """Seed -> score, the unknown ones left out; empty if the metric was not measured."""
    same = {"variant": variant, "split": split, "metric": metric}
    found = (r for r in results["results"] if same.items() <= r.items() and r["value"] is not None)
    return {r["seed"]: r["value"] for r in found}


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Difference:
    """``a`` minus ``b``, seed by seed.  Raises BncapError where no seed is in both."""
    seeds = sorted(set(a) & set(b))
    if not seeds:
        raise BncapError("no seed has both scores: run both variants with the same seeds")
    differences = [a[s] - b[s] for s in seeds]
    mean, std = stats.mean_std(differences)
    half = math.nan
    if len(seeds) > 1:
        half = float(scipy_stats.t.ppf((1 + LEVEL) / 2, len(seeds) - 1)) * std / math.sqrt(len(seeds))
    first, second = (float(np.mean([x[s] for s in seeds])) for x in (a, b))
    return Difference(first, second, mean, std, mean - half, mean + half, len(seeds))


def judge(results: Results, claims: Sequence[Claim] = CLAIMS) -> dict[str, list[str]]:
    """A sentence for each claim, under ``"holds"``, ``"does not hold"`` or ``"open"``; unmeasured metrics left out."""
    heading = {"higher": "holds", "lower": "does not hold", "open": "open"}
    verdicts: dict[str, list[str]] = {name: [] for name in heading.values()}
    for claim in claims:
        a, b = (scores(results, v, claim.split, claim.metric) for v in (claim.better, claim.worse))
        if set(a) & set(b):
            d = difference(a, b)
            verdicts[heading[d.verdict]].append(compare(claim, d))
    return verdicts


def overview(results: Results, verdicts: Mapping[str, Sequence[str]], metric: str = "B4") -> list[str]:
    """The result in two sentences: whether the alignment terms raise ``metric``, and how many comparisons hold."""
    plain, full = (scores(results, v, "ood", metric) for v in (BASE, MAIN))
    d, name = difference(full, plain), NAMES.get(metric, metric)
    aligned = [v for v in paper.TABLE3 if v not in (BASE, "ce_real_syn")]
    above = sum(difference(scores(results, v, "ood", metric), plain).mean > 0 for v in aligned)
    printed = sum(paper.TABLE3[v][metric] > paper.TABLE3[BASE][metric] for v in aligned)
    held, failed, undecided = (len(verdicts[name]) for name in ("holds", "does not hold", "open"))
    return [
        f"The paper finds that its alignment terms raise the scores. In these runs the full objective has a mean "
        f"{name} out of domain of {d.first:.2f} and cross-entropy alone {d.second:.2f}: on average the terms "
        f"{'raise' if d.mean > 0 else 'do not raise'} it ({d.mean:+.2f}; {d.reading}). Of the {len(aligned)} variants "
        f"with an alignment term {above or 'none'} {'have' if above != 1 else 'has'} a higher mean than cross-entropy "
        f"alone; in the paper {'all' if printed == len(aligned) else printed} have.",
        f"Of the {held + failed + undecided} comparisons, {held} hold, {failed} do not hold, and {undecided} cannot be "
        f"told.",
    ]


def compare(claim: Claim, d: Difference) -> str:
    """One sentence on ``claim``: both means, the difference with its spread, what it allows to say, the paper's."""
    names = f"{paper.label(claim.better)} against {paper.label(claim.worse)}, {NAMES.get(claim.metric, claim.metric)}"
    text = f"{names} {paper.SPLITS[claim.split]}: {d.first:.2f} against {d.second:.2f}, a difference of {d.mean:+.2f}"
    if d.seeds == 1:
        text += f" with {ONE_SEED}"
    else:
        interval = f"{LEVEL:.0%} interval {d.low:+.2f} to {d.high:+.2f}"
        text += f" ± {d.std:.2f} over {d.seeds} seeds ({interval}): {d.reading}"
    printed = claim.printed
    return f"{text}. " + ("The paper does not report it." if printed is None else f"The paper: {printed:+.2f}.")


def ranking(results: Results, metric: str = "B4") -> str:
    """How far the order of the variants here agrees with that of the paper's Table 3."""
    here = {v: list(scores(results, v, "ood", metric).values()) for v in paper.TABLE3}
    ours = [float(np.mean(values)) for values in here.values()]
    printed = [row[metric] for row in paper.TABLE3.values()]
    name = NAMES.get(metric, metric)
    best = paper.label(max(here, key=lambda v: float(np.mean(here[v]))))
    if len(set(ours)) == 1:
        return f"All variants of Table 3 have the same {name}, {ours[0]:.2f}: the table tells them apart in nothing."
    rho = scipy_stats.spearmanr(ours, printed).statistic
    return (
        f"Of the paper's {len(ours)} variants in its Table 3, {best} has the highest mean {name} here; the rank "
        f"correlation of their means with the paper's is {rho:+.2f} (1: the same order, 0: unrelated, -1: reversed)."
    )


def spread_of_variants(results: Results, metric: str = "B4") -> str:
    """Whether the variants differ by more than their seeds do."""
    groups = [list(scores(results, v, "ood", metric).values()) for v in VARIANTS]
    return _spread("variants of Table 3", groups, metric)


def sensitivity(results: Results, metric: str = "B4") -> str:
    """Whether the settings of Table 4 differ by more than their seeds do, and where the chosen one stands."""
    groups = {v: list(scores(results, v, "ood", metric).values()) for v in paper.TABLE4}
    means = {v: float(np.mean(values)) for v, values in groups.items()}
    printed = {v: row[metric] for v, row in paper.TABLE4.items()}
    places = [1 + sum(m > ranked[paper.CHOSEN] for m in ranked.values()) for ranked in (means, printed)]
    return (
        f"{_spread('settings of Table 4', list(groups.values()), metric)} The setting that the paper chooses "
        f"({paper.label(paper.CHOSEN)}) is number {places[0]} of {len(means)} by {NAMES.get(metric, metric)} here and "
        f"number {places[1]} in the paper."
    )


def _spread(what: str, groups: list[list[float]], metric: str) -> str:
    means = [float(np.mean(group)) for group in groups]
    text = f"From the lowest to the highest, the mean {NAMES.get(metric, metric)} of the {len(means)} {what} spans "
    text += f"{max(means) - min(means):.2f}"
    deviations = [stats.mean_std(group)[1] for group in groups]
    if any(math.isnan(d) for d in deviations):
        return f"{text}; with one seed each, what seeds alone would do is not known."
    pooled = float(np.sqrt(np.mean(np.square(deviations))))
    return f"{text}; seeds of one row scatter by a standard deviation of {pooled:.2f}."


def transfer(results: Results, variant: str = MAIN, metric: str = "B4") -> str:
    """How a model does out of domain beside in domain, here and in the paper's Table 2."""
    means = {s: float(np.mean(list(scores(results, variant, s, metric).values()))) for s in paper.SPLITS}
    printed = {s: paper.TABLE2[s][metric] for s in paper.SPLITS}
    return (
        f"{paper.label(variant)}, {NAMES.get(metric, metric)}: {means['test']:.2f} in domain and {means['ood']:.2f} "
        f"out of domain; the paper prints {printed['test']:.2f} and {printed['ood']:.2f}."
    )


def grounding(results: Results) -> list[str]:
    """BLEU rewards set phrases too, so what share of the named things is there is said beside it."""
    sentences = []
    for split, words in paper.SPLITS.items():
        named = {m: list(scores(results, MAIN, split, m).values()) for m in ("noun_precision", "noun_recall")}
        if all(named.values()):
            precision, recall = (float(np.mean(values)) for values in named.values())
            sentences.append(
                f"Nouns {words}: {precision:.1f} % of the things that the main model ({paper.label(MAIN)}) names "
                f"are in the picture, and it names {recall:.1f} % of what is there."
            )
    return sentences


def alignment(results: Results) -> list[str]:
    """How far training moved real and synthetic patches together, with and without the alignment terms.

    On all patches, beside the paper's number, and then the centroids of text-relevant and of background ones.
    """
    sentences = []
    for metric, (words, printed) in DISTANCES.items():
        before, main = (distances(results, MAIN, moment, metric) for moment in ("before", "after"))
        ce = distances(results, "ce_real", "after", metric)
        if before and main and ce:
            d = difference(main, ce)
            sentences.append(
                f"{words}: {_moved(before, d)}; full objective against cross-entropy: {d.reading}. "
                f"The paper: {printed.before} to {printed.after} ({printed.relative:+.0%})."
            )
    for part, words in PARTS.items():
        before, main = (distances(results, MAIN, moment, "centroid_distance", part) for moment in ("before", "after"))
        ce = distances(results, "ce_real", "after", "centroid_distance", part)
        if before and main and ce:
            sentences.append(f"Distance of the centroids of the {words}: {_moved(before, difference(main, ce))}.")
    return sentences


def distances(results: Results, model: str, moment: str, metric: str, part: str = "all") -> dict[int, float]:
    """Seed -> a distance of notebook 08; ``moment`` is ``before`` or ``after``, ``part`` a set of patches."""
    name = f"{model}/{moment}/{part}/{metric}"
    return {int(seed): values[name] for seed, values in results["alignment"].items() if name in values}


def _moved(before: Mapping[int, float], d: Difference) -> str:
    """From where to where: ``before`` training, and after the first and the second objective of ``d``."""
    start = float(np.mean(list(before.values())))
    full, alone = (f"{v:.3f}" + (f" ({v / start - 1:+.0%})" if start else "") for v in (d.first, d.second))
    return f"{start:.3f} before training, {full} after the full objective and {alone} after cross-entropy alone"


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
    different = [f"{NAMES.get(m, m)} {one[m]:.2f} and {three[m]:.2f}" for m in paper.METRICS if one[m] != three[m]]
    chosen = paper.TABLE4[paper.CHOSEN]
    lowest = [m for m in chosen if chosen[m] == min(row[m] for row in paper.TABLE4.values())]
    return [
        f"The paper's Table 1 and Table 3 give the main model different scores on the same images: "
        f"{', '.join(different)}.",
        f"The setting that the paper adopts, {paper.label(paper.CHOSEN)}, has the lowest "
        f"{', '.join(NAMES.get(m, m) for m in lowest)} of its Table 4.",
    ]
