"""The mini world's language: what is said of a scene is true, can be read back, and keeps the two domains apart."""

from __future__ import annotations

import random
import re

import pytest

from bncap.mini.grammar import (
    BENGALI,
    BENGALI_OOD,
    COLOURS_BN,
    ENGLISH,
    ENGLISH_OOD,
    NOUN_LEXICON_BN,
    OPPOSITE,
    Mention,
    ParsedCaption,
    generate_caption_bn,
    generate_captions_en,
    genitive_bn,
    list_words,
    parse_bn,
    parse_en,
)
from bncap.mini.scene import BACKGROUNDS, COLOURS, KINDS, OOD_BACKGROUNDS, RELATIONS, SIZES, sample_scene


def _scenes_and_captions(out_of_domain: bool, n: int = 400, seed: int = 0):
    rng = random.Random(seed)
    for _ in range(n):
        scene = sample_scene(rng, out_of_domain=out_of_domain)
        yield scene, generate_captions_en(scene, rng, out_of_domain=out_of_domain)


def _words(text: str) -> set[str]:
    return set(re.sub(r"[,.।-]", " ", text.lower()).split())


@pytest.mark.parametrize("out_of_domain", [False, True])
def test_reading_a_caption_gives_back_only_what_is_true_of_its_scene(out_of_domain):
    relations = backgrounds = colours = 0
    for scene, captions in _scenes_and_captions(out_of_domain):
        by_kind = {o.kind: o for o in scene.objects}
        for caption in captions:
            parsed = parse_en(caption)
            assert parsed.out_of_domain == out_of_domain, caption
            assert 1 <= len(parsed.objects) <= len(scene.objects), caption
            assert len({m.kind for m in parsed.objects}) == len(parsed.objects), caption
            for mention in parsed.objects:
                assert mention.colour in (None, by_kind[mention.kind].colour), caption
                assert mention.size in (None, by_kind[mention.kind].size), caption
                colours += mention.colour is not None
            assert parsed.background in (None, scene.background), caption
            backgrounds += parsed.background is not None
            if parsed.relation:
                first_is_first = parsed.objects[0].kind == scene.objects[0].kind
                assert parsed.relation == (scene.relation if first_is_first else OPPOSITE[scene.relation]), caption
                relations += 1
    assert min(relations, backgrounds, colours) > 500


@pytest.mark.parametrize("out_of_domain", [False, True])
def test_five_captions_of_a_scene_are_five_different_sentences(out_of_domain):
    for _, captions in _scenes_and_captions(out_of_domain, 100):
        assert len(set(captions)) == 5
        assert all(re.fullmatch(r"[A-Z][a-z, -]+\.", caption) for caption in captions), captions


@pytest.mark.parametrize(
    ("caption", "kinds", "relation"),
    [
        ("A red ball to the left of a blue box.", ["ball", "box"], "left"),
        ("A blue box with a red ball to its left.", ["box", "ball"], "right"),
        ("A blue box, and above it a red sphere.", ["box", "ball"], "below"),
        ("To the right of a blue crate is a red ball.", ["box", "ball"], "left"),
        ("A blue carton rests at night while a globe appears beneath it.", ["box", "ball"], "above"),
        ("A red ball and a blue box.", ["ball", "box"], None),
        ("A red ball to the left of a", ["ball"], None),
        ("Three people ride on an elephant", [], None),
        ("", [], None),
    ],
)
def test_the_relation_is_that_of_the_first_mentioned_to_the_second(caption, kinds, relation):
    parsed = parse_en(caption)
    assert [m.kind for m in parsed.objects] == kinds
    assert parsed.relation == relation


def test_colours_and_sizes_belong_to_their_noun_before_or_behind_it():
    first, second = parse_en("A tiny ball that is red can be seen beside a huge orange-coloured box.").objects
    assert first == Mention("ball", "red", "small")
    assert second == Mention("box", "orange", "large")


def test_no_caption_in_the_domain_has_a_word_of_the_other_domain_alone():
    own_en = (list_words(ENGLISH_OOD) | {"that", "coloured"}) - list_words(ENGLISH)
    own_bn = (list_words(BENGALI_OOD) | {"রঙের"}) - list_words(BENGALI)
    own_bn |= {genitive_bn(n) for nouns in BENGALI_OOD.nouns.values() for n in nouns}
    rng = random.Random(5)
    seen: dict[bool, set[str]] = {}
    for out_of_domain in (False, True):
        seen[out_of_domain] = set()
        for _, captions in _scenes_and_captions(out_of_domain, 600):
            for caption in captions:
                parsed = parse_en(caption)
                seen[out_of_domain] |= _words(caption) | _words(
                    generate_caption_bn(parsed, rng, out_of_domain=out_of_domain)
                )
    assert not seen[False] & (own_en | own_bn)
    assert own_en - {"undersized"} <= seen[True] and len(own_bn & seen[True]) > 0.9 * len(own_bn)


