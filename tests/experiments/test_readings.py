"""The readings of notebook 11: what is trained, what is measured of a run, and what is said of the numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from bncap.config import ALL_VARIANTS, MAIN, READINGS, get_config
from bncap.encoders.features import FeatureStore
from bncap.experiments import alignment, readings
from bncap.experiments.runs import weights_dir
from bncap.pipeline import artifacts, paths
from bncap.settings import override

SEED = 5
PAIRS, PATCHES, CHANNELS = 12, 9, 12
STEPS = [(1, 1, 9.0, 9.0, ""), (2, 2, 3.0, 1.0, ""), (3, 2, 3.0, 2.0, "")]
"""step, epoch, ce, pal, and no InfoNCE."""


def make_step(folder, build):
    return artifacts.run_step(folder, settings={}, build=build, quiet=True)


def write_pairs(folder, captions, pictures):
    header = ("caption_id", "image_id", "image", "synthetic", "en", "target")
    rows = [(f"s{i}", i, f"p{i % pictures}", "x.png", "", captions[i % len(captions)]) for i in range(PAIRS)]
    artifacts.write_csv(folder / "triplets.csv", header, rows)


def write_features(folder, shift):
    real = np.random.default_rng(0).normal(size=(PAIRS, PATCHES, CHANNELS)).astype(np.float16)
    for name, prefix, values in (("train", "p", real), ("synthetic", "s", real + np.float16(shift))):
        np.save(folder / f"{name}.npy", values)
        artifacts.write_csv(folder / f"{name}.csv", ["row", "id"], [(i, f"{prefix}{i}") for i in range(PAIRS)])


@pytest.fixture
def world(artifacts_dir, captioner, mbart_folder, sentences):
    """``world(variants)``: a configuration whose finished runs of MAIN and ``variants`` all are the same captioner."""

    pristine = copy.deepcopy(captioner)

    def make(*variants, shift=2.0, pictures=PAIRS, overrides=()):
        sizes = (f"experiment.umap_pairs={PAIRS}", f"components.decoder={mbart_folder}", "train.batch=6")
        config = get_config("smoke", [*sizes, *overrides])
        make_step(paths.step_dir("smoke", "02_synthesis", "features", 42), lambda f: write_features(f, shift))
        make_step(paths.step_dir("smoke", "02_synthesis", "images", 42), lambda f: write_pairs(f, sentences, pictures))
        with torch.no_grad():
            for layer in captioner.layers:
                layer.encoder_attn.q_proj.weight.mul_(10)  # attends to some patches more than to others
        for variant in (MAIN, *variants):

            def files(folder, variant=variant):
                captioner.fields["last_k"] = override(config, ALL_VARIANTS[variant].overrides).model.last_k
                pristine.save_initial(folder / "initial", {})
                captioner.save(folder / "best", {})
                artifacts.write_csv(folder / "steps.csv", ("step", "epoch", "ce", "pal", "infonce", "ot"),
                                    [(*row, "") for row in STEPS])  # fmt: skip

            make_step(weights_dir(config, variant, SEED), files)
        return config

    return make


def test_a_reading_is_compared_with_what_it_is_an_alternative_to():
    assert readings.references_of("rho_by_count") == (MAIN,)
    assert readings.references_of("pal_syn") == ("pal", "ce_real_syn")
    assert {other for name in READINGS for other in readings.references_of(name)} <= {
        MAIN, "ce_infonce", "ce_infonce_ot", "pal", "pal_infonce", "ce_real_syn",
    }  # fmt: skip


@pytest.mark.parametrize(("last_k", "equal"), [(2, False), (3, True), (0, True)])
def test_all_layers_are_the_default_where_the_decoder_has_no_more(world, last_k, equal):
    config = world(overrides=[f"model.last_k={last_k}"])  # of 3 layers
    assert ("all_layers" in readings.find_equal_readings(config)) == equal


@pytest.mark.parametrize(
    ("pictures", "batch", "equal"), [(12, 12, True), (6, 6, True), (6, 12, False), (4, 4, True), (4, 6, False)]
)
def test_negatives_of_one_picture_are_the_default_where_no_batch_holds_any(world, pictures, batch, equal):
    from bncap.batches import bucketed

    config = world(pictures=pictures, overrides=[f"train.batch={batch}"])
    found = readings.find_equal_readings(config)
    assert ("false_negatives" in found) == equal
    images = np.arange(PAIRS) % pictures
    for seed in range(20):
        batches = bucketed(np.full(PAIRS, 7), images, batch, np.random.default_rng(seed))
        assert all(len(set(images[rows])) == len(rows) for rows in batches) == equal


def test_the_pairs_and_patches_are_those_that_notebook_08_draws(world):
    config = world("ce_real", overrides=["experiment.umap_pairs=7"])
    states, sample = alignment._describe(config, SEED)
    drawn = alignment.sample_patches(config, SEED)
    assert torch.equal(drawn.places, sample.places)
    encoder = states[alignment.ENCODER, "frozen"]  # real, synthetic
    real, synthetic = drawn.features(FeatureStore(paths.step_dir("smoke", "02_synthesis", "features", 42)))
    assert len(real) == 7
    assert torch.equal(real.float(), encoder[0]) and torch.equal(synthetic.float(), encoder[1])


def measured(config, *variants):
    readings.build_measures(config, variants, SEED)
    return readings._read_measures(config, SEED)


def test_the_same_weights_have_the_same_gap_under_every_reading_and_differ_in_what_is_their_own(world):
    others = "rho_by_count", "last_layer", "tau_on_probabilities"
    found = measured(world(*others), *others)
    names = [name for variant, name in found if variant == MAIN]
    shared = [name for name in names if name.partition("/")[0] in ("default", "relevant", "all")]
    assert {"default/pal", "default/infonce", "default/ot", "relevant/mmd_rbf"} <= set(shared)
    for variant in others:
        for name in shared:
            assert found[variant, name] == pytest.approx(found[MAIN, name], abs=2e-8), name
        assert found[variant, "own/pal"] != pytest.approx(found[MAIN, "own/pal"], abs=1e-6)
    assert found[MAIN, "own/ot"] == found[MAIN, "default/ot"]
    assert found["rho_by_count", "kept_patches"] == 5  # half of 9, rounded up
    assert found["last_layer", "attended_patches"] != found[MAIN, "attended_patches"]
    assert found["initial", "all/mmd_rbf"] == pytest.approx(found[MAIN, "all/mmd_rbf"], abs=2e-8)


def test_the_log_counts_by_its_last_epoch_and_a_term_that_it_lacks_is_left_out(world):
    found = measured(world())
    assert found[MAIN, "logged/pal"] == 1.5
    assert (MAIN, "logged/infonce") not in found


def test_even_attention_is_over_all_patches_and_pairs_without_a_gap_cost_ot_its_floor_alone(world, captioner):
    with torch.no_grad():
        for layer in captioner.layers:
            layer.encoder_attn.q_proj.weight.zero_()
            layer.encoder_attn.q_proj.bias.zero_()
    found = measured(world(shift=0.0))
    assert found[MAIN, "attended_patches"] == pytest.approx(PATCHES, rel=1e-6)
    assert found[MAIN, "kept_patches"] == 5
    assert found[MAIN, "ot_floor_share"] == pytest.approx(100, abs=1e-3)
    assert found[MAIN, "own/pal"] == pytest.approx(0, abs=1e-6)
    assert found[MAIN, "all/centroid_distance"] == pytest.approx(0, abs=1e-7)


# ---- what is made of the measures


GAP = readings.GAP
BASE_VALUES = {"logged/pal": 0.2, "logged/ot": 0.3, "default/pal": 0.2, "default/ot": 0.3, GAP: 0.01,
               "relevant/relative_centroid_distance": 0.1, "attended_patches": 40.0, "kept_patches": 13.0,
               "ot_floor_share": 8.0}  # fmt: skip


@pytest.fixture
def content(world, monkeypatch):
    """``content(shifts)``: :func:`readings.measure` of runs that differ from the default by (variant, measure)."""

    def make(shifts, scores=0.0, seeds=5):
        config = world(overrides=[f"experiment.n_seeds={seeds}", "model.last_k=3"])
        compared = {other for name in READINGS for other in readings.references_of(name)}

        def read(config, seed):
            noise = 1 + 0.001 * (seed % 3)
            found = {
                ("initial", measure): value
                for measure, value in ((GAP, 0.02), ("relevant/relative_centroid_distance", 0.3))
            }
            for variant in {*compared, *READINGS}:
                for measure, value in BASE_VALUES.items():
                    found[variant, measure] = value * noise + shifts.get((variant, measure), 0.0) * (
                        1 + 0.01 * (seed % 2)
                    )
            return found

        def compare_pairs(config, first_seed, pairs):
            keys = {"metric": "B4", "first": 20.0 + scores, "second": 20.0, "difference": scores, "low": scores - 1}
            keys |= {"high": scores + 1, "level": 0.95, "images": 9, "seeds": seeds, "excludes_zero": abs(scores) > 1}
            return [{"variant": v, "against": a, "split": s, **keys} for v, a, s in pairs]

        monkeypatch.setattr(readings, "_read_measures", read)
        monkeypatch.setattr(readings.comparisons, "compare_pairs", compare_pairs)
        return config, readings.summarise_readings(config, SEED)

    return make


SHIFTS = {
    ("weight_gradient", "logged/pal"): -0.05, ("weight_gradient", GAP): 0.004,  # flagged
    ("rho_by_count", "logged/pal"): -0.05, ("rho_by_count", GAP): -0.004,  # the gap falls as well
    ("language_token", "logged/pal"): 0.05, ("language_token", GAP): 0.004,  # the loss grows as well
    ("last_layer", "default/pal"): -0.05, ("last_layer", GAP): 0.004,  # not the reading's own loss
}  # fmt: skip


def test_a_reading_is_flagged_where_its_own_loss_ends_lower_and_the_gap_larger(content):
    _, found = content(SHIFTS)
    [flag] = found["flags"]
    assert (flag["variant"], flag["against"]) == ("weight_gradient", MAIN)
    assert [term["measure"] for term in flag["terms"]] == ["logged/pal"]
    assert flag["gap"]["difference"] == pytest.approx(0.004, rel=0.02)


def test_a_flag_tells_a_loss_that_the_default_reads_lower_too_and_a_gap_that_has_grown(content):
    """Before training the gap is 0.02; the default's ends at 0.01."""
    lower = {(v, "logged/pal"): -0.05 for v in ("weight_gradient", "rho_by_count", "last_layer")}
    gaps = {("weight_gradient", GAP): 0.004, ("rho_by_count", GAP): 0.015, ("last_layer", GAP): 0.004}
    read_so = {("weight_gradient", "default/pal"): -0.03, ("rho_by_count", "default/pal"): 0.03}
    _, found = content(lower | gaps | read_so)
    flags = {flag["variant"]: flag for flag in found["flags"]}
    assert {name: flag["above_before"] for name, flag in flags.items()} == {
        "rho_by_count": True, "last_layer": False, "weight_gradient": False,
    }  # fmt: skip
    terms = {name: flag["terms"][0] for name, flag in flags.items()}
    assert {name: term["in_both"] for name, term in terms.items()} == {
        "rho_by_count": False, "last_layer": False, "weight_gradient": True,
    }  # fmt: skip
    assert terms["weight_gradient"]["default"]["measure"] == "default/pal"


def test_one_seed_flags_nothing_and_says_no_interval(content):
    _, found = content(SHIFTS, scores=0.5, seeds=1)
    assert not found["flags"] and all(record["low"] is None for record in found["measures"])
