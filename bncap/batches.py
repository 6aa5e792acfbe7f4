"""Triplets as tensors: which rows of the feature cache go with which caption, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bncap.chunked_cross_entropy import IGNORED
from bncap.encoders.features import FeatureStore, prefetched
from bncap.errors import BncapError
from bncap.pipeline import artifacts

WINDOW = 32
"""Batches at most over which captions are sorted by length: enough for little padding."""
WINDOWS = 50
"""Windows of an epoch at least.

A run of few steps learns worse from batches of one length: the miniature's held-out cross-entropy is 1.03 with random
batches and 1.08 to 1.10 with windows of 4 to 32 batches (6 seeds; standard error of a mean 0.02).
"""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B captions with their real and, where there is one, synthetic picture.

    ``real``, ``synthetic`` (B, S, C) float16 as they are stored, the latter zero where ``paired`` (B,) is False and
    None where the training uses no synthetic picture; ``labels`` (B, T) int64; ``images`` (B,) int64, equal for
    captions of one image; the penultimate stages are None unless asked for.
    """

    real: Tensor
    synthetic: Tensor | None
    labels: Tensor
    images: Tensor
    paired: Tensor
    real_penultimate: Tensor | None = None
    synthetic_penultimate: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def part(self, rows: slice) -> Batch:
        return self._each(lambda tensor: tensor[rows])

    def pinned(self) -> Batch:
        """A copy in page-locked memory, from which a GPU fetches it while the processor goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors: dict[str, Any] = {name: None if t is None else change(t) for name, t in vars(self).items()}
        return Batch(**tensors)


class Triplets:
    """The training set (x, x~, y) over a feature cache.

    Args:
        images: the synthesis step's folder, with ``triplets.csv``.
        labels: turns captions into (N, T) token ids, padded with :data:`IGNORED`; each model has its own.
        share: use only a share of the triplets, in (0, 1], drawn with ``share_seed``.
        paired: the objective uses synthetic pictures, so that at least one triplet must have one; if False, none is
            read.
    """

    def __init__(
        self,
        images: Path,
        store: FeatureStore,
        labels: Callable[[list[str]], Tensor],
        *,
        share: float = 1.0,
        share_seed: int = 42,
        penultimate: bool = False,
        paired: bool = True,
    ) -> None:
        table = artifacts.read_csv(artifacts.require(images) / "triplets.csv")
        drawn = np.random.default_rng(share_seed).permutation(len(table))[: max(1, round(share * len(table)))]
        table = [table[i] for i in sorted(drawn)]
        self.store, self.penultimate = store, penultimate
        self.real = store.rows("train", [t["image"] for t in table])
        has_pair = np.array([bool(t["synthetic"]) for t in table])
        if paired and not has_pair.any():
            raise BncapError(
                f"{images.name}/triplets.csv pairs none of {len(table)} captions with a synthetic picture: "
                "make them with notebook 02, or train with loss.lambda_pal=0 loss.alpha=0 loss.beta=0"
            )
        has_pair &= paired
        self.paired = torch.from_numpy(has_pair)
        self.synthetic = np.zeros(len(table), dtype=np.int64)
        if has_pair.any():
            ids = [t["caption_id"] for t, has in zip(table, has_pair, strict=True) if has]
            self.synthetic[has_pair] = store.rows("synthetic", ids)
        self.labels = labels([t["target"] for t in table])
        numbers = {image: i for i, image in enumerate(sorted({t["image"] for t in table}))}
        self.images = torch.tensor([numbers[t["image"]] for t in table])

    def __len__(self) -> int:
        return len(self.real)

    def steps(self, size: int) -> int:
        """Batches of an epoch."""
        return -(-len(self) // size)

    def batches(self, seed: int, epoch: int, size: int, device: torch.device, skip: int = 0) -> Iterator[Batch]:
        """An epoch's batches on ``device``, but for the first ``skip``, which are not read.

        For a GPU a background thread reads ahead, so that it need not wait for the disk.
        """
        order = self.epoch(seed, epoch, size)[skip:]
        if device.type != "cuda":
            yield from map(self.batch, order)
            return
        with closing(prefetched(lambda rows: self.batch(rows).pinned(), order)) as ahead:
            for batch in ahead:
                yield batch.to(device)

    def epoch(self, seed: int, epoch: int, size: int) -> list[Rows]:
        """Row numbers batch by batch, each once, in an order that (seed, epoch) fixes; see :func:`bucketed`."""
        lengths = self.labels.ne(IGNORED).sum(1).numpy()
        return bucketed(lengths, self.images.numpy(), size, np.random.default_rng([seed, epoch]))

    def batch(self, rows: Rows) -> Batch:
        """The captions of ``rows`` with their features; labels are cut to the longest of them."""
        labels = self.labels[rows]
        longest = int(labels.ne(IGNORED).sum(1).max())
        stages = {"": False, "_penultimate": True} if self.penultimate else {"": False}
        features: dict[str, Any] = {
            f"real{name}": self.store.take("train", self.real[rows], stage) for name, stage in stages.items()
        }
        for name, stage in stages.items():
            features[f"synthetic{name}"] = self._synthetic(rows, stage) if self.paired.any() else None
        return Batch(labels=labels[:, :longest], images=self.images[rows], paired=self.paired[rows], **features)

    def _synthetic(self, rows: Rows, penultimate: bool) -> Tensor:
        paired = self.paired[rows]
        taken = self.store.take("synthetic", self.synthetic[rows[paired.numpy()]], penultimate)
        if paired.all():
            return taken
        return taken.new_zeros(len(rows), *taken.shape[1:]).index_put((paired,), taken)


def bucketed(lengths: Rows, pictures: Rows, size: int, generator: np.random.Generator) -> list[Rows]:
    """Batches of ``size`` captions of about one length, in random order, no picture twice in a batch where possible.

    Each caption is drawn once; windows of batches are sorted by length; a last, smaller batch takes the rest.  Where
    pictures have more captions than there are batches, the fewest possible repeats remain.

    Args:
        lengths: (N,) tokens of each caption.
        pictures: (N,) number of each caption's picture.

    Returns:
        ceil(N / size) arrays of positions in [0, N).
    """
    order = _rest_last(generator.permutation(len(lengths)), pictures, size)
    count = len(order) // size
    whole, rest = np.split(order, [count * size])
    windows = max(1, min(WINDOWS, count), round(count / WINDOW))
    window = np.repeat(np.arange(count) * windows // max(count, 1), size)
    batches = whole[np.lexsort((lengths[whole], window))].reshape(count, size)
    _part_repeats(batches, lengths, pictures)
    generator.shuffle(batches)
    return [*batches, rest] if len(rest) else list(batches)


def _rest_last(order: Rows, pictures: Rows, size: int) -> Rows:
    """``order`` with what is left over by batches of ``size`` at its end: different pictures, if there are as many.

    Pictures with a caption for every batch go there first, as only then no other batch has to take two.
    """
    rest = len(order) % size
    if not rest:
        return order
    by_picture = np.argsort(pictures[order], kind="stable")
    _, starts, counts = np.unique(pictures[order][by_picture], return_index=True, return_counts=True)
    left = np.empty_like(order)  # captions of the same picture later in the order
    left[by_picture] = np.repeat(starts + counts, counts) - 1 - np.arange(len(order))
    first = np.zeros(len(order), dtype=bool)
    first[by_picture[starts]] = True
    everywhere = first & (left >= len(order) // size)
    rank = np.where(everywhere, 0, np.where(first, 1, 2))
    chosen = np.lexsort((np.where(first, 0, -left), rank))[:rest]
    return np.concatenate([np.delete(order, chosen), order[chosen]])


def _part_repeats(batches: Rows, lengths: Rows, pictures: Rows) -> None:
    """Exchange captions among ``batches`` (count, size), in place, until no picture is twice in any, if that can be.

    A repeat goes to the batch nearest in length that lacks its picture.  Each exchange lowers the number of repeats.
    """
    centres = lengths[batches].mean(1) if len(batches) else lengths[:0]
    held = [Counter(row) for row in pictures[batches].tolist()]
    everywhere = set()
    for number, batch in enumerate(batches):
        for place in range(len(batch)):
            while held[number][picture := int(pictures[batch[place]])] > 1 and picture not in everywhere:
                nearest = np.argsort(np.abs(centres - lengths[batch[place]]), kind="stable").tolist()
                other = next((n for n in nearest if not held[n][picture]), None)
                if other is None:
                    everywhere.add(picture)
                    break
                _exchange(batches, lengths, pictures, held, (number, place), other)


def _exchange(
    batches: Rows, lengths: Rows, pictures: Rows, held: list[Counter], repeat: tuple[int, int], other: int
) -> None:
    """Swap the repeat at (batch, place) with the caption of ``other`` nearest in length that may come here."""
    number, place = repeat
    row = batches[number, place]
    theirs = pictures[batches[other]].tolist()
    welcome = [i for i, p in enumerate(theirs) if not held[number][p] or held[other][p] > 1]
    swapped = min(welcome, key=lambda i: (abs(lengths[batches[other, i]] - lengths[row]), i))
    held[number].subtract([int(pictures[row])])
    held[other].subtract([theirs[swapped]])
    held[number].update([theirs[swapped]])
    held[other].update([int(pictures[row])])
    batches[number, place], batches[other, swapped] = batches[other, swapped], row
