r"""Files of captions: those of published data sets, and a user's own.

To add a format, write one function that yields a :class:`Row` for each caption, such as ::

    def read_tabs(path: Path) -> Iterator[Row]:
        # lines of name.jpg<TAB>caption
        for place, line in _read_lines(path):
            image, _, text = line.partition("\t")
            yield Row(place, image, text)

and add one line to :data:`FORMATS`: a description, a regular expression for the beginning of such a file, the function.
:func:`read_captions` does the rest for every format: it recognises the file by its content, checks what all formats
share (an empty caption, a name that comes twice, a path that leads out of the folder, an unknown language), numbers the
captions and names the pictures.  A function refuses what is broken in its own format alone.

pandas does not read CSV and JSON lines here: it accepts unclosed quotes and short rows in silence, and names no line.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from bncap.errors import BncapError
from bncap.text import mbart_code

FLICKR_COLUMNS = ("image_name", "comment_number", "comment")
FLICKR_HEADER = "| ".join(FLICKR_COLUMNS)
PLAIN_COLUMNS = ("image", "caption", "lang", "english", "synthetic")
BAN_CAP_COLUMNS = ("caption_id", "english_caption", "bengali_caption")
TYPES = {"id": int, "image_id": int, "category_id": int, "bbox": list, "sentences": list, "sentid": int}
"""Types of values of COCO's and Karpathy's JSON by their keys; the others that are read here are text."""
NOUNS_BN: dict[str, dict] = json.loads(Path(__file__).with_name("coco_nouns_bn.json").read_text("utf-8"))
"""``categories``: for each of COCO's 80, words and phrases of what it annotates under it, as CHAIR has them in English
(Rohrbach et al., EMNLP 2018), with the loan words that translators write.  Left out is what is as often something else,
such as কমলা (the colour).  Inflected forms are found by their stems (:func:`bncap.text.stem`); those are listed that
the stemmer takes for something else.  ``other_meanings``: phrases whose words are listed and mean something else."""
NOUN_LEXICON_BN: dict[str, str] = {
    **{words: category for category, entries in NOUNS_BN["categories"].items() for words in entries},
    **dict.fromkeys(NOUNS_BN["other_meanings"], ""),
}
"""Word or phrase -> COCO's category, "" for a phrase that names none: what :class:`bncap.metrics.Nouns` takes."""

