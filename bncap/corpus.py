"""The corpus of verified pairs: COCO's captions translated, verified (Eq. 4), split (Sec. 4.2.1, 4.2.2 and 5.1).

train: all captions of train2014; validation and test: images drawn from val2014; ood: images drawn from Flickr30k.
An id is unique within COCO and within Flickr30k, not across the two: (split, caption_id) names a pair.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from bncap import artifacts
from bncap.captions import Caption, check_image, images_of, read_coco, read_flickr_csv
from bncap.errors import BncapError
from bncap.paths import dataset_root, model_path, step_dir
from bncap.settings import Config, Data
from bncap.translate import Translator, load_translator
from bncap.verify import THRESHOLDS, Quality, Verifier, accepted, calibrate, quality_curve

SPLITS = ("train", "validation", "test", "ood")
SOURCES = ("annotations/captions_train2014.json", "annotations/captions_val2014.json", "flickr30k/results.csv")
TABLE_HEADER = ("caption_id", "image_id", "en", "bn", "similarity", "valid")


@dataclass(frozen=True)
class Pair:
    """An accepted pair; ``image`` is relative to the root of the datasets, ``similarity`` is Eq. 4's s_i."""

    caption_id: int
    image_id: str
    image: str
    split: str
    en: str
    bn: str
    similarity: float


@dataclass(frozen=True)
class Verified:
    """A caption with its translation, accepted or not; ``fault`` is None where no fault is known."""

    split: str
    caption: Caption
    bn: str
    similarity: float
    valid: bool
    fault: str | None = None


def build_corpus(config: Config) -> Path:
    """Make, or find finished, the step folder ``01_data_build/corpus-s<seed>`` and return it.

    An interrupted build goes on at the first table (``shards/shard_NN.csv``, ``evaluation/*.csv``) that is missing.
    Raises :class:`BncapError` for missing or malformed data, and for splits that share an image.
    """
    data, parts = config.data, config.components
    root = dataset_root(config)
    names = ("source", "lang", "seed", "shards", "translation_batch", "threshold", "reject_copies")
    settings = {name: getattr(data, name) for name in (*names, "validation_images", "test_images", "ood_images")}
    settings |= {"translator": parts.translator, "verifier": parts.verifier}
    if parts.translator.startswith("mini:"):
        settings["fault_rate"] = config.world.fault_rate
    inputs = [root] if data.source == "mini" else [_existing(root / name) for name in SOURCES]
    if parts.verifier.startswith("mini:"):
        inputs.append(Path(model_path(config, parts.verifier)))
    folder = step_dir(config.profile, "01_data_build", "corpus", data.seed)
    build = functools.partial(_build, config)
    return artifacts.run_step(folder, settings=settings, inputs=inputs, build=build, config=config)


def read_corpus(folder: Path) -> list[Pair]:
    """The accepted pairs of a finished corpus step, in the order of splits and captions."""
    return [
        Pair(**row | {"caption_id": int(row["caption_id"]), "similarity": float(row["similarity"])})
        for row in artifacts.read_csv(artifacts.require(folder) / "corpus.csv")
    ]


def references(pairs: Iterable[Pair], split: str) -> tuple[list[str], list[list[str]]]:
    """Images of ``split`` (sorted, relative to the root of the datasets) and each one's reference captions."""
    by_image: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.split == split:
            by_image.setdefault(pair.image, []).append(pair.bn)
    images = sorted(by_image)
    return images, [by_image[image] for image in images]


def draw_images(captions: Sequence[Caption], sizes: Mapping[str, int], seed: int) -> dict[str, list[Caption]]:
    """Captions of so many images for each split of ``sizes``, drawn without overlap; captions keep their order.

    Raises :class:`BncapError` if there are fewer images than asked for.
    """
    images = images_of(captions)
    wanted = sum(sizes.values())
    if len(images) < wanted:
        fields = " + ".join(f"data.{split}_images" for split in sizes)
        raise BncapError(f"{Path(images[0]).parent if images else 'the dataset'} has {len(images)} captioned images, "
                         f"{fields} asks for {wanted}; lower them")  # fmt: skip
    order = iter(np.random.default_rng(seed).permutation(len(images)))
    split_of = {images[next(order)]: split for split, size in sizes.items() for _ in range(size)}
    drawn: dict[str, list[Caption]] = {split: [] for split in sizes}
    for caption in captions:
        if caption.image in split_of:
            drawn[split_of[caption.image]].append(caption)
    return drawn


