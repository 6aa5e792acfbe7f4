"""Random reads of cached features against reading and decoding the pictures anew."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from bncap.bench import ceiling
from bncap.bench.harness import Ratio, Result, Row, alternate, progress
from bncap.encoders.feature_store import FeatureStore, FeatureWriter
from bncap.pipeline import artifacts

READ = 64
"""Rows at once: the real and the synthetic picture of 32 triplets."""
WORKERS = 2
PICTURE = (640, 480)  # px, COCO's most frequent size
WANTED = 50
"""Times as fast as decoding."""
QUALITY = 90
FALL = 3.2  # octaves by which the noise's amplitude halves: files are then as large as COCO's, about 160 kB


@dataclass(frozen=True)
class Size:
    rows: int
    patches: int
    channels: int
    pictures: int  # different JPEGs
    reads: int  # by each worker


SIZES = {"mini": Size(512, 49, 96, READ, 50), "full": Size(8192, 49, 768, 2 * READ, 400)}


def run(size: str, device: str, repeats: int) -> Result:
    """Both in turn with warm pages, then with the pages dropped before each read, then by two processes at once."""
    wanted = SIZES[size]
    rng = np.random.default_rng(42)
    with tempfile.TemporaryDirectory() as name:
        progress(f"writing {wanted.rows:,} rows of features and {wanted.pictures} JPEGs")
        folder = write_store(Path(name), wanted, rng)
        pictures = write_pictures(Path(name) / "pictures", wanted.pictures, rng)
        store = FeatureStore(folder)
        contenders: dict[str, Callable[[], object]] = {
            f"{READ} rows of features": lambda: store.take("train", rng.integers(0, wanted.rows, READ)),
            f"{READ} JPEGs read and decoded": lambda: decode(_chosen(pictures, rng)),
        }
        warm = alternate(contenders, repeats)
        cold = {
            f"{READ} rows of features, pages dropped": [_cold_rows(folder, wanted, rng) for _ in range(repeats)],
            f"{READ} JPEGs, pages dropped": [_cold_pictures(pictures, rng) for _ in range(repeats)],
        }
        progress(f"{WORKERS} processes reading")
        fed = feed(folder, wanted)
        row_bytes, jpeg_bytes = (folder / "train.npy").stat().st_size / wanted.rows, _bytes(pictures)
    rows = [Row(n, tuple(s), READ / Row(n, tuple(s)).median, "pictures/s") for n, s in (warm | cold).items()]
    reading, decoding, cold_reading, cold_decoding = (row.median for row in rows)
    bound = "" if decoding / reading >= WANTED else _bound(READ * row_bytes, reading, decoding)
    rows.append(Row(f"{WORKERS} processes of random reads", rate=fed, unit="batches of 32/s"))
    return Result(
        "features",
        size,
        device,
        f"{wanted.rows:,} rows of {wanted.patches} x {wanted.channels} float16, {wanted.pictures} JPEGs of "
        f"{PICTURE[0]} x {PICTURE[1]}, {jpeg_bytes / 1e3:.0f} kB each; what the encoder and its transform take on top "
        "of the decoding is not counted here but in the bench step",
        tuple(rows),
        (
            Ratio("JPEGs / features", decoding / reading, WANTED, bound=bound),
            Ratio("JPEGs / features, pages dropped", cold_decoding / cold_reading),
        ),
        {
            "row_bytes": row_bytes,
            "jpeg_bytes": jpeg_bytes,
            "bytes_per_second": READ * row_bytes / reading,
            "batches_per_second": fed,
            "workers": WORKERS,
        },
    )


def write_store(folder: Path, size: Size, rng: np.random.Generator) -> Path:
    """A feature folder with one set of random numbers."""

    def build(target: Path) -> None:
        writer = FeatureWriter(target, "train", size.rows)
        for start in range(0, size.rows, READ):
            count = min(READ, size.rows - start)
            values = rng.standard_normal((count, size.patches, size.channels), dtype=np.float32)
            writer.write([values.astype(np.float16)])
        writer.finish({str(i): i for i in range(size.rows)})

    return artifacts.run_step(folder / "bench" / "02_synthesis" / "features-s42", settings={}, build=build, quiet=True)


def write_pictures(folder: Path, count: int, rng: np.random.Generator) -> list[Path]:
    """JPEGs with about as much detail as photographs: noise of eight octaves, the finer the weaker."""
    folder.mkdir()
    found = []
    for number in range(count):
        pixels = np.full((PICTURE[1], PICTURE[0], 3), 128.0)
        for octave in range(8):
            small = rng.normal(0, 48 / 2 ** (octave / FALL), (PICTURE[1] * 2**octave // 128, 5 * 2**octave, 3))
            layers = [Image.fromarray(small[..., c].astype(np.float32)) for c in range(3)]
            pixels += np.dstack([np.asarray(layer.resize(PICTURE, Image.Resampling.BICUBIC)) for layer in layers])
        found.append(folder / f"{number:04d}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(found[-1], quality=QUALITY)
    return found


def decode(pictures: list[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in pictures]


def feed(folder: Path, size: Size) -> float:
    """Batches of 32 triplets a second that :data:`WORKERS` processes read at once."""
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        rates = pool.map(_read_on, [folder] * WORKERS, [size] * WORKERS, range(WORKERS))
        return sum(rates)


def _read_on(folder: Path, size: Size, seed: int) -> float:
    """Reads a second of this process, by one thread."""
    import torch

    torch.set_num_threads(1)
    store, rng = FeatureStore(folder), np.random.default_rng(seed)
    store.take("train", np.arange(READ))
    start = time.perf_counter()
    for _ in range(size.reads):
        store.take("train", rng.integers(0, size.rows, READ))
    return size.reads / (time.perf_counter() - start)


def _cold_rows(folder: Path, size: Size, rng: np.random.Generator) -> float:
    """Seconds of a read through a store that is open."""
    store, rows = FeatureStore(folder), rng.integers(0, size.rows, READ)
    store.channels()
    _drop([folder / "train.npy"])
    start = time.perf_counter()
    store.take("train", rows)
    return time.perf_counter() - start


def _cold_pictures(pictures: list[Path], rng: np.random.Generator) -> float:
    chosen = _chosen(pictures, rng)
    _drop(chosen)
    start = time.perf_counter()
    decode(chosen)
    return time.perf_counter() - start


def _drop(files: list[Path]) -> None:
    """Ask the system to forget the pages of ``files``, which are written out before."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bound(size: float, reading: float, decoding: float) -> str:
    """What a read of ``size`` bytes takes at least."""
    copy = 2 * size / ceiling.copy_bytes("cpu")
    return (
        f"a copy of its {size / 1e6:.1f} MB in memory takes {1e3 * copy:.2g} ms at the ceiling measured here, the "
        f"read {1e3 * reading:.3g} ms; none could pass {decoding / copy:.0f}"
    )


def _chosen(pictures: list[Path], rng: np.random.Generator) -> list[Path]:
    return [pictures[i] for i in rng.choice(len(pictures), READ, replace=False)]


def _bytes(files: list[Path]) -> float:
    return sum(file.stat().st_size for file in files) / len(files)
