"""The mini translator, whose faults are as stated, and the mini synthesiser, which paints what the prompt says."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from bncap.mini import models
from bncap.mini.grammar import COLOURS_BN, NOUN_LEXICON_BN, OPPOSITE, generate_captions_en, parse_en
from bncap.mini.models import FAULTS, MiniSynthesiser, MiniTranslator, apply_fault
from bncap.mini.scene import SIDE, sample_scene

COLOURS_EN = {bengali: english for english, bengali in COLOURS_BN.items()}


@pytest.fixture(scope="module")
def captions() -> list[str]:
    rng = random.Random(0)
    drawn = [
        caption
        for i in range(2400)
        for caption in generate_captions_en(
            sample_scene(rng, out_of_domain=bool(i % 2)), rng, n=3, out_of_domain=bool(i % 2)
        )
    ]
    return list(dict.fromkeys(drawn))


def _nouns(bengali: str) -> Counter:
    words = bengali.removesuffix("।").replace(",", " ").split()
    return Counter(NOUN_LEXICON_BN[word] for word in words if word in NOUN_LEXICON_BN)


def _colours(bengali: str) -> Counter:
    return Counter(COLOURS_EN[word] for word in bengali.split() if word in COLOURS_EN)


def test_faults_come_at_the_stated_rate_and_the_kinds_about_equally_often(captions):
    faults = MiniTranslator(fault_rate=0.15, seed=1).faults(captions)
    counts = Counter(fault for fault in faults if fault)
    assert abs(sum(counts.values()) / len(captions) - 0.15) < 0.015  # 3.5 standard deviations of 6,000 draws or more
    assert set(counts) == set(FAULTS)
    # The others are possible for every caption, these for most.
    common = [count for fault, count in counts.items() if fault not in ("object dropped", "colour swapped")]
    assert min(common) > 0.75 * max(common)


def test_each_fault_is_what_the_translator_says_it_is(captions):
    translator = MiniTranslator(fault_rate=0.5, seed=2)
    faultless = MiniTranslator(fault_rate=0.0, seed=2).translate(captions)
    rows = zip(captions, translator.faults(captions), translator.translate(captions), faultless, strict=True)
    for caption, fault, said, right in rows:
        objects = parse_en(caption).objects
        kinds = Counter(o.kind for o in objects)
        colours = Counter(o.colour for o in objects if o.colour)
        assert _nouns(right) == kinds and _colours(right) == colours, right
        if fault is None:
            assert said == right
        elif fault == "object swapped":
            assert (_nouns(said) - kinds).total() == 1 == (kinds - _nouns(said)).total(), said
        elif fault == "colour swapped":
            assert _nouns(said) == kinds and (_colours(said) - colours).total() == 1, said
        elif fault == "object dropped":
            assert (kinds - _nouns(said)).total() == 1 and not _nouns(said) - kinds, said
        elif fault == "left in English":
            assert said == caption
        elif fault == "truncated":
            assert right.startswith(said) and len(said) < 0.75 * len(right), said
        elif fault == "empty":
            assert said == ""
        else:
            words = said.removesuffix("।").split()
            assert fault == "repeated" and words[-2:] * 5 == words[-10:], said


def test_a_translation_depends_on_the_text_and_the_seed_and_not_on_the_batch(captions):
    translator = MiniTranslator(seed=3)
    alone = [translator.translate([caption])[0] for caption in captions[:200]]
    assert alone == translator.translate(captions)[:200] == MiniTranslator(seed=3).translate(captions[:200])
    assert translator.faults(captions[:2000]) != MiniTranslator(seed=4).faults(captions[:2000])


def test_dropping_one_of_the_first_two_objects_drops_their_relation_too():
    parsed = parse_en("A red ball under a blue box, and also a cat.")
    for seed in range(20):
        left = apply_fault(parsed, "object dropped", random.Random(seed))
        third_dropped = left.objects == parsed.objects[:2]
        assert left.relation == ("below" if third_dropped else None)


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


def test_the_part_in_the_target_language_is_not_read_whatever_language_that_is(painted):
    for language in ("Bengali", "Hindi", "English"):
        MiniSynthesiser().draw([f"A photo of: A red ball. In {language}: A green hat."], NEGATIVE, [1])
    assert [[(o.colour, o.kind) for o in scene.objects] for scene in painted] == [[("red", "ball")]] * 3
