"""Errors by group, counted by hand; labels of captions against scenes of the mini world."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fake_runs import finish

from bncap import metrics
from bncap.config import get_config
from bncap.errors import BncapError
from bncap.experiments import error_analysis, evaluate
from bncap.experiments.error_analysis import (
    NOTHING,
    SceneObject,
    confuse_kinds,
    groups_of,
    label_caption,
    relations_of,
)
from bncap.experiments.runs import run_dir
from bncap.mini.draw import boxes
from bncap.mini.grammar import generate_caption_bn, generate_captions_en, parse_bn, parse_en
from bncap.mini.scene import sample_scene
from bncap.pipeline import artifacts, paths

CONFIG = get_config("smoke")
BALL, CUP = ("ball", "red", [0, 0, 10, 10]), ("cup", "blue", [50, 0, 10, 10])
PICTURES = {"1.jpg": (BALL,), "2.jpg": (CUP,), "3.jpg": (BALL, CUP), "4.jpg": (CUP, BALL)}
REFERENCES = {
    "1.jpg": "একটি লাল বল আছে।",
    "2.jpg": "একটি নীল কাপ আছে।",
    "3.jpg": "একটি নীল কাপের বাম পাশে একটি লাল বল আছে।",
    "4.jpg": "একটি লাল বলের ডান পাশে একটি নীল কাপ আছে।",
}
WRONG = REFERENCES | {
    "2.jpg": "একটি নীল টুপি আছে।",  # a hat, not a cup
    "3.jpg": "একটি নীল কাপের ডান পাশে একটি সবুজ বল আছে।",  # wrong side, wrong colour
}


def write_world(folder):
    kinds = ["ball", "cup"]
    images = [{"id": i, "file_name": name} for i, name in enumerate(PICTURES)]
    things = [
        {"image_id": i, "category_id": kinds.index(kind), "colour": colour, "bbox": box}
        for i, found in enumerate(PICTURES.values())
        for kind, colour, box in found
    ]
    categories = [{"id": i, "name": kind} for i, kind in enumerate(kinds)]
    content = {"images": images, "annotations": things, "categories": categories}
    artifacts.write_json(folder / "annotations" / "instances_val2014.json", content)


def write_run(variant, seed, captions):
    images = [f"val2014/{name}" for name in captions]
    texts, references = list(captions.values()), [[text] for text in REFERENCES.values()]

    def build(folder):
        rows = list(zip(images, texts, strict=True))
        artifacts.write_csv(folder / "captions_test.csv", ("image", "caption"), rows)
        evaluate.write_caption_scores(folder, "test", images, metrics.per_caption(texts, references), None)

    artifacts.run_step(run_dir(CONFIG, variant, seed), settings={}, build=build, quiet=True)


@pytest.fixture
def found(artifacts_dir, monkeypatch):
    monkeypatch.setattr(error_analysis, "LEAST", 1)
    write_world(paths.dataset_roots(CONFIG)[0])
    for seed in CONFIG.seeds(42):
        write_run("ce_real", seed, WRONG)
        write_run("pal_infonce_ot", seed, REFERENCES)
    return error_analysis.summarise_errors(CONFIG, 42)


def value(found, variant, dimension, group, measure):
    key = {"variant": variant, "dimension": dimension, "group": group, "measure": measure}
    (row,) = (row for row in found["rows"] if key.items() <= row.items())
    return row


def test_wrong_captions_are_counted_by_group(found):
    expected = {
        ("all", "all", "named"): (5, 6), ("object", "cup", "named"): (2, 3), ("object", "ball", "named"): (3, 3),
        ("number", "1", "named"): (1, 2), ("number", "2", "named"): (4, 4), ("colour", "red", "colour_right"): (2, 3),
        ("colour", "blue", "colour_right"): (2, 2), ("relation", "left", "relation_right"): (0, 1),
        ("relation", "right", "relation_right"): (1, 1), ("all", "all", "relation_right"): (1, 2),
    }  # fmt: skip
    for key, (right, asked) in expected.items():
        row = value(found, "ce_real", *key)
        assert row["value"] == pytest.approx(100 * right / asked, abs=1e-4), key
        assert row["asked"] == asked * len(CONFIG.seeds(42))
        assert row["low"] <= row["value"] <= row["high"]


def test_the_scores_of_a_group_are_those_of_its_captions_as_a_corpus(found):
    for group, images in {("all", "all"): list(PICTURES), ("object", "cup"): ["2.jpg", "3.jpg", "4.jpg"]}.items():
        whole = metrics.score([WRONG[i] for i in images], [[REFERENCES[i]] for i in images])
        for measure in ("B4", "METEOR"):
            row = value(found, "ce_real", *group, measure)
            assert row["value"] == pytest.approx(whole[measure], abs=1e-4)
            assert row["pictures"] == len(images) and row["asked"] is None


def test_a_difference_is_that_of_the_values_and_knows_whether_it_leaves_out_zero(found):
    for difference in found["differences"]:
        key = [difference[name] for name in ("dimension", "group", "measure")]
        values = [value(found, variant, *key)["value"] for variant in ("pal_infonce_ot", "ce_real")]
        assert difference["difference"] == pytest.approx(values[0] - values[1], abs=2e-4)
        assert difference["excludes_zero"] == (difference["low"] > 0 or difference["high"] < 0)
    (left,) = (d for d in found["differences"] if (d["group"], d["measure"]) == ("left", "relation_right"))
    assert left["excludes_zero"] and left["difference"] == 100


def test_a_guess_is_what_the_commonest_answer_gets_right(found):
    key = {"variant": "ce_real", "split": "test"}
    guesses = {guess["measure"]: guess["value"] for guess in found["guesses"] if key.items() <= guess.items()}
    assert guesses == {"colour_right": 60.0, "relation_right": 50.0}  # three of five colours are red


def test_the_confusion_says_what_is_said_instead(found):
    records = error_analysis.count_confusions(CONFIG, 42)
    cells = {(r["there"], r["said"]): (r["share"], r["times"]) for r in records if r["variant"] == "ce_real"}
    single = [r for r in records if r["variant"] == "ce_real" and r["pictures"] == "one object"]
    assert cells["cup", "hat"][1] == 3 and cells["cup", "hat"][0] == pytest.approx(100 / 3, abs=1e-4)
    assert {(r["there"], r["said"], r["share"]) for r in single} == {("ball", "ball", 100), ("cup", "hat", 100)}
    assert [(r["there"], r["said"]) for r in error_analysis.most_confused(records)] == [("cup", "hat")] * 2


def test_without_annotations_errors_are_refused_with_the_reason(artifacts_dir):
    finish(paths.dataset_roots(CONFIG)[0], {"nothing.json": {}})
    with pytest.raises(BncapError, match="annotations"):
        error_analysis.summarise_errors(CONFIG, 42)


A_BALL = SceneObject("ball", (0, 0, 10, 10), "red")
A_CUP = SceneObject("cup", (40, 5, 20, 20), "blue")


def labels_of(things, caption):
    named = {mention.kind for mention in parse_bn(caption).objects}
    return list(label_caption(things, named, caption, True))


def test_true_captions_of_scenes_are_right_in_all_statements():
    rng, said = random.Random(3), Counter()
    for _ in range(300):
        scene = sample_scene(rng)
        things = [SceneObject(o.kind, box, o.colour) for o, box in zip(scene.objects, boxes(scene), strict=True)]
        caption = generate_caption_bn(parse_en(generate_captions_en(scene, rng, 1)[0]), rng)
        for (dimension, _), right in labels_of(things, caption):
            assert right or dimension in ("object", "number"), caption  # a caption may leave things out
            said[dimension, right] += 1
    assert said["colour", True] > 300 and said["relation", True] > 100 and said["object", False] > 0


def test_the_relation_of_two_boxes_is_that_of_their_scene():
    rng = random.Random(4)
    for _ in range(100):
        scene = sample_scene(rng, count=2)
        if len(scene.objects) == 2:
            things = [SceneObject(o.kind, box) for o, box in zip(scene.objects, boxes(scene), strict=True)]
            assert list(relations_of(things).values()) == [scene.relation]


def test_wrong_colours_wrong_sides_and_missing_things_are_errors():
    found = labels_of(
        (A_BALL, A_CUP), "একটি নীল কাপের ডান পাশে একটি নীল বল আছে।"
    )  # a blue ball to the right of a blue cup
    assert dict(found)["colour", "red"] is False and dict(found)["colour", "blue"] is True
    assert dict(found)["relation", "left"] is False and dict(found)["object", "ball"] is True
    assert dict(labels_of((A_BALL, A_CUP), "একটি কাপ।"))["object", "ball"] is False


def test_kinds_that_a_picture_has_twice_have_neither_colour_nor_relation():
    dimensions = {group[0] for group, _ in labels_of((A_BALL, A_BALL, A_CUP), "একটি লাল বলের ডান পাশে একটি কাপ।")}
    assert dimensions == {"object", "number"}


@pytest.mark.parametrize(("count", "name"), [(0, "none"), (1, "1"), (3, "3"), (5, "4 to 6"), (9, "7 or more")])
def test_pictures_are_grouped_by_their_number_of_objects(count, name):
    assert ("number", name) in groups_of([A_BALL] * count, True)


def test_a_confusion_is_exact_for_one_object_and_shared_for_more():
    assert confuse_kinds({"ball"}, {"ball"}) == {("ball", "ball"): 1}
    assert confuse_kinds({"ball"}, {"cup"}) == {("ball", "cup"): 1}
    assert confuse_kinds({"ball"}, set()) == {("ball", NOTHING): 1}
    assert confuse_kinds({"ball"}, {"cup", "hat"}) == {("ball", "cup"): 0.5, ("ball", "hat"): 0.5}
    halves = {(kind, said): 0.5 for kind in ("ball", "box") for said in ("cup", NOTHING)}
    assert confuse_kinds({"ball", "box", "hat"}, {"cup", "hat"}) == {("hat", "hat"): 1, **halves}
