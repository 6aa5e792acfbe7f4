"""The mini world's files against COCO's and Flickr30k's formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bncap.config import get_config
from bncap.data.readers import read_boxes, read_captions
from bncap.mini.grammar import parse_en
from bncap.mini.scene import COLOURS, OOD_BACKGROUNDS
from bncap.mini.world import build_world
from bncap.pipeline import artifacts

SIZES = ("world.train_images=9", "world.validation_images=2", "world.test_images=3", "world.ood_images=4")
SPLITS = (("train2014", 9), ("val2014", 5))


def make_world(folder, monkeypatch, *overrides):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(folder))
    return build_world(get_config("smoke", [*SIZES, *overrides]))


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
