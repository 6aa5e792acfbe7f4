"""Errors of a captioner: scores by kind of object, colour, relation and number of objects, and the kinds it confuses.

The truth is in the annotations: kinds and boxes in COCO's form, and the colours that the mini world adds.  The kinds
that a caption names are found with the lexicon of :func:`bncap.experiments.evaluate.noun_lexicon`; colours and
relations are read in the mini world alone, by :func:`bncap.mini.grammar.parse_bn`.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bncap import stats
from bncap.config import BASE, MAIN
from bncap.errors import BncapError
from bncap.experiments import estimates, evaluate
from bncap.experiments.evaluate import CaptionScores, read_caption_scores
from bncap.experiments.paper import SPLITS
from bncap.experiments.runs import run_dir
from bncap.metrics import Nouns
from bncap.mini.grammar import OPPOSITE, parse_bn
from bncap.pipeline import artifacts, paths
from bncap.settings import Config
from bncap.text import iso, tokenise

VARIANTS = (BASE, MAIN)
ACCURACY = {"object": "named", "number": "named", "colour": "colour_right", "relation": "relation_right"}
"""Dimension -> the measure of its statements in captions: :func:`label_caption`."""
NUMBERS = ((0, "none"), (1, "1"), (2, "2"), (3, "3"), (6, "4 to 6"), (math.inf, "7 or more"))
"""Groups by the number of objects: (at most, name)."""
NOTHING = "(left out)"
"""Stands in a confusion for a kind that is missing where no wrong one is named."""
LEAST = 20
"""Kinds in fewer pictures are left out of :func:`most_confused`."""
TABLE_COLUMNS = ("variant", "split", "dimension", "group", "measure", "value", "low", "high", "pictures", "asked")
CONFUSION_COLUMNS = ("variant", "split", "pictures", "there", "said", "share", "times")

Array = NDArray[np.float64]
Group = tuple[str, str]
"""A dimension, one of "object", "colour", "relation" and "number", and a value such as "ball" in it."""
ALL: Group = ("all", "all")


@dataclass(frozen=True)
class SceneObject:
    """An object of a picture; ``box`` is (x, y, width, height) px, ``colour`` None where it is not known."""

    kind: str
    box: tuple[float, float, float, float]
    colour: str | None = None


Scenes = Mapping[str, tuple[SceneObject, ...]]
"""Picture -> its objects in the order of the annotations."""


def read_scenes(config: Config, split: str) -> Scenes | None:
    """The objects of a split's pictures; None where they are not known."""
    objects = evaluate.objects_of(config, split)
    if objects is None:
        return None
    colours: dict[str, list[str | None]] = defaultdict(list)
    if reads_sentences(config):
        content = artifacts.read_json(evaluate.objects_files(config)[split])
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            colours[names[annotation["image_id"]]].append(annotation.get("colour"))
    scenes = {}
    for image, own in objects.items():
        own_colours = colours.get(image.rpartition("/")[2], [None] * len(own))
        scenes[image] = tuple(SceneObject(*each, colour) for each, colour in zip(own, own_colours, strict=True))
    return scenes


def reads_sentences(config: Config) -> bool:
    """Whether colours and relations of captions can be read: in the mini world, in Bengali."""
    return config.data.source == "mini" and iso(config.data.lang) == "bn"


def groups_of(scene: Sequence[SceneObject], sentences: bool) -> set[Group]:
    """The groups that a picture belongs to; colours and relations only with ``sentences``."""
    groups = {("object", thing.kind) for thing in scene} | {_number_group(scene)}
    if sentences:
        groups |= {("colour", thing.colour) for thing in scene if thing.colour}
        groups |= {("relation", relation) for relation in relations_of(scene).values()}
    return groups


def _number_group(scene: Sequence[SceneObject]) -> Group:
    return "number", next(name for most, name in NUMBERS if len(scene) <= most)


