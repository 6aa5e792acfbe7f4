"""Where a captioner errs: scores by kind of object, colour, relation and number of objects, and nouns confused."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncap import stats
from bncap.config import BASE, MAIN
from bncap.errors import BncapError
from bncap.experiments import caption_scores
from bncap.experiments.error_labels import NOTHING, Group, Thing, confuse, groups_of, judge, reads_sentences, things_of
from bncap.experiments.paper import SPLITS
from bncap.experiments.runs import folder_of
from bncap.experiments.scores import DIGITS, known
from bncap.metrics import Nouns
from bncap.pipeline import artifacts, paths
from bncap.settings import Config
from bncap.text import iso, tokenise

VARIANTS = (BASE, MAIN)
SCORES = ("B4", "METEOR")
SAID = {"object": "named", "number": "named", "colour": "colour_right", "relation": "relation_right"}
"""Dimension -> the measure of what is said in it: :func:`bncap.experiments.error_labels.judge`."""
ALL: Group = ("all", "all")
LEAST = 20
"""Of groups that are asked of fewer times, mean over the seeds, no sentence says that they are the best or worst."""
TABLE_HEADER = ("variant", "split", "dimension", "group", "measure", "value", "low", "high", "pictures", "asked")
CONFUSION_HEADER = ("variant", "split", "pictures", "there", "said", "share", "times")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """The K runs of a variant on the N pictures of a split.

    ``named``: for each run the kinds that each caption names.
    ``said``: (group, measure) -> asked and right, (2, N, K): how much each caption could say or did say, and how much
    of that is right.
    """

    runs: list[caption_scores.Items]
    named: list[list[set[str]]]
    said: dict[tuple[Group, str], Array]


def measure(config: Config, first_seed: int) -> dict[str, list[dict[str, Any]]]:
    """What cross-entropy alone and the full objective get right, over all seeds, by groups of pictures.

    - ``rows``: for each variant, split, group and measure the value, 0 to 100, with the central 95 % of bootstrap
      samples over the group's pictures and the seeds.  ``B4`` (of the whole group) and ``METEOR`` are means over the
      seeds; ``named``, ``colour_right`` and ``relation_right`` are shares of the ``asked`` judgements of all ``seeds``;
    - ``differences``: the full objective less cross-entropy alone, on the same samples;
    - ``guesses``: what of the judgements of a dimension the commonest answer alone, said every time, would get right.

    A split whose pictures' objects are not known is left out.  Raises BncapError if that is so of all, and, with the
    command that makes it, for a run that is not finished.
    """
    found: dict[str, list[dict[str, Any]]] = {"rows": [], "differences": [], "guesses": []}
    for split, things in _known_splits(config).items():
        seeds = config.seeds(first_seed)
        judged = [read_runs(config, variant, seeds, split, things) for variant in VARIANTS]
        members = _members(config, judged[0].runs[0].images, things)
        for group, mask in members.items():
            samples = _samples(mask, len(seeds), (split, *group))
            base, main = (_measure(runs, group, mask, samples) for runs in judged)
            for name in base:
                same = {"split": split, "dimension": group[0], "group": group[1], "measure": name}
                for variant, measured in zip(VARIANTS, (base, main), strict=True):
                    bounds = _bounds("value", measured[name].value, measured[name].replicates)
                    counts = {"pictures": int(mask.sum()), "asked": measured[name].asked, "seeds": len(seeds)}
                    found["rows"].append({"variant": variant, **same, **bounds, **counts})
                found["differences"].append({"variant": MAIN, "against": BASE, **same, **_less(main[name], base[name])})
    found["guesses"] = _guesses(found["rows"])
    return found


def confusion(config: Config, first_seed: int) -> list[dict[str, Any]]:
    """How often captions say one kind where another is: a record for each variant, split and pair of kinds that occurs.

    ``share`` is that of the ``times`` that the kind ``there`` is in a picture, per cent, mean over the seeds;
    ``pictures`` is "one object" or "all".  See :func:`bncap.experiments.error_labels.confuse`.
    """
    records = []
    for split, things in _known_splits(config).items():
        for variant in VARIANTS:
            judged = read_runs(config, variant, config.seeds(first_seed), split, things)
            kinds = [{thing.kind for thing in things[image]} for image in judged.runs[0].images]
            for pictures, most in (("one object", 1), ("all", math.inf)):
                chosen = [i for i, image in enumerate(judged.runs[0].images) if 0 < len(things[image]) <= most]
                weights: dict[tuple[str, str], float] = defaultdict(float)
                for named in judged.named:
                    for i in chosen:
                        for cell, weight in confuse(kinds[i], named[i]).items():
                            weights[cell] += weight
                for (there, said), weight in sorted(weights.items()):
                    times = sum(there in kinds[i] for i in chosen)
                    share = round(100 * weight / len(judged.named) / times, DIGITS)
                    same = {"variant": variant, "split": split, "pictures": pictures}
                    records.append({**same, "there": there, "said": said, "share": share, "times": times})
    return records


def most_confused(records: Sequence[dict[str, Any]], count: int = 5) -> list[dict[str, Any]]:
    """For each variant, split and set of pictures of :func:`confusion` the ``count`` greatest shares of wrong kinds.

    Of kinds that are in :data:`LEAST` pictures at least.
    """
    found = []
    for key in dict.fromkeys((r["variant"], r["split"], r["pictures"]) for r in records):
        same = [r for r in records if (r["variant"], r["split"], r["pictures"]) == key]
        wrong = [r for r in same if r["said"] not in (r["there"], NOTHING) and r["times"] >= LEAST]
        found += sorted(wrong, key=lambda r: (-r["share"], r["there"], r["said"]))[:count]
    return found


def sentences(found: dict[str, list[dict[str, Any]]], confused: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers of :func:`measure` and :func:`confusion` say of the full objective, split by split."""
    said = []
    rows = [row for row in found["rows"] if row["variant"] == MAIN and row["value"] is not None]
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == split]
        lines = [
            _extremes(here, "object", "is named"),
            _extremes(here, "colour", "is given rightly, where one is given"),
        ]
        for guess in (g for g in found["guesses"] if (g["variant"], g["split"]) == (MAIN, split)):
            row = next(row for row in here if (row["dimension"], row["measure"]) == ("all", guess["measure"]))
            above, below = row["low"] > guess["value"], row["high"] < guess["value"]
            beyond = "more than" if above else "less than" if below else "not told apart from"
            lines.append(
                f"of all {guess['measure'].partition('_')[0]}s that are given {_percent(row)} are right, {beyond} what "
                f"one answer for all would get ({guess['value']:.1f} %)"
            )
        wrong = most_confused(
            [r for r in confused if (r["variant"], r["split"], r["pictures"]) == (MAIN, split, "all")], 1
        )
        lines += [
            f"{r['there']} is most often called {r['said']} ({r['share']:.1f} % of the pictures with one)"
            for r in wrong
        ]
        lines = [line for line in lines if line] or ["no group is told apart from another"]
        said.append(f"{SPLITS[split].capitalize()}: {'; '.join(lines)}.")
    apart = [d for d in found["differences"] if d["excludes_zero"]]
    above = sum(d["difference"] > 0 for d in apart)
    said.append(
        f"Group by group the full objective and cross-entropy alone were compared {len(found['differences'])} times: "
        f"{above} intervals lie above 0 and {len(apart) - above} below; one in twenty leaves out 0 by chance alone."
    )
    return said


