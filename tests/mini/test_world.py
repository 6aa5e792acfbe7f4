"""The mini world's files against COCO's and Flickr30k's formats, and the caching of its models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from bncap.config import get_config
from bncap.data.readers import read_boxes, read_captions
from bncap.mini import corpus, encoder, sentence_encoder, text_models, world
from bncap.mini.corpus import Texts, mini_texts
from bncap.mini.grammar import parse_en
from bncap.mini.scene import COLOURS, OOD_BACKGROUNDS
from bncap.pipeline import artifacts, hub

SIZES = ("world.train_images=9", "world.validation_images=2", "world.test_images=3", "world.ood_images=4")
SPLITS = (("train2014", 9), ("val2014", 5))


def make_world(folder, monkeypatch, *overrides):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(folder))
    return world.build_world(get_config("smoke", [*SIZES, *overrides]))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield make_world(tmp_path_factory.mktemp("world"), monkeypatch)


@pytest.mark.parametrize(("split", "count"), SPLITS)
def test_every_picture_has_five_captions_and_is_a_jpeg_of_the_size_it_states(root, split, count):
    captions = read_captions(root / "annotations" / f"captions_{split}.json", split)
    assert len(captions) == 5 * count and len({c.image for c in captions}) == count
    for caption in captions:
        with Image.open(root / caption.image) as picture:
            assert (picture.format, picture.size) == ("JPEG", (112, 112))
    assert sorted(p.name for p in (root / split).iterdir()) == sorted({c.image.split("/")[1] for c in captions})


def test_coco_ids_are_shared_neither_within_nor_between_the_splits(root):
    contents = [json.loads((root / "annotations" / f"captions_{split}.json").read_text()) for split, _ in SPLITS]
    for part in ("images", "annotations"):
        ids = [record["id"] for content in contents for record in content[part]]
        assert len(ids) == len(set(ids))
    assert all({"info", "images", "annotations"} <= set(content) for content in contents)


def test_captions_speak_of_objects_that_are_annotated_in_their_picture(root):
    objects = read_boxes(root / "annotations" / "instances_train2014.json")
    for caption in read_captions(root / "annotations" / "captions_train2014.json", "train2014"):
        kinds = {kind for kind, _ in objects[caption.image.split("/")[1]]}
        mentioned = {mention.kind for mention in parse_en(caption.text).objects}
        assert mentioned and mentioned <= kinds


def test_boxes_lie_in_the_picture_on_something_of_their_colour(root):
    content = json.loads((root / "annotations" / "instances_train2014.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    red = [a for a in content["annotations"] if a["colour"] in ("red", "blue")]
    assert red, "the seed gives no red or blue object"
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert min(x, y) >= 0 and max(x + width, y + height) <= 112
        assert annotation["area"] == width * height and annotation["colour"] in COLOURS
    for annotation in red:
        x, y, width, height = annotation["bbox"]
        pixels = np.asarray(Image.open(root / "train2014" / names[annotation["image_id"]]).convert("RGB"), dtype=float)
        excess = pixels[..., 0] - pixels[..., 2] if annotation["colour"] == "red" else pixels[..., 2] - pixels[..., 0]
        assert (excess[y : y + height, x : x + width] > 90).mean() > 0.1


def test_flickr_is_out_of_domain_in_its_own_format_with_boxes(root):
    captions = read_captions(root / "flickr30k" / "results.csv", "flickr30k/flickr30k_images")
    assert len(captions) == 20 and all((root / c.image).is_file() for c in captions)
    backgrounds = {parse_en(c.text).background for c in captions} - {None}
    assert backgrounds and backgrounds <= set(OOD_BACKGROUNDS)
    objects = read_boxes(root / "flickr30k" / "instances.json")
    assert set(objects) == {c.image.split("/")[-1] for c in captions} and all(objects.values())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_pictures(root, tmp_path, monkeypatch):
    again = make_world(tmp_path / "again", monkeypatch)
    assert artifacts.fingerprint(again) == artifacts.fingerprint(root)
    other = make_world(tmp_path / "other", monkeypatch, "data.seed=43")
    name = "train2014/COCO_train2014_000000000001.jpg"
    assert (other / name).read_bytes() != (root / name).read_bytes()


def test_a_larger_world_begins_with_the_same_pictures_and_captions(root, tmp_path, monkeypatch):
    larger = make_world(tmp_path, monkeypatch, "world.train_images=12")
    for picture in (root / "train2014").iterdir():
        assert (larger / "train2014" / picture.name).read_bytes() == picture.read_bytes()
    few, many = (read_captions(r / "annotations" / "captions_train2014.json", "train2014") for r in (root, larger))
    assert many[: len(few)] == few


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What was trained, as (name, seed, steps), with stand-ins for the training functions and the worker processes."""
    calls = []

    def train_text(name):
        def train(out, texts, seed, steps):
            assert isinstance(texts, Texts)
            calls.append((name, seed, steps))
            save_file({"a": np.zeros(5)}, out / "model.safetensors")
            return {"loss": 1.5}

        return train

    def train_verifier(out, seed, steps):
        return train_text("verifier")(out, mini_texts(1), seed, steps)

    def train_image(arch, out, seed, steps=None, progress=True):
        calls.append((arch, seed, steps))
        save_file({"a": np.zeros((2, 3)), "b": np.zeros(4)}, out / "model.safetensors")

    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(world, "run_parallel", lambda function, tuples, jobs, label: [function(*t) for t in tuples])
    monkeypatch.setattr(text_models, "TEXT_MODELS", {name: train_text(name) for name in text_models.TEXT_MODELS})
    monkeypatch.setattr(corpus, "SENTENCES", 1)
    monkeypatch.setattr(sentence_encoder, "train_sentence_encoder", train_verifier)
    monkeypatch.setattr(encoder, "pretrain_classifier", train_image)
    monkeypatch.setattr(encoder, "evaluate", lambda folder, style, n, seed: {"kind": 0.5, "colour": 0.25})
    return calls