_JSON_KEYS = {*TYPES, "images", "annotations", "categories", "file_name", "caption", "name"} | {
    "filename", "filepath", "cocoid", "split", "raw",
}  # fmt: skip
_HEAD = 1 << 16  # bytes of a file by which its format is recognised
_OUTSIDE = re.compile(r"/|[A-Za-z]:|.*://|(?:.*/)?\.\.(?:/|$)", re.DOTALL)
# A line within a quoted cell that has this form is the next row: the quote before it was never closed.
_ROW_START = re.compile(r'[^",]+\.(?:jpe?g|png|gif|bmp|webp|tiff?)(?:\.\d+)?(?:#\d+)?,', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of one picture; those of one picture share ``image_id`` and ``image``.

    ``caption_id`` is unique within its file; ``image``, and ``synthetic`` where the data set has a synthetic picture,
    are paths below the root of the data sets; ``lang`` is the mBART-50 code of ``text``; ``english`` its English side
    and ``split`` the data set's own, "" where it has none.
    """

    caption_id: int
    image_id: str
    image: str
    text: str
    lang: str = "en_XX"
    english: str = ""
    split: str = ""
    synthetic: str = ""


class Row(NamedTuple):
    """A caption as it stands in a file, before it is checked.

    ``place`` is where, such as "line 3"; ``image`` is a path below the folder of the pictures; ``key`` names the
    caption within its file: a number becomes the ``caption_id``, otherwise captions are numbered from 0.  A format
    gives ``image_id`` for all of its captions or for none; then it is the picture's name.
    """

    place: str
    image: str
    text: str
    key: int | str | None = None
    image_id: str = ""
    lang: str = ""
    english: str = ""
    split: str = ""
    synthetic: str = ""


def read_captions(path: Path, images: str = "", lang: str = "") -> list[Caption]:
    """The captions of a UTF-8 file in any of :data:`FORMATS`, in the order of the file (of COCO's, in that of the ids).

    Runs of white space in texts become single blanks: COCO's annotators left line breaks in some.  ``images`` is
    the folder of the pictures below the root of the data sets, "" for the root; ``lang`` the mBART-50 or ISO code
    of the captions where the file does not say it, "" for English.  Raises :class:`BncapError`, with file, line or
    record, and remedy, for an unknown format, a file without captions, and whatever is malformed in it.
    """
    captions: list[Caption] = []
    keys: set[int | str] = set()
    pictures: dict[str, tuple[str, str]] = {}  # as the file names it -> below the folder, and below the root
    named = True
    for number, row in enumerate(_recognise_format(path)(path)):
        where = f"{path}: {row.place}"
        if row.key is not None:
            if row.key in keys:
                raise BncapError(f"{where}: caption {row.key} comes a second time; delete one of the two")
            keys.add(row.key)
        if row.image not in pictures:
            picture = _check_picture(where, row.image)
            pictures[row.image] = picture, _join(images, picture)
        picture, image = pictures[row.image]
        text = " ".join(row.text.split())
        if not text:
            raise BncapError(f"{where}: the caption is empty; fill it in, or delete it")
        named = bool(row.image_id)
        captions.append(
            Caption(
                caption_id=row.key if isinstance(row.key, int) else number,
                image_id=row.image_id or picture,
                image=image,
                text=text,
                lang=_parse_language(where, row.lang or lang or "en_XX"),
                english=" ".join(row.english.split()),
                split=row.split,
                synthetic=_join(images, _check_picture(where, row.synthetic)) if row.synthetic else "",
            )
        )
    if not captions:
        raise BncapError(f"{path} has no captions; fill it, or name another file")
    if named:
        return captions
    ids = _name_images({caption.image_id for caption in captions})
    return [replace(caption, image_id=ids[caption.image_id]) for caption in captions]


def read_coco(path: Path) -> Iterator[Row]:
    """COCO's ``captions_*.json`` (2014, 2017), in the order of the captions' ids."""
    content = _read_json(path)
    pictures: dict[int, tuple[str, str]] = {}  # id -> name of the file, id as text
    for index, record in enumerate(_list_records(path, content, "images")):
        image_id, name = (_get_value(path, f"images[{index}]", record, key) for key in ("id", "file_name"))
        if image_id in pictures:
            raise BncapError(f"{path}: images[{index}]: image id {image_id} comes a second time; delete one of the two")
        pictures[image_id] = _check_picture(f"{path}: images[{index}]", name), str(image_id)
    records = _list_records(path, content, "annotations")
    ids = [_get_value(path, f"annotations[{index}]", record, "id") for index, record in enumerate(records)]
    for index in sorted(range(len(ids)), key=ids.__getitem__):
        place, record = f"annotations[{index}]", records[index]
        records[index] = None  # COCO's 414,113 records would otherwise be held twice
        image_id, text = (_get_value(path, place, record, key) for key in ("image_id", "caption"))
        if image_id not in pictures:
            raise BncapError(
                f"{path}: {place}: caption {ids[index]} is of image {image_id}, which images does not list; delete or "
                "mend this record"
            )
        name, image_name = pictures[image_id]
        yield Row(place, name, text, ids[index], image_name)


def read_karpathy(path: Path) -> Iterator[Row]:
    """``dataset_{coco,flickr30k,flickr8k}.json`` with its splits.

    ``image_id`` is COCO's own id, in Flickr's files the name without suffix, as in the files that these publish.
    """
    pictures: set[str] = set()
    for index, record in enumerate(_list_records(path, _read_json(path), "images")):
        place = f"images[{index}]"
        name, split, sentences = (_get_value(path, place, record, key) for key in ("filename", "split", "sentences"))
        picture = _check_picture(f"{path}: {place}", f"{record['filepath']}/{name}" if record.get("filepath") else name)
        if picture in pictures:
            raise BncapError(f"{path}: {place}: {picture} comes a second time; delete one of the two")
        pictures.add(picture)
        image_id = str(record["cocoid"]) if "cocoid" in record else _drop_suffix(picture)
        for number, sentence in enumerate(sentences):
            here = f"{place}.sentences[{number}]"
            key, text = (_get_value(path, here, sentence, key) for key in ("sentid", "raw"))
            yield Row(here, picture, text, key, image_id, split=sys.intern(split))


def read_token(path: Path) -> Iterator[Row]:
    """Flickr's ``*.token`` files, lines of ``name.jpg#0<TAB>caption``."""
    for place, line in _read_lines(path):
        key, tab, text = line.partition("\t")
        if not tab:
            raise BncapError(f"{path}: {place} is not name.jpg#0<TAB>caption: {line[:80]!r}; mend or delete it")
        yield Row(place, _parse_key(f"{path}: {place}", key), text, key)


def read_flickr(path: Path) -> Iterator[Row]:
    """Flickr30k's ``results.csv``, whose cells stand between bars.

    The published file has one row without its second bar (``2199200615.jpg| 4   A dog runs ...``); it is mended.
    """
    lines = _read_lines(path)
    next(lines)  # the header, by which the format was recognised
    for place, line in lines:
        cells = [cell.strip() for cell in line.split("|", 2)]
        if len(cells) == 2 and (mended := re.fullmatch(r"(\d+)\s+(\S.*)", cells[1])):
            print(f"{path.name}: {place}: mended, a bar is missing after {mended[1]!r}: {line!r}", file=sys.stderr)
            cells = [cells[0], mended[1], mended[2]]
        if len(cells) != 3 or not cells[0] or not re.fullmatch(r"[0-9]+", cells[1]) or not cells[2]:
            raise BncapError(f"{path}: {place} is not {FLICKR_HEADER!r}: {line!r}; mend or delete it")
        yield Row(place, cells[0], cells[2], f"{cells[0]}| {int(cells[1])}")


def read_ban_cap(path: Path) -> Iterator[Row]:
    """BAN-Cap: Bengali captions with their English ones, named as in Flickr's token files."""
    for place, cells in _read_rows(path, BAN_CAP_COLUMNS):
        key, english, bengali = (cells[column].strip() for column in BAN_CAP_COLUMNS)
        if not english:
            raise BncapError(f"{path}: {place}: the english_caption is empty; fill it in or delete the line")
        yield Row(place, _parse_key(f"{path}: {place}", key), bengali, key, lang="bn_IN", english=english)


def read_plain_csv(path: Path) -> Iterator[Row]:
    """CSV with a header: the columns image and caption, and if wanted lang, english and synthetic, in any order.

    Where there are only the first two, a caption may hold commas and quotes without being quoted itself.
    """
    for place, cells in _read_rows(path, PLAIN_COLUMNS):
        yield _plain_row(place, cells)


def read_json_lines(path: Path) -> Iterator[Row]:
    """One JSON object a line, with the columns of :func:`read_plain_csv` as keys."""
    unused: set[str] = set()
    for place, line in _read_lines(path):
        where = f"{path}: {place}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BncapError(f"{where} is not readable JSON ({error}); mend or delete it") from error
        if not isinstance(record, dict):
            raise BncapError(f"{where} is no JSON object with image and caption; mend or delete it")
        cells = {key: record[key] for key in PLAIN_COLUMNS if record.get(key) is not None}
        if missing := [key for key in PLAIN_COLUMNS[:2] if key not in cells]:
            raise BncapError(f"{where}: {missing[0]!r} is missing; mend or delete the line")
        for key, cell in cells.items():
            if not isinstance(cell, str) or not _is_text(cell):
                raise BncapError(f"{where}: {key!r} is {cell!r}, expected text; mend or delete the line")
        unused |= record.keys() - set(PLAIN_COLUMNS)
        yield _plain_row(place, cells)
    _report_unused(path, unused)


def _header_pattern(*columns: str) -> str:
    """For the first line of a CSV file that has these columns, in any order and case."""
    return "(?i)" + "".join(rf'(?=(?:[^\r\n]*,)?\s*"?{column}"?\s*(?:[,\r\n]|\Z))' for column in columns)


FORMATS: tuple[tuple[str, str, Callable[[Path], Iterator[Row]]], ...] = (
    ("Karpathy JSON (images with sentences)", r'\{.*"(?:sentences|sentids)"\s*:', read_karpathy),
    (
        "JSON lines with the keys image and caption and, if wanted, lang, english and synthetic",
        r'\{(?![^\r\n]*"(?:images|annotations|info|licenses)"\s*:)[^\r\n]*"(?:image|caption)"\s*:',
        read_json_lines,
    ),
    ("COCO captions JSON (images and annotations)", r'\{.*"(?:images|annotations|info|licenses)"\s*:', read_coco),
    (f"Flickr30k CSV ({FLICKR_HEADER})", r"\s*\|\s*".join(FLICKR_COLUMNS) + r"\s*(?:[\r\n]|\Z)", read_flickr),
    ("Flickr .token (name.jpg#0<TAB>caption)", r"(?:[^\r\n]*[\r\n]+){0,5}?[^\t\r\n]+#\d+\t", read_token),
    (f"BAN-Cap CSV ({','.join(BAN_CAP_COLUMNS)})", _header_pattern(*BAN_CAP_COLUMNS), read_ban_cap),
    (
        "plain CSV with a header line, with the columns image and caption and, if wanted, lang, english and synthetic",
        _header_pattern(*PLAIN_COLUMNS[:2]),
        read_plain_csv,
    ),
)
"""Description for the user, regular expression for the beginning, reader; the first that fits is taken."""


def list_images(captions: Iterable[Caption]) -> list[str]:
    """The images of ``captions``, each once, sorted."""
    return sorted({caption.image for caption in captions})


def read_boxes(instances: Path) -> dict[str, list[tuple[str, tuple[float, float, float, float]]]]:
    """Image file name -> its objects (category name, (x, y, width, height) in px) from a COCO ``instances_*.json``.

    Raises :class:`BncapError` for broken JSON, a missing key, and an object of an unlisted image or category.
    """
    content = _read_json(instances)
    names = {}
    for part, key in (("images", "file_name"), ("categories", "name")):
        names[part] = {
            _get_value(instances, f"{part}[{i}]", record, "id"): _get_value(instances, f"{part}[{i}]", record, key)
            for i, record in enumerate(_list_records(instances, content, part))
        }
    boxes: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {n: [] for n in names["images"].values()}
    for index, record in enumerate(_list_records(instances, content, "annotations")):
        place = f"annotations[{index}]"
        image, category, box = (_get_value(instances, place, record, k) for k in ("image_id", "category_id", "bbox"))
        if image not in names["images"] or category not in names["categories"]:
            raise BncapError(
                f"{instances}: {place}: image {image} or category {category} is not listed; delete or mend this record"
            )
        if len(box) != 4:
            raise BncapError(f"{instances}: {place}: bbox {box} is not [x, y, width, height]; mend it")
        x, y, width, height = map(float, box)
        boxes[names["images"][image]].append((names["categories"][category], (x, y, width, height)))
    return boxes


def _recognise_format(path: Path) -> Callable[[Path], Iterator[Row]]:
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD).decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    except OSError:
        _read_text(path)  # names the fault
        raise
    for _, beginning, read in FORMATS:
        if re.match(beginning, head, re.DOTALL):
            return read
    text = _read_text(path).strip()  # a wrong encoding is the likelier fault of a file of no known format
    if not text:
        raise BncapError(f"{path} is empty; fill it, or name another file")
    raise BncapError(
        f"{path} is in no format that is known here: its first line is {text.splitlines()[0][:60]!r}; known: "
        + ", ".join(description for description, _, _ in FORMATS)
    )


def _plain_row(place: str, cells: dict[str, str]) -> Row:
    image, lang, synthetic = (cells.get(column, "").strip() for column in ("image", "lang", "synthetic"))
    return Row(place, image, cells["caption"], lang=lang, english=cells.get("english", ""), synthetic=synthetic)


def _parse_key(where: str, key: str) -> str:
    """The picture of the caption named ``name.jpg#0``."""
    match = re.fullmatch(r"(.+)#(\d+)", key)
    if match is None:
        raise BncapError(f"{where}: {key[:80]!r} is not name.jpg#0; mend or delete the line")
    return match[1]


def _check_picture(where: str, name: str) -> str:
    """``name`` with ``/`` between its parts, without ``.``; refused where it can lead out of the folder."""
    name = name.replace("\\", "/")
    if _OUTSIDE.match(name) or "\0" in name:
        raise BncapError(f"{where}: {name!r} is no path below the folder of the pictures; write it relative to it")
    picture = str(PurePosixPath(name))
    if picture == ".":
        raise BncapError(f"{where}: the picture has no name; fill it in or delete the line")
    return picture


def _name_images(pictures: Collection[str]) -> dict[str, str]:
    """Picture -> its name without suffix, or with it where two pictures would share that."""
    count = Counter(map(_drop_suffix, pictures))
    return {
        picture: stem if count[stem := _drop_suffix(picture)] == 1 and stem not in pictures else picture
        for picture in pictures
    }


def _drop_suffix(picture: str) -> str:
    return str(PurePosixPath(picture).with_suffix(""))


def _join(images: str, picture: str) -> str:
    return f"{images}/{picture}" if images else picture


def _parse_language(where: str, lang: str) -> str:
    try:
        return mbart_code(lang)
    except BncapError as error:
        raise BncapError(f"{where}: {error}") from error


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BncapError(f"{path} is missing; the datasets are expected in the layout they are published in") from error
    except OSError as error:
        raise BncapError(f"{path} cannot be read ({error.strerror}); put the file there, readable") from error
    marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    at = -1 if marked else content.find(0)
    guess = "UTF-16" if marked else "UTF-16LE" if at >= 0 else "WINDOWS-1252"
    if at < 0:
        try:
            return content.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            at = error.start
    raise BncapError(
        f"{path} is no UTF-8 text: byte 0x{content[at]:02x} at offset {at} (line {content.count(10, 0, at) + 1}); save "
        f"it as UTF-8, for example with: iconv -f {guess} -t UTF-8, or fetch it again"
    )


def _split_lines(text: str) -> list[str]:
    """Lines that end in LF, CR LF or, in a file without either, CR."""
    text = text.replace("\r\n", "\n")
    return text.replace("\r", " " if "\n" in text else "\n").split("\n")


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of the lines that are not blank."""
    return ((f"line {n}", line) for n, line in enumerate(_split_lines(_read_text(path)), 1) if line.strip())


def _read_json(path: Path) -> Any:
    """The content of a JSON file without the keys that are not read: they are most of COCO's and Karpathy's."""
    try:
        return json.loads(
            _read_text(path), object_pairs_hook=lambda pairs: {key: v for key, v in pairs if key in _JSON_KEYS}
        )
    except (json.JSONDecodeError, RecursionError) as error:
        raise BncapError(f"{path} is not readable JSON ({error}); fetch it again") from error


def _list_records(path: Path, content: Any, part: str) -> list[Any]:
    """The list ``part`` of a file as COCO or Karpathy publish it."""
    records = content.get(part) if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise BncapError(f"{path} has no list {part!r}; take the file as it is published")
    return records


def _get_value(path: Path, place: str, record: Any, key: str) -> Any:
    """``record[key]``, of the type that a value of that name has in :data:`TYPES`."""
    kind = TYPES.get(key, str)
    value: Any = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        fault = f"{key!r} is {'missing' if value is None else repr(value)}, expected {kind.__name__}"
    elif isinstance(value, str) and not _is_text(value):
        fault = f"{key!r} holds half of a surrogate pair"
    else:
        return value
    raise BncapError(f"{path}: {place}: {fault}; mend or delete this record")


def _is_text(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: JSON may escape half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text)


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, cells by column) of a CSV file with a header; other columns are left out, with a line on stderr."""
    lines = _split_lines(_read_text(path))
    index = next(n for n, line in enumerate(lines) if line.strip())
    header = [cell.strip().casefold() for cell in next(csv.reader([lines[index]]))]
    known = [name for name in header if name in columns]
    if len(known) > len(set(known)):
        raise BncapError(f"{path}: line {index + 1} names a column twice: {', '.join(header)}; name each only once")
    _report_unused(path, set(header) - set(columns))
    index += 1
    while index < len(lines):
        place = f"line {index + 1}"
        if not lines[index].strip():
            index += 1
            continue
        cells, index = _parse_row(lines, index, header)
        if cells is None:
            raise BncapError(
                f"{path}: {place}: a double quote is out of place or never closed; put the whole cell in double "
                "quotes and double each one inside it"
            )
        if len(cells) != len(header):
            raise BncapError(
                f"{path}: {place} has {len(cells)} of the header's {len(header)} cells; put cells that hold commas in "
                "double quotes, or delete the line"
            )
        yield place, {name: cell for name, cell in zip(header, cells, strict=True) if name in columns}


def _parse_row(lines: list[str], start: int, header: list[str]) -> tuple[list[str] | None, int]:
    """Cells of the record that begins at ``lines[start]``, and the line behind it; None if its quotes are broken.

    In a file of image and caption alone, a caption whose quotes or commas are not CSV's is taken as it stands.
    """
    reader = csv.reader((f"{lines[index]}\n" for index in range(start, len(lines))), strict=True)
    cells: list[str] | None = None
    end = start + 1
    with contextlib.suppress(csv.Error):
        parsed = next(reader)
        if not any(_ROW_START.match(line) for line in lines[start + 1 : start + reader.line_num]):
            cells, end = parsed, start + reader.line_num
    if len(header) == 2 and (cells is None or len(cells) > 2):
        line = lines[start]
        return line.split(",", 1) if header[0] == "image" else line.rsplit(",", 1), start + 1
    return cells, end


def _report_unused(path: Path, names: Collection[str]) -> None:
    """Print on stderr which columns or keys of a file nobody reads: one of them may be misspelt."""
    if unused := sorted(name for name in names if name):
        print(f"{path.name}: not used: {', '.join(unused)}", file=sys.stderr)
