"""The corpus: verified pairs of all splits, merged from the shards of :mod:`bncap.data.translations` (Sec. 4.2.1, 4.2.2).

An id is unique within COCO and within Flickr30k, not across the two: (split, caption_id) names a pair.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bncap.data.images import check_rejects, inspect_pictures, read_pictures
from bncap.data.readers import Caption
from bncap.data.splits import SPLITS, caption_files, check_disjoint, read_splits
from bncap.data.translate import load_translator
from bncap.data.translations import build_shards, no_collection, read_rows, shards_of
from bncap.data.verify import THRESHOLDS, Quality, accept_pairs, calibrate_threshold, measure_filter
from bncap.errors import BncapError
from bncap.pipeline import artifacts
from bncap.pipeline.paths import dataset_roots, step_dir
from bncap.settings import Config, Data

TABLE_HEADER = ("caption_id", "image_id", "en", "target", "similarity", "valid")


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that is used: ``en`` is "" where there is no English side.

    ``image``, and ``synthetic`` where the data set brings a synthetic picture, are paths below the root of the data
    sets; ``similarity`` is Eq. 4's s_i, None where ``target`` was not translated.
    """

    caption_id: int
    image_id: str
    image: str
    split: str
    en: str
    target: str
    similarity: float | None
    synthetic: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """A caption with its translation, valid or not; ``similarity`` is as written, "" where there is none."""

    caption: Caption
    split: str
    en: str
    target: str
    similarity: str
    valid: bool
    fault: str | None = None  # where it is known


@dataclass(slots=True)
class _Tally:
    """What is counted of a split while its captions pass by."""

    captions: int = 0
    accepted: int = 0
    used: int = 0
    images: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    similarity: array = field(default_factory=lambda: array("d"))
    faulty: array = field(default_factory=lambda: array("b"))
    faults: list[tuple[int, str]] = field(default_factory=list)

    def add(self, row: Verified, used: bool) -> None:
        caption = row.caption
        self.captions += 1
        self.accepted += row.valid
        self.used += used
        self.images.add(caption.image)
        self.given.add(caption.split)
        if used:
            self.kept.add(caption.image)
        if row.similarity:
            self.similarity.append(float(row.similarity))
            self.faulty.append(row.fault is not None)
        if row.fault:
            self.faults.append((caption.caption_id, row.fault))

    def counts(self) -> dict[str, float | str]:
        return {
            "captions": self.captions,
            "verified": len(self.similarity),  # the others are in the target language already
            "accepted": self.accepted,
            "accepted_share": round(self.accepted / self.captions, 4) if self.captions else 0.0,
            "without_picture": self.accepted - self.used,  # accepted, but the picture is unusable
            "images": len(self.images),
            "images_dropped": len(self.images - self.kept),  # those without any pair
            "given_split": ", ".join(sorted(self.given - {""})),
        }

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosines of the verified captions, and which of their translations are faulty."""
        return np.array(self.similarity), np.array(self.faulty, dtype=bool)


def build_corpus(config: Config) -> Path:
    """Make, or find finished, the step folder ``01_data_build/corpus-s<seed>`` and return it.

    First looks at the pictures, then makes the shards that are missing, then merges.  Raises :class:`BncapError` for
    missing or malformed data, splits that share a picture, too many unusable pictures, a foreign shard, and a split of
    which no pair is accepted; :class:`OutOfTime` between two chunks of work.
    """
    data = config.data
    with no_collection():
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
        print("data.check_images=False: the pictures are not looked at, and the splits are compared by ids alone")
    shards = dict(zip(shards_of(config, splits), build_shards(config, splits=splits), strict=True))
    names = ("source", "lang", "seed", "threshold", "reject_copies", "check_images", "own_share")
    settings = {name: getattr(data, name) for name in (*names, "validation_images", "test_images", "ood_images")}
    return artifacts.run_step(
        step_dir(config.profile, "01_data_build", "corpus", data.seed),
        settings=settings,
        inputs=[*inputs, *shards.values()],
        build=functools.partial(_merge, config, splits, shards, hashes),
        config=config,
    )


@no_collection()
def read_corpus(folder: Path) -> list[Pair]:
    """The pairs of a finished corpus step, in the order of splits and captions."""
    pairs = []
    with (artifacts.require(folder) / "corpus.csv").open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        next(reader)
        image_id = image = split = ""
        for row in reader:
            # captions of one image share its strings: most of what 400,000 pairs would otherwise weigh
            image_id, image, split = (
                old if old == new else new for old, new in zip((image_id, image, split), row[1:4], strict=True)
            )
            similarity = float(row[6]) if row[6] else None
            pairs.append(Pair(int(row[0]), image_id, image, split, row[4], row[5], similarity, row[7]))
    return pairs


def collect_references(pairs: Iterable[Pair], split: str) -> tuple[list[str], list[list[str]]]:
    """Images of ``split`` (sorted, relative to the root of the datasets) and each one's reference captions."""
    by_image: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.split == split:
            by_image.setdefault(pair.image, []).append(pair.target)
    images = sorted(by_image)
    return images, [by_image[image] for image in images]


