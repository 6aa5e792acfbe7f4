"""SHA-256 of files, remembered for those that are large and do not change."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from pathlib import Path

from bncap.pipeline.paths import artifacts_root

REMEMBERED_FROM = 2**20
"""Bytes from which a file's hash is worth remembering."""


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of ``path``."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_hash(path: Path) -> str:
    """As :func:`file_hash`; read again only if the file's size or time of change differ from those remembered.

    The memory is ``.hashes.json`` in the artefact root.  The hub's cache names a large file by its hash, which is taken
    as it is.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    stat = real.stat()
    if stat.st_size < REMEMBERED_FROM:
        return file_hash(real)
    stamp = [stat.st_size, stat.st_mtime_ns]
    known = _memory().get(str(real))
    if known is None or known[:2] != stamp:
        known = _memory()[str(real)] = [*stamp, file_hash(real)]
        _remember()
    return known[2]


@functools.cache
def _memory() -> dict[str, list]:
    try:
        return json.loads((artifacts_root() / ".hashes.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _remember() -> None:
    path = artifacts_root() / ".hashes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".hashes.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(_memory()), "utf-8")
    os.replace(temporary, path)
