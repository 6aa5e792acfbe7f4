"""How a training step's time and memory grow with its sizes, and an epoch's reading with the number of triplets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bncap.batches import Triplets
from bncap.bench import contenders
from bncap.bench.harness import Result, Row, alone, alternate, progress
from bncap.bench.memory import forget_peak, resident
from bncap.bench.step import SETTINGS, Ours
from bncap.bench.step import Setting as StepSetting
from bncap.encoders.feature_store import FeatureStore, FeatureWriter
from bncap.errors import BncapError
from bncap.head import IGNORED
from bncap.pipeline import artifacts

AXES = {
    "batch": "triplets a batch",
    "tokens": "tokens a caption",
    "patches": "patches a picture",
    "vocabulary": "pieces of the vocabulary",
    "triplets": "triplets an epoch",
}
"""Axis -> what is counted along it; the last is of an epoch's data, the others are of a step."""
EPOCH = "triplets"


@dataclass(frozen=True)
class Setting:
    """What the points share, ``channels`` C of the features, and the values along each axis, ascending."""

    base: StepSetting
    channels: int
    values: dict[str, tuple[int, ...]]


GROWTH = {
    "mini": Setting(
        replace(SETTINGS["mini"], batch=8),
        128,
        {
            "batch": (4, 8, 16, 32, 64),
            "tokens": (8, 16, 24, 32, 48),
            "patches": (16, 25, 49, 100, 196),
            "vocabulary": (437, 1000, 2000, 4000, 8000),
            "triplets": (100, 200, 400, 800, 1600),
        },
    ),
    "full": Setting(
        SETTINGS["full"],
        768,
        {
            "batch": (2, 4, 8, 16, 32),
            "tokens": (8, 16, 24, 32, 48),
            "patches": (16, 25, 49, 100, 196),
            "vocabulary": (4000, 12_000, 40_000, 100_000, 250_054),
            "triplets": (2500, 5000, 10_000, 20_000, 40_000),
        },
    ),
}
EPOCH_BATCH = 32
A_PICTURE = 5  # triplets of one real picture
BLOCK = 500  # pictures written at once


def run(size: str, device: str, repeats: int) -> Result:
    """Five points on each axis, the others at their base."""
    setting, kind = GROWTH[size], contenders.precisions(device)[-1]
    points = alone(all_points, setting, device, kind, repeats)[0]
    base = setting.base
    return Result(
        "growth",
        size,
        device,
        f"a step of the full objective in {kind} with {base.batch} triplets, {base.tokens} tokens, "
        f"{contenders.PATCHES} patches, {base.sizes.trimmed:,} pieces where the axis does not say otherwise; "
        f"an epoch's batches of {EPOCH_BATCH} read from disk",
        tuple(_row(point, base.batch) for point in points),
        details={"points": points, "axes": list(AXES.items()), "precision": kind, "threads": torch.get_num_threads()},
    )


def all_points(setting: Setting, device: str, kind: str, repeats: int) -> list[dict[str, Any]]:
    """Every point of every axis.

    On a CPU each is measured in a child of this process, which has to be fresh, as children cannot share its threads:
    what the allocator keeps of one point is then not counted as the next one's.
    """
    points = []
    measure = _forked if device == "cpu" else lambda function, *arguments: function(*arguments)
    with tempfile.TemporaryDirectory() as folder:
        for axis in AXES:
            progress(f"growth with the {AXES[axis]}")
            written = measure(write_triplets, Path(folder), setting) if axis == EPOCH else None
            for value in setting.values[axis]:
                if axis == EPOCH:
                    points.append(measure(epoch_point, value, setting, written, device, repeats))
                else:
                    points.append(measure(step_point, axis, value, setting, device, kind, repeats))
    return points


