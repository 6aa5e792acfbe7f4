"""Readers of the files of captions that are published, and of a user's own; one function a format.

Each takes the file, the folder of its pictures below the root of the data sets ("" for none) and the language of its
captions where the file does not say it, and raises :class:`BncapError` with file, line (or record) and remedy for what
is malformed: a missing value, an empty caption, an id that comes twice, a picture's name that is absolute or leads out
of its folder, text that is not UTF-8.  Texts come with runs of white space made single: COCO's annotators left line
breaks in some of them.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bncap.data.captions import FLICKR_HEADER, Caption
from bncap.data.textfiles import csv_rows, is_text, note_unused, read_json, read_lines, record_error, records, value
from bncap.errors import BncapError
from bncap.text import LANGUAGES, iso

PLAIN_COLUMNS = ("image", "caption", "lang", "english", "synthetic")
BAN_CAP_COLUMNS = ("caption_id", "english_caption", "bengali_caption")

_NUMBERED = re.compile(r"(.+)#(\d+)")
_OUTSIDE = re.compile(r"/|[A-Za-z]:|.*://|(?:.*/)?\.\.(?:/|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Row:
    """A caption of a file that names pictures; ids are given when all of them are known."""

    picture: str
    text: str
    lang: str
    english: str = ""
    synthetic: str = ""


def read_coco(annotations: Path, images: str = "", lang: str = "en_XX") -> list[Caption]:
    """The captions of a COCO ``captions_*.json`` (2014, 2017) in the order of their ids."""
    content = read_json(annotations)
    files: dict[int, tuple[str, str]] = {}
    for index, record in enumerate(records(annotations, content, "images")):
        image_id, name = (value(annotations, "images", index, record, key) for key in ("id", "file_name"))
        if image_id in files:
            raise record_error(annotations, "images", index, f"image id {image_id} comes a second time", "delete one")
        picture = _picture(f"{annotations}: images[{index}]", name)
        files[image_id] = (str(image_id), _below(images, picture))
    captions: dict[int, Caption] = {}
    found = records(annotations, content, "annotations")
    lang = _language(str(annotations), lang)
    for index, record in enumerate(found):
        found[index] = None  # COCO's 414,113 records would otherwise be held twice
        caption_id, image_id, text = (
            value(annotations, "annotations", index, record, key) for key in ("id", "image_id", "caption")
        )
        fault = None
        if caption_id in captions:
            fault = f"caption id {caption_id} comes a second time"
        elif image_id not in files:
            fault = f"caption {caption_id} is of image {image_id}, which images does not list"
        elif not (text := " ".join(text.split())):
            fault = f"caption {caption_id} is empty"
        if fault:
            raise record_error(annotations, "annotations", index, fault, "delete or mend this record")
        captions[caption_id] = Caption(caption_id, *files[image_id], text, lang)
    return [captions[caption_id] for caption_id in sorted(captions)]


def read_karpathy(path: Path, images: str = "", lang: str = "en_XX") -> list[Caption]:
    """The captions of ``dataset_{coco,flickr30k,flickr8k}.json`` in their order, with their splits.

    ``caption_id`` is the sentence's ``sentid``; ``image_id`` is COCO's own id, in Flickr's files the name without
    suffix, so that ids agree with those of the files that COCO and Flickr30k publish.
    """
    lang = _language(str(path), lang)
    captions: list[Caption] = []
    seen: set[int] = set()
    pictures: set[str] = set()
    for index, record in enumerate(records(path, read_json(path), "images")):
        name, split, sentences = (
            value(path, "images", index, record, key) for key in ("filename", "split", "sentences")
        )
        where = f"{path}: images[{index}]"
        picture = _picture(where, f"{record['filepath']}/{name}" if record.get("filepath") else name)
        if picture in pictures:
            raise BncapError(f"{where}: {picture} comes a second time; delete one of the two")
        pictures.add(picture)
        image_id = str(record["cocoid"]) if "cocoid" in record else _stem(picture)
        image, split = _below(images, picture), sys.intern(split)
        for number, sentence in enumerate(sentences):
            part = f"images[{index}].sentences"
            caption_id, raw = (value(path, part, number, sentence, key) for key in ("sentid", "raw"))
            if caption_id in seen:
                raise record_error(path, part, number, f"sentid {caption_id} comes a second time", "delete one")
            seen.add(caption_id)
            text = _text(f"{path}: {part}[{number}]", raw)
            captions.append(Caption(caption_id, image_id, image, text, lang, split=split))
    return captions


def read_token(path: Path, images: str = "", lang: str = "en_XX") -> list[Caption]:
    """The captions of Flickr's ``*.token`` files, lines of ``name.jpg#0<TAB>caption``; ``caption_id`` counts them."""
    lang = _language(str(path), lang)
    rows = []
    seen: set[str] = set()
    for number, line in read_lines(path):
        where = f"{path}: line {number}"
        key, tab, text = line.partition("\t")
        if not tab:
            raise BncapError(f"{where} is not name.jpg#0<TAB>caption: {line[:80]!r}; mend or delete it")
        rows.append(_Row(_numbered(where, key, seen), _text(where, text), lang))
    return _captions(rows, images)


