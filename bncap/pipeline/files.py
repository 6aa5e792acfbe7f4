"""JSON, CSV and text files of this project, written so that a reader finds the old file or the whole new one."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bncap.errors import BncapError
from bncap.pipeline.paths import relative_step


def read_json(path: Path) -> Any:
    """The content of a JSON file; :class:`BncapError` with its name if it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        name = relative_step(path) or path
        raise BncapError(f"{name} is not readable JSON ({error}); delete it and make it again") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that a reader finds the old file or the whole new one."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
