"""``results.json``, on runs with known scores."""

import json
import math

import pytest
from fake_runs import ALL, alignment, make_rest, make_runs, patch_evidence, varied

from bncap.config import get_config
from bncap.experiments import paper
from bncap.report.results import write_results


@pytest.fixture
def config(artifacts_dir, monkeypatch):
    patch_evidence(monkeypatch)
    return get_config("smoke")  # two seeds, 42 and 43


def written(config):
    return json.loads(write_results(config, 42).read_text("utf-8"))


def test_results_hold_every_number_of_every_run_with_its_signature(config):
    make_runs(config)
    make_rest(config)
    results = written(config)
    records = results["results"]
    known = {(r["variant"], r["seed"], r["split"], r["metric"]): r["value"] for r in records}
    assert len(known) == len(records) == len(ALL) * 2 * 2 * (6 + 2 + 1 + 4)
    assert known["cnn_lstm", 43, "test", "METEOR"] == pytest.approx(varied("cnn_lstm", 43, "test", "METEOR"), abs=1e-4)
    assert {"noun_recall", "most_frequent_share", "images"} <= {r["metric"] for r in records}
    assert all(r["signature"] == "lang:bn|test" for r in records)
    main = {"variant": "pal_infonce_ot", "split": "ood", "metric": "B4"}
    [entry] = [s for s in results["summary"] if main.items() <= s.items()]
    assert entry["paper"] == {"Table 1": 10.85, "Tables 2, 3": 12.29}
    values = [known["pal_infonce_ot", seed, "ood", "B4"] for seed in (42, 43)]
    assert entry["mean"] == pytest.approx(sum(values) / 2, abs=1e-4)
    assert entry["std"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2), abs=1e-4)
    assert results["alignment"]["by_seed"]["43"] == alignment(43)


def test_claims_are_judged_on_what_the_file_holds(config):
    make_runs(config)
    make_rest(config)
    results = written(config)
    assert results["claims"] == paper.check_claims(results)
    judged = {claim["id"]: claim["verdict"] for claim in results["claims"]}
    assert judged["vit_gpt2_B4"] == paper.FAILS  # the made-up scores rise with the place in the list of variants
    assert judged["full_B4"] == paper.HOLDS and judged["full_METEOR"] == paper.FAILS


def test_results_know_no_nan_and_go_without_an_alignment_that_was_not_run(config, monkeypatch):
    from bncap.report import results

    monkeypatch.setattr(results.comparisons, "encoder_accuracy", lambda config: {})
    make_runs(config, lambda v, s, split, metric: math.nan if metric == "noun_precision" else 1.0)
    text = write_results(config, 42).read_text("utf-8")
    assert "NaN" not in text and json.loads(text)["alignment"]["by_seed"] == {}
    assert {r["value"] for r in json.loads(text)["results"] if r["metric"] == "noun_precision"} == {None}