def _extremes(rows: Sequence[dict[str, Any]], dimension: str, what: str) -> str:
    said = [row for row in rows if row["dimension"] == dimension and row["measure"] == SAID[dimension]]
    said = [row for row in said if row["asked"] >= LEAST * row["seeds"]]
    if len({row["value"] for row in said}) < 2:
        return ""
    best, worst = (pick(said, key=lambda row: row["value"]) for pick in (max, min))
    most, least = (f"{row['group']} ({_percent(row)})" for row in (best, worst))
    return f"the {dimension} that {what} most often is {most}, least {least}"


def _percent(row: dict[str, Any]) -> str:
    return f"{row['value']:.1f} % [{row['low']:.1f}, {row['high']:.1f}]"


def write_tables(config: Config, found: dict[str, list], confused: Sequence[dict[str, Any]]) -> list[Path]:
    """``figures/<profile>/error_analysis.csv`` and ``confusion.csv``, of what the functions above found."""
    folder, written = paths.figures_dir(config.profile), []
    contents = ("error_analysis", TABLE_HEADER, found["rows"]), ("confusion", CONFUSION_HEADER, confused)
    for name, header, records in contents:
        written.append(folder / f"{name}.csv")
        artifacts.write_csv(written[-1], header, ([record[column] for column in header] for record in records))
    return written


