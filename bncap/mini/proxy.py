"""The dense proxy task of the miniature's encoders: which object covers each cell of the 7 x 7 map, and its colour."""

from __future__ import annotations

import random

import numpy as np
from torch.utils.data import Dataset

from bncap.mini.draw import boxes, paint
from bncap.mini.scene import COLOURS, KINDS, SIDE, Scene, sample_scene

GRID = 7
"""Cells on a side of the encoders' last map: 49 patches of 16 px."""

BACKGROUND_LABEL = len(KINDS)
IGNORED_LABEL = -100


class PaintedScenes(Dataset):
    """Scene ``i`` painted on demand, in turn ``real``, ``synthetic``, ``real``, ...; or always in one ``style``.

    An item is a picture (3, 112, 112) uint8 with its kind and colour labels, (7, 7) int64 each.  It depends only on
    (seed, i).  ``count`` is the number of objects to try to place, None for the usual 1 to 3.
    """

    def __init__(self, length: int, seed: int, style: str | None = None, count: int | None = None) -> None:
        self.length, self.seed, self.style, self.count = length, seed, style, count

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = random.Random(f"proxy {self.seed} {index}")
        scene = sample_scene(rng, out_of_domain=self.style == "ood", count=self.count)
        style = self.style or ("real", "synthetic")[index % 2]
        picture = np.asarray(paint(scene, style, rng.getrandbits(32)))
        return (np.ascontiguousarray(picture.transpose(2, 0, 1)), *cell_labels(scene))


def cell_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Kind and colour label of each cell, two (7, 7) int64 arrays.

    A cell belongs to the object whose box covers most of it, if that is at least half; a cell that no box covers by
    more than a tenth is background; the others are ``IGNORED_LABEL``, as is the colour of the background.
    """
    edges = np.arange(GRID + 1) * (SIDE / GRID)
    cover = np.zeros((len(scene.objects), GRID, GRID))
    for n, (x, y, width, height) in enumerate(boxes(scene)):
        across = np.clip(np.minimum(edges[1:], x + width) - np.maximum(edges[:-1], x), 0, None)
        down = np.clip(np.minimum(edges[1:], y + height) - np.maximum(edges[:-1], y), 0, None)
        cover[n] = np.outer(down, across) * (GRID / SIDE) ** 2
    most, owner = cover.max(axis=0), cover.argmax(axis=0)
    kind_of = np.array([KINDS.index(o.kind) for o in scene.objects])
    colour_of = np.array([COLOURS.index(o.colour) for o in scene.objects])
    colours = np.where(most >= 0.5, colour_of[owner], IGNORED_LABEL)
    kinds = np.where(most >= 0.5, kind_of[owner], np.where(most <= 0.1, BACKGROUND_LABEL, IGNORED_LABEL))
    return kinds, colours
