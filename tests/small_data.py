"""A COCO and Flickr30k of 30 pictures, and a translator and a verifier that err where the caption says so."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from bncap.config import get_config
from bncap.data import corpus

SIZES = ("data.validation_images=2", "data.test_images=3", "data.ood_images=3", "data.shards=3")


class Translator:
    """Upper case is the "translation"; what it does wrong is written in the caption."""

    def __init__(self):
        self.calls = []

    def translate(self, captions):
        self.calls += captions
        return ["" if "empty" in text else "off" if "wrong" in text else text.upper() for text in captions]

    def faults(self, captions):
        return [next((fault for fault in ("empty", "wrong") if fault in text), None) for text in captions]


class Verifier:
    loaded = 0

    def __init__(self, path):
        Verifier.loaded += 1

    def similarity(self, en, target):
        return np.array([0.9 if t == e.upper() else 0.5 if t else -1.0 for e, t in zip(en, target, strict=True)])


def write_picture(path, seed, side=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_coco(root, split, ids):
    """Two captions an image; every image whose id ends in 4 has only faulty ones."""
    images, annotations = [], []
    for i in ids:
        name = f"COCO_{split}_{i:012d}.jpg"
        write_picture(root / split / name, i)
        images.append({"id": i, "file_name": name})
        words = ("wrong", "empty") if i % 10 == 4 else ("good", "wrong" if i % 10 == 7 else "fine")
        annotations += [{"id": 2 * i + k, "image_id": i, "caption": f"{word} {i}"} for k, word in enumerate(words)]
    path = root / "annotations" / f"captions_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations}), "utf-8")


def write_flickr(root, ids):
    rows = ["image_name| comment_number| comment"]
    for i in ids:
        write_picture(root / "flickr30k" / "flickr30k_images" / f"{i}.jpg", 100 + i)
        rows += [f"{i}.jpg| {k}| good flickr {i} {k}" for k in range(2)]
    (root / "flickr30k" / "results.csv").write_text("\n".join(rows) + "\n", "utf-8")


def small_world(folder, monkeypatch):
    """Root of the data sets: 20 pictures to train on, 6 held out, 4 of Flickr30k with ids that COCO has too."""
    root = folder / "data"
    write_coco(root, "train2014", range(10, 30))
    write_coco(root, "val2014", range(40, 46))
    write_flickr(root, range(10, 14))
    (folder / "verifier").mkdir()
    (folder / "verifier" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("BNCAP_DATA", str(root))
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(folder / "artifacts"))
    return root


def fake_models(monkeypatch):
    """The translator that takes the place of whichever is named; the verifier does so too."""
    translator, Verifier.loaded = Translator(), 0
    monkeypatch.setattr(corpus, "load_translator", lambda config: translator)
    monkeypatch.setattr(corpus, "Verifier", Verifier)
    return translator


def config_for(root, *overrides):
    parts = ("components.translator=mini:translator", f"components.verifier={root.parent / 'verifier'}")
    return get_config("paper", (*SIZES, *parts, *overrides))


def write_own(folder, count, captions=2, header="image,caption", lang="", word="चित्र"):
    """An own data set in the plain CSV; its file."""
    rows = [header]
    for i in range(count):
        write_picture(folder / "images" / f"{i:03d}.png", i)
        rows += [f"{i:03d}.png,{word} {i} {k}{lang}" for k in range(captions)]
    path = folder / "captions.csv"
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path