@pytest.mark.parametrize("out_of_domain", [False, True])
def test_bengali_names_each_object_with_its_colour_and_ends_in_a_danda(out_of_domain):
    rng = random.Random(2)
    for _, captions in _scenes_and_captions(out_of_domain):
        for caption in captions:
            parsed = parse_en(caption)
            said = generate_caption_bn(parsed, rng, out_of_domain=out_of_domain)
            words = said.removesuffix("।").replace(",", " ").split()
            assert said.endswith("।") and "  " not in said and not re.search("[a-zA-Z{}]", said)
            assert sorted(NOUN_LEXICON_BN[w] for w in words if w in NOUN_LEXICON_BN) == sorted(
                m.kind for m in parsed.objects
            ), said
            for colour in COLOURS:
                assert words.count(COLOURS_BN[colour]) == sum(m.colour == colour for m in parsed.objects), said


def test_bengali_keeps_the_relation_whichever_object_it_puts_first():
    parsed = ParsedCaption((Mention("bird", "blue", None), Mention("car", "red", None)), "left", None)
    said = {generate_caption_bn(parsed, random.Random(seed)) for seed in range(300)}
    assert "একটি লাল গাড়ির বাম পাশে একটি নীল পাখি আছে।" in said
    for sentence in said:
        bird, car = sentence.index("পাখি"), sentence.index("গাড়ি")
        # "<ground>'s left is X" and "<ground>, to its left X" put the ground first; "X is at <ground>'s left" last.
        subject_is_bird = ("গাড়ির" in sentence) or ("তার" in sentence and car < bird)
        assert ("বা" in sentence) == subject_is_bird, sentence


@pytest.mark.parametrize(
    ("noun", "genitive"),
    [("বল", "বলের"), ("পাখি", "পাখির"), ("নৌকা", "নৌকার"), ("বই", "বইয়ের"), ("বৃক্ষ", "বৃক্ষের"), ("চেয়ার", "চেয়ারের")],
)
def test_the_bengali_genitive_follows_the_last_sound(noun, genitive):
    assert genitive_bn(noun) == genitive


def test_every_kind_colour_size_relation_and_background_has_words_in_both_languages():
    for dialect in (ENGLISH, BENGALI):
        assert set(dialect.nouns) == set(KINDS)
        assert set(dialect.sizes) == set(SIZES)
        assert set(dialect.relations) == set(RELATIONS)
        assert set(dialect.backgrounds) == set(BACKGROUNDS)
    assert set(COLOURS_BN) == set(COLOURS)
    for dialect in (ENGLISH_OOD, BENGALI_OOD):
        assert set(dialect.backgrounds) == set(OOD_BACKGROUNDS)
    assert sum(len(nouns) > 1 for nouns in ENGLISH.nouns.values()) >= len(KINDS) / 2
    assert set(NOUN_LEXICON_BN.values()) == set(KINDS)


@pytest.mark.parametrize("out_of_domain", [False, True])
def test_what_the_grammar_says_of_five_hundred_scenes_is_read_back_whole(out_of_domain):
    rng = random.Random(7)
    for _ in range(500):
        scene = sample_scene(rng, out_of_domain=out_of_domain)
        meant = parse_en(generate_captions_en(scene, rng, 1, out_of_domain=out_of_domain)[0])
        caption = generate_caption_bn(meant, rng, out_of_domain=out_of_domain)
        said = parse_bn(caption)
        assert sorted(said.objects, key=repr) == sorted(meant.objects, key=repr), caption
        found = {(said.objects[i].kind, r, said.objects[j].kind) for i, r, j in said.relations}
        assert len(said.relations) == (meant.relation is not None), caption
        if meant.relation:
            a, b = (mention.kind for mention in meant.objects[:2])
            assert found <= {(a, meant.relation, b), (b, OPPOSITE[meant.relation], a)}, caption


def test_both_orders_of_figure_and_ground_and_the_pronoun_mean_the_same():
    orders = ("একটি লাল বলের নিচে একটি কাপ আছে।", "একটি কাপ একটি লাল বলের নিচে রয়েছে।", "একটি লাল বল ও তার নিচে একটি কাপ।")
    for caption in orders:
        said = parse_bn(caption)
        ((i, relation, j),) = said.relations
        assert (said.objects[i].kind, relation, said.objects[j].kind) == ("cup", "below", "ball")
        assert {o.kind: o.colour for o in said.objects} == {"cup": None, "ball": "red"}


def test_a_relation_without_a_second_thing_and_foreign_words_say_nothing():
    assert parse_bn("একটি বলের নিচে।").relations == ()
    assert parse_bn("নিচে একটি বল।").relations == ()
    assert parse_bn("A red ball.") == parse_bn("")