def _single_kinds(scene: Sequence[SceneObject]) -> list[SceneObject]:
    """The objects of kinds that the picture has once."""
    counts = Counter(thing.kind for thing in scene)
    return [thing for thing in scene if counts[thing.kind] == 1]


def relations_of(scene: Sequence[SceneObject]) -> dict[tuple[str, str], str]:
    """(kind, kind) -> where the first is from the second, by the centres of their boxes, in the annotations' order.

    Only of kinds that the picture has once.  The greater of the two distances decides: side by side, or one above the
    other (:attr:`bncap.mini.scene.Scene.relation`).
    """
    single, relations = _single_kinds(scene), {}
    for i, first in enumerate(single):
        for second in single[i + 1 :]:
            a, b = first.box, second.box
            dx, dy = (a[axis] + a[axis + 2] / 2 - b[axis] - b[axis + 2] / 2 for axis in (0, 1))
            beside, upright = ("left" if dx < 0 else "right"), ("above" if dy < 0 else "below")
            relations[first.kind, second.kind] = beside if abs(dx) >= abs(dy) else upright
    return relations


def label_caption(
    scene: Sequence[SceneObject], named: set[str], caption: str, sentences: bool
) -> Iterator[tuple[Group, bool]]:
    """(group, right) for each statement that the caption of a picture could make or does make.

    - object: each kind in the picture; right if it is among the kinds ``named``;
    - number: the same, grouped by the number of objects;
    - colour: each object, of a kind that the picture has once, that the caption gives a colour; by the true colour;
    - relation: each pair of such objects that the caption relates; by the true relation, in the annotations' order.
    """
    for kind in sorted({thing.kind for thing in scene}):
        yield ("object", kind), kind in named
        yield _number_group(scene), kind in named
    if not sentences:
        return
    parsed, truth = parse_bn(caption), relations_of(scene)
    for thing in _single_kinds(scene):
        colour = next((m.colour for m in parsed.objects if m.kind == thing.kind and m.colour), None)
        if thing.colour and colour:
            yield ("colour", thing.colour), colour == thing.colour
    for figure, relation, ground in parsed.relations:
        pair = parsed.objects[figure].kind, parsed.objects[ground].kind
        if pair in truth:
            yield ("relation", truth[pair]), relation == truth[pair]
        elif pair[::-1] in truth:
            yield ("relation", truth[pair[::-1]]), OPPOSITE[relation] == truth[pair[::-1]]


def confuse_kinds(present: set[str], named: set[str]) -> dict[tuple[str, str], float]:
    """(kind present, kind named for it) -> weight; the weights of a kind that is present sum to 1.

    A kind that is named stands for itself.  Missing and wrongly named kinds are shared evenly among each other, which
    in a picture of one object is exact; where fewer wrong kinds are named than are missing, the rest is
    :data:`NOTHING`.
    """
    missing, wrong = sorted(present - named), sorted(named - present)
    weights = {(kind, kind): 1.0 for kind in present & named}
    for kind in missing:
        instead = min(1.0, len(wrong) / len(missing))
        weights |= {(kind, other): instead / len(wrong) for other in wrong}
        if instead < 1:
            weights[kind, NOTHING] = 1 - instead
    return weights


@dataclass(frozen=True)
class LabelledRuns:
    """The K runs of a variant on the N pictures of a split.

    ``named``: for each run the kinds that each caption names.
    ``labels``: (group, measure) -> asked and right, (2, N, K): how many statements of the group each caption could make
    or makes, and how many of them are right.
    """

    runs: list[CaptionScores]
    named: list[list[set[str]]]
    labels: dict[tuple[Group, str], Array]


