"""Training losses from logs, and diversity of captions, with known counts."""

from __future__ import annotations

import dataclasses

import pytest
from fake_runs import finish

from bncap.config import BASE, BASELINES, MAIN, VARIANTS, get_config
from bncap.data.pairs import Pair
from bncap.errors import BncapError
from bncap.experiments import comparisons
from bncap.experiments.runs import run_dir, weights_dir
from bncap.pipeline import hub, paths

LOSSES = {"ce_real": 2.0, "pal": 1.5, MAIN: 3.0}


@pytest.fixture
def logged(artifacts_dir):
    config = get_config("smoke", ["experiment.n_seeds=3"])
    for variant, loss in LOSSES.items():
        for seed in config.seeds(42):
            drift = 0.1 * (seed - 42) * (variant == "pal")
            steps = [(1, 1, loss + 1, loss + 2), (2, 2, loss + drift, loss + 1), (3, 2, loss + drift, loss + 1)]
            held_out = [(1, 1, 9.0), (2, 2, loss / 2), (3, 3, 8.0)]
            files = {
                "steps.csv": [("step", "epoch", "ce", "total"), *steps],
                "validation.csv": [("epoch", "step", "ce"), *held_out],
            }
            finish(weights_dir(config, variant, seed), files)
    return config


def test_means_run_over_all_steps_the_last_epoch_and_the_best_held_out_one(logged):
    rows = {(r["variant"], r["measure"]): r for r in comparisons.summarise_convergence(logged, 42)["rows"]}
    assert len(rows) == len(comparisons.CONVERGENCE_VARIANTS) * len(comparisons.LOSSES)
    assert rows["ce_real", "ce_on_the_way"]["mean"] == pytest.approx((3 + 2 + 2) / 3, abs=1e-4)
    assert rows["ce_real", "ce_at_the_end"] == {
        "variant": "ce_real", "measure": "ce_at_the_end", "mean": 2.0, "std": 0.0, "seeds": 3,
    }  # fmt: skip
    assert rows["ce_real", "total_at_the_end"]["mean"] == 3.0
    assert rows["ce_real", "ce_held_out"]["mean"] == 1.0
    assert rows["pal", "ce_at_the_end"]["mean"] == pytest.approx(1.6) and rows["pal", "ce_at_the_end"]["std"] == 0.1


def test_differences_are_from_cross_entropy_alone_with_students_interval(logged):
    found = {(d["variant"], d["measure"]): d for d in comparisons.summarise_convergence(logged, 42)["differences"]}
    end = found["pal", "ce_at_the_end"]
    assert end["against"] == "ce_real" and end["difference"] == pytest.approx(-0.4)
    half = 4.302653 * 0.1 / 3**0.5
    assert (end["low"], end["high"]) == pytest.approx((-0.4 - half, -0.4 + half), abs=1e-4) and end["excludes_zero"]
    assert found[MAIN, "ce_at_the_end"]["difference"] == 1.0


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
    return comparisons.summarise_diversity(CONFIG, 42)


def of(records, variant, split="ood"):
    (record,) = (r for r in records if (r["variant"], r["split"]) == (variant, split))
    return record


def test_diversity_is_counted_over_all_seeds(records):
    assert {r["variant"] for r in records if r["degenerate"]} == {BASE}
    main, base = of(records, MAIN), of(records, BASE)
    assert (main["distinct"], main["vocabulary"], main["mean_length"]) == (100, 7, 4)
    assert main["lengths"] == [0, 0, 0, 0, 100] and main["most_frequent_share"] == 25
    assert base["lengths"] == [0, 0, 0, 75, 0, 0, 0, 25] and base["mean_length"] == 4
    assert base["distinct"] == 50 and base["most_frequent"] == "একটি বল ।"
    assert (base["captions"], base["seeds"]) == (4, len(CONFIG.seeds(42)))


def test_the_references_come_first_and_are_as_many_as_the_pictures(records):
    for split in ("test", "ood"):
        human = of(records, comparisons.REFERENCE, split)
        assert human is next(r for r in records if r["split"] == split)
        assert human["captions"] == 4 and 4 <= human["mean_length"] <= 5 and sum(human["lengths"]) == 100


def test_a_run_of_other_pictures_is_refused(records):
    write_runs(images=3)
    with pytest.raises(BncapError, match="3 captions of the 4 pictures"):
        comparisons.summarise_diversity(CONFIG, 42)


def test_the_accuracy_of_the_encoders_is_that_of_their_cards(artifacts_dir):
    config = get_config("mini")
    for part, kind in (("vit", 0.45), ("cnn", 0.675)):
        folder = paths.step_dir("mini", "00_mini_world", part, config.data.seed)
        finish(folder, {"figures.json": {"kind_real": kind, "kind_ood": kind / 3, "kind_synthetic": kind}})
    accuracy = comparisons.encoder_accuracy(config)
    assert accuracy["ViT + Bangla GPT-2"]["real"] == 45 and accuracy["CNN + LSTM"]["ood"] == 22.5
    assert len(accuracy) == 3 and hub.path(config, "mini:encoder")
