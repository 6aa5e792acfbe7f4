"""The mini synthesiser: it paints what the prompt says and noo else, the same from the same seed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bncap.mini import models
from bncap.mini.grammar import OPPOSITE, generate_captions_en, parse_en
from bncap.mini.models import MiniSynthesiser
from bncap.mini.scene import SIDE, sample_scene

NEGATIVE = "low quality, bad anatomy, watermark"


@pytest.fixture
def painted(monkeypatch):
    """The scenes that the painter is asked for, in order."""
    scenes = []
    paint = models.paint
    monkeypatch.setattr(models, "paint", lambda scene, style, seed: scenes.append(scene) or paint(scene, style, seed))
    return scenes


def test_the_scene_painted_is_one_that_the_caption_is_true_of(painted):
    rng = random.Random(0)
    captions = [c for _ in range(30) for c in generate_captions_en(sample_scene(rng), rng, 2)]
    captions += [
        c
        for _ in range(60)
        for c in generate_captions_en(sample_scene(rng, out_of_domain=True), rng, 2, out_of_domain=True)
    ]
    MiniSynthesiser().draw([f"A photo of: {c} In Bengali: ..." for c in captions], NEGATIVE, list(range(len(captions))))
    assert len(painted) == len(captions)
    for caption, scene in zip(captions, painted, strict=True):
        parsed = parse_en(caption)
        assert [o.kind for o in scene.objects] == [m.kind for m in parsed.objects]
        assert scene.background == parsed.background
        if parsed.relation:
            assert scene.relation == parsed.relation != OPPOSITE[scene.relation]
        for o, mention in zip(scene.objects, parsed.objects, strict=True):
            assert mention.colour in (None, o.colour) and mention.size in (None, o.size)
            assert o.radius < min(o.x, o.y) and max(o.x, o.y) < SIDE - o.radius


def test_what_the_caption_leaves_open_is_drawn_from_the_seed(painted):
    MiniSynthesiser().draw(["A photo of: A hat."] * 40, NEGATIVE, list(range(40)))
    hats = [scene.objects[0] for scene in painted]
    assert len({hat.colour for hat in hats}) > 4 and {hat.size for hat in hats} == {"small", "large"}
    assert len({(hat.x, hat.y) for hat in hats}) > 30


def test_the_same_prompt_and_seed_give_the_same_picture_in_any_batch():
    prompts = ["A photo of: A red ball over a cat. In Bengali: ...", "A photo of: A blue car."]
    draw = MiniSynthesiser().draw
    first, second = draw(prompts, NEGATIVE, [7, 8])
    (again,) = draw(prompts[1:], NEGATIVE, [8])
    (other,) = draw(prompts[1:], NEGATIVE, [9])
    assert first.size == second.size == (SIDE, SIDE) and second.mode == "RGB"
    assert np.array_equal(second, again) and not np.array_equal(second, other)


def test_a_prompt_cut_short_or_of_someo_else_is_painted_all_the_same(painted):
    prompts = ["A photo of: A red ball to the left of a", "A photo of: ", "", "In Bengali: A red ball"]
    assert len(MiniSynthesiser().draw(prompts, NEGATIVE, [1, 2, 3, 4])) == 4
    assert [o.kind for o in painted[0].objects] == ["ball"] and painted[0].objects[0].colour == "red"


def test_the_part_in_the_target_language_is_not_read_whatever_language_that_is(painted):
    for language in ("Bengali", "Hindi", "English"):
        MiniSynthesiser().draw([f"A photo of: A red ball. In {language}: A green hat."], NEGATIVE, [1])
    assert [[(o.colour, o.kind) for o in scene.objects] for scene in painted] == [[("red", "ball")]] * 3
