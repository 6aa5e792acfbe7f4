"""How training went, from logs that a test writes."""

import pytest
from fake_runs import finish

from bncap.config import MAIN, get_config
from bncap.experiments import convergence
from bncap.experiments.runs import run_dir, weights_of
from bncap.pipeline import paths

LOSSES = {"ce_real": 2.0, "pal": 1.5, MAIN: 3.0}


@pytest.fixture
def config(artifacts_dir):
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
            finish(weights_of(config, variant, seed), files)
    return config


def test_the_weights_lie_beside_the_scores_of_the_same_run(config):
    scores, weights = run_dir(config, "pal", 43), weights_of(config, "pal", 43)
    assert weights == paths.step_dir("smoke", "06_ablations", "pal.weights", 43) and weights.parent == scores.parent


def test_means_run_over_all_steps_the_last_epoch_and_the_best_held_out_one(config):
    rows = {(r["variant"], r["measure"]): r for r in convergence.summarise(config, 42)["rows"]}
    assert len(rows) == len(convergence.VARIANTS) * len(convergence.MEASURES)
    assert rows["ce_real", "ce_on_the_way"]["mean"] == pytest.approx((3 + 2 + 2) / 3, abs=1e-4)
    assert rows["ce_real", "ce_at_the_end"] == {
        "variant": "ce_real", "measure": "ce_at_the_end", "mean": 2.0, "std": 0.0, "seeds": 3,
    }  # fmt: skip
    assert rows["ce_real", "total_at_the_end"]["mean"] == 3.0
    assert rows["ce_real", "ce_held_out"]["mean"] == 1.0
    assert rows["pal", "ce_at_the_end"]["mean"] == pytest.approx(1.6) and rows["pal", "ce_at_the_end"]["std"] == 0.1


def test_differences_are_from_cross_entropy_alone_with_students_interval(config):
    found = {(d["variant"], d["measure"]): d for d in convergence.summarise(config, 42)["differences"]}
    end = found["pal", "ce_at_the_end"]
    assert end["against"] == "ce_real" and end["difference"] == pytest.approx(-0.4)
    half = 4.302653 * 0.1 / 3**0.5
    assert (end["low"], end["high"]) == pytest.approx((-0.4 - half, -0.4 + half), abs=1e-4) and end["excludes_zero"]
    assert found[MAIN, "ce_at_the_end"]["difference"] == 1.0


def test_one_seed_has_no_interval(config):
    one = get_config("smoke", ["experiment.n_seeds=1"])
    for d in convergence.summarise(one, 42)["differences"]:
        assert d["low"] is None and d["high"] is None and not d["excludes_zero"]
