"""Objects' boxes on the encoder's grid of patches: what of each patch lies in them, and what a map of attention holds.

A map gives each of S = side x side patches a share, row by row from the top left, and sums to 1.  A patch stands for
the square of the picture that lies under it; that its descriptor has seen what is around it as well, no box can say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bncap.errors import BncapError

Box = tuple[float, float, float, float]
"""x, y, width, height in px, x to the right and y downwards."""
Array = NDArray[np.float64]

CENTRE_SPREAD = 0.25
"""Standard deviation of the map that looks at the middle, in sides of the view."""
RESIZING = ("Resize", "ResizeKeepRatio")
CROPPING = ("CenterCrop", "CenterCropOrPad")
NO_GEOMETRY = ("ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ConvertImageDtype", "Normalize")


@dataclass(frozen=True)
class View:
    """The rectangle of a picture that the encoder sees, in px of the upright picture; outside of it is padding."""

    left: float
    top: float
    right: float
    bottom: float


def view_of(transform: Callable, size: tuple[int, int]) -> View:
    """What ``transform``, one of timm's for evaluation, leaves of an upright picture of ``size`` (width, height) px.

    Raises :class:`BncapError` for a transform with a step whose geometry is not known here.
    """
    picture = np.array(size, dtype=float)
    scaled, corner, seen = picture, np.zeros(2), picture  # in px after the steps so far
    for step in transform.transforms:
        name = type(step).__name__
        if name in RESIZING:
            # asked of the step itself: its rounding is its own affair
            scaled = seen = np.array(step(Image.new("1", size)).size, dtype=float)
        elif name in CROPPING:
            height, width = (step.size, step.size) if isinstance(step.size, int) else step.size
            window = np.array([width, height], dtype=float)
            spare = scaled - window
            corner, seen = np.where(spare < 0, -((-spare) // 2), np.round(spare / 2)), window
        elif name not in NO_GEOMETRY:
            raise BncapError(
                f"the encoder's transform has a step {name}, of which it is not known what it leaves of a picture; "
                f"use an encoder with {', '.join(RESIZING + CROPPING)}"
            )
    (left, top), (right, bottom) = corner * picture / scaled, (corner + seen) * picture / scaled
    return View(float(left), float(top), float(right), float(bottom))


def region(boxes: Sequence[Box], view: View, side: int) -> tuple[Array, NDArray[np.bool_]]:
    """The union of ``boxes`` on the grid: the share of each patch's area in it, (S,) in [0, 1], exact, and whether the
    patch's centre is in it, (S,).
    """
    corners = np.array([(x, y, x + width, y + height) for x, y, width, height in boxes]).reshape(-1, 4)
    scale = side / np.array([view.right - view.left, view.bottom - view.top])
    corners = np.clip((corners - [view.left, view.top] * 2) * np.tile(scale, 2), 0, side)  # (N, 4) in patches
    lines = np.arange(side + 1.0)
    xs, ys = (np.union1d(lines, corners[:, [axis, axis + 2]]) for axis in (0, 1))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2  # no edge of a box or patch is between two of the lines
    area = _inside(corners, x, y) * np.outer(np.diff(ys), np.diff(xs))
    covered = np.zeros((side, side))
    np.add.at(covered, np.ix_(y.astype(int), x.astype(int)), area)
    centres = lines[:-1] + 0.5
    return covered.ravel().clip(max=1), _inside(corners, centres, centres).ravel()


def mass_inside(maps: Array, covered: Array) -> Array:
    """Share of each map's mass in its region, a patch that is cut by a box's edge counting in part.

    maps, covered: (M, S).  Returns (M,) in [0, 1]; a uniform map has the region's share of the view.
    """
    return (maps * covered).sum(axis=-1)


def pointing(maps: Array, centres: NDArray) -> Array:
    """The pointing game (Zhang et al., ECCV 2016) on patches: 1 where the centre of a map's greatest patch is in its
    region, else 0; where several are greatest, the share of them, so that a uniform map has the chance of a hit.

    maps, centres: (M, S).  Returns (M,) in [0, 1].
    """
    greatest = maps == maps.max(axis=-1, keepdims=True)
    return (greatest * centres).sum(axis=-1) / greatest.sum(axis=-1)


def centre_map(side: int) -> Array:
    """A map (S,) that looks at the middle whatever is there: a round Gaussian of :data:`CENTRE_SPREAD`."""
    offsets = (np.arange(side) + 0.5) / side - 0.5
    line = np.exp(-((offsets / CENTRE_SPREAD) ** 2) / 2)
    grid = np.outer(line, line)
    return (grid / grid.sum()).ravel()


def _inside(corners: Array, x: Array, y: Array) -> NDArray[np.bool_]:
    """(len(y), len(x)): whether any of the boxes (N, 4) holds the point."""
    x0, y0, x1, y1 = corners.T[:, :, None]  # each (N, 1)
    columns, rows = (x0 <= x) & (x < x1), (y0 <= y) & (y < y1)
    return (rows[:, :, None] & columns[:, None, :]).any(axis=0)
