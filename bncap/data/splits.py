"""The splits: which captions train and which are held out, drawn by picture, without a shared one (Sec. 5.1).

==========  ==========================================  ======================================
split       COCO and Flickr30k (``data.source=coco``)   the user's data set (``own``)
==========  ==========================================  ======================================
train       every caption of ``data.train``             the rest
validation  images drawn from ``data.held_out``         ``data.own_share`` of the pictures
test        images drawn from ``data.held_out``         as many
ood         images drawn from ``data.ood``              none
==========  ==========================================  ======================================

The mini world is read as COCO and Flickr30k are.  A file that brings splits of its own (Karpathy's) is drawn from
within them, and an own data set keeps them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from bncap.data.pairs import Pair
from bncap.data.readers import Caption, list_images, read_captions
from bncap.errors import BncapError
from bncap.pipeline import artifacts
from bncap.pipeline.files import file_hash
from bncap.pipeline.paths import data_path, data_paths, dataset_roots
from bncap.settings import Config
from bncap.text import language_name, share_in_script

SPLITS = ("train", "validation", "test", "ood")
OOD_FILES = (
    "dataset_flickr30k.json", "flickr30k/dataset_flickr30k.json", "flickr30k/results.csv",
    "flickr30k_images/results.csv", "flickr30k/results_20130124.token",
)  # fmt: skip
"""Places of Flickr30k's captions, tried in this order if ``data.ood`` is not set."""
FLICKR_FOLDERS = (
    "flickr30k/flickr30k_images", "flickr30k/flickr30k-images", "flickr30k/images",
    "flickr30k_images/flickr30k_images", "flickr30k_images",
)  # fmt: skip
"""Places of its pictures, tried in this order: archives and data sets on Kaggle differ."""
GIVEN = {"train": "train", "restval": "train", "val": "validation", "validation": "validation", "test": "test"}
"""The splits of a file that has some, by their names there."""


def caption_files(config: Config) -> dict[str, Path]:
    """The files of the captions: "train", "held_out" and "ood", or "own"; :class:`BncapError` if one is missing."""
    data = config.data
    if data.source == "own":
        dataset_roots(config)  # names data.captions if it is not set
        return {"own": _existing(Path(data.captions), "name the captions file with --captions FILE")}
    if data.source == "mini":
        artifacts.require(dataset_roots(config)[0])
    names = {"train": data.train}
    if data.validation_images + data.test_images:
        names["held_out"] = data.held_out
    if data.ood_images:
        there = (name for name in OOD_FILES if data_path(config, name).is_file())
        names["ood"] = data.ood or next(there, OOD_FILES[2])
    remedy = "put it there, or point BNCAP_DATA at the folder that has it"
    return {part: _existing(data_path(config, name), remedy) for part, name in names.items()}


def read_splits(config: Config) -> dict[str, list[Caption]]:
    """The captions of each of :data:`SPLITS`, disjoint by the pictures' ids; a split may be empty.

    Raises :class:`BncapError` for malformed files, too few pictures to draw, and splits that share a picture.
    """
    data, files = config.data, caption_files(config)
    if data.source == "own":
        captions = read_captions(files["own"], "", data.lang)
        _check_script(files["own"], captions)
        splits = _own_splits(config, captions)
    else:
        splits = {"train": _read(config, files["train"], ("train", "restval")), "validation": [], "test": [], "ood": []}
        if "held_out" in files:
            sizes = {"validation": data.validation_images, "test": data.test_images}
            splits |= draw_images(_read(config, files["held_out"], ("val", "test")), sizes, data.seed)
        if "ood" in files:
            splits |= draw_images(_read(config, files["ood"], ("test",)), {"ood": data.ood_images}, data.seed)
    check_disjoint(splits)
    return splits


def draw_images(captions: Sequence[Caption], sizes: Mapping[str, int], seed: int) -> dict[str, list[Caption]]:
    """Captions of so many images for each split of ``sizes``, drawn without overlap; captions keep their order."""
    images = list_images(captions)
    requested = sum(sizes.values())
    if len(images) < requested:
        fields = " + ".join(f"data.{split}_images" for split in sizes)
        raise BncapError(f"{Path(images[0]).parent if images else 'the dataset'} has {len(images)} captioned images, "
                         f"{fields} asks for {requested}; lower them")  # fmt: skip
    order = iter(np.random.default_rng(seed).permutation(len(images)))
    split_of = {images[next(order)]: split for split, size in sizes.items() for _ in range(size)}
    drawn: dict[str, list[Caption]] = {split: [] for split in sizes}
    for caption in captions:
        if caption.image in split_of:
            drawn[split_of[caption.image]].append(caption)
    return drawn


