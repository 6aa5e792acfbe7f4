"""The miniature's encoders: the shipped checkpoint, its way through timm, and the proxy that it was trained on."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from bncap.errors import BncapError
from bncap.mini.scene import BACKGROUNDS, COLOURS, KINDS, Object, Scene
from bncap.small_models import encoder
from bncap.small_models.encoder import CHECKPOINT, IGNORED_LABEL, RECIPES, PaintedScenes, cell_labels, evaluate


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def few_scenes(monkeypatch):
    for arch in ("bncap_vit_mini", "bncap_cnn_mini"):
        monkeypatch.setitem(RECIPES, arch, replace(RECIPES[arch], scenes=40))


@pytest.mark.parametrize(
    ("style", "least"),
    [
        ("real", {"kind": 0.96, "colour": 0.97, "background": 0.98}),
        ("synthetic", {"kind": 0.96, "colour": 0.97, "background": 0.98}),
        ("ood", {"kind": 0.83, "colour": 0.83, "background": 0.77}),
    ],
)
def test_the_shipped_checkpoint_recognises_kinds_and_colours_in_fresh_scenes(style, least):
    accuracy = evaluate(CHECKPOINT, style, n=150, seed=977)
    assert all(accuracy[name] >= value for name, value in least.items()), accuracy


def test_the_shipped_checkpoint_is_small_and_is_the_one_that_its_card_describes():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 3_000_000
    card = json.loads((CHECKPOINT / "card.json").read_text())
    assert hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest() == card["sha256"]
    assert card["images"] == card["steps"] * RECIPES["bncap_maxvit_mini"].batch


@pytest.mark.parametrize("arch", RECIPES)
def test_every_encoder_is_a_timm_model_with_49_patches_of_width_128(arch):
    features = timm.create_model(arch, features_only=True, out_indices=(-1,)).eval()
    assert features.feature_info.channels() == [128]
    assert features(torch.zeros(2, 3, 112, 112))[-1].shape == (2, 128, 7, 7)


def test_the_features_of_timm_are_the_map_that_the_proxy_heads_read():
    picture = torch.from_numpy(PaintedScenes(1, 3)[0][0])[None]
    whole = timm.create_model(f"local-dir:{CHECKPOINT}", pretrained=True).eval()
    features = timm.create_model(
        f"local-dir:{CHECKPOINT}", pretrained=True, features_only=True, out_indices=(-1,)
    ).eval()
    data = timm.data.resolve_model_data_config(whole)
    mean, std = (torch.tensor(data[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = encoder.last_map(whole, picture)
        torch.testing.assert_close(features((picture / 255 - mean) / std)[-1], expected, rtol=1e-4, atol=1e-4)


def test_a_half_empty_checkpoint_is_an_error_that_names_the_folder_and_the_remedy(tmp_path):
    broken = tmp_path / "maxvit_mini"
    shutil.copytree(CHECKPOINT, broken)
    weights = load_file(broken / "model.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[::2]}, broken / "model.safetensors")
    with pytest.raises(BncapError, match="maxvit_mini: not a whole checkpoint .*python -m bncap.small_models.encoder"):
        evaluate(broken, "real", n=2, seed=0)
    (broken / "model.safetensors").write_bytes((CHECKPOINT / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(BncapError, match="not a whole checkpoint"):
        evaluate(broken, "real", n=2, seed=0)
    (broken / "config.json").unlink()
    with pytest.raises(BncapError, match="not a whole checkpoint"):
        evaluate(broken, "real", n=2, seed=0)


def test_cells_are_labelled_by_the_box_that_covers_most_of_them():
    scene = Scene((Object("cat", "red", "large", 39, 39), Object("key", "blue", "small", 87, 95)), "sand")
    kinds, colours = cell_labels(scene)  # boxes 16..62 and 72..102 x 80..110
    cat, key, ground = KINDS.index("cat"), KINDS.index("key"), len(KINDS)
    assert (kinds[1:4, 1:4] == cat).all() and (kinds == cat).sum() == 9
    assert (kinds[5:7, 5] == key).all() and (colours[5:7, 5] == COLOURS.index("blue")).all()
    assert (kinds[0] == ground).all() and (colours[0] == IGNORED_LABEL).all()
    assert kinds[5, 6] == IGNORED_LABEL  # 6 px of 16: neither the key's nor the ground's


def test_the_proxy_shows_photographs_and_drawings_of_the_training_domain_and_nothing_else(monkeypatch):
    shown = []
    monkeypatch.setattr(
        encoder, "paint", lambda scene, style, seed: shown.append((scene, style)) or np.zeros((112, 112, 3))
    )
    scenes = PaintedScenes(200, seed=8)
    for index in range(len(scenes)):
        scenes[index]
    assert {style for _, style in shown} == {"real", "synthetic"}
    assert {scene.background for scene, _ in shown} == set(BACKGROUNDS)


@pytest.mark.parametrize("arch", ["bncap_vit_mini", "bncap_cnn_mini"])
def test_pretraining_with_the_same_seed_gives_the_same_bytes_and_leaves_the_random_state_alone(
    tmp_path, few_scenes, arch
):
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(digests))
        before = torch.random.get_rng_state()
        encoder.pretrain_classifier(arch, tmp_path / name, seed, steps=2, progress=False)
        assert torch.equal(before, torch.random.get_rng_state())
        digests.append((tmp_path / name / "model.safetensors").read_bytes())
    assert digests[0] == digests[1] != digests[2]
