"""Captions to a verified corpus and back, without the time of a translator or a verifier; against parsing the JSON."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest

from bncap.config import get_config
from bncap.data import corpus
from bncap.data.pairs import read_corpus

CAPTIONS_PER_PICTURE = 5


class EvenCosines:
    """In the place of the verifier: cosines from 0.44 to 1, of which four in five reach the threshold 0.55."""

    def __init__(self, path: str) -> None:
        pass

    def similarity(self, en: list[str], target: list[str]) -> np.ndarray:
        return np.linspace(0.44, 1, len(en), dtype=np.float32)


def write_captions(root, train: int, held_out: int, flickr: int) -> None:
    """So many pictures in COCO's two files and Flickr30k's table, with random sentences of 8 to 14 words."""
    rng = np.random.default_rng(42)
    words = np.array([f"word{i}" for i in range(8000)])

    def sentence() -> str:
        ranks = len(words) ** rng.random(rng.integers(8, 15)) - 1  # by Zipf's law
        return " ".join(words[ranks.astype(int)]).capitalize() + "."

    (root / "annotations").mkdir(parents=True)
    for split, pictures, first in (("train2014", train, 1), ("val2014", held_out, 600_000)):
        ids = range(first, first + pictures)
        images = [{"id": i, "file_name": f"COCO_{split}_{i:012d}.jpg", "height": 480, "width": 640} for i in ids]
        notes = [
            {"image_id": i, "id": CAPTIONS_PER_PICTURE * i + k, "caption": sentence()}
            for k in range(CAPTIONS_PER_PICTURE)
            for i in ids
        ]
        path = root / "annotations" / f"captions_{split}.json"
        path.write_text(json.dumps({"images": images, "annotations": notes}), "utf-8")
    rows = [f"{10**6 + i}.jpg| {k}| {sentence()}" for i in range(flickr) for k in range(CAPTIONS_PER_PICTURE)]
    (root / "flickr30k").mkdir()
    table = "\n".join(["image_name| comment_number| comment", *rows]) + "\n"
    (root / "flickr30k" / "results.csv").write_text(table, "utf-8")


@pytest.fixture
def pictures(full_size) -> tuple[int, int, int]:
    return (82_783, 40_504, 31_783) if full_size else (4000, 2000, 1500)


def test_captions_to_corpus_and_back(measure, pictures, tmp_path, monkeypatch):
    write_captions(tmp_path, *pictures)
    (tmp_path / "verifier").mkdir()
    monkeypatch.setenv("BNCAP_DATA", str(tmp_path))
    monkeypatch.setattr(corpus, "Verifier", EvenCosines)
    parts = ["components.translator=identity", f"components.verifier={tmp_path / 'verifier'}"]
    config = get_config("kaggle", [*parts, "data.check_images=False", "data.reject_copies=False"])
    runs = count()

    def build_and_read():
        monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / f"artifacts{next(runs)}"))
        return read_corpus(corpus.build_corpus(config))

    captions = CAPTIONS_PER_PICTURE * pictures[0]
    measure("corpus", "captions to shards, corpus and back", build_and_read, captions, rounds=1)


def test_parsing_the_files(measure, pictures, tmp_path):
    write_captions(tmp_path, *pictures)
    files = sorted((tmp_path / "annotations").glob("*.json"))
    captions = CAPTIONS_PER_PICTURE * pictures[0]
    measure(
        "corpus", "json.load of COCO's two files", lambda: [json.loads(f.read_text("utf-8")) for f in files], captions
    )
