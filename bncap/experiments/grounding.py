"""Grounding: the share of a noun's attention that lies in the boxes of its object, in the test pictures.

A noun's map is the cross-attention (Eq. 8's A, mean over heads and the last K layers) of the steps that write it, mean
over its pieces.  It gives each of S = side x side patches a share, row by row from the top left, and sums to 1.  Of
each noun whose object has a box in what the encoder sees there are two measures, ``share``, the mass in the object's
boxes, and ``pointing``, whether the greatest patch's centre lies in one; and both again of what they are compared with
(:data:`AGAINST`).  The boxes are the miniature's own, or those of
COCO's 80 categories with :data:`bncap.data.readers.NOUN_LEXICON_BN`; Flickr30k has none.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bncap import stats
from bncap.config import BASE, MAIN
from bncap.data.images import read_pictures
from bncap.decoders import decode
from bncap.decoders.captioner import CaptionModel
from bncap.device import default_device
from bncap.encoders.features import Encoder, FeatureStore
from bncap.errors import BncapError
from bncap.experiments import estimates, evaluate
from bncap.experiments.runs import inputs_of, run_dir, weights_dir
from bncap.metrics import Nouns
from bncap.pipeline import artifacts, hub, paths, workers
from bncap.settings import Config
from bncap.text import iso, tokenise

STEP = "08_umap_mmd"
VARIANTS = (BASE, "pal", MAIN)
SOURCES = {"generated": "caption", "reference": "reference"}
"""Where a caption comes from -> its column in ``captions_<split>.csv``; of the references a picture's first."""
MEASURES = ("share", "pointing")
AGAINST = ("chance", "centre", "mean_map", "other")
"""A uniform map; a round one in the middle; the mean of the nouns' own maps (same run, split and source), which knows
no picture; and the noun's map on the boxes of each other kind in the picture, mean over them, where there is one."""
MEASURE_COLUMNS = tuple(f"{m}{a}" for a in ("", *(f"_{name}" for name in AGAINST)) for m in MEASURES)
"""Columns of :func:`measure_nouns`."""
WORD_COLUMNS = ("variant", "split", "source", "image", "word", "kind", "counted")
TABLE_COLUMNS = (
    "variant", "split", "source", "measure", "against", "value", "low", "high", "excludes_zero", "words", "named",
    "counted", "images", "seeds",
)  # fmt: skip

