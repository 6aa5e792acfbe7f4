"""Which small models notebook 00 trains, with which settings, and when it trains them again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from bncap.config import get_config
from bncap.pipeline import artifacts, hub
from bncap.small_models import build, encoder, sentence_encoder, text_models


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What was trained, as (name, seed, steps), with stand-ins for the training functions and the worker processes."""
    calls = []

    def train_text(name):
        def train(out, texts, seed, steps):
            assert isinstance(texts, text_models.Texts)
            calls.append((name, seed, steps))
            save_file({"a": np.zeros(5)}, out / "model.safetensors")
            return {"loss": 1.5}

        return train

    def train_verifier(out, seed, steps):
        return train_text("verifier")(out, text_models.generate_mini_texts(1), seed, steps)

    def train_image(arch, out, seed, steps=None, progress=True):
        calls.append((arch, seed, steps))
        save_file({"a": np.zeros((2, 3)), "b": np.zeros(4)}, out / "model.safetensors")

    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(build, "run_parallel", lambda function, tuples, jobs, label: [function(*t) for t in tuples])
    monkeypatch.setattr(text_models, "TEXT_MODELS", {name: train_text(name) for name in text_models.TEXT_MODELS})
    monkeypatch.setattr(text_models, "SENTENCES", 1)
    monkeypatch.setattr(sentence_encoder, "train_sentence_encoder", train_verifier)
    monkeypatch.setattr(encoder, "pretrain_classifier", train_image)
    monkeypatch.setattr(encoder, "evaluate", lambda folder, style, n, seed: {"kind": 0.5, "colour": 0.25})
    return calls


def test_each_component_is_trained_once_into_the_folder_where_it_is_looked_for(trained):
    config = get_config("smoke")
    folders = build.build_models(config)
    assert set(folders) == {"decoder", "verifier", "bertscore", "gpt2", "vit", "cnn"} and len(trained) == 6
    for part, folder in folders.items():
        assert str(folder) == hub.path(config, f"mini:{part}")
    assert artifacts.read_json(folders["decoder"] / "figures.json") == {"loss": 1.5}
    assert artifacts.read_json(folders["vit"] / "figures.json")["kind_ood"] == 0.5
    assert build.build_models(config) == folders and len(trained) == 6


def test_the_number_of_steps_scales_and_another_number_trains_anew(trained):
    build.build_models(get_config("smoke", ["world.model_steps=0.5"]))
    steps = {name: count for name, _, count in trained}
    assert steps["decoder"] == text_models.STEPS["decoder"] // 2
    assert steps["bncap_cnn_mini"] == encoder.RECIPES["bncap_cnn_mini"].steps // 2
    build.build_models(get_config("smoke", ["world.model_steps=0.000001"]))
    assert {count for _, _, count in trained[6:]} == {2} and len(trained) == 12


def test_the_encoder_is_trained_only_where_it_is_asked_for(trained):
    folders = build.build_models(get_config("smoke", ["world.retrain_encoder=True"]))
    assert ("bncap_maxvit_mini", 42, 24) in trained and folders["encoder"].name == "encoder-s42"
    assert json.loads((folders["encoder"] / "card.json").read_text())["steps"] == 24


def test_each_model_is_described_with_what_it_stands_for_its_size_and_its_figures(trained):
    config = get_config("smoke", ["world.retrain_encoder=True"])
    build.build_models(config)
    records = {record["component"]: record for record in build.describe_models(config)}
    assert set(records) == {"encoder", "decoder", "verifier", "bertscore", "gpt2", "vit", "cnn"}
    assert records["verifier"]["stands for"] == "sentence-transformers/LaBSE"
    assert (records["cnn"]["parameters"], records["gpt2"]["parameters"]) == (10, 5)
    assert records["decoder"]["measured"] == "loss 1.5" and "kind_ood 0.5" in records["encoder"]["measured"]


def test_only_the_components_that_the_configuration_names_are_made(trained):
    real = [f"components.{part}=somebody/{part}" for part in build.TRAINED_PARTS if part != "verifier"]
    assert set(build.build_models(get_config("smoke", real))) == {"verifier"}
    assert [name for name, _, _ in trained] == ["verifier"]
    assert [record["component"] for record in build.describe_models(get_config("smoke", real))] == ["verifier"]
    assert build.build_models(get_config("kaggle")) == {} and build.describe_models(get_config("kaggle")) == []