def read_runs(
    config: Config, variant: str, seeds: Sequence[int], split: str, things: dict[str, tuple[Thing, ...]]
) -> Judged:
    """The captions of a variant's finished runs, judged by what their pictures show."""
    folders = [artifacts.require(folder_of(config, variant, seed)) for seed in seeds]
    runs = [caption_scores.read(folder, split) for folder in folders]
    rows = [artifacts.read_csv(folder / f"captions_{split}.csv") for folder in folders]
    by_image = [{row["image"]: row["caption"] for row in run} for run in rows]
    captions = [[run[image] for image in runs[0].images] for run in by_image]
    named = [named_kinds(config, run) for run in captions]
    sentences = reads_sentences(config)
    said: dict[tuple[Group, str], Array] = defaultdict(lambda: np.zeros((2, len(runs[0].images), len(runs))))
    for k, run in enumerate(captions):
        for i, (image, caption) in enumerate(zip(runs[0].images, run, strict=True)):
            for group, right in judge(things[image], named[k][i], caption, sentences):
                measured = SAID[group[0]]
                # of the two dimensions of what is named, each thing counts once among all
                for counted in (group, ALL) if group[0] != "number" else (group,):
                    said[counted, measured][:, i, k] += 1, right
    return Judged(runs, named, dict(said))


def named_kinds(config: Config, captions: Sequence[str]) -> list[set[str]]:
    """The kinds that each caption names."""
    from bncap.experiments import evaluate  # which brings the decoder along

    lang = iso(config.data.lang)
    nouns = Nouns(evaluate.noun_lexicon(config), lang)
    return [{kind for _, _, kind in nouns.find(tokenise(caption, lang))} for caption in captions]


@dataclass(frozen=True)
class _Measured:
    value: float
    replicates: Array  # (R,)
    asked: int | None = None


def _measure(judged: Judged, group: Group, mask: NDArray[np.bool_], samples: stats.Resamples) -> dict[str, _Measured]:
    """Each measure of the pictures of a group."""
    found = {}
    chosen = [_only(run, mask) for run in judged.runs]
    once, drawn = ([run.scores(counts) for run in chosen] for counts in (None, samples.items))
    for metric in SCORES:
        value = float(np.mean([scores[metric][0] for scores in once]))
        found[metric] = _Measured(value, samples.over_seeds(np.stack([scores[metric] for scores in drawn], axis=1)))
    for (counted, name), said in judged.said.items():
        if counted == group:
            asked, right = said[:, mask]  # (n, K) each
            totals = [((samples.items @ part) * samples.seeds).sum(axis=1) for part in (asked, right)]  # (R,) each
            found[name] = _Measured(_share(right.sum(), asked.sum()), _share(*totals[::-1]), int(asked.sum()))
    return found


def _share(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return 100 * np.divide(part, whole)  # NaN where there is nothing


def _only(run: caption_scores.Items, mask: NDArray[np.bool_]) -> caption_scores.Items:
    images = tuple(image for image, chosen in zip(run.images, mask, strict=True) if chosen)
    return caption_scores.Items(images, {name: values[mask] for name, values in run.values.items()})


def _bounds(name: str, value: float, replicates: Array) -> dict[str, float | None]:
    """``value`` under ``name`` with ``low`` and ``high``; samples in which nothing was asked are left out."""
    replicates = replicates[~np.isnan(replicates)]
    found = stats.interval(value, replicates) if len(replicates) else stats.Interval(value, math.nan, math.nan)
    return {name: known(found.value), "low": known(found.low), "high": known(found.high)}


def _less(main: _Measured, base: _Measured) -> dict[str, Any]:
    found = _bounds("difference", main.value - base.value, main.replicates - base.replicates)
    low, high = found["low"], found["high"]
    return {**found, "excludes_zero": low is not None and (low > 0 or high < 0)}


def _guesses(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for dimension in ("colour", "relation"):
        asked: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row in rows:
            if row["dimension"] == dimension and row["asked"]:
                asked[row["variant"], row["split"]].append(row["asked"])
        for (variant, split), counts in asked.items():
            same = {"variant": variant, "split": split, "measure": SAID[dimension]}
            found.append({**same, "value": known(100 * max(counts) / sum(counts))})
    return found


def _members(
    config: Config, images: Sequence[str], things: dict[str, tuple[Thing, ...]]
) -> dict[Group, NDArray[np.bool_]]:
    """Group -> (N,), which of ``images`` belong to it; sorted, the group of all first."""
    groups = [groups_of(things[image], reads_sentences(config)) for image in images]
    every = sorted(set().union(*groups))
    return {ALL: np.ones(len(images), dtype=bool)} | {g: np.array([g in found for found in groups]) for g in every}


def _samples(mask: NDArray[np.bool_], seeds: int, names: tuple[str, ...]) -> stats.Resamples:
    return stats.resamples(int(mask.sum()), seeds, seed=zlib.crc32("|".join(names).encode()))


def _known_splits(config: Config) -> dict[str, dict[str, tuple[Thing, ...]]]:
    found = {split: things_of(config, split) for split in SPLITS}
    for split in [split for split, things in found.items() if things is None]:
        print(f"{split}: the objects of the pictures are not known, so errors are not told apart there")
        del found[split]
    if not found:
        raise BncapError("errors cannot be told apart: no annotations of objects are there; see BNCAP_DATA")
    return found
