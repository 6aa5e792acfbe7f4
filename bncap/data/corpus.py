"""The corpus: verified pairs of all splits, merged from the shards of :mod:`bncap.data.translations` (Sec. 4.2.2).

An id is unique within COCO and within Flickr30k, not across the two: (split, caption_id) names a pair.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from bncap.data.images import check_rejects, inspect_pictures, read_pictures
from bncap.data.pairs import PAIR_COLUMNS
from bncap.data.readers import Caption
from bncap.data.splits import SPLITS, caption_files, check_disjoint, read_splits
from bncap.data.translate import load_translator
from bncap.data.translations import assign_shards, build_shards, read_shard
from bncap.data.verify import THRESHOLDS, accept_pairs, calibrate_threshold, measure_filter
from bncap.errors import BncapError
from bncap.mini.translator import MiniTranslator
from bncap.pipeline import artifacts
from bncap.pipeline.paths import dataset_roots, step_dir
from bncap.settings import Config

SHARD_COLUMNS = ("caption_id", "image_id", "en", "target", "similarity", "valid")
"""Columns of ``shards/*.csv`` and ``evaluation/*.csv``, which list every caption with its translation."""


def build_corpus(config: Config) -> Path:
    """Make, or find finished, the step folder ``01_data_build/corpus-s<seed>`` and return it.

    First inspects the pictures, then makes the shards that are missing, then merges.  Raises :class:`BncapError` for
    missing or malformed data, splits that share a picture, too many unusable pictures, a foreign shard, and a split of
    which no pair is accepted; :class:`bncap.errors.OutOfTime` between two chunks of work.
    """
    data = config.data
    splits = read_splits(config)
    inputs = dataset_roots(config) if data.source == "mini" else list(caption_files(config).values())
    hashes = None
    if data.check_images:
        inputs.append(inspect_pictures(config, splits))
        pictures = read_pictures(inputs[-1])
        check_rejects(pictures, data.max_rejected, inputs[-1] / "rejected.csv")
        hashes = {picture.image: picture.sha256 for picture in pictures if not picture.reason}
        check_disjoint(splits, hashes)
        _check_pictures(splits, hashes, inputs[-1] / "rejected.csv")
    else:
        print("data.check_images=False: the pictures are not inspected, and the splits are compared by ids alone")
    shards = dict(zip(assign_shards(config, splits), build_shards(config, splits=splits), strict=True))
    names = ("source", "lang", "seed", "threshold", "reject_copies", "check_images", "own_share")
    settings = {name: getattr(data, name) for name in (*names, "validation_images", "test_images", "ood_images")}
    return artifacts.run_step(
        step_dir(config.profile, "01_data_build", "corpus", data.seed),
        settings=settings,
        inputs=[*inputs, *shards.values()],
        build=functools.partial(_merge, config, splits, shards, hashes),
        config=config,
    )


def _merge(
    config: Config,
    splits: Mapping[str, Sequence[Caption]],
    shards: Mapping[str, Path],
    hashes: Mapping[str, str] | None,
    folder: Path,
) -> None:
    """Write the step's files.  ``hashes``: picture -> SHA-256 of the usable ones; None: unknown."""
    tables = []
    for name, captions in assign_shards(config, splits).items():
        tables.append(_verify_shard(config, splits, captions, shards[name], hashes))
        number = name.partition("of")[0]
        listed = f"shards/shard_{number}.csv" if number.isdecimal() else f"evaluation/{name}.csv"
        _write_table(folder / listed, tables[-1], SHARD_COLUMNS)
    table = pd.concat(tables, ignore_index=True).sort_values("split", kind="stable")  # in the order of SPLITS
    _write_table(folder / "corpus.csv", table[table.used], PAIR_COLUMNS)
    for split, captions in splits.items():
        images = sorted({(c.image, c.image_id) for c in captions if hashes is None or c.image in hashes})
        listed_images = ((image_id, image, hashes[image] if hashes else "") for image, image_id in images)
        artifacts.write_csv(folder / "splits" / f"{split}.csv", ("image_id", "image", "sha256"), listed_images)

    groups = {split: table[table.split == split] for split in SPLITS}
    verified = {split: group[group.similarity != ""] for split, group in groups.items()}
    cosines = {split: group.similarity.astype(float).to_numpy() for split, group in verified.items()}
    shares = [
        (f"{threshold:.2f}", split, f"{accept_pairs(cosines[split], threshold).mean():.6f}")
        for split in SPLITS
        for threshold in THRESHOLDS
        if len(cosines[split])
    ]
    artifacts.write_csv(folder / "acceptance.csv", ("threshold", "split", "accepted"), shares)
    counts: dict[str, object] = {"threshold": config.data.threshold, "lang": config.data.lang}
    counts["files"] = {part: path.name for part, path in caption_files(config).items()}
    counts["splits"] = {split: _count(group) for split, group in groups.items()}
    faulty = {split: group.fault.notna().to_numpy() for split, group in verified.items()}
    if _knows_faults(config) and not faulty["validation"].all():
        _write_quality(folder, cosines, faulty)
        faults = table[table.fault.notna()]
        _write_table(folder / "faults.csv", faults, ("split", "caption_id", "fault"))
        counts["calibrated_threshold"] = calibrate_threshold(cosines["validation"], faulty["validation"])
    artifacts.write_json(folder / "counts.json", counts)
    _check_pairs(config, groups, folder)


def _verify_shard(
    config: Config,
    splits: Mapping[str, Sequence[Caption]],
    captions: Sequence[Caption],
    shard: Path,
    hashes: Mapping[str, str] | None,
) -> pd.DataFrame:
    """A row for each caption: those of the shard, and image, split, given, synthetic, valid, used, fault.

    ``valid``: the pair is accepted; ``used``: its picture can be used, too; ``given``: the data set's own split;
    ``fault``: what is wrong with the translation, None for nothing, or where that is not known.
    """
    table = read_shard(shard)
    split_of = {caption.image: split for split in SPLITS[1:] for caption in splits[split]}
    table["image"] = [caption.image for caption in captions]
    table["split"] = pd.Categorical([split_of.get(caption.image, "train") for caption in captions], SPLITS)
    table["given"] = [caption.split for caption in captions]
    brought = [caption.synthetic for caption in captions]
    table["synthetic"] = [image if hashes is None or image in hashes else "" for image in brought]
    cosine = table.similarity.replace("", "nan").astype(float).to_numpy()
    table["valid"] = find_valid(
        table.en, table.target, cosine, config.data.threshold, reject_copies=config.data.reject_copies
    ).astype(int)
    usable = np.array([hashes is None or caption.image in hashes for caption in captions], dtype=bool)
    table["used"] = table.valid.astype(bool) & usable
    faults: Sequence[str | None] = [None] * len(table)
    if _knows_faults(config):
        faults = cast(MiniTranslator, load_translator(config)).faults(list(table.en))
    table["fault"] = pd.Series(faults, dtype=object).where(table.similarity != "", None)
    return table


def find_valid(
    en: Iterable[str], target: Iterable[str], similarity: np.ndarray, threshold: float, *, reject_copies: bool
) -> np.ndarray:
    """(N,) bool, True for a pair to train on or to compare with; ``similarity`` is NaN where nothing was translated.

    What a human wrote in the target language is valid; an empty translation is not at any threshold, nor, with
    ``reject_copies``, the caption itself: its cosine is 1, and Eq. 4 is blind to it.
    """
    usable = [
        bool(text) and not (reject_copies and text.strip() == caption.strip())
        for caption, text in zip(en, target, strict=True)
    ]
    return np.isnan(similarity) | (accept_pairs(similarity, threshold) & np.array(usable, dtype=bool))


def _knows_faults(config: Config) -> bool:
    """Whether the translator knows its own faults; one of the real world does not."""
    return config.components.translator.startswith("mini:")


def _count(group: pd.DataFrame) -> dict[str, float | str]:
    """The record of one split in ``counts.json``."""
    accepted, images = int(group.valid.sum()), group.image.nunique()
    return {
        "captions": len(group),
        "verified": int((group.similarity != "").sum()),  # the others are in the target language already
        "accepted": accepted,
        "accepted_share": round(accepted / len(group), 4) if len(group) else 0.0,
        "without_picture": accepted - int(group.used.sum()),  # accepted, but the picture is unusable
        "images": images,
        "images_dropped": images - group.image[group.used].nunique(),  # those without any pair
        "given_split": ", ".join(sorted(set(group.given) - {""})),
    }


def _write_quality(folder: Path, cosines: Mapping[str, np.ndarray], faulty: Mapping[str, np.ndarray]) -> None:
    # of a split without a faultless pair the recall is undefined
    curves = {split: measure_filter(cosines[split], faulty[split]) for split in SPLITS if not faulty[split].all()}
    quality = pd.concat(curves, names=["split"]).reset_index("split")
    rows = [(split, *(f"{value:.6g}" for value in point)) for split, *point in quality.itertuples(index=False)]
    artifacts.write_csv(folder / "filter_quality.csv", list(quality), rows)


def _write_table(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    artifacts.write_csv(path, columns, table[[*columns]].itertuples(index=False, name=None))


def _check_pictures(splits: Mapping[str, Sequence[Caption]], usable: Collection[str], rejected: Path) -> None:
    """Refuse a split without a usable picture: all of a small one may be less than ``data.max_rejected``."""
    for split, captions in splits.items():
        if captions and not any(caption.image in usable for caption in captions):
            raise BncapError(
                f"no picture of the {split} split can be used, such as {captions[0].image}; {rejected} says why"
            )


def _check_pairs(config: Config, groups: Mapping[str, pd.DataFrame], folder: Path) -> None:
    for split, group in groups.items():
        fault = f"{folder / 'corpus.csv'} has no pair of the {split} split: "
        if len(group) and not group.valid.any():
            raise BncapError(
                f"{fault}none of {len(group)} captions reaches data.threshold={config.data.threshold}; lower it "
                "(acceptance.csv beside it has the shares) and start again"
            )
        if len(group) and not group.used.any():
            raise BncapError(f"{fault}none of its pictures can be used (pictures-s{config.data.seed}/rejected.csv)")
