"""Outlines of the 24 kinds of object, as filled polygons in the unit square; ``shapes.json`` holds the tables.

A shape is a list of parts, painted in order.  A part is a *tone* and its corners, (n, 2) floats in [-1, 1], x to the
right and y downwards.  The tones ``main``, ``dark`` and ``light`` are shades of the object's colour, ``detail``
contrasts with it and the others are fixed.  Most of a shape is in its own colour, so that the colour can be seen.

In the file a part is ``[tone, piece, ...]``.  A piece is a corner ``[x, y]``, or one of :data:`PIECES` by name with its
arguments; the corners of all pieces together are the polygon.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np

Part = tuple[str, np.ndarray]
Corners = list[tuple[float, float]]


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0, n: int = 28
) -> Corners:
    """Corners of an ellipse, or of the slice of it between two angles in degrees (0 = right, 90 = down)."""
    angles = np.linspace(start, stop, n) * pi / 180
    return [(cx + rx * cos(a), cy + ry * sin(a)) for a in angles]


def _rect(left: float, top: float, right: float, bottom: float) -> Corners:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _bar(x0: float, y0: float, x1: float, y1: float, width: float) -> Corners:
    """A straight line of a given width."""
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, width: float) -> Corners:
    """A bent band between two angles in degrees, ``width`` wide, lying inside the ellipse."""
    outer = _ellipse(cx, cy, rx, ry, start, stop)
    return outer + _ellipse(cx, cy, rx - width, ry - width, stop, start)


PIECES: dict[str, Callable[..., Corners]] = {"ellipse": _ellipse, "rect": _rect, "bar": _bar, "arc": _arc}


@cache
def _read_shapes() -> dict[str, list[tuple[str, Corners]]]:
    """The file's shapes, with the parts that repeat around a centre: petals, ticks of the clock, points of the star."""
    tables = json.loads(Path(__file__).with_name("shapes.json").read_text("utf-8"))
    shapes = {
        kind: [(tone, [corner for piece in pieces for corner in _corners(piece)]) for tone, *pieces in parts]
        for kind, parts in tables.items()
    }
    turns = np.arange(6) * pi / 3 + pi / 6
    shapes["flower"][3:3] = [("main", _ellipse(0.42 * cos(a), -0.36 + 0.42 * sin(a), 0.27, 0.27, n=18)) for a in turns]
    turns = np.arange(12) * pi / 6
    shapes["clock"][2:2] = [("ink", _bar(0.56 * cos(a), 0.56 * sin(a), 0.7 * cos(a), 0.7 * sin(a), 0.1)) for a in turns]
    turns = np.arange(10) * pi / 5 - pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    shapes["star"] = [("main", [(r * cos(a), 0.08 + r * sin(a)) for r, a in zip(radii, turns, strict=True)])]
    return shapes


def _corners(piece: list) -> Corners:
    return PIECES[piece[0]](*piece[1:]) if isinstance(piece[0], str) else [(piece[0], piece[1])]


@cache
def shape(kind: str) -> tuple[Part, ...]:
    """Parts of a kind of object in painting order; see the module's head for tones and coordinates.

    Raises KeyError for an unknown kind.
    """
    parts = _read_shapes()[kind]
    return tuple((tone, np.clip(np.array(corners, dtype=np.float64), -1, 1)) for tone, corners in parts)