def _label_runs(config: Config, variant: str, seeds: Sequence[int], split: str, scenes: Scenes) -> LabelledRuns:
    """The captions of a variant's finished runs, labelled by the objects of their pictures."""
    folders = [artifacts.require(run_dir(config, variant, seed)) for seed in seeds]
    runs = [read_caption_scores(folder, split) for folder in folders]
    images, lang, named = runs[0].images, iso(config.data.lang), []
    nouns = Nouns(evaluate.noun_lexicon(config), lang)
    labels: dict[tuple[Group, str], Array] = defaultdict(lambda: np.zeros((2, len(images), len(runs))))
    for k, folder in enumerate(folders):
        captions = {row["image"]: row["caption"] for row in artifacts.read_csv(folder / f"captions_{split}.csv")}
        named.append([{kind for *_, kind in nouns.find(tokenise(captions[image], lang))} for image in images])
        for i, image in enumerate(images):
            for group, right in label_caption(scenes[image], named[k][i], captions[image], reads_sentences(config)):
                # "object" and "number" count the same statements: among all, each counts once
                for counted in (group, ALL) if group[0] != "number" else (group,):
                    labels[counted, ACCURACY[group[0]]][:, i, k] += 1, right
    return LabelledRuns(runs, named, labels)


def summarise_errors(config: Config, first_seed: int) -> dict[str, list[dict[str, Any]]]:
    """What cross-entropy alone and the full objective get right, over all seeds, by groups of pictures.

    - ``rows``: for each variant, split, group and measure the value, 0 to 100, with the central 95 % of bootstrap
      samples over the group's pictures and the seeds.  ``B4`` (of the whole group) and ``METEOR`` are means over the
      seeds; ``named``, ``colour_right`` and ``relation_right`` are shares of the ``asked`` statements of all ``seeds``;
    - ``differences``: the full objective less cross-entropy alone, on the same samples;
    - ``guesses``: the share of the statements of a dimension that the commonest answer alone, given every time, would
      get right.

    A split whose pictures' objects are not known is left out.  Raises BncapError if that is so of all, and, with the
    command that makes it, for a run that is not finished.
    """
    seeds = config.seeds(first_seed)
    rows, differences = [], []
    for split, scenes in _known_splits(config).items():
        labelled = [_label_runs(config, variant, seeds, split, scenes) for variant in VARIANTS]
        member_of = [{ALL} | groups_of(scenes[i], reads_sentences(config)) for i in labelled[0].runs[0].images]
        for group in (ALL, *sorted(set().union(*member_of) - {ALL})):
            mask = np.array([group in own for own in member_of])
            seed = zlib.crc32("|".join((split, *group)).encode())
            samples = stats.resamples(int(mask.sum()), len(seeds), seed=seed)
            base, main = (_measure_group(runs, group, mask, samples) for runs in labelled)
            for measure in base:
                same = {"split": split, "dimension": group[0], "group": group[1], "measure": measure}
                for variant, (value, replicates, asked) in zip(VARIANTS, (base[measure], main[measure]), strict=True):
                    estimate = estimates.bootstrap_estimate("value", value, replicates)
                    counts = {"pictures": int(mask.sum()), "asked": asked, "seeds": len(seeds)}
                    del estimate["excludes_zero"]  # scores and shares are never negative
                    rows.append({"variant": variant, **same, **estimate, **counts})
                difference = main[measure][0] - base[measure][0], main[measure][1] - base[measure][1]
                estimate = estimates.bootstrap_estimate("difference", *difference)
                differences.append({"variant": MAIN, "against": BASE, **same, **estimate})
    return {"rows": rows, "differences": differences, "guesses": _guesses(rows)}


def _measure_group(
    labelled: LabelledRuns, group: Group, mask: NDArray[np.bool_], samples: stats.Resamples
) -> dict[str, tuple[float, Array, int | None]]:
    """Each measure of the pictures of a group: its value, what it is in each of R samples, and the statements asked."""
    measured: dict[str, tuple[float, Array, int | None]] = {}
    chosen = [run.subset(mask) for run in labelled.runs]
    once, drawn = ([run.corpus_scores(counts) for run in chosen] for counts in (None, samples.items))
    for metric in ("B4", "METEOR"):
        value = float(np.mean([scores[metric][0] for scores in once]))
        measured[metric] = value, samples.over_seeds(np.stack([scores[metric] for scores in drawn], axis=1)), None
    for (counted, name), labels in labelled.labels.items():
        if counted == group:
            asked, right = labels[:, mask]  # (n, K) each
            totals = [((samples.items @ part) * samples.seeds).sum(axis=1) for part in (asked, right)]  # (R,) each
            measured[name] = _share(right.sum(), asked.sum()), _share(*totals[::-1]), int(asked.sum())
    return measured