CENTRE_SPREAD = 0.25
"""Standard deviation of the map around the middle, in sides of the view."""
RESIZING = ("Resize", "ResizeKeepRatio")
CROPPING = ("CenterCrop", "CenterCropOrPad")
NO_GEOMETRY = ("ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ConvertImageDtype", "Normalize")

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""x, y, width, height in px, x to the right and y downwards."""
Region = tuple[Array, NDArray[np.bool_]]
"""The share of each patch in an object's boxes, and whether the patch's centre is in one, (S,) each."""
Regions = Mapping[str, Region]
"""Kind -> its region in a picture; kinds in view only."""


@dataclass(frozen=True)
class NounAttention:
    """A noun of a caption of ``image`` and its map (S,)."""

    image: str
    word: str
    kind: str
    map: np.ndarray


def build_groundings(config: Config, first_seed: int) -> list[Path]:
    """:func:`build_grounding` of every seed, side by side."""
    arguments = [(config, seed) for seed in config.seeds(first_seed)]
    return workers.run_parallel(build_grounding, arguments, label="grounding")


def build_grounding(config: Config, seed: int) -> Path:
    """Measure the nouns of the runs of ``seed``: the step folder ``08_umap_mmd/grounding-s<seed>``.

    - ``words.csv``: a row for each noun of :data:`VARIANTS`' captions; ``counted`` is 1 where its kind has a box in
      view, else 0 and without measures (0 to 1), as ``..._other`` is where the picture has no other kind;
    - ``splits.json``: ``images`` of each split that has boxes, and the splits ``without_boxes``.
    """
    runs = [run_dir(config, variant, seed) for variant in VARIANTS]
    weights = [weights_dir(config, variant, seed) for variant in VARIANTS]
    data = [inputs_of(config, MAIN).features, _pictures(config), *evaluate.objects_files(config).values()]
    lexicon = json.dumps(evaluate.noun_lexicon(config), sort_keys=True).encode()
    settings = {
        "columns": [*WORD_COLUMNS, *MEASURE_COLUMNS], "lexicon_sha256": hashlib.sha256(lexicon).hexdigest(),
        "centre_spread": CENTRE_SPREAD, "max_tokens": config.model.max_tokens, "batch": config.decode.batch,
    }  # fmt: skip
    return artifacts.run_step(
        paths.step_dir(config.profile, STEP, "grounding", seed),
        settings=settings,
        inputs=[*runs, *weights, *data],
        components=[config.components.encoder],
        build=functools.partial(_build, config, seed),
        config=config,
    )


def _build(config: Config, seed: int, folder: Path) -> None:
    found = {split: evaluate.objects_of(config, split) for split in evaluate.SPLITS}
    objects = {split: own for split, own in found.items() if own is not None}
    without = [split for split in found if split not in objects]
    for split in without:
        print(f"grounding: no boxes, or no words for them, for the pictures of the {split} split; it is left out")
    store = FeatureStore(inputs_of(config, MAIN).features)
    nouns = Nouns(evaluate.noun_lexicon(config), iso(config.data.lang))
    transform = Encoder(hub.path(config, config.components.encoder)).transform
    sizes = {picture.image: (picture.width, picture.height) for picture in read_pictures(_pictures(config))}
    view_of = functools.cache(functools.partial(find_view, transform))
    rows, regions, images = [], {}, {}
    with workers.one_thread():
        for variant in VARIANTS:
            model = evaluate.load_run(config, variant, weights_dir(config, variant, seed)).to(default_device()).eval()
            for split in objects:
                captions = artifacts.read_csv(run_dir(config, variant, seed) / f"captions_{split}.csv")
                images[split] = [row["image"] for row in captions]
                features = store.take(split, store.rows(split, images[split]))
                side = round(features.shape[1] ** 0.5)
                if split not in regions:  # the runs of all variants have the same pictures
                    regions[split] = {
                        image: cover_objects(evaluate.objects_in(objects[split], image), view_of(sizes[image]), side)
                        for image in images[split]
                    }
                for source, column in SOURCES.items():
                    texts = [row[column] for row in captions]
                    attended = list(attend_nouns(model, nouns, images[split], features, texts, config))
                    rows += [[variant, split, source, *row] for row in _word_rows(attended, regions[split])]
    artifacts.write_csv(folder / "words.csv", (*WORD_COLUMNS, *MEASURE_COLUMNS), rows)
    counts = {split: len(pictures) for split, pictures in images.items()}
    artifacts.write_json(folder / "splits.json", {"images": counts, "without_boxes": without})


def _word_rows(nouns: Sequence[NounAttention], regions: Mapping[str, Regions]) -> Iterator[list]:
    """The rest of the rows of ``words.csv``, in the order of ``nouns``."""
    counted = [noun for noun in nouns if noun.kind in regions[noun.image]]
    measured = iter(measure_nouns(counted, regions) if counted else ())
    for noun in nouns:
        in_view = noun.kind in regions[noun.image]
        values = next(measured) if in_view else np.full(len(MEASURE_COLUMNS), np.nan)
        cells = ("" if np.isnan(value) else f"{value:.6f}" for value in values)
        yield [noun.image, noun.word, noun.kind, int(in_view), *cells]


def _pictures(config: Config) -> Path:
    return paths.step_dir(config.profile, "01_data_build", "pictures", config.data.seed)


def cover_objects(objects: Sequence[evaluate.Object], view: View, side: int) -> Regions:
    """The regions of a picture's objects on the grid of patches, of each kind in view."""
    kinds: dict[str, list[Box]] = {}
    for kind, box in objects:
        kinds.setdefault(kind, []).append(box)
    regions = {kind: cover_patches(kinds[kind], view, side) for kind in sorted(kinds)}
    return {kind: region for kind, region in regions.items() if region[0].any()}


