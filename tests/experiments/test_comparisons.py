"""Differences of runs against plain loops; training losses and diversity of captions with known counts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from fake_runs import SPLITS, finish, items_of, make_runs, scores_of, varied

from bncap import metrics
from bncap.config import BASE, BASELINES, MAIN, VARIANTS, get_config
from bncap.data.pairs import Pair
from bncap.errors import BncapError
from bncap.experiments import comparisons, evaluate
from bncap.experiments.comparisons import METRICS
from bncap.experiments.runs import run_dir, weights_dir
from bncap.pipeline import hub, paths


@pytest.fixture
def config(artifacts_dir):
    return get_config("smoke")  # two seeds, 42 and 43


def noisy_runs(config, gains: dict[str, float], images: int = 60, changed: str = "") -> None:
    """Runs whose captions differ by image, by seed and by ``gains``; ``changed`` has an image of its own."""
    easy = np.random.default_rng(0).normal(size=images)
    for variant, gain in gains.items():
        for seed in config.seeds(42):
            rng = np.random.default_rng([seed, len(variant)])
            scored, nouns = captions(rng, easy, gain)
            names = [f"{i:03d}.jpg" for i in range(images)]
            if variant == changed:
                names[-1] = "other.jpg"
            rows = [
                (name, *bleu, f"{meteor:.8f}", f"{f1:.8f}", *counts)
                for name, bleu, meteor, f1, counts in zip(names, *scored.values(), nouns, strict=True)
            ]
            values = metrics.of_corpus(scored) | {"images": images, "signature": "lang:bn|test"}
            named, right, there = nouns.sum(axis=0).tolist()
            values |= {"noun_precision": 100 * right / named, "noun_recall": 100 * right / there}
            files = {f"items_{split}.csv": [evaluate.SCORE_COLUMNS, *rows] for split in SPLITS}
            finish(run_dir(config, variant, seed), {"scores.json": dict.fromkeys(SPLITS, values), **files})


def captions(rng: np.random.Generator, easy: np.ndarray, gain: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores as of ``metrics.per_caption`` and noun counts (N, 3) of captions that ``gain`` makes better."""
    length = rng.integers(6, 12, size=len(easy))
    total = length[:, None] - np.arange(4)
    better = 1 / (1 + np.exp(-(easy + gain)))
    matched = rng.binomial(total, np.clip(better[:, None] * [0.9, 0.7, 0.5, 0.35], 0, 1))
    bleu = np.column_stack([length, length + rng.integers(-1, 2, size=len(easy)), matched, total])
    scored = {"bleu": bleu, "METEOR": 40 + 10 * (easy + gain) + 5 * rng.normal(size=len(easy))}
    named = rng.integers(1, 4, size=len(easy))
    scored["BERT-F1"] = 60 + gain + 3 * easy + rng.normal(size=len(easy))
    return scored, np.column_stack([named, rng.binomial(named, better), np.full(len(easy), 3)])


def by_metric(records) -> dict[str, dict]:
    return {record["metric"]: record for record in records}


def test_a_record_has_the_means_of_the_tables_and_their_difference_rounded_once(config):
    make_runs(config)
    found = by_metric(comparisons.compare_pairs(config, 42, [("pal", "ce_real", "ood")]))
    assert tuple(found) == METRICS
    for metric in METRICS[:-1]:
        mine, base = (
            np.mean([comparisons.read_scores(config, name, seed)["ood"][metric] for seed in (42, 43)])
            for name in ("pal", "ce_real")
        )
        record = found[metric]
        assert set(record) == set(comparisons.COLUMNS)
        assert (record["first"], record["second"]) == (pytest.approx(mine, abs=6e-5), pytest.approx(base, abs=6e-5))
        assert record["difference"] == round(record["first"] - record["second"], 4)
        assert (record["images"], record["seeds"], record["level"]) == (16, 2, 0.95)
        assert record["low"] <= record["difference"] + 1e-3 and record["high"] >= record["difference"] - 1e-3
    assert found["B4"]["excludes_zero"] and found["B4"]["low"] > 0 and found["METEOR"]["high"] < 0


def test_intervals_are_those_of_a_plain_loop_over_samples_of_images_and_seeds(config):
    noisy_runs(config, {"pal": 0.3, "ce_real": 0.0})
    found = by_metric(comparisons.compare_pairs(config, 42, [("pal", "ce_real", "ood")]))
    rng, samples = np.random.default_rng(9), {metric: [] for metric in ("B4", "METEOR", "noun_recall")}
    runs = {
        name: [evaluate.read_caption_scores(run_dir(config, name, s), "ood").values for s in (42, 43)]
        for name in ("pal", "ce_real")
    }
    for _ in range(1500):
        images, seeds = rng.integers(60, size=60), rng.integers(2, size=2)
        scores = {}
        for name, by_seed in runs.items():
            drawn = [{column: by_seed[seed][column][images] for column in evaluate.SCORE_COLUMNS[1:]} for seed in seeds]
            sums = [[d[column].sum() for column in evaluate.BLEU_COLUMNS] for d in drawn]
            recall = [100 * d["nouns_right"].sum() / d["nouns_there"].sum() for d in drawn]
            scores[name] = {
                "B4": np.mean([metrics.bleu_from_statistics(np.array(s, dtype=int))["B4"] for s in sums]),
                "METEOR": np.mean([d["METEOR"].mean() for d in drawn]),
                "noun_recall": np.mean(recall),
            }
        for metric, differences in samples.items():
            differences.append(scores["pal"][metric] - scores["ce_real"][metric])
    for metric, differences in samples.items():
        low, high = np.quantile(differences, [0.025, 0.975])
        spread = np.std(differences)
        assert found[metric]["low"] == pytest.approx(low, abs=0.3 * spread), metric
        assert found[metric]["high"] == pytest.approx(high, abs=0.3 * spread), metric


