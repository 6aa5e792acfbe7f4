"""Captions and boxes as COCO and Flickr30k publish them; what is broken is named, record and remedy.

Texts come back with runs of white space made single: COCO's annotators left line breaks in some of them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bncap.errors import BncapError

COCO_TYPES = {"id": int, "image_id": int, "category_id": int, "bbox": list}
"""Types of COCO's values by their names; the others that are read here are text."""
FLICKR_HEADER = "image_name| comment_number| comment"


@dataclass(frozen=True)
class Caption:
    """An English caption; ``image`` is the picture's path relative to the root of the datasets."""

    caption_id: int
    image_id: str
    image: str
    text: str


def read_coco(annotations: Path, image_folder: str) -> list[Caption]:
    """The captions of a COCO ``captions_*.json`` in the order of their ids; pictures lie in ``image_folder``.

    Raises :class:`BncapError` for broken JSON, a missing key, an empty caption, a caption of no listed image, and an
    image or caption id that comes twice.
    """
    content = _read_json(annotations)
    files: dict[Any, str] = {}
    for index, record in enumerate(_records(annotations, content, "images")):
        image_id, name = (_value(annotations, "images", index, record, key) for key in ("id", "file_name"))
        if image_id in files:
            raise _coco_error(annotations, "images", index, f"image id {image_id} comes a second time", "delete one")
        files[image_id] = name
    captions: dict[int, Caption] = {}
    for index, record in enumerate(_records(annotations, content, "annotations")):
        caption_id, image_id, text = (
            _value(annotations, "annotations", index, record, key) for key in ("id", "image_id", "caption")
        )
        text = " ".join(text.split())
        fault = None
        if caption_id in captions:
            fault = f"caption id {caption_id} comes a second time"
        elif image_id not in files:
            fault = f"caption {caption_id} is of image {image_id}, which images does not list"
        elif not text:
            fault = f"caption {caption_id} is empty"
        if fault:
            raise _coco_error(annotations, "annotations", index, fault, "delete or mend this record")
        captions[caption_id] = Caption(caption_id, str(image_id), f"{image_folder}/{files[image_id]}", text)
    return [captions[caption_id] for caption_id in sorted(captions)]


def read_flickr_csv(path: Path, image_folder: str) -> list[Caption]:
    """The captions of Flickr30k's ``results.csv`` in its order; ``caption_id`` counts them, ``image_id`` is the stem.

    The published file has one row without its second bar (``2199200615.jpg| 4   A dog runs ...``); a row of that form
    is mended, with a line on stderr.  Raises :class:`BncapError` for any other broken row, an empty comment, and a
    comment number that an image has twice.
    """
    lines = _read_text(path).split("\n")
    if [cell.strip() for cell in lines[0].split("|")] != FLICKR_HEADER.split("| "):
        raise BncapError(f"{path}: line 1 is not {FLICKR_HEADER!r}; take results.csv as Flickr30k publishes it")
    captions: list[Caption] = []
    seen: set[tuple[str, int]] = set()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, comment, text = _flickr_row(path, number, line)
        if (name, comment) in seen:
            raise BncapError(
                f"{path}: line {number}: {name} has comment {comment} a second time; delete one of the two"
            )
        seen.add((name, comment))
        captions.append(Caption(len(captions), Path(name).stem, f"{image_folder}/{name}", text))
    return captions


def read_boxes(instances: Path) -> dict[str, list[tuple[str, tuple[float, float, float, float]]]]:
    """Image file name -> its objects (category name, (x, y, width, height) in px) from a COCO ``instances_*.json``.

    Images without objects have an empty list.  Raises :class:`BncapError` for broken JSON, a missing key, and an
    object of an unlisted image or category.
    """
    content = _read_json(instances)
    tables = {}
    for part, key in (("images", "file_name"), ("categories", "name")):
        records = enumerate(_records(instances, content, part))
        tables[part] = {
            _value(instances, part, index, record, "id"): _value(instances, part, index, record, key)
            for index, record in records
        }
    boxes: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {
        name: [] for name in tables["images"].values()
    }
    for index, record in enumerate(_records(instances, content, "annotations")):
        image_id, category_id, box = (
            _value(instances, "annotations", index, record, key) for key in ("image_id", "category_id", "bbox")
        )
        if image_id not in tables["images"] or category_id not in tables["categories"]:
            fault = f"image {image_id} or category {category_id} is not listed"
            raise _coco_error(instances, "annotations", index, fault, "delete or mend this record")
        if len(box) != 4:
            raise _coco_error(instances, "annotations", index, f"bbox {box} is not [x, y, width, height]", "mend it")
        x, y, width, height = map(float, box)
        boxes[tables["images"][image_id]].append((tables["categories"][category_id], (x, y, width, height)))
    return boxes


def check_image(path: Path) -> None:
    """Decode ``path`` to RGB; raise :class:`BncapError` with its name if that fails."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except FileNotFoundError as error:
        raise BncapError(f"{path} is missing; put the picture there or delete its captions") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BncapError(f"{path} cannot be decoded as a picture ({error}); fetch it again") from error


def images_of(captions: Iterable[Caption]) -> list[str]:
    """The images of ``captions``, each once, sorted."""
    return sorted({caption.image for caption in captions})


def _flickr_row(path: Path, number: int, line: str) -> tuple[str, int, str]:
    cells = [cell.strip() for cell in line.split("|", 2)]
    if len(cells) == 2 and (mended := re.fullmatch(r"(\d+)\s+(\S.*)", cells[1])):
        print(f"{path.name}: line {number}: mended, a bar is missing after {mended[1]!r}: {line!r}", file=sys.stderr)
        cells = [cells[0], mended[1], mended[2]]
    if len(cells) != 3 or not cells[0] or not cells[1].isdecimal() or not cells[2]:
        raise BncapError(f"{path}: line {number} is not {FLICKR_HEADER!r}: {line!r}; mend or delete it")
    return cells[0], int(cells[1]), " ".join(cells[2].split())


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise BncapError(f"{path} is missing; the datasets are expected in the layout they are published in") from error
    except UnicodeDecodeError as error:
        raise BncapError(f"{path} is not UTF-8 ({error}); fetch it again") from error
    except OSError as error:
        raise BncapError(f"{path} cannot be read ({error.strerror}); put the file there, readable") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise BncapError(f"{path} is not readable JSON ({error}); fetch it again") from error


def _records(path: Path, content: Any, part: str) -> list[Any]:
    records = content.get(part) if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise BncapError(f"{path} has no list {part!r}; take the file as COCO publishes it")
    return records


def _value(path: Path, part: str, index: int, record: Any, key: str) -> Any:
    """``record[key]``, of the type that COCO gives to a value of that name."""
    kind = COCO_TYPES.get(key, str)
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        fault = f"{key!r} is {'missing' if value is None else repr(value)}, expected {kind.__name__}"
        raise _coco_error(path, part, index, fault, "mend or delete this record")
    return value


def _coco_error(path: Path, part: str, index: int, fault: str, remedy: str) -> BncapError:
    return BncapError(f"{path}: {part}[{index}]: {fault}; {remedy}")
