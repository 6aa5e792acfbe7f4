"""Variety of captions: known counts, references beside them, and a warning where a model says but one thing."""

from __future__ import annotations

import dataclasses

import pytest
from fake_runs import finish

from bncap.config import BASE, BASELINES, MAIN, VARIANTS, get_config
from bncap.data.corpus import Pair
from bncap.errors import BncapError
from bncap.experiments import diversity
from bncap.experiments.runs import run_dir
from bncap.pipeline import artifacts, paths

CONFIG = get_config("smoke")
COLOURS = ("লাল", "নীল", "সবুজ", "হলুদ")
VARIED = [f"একটি {colour} বল।" for colour in COLOURS]  # four tokens each, seven different ones in all
SAME = ["একটি বল।"] * 3 + ["একটি লাল বল ও একটি কাপ।"]  # three tokens, and seven at the end


def write_runs(images=4):
    for variant in (*VARIANTS, *BASELINES):
        captions = SAME if variant == BASE else VARIED
        rows = [(f"{i}.jpg", caption) for i, caption in enumerate(captions[:images])]
        for seed in CONFIG.seeds(42):
            files = {f"captions_{split}.csv": [("image", "caption"), *rows] for split in ("test", "ood")}
            finish(run_dir(CONFIG, variant, seed), files)


@pytest.fixture
def records(artifacts_dir):
    pairs = [
        Pair(10 * i + k, str(i), f"{i}.jpg", split, "", text, None)
        for split in ("test", "ood")
        for i, colour in enumerate(COLOURS)
        for k, text in enumerate((f"একটি {colour} ঘর।", f"একটি বড় {colour} ঘর।"))
    ]
    rows = [[field.name for field in dataclasses.fields(Pair)], *(dataclasses.astuple(pair) for pair in pairs)]
    finish(paths.step_dir("smoke", "01_data_build", "corpus", 42), {"corpus.csv": rows})
    write_runs()
    return diversity.summarise(CONFIG, 42)


def of(records, variant, split="ood"):
    (record,) = (r for r in records if (r["variant"], r["split"]) == (variant, split))
    return record


def test_variety_is_counted_over_all_seeds(records):
    main, base = of(records, MAIN), of(records, BASE)
    assert (main["distinct"], main["vocabulary"], main["mean_length"]) == (100, 7, 4)
    assert main["lengths"] == [0, 0, 0, 0, 100] and main["most_frequent_share"] == 25
    assert base["lengths"] == [0, 0, 0, 75, 0, 0, 0, 25] and base["mean_length"] == 4
    assert base["distinct"] == 50 and base["most_frequent"] == "একটি বল ।"
    assert (base["captions"], base["seeds"]) == (4, len(CONFIG.seeds(42)))


def test_a_model_that_says_the_same_of_most_pictures_is_named_in_a_warning(records):
    assert {r["variant"] for r in records if r["degenerate"]} == {BASE}
    warning, second, *rest = diversity.sentences(records)
    assert warning.startswith("WARNING: CE (Real-only), in domain") and "75.0 %" in warning and "একটি বল ।" in warning
    assert second.startswith("WARNING") and not any(line.startswith("WARNING") for line in rest)


def test_without_such_a_model_the_sentences_say_so(records):
    assert diversity.sentences([r for r in records if r["variant"] != BASE])[0].startswith("No run")


def test_the_references_come_first_and_are_as_many_as_the_pictures(records):
    for split in ("test", "ood"):
        human = of(records, diversity.REFERENCE, split)
        assert human is next(r for r in records if r["split"] == split)
        assert human["captions"] == 4 and 4 <= human["mean_length"] <= 5 and sum(human["lengths"]) == 100


def test_the_table_has_a_row_for_each_variant_and_split(records):
    rows = artifacts.read_csv(diversity.write_table(CONFIG, records))
    assert len(rows) == len(records) == 2 * (1 + len(VARIANTS) + len(BASELINES))
    assert {row["degenerate"] for row in rows if row["variant"] == BASE} == {"True"}


def test_a_run_of_other_pictures_is_refused(records):
    write_runs(images=3)
    with pytest.raises(BncapError, match="3 captions of the 4 pictures"):
        diversity.summarise(CONFIG, 42)
