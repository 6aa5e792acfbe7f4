"""A Bengali caption of the mini world is read back as what it was said from."""

from __future__ import annotations

import random

import pytest

from bncap.mini.grammar import OPPOSITE, generate_caption_bn, generate_captions_en, parse_bn, parse_en
from bncap.mini.scene import sample_scene


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
