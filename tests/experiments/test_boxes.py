"""Boxes on the grid of patches, against a mask of pixels and a picture whose colours are its coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import timm
from bncap.experiments.boxes import View, centre_map, mass_inside, pointing, region, view_of
from PIL import Image

from bncap.errors import BncapError

SIDE = 7


def mask_shares(boxes, view, side, pixels=28):
    """Share of each patch in the union, by counting the middles of ``pixels`` x ``pixels`` little squares a patch."""
    steps = (np.arange(side * pixels) + 0.5) / (side * pixels)
    x = view.left + steps * (view.right - view.left)
    y = view.top + steps * (view.bottom - view.top)
    mask = np.zeros((len(y), len(x)), dtype=bool)
    for left, top, width, height in boxes:
        mask |= ((y >= top) & (y < top + height))[:, None] & ((x >= left) & (x < left + width))[None]
    return mask.reshape(side, pixels, side, pixels).mean(axis=(1, 3)).ravel()


def test_shares_of_patches_are_those_of_a_pixel_mask():
    rng = np.random.default_rng(0)
    for _ in range(30):
        view = View(*rng.uniform(-20, 40, 2), *rng.uniform(100, 180, 2))
        corners = rng.uniform(-30, 150, (rng.integers(1, 5), 2))
        boxes = [(x, y, *rng.uniform(1, 120, 2)) for x, y in corners]
        covered, centres = region(boxes, view, SIDE)
        expected = mask_shares(boxes, view, SIDE)
        np.testing.assert_allclose(covered, expected, atol=0.08)  # the mask errs by a line of pixels on each edge
        assert covered.mean() == pytest.approx(expected.mean(), abs=0.01)
        np.testing.assert_array_equal(centres, mask_shares(boxes, view, SIDE, pixels=1) == 1)


def test_boxes_on_the_lines_of_the_grid_are_exact_and_overlaps_count_once():
    covered, centres = region([(16, 0, 32, 16), (16, 0, 16, 32), (16, 0, 16, 16)], View(0, 0, 112, 112), SIDE)
    expected = np.zeros((SIDE, SIDE))
    expected[0, 1:3] = expected[1, 1] = 1
    np.testing.assert_array_equal(covered.reshape(SIDE, SIDE), expected)
    np.testing.assert_array_equal(centres.reshape(SIDE, SIDE), expected == 1)


def test_a_box_outside_of_the_view_covers_nothing():
    covered, centres = region([(120, 5, 30, 30)], View(0, 0, 112, 112), SIDE)
    assert not covered.any()
    assert not centres.any()
    assert not region([], View(0, 0, 112, 112), SIDE)[0].any()


def test_a_uniform_map_holds_exactly_chance_and_one_that_lies_inside_holds_all():
    covered, centres = (part[None] for part in region([(10, 20, 50, 60)], View(0, 0, 112, 112), SIDE))
    uniform = np.full((1, SIDE**2), 1 / SIDE**2)
    assert mass_inside(uniform, covered)[0] == pytest.approx(50 * 60 / 112**2, abs=1e-12)
    assert pointing(uniform, centres)[0] == centres.mean()
    inside = np.where(covered == 1, 1.0, 0.0)
    inside /= inside.sum()
    assert mass_inside(inside, covered)[0] == pytest.approx(1, abs=1e-12)
    assert pointing(inside, centres)[0] == 1
    assert pointing(1 - (covered > 0), centres)[0] == 0


def coordinates(width, height):
    """A picture whose red says how far to the right, whose green how far down, each 0 to 255."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray((255 * np.stack([x, y, 0 * x], axis=-1)).round().astype(np.uint8))


@pytest.mark.parametrize("size", [(200, 200), (320, 200), (150, 390), (97, 61)])
@pytest.mark.parametrize(
    "settings",
    [{"crop_pct": 1.0}, {"crop_pct": 0.875}, {"crop_pct": 0.95, "crop_mode": "squash"}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_view_is_what_the_transform_leaves_of_a_picture(size, settings):
    transform = timm.data.create_transform(
        (3, 112, 112), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", **settings
    )
    view = view_of(transform, size)
    red, green, _ = transform(coordinates(*size)).numpy()  # each (112, 112), 0 to 1
    steps = (np.arange(112) + 0.5) / 112
    inner = slice(4, -4)  # at its rim a resized picture repeats itself
    for seen, low, high, length in ((red[56], view.left, view.right, size[0]), (green[:, 56], *view_rows(view, size))):
        expected = (low + steps * (high - low)) / length
        np.testing.assert_allclose(seen[inner], expected[inner], atol=0.006)


def view_rows(view, size):
    return view.top, view.bottom, size[1]


def test_the_view_of_a_bordered_picture_reaches_beyond_it():
    transform = timm.data.create_transform((3, 112, 112), crop_pct=1.0, crop_mode="border")
    assert view_of(transform, (200, 100)) == View(0, -50, 200, 150)


def test_a_transform_of_unknown_geometry_is_refused():
    transform = timm.data.create_transform((3, 112, 112), crop_border_pixels=4)
    with pytest.raises(BncapError, match="TrimBorder"):
        view_of(transform, (200, 200))


def test_the_map_of_the_middle_is_symmetric_and_sums_to_one():
    grid = centre_map(SIDE).reshape(SIDE, SIDE)
    assert grid.sum() == pytest.approx(1)
    np.testing.assert_allclose(grid, grid.T)
    np.testing.assert_allclose(grid, grid[::-1])
    assert grid.argmax() == SIDE**2 // 2
