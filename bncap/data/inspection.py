"""The step ``01_data_build/pictures``: every picture of every split is looked at once, and hashed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from bncap.data.captions import Caption, images_of
from bncap.data.images import MIN_SIDE, Picture, inspect, write_rejected
from bncap.pipeline import artifacts, deadline
from bncap.pipeline.paths import data_paths, dataset_roots, step_dir
from bncap.settings import Config

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
    images = sorted({*images_of(captions), *(c.synthetic for c in captions if c.synthetic)})
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
