"""Readers of the files of captions that are published, and of a user's own; one function a format."""

from __future__ import annotations

import csv
import functools
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bncap.errors import BncapError
from bncap.text import LANGUAGES, iso

TYPES = {"id": int, "image_id": int, "category_id": int, "bbox": list, "sentences": list, "sentid": int}
"""Types of values of COCO's and Karpathy's JSON by their names; the others that are read here are text."""

_NEEDED = {*TYPES, "images", "annotations", "categories", "file_name", "caption", "name"} | {
    "filename", "filepath", "cocoid", "split", "raw",
}  # fmt: skip
# A line within a quoted cell that looks like this is the next row: the quote before it was never closed.
_ROW_START = re.compile(r'[^",]+\.(?:jpe?g|png|gif|bmp|webp|tiff?)(?:\.\d+)?(?:#\d+)?,', re.IGNORECASE)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BncapError(f"{path} is missing; the datasets are expected in the layout they are published in") from error
    except OSError as error:
        raise BncapError(f"{path} cannot be read ({error.strerror}); put the file there, readable") from error
    marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not marked and (zero := content.find(0)) >= 0:
        raise BncapError(
            f"{path} is no UTF-8 text: byte 0x00 at offset {zero} (line {content.count(10, 0, zero) + 1}); name "
            "another file, or save it as UTF-8, for example with: iconv -f UTF-16LE -t UTF-8"
        )
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        at, line = error.start, content.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if marked else "WINDOWS-1252"
        raise BncapError(
            f"{path} is not UTF-8: byte 0x{content[at]:02x} at offset {at} (line {line}); save it as UTF-8, "
            f"for example with: iconv -f {guess} -t UTF-8, or fetch it again"
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines of ``path`` that are not blank."""
    return ((number, line) for number, line in enumerate(_split(read_text(path)), 1) if line.strip())


def read_json(path: Path) -> Any:
    """The content of a JSON file without the keys that nobody here reads: they are most of COCO's and Karpathy's."""
    try:
        return json.loads(read_text(path), object_pairs_hook=_needed)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BncapError(f"{path} is not readable JSON ({error}); fetch it again") from error


def records(path: Path, content: Any, part: str) -> list[Any]:
    """The list ``part`` of a file as COCO or Karpathy publish it."""
    found = content.get(part) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise BncapError(f"{path} has no list {part!r}; take the file as it is published")
    return found


def value(path: Path, part: str, index: int, record: Any, key: str) -> Any:
    """``record[key]``, of the type that a value of that name has in :data:`TYPES`."""
    kind = TYPES.get(key, str)
    found = record.get(key) if isinstance(record, dict) else None
    fault = None
    if not isinstance(found, kind):
        fault = f"{key!r} is {'missing' if found is None else repr(found)}, expected {kind.__name__}"
    elif kind is str and not is_text(found):
        fault = f"{key!r} holds half of a surrogate pair"
    if fault:
        raise record_error(path, part, index, fault, "mend or delete this record")
    return found


def record_error(path: Path, part: str, index: int, fault: str, remedy: str) -> BncapError:
    return BncapError(f"{path}: {part}[{index}]: {fault}; {remedy}")


def is_text(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: JSON may escape half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text)


def header_cells(line: str) -> list[str]:
    """The names of a CSV file's columns, from its first line."""
    return [cell.strip().casefold() for cell in next(csv.reader([line]), [])]


def csv_rows(path: Path, columns: Sequence[str], required: int) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of a CSV file with a header, which must name the first ``required`` columns.

    Columns that are not in ``columns`` are left out, with a line on stderr.  Where the file has two columns, image and
    caption, a caption may hold commas and quotes without being quoted.  Raises :class:`BncapError` for a header that
    lacks a column or names one twice, quotes out of place, and a row of another length.
    """
    lines = _split(read_text(path))
    index = next((n for n, line in enumerate(lines) if line.strip()), 0)
    header = header_cells(lines[index])
    known = [name for name in header if name in columns]
    if len(known) > len(set(known)) or not set(columns[:required]) <= set(known):
        raise BncapError(
            f"{path}: line {index + 1} must name the columns {', '.join(columns[:required])}, and each only once"
        )
    note_unused(path, set(header) - set(columns))
    index += 1
    while index < len(lines):
        number = index + 1
        if not lines[index].strip():
            index += 1
            continue
        cells, index = _free_text(lines, index, header) if len(header) == 2 else _record(lines, index)
        if cells is None:
            raise BncapError(
                f"{path}: line {number}: a double quote is out of place or never closed; put the whole cell in "
                "double quotes and double each one inside it"
            )
        if len(cells) != len(header):
            raise BncapError(
                f"{path}: line {number} has {len(cells)} of the header's {len(header)} cells; "
                "put cells that hold commas in double quotes, or delete the line"
            )
        yield number, {name: cell for name, cell in zip(header, cells, strict=True) if name in columns}


def note_unused(path: Path, names: Collection[str]) -> None:
    """Say on stderr which columns or keys of a file nobody reads: one of them may be misspelt."""
    if unused := sorted(name for name in names if name):
        print(f"{path.name}: not used: {', '.join(unused)}", file=sys.stderr)


def _free_text(lines: list[str], start: int, header: list[str]) -> tuple[list[str] | None, int]:
    """A record of image and caption, whose caption is taken as it stands where its quotes or commas are not CSV's."""
    cells, end = _record(lines, start)
    if cells is None and header[0] == "image":
        return lines[start].split(",", 1), start + 1
    if cells is not None and len(cells) > 2:
        cells = [cells[0], ",".join(cells[1:])] if header[0] == "image" else [",".join(cells[:-1]), cells[-1]]
    return cells, end


def _record(lines: list[str], start: int) -> tuple[list[str] | None, int]:
    """Cells of the CSV record that begins at ``lines[start]`` and the line behind it; None if its quotes are broken."""
    reader = csv.reader((f"{lines[index]}\n" for index in range(start, len(lines))), strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        return None, start + 1
    end = start + reader.line_num
    swallowed = any(_ROW_START.match(line) for line in lines[start + 1 : end])
    return (None, start + 1) if swallowed else (cells, end)


def _split(text: str) -> list[str]:
    text = text.replace("\r\n", "\n")
    return text.replace("\r", " " if "\n" in text else "\n").split("\n")


def _needed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: content for key, content in pairs if key in _NEEDED}


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
    name = _format(path)
    if name is None:
        text = read_text(path).strip()  # a wrong encoding is the likelier fault of a file that looks like nothing
        if not text:
            raise BncapError(f"{path} is empty; fill it, or name another file")
        first = text.splitlines()[0][:60]
        raise BncapError(f"{path} is in no format that is known here: its first line is {first!r}; known: {FORMATS}")
    captions = globals()[f"read_{name}"](path, images, lang or "en_XX")
    if not captions:
        raise BncapError(f"{path} has no captions; fill it, or name another file")
    return captions


def list_images(captions: Iterable[Caption]) -> list[str]:
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
