"""Outlines of the 24 kinds of object, as filled polygons in the unit square.

A shape is a list of parts, painted in order.  A part is a *tone* and its corners, (n, 2) floats in [-1, 1], x to the
right and y downwards.  The tones ``main``, ``dark`` and ``light`` are shades of the object's colour, ``detail``
contrasts with it and the others are fixed.  Most of a shape is in its own colour, so that the colour can be seen.
"""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin

import numpy as np

Part = tuple[str, np.ndarray]


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0, n: int = 28) -> list:
    """Corners of an ellipse, or of the slice of it between two angles in degrees (0 = right, 90 = down)."""
    angles = np.linspace(start, stop, n) * pi / 180
    return [(cx + rx * cos(a), cy + ry * sin(a)) for a in angles]


def _rect(left: float, top: float, right: float, bottom: float) -> list:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _bar(x0: float, y0: float, x1: float, y1: float, width: float) -> list:
    """A straight line of a given width."""
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, width: float) -> list:
    """A bent band between two angles in degrees, ``width`` wide, lying inside the ellipse."""
    outer = _ellipse(cx, cy, rx, ry, start, stop)
    return outer + _ellipse(cx, cy, rx - width, ry - width, stop, start)


def _flower() -> list:
    petals = [
        ("main", _ellipse(0.42 * cos(a), -0.36 + 0.42 * sin(a), 0.27, 0.27, n=18))
        for a in (np.arange(6) * pi / 3 + pi / 6)
    ]
    return [
        ("leaf", _bar(0, -0.3, 0, 1.0, 0.13)),
        ("leaf", [(0, 0.85), (0.2, 0.5), (0.65, 0.42), (0.45, 0.75)]),
        ("leaf", [(0, 0.95), (-0.2, 0.6), (-0.65, 0.52), (-0.45, 0.85)]),
        *petals,
        ("pollen", _ellipse(0, -0.36, 0.23, 0.23)),
    ]


def _star() -> list:
    radii = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    angles = np.arange(10) * pi / 5 - pi / 2
    return [("main", [(r * cos(a), 0.08 + r * sin(a)) for r, a in zip(radii, angles, strict=True)])]


def _book() -> list:
    """Open, seen from the front: two pages on a coloured cover."""
    left = [(0, -0.5), (-0.3, -0.66), (-0.8, -0.56), (-0.8, 0.42), (-0.3, 0.34), (0, 0.5)]
    lines = [("ink", _bar(-0.68, y, -0.16, y + 0.06, 0.07)) for y in (-0.34, -0.1, 0.14)]
    lines += [("ink", _bar(0.16, y + 0.06, 0.68, y, 0.07)) for y in (-0.34, -0.1, 0.14)]
    cover = [(-1.0, -0.62), (-0.05, -0.52), (0.05, -0.52), (1.0, -0.62), (1.0, 0.72), (0.06, 0.8), (-0.06, 0.8)]
    return [
        ("main", [*cover, (-1.0, 0.72)]),
        ("light", left),
        ("light", [(-x, y) for x, y in left]),
        ("main", _rect(-0.06, -0.52, 0.06, 0.8)),
        *lines,
    ]


def _umbrella() -> list:
    canopy = _ellipse(0, 0.1, 1.0, 1.0, 180, 360)
    for centre in (0.67, 0.0, -0.67):
        canopy += _ellipse(centre, 0.1, 0.33, 0.16, 0, -180, 10)
    return [
        ("wood", _bar(0, -0.98, 0, 0.72, 0.1)),
        ("wood", _arc(0.2, 0.72, 0.25, 0.25, 0, 180, 0.1)),
        ("main", canopy),
        ("dark", [(0, -0.9), *_ellipse(0, 0.1, 0.33, 0.16, 0, -180, 10)]),
    ]


def _clock() -> list:
    ticks = [
        ("ink", _bar(0.56 * cos(a), 0.56 * sin(a), 0.7 * cos(a), 0.7 * sin(a), 0.1)) for a in np.arange(12) * pi / 6
    ]
    return [
        ("main", _ellipse(0, 0, 1.0, 1.0)),
        ("light", _ellipse(0, 0, 0.77, 0.77)),
        *ticks,
        ("ink", _bar(0, 0.08, 0, -0.55, 0.13)),
        ("ink", _bar(-0.05, 0, 0.42, 0.2, 0.15)),
    ]