def step_point(axis: str, value: int, setting: Setting, device: str, kind: str, repeats: int) -> dict[str, Any]:
    """Seconds and peak bytes of a step with ``value`` along ``axis``.

    The peak is what torch allocated on CUDA, else resident memory above what this process had before the model.
    """
    before, base = resident("VmRSS"), setting.base
    if axis in ("batch", "tokens"):
        base = replace(base, **{axis: value})
    if axis == "vocabulary":
        base = replace(base, sizes=replace(base.sizes, trimmed=value))
    patches = value if axis == "patches" else contenders.PATCHES
    generator = torch.Generator().manual_seed(contenders.SEED)
    features = torch.randn(2, base.batch, patches, setting.channels, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(base, *features, device, Path(folder))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()
        seconds = alternate({axis: lambda: ours.step(kind)}, repeats, device)[axis]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM") - before
    return {"axis": axis, "value": value, "seconds": seconds, "peak": peak}


def epoch_point(value: int, setting: Setting, written: tuple[Path, Path], device: str, repeats: int) -> dict[str, Any]:
    """Seconds of an epoch's batches of ``value`` triplets, peak bytes of host memory above before, bytes on disk."""
    forget_peak()
    before, (store, images) = resident("VmRSS"), written
    triplets = Triplets(images, FeatureStore(store), random_labels, share=value / setting.values[EPOCH][-1])
    seconds = alternate({EPOCH: lambda: read_epoch(triplets, device)}, repeats, device)[EPOCH]
    rows = len(np.unique(triplets.real)) + len(np.unique(triplets.synthetic))
    disk = rows * contenders.PATCHES * setting.channels * np.dtype(np.float16).itemsize
    peak = resident("VmHWM") - before
    return {"axis": EPOCH, "value": value, "seconds": seconds, "peak": peak, "disk": disk}


def read_epoch(triplets: Triplets, device: str) -> int:
    """All batches of an epoch; how many triplets they held."""
    return sum(len(batch.images) for batch in triplets.batches(42, 0, EPOCH_BATCH, torch.device(device)))


def write_triplets(folder: Path, setting: Setting) -> tuple[Path, Path]:
    """A feature cache of random numbers for the most triplets, five of each real picture; it and its table."""
    count = setting.values[EPOCH][-1]
    pictures = -(-count // A_PICTURE)

    def write_features(target: Path) -> None:
        for name, wanted in {"train": pictures, "synthetic": count}.items():
            writer, rng = FeatureWriter(target, name, wanted), np.random.default_rng(42)
            block = rng.standard_normal((BLOCK, contenders.PATCHES, setting.channels), dtype=np.float32).astype(
                np.float16
            )
            for start in range(0, wanted, BLOCK):
                writer.write([block[: wanted - start]])
            writer.finish({str(i): i for i in range(wanted)})

    def write_table(target: Path) -> None:
        header = ["caption_id", "image_id", "image", "synthetic", "en", "target"]
        rows = [(i, i // A_PICTURE, i // A_PICTURE, f"{i}.png", "", "") for i in range(count)]
        artifacts.write_csv(target / "triplets.csv", header, rows)

    step = folder / "bench" / "02_synthesis"
    store = artifacts.run_step(step / "features-s42", settings={}, build=write_features, quiet=True)
    return store, artifacts.run_step(step / "images-s42", settings={}, build=write_table, quiet=True)


def random_labels(captions: Sequence[str]) -> Tensor:
    """(N, 24) captions of 8 to 24 tokens."""
    generator = torch.Generator().manual_seed(42)
    lengths = torch.randint(8, 25, (len(captions), 1), generator=generator)
    tokens = torch.randint(4, 400, (len(captions), 24), generator=generator)
    return tokens.masked_fill(torch.arange(24) >= lengths, IGNORED)


def _row(point: dict[str, Any], batch: int) -> Row:
    row = Row(f"{point['value']:,} {AXES[point['axis']]}", tuple(point["seconds"]), peak=point["peak"])
    done = point["value"] if point["axis"] in ("batch", EPOCH) else batch
    note = f"{point['disk'] / 1e6:.0f} MB of features on disk" if "disk" in point else ""
    return replace(row, rate=done / row.median, unit="triplets/s", note=note)


def _forked(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a child that has all modules of this process already."""
    try:
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise BncapError(
            f"bench growth: {arguments[:2]}: the process ended, most likely for lack of memory; use a larger machine"
        ) from error
