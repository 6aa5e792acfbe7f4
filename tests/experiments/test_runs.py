"""Which variants are trained where, and what their steps depend on."""

import pytest

from bncap.config import ALL_VARIANTS, BASELINES, VARIANTS, get_config
from bncap.encoders import features
from bncap.errors import BncapError
from bncap.experiments import runs
from bncap.pipeline import artifacts, paths


@pytest.fixture
def keys(monkeypatch, artifacts_dir):
    """Step folder -> what it depends on, for a profile with overrides; nothing is built."""

    def of(profile, *overrides, variant="ce_real"):
        found = {}

        def note(folder, *, settings, inputs, build, config, components=(), quiet=False):
            names = [path.relative_to(artifacts_dir) if path.is_relative_to(artifacts_dir) else path for path in inputs]
            depends = {"inputs": sorted(map(str, names)), "components": sorted(components)}
            found[folder.parent.name + "/" + folder.name] = settings | depends
            return folder

        with monkeypatch.context() as patch:
            patch.setattr(artifacts, "run_step", note)
            config = get_config(profile, overrides)
            features.build_features(config)
            runs.train_and_score(config, variant, 42)
        return found

    return of


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


FEATURES, WEIGHTS, SCORES = "02_synthesis/features-s42", "04_training/ce_real.weights-s42", "04_training/ce_real-s42"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=5", {WEIGHTS}),
        ("loss.tau=0.5", {WEIGHTS}),
        ("model.last_k=1", {WEIGHTS}),
        ("model.max_tokens=20", {WEIGHTS, SCORES}),
        ("components.decoder=facebook/mbart-large-50-one-to-many-mmt", {WEIGHTS}),
        ("components.bertscore=xlm-roberta-base", {SCORES}),
        ("components.bertscore_layer=8", {SCORES}),
        ("components.encoder=timm/maxvit_tiny_tf_224.in1k", {FEATURES, WEIGHTS}),
        ("features.batch=3", {FEATURES}),
        ("decode.beams=2", {SCORES}),
        ("decode.batch=7", {SCORES}),
        ("experiment.n_seeds=4", set()),
        ("data.triplets=7", set()),  # reaches them through the bytes of 02_synthesis/images
    ],
)
def test_a_setting_reaches_the_steps_whose_bytes_depend_on_it_and_no_other(keys, override, expected):
    assert changed(keys("paper"), keys("paper", override)) == expected


def test_the_gpt2_baseline_depends_on_its_own_decoder(keys):
    before = keys("paper", variant="vit_gpt2")
    assert changed(before, keys("paper", "components.gpt2=other/gpt2", variant="vit_gpt2")) == {
        "05_baselines/vit_gpt2.weights-s42"
    }
    assert not changed(before, keys("paper", "components.decoder=other/mbart", variant="vit_gpt2"))


def test_mini_steps_depend_on_the_pictures_and_every_step_on_the_component_that_it_loads(keys):
    found = keys("mini")
    assert "mini/00_mini_world/world-s42" in found[FEATURES]["inputs"]
    assert "mini/00_mini_world/world-s42" in found[SCORES]["inputs"]
    loaded = {step: found[step]["components"] for step in (FEATURES, WEIGHTS, SCORES)}
    assert loaded == {FEATURES: ["mini:encoder"], WEIGHTS: ["mini:decoder"], SCORES: ["mini:bertscore"]}


def test_without_a_synthetic_picture_only_cross_entropy_is_trained(artifacts_dir):
    config = get_config("own", ["data.captions=mine.csv"])
    folder = paths.step_dir("own", "02_synthesis", "images", 42)
    for paired, expected in ((0, ["ce_real"]), (3, ["ce_real", "pal_infonce_ot"])):
        build = lambda where, paired=paired: artifacts.write_json(where / "counts.json", {"paired": paired})  # noqa: E731
        artifacts.run_step(folder, settings={"paired": paired}, build=build, quiet=True)
        assert list(runs.trainable(config)) == expected


def test_the_slowest_runs_begin_first_and_are_told_in_the_order_of_the_variants(artifacts_dir, monkeypatch, capsys):
    config = get_config("smoke")
    begun = []

    def note(function, arguments, jobs, label):
        begun.extend(f"{name}-s{seed}" for _, name, seed in arguments)
        folders = [runs.run_dir(config, name, seed) for _, name, seed in arguments]
        for folder in folders:
            artifacts.write_json(folder / artifacts.MANIFEST, {"seconds": 1})
        return folders

    monkeypatch.setattr(runs.workers, "run_parallel", note)
    made = runs.run_variants(config, BASELINES, [1, 2])
    assert begun == ["cnn_lstm-s1", "cnn_lstm-s2", "vit_gpt2-s1", "vit_gpt2-s2"]
    names = [f"{name}-s{seed}" for seed in (1, 2) for name in BASELINES]
    assert [folder.name for folder in made.values()] == [f"{n}-s{s}" for n, s in made] == names
    assert capsys.readouterr().out.split()[::3] == [f"{runs.BASELINE}/{name}:" for name in names]


def test_every_variant_is_trained_by_one_notebook_and_a_new_one_is_a_row_of_table_3():
    trained = [name for variants in runs.TRAINED_BY.values() for name in variants]
    assert sorted(trained) == sorted(ALL_VARIANTS)
    assert runs.TABLES["table3_ablations"].variants == tuple(VARIANTS)
    assert {runs.step_of(name) for name in VARIANTS} == {runs.TRAINING, runs.ABLATION}
    with pytest.raises(BncapError, match="unknown variant 'pal_ot'"):
        runs.step_of("pal_ot")
