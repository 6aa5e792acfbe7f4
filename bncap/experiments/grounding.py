"""Grounding: whether the words look where their objects are, by the boxes of the test pictures.

A noun's map is the cross-attention (Eq. 8's A, mean over heads and the last K layers) of the steps that write it, mean
over its pieces, in a generated caption or in a reference by teacher forcing.  Of each noun whose object has a box in
what the encoder sees there are two measures, ``share``, the mass in the object's boxes, and ``pointing``, whether the
greatest patch's centre lies in one; and both again of what they are to be compared with (:data:`AGAINST`).  The boxes
are the miniature's own, or those of COCO's 80 categories with :mod:`bncap.data.coco_lexicon`; Flickr30k has none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bncap import stats
from bncap.config import BASE, MAIN
from bncap.experiments import boxes, evaluate, noun_attention
from bncap.experiments.boxes import Array
from bncap.experiments.noun_attention import AGAINST, MEASURES
from bncap.experiments.runs import folder_of, inputs_of, load_run, weights_of
from bncap.metrics import Nouns
from bncap.pipeline import artifacts, hub, paths, workers
from bncap.report import grounding_text
from bncap.report.grounding_text import sentences as sentences
from bncap.settings import Config
from bncap.text import iso

STEP = "08_umap_mmd"
VARIANTS = (BASE, "pal", MAIN)
SOURCES = {"generated": "caption", "reference": "reference"}
"""Where a caption comes from -> its column in ``captions_<split>.csv``; of the references a picture's first."""
TABLE_COLUMNS = (
    "variant", "split", "source", "measure", "against", "value", "low", "high", "excludes_zero", "words", "named",
    "counted", "images", "seeds",
)  # fmt: skip
WORD_COLUMNS = ("variant", "split", "source", "image", "word", "kind", "counted")


def build_all(config: Config, first_seed: int) -> list[Path]:
    """:func:`build_grounding` of every seed, side by side."""
    arguments = [(config, seed) for seed in config.seeds(first_seed)]
    return workers.run_parallel(build_grounding, arguments, label="grounding")


def build_grounding(config: Config, seed: int) -> Path:
    """Measure the nouns of the runs of ``seed``: the step folder ``08_umap_mmd/grounding-s<seed>``.

    - ``words.csv``: a row for each noun of :data:`VARIANTS`' captions; ``counted`` is 1 where its kind has a box in
      view, else 0 and without measures (0 to 1), as ``..._other`` is where the picture has no other kind;
    - ``splits.json``: ``images`` of each split that has boxes, and the splits ``without_boxes``.
    """
    runs = [folder_of(config, variant, seed) for variant in VARIANTS]
    lexicon = json.dumps(evaluate.noun_lexicon(config), sort_keys=True).encode()
    return artifacts.run_step(
        paths.step_dir(config.profile, STEP, "grounding", seed),
        settings={
            "columns": [*WORD_COLUMNS, *noun_attention.COLUMNS],
            "lexicon_sha256": hashlib.sha256(lexicon).hexdigest(),
            "centre_spread": boxes.CENTRE_SPREAD,
            "max_tokens": config.model.max_tokens,
            "batch": config.decode.batch,
        },
        inputs=[
            *runs,
            *(weights_of(config, variant, seed) for variant in VARIANTS),
            inputs_of(config, MAIN).features,
            _pictures(config),
            *evaluate.objects_files(config).values(),
        ],
        components=[config.components.encoder],
        build=functools.partial(_build, config, seed),
        config=config,
    )