@no_collection()
def _merge(
    config: Config,
    splits: Mapping[str, Sequence[Caption]],
    shards: Mapping[str, Path],
    hashes: Mapping[str, str] | None,
    folder: Path,
) -> None:
    """Write the step's files, a shard at a time.  ``hashes``: picture -> SHA-256 of the usable ones; None: unknown."""
    tallies = {split: _Tally() for split in SPLITS}
    with artifacts.atomic(folder / "corpus.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([field.name for field in dataclasses.fields(Pair)])
        for row in _verified(config, splits, shards, folder):
            used = row.valid and (hashes is None or row.caption.image in hashes)
            tallies[row.split].add(row, used)
            if used:
                writer.writerow(_pair_row(row, hashes))
    for split, captions in splits.items():
        images = sorted({(c.image, c.image_id) for c in captions if hashes is None or c.image in hashes})
        listed = ((image_id, image, hashes[image] if hashes else "") for image, image_id in images)
        artifacts.write_csv(folder / "splits" / f"{split}.csv", ("image_id", "image", "sha256"), listed)
    artifacts.write_csv(folder / "acceptance.csv", ("threshold", "split", "accepted"), _acceptance(tallies))
    counts: dict[str, object] = {"threshold": config.data.threshold, "lang": config.data.lang}
    counts["files"] = {part: path.name for part, path in caption_files(config).items()}
    counts["splits"] = {split: tally.counts() for split, tally in tallies.items()}
    if _known_faults(config) and tallies["validation"].faulty.count(0):
        _write_quality(folder, tallies)
        counts["calibrated_threshold"] = calibrate_threshold(*tallies["validation"].known())
    artifacts.write_json(folder / "counts.json", counts)
    _check_pairs(config, tallies, folder)


def _verified(
    config: Config, splits: Mapping[str, Sequence[Caption]], shards: Mapping[str, Path], folder: Path
) -> Iterator[Verified]:
    """Every caption with its translation in the order of :data:`SPLITS`; each shard's table is written on the way."""
    split_of = {caption.image: split for split in SPLITS[1:] for caption in splits[split]}
    faults = _known_faults(config)
    for name, captions in shards_of(config, splits).items():
        rows = [
            Verified(caption, split_of.get(caption.image, "train"), *cells[3:], valid)
            for caption, cells, valid in _judged(config.data, captions, shards[name])
        ]
        if faults:
            known = faults([row.en for row in rows])
            rows = [dataclasses.replace(r, fault=f if r.similarity else None) for r, f in zip(rows, known, strict=True)]
        number = name.partition("of")[0]
        table = f"shards/shard_{number}.csv" if number.isdecimal() else f"evaluation/{name}.csv"
        listed = ((r.caption.caption_id, r.caption.image_id, r.en, r.target, r.similarity, int(r.valid)) for r in rows)
        artifacts.write_csv(folder / table, TABLE_HEADER, listed)
        yield from sorted(rows, key=lambda row: SPLITS.index(row.split))


def _judged(data: Data, captions: Sequence[Caption], shard: Path) -> Iterator[tuple[Caption, list[str], bool]]:
    """Each caption, its row of the shard, and whether the pair is valid.

    What a human wrote in the target language is; an empty translation, or the caption itself, is not at any threshold.
    """
    rows = list(read_rows(shard))
    passed = accept_pairs(np.array([float(row[-1] or "nan") for row in rows]), data.threshold)
    for caption, row, passes in zip(captions, rows, passed, strict=True):
        en, target, similarity = row[3:]
        copied = data.reject_copies and target.strip() == en.strip()  # its cosine is 1: Eq. 4 is blind to it
        yield caption, row, not similarity or bool(passes and target and not copied)


def _known_faults(config: Config) -> Callable[[list[str]], list[str | None]] | None:
    """What tells the faults of the translations; None for a translator of the real world, which cannot."""
    return load_translator(config).faults if config.components.translator.startswith("mini:") else None


def _pair_row(row: Verified, hashes: Mapping[str, str] | None) -> tuple:
    caption = row.caption
    synthetic = caption.synthetic if hashes is None or caption.synthetic in hashes else ""
    return (
        caption.caption_id, caption.image_id, caption.image, row.split, row.en, row.target, row.similarity, synthetic,
    )  # fmt: skip


def _acceptance(tallies: Mapping[str, _Tally]) -> list[tuple]:
    return [
        (f"{threshold:.2f}", split, f"{accept_pairs(np.array(tally.similarity), threshold).mean():.6f}")
        for split, tally in tallies.items()
        for threshold in THRESHOLDS
        if tally.similarity
    ]


def _write_quality(folder: Path, tallies: Mapping[str, _Tally]) -> None:
    header = ("split", *(field.name for field in dataclasses.fields(Quality)))
    quality = [
        (split, *(f"{value:.6g}" for value in dataclasses.astuple(point)))
        for split, tally in tallies.items()
        if tally.faulty.count(0)  # without a faultless pair its recall is undefined
        for point in measure_filter(*tally.known())
    ]
    artifacts.write_csv(folder / "filter_quality.csv", header, quality)
    faulty = [(split, *fault) for split, tally in tallies.items() for fault in tally.faults]
    artifacts.write_csv(folder / "faults.csv", ("split", "caption_id", "fault"), faulty)


def _check_pictures(splits: Mapping[str, Sequence[Caption]], usable: Collection[str], rejected: Path) -> None:
    """Refuse a split without a usable picture: all of a small one may be less than ``data.max_rejected``."""
    for split, captions in splits.items():
        if captions and not any(caption.image in usable for caption in captions):
            raise BncapError(
                f"no picture of the {split} split can be used, such as {captions[0].image}; {rejected} says why"
            )


def _check_pairs(config: Config, tallies: Mapping[str, _Tally], folder: Path) -> None:
    for split, tally in tallies.items():
        what = f"{folder / 'corpus.csv'} has no pair of the {split} split: "
        if tally.captions and not tally.accepted:
            raise BncapError(
                f"{what}none of {tally.captions} captions reaches data.threshold={config.data.threshold}; lower it "
                "(acceptance.csv beside it has the shares) and start again"
            )
        if tally.captions and not tally.used:
            raise BncapError(f"{what}none of its pictures can be used (pictures-s{config.data.seed}/rejected.csv)")
