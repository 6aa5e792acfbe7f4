"""What a picture of the mini world shows: the ground truth that painter, grammars and annotations share.

Positions and sizes are in pixels of a 112 x 112 picture.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SIDE = 112
"""Width and height of a picture, px."""

KINDS = (
    "ball", "box", "cup", "house", "tree", "car", "boat", "fish", "bird", "flower", "star", "book",
    "key", "umbrella", "clock", "chair", "table", "lamp", "hat", "kite", "mushroom", "bottle", "bell", "cat",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
SIZES = {"small": 15, "large": 23}
"""Half the side of the square that an object fills, px."""

BACKGROUNDS = ("grass", "sand", "water", "snow")
"""Backgrounds of the training domain."""
OOD_BACKGROUNDS = ("brick", "wood", "night", "carpet")
"""Backgrounds of the out-of-domain test set; no pretraining sees their pictures or their words."""

RELATIONS = ("left", "right", "above", "below")


@dataclass(frozen=True)
class Object:
    """An object in a scene: centre (``x``, ``y``) and half-side ``radius`` in px, origin at the top left."""

    kind: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def radius(self) -> int:
        return SIZES[self.size]


@dataclass(frozen=True)
class Scene:
    """One to three objects on a background; ``objects[0]`` is what a caption speaks of first."""

    objects: tuple[Object, ...]
    background: str | None

    @property
    def relation(self) -> str | None:
        """Where ``objects[0]`` is from ``objects[1]``: one of :data:`RELATIONS`, or None for a single object."""
        if len(self.objects) < 2:
            return None
        dx = self.objects[0].x - self.objects[1].x
        dy = self.objects[0].y - self.objects[1].y
        if abs(dx) >= abs(dy):
            return "left" if dx < 0 else "right"
        return "above" if dy < 0 else "below"


def sample_scene(rng: random.Random, *, out_of_domain: bool = False, count: int | None = None) -> Scene:
    """Draw a scene: 1 to 3 objects (or up to ``count``) of different kinds whose boxes overlap little.

    Out of domain the backgrounds are others and the layout is denser and lower in the picture.
    """
    count = count or rng.choices((1, 2, 3), weights=(2, 5, 3) if out_of_domain else (3, 5, 2))[0]
    kinds = rng.sample(KINDS, count)
    placed: list[Object] = []
    for kind in kinds:
        size = rng.choice(tuple(SIZES))
        radius = SIZES[size]
        top = SIDE // 4 if out_of_domain else radius + 1
        for _ in range(200):
            x = rng.randint(radius + 1, SIDE - radius - 2)
            y = rng.randint(max(top, radius + 1), SIDE - radius - 2)
            if all(max(abs(x - o.x), abs(y - o.y)) > 0.85 * (radius + o.radius) for o in placed):
                placed.append(Object(kind, rng.choice(COLOURS), size, x, y))
                break
    return Scene(tuple(placed), rng.choice(OOD_BACKGROUNDS if out_of_domain else BACKGROUNDS))