def _build(config: Config, seed: int, folder: Path) -> None:
    from bncap.device import default_device
    from bncap.encoders.feature_store import FeatureStore

    objects = {split: evaluate.objects_of(config, split) for split in evaluate.SPLITS}
    without = [split for split, known in objects.items() if known is None]
    for split in without:
        print(f"grounding: no boxes, or no words for them, for the pictures of the {split} split; it is left out")
    known = [split for split in objects if split not in without]
    store = FeatureStore(inputs_of(config, MAIN).features)
    nouns = Nouns(evaluate.noun_lexicon(config), iso(config.data.lang))
    view_of = _views(config)
    rows, scenes, images = [], {}, {}
    with workers.one_thread():
        for variant in VARIANTS:
            model = load_run(config, variant, weights_of(config, variant, seed)).to(default_device()).eval()
            for split in known:
                captions = artifacts.read_csv(folder_of(config, variant, seed) / f"captions_{split}.csv")
                images[split] = [row["image"] for row in captions]
                features = store.take(split, store.rows(split, images[split]))
                side = round(features.shape[1] ** 0.5)
                if split not in scenes:  # the runs of all variants have the same pictures
                    there = {image: evaluate.objects_in(objects[split], image) for image in images[split]}
                    scenes[split] = {
                        image: noun_attention.scene(what, view_of(image), side) for image, what in there.items()
                    }
                for source, column in SOURCES.items():
                    texts = [row[column] for row in captions]
                    found = list(noun_attention.find_looks(model, nouns, images[split], features, texts, config))
                    rows += [[variant, split, source, *row] for row in _rows(found, scenes[split])]
    artifacts.write_csv(folder / "words.csv", (*WORD_COLUMNS, *noun_attention.COLUMNS), rows)
    counts = {split: len(found) for split, found in images.items()}
    artifacts.write_json(folder / "splits.json", {"images": counts, "without_boxes": without})


def _views(config: Config) -> Callable[[str], boxes.View]:
    """What gives the part of a picture that the encoder sees."""
    from bncap.data.images import read_pictures
    from bncap.encoders.features import Encoder

    transform = Encoder(hub.path(config, config.components.encoder)).transform
    sizes = {picture.image: (picture.width, picture.height) for picture in read_pictures(_pictures(config))}
    view_of = functools.cache(functools.partial(boxes.view_of, transform))
    return lambda image: view_of(sizes[image])


def _rows(found: Sequence[noun_attention.Look], scenes: Mapping[str, noun_attention.Scene]) -> Iterator[list]:
    """The rest of the rows of ``words.csv``, in the order of ``found``."""
    counted = [look for look in found if look.kind in scenes[look.image]]
    measured = iter(noun_attention.measure(counted, scenes) if counted else ())
    for look in found:
        here = look.kind in scenes[look.image]
        values = next(measured) if here else np.full(len(noun_attention.COLUMNS), np.nan)
        cells = ("" if np.isnan(value) else f"{value:.6f}" for value in values)
        yield [look.image, look.word, look.kind, int(here), *cells]


def _pictures(config: Config) -> Path:
    return paths.step_dir(config.profile, "01_data_build", "pictures", config.data.seed)


def summarise(config: Config, first_seed: int) -> dict[str, Any]:
    """What the words of all seeds come to, for ``results.json``; numbers of per cent, rounded, None where not known.

    - ``rows``: the mean over nouns, then over seeds, of each measure and of what it is compared with, such as
      ``share_chance``, with its 95 % interval (crossed bootstrap over images and seeds); ``words``, those counted, of
      the ``named`` ones, over all seeds; ``counted``, their share; ``images`` and ``seeds``;
    - ``differences``: of each measure ``against`` each of :data:`AGAINST`, noun by noun, and the other variants'
      against :data:`BASE`, whose captions name other nouns where they are generated;
    - ``without_boxes``: the splits that are left out.
    """
    seeds = config.seeds(first_seed)
    folders = [artifacts.require(paths.step_dir(config.profile, STEP, "grounding", seed)) for seed in seeds]
    known = artifacts.read_json(folders[0] / "splits.json")
    words = pd.concat(
        [pd.read_csv(folder / "words.csv").assign(seed=seed) for folder, seed in zip(folders, seeds, strict=True)]
    )
    rows, differences = [], []
    for split in (split for split in evaluate.SPLITS if split in known["images"]):
        images = known["images"][split]
        drawn = stats.resamples(images, len(seeds), seed=first_seed)
        here = words[words["split"] == split]
        # one number a picture for all variants, as their samples are paired; those without a noun come last
        here = here.assign(picture=pd.factorize(here["image"])[0])
        for source in SOURCES:
            found = {}
            for variant in VARIANTS:
                place = {"variant": variant, "split": split, "source": source}
                chosen = here[(here["variant"] == variant) & (here["source"] == source)]
                found[variant] = _estimates(chosen, images, seeds, drawn)
                sizes = {"words": int(chosen["counted"].sum()), "named": len(chosen)}
                sizes |= {"counted": _percent(chosen["counted"].mean()), "images": images, "seeds": len(seeds)}
                for name in noun_attention.COLUMNS:
                    rows.append({**place, "measure": name, **_record("value", *found[variant][name]), **sizes})
                for measure in MEASURES:
                    others = {other: found[variant][f"{measure}-{other}"] for other in AGAINST}
                    if variant != BASE:
                        own, base = found[variant][measure], found[BASE][measure]
                        others = {BASE: (own[0] - base[0], own[1] - base[1]), **others}
                    for against, estimate in others.items():
                        same = {**place, "against": against, "measure": measure}
                        differences.append({**same, **_record("difference", *estimate)})
    return {"rows": rows, "differences": differences, "without_boxes": known["without_boxes"]}