def read_flickr_csv(path: Path, images: str = "", lang: str = "en_XX") -> list[Caption]:
    """The captions of Flickr30k's ``results.csv`` in its order; ``caption_id`` counts them.

    The published file has one row without its second bar (``2199200615.jpg| 4   A dog runs ...``); a row of that form
    is mended, with a line on stderr.
    """
    lang = _language(str(path), lang)
    lines = read_lines(path)
    number, header = next(lines, (1, ""))
    if [cell.strip() for cell in header.split("|")] != FLICKR_HEADER.split("| "):
        raise BncapError(f"{path}: line {number} is not {FLICKR_HEADER!r}; take results.csv as Flickr30k publishes it")
    rows = []
    seen: set[tuple[str, int]] = set()
    for number, line in lines:
        name, comment, text = _flickr_row(path, number, line)
        if (name, comment) in seen:
            raise BncapError(
                f"{path}: line {number}: {name} has comment {comment} a second time; delete one of the two"
            )
        seen.add((name, comment))
        where = f"{path}: line {number}"
        rows.append(_Row(_picture(where, name), _text(where, text), lang))
    return _captions(rows, images)


def read_ban_cap(path: Path, images: str = "", lang: str = "") -> list[Caption]:
    """The Bengali captions of BAN-Cap, each with the English one; the file says the language, ``lang`` does not.

    ``caption_id`` (``1000268201_693b08cb0e.jpg#0``) names the picture; the record's own id counts the rows.
    """
    rows = []
    seen: set[str] = set()
    for number, cells in csv_rows(path, BAN_CAP_COLUMNS, 3):
        where = f"{path}: line {number}"
        picture = _numbered(where, cells["caption_id"].strip(), seen)
        english = _text(where, cells["english_caption"], "english_caption")
        rows.append(_Row(picture, _text(where, cells["bengali_caption"], "bengali_caption"), "bn_IN", english))
    return _captions(rows, images)


def read_plain_csv(path: Path, images: str = "", lang: str = "en_XX") -> list[Caption]:
    """The captions of a CSV file with the columns image and caption, and if wanted lang, english and synthetic.

    The columns come in any order.  Where there are only the first two (Flickr8k's ``captions.txt``), a caption may
    hold commas and quotes without being quoted itself.
    """
    rows = [_plain_row(f"{path}: line {number}", cells, lang) for number, cells in csv_rows(path, PLAIN_COLUMNS, 2)]
    return _captions(rows, images)


def read_plain_jsonl(path: Path, images: str = "", lang: str = "en_XX") -> list[Caption]:
    """The captions of a file with one JSON object a line, with the keys of :func:`read_plain_csv`."""
    rows = []
    unused: set[str] = set()
    for number, line in read_lines(path):
        where = f"{path}: line {number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BncapError(f"{where} is not readable JSON ({error}); mend or delete it") from error
        if not isinstance(record, dict):
            raise BncapError(f"{where} is no JSON object with image and caption; mend or delete it")
        rows.append(_plain_row(where, _json_cells(where, record), lang))
        unused |= record.keys() - set(PLAIN_COLUMNS)
    note_unused(path, unused)
    return _captions(rows, images)


