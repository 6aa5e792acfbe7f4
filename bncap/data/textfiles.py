"""Text files that others wrote: UTF-8, lines, CSV rows and JSON records; what is broken is named with its remedy."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from bncap.errors import BncapError

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
