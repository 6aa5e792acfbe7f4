"""One record for a caption of any data set, and what files of captions have in common; what is broken is named.

The formats themselves are read in :mod:`bncap.data.readers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bncap.data.textfiles import header_cells, read_json, read_text, record_error, records, value
from bncap.errors import BncapError

FLICKR_HEADER = "image_name| comment_number| comment"
FORMATS = (
    "COCO captions JSON (images and annotations), Karpathy JSON (images with sentences), Flickr .token "
    "(name.jpg#0<TAB>caption), Flickr30k CSV (image_name| comment_number| comment), BAN-Cap CSV "
    "(caption_id,english_caption,bengali_caption), and plain CSV with a header line, or JSON lines, with the columns "
    "image and caption and, if wanted, lang, english and synthetic"
)
_HEAD = 1 << 16  # bytes of a file by which its format is recognised


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of one picture; those of one picture share ``image_id`` and ``image``.

    ``caption_id`` is unique within its file; ``image`` is a path below the root of the data sets, with ``/``; ``lang``
    is the mBART-50 code of ``text``; ``english`` is its English side where the data set has one; ``split`` is the
    data set's own ("" where it has none); ``synthetic`` is a synthetic picture that it brings, a path like ``image``.
    """

    caption_id: int
    image_id: str
    image: str
    text: str
    lang: str = "en_XX"
    english: str = ""
    split: str = ""
    synthetic: str = ""


def read_captions(path: Path, images: str = "", lang: str = "") -> list[Caption]:
    """The captions of a file in any of :data:`FORMATS`, which is recognised by its content, not by its name.

    ``images`` is the folder of the pictures below the root of the data sets, "" for the root itself; ``lang`` is what
    the captions are in where the file does not say so, an mBART-50 or ISO code, "" for English.

    Raises :class:`BncapError` for an unknown format, for a file without captions, and for what its reader refuses.
    """
    from bncap.data import readers  # it imports the record from here

    name = _format(path)
    if name is None:
        text = read_text(path).strip()  # a wrong encoding is the likelier fault of a file that looks like nothing
        if not text:
            raise BncapError(f"{path} is empty; fill it, or name another file")
        first = text.splitlines()[0][:60]
        raise BncapError(f"{path} is in no format that is known here: its first line is {first!r}; known: {FORMATS}")
    captions = getattr(readers, f"read_{name}")(path, images, lang or "en_XX")
    if not captions:
        raise BncapError(f"{path} has no captions; fill it, or name another file")
    return captions


def images_of(captions: Iterable[Caption]) -> list[str]:
    """The images of ``captions``, each once, sorted."""
    return sorted({caption.image for caption in captions})


def read_boxes(instances: Path) -> dict[str, list[tuple[str, tuple[float, float, float, float]]]]:
    """Image file name -> its objects (category name, (x, y, width, height) in px) from a COCO ``instances_*.json``.

    Images without objects have an empty list.  Raises :class:`BncapError` for broken JSON, a missing key, and an
    object of an unlisted image or category.
    """
    content = read_json(instances)
    tables = {}
    for part, key in (("images", "file_name"), ("categories", "name")):
        found = enumerate(records(instances, content, part))
        tables[part] = {
            value(instances, part, index, record, "id"): value(instances, part, index, record, key)
            for index, record in found
        }
    boxes: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {
        name: [] for name in tables["images"].values()
    }
    for index, record in enumerate(records(instances, content, "annotations")):
        image_id, category_id, box = (
            value(instances, "annotations", index, record, key) for key in ("image_id", "category_id", "bbox")
        )
        if image_id not in tables["images"] or category_id not in tables["categories"]:
            fault = f"image {image_id} or category {category_id} is not listed"
            raise record_error(instances, "annotations", index, fault, "delete or mend this record")
        if len(box) != 4:
            raise record_error(instances, "annotations", index, f"bbox {box} is not [x, y, width, height]", "mend it")
        x, y, width, height = map(float, box)
        boxes[tables["images"][image_id]].append((tables["categories"][category_id], (x, y, width, height)))
    return boxes


def _format(path: Path) -> str | None:
    """The name of the reader in :mod:`bncap.data.readers` for the file at ``path``."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD).decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    except OSError:
        read_text(path)  # names the fault
        raise
    lines = re.split(r"[\r\n]+", head, maxsplit=5)
    if head.startswith("{"):
        return _json_format(head, lines[0])
    if [cell.strip() for cell in lines[0].split("|")] == FLICKR_HEADER.split("| "):
        return "flickr_csv"
    if any(re.match(r"[^\t]+#\d+\t", line) for line in lines):
        return "token"
    columns = set(header_cells(lines[0]))
    if {"caption_id", "english_caption", "bengali_caption"} <= columns:
        return "ban_cap"
    return "plain_csv" if {"image", "caption"} <= columns else None


def _json_format(head: str, first_line: str) -> str | None:
    if re.search(r'"(sentences|sentids)"\s*:', head):
        return "karpathy"
    document = r'"(images|annotations|info|licenses)"\s*:'
    if re.search(r'"(image|caption)"\s*:', first_line) and not re.search(document, first_line):
        return "plain_jsonl"
    return "coco" if re.search(document, head) else None
