"""Pictures of a data set: each is inspected once, and the unusable ones are listed with a reason."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from bncap.data.readers import Caption, list_images
from bncap.errors import BncapError
from bncap.pipeline import artifacts, deadline
from bncap.pipeline.artifacts import write_csv
from bncap.pipeline.paths import data_paths, dataset_roots, step_dir
from bncap.settings import Config

MIN_SIDE = 32
_MOST = f"at most {Image.MAX_IMAGE_PIXELS:,} px are decoded"
_CHUNK = 1024  # pictures handed to the threads at a time: a future for each of 110,000 would be 100 MB


@dataclass(frozen=True, slots=True)
class Picture:
    """What was seen of ``image``; ``reason`` says why it cannot be used, "" if it can.

    ``width`` and ``height`` are in px, upright, 0 where unknown; ``bytes`` is the size of the file and ``sha256`` its
    hash, 0 and "" for one that cannot be read.
    """

    image: str
    width: int
    height: int
    bytes: int
    sha256: str
    reason: str = ""


def to_rgb(picture: Image.Image) -> Image.Image:
    """``picture`` in RGB: upright by its EXIF orientation, transparency on white, 16 bits of grey scaled to 8."""
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if upright.mode.startswith("I;16"):  # Pillow's own conversion cuts off at 255: nearly all of it white
        upright = upright.point(lambda level: level * (1 / 257)).convert("L")
    return upright.convert("RGB")


def inspect(root: Path, images: Iterable[str], jobs: int | None = None) -> list[Picture]:
    """What there is at ``root / image`` for each of ``images``, in their order, each once.

    A picture is usable if it exists, decodes to its end, converts to RGB and has sides of at least :data:`MIN_SIDE` px;
    one of more pixels than Pillow's limit for decompression bombs is not decoded.  ``jobs`` threads work side by side
    (default: one a core, up to 8), each with one picture in memory.
    """
    names = list(dict.fromkeys(images))
    jobs = jobs or min(8, len(os.sched_getaffinity(0)))
    pictures: list[Picture] = []
    Image.init()  # a thread that finds another one loading Pillow's formats takes a picture for unknown
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(names), desc="check pictures", unit="picture", disable=not names) as bar,
    ):
        warnings.simplefilter("ignore")  # Pillow's remarks on pictures that decode all the same
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            for picture in pool.map(lambda name: _inspect(root / name, name), chunk):
                pictures.append(picture)
                bar.update()
    return pictures


def check_rejects(pictures: Sequence[Picture], max_share: float, table: Path) -> None:
    """Raise :class:`BncapError` if more than ``max_share`` (0 to 1) of ``pictures`` cannot be used.

    ``table`` is where :func:`write_rejected` has listed them.
    """
    rejected = [picture for picture in pictures if picture.reason]
    if len(rejected) <= max_share * len(pictures):
        return
    first = f"{rejected[0].image}: {rejected[0].reason}"
    if all(picture.reason == "missing" for picture in pictures):
        raise BncapError(
            f"none of {len(pictures)} pictures is there (the first: {rejected[0].image}; all are listed in {table}); "
            "name the folder that their paths start from"
        )
    enough = -(-100 * len(rejected) // len(pictures)) / 100  # the next hundredth
    raise BncapError(
        f"{len(rejected)} of {len(pictures)} pictures ({len(rejected) / len(pictures):.2%}) cannot be used, more than "
        f"data.max_rejected={max_share} allows; the first is {first}; all are listed in {table}; mend them, or go on "
        f"without them with --set data.max_rejected={enough}"
    )


def write_rejected(path: Path, pictures: Iterable[Picture]) -> None:
    """Write the pictures that cannot be used as CSV (image, reason), in their order."""
    write_csv(path, ("image", "reason"), ((p.image, p.reason) for p in pictures if p.reason))


def _inspect(path: Path, name: str) -> Picture:
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            width, height, reason = _decode(stream) if size else (0, 0, "the file is empty")
    except (FileNotFoundError, NotADirectoryError):
        return Picture(name, 0, 0, 0, "", "missing")
    except (OSError, ValueError) as error:
        return Picture(name, 0, 0, 0, "", f"cannot be read: {getattr(error, 'strerror', None) or error}")
    return Picture(name, width, height, size, sha256, reason)


def _decode(stream: BinaryIO) -> tuple[int, int, str]:
    """Width and height of the picture in ``stream`` and what is wrong with it."""
    stream.seek(0)
    width = height = 0
    try:
        with Image.open(stream) as picture:
            width, height = picture.size
            if width * height > Image.MAX_IMAGE_PIXELS:
                return width, height, f"{width} x {height} px, {_MOST}"
            picture.load()
            if picture.getexif().get(0x0112, 1) >= 5:  # turned by a quarter
                width, height = height, width
            to_rgb(picture.crop((0, 0, 1, 1)))  # whether a mode converts does not depend on the size
    except UnidentifiedImageError:
        return 0, 0, "cannot be decoded: not a picture in a format that is known"
    except Image.DecompressionBombError:
        return 0, 0, f"a decompression bomb, {_MOST}"
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        return width, height, f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
    for side, word in ((width, "wide"), (height, "high")):
        if side < MIN_SIDE:
            return width, height, f"{side} px {word}, at least {MIN_SIDE} are needed"
    return width, height, ""


FIELDS = tuple(field.name for field in dataclasses.fields(Picture))
HEADER = FIELDS[:-1]
"""Columns of ``images.csv``: image, width, height, bytes, sha256."""
BLOCK = 8192
"""Pictures after which what was seen is written down: a minute or so."""


def inspect_pictures(config: Config, splits: Mapping[str, Sequence[Caption]]) -> Path:
    """Make, or find finished, ``01_data_build/pictures-s<seed>``: ``images.csv``, and ``rejected.csv`` of the unusable.

    Synthetic pictures that a data set brings are looked at as well.  It is a step of its own, so that another threshold
    or another share of rejects does not decode 120,000 pictures again, and up to date while the pictures' names and
    sizes in bytes stay.  Raises :class:`OutOfTime` after a block.
    """
    captions = [caption for split in splits.values() for caption in split]
    images = sorted({*list_images(captions), *(c.synthetic for c in captions if c.synthetic)})
    paths = data_paths(config, images)
    digest = hashlib.sha256()
    for image, path in paths.items():
        digest.update(f"{image}\x1f{path.stat().st_size if path.is_file() else 'missing'}\n".encode())
    return artifacts.run_step(
        step_dir(config.profile, "01_data_build", "pictures", config.data.seed),
        settings={"pictures": len(images), "names_and_sizes_sha256": digest.hexdigest(), "least_side": MIN_SIDE},
        inputs=dataset_roots(config) if config.data.source == "mini" else [],
        build=functools.partial(_build, paths),
        config=config,
    )


def read_pictures(folder: Path) -> list[Picture]:
    """What was seen of the pictures, the usable ones first; of the others only the reason is kept."""
    usable = artifacts.read_csv(artifacts.require(folder) / "images.csv")
    rejected = artifacts.read_csv(folder / "rejected.csv")
    return [
        *(Picture(r["image"], int(r["width"]), int(r["height"]), int(r["bytes"]), r["sha256"]) for r in usable),
        *(Picture(row["image"], 0, 0, 0, "", row["reason"]) for row in rejected),
    ]


def _build(paths: Mapping[str, Path], folder: Path) -> None:
    names = list(paths)
    seen: list[Picture] = []
    for start in range(0, len(names), BLOCK):
        if start:
            deadline.check(f"the pictures, {start:,} of {len(names):,}")
        seen += _block(folder / f".block_{start // BLOCK:03d}.csv", {n: paths[n] for n in names[start : start + BLOCK]})
    usable = (dataclasses.astuple(picture)[:-1] for picture in seen if not picture.reason)
    artifacts.write_csv(folder / "images.csv", HEADER, usable)
    write_rejected(folder / "rejected.csv", seen)
    for path in folder.glob(".block_*.csv"):
        path.unlink()


def _block(path: Path, paths: Mapping[str, Path]) -> list[Picture]:
    """What was seen of ``paths``: from the file of an interrupted start, or by looking now."""
    if not path.is_file():
        # absolute paths, as pictures may lie below several roots; each is known by its name in the data set
        found = inspect(Path(), (str(place.absolute()) for place in paths.values()))
        named = (dataclasses.replace(picture, image=name) for name, picture in zip(paths, found, strict=True))
        artifacts.write_csv(path, FIELDS, map(dataclasses.astuple, named))
    return [
        Picture(r["image"], int(r["width"]), int(r["height"]), int(r["bytes"]), r["sha256"], r["reason"])
        for r in artifacts.read_csv(path)
    ]
