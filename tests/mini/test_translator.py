"""The mini translator: its faults come at the stated rate, are what it says they are, and hang on the text alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bncap.mini.grammar import COLOURS_BN, NOUN_LEXICON_BN, generate_captions_en, parse_en
from bncap.mini.models import FAULTS, MiniTranslator, apply_fault
from bncap.mini.scene import sample_scene

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


def test_text_without_a_known_object_is_left_in_english_and_counted_as_a_fault():
    translator = MiniTranslator(fault_rate=0.0)
    assert translator.translate(["Two dogs run."]) == ["Two dogs run."]
    assert translator.faults(["Two dogs run."]) == ["left in English"]


def test_dropping_one_of_the_first_two_objects_drops_their_relation_too():
    parsed = parse_en("A red ball under a blue box, and also a cat.")
    for seed in range(20):
        left = apply_fault(parsed, "object dropped", random.Random(seed))
        third_dropped = left.objects == parsed.objects[:2]
        assert left.relation == ("below" if third_dropped else None)


def test_a_fault_rate_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match="fault_rate"):
        MiniTranslator(fault_rate=15)