def _json_cells(where: str, record: dict[str, Any]) -> dict[str, str]:
    cells = {key: record[key] for key in PLAIN_COLUMNS if record.get(key) is not None}
    for key in ("image", "caption"):
        if key not in cells:
            raise BncapError(f"{where}: {key!r} is missing; mend or delete the line")
    for key, cell in cells.items():
        if not isinstance(cell, str) or not is_text(cell):
            raise BncapError(f"{where}: {key!r} is {cell!r}, expected text; mend or delete the line")
    return cells


def _plain_row(where: str, cells: dict[str, str], lang: str) -> _Row:
    synthetic = cells.get("synthetic", "").strip()
    return _Row(
        _picture(where, cells["image"].strip()),
        _text(where, cells["caption"]),
        _language(where, cells.get("lang", "").strip() or lang),
        " ".join(cells.get("english", "").split()),
        _picture(where, synthetic) if synthetic else "",
    )


def _captions(rows: list[_Row], images: str) -> list[Caption]:
    """``rows`` numbered; an image's id is its name without suffix, with it where two images would share that."""
    pictures = dict.fromkeys(row.picture for row in rows)
    count = Counter(map(_stem, pictures))
    names = {}
    for picture in pictures:
        stem = _stem(picture)
        alone = count[stem] == 1 and stem not in pictures
        names[picture] = (stem if alone else picture, _below(images, picture))
    return [
        Caption(
            number,
            *names[row.picture],
            row.text,
            row.lang,
            row.english,
            synthetic=_below(images, row.synthetic) if row.synthetic else "",
        )
        for number, row in enumerate(rows)
    ]


def _flickr_row(path: Path, number: int, line: str) -> tuple[str, int, str]:
    cells = [cell.strip() for cell in line.split("|", 2)]
    if len(cells) == 2 and (mended := re.fullmatch(r"(\d+)\s+(\S.*)", cells[1])):
        print(f"{path.name}: line {number}: mended, a bar is missing after {mended[1]!r}: {line!r}", file=sys.stderr)
        cells = [cells[0], mended[1], mended[2]]
    if len(cells) != 3 or not cells[0] or not re.fullmatch(r"[0-9]+", cells[1]) or not cells[2]:
        raise BncapError(f"{path}: line {number} is not {FLICKR_HEADER!r}: {line!r}; mend or delete it")
    return cells[0], int(cells[1]), cells[2]


def _numbered(where: str, key: str, seen: set[str]) -> str:
    """The picture of ``name.jpg#0``; adds it to ``seen``, where it must not be yet."""
    match = _NUMBERED.fullmatch(key)
    if match is None:
        raise BncapError(f"{where}: {key[:80]!r} is not name.jpg#0; mend or delete the line")
    if key in seen:
        raise BncapError(f"{where}: {key} comes a second time; delete one of the two")
    seen.add(key)
    return _picture(where, match[1])


def _text(where: str, text: str, name: str = "caption") -> str:
    text = " ".join(text.split())
    if not text:
        raise BncapError(f"{where}: the {name} is empty; fill it in or delete the line")
    return text


def _picture(where: str, name: str) -> str:
    """``name`` with ``/`` between its parts, without ``.``; refused where it can lead out of the folder."""
    name = name.replace("\\", "/")
    if _OUTSIDE.match(name) or "\0" in name:
        raise BncapError(f"{where}: {name!r} is no path below the folder of the pictures; write it relative to it")
    picture = str(PurePosixPath(name))
    if picture == ".":
        raise BncapError(f"{where}: the picture has no name; fill it in or delete the line")
    return picture


def _stem(picture: str) -> str:
    return str(PurePosixPath(picture).with_suffix(""))


def _below(images: str, picture: str) -> str:
    return f"{images}/{picture}" if images else picture


@functools.cache
def _code(lang: str) -> str:
    return next(code for code in LANGUAGES if code[:2] == iso(lang))


def _language(where: str, lang: str) -> str:
    """The mBART-50 code of an mBART-50 or ISO code."""
    try:
        return _code(lang)
    except BncapError as error:
        raise BncapError(f"{where}: {error}") from error