def check_disjoint(splits: Mapping[str, Iterable[Caption | Pair]], root: Path) -> None:
    """Raise :class:`BncapError`, with the image, if two splits share an image by id or by the bytes of its file.

    Also if an image file is missing.  Only files whose size occurs in two splits are hashed, the others must differ.
    """
    of_id: dict[tuple[bool, str], tuple[str, str]] = {}
    of_size: dict[int, dict[str, str]] = {}
    for split, captions in splits.items():
        named = {caption.image: caption.image_id for caption in captions}
        for image, image_id in sorted(named.items()):
            _claim(of_id, (split == "ood", image_id), split, image, f"the image id {image_id}")
            of_size.setdefault(_existing(root / image).stat().st_size, {})[image] = split
    of_hash: dict[str, tuple[str, str]] = {}
    for images in of_size.values():
        if len(set(images.values())) > 1:
            for image, split in images.items():
                _claim(of_hash, artifacts.file_hash(root / image), split, image, "the same file")


def read_splits(config: Config) -> dict[str, list[Caption]]:
    """The English captions of each split; checked: disjoint, images present, evaluation images decodable."""
    data, root = config.data, dataset_root(config)
    train_file, val_file, flickr_file = (root / name for name in SOURCES)
    splits = {"train": read_coco(train_file, "train2014")}
    sizes = {"validation": data.validation_images, "test": data.test_images}
    splits |= draw_images(read_coco(val_file, "val2014"), sizes, data.seed)
    flickr = read_flickr_csv(flickr_file, "flickr30k/flickr30k_images")
    splits |= draw_images(flickr, {"ood": data.ood_images}, data.seed)
    check_disjoint(splits, root)
    for split in SPLITS[1:]:
        for image in images_of(splits[split]):
            check_image(root / image)
    return splits


def _build(config: Config, folder: Path) -> None:
    data = config.data
    tables = _plan(read_splits(config), data.shards)
    translator = load_translator(config)
    missing = [name for name in tables if not (folder / name).is_file()]
    if missing:
        verifier = Verifier(model_path(config, config.components.verifier))
        with tqdm(total=sum(len(tables[name]) for name in missing), desc="translate, verify", unit="caption") as bar:
            for name in missing:
                captions = [caption for _, caption in tables[name]]
                rows = _translate(captions, translator, verifier, data, bar)
                artifacts.write_csv(folder / name, TABLE_HEADER, rows)
    verified = _merge(folder, tables)
    if hasattr(translator, "faults"):
        faults = translator.faults([row.caption.text for row in verified])
        verified = [dataclasses.replace(row, fault=fault) for row, fault in zip(verified, faults, strict=True)]
    header = [field.name for field in dataclasses.fields(Pair)]
    artifacts.write_csv(folder / "corpus.csv", header, (_pair_row(row) for row in verified if row.valid))
    by_split = {split: [row for row in verified if row.split == split] for split in SPLITS}
    counts: dict[str, object] = {"threshold": data.threshold}
    counts["splits"] = {split: _counts(rows) for split, rows in by_split.items()}
    artifacts.write_csv(folder / "acceptance.csv", ("threshold", "split", "accepted"), _acceptance(by_split))
    if hasattr(translator, "faults"):
        _write_quality(folder, {split: rows for split, rows in by_split.items() if rows})
        counts["calibrated_threshold"] = calibrate(*_known(by_split["validation"]))
    artifacts.write_json(folder / "counts.json", counts)
    for split, rows in by_split.items():
        if rows and not any(row.valid for row in rows):
            raise BncapError(
                f"{folder / 'corpus.csv'} has no pair of the {split} split: none of {len(rows)} captions reaches "
                f"data.threshold={data.threshold}; lower it (acceptance.csv beside it has the shares) and start again"
            )


