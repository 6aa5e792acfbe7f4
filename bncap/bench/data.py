"""COCO's captions to shards, a corpus and back, in the time that is our own: no model translates or verifies."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bncap.bench.harness import Ratio, Result, Row, alone, progress
from bncap.bench.memory import resident
from bncap.errors import BncapError
from bncap.pipeline import artifacts

WORDS = 8000
VERIFIER = "verifier"
"""A folder that is found where a verifier is asked for; nothing is loaded from it."""
VERIFIER_RANGE = (0.44, 1.0)
"""Cosines in the place of a verifier's: evenly from one to the other, so that four in five reach 0.55."""
MOST_SECONDS, MOST_BYTES = 60, 1.5e9


@dataclass(frozen=True)
class Size:
    """Captions and pictures of COCO's two files and of Flickr30k's."""

    captions: int
    pictures: int
    held_out: int
    flickr: int


SIZES = {"mini": Size(20_000, 4000, 2000, 1500), "full": Size(414_113, 82_783, 40_504, 31_783)}
A_PICTURE = 5  # captions, in the files that are drawn from


def run(size: str, device: str, repeats: int) -> Result:
    """Each repeat in a process and a folder of its own; :class:`BncapError` if pairs are lost on the way."""
    wanted = SIZES[size]
    with tempfile.TemporaryDirectory() as name:
        progress(f"writing {wanted.captions:,} captions")
        write_data(Path(name) / "data", wanted)
        found = []
        for repeat in range(repeats):
            progress(f"to shards and back, {repeat + 1} of {repeats}")
            found.append(alone(build_and_read, Path(name) / "data", Path(name) / f"artifacts{repeat}")[0])
    for measured in found:
        if measured["pairs"] != measured["accepted"] or measured["captions"] != wanted.captions:
            raise BncapError(f"bench data: of {wanted.captions} captions came back {measured}; pairs were lost")
    built, read, whole = (tuple(m[part] for m in found) for part in ("built", "read", "whole"))
    peak = max(m["peak"] for m in found)
    parts = {part: Row("", tuple(m[part] for m in found)).median for part in ("shards", "merge", "read")}
    bound = (
        ", ".join(f"{part} {seconds:.3g} s" for part, seconds in parts.items()) + ", the rest is reading and hashing"
    )
    rows = (
        Row("captions to shards and corpus", built, wanted.captions / Row("", built).median, "captions/s"),
        Row("the corpus read back", read, found[0]["pairs"] / Row("", read).median, "pairs/s"),
        Row("together", whole, wanted.captions / Row("", whole).median, "captions/s", peak),
    )
    return Result(
        "data",
        size,
        device,
        f"{wanted.captions:,} captions of {wanted.pictures:,} pictures in COCO's layout, with {wanted.held_out:,} "
        f"pictures to hold out from and {wanted.flickr:,} of Flickr30k; translator identity, cosines from "
        f"{VERIFIER_RANGE[0]} to {VERIFIER_RANGE[1]} in the verifier's place, pictures not looked at; "
        "the peak is all that the process had, Python and torch among it",
        rows,
        (
            Ratio("seconds together", rows[2].median, MOST_SECONDS, True, bound * (rows[2].median > MOST_SECONDS)),
            Ratio("peak GB of the process", peak / 1e9, MOST_BYTES / 1e9, most=True),
        ),
        {"runs": found, "parts": parts},
    )