def test_each_component_is_trained_once_into_the_folder_where_it_is_looked_for(trained):
    config = get_config("smoke")
    folders = world.build_models(config)
    assert set(folders) == {"decoder", "verifier", "bertscore", "gpt2", "vit", "cnn"} and len(trained) == 6
    for part, folder in folders.items():
        assert str(folder) == hub.path(config, f"mini:{part}")
    assert artifacts.read_json(folders["decoder"] / "figures.json") == {"loss": 1.5}
    assert artifacts.read_json(folders["vit"] / "figures.json")["kind_ood"] == 0.5
    assert world.build_models(config) == folders and len(trained) == 6


def test_the_image_encoders_are_trained_first_because_they_take_longest(trained):
    world.build_models(get_config("smoke"))
    assert [name for name, _, _ in trained][:3] == ["bncap_vit_mini", "bncap_cnn_mini", "decoder"]
    assert sorted(world.LONGEST_FIRST) == sorted(world.TRAINED_PARTS)


def test_the_number_of_steps_scales_and_another_number_trains_anew(trained):
    world.build_models(get_config("smoke", ["world.model_steps=0.5"]))
    steps = {name: count for name, _, count in trained}
    assert steps["decoder"] == text_models.TEXT_MODEL_STEPS["decoder"] // 2
    assert steps["bncap_cnn_mini"] == encoder.RECIPES["bncap_cnn_mini"].steps // 2
    world.build_models(get_config("smoke", ["world.model_steps=0.000001"]))
    assert {count for _, _, count in trained[6:]} == {2} and len(trained) == 12


def test_the_encoder_is_trained_only_where_it_is_asked_for(trained):
    folders = world.build_models(get_config("smoke", ["world.retrain_encoder=True"]))
    assert ("bncap_maxvit_mini", 42, 24) in trained and folders["encoder"].name == "encoder-s42"
    assert json.loads((folders["encoder"] / "card.json").read_text())["steps"] == 24


def test_each_model_is_described_with_what_it_stands_for_its_size_and_its_figures(trained):
    config = get_config("smoke", ["world.retrain_encoder=True"])
    world.build_models(config)
    records = {record["component"]: record for record in world.describe_models(config)}
    assert set(records) == {"encoder", "decoder", "verifier", "bertscore", "gpt2", "vit", "cnn"}
    assert records["verifier"]["stands for"] == "sentence-transformers/LaBSE"
    assert (records["cnn"]["parameters"], records["gpt2"]["parameters"]) == (10, 5)
    assert records["decoder"]["measured"] == "loss 1.5" and "kind_ood 0.5" in records["encoder"]["measured"]


def test_only_the_components_that_the_configuration_names_are_made(trained):
    real = [f"components.{part}=somebody/{part}" for part in world.TRAINED_PARTS if part != "verifier"]
    assert set(world.build_models(get_config("smoke", real))) == {"verifier"}
    assert [name for name, _, _ in trained] == ["verifier"]
    assert [record["component"] for record in world.describe_models(get_config("smoke", real))] == ["verifier"]
    assert world.build_models(get_config("kaggle")) == {} and world.describe_models(get_config("kaggle")) == []
