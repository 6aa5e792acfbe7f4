"""The painter: same bytes for the same seed, objects where the annotations say, three styles that differ."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bncap.mini.draw import STYLES, boxes, paint
from bncap.mini.scene import COLOURS, KINDS, SIDE, SIZES, Object, Scene, sample_scene


def scenes(n: int, *, out_of_domain: bool = False) -> list[Scene]:
    rng = random.Random(5)
    return [sample_scene(rng, out_of_domain=out_of_domain) for _ in range(n)]


def pixels(scene: Scene, style: str, seed: int = 3) -> np.ndarray:
    return np.asarray(paint(scene, style, seed)).astype(int)


def alone(kind: str, colour: str = "red", size: str = "large", background: str | None = "sand") -> Scene:
    return Scene((Object(kind, colour, size, 56, 56),), background)


@pytest.mark.parametrize("style", STYLES)
def test_the_same_scene_style_and_seed_give_the_same_bytes_and_another_seed_others(style):
    scene = scenes(1)[0]
    assert paint(scene, style, 1).tobytes() == paint(scene, style, 1).tobytes()
    assert paint(scene, style, 1).tobytes() != paint(scene, style, 2).tobytes()


def test_sampled_boxes_lie_inside_the_picture_in_the_order_of_the_objects():
    for scene in scenes(300) + scenes(300, out_of_domain=True):
        assert 1 <= len(scene.objects) <= 3
        for o, (x, y, width, height) in zip(scene.objects, boxes(scene), strict=True):
            assert width == height == 2 * SIZES[o.size]
            assert (x + width / 2, y + height / 2) == (o.x, o.y)
            assert x >= 0 and y >= 0 and x + width <= SIDE and y + height <= SIDE


def test_objects_of_one_scene_differ_in_kind_and_their_boxes_overlap_little():
    for scene in scenes(300) + scenes(300, out_of_domain=True):
        assert len({o.kind for o in scene.objects}) == len(scene.objects)
        for i, (ax, ay, aw, ah) in enumerate(boxes(scene)):
            for bx, by, bw, bh in boxes(scene)[:i]:
                shared = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(0, min(ay + ah, by + bh) - max(ay, by))
                assert shared <= 0.2 * min(aw * ah, bw * bh)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_drawn_object_lies_inside_its_box_and_spans_it(kind, size):
    scene = Scene((Object(kind, "purple", size, 40, 60),), "snow")
    picture = pixels(scene, "synthetic")
    rows, columns = np.nonzero(np.abs(picture - picture[0, 0]).sum(axis=2) > 6)
    ((x, y, width, height),) = boxes(scene)
    assert x <= columns.min() and columns.max() < x + width
    assert y <= rows.min() and rows.max() < y + height
    assert max(np.ptp(columns), np.ptp(rows)) >= 0.85 * width


@pytest.mark.parametrize("style", STYLES)
def test_the_eight_colours_can_be_told_apart_by_their_hue_and_brightness(style):
    background = "carpet" if style == "ood" else "sand"
    seen = {
        colour: np.mean(
            [pixels(alone("star", colour, "large", background), style, s)[52:62, 52:62] for s in range(6)], (0, 1, 2)
        )
        for colour in COLOURS
    }
    for i, first in enumerate(COLOURS):
        for second in COLOURS[:i]:
            assert np.linalg.norm(seen[first] - seen[second]) > 40, (first, second)


def test_synthetic_pictures_are_flat_and_bright_and_out_of_domain_ones_dark():
    real = np.array([pixels(scene, "real") for scene in scenes(30)])
    cartoon = np.array([pixels(scene, "synthetic") for scene in scenes(30)])
    ood = np.array([pixels(scene, "ood") for scene in scenes(30, out_of_domain=True)])
    assert cartoon.mean() > real.mean() + 20 > ood.mean() + 50
    roughness = [np.median(np.abs(np.diff(style, axis=2)).sum(-1)) for style in (cartoon, real)]
    assert roughness[0] == 0 and roughness[1] > 5


def test_a_drawing_needs_no_background_and_a_photograph_names_the_ones_that_it_knows():
    assert paint(alone("cat", background=None), "synthetic", 1).size == (SIDE, SIDE)
    with pytest.raises(ValueError, match="background None"):
        paint(alone("cat", background=None), "real", 1)
    with pytest.raises(ValueError, match="oil"):
        paint(alone("cat"), "oil", 1)
