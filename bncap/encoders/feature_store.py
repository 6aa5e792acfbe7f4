"""The files of a feature folder: written batch by batch, read row by row in any order.

It holds, for each set of pictures, ``<set>.npy`` (N, S, C) float16 and ``<set>.csv`` with the row of each identifier.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from bncap.errors import BncapError
from bncap.pipeline import artifacts

S = TypeVar("S")
T = TypeVar("T")


class FeatureStore:
    """Read access to a feature folder; rows stay on disk until they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = artifacts.require(folder)
        self._files: dict[str, _Rows] = {}
        self._rows: dict[str, dict[str, int]] = {}

    def ids(self, name: str) -> list[str]:
        if name not in self._rows:
            records = artifacts.read_csv(self.folder / f"{name}.csv")
            self._rows[name] = {record["id"]: int(record["row"]) for record in records}
        return list(self._rows[name])

    def rows(self, name: str, ids: Sequence[str]) -> np.ndarray:
        """Row numbers of ``ids`` in set ``name``, int64."""
        self.ids(name)
        missing = [i for i in ids if i not in self._rows[name]]
        if missing:
            raise BncapError(f"{self.folder.name}/{name}.npy has no features of {missing[0]}; make the features anew")
        return np.array([self._rows[name][i] for i in ids], dtype=np.int64)

    def take(self, name: str, rows: Sequence[int] | np.ndarray, penultimate: bool = False) -> Tensor:
        """(N, S, C) float16 features of ``rows`` of the set ``name``; :class:`BncapError` if any is not finite."""
        file = self._file(name, penultimate)
        taken = torch.from_numpy(file.read(rows))
        # one pass without a copy; a number that is not finite is the least or the greatest
        if len(taken) and not all(bool(bound.isfinite()) for bound in torch.aminmax(taken)):
            broken = int(rows[int((~taken.isfinite().flatten(1).all(1)).nonzero()[0])])
            name_of = {row: i for i in reversed(self.ids(name)) for row in [self._rows[name][i]]}
            raise BncapError(
                f"{file.path}: the features of {name_of[broken]} are not finite; "
                f"delete {self.folder} and start again to make them anew"
            )
        return taken

    def channels(self, penultimate: bool = False) -> int:
        return self._file("train", penultimate).shape[2]

    def _file(self, name: str, penultimate: bool) -> _Rows:
        key = f"{name}.penultimate" if penultimate else name
        if key not in self._files:
            path = self.folder / f"{key}.npy"
            if not path.is_file():
                raise BncapError(f"{path.name} is missing in {self.folder.name}; set features.penultimate=True")
            self._files[key] = _Rows(path)
        return self._files[key]


class _Rows:
    """An ``.npy`` file of (N, S, C), read row by row.

    Read, not mapped: a page fault fetches a few pages and waits for them, where the rows of a batch can be asked of the
    disk all at once; and a file that was cut short is an error, not the end of the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            header = np.load(path, mmap_mode="r")  # fails unless the file is as long as its header says
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        self.shape, self.dtype, self._start = header.shape, header.dtype, header.offset
        self._stream: BinaryIO = path.open("rb", buffering=0)  # closed with this object

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(rows), S, C), read in the order of the file."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        size = self.dtype.itemsize * self.shape[1] * self.shape[2]
        descriptor, order = self._stream.fileno(), np.argsort(rows, kind="stable")
        starts = [self._start + size * int(row) for row in rows]
        for i in order:
            os.posix_fadvise(descriptor, starts[i], size, os.POSIX_FADV_WILLNEED)
        for i in order:
            if os.preadv(descriptor, [out[i]], starts[i]) != size:
                raise self._damaged(f"it ends before row {int(rows[i])}")
        return out

    def _damaged(self, reason: object) -> BncapError:
        return BncapError(f"{self.path} cannot be read ({reason}); delete {self.path.parent} and start again")


class FeatureWriter:
    """A set under construction: ``rows`` pictures, of which ``done`` have been written.

    What :meth:`keep` noted in ``.<name>.json`` is gone on from after an interruption.

    Args:
        penultimate: of each picture there are two maps, of which the second goes to ``<name>.penultimate.npy``.
    """

    def __init__(self, folder: Path, name: str, rows: int, penultimate: bool = False) -> None:
        self.folder, self.name, self.rows = folder, name, rows
        names = [f"{name}.npy", f"{name}.penultimate.npy"][: 1 + penultimate]
        self._whole = [folder / n for n in names]
        self._parts = [folder / f".{n}" for n in names]
        self._note = folder / f".{name}.json"
        self.done, self._arrays = self._left()

    def allocated(self) -> int:
        """Bytes that the unfinished files take up on the disk."""
        return sum(part.stat().st_size for part in self._parts if part.is_file())

    def write(self, maps: Sequence[np.ndarray]) -> None:
        """Append (B, S, C) float16 ``maps``, the final stage first."""
        if not self._arrays:
            self._arrays = [_allocate(p, (self.rows, *m.shape[1:])) for p, m in zip(self._parts, maps, strict=True)]
        for array, m in zip(self._arrays, maps, strict=True):
            array[self.done : self.done + len(m)] = m
        self.done += len(maps[0])

    def keep(self) -> None:
        """See to it that an interruption costs nothing of what has been written."""
        for array in self._arrays:
            array.flush()
        artifacts.write_json(self._note, {"done": self.done})

    def finish(self, rows: Mapping[str, int]) -> None:
        """Give the files their names and write, last, the row of each identifier."""
        # no arrays: there are no pictures, or the files have their names already
        for array, part, whole in zip(self._arrays, self._parts, self._whole, strict=False):
            array.flush()
            part.rename(whole)
        artifacts.write_csv(self.folder / f"{self.name}.csv", ["row", "id"], [(row, i) for i, row in rows.items()])
        self._note.unlink(missing_ok=True)

    def _left(self) -> tuple[int, list[np.ndarray]]:
        """How many pictures an interruption left done, and their arrays; none if anything of it is damaged."""
        if all(whole.is_file() for whole in self._whole):
            return self.rows, []
        if not all(path.is_file() for path in (self._note, *self._parts)):
            return 0, []
        try:
            for part in self._parts:
                np.load(part, mmap_mode="r")  # to write in it would lengthen one that was cut
            done = artifacts.read_json(self._note)["done"]
            return done, [np.lib.format.open_memmap(part, mode="r+") for part in self._parts]
        except (ValueError, KeyError, TypeError):
            return 0, []


def _allocate(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float16 array on disk with all its blocks; without them a disk that fills up later kills the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def prefetched(function: Callable[[S], T], items: Iterable[S], threads: int = 1, ahead: int = 4) -> Iterator[T]:
    """``function`` of each item, in order, with at most ``ahead`` results made before they are asked for.

    What ``function`` raises is raised here in its turn.  The threads end with the iterator, also if that is closed
    early.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
