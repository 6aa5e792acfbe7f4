"""Tar shards of synthetic pictures: packed to the same bytes each time, and read without unpacking.

A finished shard, the step folder ``02_synthesis/pictures.<k>of<n>-s<seed>``, holds ``pictures.tar`` with
``<caption id>.png`` and its sidecar ``<caption id>.json``, and ``index.csv``, which says where in the tar they lie.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths
from bncap.settings import Config

STEP = "02_synthesis"
TAR, INDEX, PROMPTS = "pictures.tar", "index.csv", "prompts.csv"
INDEX_HEADER = ("caption_id", "offset", "size", "sha256", "sidecar_offset", "sidecar_size")
MEMBER = re.compile(r"(pictures\.\d{4,}of\d{4,})-s(\d+)/(\d+)\.png")
"""The name of a drawn picture in ``triplets.csv``: the folder of its shard and its file in the tar."""


@dataclass(frozen=True)
class Member:
    """A picture in a tar file, ``size`` bytes from ``offset`` on, and its sidecar."""

    name: str
    tar: Path
    offset: int
    size: int
    sha256: str
    sidecar_offset: int
    sidecar_size: int

    def read(self) -> bytes:
        """The PNG file; :class:`BncapError` if it is not the one that was packed."""
        content = _read_bytes(self.tar, self.offset, self.size)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise BncapError(f"{self.name} differs from its hash in {INDEX}; {_remedy(self.tar)}")
        return content

    def read_sidecar(self) -> dict[str, Any]:
        """How the picture was drawn; :class:`BncapError` if the sidecar is damaged."""
        try:
            return json.loads(_read_bytes(self.tar, self.sidecar_offset, self.sidecar_size))
        except ValueError as error:
            raise BncapError(f"the sidecar of {self.name} is damaged; {_remedy(self.tar)}") from error

    def __str__(self) -> str:
        return self.name


class PictureStore:
    """The synthetic pictures by their names in ``triplets.csv``: members of tar files, or files of the data sets."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._shards: dict[str, tuple[Path, dict[str, dict[str, str]]]] = {}

    def find(self, name: str) -> Member | Path:
        """Where the picture ``name`` lies; :class:`BncapError` if its shard is missing or does not have it."""
        parts = MEMBER.fullmatch(name)
        if not parts:
            return paths.data_path(self.config, name)
        variant, seed, caption_id = parts.groups()
        if variant not in self._shards:
            folder = artifacts.require(paths.step_dir(self.config.profile, STEP, variant, int(seed)))
            rows = {row["caption_id"]: row for row in artifacts.read_csv(folder / INDEX)}
            self._shards[variant] = folder / TAR, rows
        tar, rows = self._shards[variant]
        if caption_id not in rows:
            raise BncapError(
                f"{paths.short_name(tar.parent)} has no picture {caption_id}.png; make triplets.csv again: notebook 02"
            )
        row = rows[caption_id]
        offset, size, *sidecar = (int(row[key]) for key in ("offset", "size", "sidecar_offset", "sidecar_size"))
        return Member(name, tar, offset, size, row["sha256"], *sidecar)

    def sidecar(self, name: str) -> dict[str, Any] | None:
        """How the picture ``name`` was drawn; None for one that a data set brought."""
        found = self.find(name)
        return found.read_sidecar() if isinstance(found, Member) else None


def encode_picture(picture: Image.Image, stored_side: int) -> bytes:
    """The PNG file that is kept of ``picture``, reduced to ``stored_side`` px if it is larger and that is not 0."""
    if 0 < stored_side < picture.width:
        picture = picture.resize((stored_side, stored_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def pack_shard(folder: Path, loose: Path, ids: Iterable[int]) -> None:
    """Put ``<id>.png`` and ``<id>.json`` of ``loose`` into ``folder/pictures.tar``, in this order; then the index."""
    rows = []
    with artifacts.atomic(folder / TAR) as made, tarfile.open(made, "w", format=tarfile.USTAR_FORMAT) as archive:
        for caption_id in ids:
            content = (loose / f"{caption_id}.png").read_bytes()
            offset, size = _add(archive, f"{caption_id}.png", content)
            sidecar = _add(archive, f"{caption_id}.json", (loose / f"{caption_id}.json").read_bytes())
            rows.append((caption_id, offset, size, hashlib.sha256(content).hexdigest(), *sidecar))
    artifacts.write_csv(folder / INDEX, INDEX_HEADER, rows)


def bundle_pictures(loose: Path) -> None:
    """Put the files of ``loose`` into ``loose.tar`` beside it: what a session leaves should be few files."""
    with artifacts.atomic(loose.with_suffix(".tar")) as temporary, tarfile.open(temporary, "w") as archive:
        archive.add(loose, ".")
    shutil.rmtree(loose)


def unbundle_pictures(loose: Path) -> None:
    """Undo :func:`bundle_pictures`, if there is such a file; one that was cut short gives what it has."""
    packed = loose.with_suffix(".tar")
    if packed.is_file():
        with contextlib.suppress(tarfile.ReadError, EOFError), tarfile.open(packed) as archive:
            archive.extractall(loose, filter="data")
        packed.unlink()


def list_loose(loose: Path) -> set[str]:
    """Names of the files of ``loose``, in the folder or bundled."""
    names, packed = {path.name for path in loose.glob("*")}, loose.with_suffix(".tar")
    if packed.is_file():
        with contextlib.suppress(tarfile.ReadError, EOFError), tarfile.open(packed) as archive:
            names |= {Path(name).name for name in archive.getnames()}
    return names


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> tuple[int, int]:
    """Append a file; returns the place of its first byte and their number."""
    member = tarfile.TarInfo(name)  # mode 644, time 0, owner 0: the same files give the same bytes
    member.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(member, io.BytesIO(content))
    return offset, len(content)


def _remedy(tar: Path) -> str:
    return f"delete {paths.short_name(tar.parent)} and start again to draw its pictures again"


def _read_bytes(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)