def build_and_read(data: Path, root: Path) -> dict[str, float]:
    """Notebook 01's steps on ``data`` into the artefact root ``root``, then the pairs; for a process of its own.

    Returns seconds ``built``, of which ``shards`` and ``merge`` by the steps' manifests, ``read`` and ``whole``; the
    ``peak`` in bytes; ``captions`` of the training split, pairs ``accepted`` of all, and ``pairs`` that came back.
    """
    os.environ |= {"BNCAP_DATA": str(data), "BNCAP_ARTIFACTS": str(root), "TQDM_DISABLE": "1"}
    from bncap.config import get_config
    from bncap.data import corpus, translations

    translations.Verifier = EvenCosines  # this process has no other use for it
    parts = ("components.translator=identity", f"components.verifier={data / VERIFIER}")
    config = get_config("kaggle", (*parts, "data.check_images=False", "data.reject_copies=False"))
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        folder = corpus.build_corpus(config)
    built = time.perf_counter()
    pairs = corpus.read_corpus(folder)
    done = time.perf_counter()
    counts = artifacts.read_json(folder / "counts.json")["splits"]
    shards = sorted(folder.parent.glob("translations.*"))
    return {
        "built": built - start,
        "shards": sum(artifacts.read_manifest(shard)["seconds"] for shard in shards),
        "merge": artifacts.read_manifest(folder)["seconds"],
        "read": done - built,
        "whole": done - start,
        "peak": resident("VmHWM"),
        "captions": counts["train"]["captions"],
        "accepted": sum(split["accepted"] for split in counts.values()),
        "pairs": len(pairs),
    }


class EvenCosines:
    """In the place of :class:`bncap.data.verify.Verifier`."""

    def __init__(self, path: str) -> None:
        pass

    def similarity(self, en: Sequence[str], target: Sequence[str]) -> np.ndarray:
        return np.linspace(*VERIFIER_RANGE, len(en), dtype=np.float32)


def write_data(root: Path, size: Size) -> None:
    """COCO's two files, shuffled as they are, and Flickr30k's table, of made-up sentences."""
    rng = np.random.default_rng(42)
    (root / VERIFIER).mkdir(parents=True)
    for split, pictures, captions, first in (
        ("train2014", size.pictures, size.captions, 9),
        ("val2014", size.held_out, A_PICTURE * size.held_out, 600_000),
    ):
        _write_coco(root / "annotations" / f"captions_{split}.json", split, pictures, captions, first, rng)
    path = root / "flickr30k" / "results.csv"
    path.parent.mkdir(parents=True)
    sentences = iter(_sentences(A_PICTURE * size.flickr, rng))
    lines = ["image_name| comment_number| comment"]
    lines += [f"{10**6 + i}.jpg| {k}| {next(sentences)}" for i in range(size.flickr) for k in range(A_PICTURE)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _write_coco(path: Path, split: str, pictures: int, captions: int, first: int, rng: np.random.Generator) -> None:
    ids = [first + 7 * i for i in range(pictures)]
    images = [
        {
            "license": 3,
            "file_name": f"COCO_{split}_{i:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/{split}/COCO_{split}_{i:012d}.jpg",
            "height": 480,
            "width": 640,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
            "id": i,
        }
        for i in ids
    ]
    of_picture = [ids[i % pictures] for i in rng.permutation(captions)]
    numbers = (first + rng.permutation(captions)).tolist()
    listed = zip(of_picture, numbers, _sentences(captions, rng), strict=True)
    annotations = [{"image_id": image, "id": number, "caption": text} for image, number, text in listed]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {"description": "made up"}, "images": images, "licenses": [], "annotations": annotations}
    path.write_text(json.dumps(content), "utf-8")


def _sentences(count: int, rng: np.random.Generator) -> list[str]:
    """So many sentences of 8 to 14 words, frequent ones more often, as in a language."""
    common = ["a", "on", "of", "the", "in", "with", "man", "and", "is", "woman", "street", "table"]
    words = np.array(common + [f"word{i}" for i in range(WORDS)])
    lengths = rng.integers(8, 15, count)
    ranks = (len(words) ** rng.random(int(lengths.sum())) - 1).astype(np.int64)  # by Zipf's law
    drawn, ends = words[ranks].tolist(), lengths.cumsum().tolist()
    starts = [0, *ends[:-1]]
    return [" ".join(drawn[a:b]).capitalize() + "." for a, b in zip(starts, ends, strict=True)]
