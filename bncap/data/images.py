"""Pictures of a data set: each is inspected once, and the unusable ones are listed with a reason.

The step ``01_data_build/pictures-s<seed>`` holds ``images.csv`` with size and hash of every usable picture, and
``rejected.csv``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import joblib
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from bncap.data.readers import Caption, list_images
from bncap.errors import BncapError
from bncap.pipeline import artifacts, deadline
from bncap.pipeline.paths import data_paths, dataset_roots, step_dir
from bncap.settings import Config

MIN_SIDE = 32
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0  # Pillow's limit against decompression bombs
BLOCK = 8192
"""Pictures that are inspected between two looks at the clock: a minute or so."""
_LIMIT = f"at most {MAX_PIXELS:,} px are decoded"


@dataclass(frozen=True, slots=True)
class InspectedPicture:
    """The picture ``image`` as inspected: size in px, upright, of the file in bytes, its hash; 0 and "" where unknown.

    ``reason`` says why it cannot be used, "" if it can.
    """

    image: str
    width: int
    height: int
    bytes: int
    sha256: str
    reason: str = ""


FIELDS = tuple(field.name for field in dataclasses.fields(InspectedPicture))


def to_rgb(picture: Image.Image) -> Image.Image:
    """``picture`` in RGB: upright by its EXIF orientation, transparency on white, 16 bits of grey scaled to 8."""
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if upright.mode.startswith("I;16"):  # Pillow's own conversion cuts off at 255: nearly all of it white
        upright = upright.point(lambda level: level * (1 / 257)).convert("L")
    return upright.convert("RGB")


def inspect_pictures(config: Config, splits: Mapping[str, Sequence[Caption]]) -> Path:
    """Make, or find finished, ``01_data_build/pictures-s<seed>``; synthetic pictures that a data set brings are in it.

    It is up to date while the pictures' names and sizes in bytes stay.  Raises :class:`bncap.errors.OutOfTime` after a
    block.
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


def read_pictures(folder: Path) -> list[InspectedPicture]:
    """The pictures of the finished step ``folder``, the usable ones first; of the others only the reason is kept."""
    rejected = artifacts.read_csv(artifacts.require(folder) / "rejected.csv")
    unusable = (InspectedPicture(row["image"], 0, 0, 0, "", row["reason"]) for row in rejected)
    return [*_read_table(folder / "images.csv"), *unusable]


def check_rejects(pictures: Sequence[InspectedPicture], max_share: float, table: Path) -> None:
    """Raise :class:`BncapError` if more than ``max_share`` of ``pictures`` cannot be used; ``table`` lists them."""
    rejected = [picture for picture in pictures if picture.reason]
    if len(rejected) <= max_share * len(pictures):
        return
    if all(picture.reason == "missing" for picture in pictures):
        raise BncapError(
            f"none of {len(pictures)} pictures is there (the first: {rejected[0].image}; all are listed in {table}); "
            "name the folder that their paths start from"
        )
    enough = -(-100 * len(rejected) // len(pictures)) / 100  # the next hundredth
    raise BncapError(
        f"{len(rejected)} of {len(pictures)} pictures ({len(rejected) / len(pictures):.2%}) cannot be used, more than "
        f"data.max_rejected={max_share} allows; the first is {rejected[0].image}: {rejected[0].reason}; all are listed "
        f"in {table}; mend them, or go on without them with --set data.max_rejected={enough}"
    )


def inspect_files(paths: Mapping[str, Path], jobs: int | None = None) -> list[InspectedPicture]:
    """The pictures at ``paths``, by their names in the data set, in this order.

    A picture is usable if it decodes to its end, converts to RGB and has sides of at least :data:`MIN_SIDE` px and not
    more pixels than Pillow's limit.  ``jobs`` threads work side by side (default: one a core, up to 8).
    """
    Image.init()  # a thread that finds another one loading Pillow's formats takes a picture for unknown
    work = joblib.Parallel(jobs or min(8, joblib.cpu_count()), prefer="threads", return_as="generator")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on pictures that decode all the same
        inspected = work(joblib.delayed(_inspect)(path, name) for name, path in paths.items())
        return list(tqdm(inspected, "check pictures", len(paths), unit="picture", disable=not paths))


def _inspect(path: Path, name: str) -> InspectedPicture:
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            width, height, reason = _decode(stream) if size else (0, 0, "the file is empty")
    except (FileNotFoundError, NotADirectoryError):
        return InspectedPicture(name, 0, 0, 0, "", "missing")
    except (OSError, ValueError) as error:
        return InspectedPicture(name, 0, 0, 0, "", f"cannot be read: {getattr(error, 'strerror', None) or error}")
    return InspectedPicture(name, width, height, size, sha256, reason)


def _decode(stream: BinaryIO) -> tuple[int, int, str]:
    """Width and height of the picture in ``stream``, and why it cannot be used."""
    stream.seek(0)
    width = height = 0
    try:
        with Image.open(stream) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                return width, height, f"{width} x {height} px, {_LIMIT}"
            picture.load()
            if picture.getexif().get(0x0112, 1) >= 5:  # turned by a quarter
                width, height = height, width
            to_rgb(picture.crop((0, 0, 1, 1)))  # whether a mode converts does not depend on the size
    except UnidentifiedImageError:
        return 0, 0, "cannot be decoded: not a picture in a format that is known"
    except Image.DecompressionBombError:
        return 0, 0, f"a decompression bomb, {_LIMIT}"
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        return width, height, f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
    for side, word in ((width, "wide"), (height, "high")):
        if side < MIN_SIDE:
            return width, height, f"{side} px {word}, at least {MIN_SIDE} are needed"
    return width, height, ""


def _build(paths: Mapping[str, Path], folder: Path) -> None:
    names = list(paths)
    pictures: list[InspectedPicture] = []
    for start in range(0, len(names), BLOCK):
        if start:
            deadline.check(f"the pictures, {start:,} of {len(names):,}")
        block = folder / f".block_{start // BLOCK:03d}.csv"
        if not block.is_file():  # an interrupted start has left it otherwise
            inspected = inspect_files({name: paths[name] for name in names[start : start + BLOCK]})
            artifacts.write_csv(block, FIELDS, map(dataclasses.astuple, inspected))
        pictures += _read_table(block)
    usable = (dataclasses.astuple(picture)[:-1] for picture in pictures if not picture.reason)
    artifacts.write_csv(folder / "images.csv", FIELDS[:-1], usable)
    rejected = ((picture.image, picture.reason) for picture in pictures if picture.reason)
    artifacts.write_csv(folder / "rejected.csv", ("image", "reason"), rejected)
    for path in folder.glob(".block_*.csv"):
        path.unlink()


def _read_table(path: Path) -> list[InspectedPicture]:
    return [
        InspectedPicture(
            r["image"], int(r["width"]), int(r["height"]), int(r["bytes"]), r["sha256"], r.get("reason", "")
        )
        for r in artifacts.read_csv(path)
    ]