def check_disjoint(splits: Mapping[str, Iterable[Caption | Pair]], hashes: Mapping[str, str] | None = None) -> None:
    """Raise :class:`BncapError`, with both pictures, if two splits share one by its id or by the bytes of its file.

    ``hashes``: picture -> SHA-256 of its file; None, or a picture that is not in it: compared by id alone.
    """
    of_id: dict[tuple[bool, str], tuple[str, str]] = {}
    of_hash: dict[str, tuple[str, str]] = {}
    for split, captions in splits.items():
        named = {caption.image: caption.image_id for caption in captions}
        for image, image_id in sorted(named.items()):
            # an id is one data set's own, and Flickr30k has numbers that COCO has too
            _claim(of_id, (split == "ood", image_id), split, image, f"the image id {image_id}")
            if hashes and image in hashes:
                _claim(of_hash, hashes[image], split, image, "the same file")


def _read(config: Config, path: Path, given: Sequence[str]) -> list[Caption]:
    """The captions of a file, of one with splits those in ``given``."""
    captions = read_captions(path, _picture_folder(config, path))
    return [caption for caption in captions if caption.split in ("", *given)]


def _picture_folder(config: Config, path: Path) -> str:
    """The folder of a caption file's pictures below the root of the data sets; "" for a file that names it itself."""
    if coco := re.fullmatch(r"captions_(\w+)\.json", path.name):
        return coco[1]
    if "flickr30k" not in PurePosixPath(*path.parts[-2:]).as_posix():
        return ""
    there = (folder for folder in FLICKR_FOLDERS if data_path(config, folder).is_dir())
    return next(there, FLICKR_FOLDERS[0])


def _check_script(path: Path, captions: Sequence[Caption]) -> None:
    """Refuse captions in another script than that of their language: most likely it was not named."""
    texts: dict[str, list[str]] = {}
    for caption in captions:
        texts.setdefault(caption.lang, []).append(caption.text)
    for lang, written in sorted(texts.items()):
        if share_in_script(written[:1000], lang) < 0.2:
            raise BncapError(
                f"{path}: these captions are not written in {language_name(lang)}, such as {written[0]!r}; name their "
                "language with --lang, or in a column lang"
            )


def _own_splits(config: Config, captions: Sequence[Caption]) -> dict[str, list[Caption]]:
    """Splits as the file gives them, else by pictures drawn with ``data.seed``."""
    given = any(caption.split for caption in captions)
    held_out = {} if given else _draw_own(config, captions)
    splits: dict[str, list[Caption]] = {split: [] for split in SPLITS}
    for caption in captions:
        if given and caption.split not in GIVEN:
            raise BncapError(
                f"{config.data.captions}: caption {caption.caption_id} ({caption.image}) is in the split "
                f"{caption.split!r}; known are {', '.join(GIVEN)}"
            )
        splits[GIVEN[caption.split] if given else held_out.get(caption.image, "train")].append(caption)
    for split in ("train", "validation"):  # the epochs are chosen by validation
        if not splits[split]:
            raise BncapError(f"{config.data.captions}: no caption is in the split {split}; put some there")
    return splits


def _draw_own(config: Config, captions: Sequence[Caption]) -> dict[str, str]:
    """Picture -> "validation" or "test" for those that are held out; files of equal bytes go together."""
    data = config.data
    images = list_images(captions)
    first_of = _equal_files(data_paths(config, images)) if data.check_images else {}
    groups: dict[str, list[str]] = {}
    for image in images:
        groups.setdefault(first_of.get(image, image), []).append(image)
    if len(groups) < 3:
        raise BncapError(
            f"{data.captions} has captions of {len(groups)} different pictures; training, validation and test need "
            "at least 3"
        )
    size = max(1, min(round(data.own_share * len(groups)), (len(groups) - 1) // 2))
    order = np.random.default_rng(data.seed).permutation(len(groups))
    names = list(groups)
    drawn = {"validation": order[:size], "test": order[size : 2 * size]}
    return {image: split for split, chosen in drawn.items() for i in chosen for image in groups[names[i]]}


def _equal_files(paths: Mapping[str, Path]) -> dict[str, str]:
    """Picture -> the first one with the same bytes, for those that have a double; missing files have none."""
    of_size: dict[int, list[str]] = {}
    for image, path in paths.items():
        if path.is_file():
            of_size.setdefault(path.stat().st_size, []).append(image)
    first: dict[str, str] = {}
    double: dict[str, str] = {}
    for images in of_size.values():
        if len(images) > 1:  # files of other sizes must differ
            double |= {image: first.setdefault(file_hash(paths[image]), image) for image in images}
    return double


def _claim(owners: dict, key: object, split: str, image: str, what: str) -> None:
    """Note that ``image`` of ``split`` has ``key``; an error if another split has it already."""
    owner, other = owners.setdefault(key, (split, image))
    if owner != split:
        raise BncapError(
            f"the {split} split shares {what} with the {owner} split: {image} and {other}; "
            "delete the captions of one of the two, or draw other images with another data.seed"
        )


def _existing(path: Path, remedy: str) -> Path:
    if not path.is_file():
        raise BncapError(f"{path} is missing; {remedy}")
    return path
