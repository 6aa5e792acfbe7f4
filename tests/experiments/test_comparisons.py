"""Differences of runs against known answers, plain loops and SciPy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fake_runs import SPLITS, finish, items_of, make_runs, scores_of, varied

from bncap import metrics
from bncap.config import BASELINES, VARIANTS, get_config
from bncap.errors import BncapError
from bncap.experiments import comparisons, evaluate
from bncap.experiments.comparisons import METRICS
from bncap.experiments.runs import run_dir


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


def test_a_run_against_itself_differs_by_nothing_and_exchanging_both_changes_the_sign(config):
    noisy_runs(config, {"pal": 0.5, "ce_real": 0.0})
    for record in comparisons.compare_pairs(config, 42, [("pal", "pal", "ood")]):
        assert (record["difference"], record["low"], record["high"], record["excludes_zero"]) == (0, 0, 0, False)
    once, back = (
        comparisons.compare_pairs(config, 42, [(*pair, "ood")]) for pair in (("pal", "ce_real"), ("ce_real", "pal"))
    )
    for a, b in zip(once, back, strict=True):
        assert (b["difference"], b["low"], b["high"]) == pytest.approx((-a["difference"], -a["high"], -a["low"]))


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


def test_every_variant_and_baseline_is_set_against_cross_entropy_on_both_splits(config):
    make_runs(config)
    records = comparisons.compare_with_base(config, 42)
    pairs = {(r["variant"], r["split"]) for r in records}
    assert pairs == {(v, s) for v in (*VARIANTS, *BASELINES) if v != "ce_real" for s in SPLITS}
    assert {r["against"] for r in records} == {"ce_real"}


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
