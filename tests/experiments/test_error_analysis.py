"""Errors by group, with captions and pictures small enough to count by hand."""

from __future__ import annotations

import csv

import pytest
from fake_runs import finish

from bncap import metrics
from bncap.config import get_config
from bncap.errors import BncapError
from bncap.experiments import error_analysis, evaluate
from bncap.experiments.runs import run_dir
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
    return error_analysis.measure(CONFIG, 42)


def value(found, variant, dimension, group, measure):
    key = {"variant": variant, "dimension": dimension, "group": group, "measure": measure}
    (row,) = (row for row in found["rows"] if key.items() <= row.items())
    return row


def test_right_captions_are_right_in_every_group(found):
    main = [row for row in found["rows"] if row["variant"] == "pal_infonce_ot"]
    assert {row["value"] for row in main if row["measure"] in error_analysis.SAID.values()} == {100.0}
    assert {row["low"] for row in main if row["measure"] == "named"} == {100.0}


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
    records = error_analysis.confusion(CONFIG, 42)
    cells = {(r["there"], r["said"]): (r["share"], r["times"]) for r in records if r["variant"] == "ce_real"}
    single = [r for r in records if r["variant"] == "ce_real" and r["pictures"] == "one object"]
    assert cells["cup", "hat"][1] == 3 and cells["cup", "hat"][0] == pytest.approx(100 / 3, abs=1e-4)
    assert {(r["there"], r["said"], r["share"]) for r in single} == {("ball", "ball", 100), ("cup", "hat", 100)}
    assert [(r["there"], r["said"]) for r in error_analysis.most_confused(records)] == [("cup", "hat")] * 2


def test_tables_and_sentences_hold_what_was_found(found):
    records = error_analysis.confusion(CONFIG, 42)
    table, confused = error_analysis.write_tables(CONFIG, found, records)
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(found["rows"]) and set(rows[0]) == set(error_analysis.TABLE_HEADER)
    assert len(artifacts.read_csv(confused)) == len(records)
    text = " ".join(error_analysis.sentences(found, records))
    assert "In domain" in text and "100.0 %" in text and "Out of domain" not in text


def test_groups_that_few_pictures_ask_of_are_not_named_as_best_worst_or_most_confused(found, monkeypatch):
    records = error_analysis.confusion(CONFIG, 42)
    rows = [row | {"variant": "pal_infonce_ot"} for row in found["rows"] if row["variant"] == "ce_real"]
    confused = [r | {"variant": "pal_infonce_ot"} for r in records if r["variant"] == "ce_real"]
    for least, named in ((3, True), (4, False)):  # each kind is in 3 pictures, and the runs of 2 seeds ask 6 times
        monkeypatch.setattr(error_analysis, "LEAST", least)
        said = error_analysis.sentences({**found, "rows": rows, "guesses": []}, confused)[0]
        assert ("the object that is named most often is ball" in said) == named
        assert ("cup is most often called hat" in said) == named
        assert bool(error_analysis.most_confused([r for r in confused if r["pictures"] == "all"])) == named


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(65, 75, "more than"), (55, 65, "not told apart from"), (40, 55, "less than"), (60, 75, "not told apart from")],
)
def test_what_is_right_is_set_against_one_answer_for_all_by_its_interval(found, low, high, word):
    place = {"variant": "pal_infonce_ot", "split": "test", "measure": "colour_right"}
    row = {**place, "dimension": "all", "group": "all", "value": (low + high) / 2, "low": low, "high": high}
    content = {"rows": [row], "differences": found["differences"], "guesses": [{**place, "value": 60.0}]}
    said = error_analysis.sentences(content, [])[0]
    assert f"are right, {word} what one answer for all would get (60.0 %)" in said


def test_the_same_runs_give_the_same_numbers(found):
    assert error_analysis.measure(CONFIG, 42) == found


def test_without_annotations_errors_are_refused_with_the_reason(artifacts_dir):
    finish(paths.dataset_roots(CONFIG)[0], {"nothing.json": {}})
    with pytest.raises(BncapError, match="annotations"):
        error_analysis.measure(CONFIG, 42)
