"""Triplets as tensors: which rows of the feature cache go with which caption, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bncap import artifacts
from bncap.errors import BncapError
from bncap.features import FeatureStore
from bncap.model import IGNORED


@dataclass(frozen=True)
class Batch:
    """B captions with their real and, where there is one, synthetic picture.

    ``real``, ``synthetic`` (B, S, C) float32, the latter zero where ``paired`` (B,) is False; ``labels`` (B, T) int64;
    ``images`` (B,) int64, equal for captions of one image; the penultimate stages are None unless asked for.
    """

    real: Tensor
    synthetic: Tensor
    labels: Tensor
    images: Tensor
    paired: Tensor
    real_penultimate: Tensor | None = None
    synthetic_penultimate: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if v is not None}
        return Batch(**moved)

    def part(self, rows: slice) -> Batch:
        return Batch(**{k: v[rows] for k, v in vars(self).items() if v is not None})


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

    def batch(self, rows: np.ndarray) -> Batch:
        labels = self.labels[rows]
        longest = int(labels.ne(IGNORED).sum(1).max())
        real = self.store.take("train", self.real[rows])
        penultimate = {}
        if self.penultimate:
            penultimate["real_penultimate"] = self.store.take("train", self.real[rows], penultimate=True)
        if self.paired.any():
            synthetic = self.store.take("synthetic", self.synthetic[rows])
            synthetic[~self.paired[rows]] = 0
            if self.penultimate:
                penultimate["synthetic_penultimate"] = self.store.take("synthetic", self.synthetic[rows], True)
        else:
            synthetic = torch.zeros_like(real)
        return Batch(real, synthetic, labels[:, :longest], self.images[rows], self.paired[rows], **penultimate)

    def epoch(self, seed: int, epoch: int, size: int) -> Iterator[np.ndarray]:
        """Row numbers batch by batch, in an order that (seed, epoch) fixes; the last batch may be smaller."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for start in range(0, len(order), size):
            yield order[start : start + size]