def test_the_same_pair_has_the_same_interval_wherever_it_is_asked_for(config):
    make_runs(config)
    [alone] = [r for r in comparisons.compare_pairs(config, 42, [("pal", "ce_real", "ood")]) if r["metric"] == "B4"]
    for records in (
        comparisons.compare_table(config, 42, "table3_ablations"),
        comparisons.compare_with_base(config, 42),
    ):
        [there] = [r for r in records if alone.items() <= r.items()]
        assert there["low"] == alone["low"]
    noisy_runs(config, {"pal": 0.3, "ce_real": 0.0})
    one, other = (
        comparisons.compare_pairs(config, 42, [("pal", "ce_real", "ood")], purpose) for purpose in ("scores", "x")
    )
    assert [r["difference"] for r in one] == [r["difference"] for r in other] and one != other


def test_a_table_compares_each_row_with_cross_entropy_and_with_the_row_above_in_the_same_split(config):
    make_runs(config)
    pairs = {}
    for name in ("table1_baselines", "table2_main", "table3_ablations", "table4_sensitivity"):
        records = comparisons.compare_table(config, 42, name)
        assert all(set(r) == set(comparisons.TABLE_COLUMNS) and r["table"] == name for r in records)
        pairs[name] = [(r["variant"], r["relation"], r["against"], r["split"]) for r in records if r["metric"] == "B4"]
        assert len(records) == len(METRICS) * len(pairs[name])
    assert pairs["table1_baselines"] == [
        ("pal_infonce_ot", "base", "ce_real", "ood"),
        ("vit_gpt2", "base", "ce_real", "ood"), ("vit_gpt2", "above", "pal_infonce_ot", "ood"),
        ("cnn_lstm", "base", "ce_real", "ood"), ("cnn_lstm", "above", "vit_gpt2", "ood"),
    ]  # fmt: skip
    assert pairs["table2_main"] == [("pal_infonce_ot", "base", "ce_real", split) for split in SPLITS]
    assert len(pairs["table3_ablations"]) == 2 * (len(VARIANTS) - 1)
    assert pairs["table3_ablations"][:2] == [
        ("ce_real_matched", "base", "ce_real", "ood"), ("ce_real_matched", "above", "ce_real", "ood"),
    ]  # fmt: skip
    assert {against for _, relation, against, _ in pairs["table4_sensitivity"] if relation == "base"} == {
        "ce_real_part"
    }
    assert len(pairs["table4_sensitivity"]) == 4 + 3


def test_what_is_written_reads_back_with_none_for_what_is_not_known(config):
    make_runs(config, lambda v, s, split, m: math.nan if m == "noun_precision" else varied(v, s, split, m))
    records = comparisons.compare_table(config, 42, "table1_baselines")
    assert "noun_precision" not in {r["metric"] for r in records}
    records[0] |= {"difference": None, "low": None, "high": None}
    path = comparisons.write_differences(config, "table1_baselines", records)
    assert path.read_text("utf-8").splitlines()[0].split(",") == list(comparisons.TABLE_COLUMNS)
    assert comparisons.read_differences(config, "table1_baselines") == records
    with pytest.raises(BncapError, match="table2_main_differences.csv is missing"):
        comparisons.read_differences(config, "table2_main")


def test_a_score_that_one_seed_does_not_have_is_not_known(config):
    """No noun is named in any caption of one seed of one system."""
    make_runs(config)
    folder, nameless = run_dir(config, "pal", 43), scores_of("pal", 43, "ood", varied, 10.0, nouns=True)
    rows = items_of(nameless)
    rows[1:] = [(*row[:-3], 0, 0, 3) for row in rows[1:]]
    saved = {"test": scores_of("pal", 43, "test", varied, 10.0, nouns=True), "ood": nameless | {"noun_precision": None}}
    finish(folder, {"scores.json": saved, "items_ood.csv": rows, "items_test.csv": items_of(saved["test"])})
    found = by_metric(comparisons.compare_pairs(config, 42, [("pal", "ce_real", "ood")]))["noun_precision"]
    unknown = {name: found[name] for name in ("first", "difference", "low", "high")}
    assert unknown == dict.fromkeys(unknown) and found["second"] > 0 and not found["excludes_zero"]


def test_runs_on_other_images_are_not_compared(config):
    noisy_runs(config, {"pal": 0.5, "ce_real": 0.0}, changed="pal")
    with pytest.raises(BncapError, match=r"pal and ce_real were scored on other images of split ood \(059.jpg\)"):
        comparisons.compare_pairs(config, 42, [("pal", "ce_real", "ood")])


def test_a_missing_run_is_an_error_with_the_command_that_makes_it(config):
    make_runs(config, variants=["pal"])
    with pytest.raises(BncapError, match=r"ce_real-s42 .*--only 04"):
        comparisons.compare_pairs(config, 42, [("pal", "ce_real", "ood")])


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
