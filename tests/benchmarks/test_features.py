"""A batch of inputs: cached features read at random from the disk, JPEGs read and decoded."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bncap.encoders.features import FeatureStore, write_set
from bncap.pipeline import artifacts

READ = 64
"""Real and synthetic pictures of 32 triplets."""
SIDES = 640, 480
"""Of a picture, px: COCO's most frequent size."""


def test_cached_features(measure, full_size, tmp_path):
    rows, channels = (8192, 768) if full_size else (512, 96)
    rng = np.random.default_rng(42)

    def build(folder):
        shape = (READ, 49, channels)
        batches = ([rng.standard_normal(shape, dtype=np.float32).astype(np.float16)] for _ in range(rows // READ))
        write_set(folder, "train", {str(i): i for i in range(rows)}, batches)

    folder = tmp_path / "benchmark" / "02_synthesis" / "features-s42"
    store = FeatureStore(artifacts.run_step(folder, settings={}, build=build, quiet=True))
    measure("64 inputs", "cached features", lambda: store.take("train", rng.integers(0, rows, READ)), READ, rounds=20)


def test_jpegs(measure, tmp_path):
    rng = np.random.default_rng(42)
    paths = [tmp_path / f"{i}.jpg" for i in range(READ)]
    for path in paths:
        # noise of eight octaves, the finer the weaker: as much detail as in photographs, about 150 kB
        pixels = np.full((SIDES[1], SIDES[0], 3), 128.0)
        for octave in range(8):
            noise = rng.normal(0, 48 / 2 ** (octave / 3.2), (SIDES[1] * 2**octave // 128, 5 * 2**octave, 3))
            layers = [Image.fromarray(noise[..., c].astype(np.float32)) for c in range(3)]
            pixels += np.dstack([np.asarray(layer.resize(SIDES, Image.Resampling.BICUBIC)) for layer in layers])
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)

    def decode():
        return [Image.open(path).convert("RGB") for path in paths]

    measure("64 inputs", "JPEGs decoded", decode, READ)