def _plan(splits: Mapping[str, Sequence[Caption]], shards: int) -> dict[str, list[tuple[str, Caption]]]:
    """Table file -> its (split, caption) rows: train in ``shards`` contiguous runs, sizes at most one apart."""
    train = [("train", caption) for caption in splits["train"]]
    ends = [len(train) * n // shards for n in range(shards + 1)]
    tables = {f"shards/shard_{n:02d}.csv": train[ends[n] : ends[n + 1]] for n in range(shards)}
    held_out = [(split, caption) for split in ("validation", "test") for caption in splits[split]]
    tables["evaluation/val2014.csv"] = sorted(held_out, key=lambda row: row[1].caption_id)
    tables["evaluation/flickr30k.csv"] = [("ood", caption) for caption in splits["ood"]]
    return tables


def _translate(
    captions: Sequence[Caption], translator: Translator, verifier: Verifier, data: Data, bar: tqdm
) -> list[tuple]:
    """Rows of :data:`TABLE_HEADER`; an empty translation, or the caption itself, is not valid at any threshold."""
    rows = []
    step = 10 * data.translation_batch  # several batches at once, so that the translator can sort them by length
    for start in range(0, len(captions), step):
        chunk = captions[start : start + step]
        en = [caption.text for caption in chunk]
        bn = translator.translate(en)
        # rounded first, so that the flag follows from the number that is written
        similarity = verifier.similarity(en, bn).astype(np.float64).round(6)
        for row in zip(chunk, bn, similarity, accepted(similarity, data.threshold), strict=True):
            caption, text, s, valid = row
            copied = (
                data.reject_copies and text.strip() == caption.text.strip()
            )  # its cosine is 1: Eq. 4 is blind to it
            valid = valid and text != "" and not copied
            rows.append((caption.caption_id, caption.image_id, caption.text, text, f"{s:.6f}", int(valid)))
        bar.update(len(chunk))
    return rows


def _merge(folder: Path, tables: Mapping[str, Sequence[tuple[str, Caption]]]) -> list[Verified]:
    """Every caption with its translation, in the order of :data:`SPLITS`."""
    verified = []
    for name, planned in tables.items():
        for (split, caption), row in zip(planned, artifacts.read_csv(folder / name), strict=True):
            verified.append(Verified(split, caption, row["bn"], float(row["similarity"]), row["valid"] == "1"))
    return sorted(verified, key=lambda row: SPLITS.index(row.split))


def _pair_row(row: Verified) -> tuple:
    caption = row.caption
    return (
        caption.caption_id, caption.image_id, caption.image, row.split, caption.text, row.bn, f"{row.similarity:.6f}",
    )  # fmt: skip


def _counts(rows: Sequence[Verified]) -> dict[str, float]:
    images = {row.caption.image for row in rows}
    kept = {row.caption.image for row in rows if row.valid}
    taken = sum(row.valid for row in rows)
    return {
        "captions": len(rows),
        "accepted": taken,
        "accepted_share": round(taken / len(rows), 4) if rows else 0.0,
        "images": len(images),
        "images_dropped": len(images - kept),  # those without any accepted caption
    }


def _acceptance(by_split: Mapping[str, Sequence[Verified]]) -> list[tuple]:
    return [
        (f"{threshold:.2f}", split, f"{accepted([row.similarity for row in rows], threshold).mean():.6f}")
        for split, rows in by_split.items()
        for threshold in THRESHOLDS
        if rows
    ]


def _known(rows: Sequence[Verified]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row.similarity for row in rows]), np.array([row.fault is not None for row in rows])


def _write_quality(folder: Path, by_split: Mapping[str, Sequence[Verified]]) -> None:
    header = ("split", *(field.name for field in dataclasses.fields(Quality)))
    quality = [
        (split, *(f"{value:.6g}" for value in dataclasses.astuple(point)))
        for split, rows in by_split.items()
        for point in quality_curve(*_known(rows))
    ]
    artifacts.write_csv(folder / "filter_quality.csv", header, quality)
    faulty = [(row.split, row.caption.caption_id, row.fault) for rows in by_split.values() for row in rows if row.fault]
    artifacts.write_csv(folder / "faults.csv", ("split", "caption_id", "fault"), faulty)


def _claim(owners: dict, key: object, split: str, image: str, what: str) -> None:
    """Note that ``image`` of ``split`` has ``key``; an error if another split has it already."""
    owner, other = owners.setdefault(key, (split, image))
    if owner != split:
        raise BncapError(
            f"the {split} split shares {what} with the {owner} split: {image} and {other}; "
            "delete the captions of one of the two, or draw other images with another data.seed"
        )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise BncapError(f"{path} is missing; put it there, or point BNCAP_DATA at the folder that has it")
    return path