def _kite() -> list:
    tail = [("wood", _bar(-0.32, 0.5, -0.6, 0.72, 0.07)), ("wood", _bar(-0.6, 0.72, -0.92, 0.95, 0.07))]
    corners = [(0.75, -1.0), (0.82, 0.12), (-0.38, 0.55), (-0.4, -0.62)]
    return [
        *tail,
        ("main", corners),
        ("light", [corners[0], corners[1], (0.15, -0.15)]),
        ("light", [corners[2], corners[3], (0.15, -0.15)]),
        ("ink", _bar(0.75, -1.0, -0.38, 0.55, 0.06)),
        ("ink", _bar(-0.4, -0.62, 0.82, 0.12, 0.06)),
        ("main", [(-0.56, 0.7), (-0.82, 0.58), (-0.66, 0.9), (-0.56, 0.7), (-0.46, 0.46), (-0.32, 0.78)]),
    ]


def _bottle() -> list:
    neck = [(0.16, -0.72), (0.16, -0.4), (0.44, -0.05), (0.44, 0.9), (0.36, 1.0)]
    return [
        ("main", [(-x, y) for x, y in reversed(neck)] + neck),
        ("detail", _rect(-0.2, -1.0, 0.2, -0.72)),
        ("cream", _rect(-0.44, 0.15, 0.44, 0.62)),
        ("light", _rect(-0.34, -0.02, -0.22, 0.12)),
    ]


def _bell() -> list:
    side = [(0.18, -0.78), (0.42, -0.55), (0.5, 0.1), (0.62, 0.4), (0.92, 0.62)]
    return [
        ("metal", _arc(0, -0.82, 0.18, 0.18, 0, 360, 0.08)),
        ("pollen", _ellipse(0, 0.76, 0.2, 0.2)),
        ("main", [(-x, y) for x, y in reversed(side)] + side),
        ("dark", _rect(-0.92, 0.56, 0.92, 0.74)),
        ("light", [(-0.3, -0.45), (-0.16, -0.5), (-0.22, 0.3), (-0.4, 0.3)]),
    ]


def _cat() -> list:
    """The face: ears, eyes, nose, whiskers."""
    whiskers = [("ink", _bar(0.3 * s, 0.34, 0.98 * s, 0.34 + d, 0.05)) for s in (-1, 1) for d in (-0.12, 0.14)]
    return [
        ("main", [(-0.85, -1.0), (-0.2, -0.5), (-0.8, 0.05)]),
        ("main", [(0.85, -1.0), (0.2, -0.5), (0.8, 0.05)]),
        ("main", _ellipse(0, 0.15, 0.86, 0.76)),
        ("nose", [(-0.72, -0.76), (-0.42, -0.5), (-0.64, -0.32)]),
        ("nose", [(0.72, -0.76), (0.42, -0.5), (0.64, -0.32)]),
        ("pollen", _ellipse(-0.36, 0.02, 0.2, 0.2)),
        ("pollen", _ellipse(0.36, 0.02, 0.2, 0.2)),
        ("tyre", _ellipse(-0.36, 0.02, 0.08, 0.18)),
        ("tyre", _ellipse(0.36, 0.02, 0.08, 0.18)),
        ("nose", [(-0.14, 0.28), (0.14, 0.28), (0, 0.46)]),
        *whiskers,
    ]


