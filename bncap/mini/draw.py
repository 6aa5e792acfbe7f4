"""Paints a scene of the mini world in one of three styles.

``real`` stands for the photographs of the training domain, ``ood`` for photographs from elsewhere (other backgrounds,
other light), ``synthetic`` for what a text-to-image model draws: flat, outlined, without texture or noise.

``shapes.json`` has the outlines of the 24 kinds of object.  A shape is a list of parts, painted in order; a part is a
*tone* and the pieces of one polygon: a corner ``[x, y]`` in [-1, 1], y downwards, or one of :data:`PIECES` by name with
its arguments.  The tones ``main``, ``dark`` and ``light`` are shades of the object's colour, ``detail`` contrasts with
it and the others are fixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bncap.mini.scene import SIDE, Object, Scene

STYLES = ("real", "ood", "synthetic")

_SUPERSAMPLING = 4
_BANK_SIDE = 256
_PALETTE = {
    "red": (208, 32, 36), "blue": (32, 72, 214), "green": (24, 152, 50), "yellow": (246, 214, 24),
    "purple": (134, 40, 170), "orange": (246, 128, 16), "white": (246, 246, 246), "black": (30, 30, 34),
}  # fmt: skip
_FIXED_TONES = {
    "ink": (52, 48, 58), "wood": (122, 82, 48), "cream": (240, 226, 196), "leaf": (58, 128, 62),
    "metal": (158, 162, 170), "glass": (176, 214, 232), "tyre": (22, 22, 26), "beak": (214, 146, 40),
    "pollen": (250, 218, 96), "nose": (232, 146, 156),
}  # fmt: skip
_GROUND = {
    "grass": ((92, 122, 66), (126, 150, 84)), "sand": ((196, 172, 126), (222, 202, 160)),
    "water": ((74, 122, 152), (122, 168, 190)), "snow": ((196, 206, 220), (228, 234, 242)),
    "brick": ((112, 88, 80), (152, 108, 92)), "wood": ((150, 114, 80), (112, 80, 54)),
    "night": ((48, 54, 96), (80, 86, 134)), "carpet": ((136, 98, 116), (104, 112, 138)),
}  # fmt: skip
_PASTELS = {
    "grass": (182, 236, 168), "sand": (252, 230, 176), "water": (168, 226, 250), "snow": (232, 240, 252),
    "brick": (248, 190, 172), "wood": (228, 200, 166), "night": (176, 172, 232), "carpet": (240, 190, 224),
}  # fmt: skip


def paint(scene: Scene, style: str, seed: int) -> Image.Image:
    """Paint ``scene`` as an RGB picture of 112 x 112 px; the same arguments give the same bytes.

    ``style`` is one of :data:`STYLES`; only ``synthetic`` accepts a scene without background.  Raises ValueError for an
    unknown style or a background that the style cannot paint.
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r} is not one of {', '.join(STYLES)}")
    # a stream of its own for each (scene, style, seed), the same on every machine
    digest = hashlib.sha256(f"{scene!r}|{style}|{seed}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    if style == "synthetic":
        return _paint_cartoon(scene, rng)
    if scene.background not in _GROUND:
        raise ValueError(f"background {scene.background!r} is not one of {', '.join(_GROUND)}")
    return _paint_photograph(scene, style, rng)


def boxes(scene: Scene) -> list[tuple[int, int, int, int]]:
    """COCO's box of each object: (x, y, width, height) in px, in the scene's order."""
    return [(o.x - o.radius, o.y - o.radius, 2 * o.radius, 2 * o.radius) for o in scene.objects]


def _paint_cartoon(scene: Scene, rng: np.random.Generator) -> Image.Image:
    pastel = _PASTELS.get(str(scene.background)) or tuple(_PASTELS.values())[rng.integers(len(_PASTELS))]
    picture = Image.new("RGB", (SIDE, SIDE), tuple(int(c) for c in np.clip(pastel + rng.normal(0, 4, 3), 0, 255)))
    for o in scene.objects:
        patch = _draw_cartoon(o.kind, o.colour, o.radius)
        picture.paste(patch, (o.x - o.radius, o.y - o.radius), patch)
    return picture


def _paint_photograph(scene: Scene, style: str, rng: np.random.Generator) -> Image.Image:
    picture = Image.fromarray(_ground(str(scene.background), rng))
    _scatter_specks(picture, rng)
    light = rng.uniform(0, 2 * np.pi)
    patches = []
    for o in scene.objects:
        main = np.clip(np.array(_PALETTE[o.colour]) + rng.normal(0, 7, 3), 0, 255)
        shades = _shades(main, o.colour)
        patches.append(_draw_object(o.kind, o.radius, shades, angle=rng.uniform(-20, 20), outline=2))
    picture = _cast_shadows(picture, scene.objects, patches, light)
    for o, patch in zip(scene.objects, patches, strict=True):
        picture.paste(patch, (o.x - o.radius, o.y - o.radius), patch)
    blur = rng.uniform(0.3, 0.6) if style == "real" else rng.uniform(0.6, 0.9)
    picture = picture.filter(ImageFilter.GaussianBlur(blur))
    return Image.fromarray(_expose(np.asarray(picture, dtype=np.float32), style, light, rng))


def _expose(pixels: np.ndarray, style: str, light: float, rng: np.random.Generator) -> np.ndarray:
    """Light that falls off across the picture, the exposure of the style, and sensor noise."""
    axis = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    slope = np.float32(np.cos(light)) * axis[None, :] + np.float32(np.sin(light)) * axis[:, None]
    if style == "real":
        pixels = pixels * (rng.uniform(0.92, 1.06) - 0.22 * slope)[..., None].astype(np.float32)
        noise = 5.0
    else:
        contrast, tint = rng.uniform(0.8, 0.95), np.array([1.0, rng.uniform(0.88, 0.96), rng.uniform(0.72, 0.86)])
        pixels = (
            (118 + contrast * (pixels - 118))
            * (rng.uniform(0.78, 0.92) - 0.34 * slope)[..., None].astype(np.float32)
            * tint
        )
        noise = 8.0
    grain = _noise_bank()[_window(rng)]
    return np.clip(pixels + noise * grain, 0, 255).astype(np.uint8)


@cache
def _draw_cartoon(kind: str, colour: str, radius: int) -> Image.Image:
    """In drawings an object of a kind, colour and size always looks the same; to be pasted, not changed."""
    vivid = np.clip(128 + 1.15 * (np.array(_PALETTE[colour]) - 128.0), 0, 255)
    return _draw_object(kind, radius, _shades(vivid, colour), chubbiness=0.8, outline=5)


def _draw_object(
    kind: str, radius: int, shades: dict, angle: float = 0.0, chubbiness: float = 1.0, outline: int = 2
) -> Image.Image:
    """RGBA patch of 2 ``radius`` px: the shape turned by ``angle`` degrees; a ``chubbiness`` below 1 swells it."""
    side = 2 * radius * _SUPERSAMPLING
    patch = Image.new("RGBA", (side, side), (*(int(c) for c in shades["main"]), 0))
    pen = ImageDraw.Draw(patch)
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    parts = [(tone, np.sign(p) * np.abs(p) ** chubbiness @ rotation) for tone, p in shape(kind)]
    reach = max(np.abs(corners).max() for _, corners in parts)
    scale = 0.97 / max(reach, 1.0)
    for tone, corners in parts:
        points = (corners * scale + 1) * (side / 2)
        pen.polygon(points.ravel().tolist(), fill=shades[tone], outline=shades["edge"], width=outline)
    return patch.reduce(_SUPERSAMPLING)


def _shades(main: np.ndarray | tuple, colour: str) -> dict[str, tuple[int, int, int]]:
    """Colour of every tone for an object of the given colour; ``edge`` is its contour."""
    main = np.asarray(main, dtype=np.float64)
    lift = 0.28 if colour == "black" else 0.5
    shades = {
        "main": main,
        "dark": main * 0.68 if colour != "black" else main * 0.5 + 30,
        "light": main + lift * (255 - main) if colour != "white" else main * 0.9,
        "detail": (245, 240, 225) if main @ (0.3, 0.59, 0.11) < 150 else (70, 60, 60),
        "edge": main * 0.45 if colour != "black" else (88, 88, 96),
        **_FIXED_TONES,
    }
    return {tone: (int(r), int(g), int(b)) for tone, (r, g, b) in shades.items()}


def _cast_shadows(picture: Image.Image, objects: tuple[Object, ...], patches: list, light: float) -> Image.Image:
    if not objects:
        return picture
    shade = Image.new("L", (SIDE, SIDE), 0)
    dx, dy = round(2 * np.cos(light)), round(2 * np.sin(light)) + 1
    for o, patch in zip(objects, patches, strict=True):
        alpha = patch.getchannel("A").point([a * 2 // 5 for a in range(256)])
        shade.paste(alpha, (o.x - o.radius + dx, o.y - o.radius + dy), alpha)
    shade = shade.filter(ImageFilter.BoxBlur(2))
    picture.paste((18, 18, 28), (0, 0), shade)
    return picture


def _scatter_specks(picture: Image.Image, rng: np.random.Generator) -> None:
    """Pebbles and crumbs that no caption mentions."""
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(3, 10)):
        x, y, r, grey = *rng.uniform(0, SIDE, 2), rng.uniform(0.6, 2.2), rng.integers(50, 200)
        pen.ellipse((x - r, y - 0.7 * r, x + r, y + 0.7 * r), fill=(int(grey), int(grey * 0.92), int(grey * 0.82)))


@cache
def _noise_bank() -> np.ndarray:
    """Unit normal noise, (256, 256, 3) float32; pictures take windows of it, which is faster than drawing anew."""
    return np.random.default_rng(0).standard_normal((_BANK_SIDE, _BANK_SIDE, 3)).astype(np.float32)


@cache
def _texture_bank() -> np.ndarray:
    """Blotches of three sizes, (3, 256, 256) float32 of unit variance, from fine to coarse."""
    spectrum = np.fft.rfft2(_noise_bank().transpose(2, 0, 1))
    fy, fx = np.fft.fftfreq(_BANK_SIDE)[:, None], np.fft.rfftfreq(_BANK_SIDE)[None, :]
    widths = np.array([1.0, 2.5, 8.0])[:, None, None]
    blotches = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * widths) ** 2 * (fx**2 + fy**2)))
    return (blotches / blotches.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def _window(rng: np.random.Generator) -> tuple[slice, slice]:
    top, left = rng.integers(0, _BANK_SIDE - SIDE, 2)
    return slice(top, top + SIDE), slice(left, left + SIDE)


def _ground(background: str, rng: np.random.Generator) -> np.ndarray:
    """Textured background, (112, 112, 3) uint8: a mix of the two colours of ``background`` by its pattern."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    fine, middle, coarse = (bank[_window(rng)] for bank in _texture_bank())
    phase, pitch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15)
    if background == "grass":
        mix = (
            0.5 + 0.22 * np.sin(columns * 1.9 * pitch + 2 * coarse + phase) * (middle > 0) + 0.18 * coarse + 0.16 * fine
        )
    elif background == "sand":
        mix = 0.5 + 0.3 * np.sin(rows * 0.55 * pitch + 0.9 * coarse + phase) + 0.2 * fine
    elif background == "water":
        mix = 0.5 + 0.4 * np.sin(rows * 0.8 * pitch + 1.2 * middle + 0.09 * columns + phase) * (coarse > -0.4)
    elif background == "snow":
        mix = 0.6 + 0.32 * coarse + 0.1 * fine
    elif background == "brick":
        height, course = int(11 * pitch), rows + int(3 * phase)
        row = course // height
        joint = (course % height < 2) | ((columns + row % 2 * 11 + int(3 * phase)) % 22 < 2)
        mix = np.where(joint, -1.1, 0.4 + 0.35 * np.sin(row * 7.3 + (columns + row % 2 * 11) // 22 * 3.1) + 0.15 * fine)
    elif background == "wood":
        plank = (rows + int(4 * phase)) % int(24 * pitch) < 2
        mix = np.where(plank, 1.5, 0.4 + 0.35 * np.sin(rows * 0.9 + 2.2 * coarse + phase) + 0.12 * fine)
    elif background == "night":
        mix = 0.3 + 0.3 * coarse + np.where(fine > 2.6, 2.4, 0.0)
    else:
        weave = np.sin(rows * 0.52 * pitch + phase) * np.sin(columns * 0.52 * pitch + phase)
        mix = 0.5 + 0.45 * np.sign(weave) + 0.2 * fine
    first, second = np.array(_GROUND[background], dtype=np.float32)
    return np.clip(first + mix[..., None].astype(np.float32) * (second - first), 0, 255).astype(np.uint8)


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
    """Parts of a kind of object, (tone, corners (n, 2)), in painting order; KeyError for an unknown kind."""
    parts = _read_shapes()[kind]
    return tuple((tone, np.clip(np.array(corners, dtype=np.float64), -1, 1)) for tone, corners in parts)
