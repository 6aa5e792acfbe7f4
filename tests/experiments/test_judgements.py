"""What was there to be said of a picture, and what a caption says rightly; scenes of the mini world are the oracle."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bncap.config import get_config
from bncap.experiments.error_labels import NOTHING, Thing, confuse, groups_of, judge, reads_sentences, relations_of
from bncap.mini.draw import boxes
from bncap.mini.grammar import captions_en, parse_en, say_bn
from bncap.mini.parse import read_bn
from bncap.mini.scene import sample_scene

BALL, CUP = Thing("ball", (0, 0, 10, 10), "red"), Thing("cup", (40, 5, 20, 20), "blue")


def judged(things, caption):
    named = {mention.kind for mention in read_bn(caption).objects}
    return list(judge(things, named, caption, True))


def test_true_captions_of_scenes_are_judged_right_in_all_that_they_say():
    rng, said = random.Random(3), Counter()
    for _ in range(300):
        scene = sample_scene(rng)
        things = [Thing(o.kind, box, o.colour) for o, box in zip(scene.objects, boxes(scene), strict=True)]
        caption = say_bn(parse_en(captions_en(scene, rng, 1)[0]), rng)
        for (dimension, _), right in judged(things, caption):
            assert right or dimension in ("object", "number"), caption  # a caption may leave things out
            said[dimension, right] += 1
    assert said["colour", True] > 300 and said["relation", True] > 100 and said["object", False] > 0


def test_the_relation_of_two_boxes_is_that_of_their_scene():
    rng = random.Random(4)
    for _ in range(100):
        scene = sample_scene(rng, count=2)
        if len(scene.objects) == 2:
            things = [Thing(o.kind, box) for o, box in zip(scene.objects, boxes(scene), strict=True)]
            assert list(relations_of(things).values()) == [scene.relation]


def test_wrong_colours_wrong_sides_and_missing_things_are_errors():
    found = judged((BALL, CUP), "একটি নীল কাপের ডান পাশে একটি নীল বল আছে।")  # a blue ball to the right of a blue cup
    assert dict(found)["colour", "red"] is False and dict(found)["colour", "blue"] is True
    assert dict(found)["relation", "left"] is False and dict(found)["object", "ball"] is True
    assert dict(judged((BALL, CUP), "একটি কাপ।"))["object", "ball"] is False


def test_a_relation_said_from_the_other_side_is_as_right():
    for caption in ("একটি কাপের বাম পাশে একটি বল।", "একটি বলের ডান পাশে একটি কাপ।"):
        assert (("relation", "left"), True) in judged((BALL, CUP), caption)


def test_what_is_not_said_or_not_there_is_not_judged():
    dimensions = [group[0] for group, _ in judged((BALL,), "একটি বলের ডান পাশে একটি সবুজ কাপ।")]
    assert dimensions == ["object", "number"]


def test_kinds_that_a_picture_has_twice_have_neither_colour_nor_relation():
    dimensions = {group[0] for group, _ in judged((BALL, BALL, CUP), "একটি লাল বলের ডান পাশে একটি কাপ।")}
    assert dimensions == {"object", "number"}


@pytest.mark.parametrize(("count", "name"), [(0, "none"), (1, "1"), (3, "3"), (5, "4 to 6"), (9, "7 or more")])
def test_pictures_are_grouped_by_their_number_of_objects(count, name):
    assert ("number", name) in groups_of([BALL] * count, True)


def test_without_sentences_a_picture_has_no_group_of_colours_and_relations():
    assert {group[0] for group in groups_of((BALL, CUP), False)} == {"object", "number"}
    assert groups_of((BALL, CUP), True) >= {("colour", "red"), ("relation", "left"), ("object", "cup")}


def test_sentences_are_read_in_the_mini_world_alone():
    assert reads_sentences(get_config("mini"))
    assert not reads_sentences(get_config("paper")) and not reads_sentences(get_config("mini", ["data.lang=hi_IN"]))


def test_a_confusion_is_exact_for_one_object_and_shared_for_more():
    assert confuse({"ball"}, {"ball"}) == {("ball", "ball"): 1}
    assert confuse({"ball"}, {"cup"}) == {("ball", "cup"): 1}
    assert confuse({"ball"}, set()) == {("ball", NOTHING): 1}
    assert confuse({"ball"}, {"cup", "hat"}) == {("ball", "cup"): 0.5, ("ball", "hat"): 0.5}
    halves = {(kind, said): 0.5 for kind in ("ball", "box") for said in ("cup", NOTHING)}
    assert confuse({"ball", "box", "hat"}, {"cup", "hat"}) == {("hat", "hat"): 1, **halves}


def test_each_kind_that_is_there_is_said_to_be_something_once():
    rng, kinds = random.Random(1), ("a", "b", "c", "d", "e")
    for _ in range(200):
        there, said = (set(rng.sample(kinds, rng.randint(0, 4))) for _ in range(2))
        weights = Counter()
        for (kind, _), weight in confuse(there, said).items():
            weights[kind] += weight
        assert dict(weights) == pytest.approx(dict.fromkeys(there, 1.0))
