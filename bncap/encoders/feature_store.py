"""The files of a feature folder: written one set of pictures after the other, read row by row in any order.

For each set there are ``<set>.npy`` (N, S, C) float16 and ``<set>.csv`` with the row of each identifier.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bncap.errors import BncapError
from bncap.pipeline import artifacts

S = TypeVar("S")
T = TypeVar("T")


class FeatureStore:
    """Read access to a feature folder through memory maps; rows stay on disk until they are requested."""

    def __init__(self, folder: Path) -> None:
        self.folder = artifacts.require(folder)
        self._arrays: dict[str, np.ndarray] = {}
        self._rows: dict[str, dict[str, int]] = {}

    def ids(self, name: str) -> list[str]:
        """Identifiers of the set ``name``: picture paths, or caption ids for ``"synthetic"``."""
        if name not in self._rows:
            records = artifacts.read_csv(self.folder / f"{name}.csv")
            self._rows[name] = {record["id"]: int(record["row"]) for record in records}
        return list(self._rows[name])

    def rows(self, name: str, ids: Sequence[str]) -> np.ndarray:
        """Row numbers of ``ids`` in the set ``name``, int64."""
        self.ids(name)
        missing = [i for i in ids if i not in self._rows[name]]
        if missing:
            raise BncapError(f"{self.folder.name}/{name}.npy has no features of {missing[0]}; make the features again")
        return np.array([self._rows[name][i] for i in ids], dtype=np.int64)

    def take(self, name: str, rows: Sequence[int] | np.ndarray, penultimate: bool = False) -> Tensor:
        """(N, S, C) float16 features of ``rows`` of the set ``name``; :class:`BncapError` if any is not finite."""
        taken = torch.from_numpy(self._array(name, penultimate)[np.asarray(rows, dtype=np.int64)])
        # one pass without a copy; a number that is not finite is the least or the greatest
        if len(taken) and not all(bool(bound.isfinite()) for bound in torch.aminmax(taken)):
            broken = int(rows[int((~taken.isfinite().flatten(1).all(1)).nonzero()[0])])
            identifier = next(i for i in self.ids(name) if self._rows[name][i] == broken)
            raise BncapError(
                f"{self._path(name, penultimate)}: the features of {identifier} are not finite; "
                f"delete {self.folder} and start again to make them again"
            )
        return taken

    def channels(self, penultimate: bool = False) -> int:
        """C of the training pictures' features."""
        return self._array("train", penultimate).shape[2]

    def _path(self, name: str, penultimate: bool) -> Path:
        return self.folder / (f"{name}.penultimate.npy" if penultimate else f"{name}.npy")

    def _array(self, name: str, penultimate: bool) -> np.ndarray:
        path = self._path(name, penultimate)
        if path.name not in self._arrays:
            if not path.is_file():
                raise BncapError(f"{path.name} is missing in {self.folder.name}; set features.penultimate=True")
            try:
                self._arrays[path.name] = np.load(path, mmap_mode="r")  # fails if the file is shorter than its header
            except (OSError, ValueError, EOFError) as error:
                raise BncapError(f"{path} cannot be read ({error}); delete {path.parent} and start again") from error
        return self._arrays[path.name]


def write_set(folder: Path, name: str, rows: Mapping[str, int], batches: Iterable[Sequence[np.ndarray]]) -> None:
    """Write the set ``name``; its files get their names when they are complete, ``<set>.csv`` last.

    Args:
        rows: the row of each identifier.
        batches: the maps of the rows 0, 1, ... in batches, each (B, S, C) float16: the final stage's, and, where it is
            kept, the penultimate stage's for ``<set>.penultimate.npy``.
    """
    count = len(set(rows.values()))
    paths = [folder / f"{name}.npy", folder / f"{name}.penultimate.npy"]
    arrays: list[np.memmap] = []
    done = 0
    for maps in batches:
        if not arrays:
            arrays = [
                np.lib.format.open_memmap(_partial(path), "w+", np.float16, (count, *m.shape[1:]))
                for path, m in zip(paths, maps, strict=False)
            ]
        for array, m in zip(arrays, maps, strict=True):
            array[done : done + len(m)] = m
        done += len(maps[0])
    for array, path in zip(arrays, paths, strict=False):
        array.flush()
        _partial(path).rename(path)
    artifacts.write_csv(folder / f"{name}.csv", ["row", "id"], [(row, i) for i, row in rows.items()])


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}")


def prefetched(function: Callable[[S], T], items: Iterable[S], threads: int = 1, ahead: int = 4) -> Generator[T]:
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
