"""The step behind Fig. 3: which patches are measured, in which state; and its numbers over seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from bncap import analysis
from bncap.config import BASE, MAIN, get_config
from bncap.errors import BncapError
from bncap.experiments import alignment
from bncap.pipeline import artifacts, paths
from bncap.settings import Loss

SEED = 5
PAIRS = 9


def make_step(folder, files):
    return artifacts.run_step(folder, settings={}, build=lambda target: files(target), quiet=True)


def write_features(folder):
    rng = np.random.default_rng(0)
    real = rng.normal(size=(PAIRS, 9, 12)).astype(np.float16)
    for name, values in {"train": real, "synthetic": real + np.float16(2)}.items():
        np.save(folder / f"{name}.npy", values)
        artifacts.write_csv(folder / f"{name}.csv", ["row", "id"], [(i, f"{name}{i}") for i in range(PAIRS)])


def write_triplets(folder, captions):
    header = ("caption_id", "image_id", "image", "synthetic", "en", "target")
    rows = [(f"synthetic{i}", i, f"train{i}", "x.png", "", captions[i % len(captions)]) for i in range(PAIRS)]
    artifacts.write_csv(folder / "triplets.csv", header, rows)


def write_runs(config, captioner):
    """Both runs start alike; the main one ends with a bridge that ignores the direction in which the domains differ."""
    for variant in ("ce_real", "pal_infonce_ot"):

        def files(folder, variant=variant):
            captioner.save_initial(folder / "initial", {})
            kept = captioner.bridge.projection.weight.detach().clone()
            with torch.no_grad():
                if variant == "pal_infonce_ot":
                    captioner.bridge.projection.weight -= kept.mean(1, keepdim=True)
                captioner.save(folder / "best", {})
                captioner.bridge.projection.weight.copy_(kept)

        make_step(paths.step_dir(config.profile, "04_training", f"{variant}.weights", SEED), files)


@pytest.fixture
def world(artifacts_dir, captioner, mbart_folder, sentences, monkeypatch):
    """Finished inputs of the step; UMAP, whose own test is elsewhere, gives way to the first two dimensions."""
    config = get_config("smoke", [f"experiment.umap_pairs={PAIRS}", f"components.decoder={mbart_folder}"])
    make_step(paths.step_dir("smoke", "02_synthesis", "features", 42), write_features)
    make_step(paths.step_dir("smoke", "02_synthesis", "images", 42), lambda f: write_triplets(f, sentences))
    write_runs(config, captioner)
    monkeypatch.setattr(analysis, "umap_2d", lambda points, seed: np.asarray(points)[:, :2])
    return config


def test_the_gap_closes_where_the_bridge_drops_the_direction_between_the_domains(world):
    found = artifacts.read_json(alignment.build_alignment(world, SEED) / "summary.json")
    # 12 channels shifted by 2 each; half precision rounds
    assert found["encoder/frozen/all/centroid_distance"] == pytest.approx(2 * 12**0.5, abs=2e-3)
    for name in ("all", "relevant", "background"):
        before, after = (found[f"pal_infonce_ot/{moment}/{name}/centroid_distance"] for moment in ("before", "after"))
        assert before > 0.5
        assert after < 0.01
        assert found[f"pal_infonce_ot/after/{name}/paired_cosine"] > 0.999
        assert found[f"ce_real/after/{name}/centroid_distance"] == found[f"ce_real/before/{name}/centroid_distance"]
    assert found["pal_infonce_ot/before/all/mmd_rbf"] == found["pal_infonce_ot/before/all/mmd_rbf_fixed"]


def test_points_hold_three_states_of_both_domains_with_one_choice_of_relevant_patches(world):
    folder = alignment.build_alignment(world, SEED)
    rows = artifacts.read_csv(folder / "points.csv")
    states = {(row["model"], row["moment"]) for row in rows}
    assert states == {("pal_infonce_ot", "before"), ("ce_real", "after"), ("pal_infonce_ot", "after")}
    assert len(rows) == 3 * 2 * PAIRS * alignment.PATCHES
    flags = np.array([row["relevant"] for row in rows]).reshape(6, -1)
    assert (flags == flags[0]).all()
    assert {"0", "1"} == set(flags[0])


def test_further_maps_show_the_same_patches_in_other_places_and_measure_nothing_else(world, monkeypatch):
    monkeypatch.setattr(alignment, "run_parallel", lambda function, jobs, label: [function(*job) for job in jobs])
    monkeypatch.setattr(analysis, "umap_2d", lambda points, seed: np.asarray(points)[:, :2] * (seed - SEED + 1))
    assert alignment.build_alignments(world, [SEED]) == [alignment.analysis_dir(world, SEED)]
    folders = [alignment.analysis_dir(world, SEED, umap_seed) for umap_seed in alignment.umap_seeds(world, SEED)]
    assert [folder.name for folder in folders] == ["analysis-s5", "map6-s5", "map7-s5"]
    tables = [artifacts.read_csv(folder / "points.csv") for folder in folders]
    for scale, table in enumerate(tables, start=1):
        assert [row["relevant"] for row in table] == [row["relevant"] for row in tables[0]]
        assert float(table[0]["x"]) == pytest.approx(scale * float(tables[0][0]["x"]), abs=1e-3)
    whole, second, _ = (artifacts.read_json(folder / "summary.json") for folder in folders)
    assert {name.rpartition("/")[2] for name in second} == {
        "umap_centroid_distance", "umap_centroid_distance_chance", "umap_mmd_rbf", "umap_mmd_rbf_chance",
    }  # fmt: skip
    name = "pal_infonce_ot/before/all/umap_centroid_distance"
    assert second[name] == pytest.approx(2 * whole[name], rel=1e-5)
    assert second[name.replace("centroid_distance", "mmd_rbf")] == pytest.approx(
        whole[name.replace("centroid_distance", "mmd_rbf")], abs=1e-6
    )


def test_runs_that_start_from_different_weights_are_refused(world, captioner):
    folder = paths.step_dir("smoke", "04_training", "ce_real.weights", SEED)
    (folder / "manifest.json").unlink()
    with torch.no_grad():
        captioner.bridge.projection.weight.mul_(-1)

    def files(target):
        captioner.save_initial(target / "initial", {})
        captioner.save(target / "best", {})

    make_step(folder, files)
    with pytest.raises(BncapError, match="different weights"):
        alignment.build_alignment(world, SEED)


def test_caption_weights_do_not_depend_on_the_captions_beside_them(captioner, sentences):
    features = torch.randn(5, 9, 12, generator=torch.Generator().manual_seed(0))
    together = alignment.caption_weights(captioner, features, list(sentences), Loss(), 32)
    alone = [
        alignment.caption_weights(captioner, features[i : i + 1], [s], Loss(), 32) for i, s in enumerate(sentences)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    everywhere = dataclasses.replace(Loss(), rho=1.0)
    assert alignment.caption_weights(captioner, features, list(sentences), everywhere, 32).gt(0).all()


def test_a_distance_relative_to_the_spread_does_not_change_with_scale():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(25, 4)) + 1
    small, large = (alignment.measure_distances(s * x, s * y, s * alignment.median_distance(x, y)) for s in (1, 10))
    assert large["centroid_distance"] == pytest.approx(10 * small["centroid_distance"])
    for name in ("relative_centroid_distance", "mmd_rbf", "mmd_rbf_fixed", "domain_mixing"):
        assert large[name] == pytest.approx(small[name])
    assert small["mmd_rbf"] == pytest.approx(small["mmd_rbf_fixed"])
    assert large["spread"] == pytest.approx(10 * small["spread"])
    assert small["relative_centroid_distance"] == pytest.approx(small["centroid_distance"] / small["spread"])


AFTER = {"all": (0.3, 0.2, 0.4), "relevant": (0.5, 0.4, 0.3), "background": (0.9, 1.2, 0.9)}
"""Centroid distance of the full objective after training, by set and seed; before training it is 1, after CE 0.8."""


def write_summary(folder, summary):
    make_step(folder, lambda target: artifacts.write_json(target / "summary.json", summary))


def summary_of(i: int) -> dict[str, float]:
    values = {"encoder/frozen/all/centroid_distance": 3.0}
    for part, distances in AFTER.items():
        for metric in ("centroid_distance", "spread"):
            values |= {f"{variant}/before/{part}/{metric}": 1.0 for variant in (BASE, MAIN)}
            values |= {f"{BASE}/after/{part}/{metric}": 0.8, f"{MAIN}/after/{part}/{metric}": distances[i]}
        values |= {f"{v}/{m}/{part}/centroid_distance_chance": 0.1 for v in (BASE, MAIN) for m in ("before", "after")}
    return values | drawn(2.0, 1.0 + 0.5 * i, 3.0 + i)


def drawn(before: float, ce: float, full: float) -> dict[str, float]:
    """Distances in two dimensions; the MMD is a tenth of that of the centroids."""
    places = {f"{BASE}/before": before, f"{MAIN}/before": before, f"{BASE}/after": ce, f"{MAIN}/after": full}
    return {
        f"{state}/{part}/{metric}": value * scale
        for state, value in places.items()
        for part in AFTER
        for metric, scale in (("umap_centroid_distance", 1), ("umap_mmd_rbf", 0.1))
    }


@pytest.fixture
def config(artifacts_dir):
    config = get_config("smoke", ["experiment.n_seeds=3"])
    for i, seed in enumerate(config.seeds(42)):
        write_summary(alignment.analysis_dir(config, seed), summary_of(i))
    write_summary(alignment.analysis_dir(config, 42, 43), drawn(2.0, 1.5, 2.9))
    write_summary(alignment.analysis_dir(config, 42, 44), drawn(2.5, 1.0, 3.5))
    return config


def one(records, **wanted):
    [found] = [record for record in records if wanted.items() <= record.items()]
    return found


def test_the_means_over_seeds_come_with_their_change_and_how_often_it_was_a_fall(config):
    found = alignment.summarise_alignment(config, 42)
    assert found["by_seed"]["43"] == summary_of(1)
    record = one(found["summary"], variant=MAIN, set="background", metric="centroid_distance")
    assert (record["before"], record["after"], record["change"], record["fell"]) == (1.0, 1.0, 0.0, 2)
    assert (record["change_low"], record["change_high"], record["seeds"]) == (-0.1, 0.2, 3)
    assert record["after_std"] == pytest.approx(np.std([0.9, 1.2, 0.9], ddof=1), abs=1e-4)


def test_the_intervals_of_the_differences_are_those_of_scipy_s_paired_t_test(config):
    found = alignment.summarise_alignment(config, 42)["differences"]
    for against, reference in (("before", 1.0), (BASE, 0.8)):
        record = one(found, variant=MAIN, against=against, set="relevant", metric="centroid_distance")
        oracle = scipy_stats.ttest_1samp(np.array(AFTER["relevant"]) - reference, 0).confidence_interval(0.95)
        assert record["difference"] == pytest.approx(0.4 - reference)
        assert (record["low"], record["high"]) == (
            pytest.approx(oracle.low, abs=1e-4),
            pytest.approx(oracle.high, abs=1e-4),
        )
        assert record["excludes_zero"] == (oracle.high < 0)
    assert not any(record["metric"].endswith("_chance") for record in found)
    assert next(r for r in found if (r["set"], r["against"]) == ("all", "before"))["variant"] == MAIN


def test_text_relevant_and_background_patches_are_compared_by_their_changes(config):
    record = one(alignment.summarise_alignment(config, 42)["differences"], set=alignment.SET_DIFFERENCE, variant=MAIN)
    changes = np.array(AFTER["relevant"]) - np.array(AFTER["background"])  # from 1, so relative too
    oracle = scipy_stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert (record["metric"], record["difference"]) == ("centroid_change", pytest.approx(changes.mean(), abs=1e-4))
    assert (record["low"], record["high"]) == (
        pytest.approx(oracle.low, abs=1e-4),
        pytest.approx(oracle.high, abs=1e-4),
    )


def test_the_span_over_umap_seeds_is_set_against_the_change_that_the_paper_reports(config):
    found = alignment.summarise_alignment(config, 42)
    changes = [
        r["change"]
        for r in found["umap_seeds"]
        if (r["variant"], r["set"], r["metric"]) == (BASE, "all", "umap_mmd_rbf")
    ]
    assert changes == [-0.5, -0.25, -0.6]
    record = one(found["umap_range"], variant=BASE, set="all", metric="umap_centroid_distance")
    assert (record["change_low"], record["change_high"], record["span"]) == (-0.6, -0.25, 0.35)
    assert record["span_of_paper"] == pytest.approx(0.35 / (1 - 0.213 / 0.361), abs=1e-4)
    assert (record["before_low"], record["before_high"], record["umap_seeds"]) == (2.0, 2.5, 3)


def test_one_seed_gives_no_interval_and_no_run_gives_no_record(config):
    found = alignment.summarise_alignment(get_config("smoke", ["experiment.n_seeds=1"]), 42)
    assert found["differences"] and all(r["low"] is None and not r["excludes_zero"] for r in found["differences"])
    assert not any(alignment.summarise_alignment(config, 1000).values())