Estimate = tuple[float, Array]
"""A mean over nouns and then seeds, and what it is in each of R resamples."""


def _estimates(words: pd.DataFrame, images: int, seeds: Sequence[int], drawn: stats.Resamples) -> dict[str, Estimate]:
    """Of each column, and of each measure less what it is compared with."""
    values = {name: words[name].to_numpy(float) for name in noun_attention.COLUMNS}
    values |= {f"{m}-{a}": values[m] - values[f"{m}_{a}"] for m in MEASURES for a in AGAINST}
    columns = np.stack(list(values.values()), axis=1)  # (words, columns)
    place = words["picture"].to_numpy(), pd.Categorical(words["seed"], categories=seeds).codes
    sums, counts = np.zeros((2, images, len(seeds), columns.shape[1]))
    np.add.at(sums, place, np.nan_to_num(columns))
    np.add.at(counts, place, ~np.isnan(columns))
    with np.errstate(invalid="ignore"):  # a seed without a noun has no mean
        whole = (sums.sum(axis=0) / counts.sum(axis=0)).mean(axis=0)
        per_seed = np.tensordot(drawn.items, sums, 1) / np.tensordot(drawn.items, counts, 1)  # (R, seeds, columns)
    return {name: (float(whole[i]), drawn.over_seeds(per_seed[:, :, i])) for i, name in enumerate(values)}


def _record(name: str, value: float, replicates: Array) -> dict[str, Any]:
    known = replicates[np.isfinite(replicates)]
    if not len(known) or math.isnan(value):
        return {name: None, "low": None, "high": None, "excludes_zero": False}
    found = stats.interval(value, known)
    numbers = {key: _percent(number) for key, number in ((name, value), ("low", found.low), ("high", found.high))}
    return {**numbers, "excludes_zero": found.excludes_zero}


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * float(share), 4)


def write_table(config: Config, found: Mapping[str, Any]) -> Path:
    """Write ``figures/<profile>/grounding.csv``, all that :func:`summarise` ``found``, and ``.md``; returns the former.

    A difference stands in its line's ``value``; ``against`` is empty for what is none.
    """
    path = paths.figures_dir(config.profile) / "grounding.csv"
    own = [{**row, "against": ""} for row in found["rows"]]
    differences = [{**row, "value": row["difference"]} for row in found["differences"]]
    lines = ([_cell(row.get(name)) for name in TABLE_COLUMNS] for row in own + differences)
    artifacts.write_csv(path, TABLE_COLUMNS, lines)
    artifacts.write_text(path.with_suffix(".md"), grounding_text.markdown(found))
    return path


def _cell(value: object) -> object:
    return "" if value is None else int(value) if isinstance(value, bool) else value