_SHAPES: dict[str, list] = {
    "ball": [
        ("main", _ellipse(0, 0, 1, 1)),
        ("detail", _arc(-1.15, 0, 1.0, 1.0, -52, 52, 0.16)),
        ("detail", _arc(1.15, 0, 1.0, 1.0, 128, 232, 0.16)),
        ("light", _ellipse(-0.1, -0.62, 0.24, 0.14)),
    ],
    "box": [
        ("main", [(-0.95, -0.4), (0.1, -0.15), (0.1, 1.0), (-0.95, 0.7)]),
        ("dark", [(0.1, -0.15), (0.95, -0.45), (0.95, 0.6), (0.1, 1.0)]),
        ("light", [(-0.95, -0.4), (-0.15, -0.72), (0.95, -0.45), (0.1, -0.15)]),
        ("detail", [(-0.52, -0.3), (0.35, -0.62), (0.53, -0.58), (-0.34, -0.25), (-0.34, 0.15), (-0.52, 0.1)]),
    ],
    "cup": [
        ("main", _arc(0.5, 0.1, 0.5, 0.52, -100, 100, 0.2)),
        ("main", [(-0.9, -0.65), (0.55, -0.65), (0.42, 0.75), (0.3, 0.9), (-0.65, 0.9), (-0.77, 0.75)]),
        ("light", _ellipse(-0.175, -0.65, 0.73, 0.2)),
        ("detail", _ellipse(-0.175, -0.62, 0.58, 0.12)),
    ],
    "house": [
        ("main", _rect(-0.75, -0.15, 0.75, 0.95)),
        ("dark", _rect(0.38, -0.9, 0.62, -0.3)),
        ("dark", [(0, -1.0), (1.0, -0.1), (-1.0, -0.1)]),
        ("detail", _rect(-0.18, 0.35, 0.2, 0.95)),
        ("glass", _rect(-0.58, 0.1, -0.3, 0.42)),
        ("glass", _rect(0.32, 0.1, 0.6, 0.42)),
    ],
    "tree": [
        ("wood", [(-0.14, 0.1), (0.14, 0.1), (0.22, 1.0), (-0.22, 1.0)]),
        ("main", _ellipse(-0.48, 0.0, 0.47, 0.42)),
        ("main", _ellipse(0.48, 0.0, 0.47, 0.42)),
        ("main", _ellipse(0, -0.45, 0.6, 0.54)),
        ("main", _ellipse(0, 0.05, 0.5, 0.36)),
        ("light", _ellipse(-0.2, -0.6, 0.2, 0.14)),
        ("dark", _ellipse(0.42, 0.08, 0.24, 0.13)),
    ],
    "car": [
        ("main", [(-0.6, -0.05), (-0.35, -0.58), (0.35, -0.58), (0.65, -0.05)]),
        ("glass", [(-0.45, -0.05), (-0.27, -0.45), (-0.03, -0.45), (-0.03, -0.05)]),
        ("glass", [(0.07, -0.05), (0.07, -0.45), (0.28, -0.45), (0.48, -0.05)]),
        ("main", [(-1.0, 0.0), (-0.9, -0.08), (0.8, -0.08), (1.0, 0.1), (1.0, 0.42), (-1.0, 0.42)]),
        ("tyre", _ellipse(-0.52, 0.42, 0.28, 0.28)),
        ("tyre", _ellipse(0.54, 0.42, 0.28, 0.28)),
        ("metal", _ellipse(-0.52, 0.42, 0.12, 0.12)),
        ("metal", _ellipse(0.54, 0.42, 0.12, 0.12)),
    ],
    "boat": [
        ("wood", _bar(-0.02, -1.0, -0.02, 0.5, 0.1)),
        ("main", [(0.06, -0.92), (0.85, 0.3), (0.06, 0.3)]),
        ("light", [(-0.1, -0.7), (-0.1, 0.3), (-0.72, 0.3)]),
        ("main", [(-1.0, 0.42), (1.0, 0.42), (0.62, 0.95), (-0.62, 0.95)]),
        ("detail", [(-0.96, 0.5), (0.95, 0.5), (0.88, 0.6), (-0.88, 0.6)]),
    ],
    "fish": [
        ("dark", [(0.35, 0.0), (1.0, -0.55), (0.85, 0.0), (1.0, 0.55)]),
        ("dark", [(-0.35, -0.4), (0.1, -0.8), (0.35, -0.3)]),
        ("dark", [(-0.15, 0.4), (0.15, 0.75), (0.3, 0.3)]),
        ("main", _ellipse(-0.2, 0, 0.8, 0.5)),
        ("detail", _arc(-0.72, 0, 0.42, 0.46, -52, 52, 0.09)),
        ("cream", _ellipse(-0.65, -0.12, 0.14, 0.14)),
        ("tyre", _ellipse(-0.68, -0.12, 0.07, 0.07)),
    ],
    "bird": [
        ("beak", [(-0.72, -0.6), (-1.0, -0.42), (-0.66, -0.38)]),
        ("beak", _bar(-0.1, 0.5, -0.15, 0.95, 0.09)),
        ("beak", _bar(0.15, 0.5, 0.15, 0.95, 0.09)),
        ("main", [(0.3, -0.1), (1.0, -0.3), (0.95, 0.1), (0.4, 0.4)]),
        ("main", _ellipse(0, 0.12, 0.66, 0.5)),
        ("main", _ellipse(-0.46, -0.46, 0.36, 0.36)),
        ("dark", [(-0.2, 0.0), (0.2, -0.12), (0.72, 0.1), (0.35, 0.38), (0.0, 0.32)]),
        ("cream", _ellipse(-0.55, -0.54, 0.1, 0.1)),
        ("tyre", _ellipse(-0.57, -0.54, 0.055, 0.055)),
    ],
    "flower": _flower(),
    "star": _star(),
    "book": _book(),
    "key": [
        ("main", _bar(-0.3, 0.0, 1.0, 0.0, 0.22)),
        ("main", _rect(0.55, 0.0, 0.72, 0.45)),
        ("main", _rect(0.83, 0.0, 1.0, 0.55)),
        ("main", _arc(-0.5, 0, 0.5, 0.5, 0, 360, 0.24)),
    ],
    "umbrella": _umbrella(),
    "clock": _clock(),
    # From the side and above: a tall back at the left, the seat, four legs.
    "chair": [
        ("dark", _rect(-0.32, 0.1, -0.17, 0.8)),
        ("dark", _rect(0.5, 0.1, 0.64, 0.8)),
        ("main", [(-0.78, -1.0), (-0.5, -1.0), (-0.42, 0.2), (-0.42, 1.0), (-0.66, 1.0), (-0.66, 0.2)]),
        ("main", [(-0.42, 0.0), (0.5, 0.0), (0.74, 0.22), (0.74, 0.38), (-0.42, 0.38)]),
        ("main", _rect(0.55, 0.3, 0.74, 1.0)),
        ("light", [(-0.42, 0.0), (0.5, 0.0), (0.74, 0.22), (-0.42, 0.22)]),
    ],
    "table": [
        ("dark", _rect(-0.6, -0.1, -0.46, 0.5)),
        ("dark", _rect(0.46, -0.1, 0.6, 0.5)),
        ("main", _rect(-0.96, -0.1, -0.76, 0.75)),
        ("main", _rect(0.76, -0.1, 0.96, 0.75)),
        ("light", [(-0.7, -0.5), (0.7, -0.5), (1.0, -0.12), (-1.0, -0.12)]),
        ("main", _rect(-1.0, -0.12, 1.0, 0.1)),
    ],
    "lamp": [
        ("metal", _rect(-0.08, 0.0, 0.08, 0.8)),
        ("metal", [(-0.5, 0.98), (-0.38, 0.76), (0.38, 0.76), (0.5, 0.98)]),
        ("main", [(-0.42, -1.0), (0.42, -1.0), (0.9, 0.22), (-0.9, 0.22)]),
        ("light", [(-0.12, -1.0), (0.12, -1.0), (0.26, 0.22), (-0.26, 0.22)]),
        ("pollen", _ellipse(0, 0.32, 0.2, 0.13)),
    ],
    # A top hat with a band.
    "hat": [
        ("main", _ellipse(0, 0.58, 1.0, 0.24)),
        ("main", [(-0.62, -0.72), (0.62, -0.72), (0.5, 0.58), *_ellipse(0, 0.56, 0.5, 0.12, 0, 180, 10), (-0.5, 0.58)]),
        ("detail", [(-0.535, 0.2), (0.535, 0.2), (0.5, 0.5), (-0.5, 0.5)]),
        ("dark", _ellipse(0, -0.72, 0.62, 0.17)),
    ],
    "kite": _kite(),
    "mushroom": [
        ("cream", [(-0.28, 0.0), (0.28, 0.0), (0.4, 0.95), (-0.4, 0.95)]),
        ("main", _ellipse(0, 0.12, 1.0, 1.05, 180, 360) + _ellipse(0, 0.12, 1.0, 0.22, 0, 180)),
        ("detail", _ellipse(-0.45, -0.25, 0.18, 0.18)),
        ("detail", _ellipse(0.08, -0.58, 0.2, 0.17)),
        ("detail", _ellipse(0.5, -0.12, 0.17, 0.17)),
    ],
    "bottle": _bottle(),
    "bell": _bell(),
    "cat": _cat(),
}


@cache
def shape(kind: str) -> tuple[Part, ...]:
    """Parts of a kind of object in painting order; see the module's head for tones and coordinates.

    Raises KeyError for an unknown kind.
    """
    return tuple((tone, np.clip(np.array(corners, dtype=np.float64), -1, 1)) for tone, corners in _SHAPES[kind])
