"""Files that are written whole or not at all, their hashes, and locks between runs."""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bncap.errors import BncapError
from bncap.pipeline.paths import relative_step, short_name


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
    """Write ``value`` as JSON with sorted keys, as :func:`write_text` does."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write ``header`` and ``rows`` as CSV in UTF-8, as :func:`write_text` does."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, each as column -> cell."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of ``path``."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_hash(path: Path) -> str:
    """As :func:`file_hash`, cached while size and time of change are the same; the hub names large files by it."""
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    stat = real.stat()
    return _hash_of_version(real, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _hash_of_version(path: Path, size: int, modified: int) -> str:
    return file_hash(path)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn a full disk or an exhausted quota, met while ``path`` is written, into a :class:`BncapError`."""
    try:
        yield
    except Exception as error:
        # safetensors has an error of its own, with the system's number in the text alone
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and "(os error 28)" not in str(error):
            raise
        raise BncapError(
            f"disk full while writing {short_name(path)}: free some space or set BNCAP_ARTIFACTS to another disk, "
            "then start again; finished steps and this step's work so far are kept"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``.<folder>.lock`` beside ``folder``; if another process has it, name that process and wait."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        remedy = "set BNCAP_ARTIFACTS to a folder that can be"
        raise BncapError(f"{path.parent} cannot be written ({error.strerror}); {remedy}") from error
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = path.read_text("utf-8").strip() or "unknown"
        print(f"{short_name(folder)}: waiting for another run ({holder})", file=sys.stderr)
        lock.acquire()
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%H:%M:%S')}", "utf-8")
        yield
    finally:
        lock.release()