def attend_nouns(
    model: CaptionModel, nouns: Nouns, images: Sequence[str], features: Tensor, texts: Sequence[str], config: Config
) -> Iterator[NounAttention]:
    """The nouns of ``texts``, captions of ``images`` with their (N, S, C) ``features``, by teacher forcing in batches.

    A noun's map is the mean over its words, each the mean over its pieces; see
    :func:`bncap.decoders.decode.word_attentions`.
    """
    size = config.decode.batch
    for start in range(0, len(texts), size):
        batch = slice(start, start + size)
        found = decode.word_attentions(model, features[batch], texts[batch], config.model.max_tokens)
        for image, words in zip(images[batch], found, strict=True):
            # punctuation is part of a word of the model, and none of a word of the lexicon
            pieces = [(token, i) for i, word in enumerate(words) for token in tokenise(word.word, nouns.lang)]
            for first, end, kind in nouns.find([token for token, _ in pieces]):
                own = sorted({i for _, i in pieces[first:end]})
                phrase = " ".join(token for token, _ in pieces[first:end])
                weights = np.mean([words[i].weights for i in own], axis=0, dtype=np.float64)
                yield NounAttention(image, phrase, kind, np.asarray(weights))


def measure_nouns(nouns: Sequence[NounAttention], regions: Mapping[str, Regions]) -> Array:
    """(M, len(MEASURE_COLUMNS)): both measures of M nouns, then of each of :data:`AGAINST`; NaN without another kind.

    regions: picture -> its regions; a noun's own kind has to be among them.
    """
    maps = np.stack([noun.map for noun in nouns])  # (M, S)
    unknown = np.full((2, maps.shape[1]), np.nan)
    own, others = [], []  # (2, S) each; as both measures are linear in a region, that of a mean is their mean
    for noun in nouns:
        there = {kind: np.stack(region).astype(np.float64) for kind, region in regions[noun.image].items()}
        own.append(there.pop(noun.kind))
        others.append(np.mean(list(there.values()), axis=0) if there else unknown)
    uniform = np.full_like(maps, 1 / maps.shape[1])
    centre = np.broadcast_to(centre_map(round(maps.shape[1] ** 0.5)), maps.shape)
    mean_map = np.broadcast_to(maps.mean(axis=0), maps.shape)
    columns = []
    for shown, found in ((maps, own), (uniform, own), (centre, own), (mean_map, own), (maps, others)):
        covered, centres = np.stack(found, axis=1)  # (M, S) each
        columns += [mass_inside(shown, covered), pointing_game(shown, centres)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class View:
    """The rectangle of a picture that the encoder sees, in px of the upright picture; outside of it is padding."""

    left: float
    top: float
    right: float
    bottom: float


def find_view(transform: Any, size: tuple[int, int]) -> View:
    """What ``transform``, one of timm's for evaluation, leaves of an upright picture of ``size`` (width, height) px.

    Raises :class:`BncapError` for a transform with a step whose geometry is not known here.
    """
    picture = np.array(size, dtype=float)
    scaled, corner, seen = picture, np.zeros(2), picture  # in px after the steps so far
    for step in transform.transforms:
        name = type(step).__name__
        if name in RESIZING:
            # the step itself is applied, as it has its own rounding
            scaled = seen = np.array(step(Image.new("1", size)).size, dtype=float)
        elif name in CROPPING:
            seen = np.broadcast_to(step.size, 2)[::-1].astype(float)  # (width, height); a step has (height, width)
            spare = scaled - seen
            corner = np.where(spare < 0, -((-spare) // 2), np.round(spare / 2))
        elif name not in NO_GEOMETRY:
            raise BncapError(
                f"the encoder's transform has a step {name}, whose crop of a picture is not known; "
                f"use an encoder with {', '.join(RESIZING + CROPPING)}"
            )
    return View(*(corner * picture / scaled).tolist(), *((corner + seen) * picture / scaled).tolist())


def crop_box(box: Box, view: View, size: tuple[int, int]) -> Box:
    """A box of the upright picture in px of what the encoder sees, a picture of ``size`` (width, height)."""
    left, top, width, height = box
    across, down = size[0] / (view.right - view.left), size[1] / (view.bottom - view.top)
    return (left - view.left) * across, (top - view.top) * down, width * across, height * down


def cover_patches(boxes: Sequence[Box], view: View, side: int) -> Region:
    """The union of ``boxes`` on the grid: the share of each patch's area in it, (S,) in [0, 1], exact, and whether the
    patch's centre is in it, (S,).
    """
    corners = np.array([(x, y, x + width, y + height) for x, y, width, height in boxes]).reshape(-1, 4)
    scale = side / np.array([view.right - view.left, view.bottom - view.top])
    corners = np.clip((corners - [view.left, view.top] * 2) * np.tile(scale, 2), 0, side)  # (N, 4) in patches
    lines = np.arange(side + 1.0)
    xs, ys = (np.union1d(lines, corners[:, [axis, axis + 2]]) for axis in (0, 1))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2  # no edge of a box or patch is between two of the lines
    area = _inside(corners, x, y) * np.outer(np.diff(ys), np.diff(xs))
    covered = np.zeros((side, side))
    np.add.at(covered, np.ix_(y.astype(int), x.astype(int)), area)
    centres = lines[:-1] + 0.5
    return covered.ravel().clip(max=1), _inside(corners, centres, centres).ravel()


def _inside(corners: Array, x: Array, y: Array) -> NDArray[np.bool_]:
    """(len(y), len(x)): whether any of the boxes (N, 4) holds the point."""
    x0, y0, x1, y1 = corners.T[:, :, None]  # each (N, 1)
    columns, rows = (x0 <= x) & (x < x1), (y0 <= y) & (y < y1)
    return (rows[:, :, None] & columns[:, None, :]).any(axis=0)


def mass_inside(maps: Array, covered: Array) -> Array:
    """Share of each map's mass in its region, a patch that is cut by a box's edge counting in part.

    maps, covered: (M, S).  Returns (M,) in [0, 1]; a uniform map has the region's share of the view.
    """
    return (maps * covered).sum(axis=-1)


def pointing_game(maps: Array, centres: NDArray) -> Array:
    """The pointing game (Zhang et al., ECCV 2016) on patches: 1 where the centre of a map's greatest patch is in its
    region, else 0; where several are greatest, the share of them, so that a uniform map has the chance of a hit.

    maps, centres: (M, S).  Returns (M,) in [0, 1].
    """
    greatest = maps == maps.max(axis=-1, keepdims=True)
    return (greatest * centres).sum(axis=-1) / greatest.sum(axis=-1)


def centre_map(side: int) -> Array:
    """A map (S,) around the middle, whatever the picture: a round Gaussian of :data:`CENTRE_SPREAD`."""
    offsets = (np.arange(side) + 0.5) / side - 0.5
    line = np.exp(-((offsets / CENTRE_SPREAD) ** 2) / 2)
    grid = np.outer(line, line)
    return (grid / grid.sum()).ravel()


def summarise_grounding(config: Config, first_seed: int) -> dict[str, Any]:
    """What the words of all seeds come to, for ``results.json``; numbers of per cent, rounded, None where not known.

    - ``rows``: the mean over nouns, then over seeds, of each measure and of what it is compared with, such as
      ``share_chance``, with its 95 % interval (crossed bootstrap over images and seeds); ``words``, those counted, of
      the ``named`` ones, over all seeds; ``counted``, their share;
    - ``differences``: of each measure ``against`` each of :data:`AGAINST`, noun by noun, and of other variants against
      :data:`BASE`;
    - ``without_boxes``: the splits that are left out.
    """
    seeds = config.seeds(first_seed)
    folders = [artifacts.require(paths.step_dir(config.profile, STEP, "grounding", seed)) for seed in seeds]
    splits = artifacts.read_json(folders[0] / "splits.json")
    words = pd.concat([pd.read_csv(f / "words.csv").assign(seed=s) for f, s in zip(folders, seeds, strict=True)])
    rows, differences = [], []
    for split in (split for split in evaluate.SPLITS if split in splits["images"]):
        images = splits["images"][split]
        samples = stats.resamples(images, len(seeds), seed=first_seed)
        in_split = words[words["split"] == split]
        # one number a picture for all variants, as their samples are paired; those without a noun come last
        in_split = in_split.assign(picture=pd.factorize(in_split["image"])[0])
        for source in SOURCES:
            measured: dict[str, dict[str, Estimate]] = {}
            for variant in VARIANTS:
                same = {"variant": variant, "split": split, "source": source}
                own = in_split[(in_split["variant"] == variant) & (in_split["source"] == source)]
                measured[variant] = _mean_over_nouns(own, images, seeds, samples)
                counts: dict[str, Any] = {"words": int(own["counted"].sum()), "named": len(own)}
                share = estimates.rounded(100 * own["counted"].mean())
                counts |= {"counted": share, "images": images, "seeds": len(seeds)}
                for name in MEASURE_COLUMNS:
                    estimate = estimates.bootstrap_estimate("value", *measured[variant][name])
                    rows.append({**same, "measure": name, **estimate, **counts})
                for measure in MEASURES:
                    compared = {other: measured[variant][f"{measure}-{other}"] for other in AGAINST}
                    if variant != BASE:
                        (mean, replicates), (base, of_base) = (measured[v][measure] for v in (variant, BASE))
                        compared = {BASE: (mean - base, replicates - of_base), **compared}
                    for against, difference in compared.items():
                        estimate = estimates.bootstrap_estimate("difference", *difference)
                        differences.append({**same, "against": against, "measure": measure, **estimate})
    return {"rows": rows, "differences": differences, "without_boxes": splits["without_boxes"]}


Estimate = tuple[float, Array]
"""A mean over nouns and then seeds, in per cent, and what it is in each of R resamples."""


def _mean_over_nouns(
    words: pd.DataFrame, images: int, seeds: Sequence[int], samples: stats.Resamples
) -> dict[str, Estimate]:
    """Of each column, and of each measure less what it is compared with."""
    values = {name: 100 * words[name].to_numpy(float) for name in MEASURE_COLUMNS}
    values |= {f"{m}-{a}": values[m] - values[f"{m}_{a}"] for m in MEASURES for a in AGAINST}
    columns = np.stack(list(values.values()), axis=1)  # (words, columns)
    place = words["picture"].to_numpy(), pd.Categorical(words["seed"], categories=seeds).codes
    sums, counts = np.zeros((2, images, len(seeds), columns.shape[1]))
    np.add.at(sums, place, np.nan_to_num(columns))
    np.add.at(counts, place, ~np.isnan(columns))
    with np.errstate(invalid="ignore"):  # a seed without a noun has no mean
        means = (sums.sum(axis=0) / counts.sum(axis=0)).mean(axis=0)
        per_seed = np.tensordot(samples.items, sums, 1) / np.tensordot(samples.items, counts, 1)  # (R, seeds, columns)
    return {name: (float(means[i]), samples.over_seeds(per_seed[:, :, i])) for i, name in enumerate(values)}


def write_grounding(config: Config, content: Mapping[str, Any]) -> Path:
    """Write ``figures/<profile>/grounding.csv``; a difference stands in the column ``value``, with its ``against``."""
    differences = [{**record, "value": record["difference"]} for record in content["differences"]]
    path = paths.figures_dir(config.profile) / "grounding.csv"
    return estimates.write_csv(path, [*content["rows"], *differences], TABLE_COLUMNS)