def _share(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return 100 * np.divide(part, whole)  # NaN where nothing was asked


def _guesses(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    frame, guesses = pd.DataFrame(rows), []
    for dimension in ("colour", "relation"):
        asked = frame[(frame["dimension"] == dimension) & (frame["asked"] > 0)]
        for (variant, split), counts in asked.groupby(["variant", "split"], sort=False)["asked"]:
            value = estimates.rounded(100 * counts.max() / counts.sum())
            guesses.append({"variant": variant, "split": split, "measure": ACCURACY[dimension], "value": value})
    return guesses


def _known_splits(config: Config) -> dict[str, Scenes]:
    known = {}
    for split in SPLITS:
        if (scenes := read_scenes(config, split)) is None:
            print(f"{split}: the objects of the pictures are not known, so errors cannot be analysed there")
        else:
            known[split] = scenes
    if not known:
        raise BncapError("errors cannot be analysed: no annotations of objects were found; see BNCAP_DATA")
    return known


def count_confusions(config: Config, first_seed: int) -> list[dict[str, Any]]:
    """How often captions name one kind for another: a record for each variant, split and pair of kinds that occurs.

    ``share`` is that of the ``times`` that the kind ``there`` is in a picture, per cent, mean over the seeds;
    ``said`` is the kind named for it (:func:`confuse_kinds`); ``pictures`` is "one object" or "all".
    """
    records = []
    for split, scenes in _known_splits(config).items():
        for variant in VARIANTS:
            labelled = _label_runs(config, variant, config.seeds(first_seed), split, scenes)
            shown = [scenes[image] for image in labelled.runs[0].images]
            kinds = [{thing.kind for thing in scene} for scene in shown]
            for pictures, most in (("one object", 1), ("all", math.inf)):
                chosen = [i for i, scene in enumerate(shown) if 0 < len(scene) <= most]
                weights: Counter[tuple[str, str]] = Counter()
                for named in labelled.named:
                    for i in chosen:
                        weights.update(confuse_kinds(kinds[i], named[i]))
                for (there, said), weight in sorted(weights.items()):
                    times = sum(there in kinds[i] for i in chosen)
                    share = estimates.rounded(100 * weight / len(labelled.named) / times)
                    same = {"variant": variant, "split": split, "pictures": pictures}
                    records.append({**same, "there": there, "said": said, "share": share, "times": times})
    return records


def most_confused(records: Sequence[dict[str, Any]], count: int = 5) -> list[dict[str, Any]]:
    """For each variant, split and set of pictures of :func:`count_confusions` the ``count`` greatest shares of wrong
    kinds, of kinds that are in :data:`LEAST` pictures at least.
    """
    wrong = [r for r in records if r["said"] not in (r["there"], NOTHING) and r["times"] >= LEAST]
    greatest = []
    for key in dict.fromkeys((r["variant"], r["split"], r["pictures"]) for r in records):
        same = [r for r in wrong if (r["variant"], r["split"], r["pictures"]) == key]
        greatest += sorted(same, key=lambda r: (-r["share"], r["there"], r["said"]))[:count]
    return greatest


def write_errors(
    config: Config, errors: Mapping[str, list[dict[str, Any]]], confusions: Sequence[dict[str, Any]]
) -> list[Path]:
    """``figures/<profile>/error_analysis.csv`` and ``confusion.csv``, from the two functions above."""
    folder = paths.figures_dir(config.profile)
    return [
        estimates.write_csv(folder / "error_analysis.csv", errors["rows"], TABLE_COLUMNS),
        estimates.write_csv(folder / "confusion.csv", confusions, CONFUSION_COLUMNS),
    ]
