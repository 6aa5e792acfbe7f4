"""Frozen encoder features, computed once and shared by every run.

The sets of pictures are ``train``, ``synthetic``, ``validation``, ``test`` and ``ood``;
:mod:`bncap.encoders.feature_store` reads and writes their files.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from bncap.data.images import to_rgb
from bncap.data.pairs import read_corpus
from bncap.device import default_device
from bncap.encoders.feature_store import prefetched, write_set
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts, deadline, hub, paths, workers
from bncap.pipeline.hub import loading
from bncap.settings import Config, Features
from bncap.synthesis.shards import Member, PictureStore

EVALUATION_SETS = ("validation", "test", "ood")
MEASURED = 4
"""Pictures by which the time is estimated on a CPU; on a GPU, which is faster with many at once, a batch."""

Source = Path | Member


class Encoder:
    """A frozen timm model that turns pictures into patch features.

    Args:
        path: a folder in the hub's layout.
        penultimate: also return the stage before the last.

    The whole classifier is loaded, strictly, and its intermediate maps are read: a half-empty checkpoint is a
    :class:`BncapError`.
    """

    def __init__(self, path: str, penultimate: bool = False) -> None:
        import timm

        import bncap.encoders.mini_models  # noqa: F401  registers the mini architectures with timm

        with loading("encoder", path):
            self.model = timm.create_model(f"local-dir:{path}", pretrained=True).eval().requires_grad_(False)
        self.device = default_device()
        self.model.to(self.device, memory_format=torch.channels_last)  # a quarter faster, on a CPU as well
        settings = timm.data.resolve_model_data_config(self.model)
        self.transform: Callable[[Image.Image], Tensor] = timm.data.create_transform(**settings, is_training=False)
        self.indices = (-2, -1) if penultimate else (-1,)

    def __call__(self, pictures: Sequence[Image.Image]) -> list[Tensor]:
        """Eq. (2): F(x) in R^{C x H x W}, S = HW, flattened to (B, S, C) float32; the final stage comes last."""
        return self.maps(self.pixels(pictures))

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(B, 3, H0, W0) float32: resized, cropped and normalised as the encoder was trained."""
        return torch.stack([self.transform(picture) for picture in pictures])

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> list[Tensor]:
        """What :meth:`__call__` gives, of :meth:`pixels`."""
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            maps = self.model.forward_intermediates(
                pixels, indices=self.stages(), intermediates_only=True, output_fmt="NCHW"
            )
        return [m.flatten(2).transpose(1, 2).float().cpu() for m in maps]  # (B, S, C)

    def stages(self) -> list[int]:
        """Indices of the stages wanted, counted from the first."""
        if isinstance(getattr(self.model, "blocks", None), nn.Sequential):
            count = len(self.model.blocks)
        else:
            count = len(self.model.feature_info)
        return [count + i for i in self.indices]


def open_picture(source: Source) -> Image.Image:
    """The picture at ``source``, a file or a member of a tar, in RGB: upright by its EXIF, transparency on white.

    Raises :class:`BncapError` if the file is missing or does not decode.
    """
    try:
        with Image.open(io.BytesIO(source.read()) if isinstance(source, Member) else source) as picture:
            return to_rgb(picture)
    except FileNotFoundError as error:
        raise BncapError(f"{source} is missing; check the folder that the annotations speak of") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BncapError(f"{source} does not decode as a picture ({error}); replace or remove it") from error


def build_features(
    config: Config,
    component: str | None = None,
    step: str = "02_synthesis",
    variant: str = "features",
    with_synthetic: bool = True,
) -> Path:
    """Features of every picture that the experiments use, by the encoder ``component`` (default: the main one)."""
    component = component or config.components.encoder
    seed = config.data.seed
    corpus = paths.step_dir(config.profile, "01_data_build", "corpus", seed)
    images = paths.step_dir(config.profile, "02_synthesis", "images", seed)

    def build(folder: Path) -> None:
        sets = _picture_sets(config, corpus, images, with_synthetic)
        extract(hub.path(config, component), config.features, sets, folder)

    inputs = [corpus, images]  # of which each has the hashes of its pictures
    if config.data.source == "mini":
        inputs.append(paths.dataset_roots(config)[0])
    # a batch's size changes the last bit of its features
    settings = {"encoder": component, "synthetic": with_synthetic, **asdict(config.features)}
    return artifacts.run_step(
        paths.step_dir(config.profile, step, variant, seed),
        settings=settings,
        inputs=inputs,
        components=[component],
        build=build,
        config=config,
    )


def _picture_sets(config: Config, corpus: Path, images: Path, with_synthetic: bool) -> dict[str, Mapping[str, Source]]:
    """Set name -> identifier -> source; real pictures go by their path in the dataset, synthetic ones by caption id."""
    triplets = artifacts.read_csv(images / "triplets.csv")
    sets: dict[str, Mapping[str, Source]] = {"train": paths.data_paths(config, (t["image"] for t in triplets))}
    if with_synthetic:
        store = PictureStore(config)
        sets["synthetic"] = {t["caption_id"]: store.find(t["synthetic"]) for t in triplets if t["synthetic"]}
    pairs = read_corpus(corpus)
    for split in EVALUATION_SETS:
        sets[split] = paths.data_paths(config, (p.image for p in pairs if p.split == split))
    return sets


def extract(model: str, settings: Features, sets: Mapping[str, Mapping[str, Source]], folder: Path) -> None:
    """Write the features of each set (identifier -> picture) that ``folder`` does not hold yet.

    Identifiers of one picture share its row.  Prints beforehand how much disk space and time the sets take;
    :class:`BncapError` if there is not as much space.
    """
    pictures = {
        name: list(dict.fromkeys(items.values()))
        for name, items in sets.items()
        if not (folder / f"{name}.csv").is_file()
    }
    with workers.one_thread():
        if any(pictures.values()):
            encoder = Encoder(model, settings.penultimate)
            sample = max(pictures.values(), key=len)[: settings.batch]
            _announce(encoder, sample, sum(map(len, pictures.values())), folder)
        for name, sources in pictures.items():
            number = {picture: row for row, picture in enumerate(sources)}
            rows = {identifier: number[picture] for identifier, picture in sets[name].items()}
            write_set(folder, name, rows, _batches(encoder, name, sources, settings.batch) if sources else ())


def _announce(encoder: Encoder, sample: list[Source], rows: int, folder: Path) -> None:
    """Print what ``rows`` pictures take, by a ``sample``; :class:`BncapError` if the disk has no room for them."""
    cuda, jobs = encoder.device.type == "cuda", workers.default_jobs()
    some = sample if cuda else sample[:MEASURED]
    encoder([open_picture(source) for source in some])  # the first time takes longer
    times = [time.perf_counter()]
    pixels = encoder.pixels([open_picture(source) for source in some])
    times.append(time.perf_counter())
    maps = encoder.maps(pixels)
    times.append(time.perf_counter())
    decoding, encoding = ((end - start) / len(some) for start, end in pairwise(times))
    each = max(decoding / jobs, encoding) if cuda else (decoding + encoding) / jobs

    shapes = " and ".join(f"{m.shape[1]} patches x {m.shape[2]} channels" for m in maps[::-1])
    what = f"{rows:,} pictures, {shapes} in float16"
    size = rows * torch.float16.itemsize * sum(m[0].numel() for m in maps)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BncapError(
            f"{folder}: the features ({what}) take {_bytes(size)} and the disk has {_bytes(free)} free; make room, or "
            "let BNCAP_ARTIFACTS name a folder on a larger disk"
        )
    print(f"features: {what}: {_bytes(size)} in {folder}, about {_duration(each * rows)}", flush=True)


def _batches(encoder: Encoder, name: str, pictures: list[Source], size: int) -> Iterator[list[np.ndarray]]:
    """The float16 maps of ``pictures`` in batches of ``size``, the final stage's first."""
    starts = range(0, len(pictures), size)
    with closing(_encoded(encoder, (pictures[start : start + size] for start in starts))) as batches:
        bar = tqdm(batches, desc=f"features: {name}", total=len(starts), unit="batch")
        for start, maps in zip(starts, bar, strict=True):
            if deadline.reached():
                raise OutOfTime(
                    f"time is up at features of the {name} set, {start:,} of {len(pictures):,} pictures; the complete "
                    "sets are kept, start the same command again to make this one from its first picture"
                )
            yield [_half(m, pictures[start:]) for m in maps]


def _encoded(encoder: Encoder, batches: Iterable[list[Source]]) -> Generator[list[Tensor]]:
    """The maps of each batch, final stage first, made ahead in as many threads as there are processors.

    With a GPU the threads open the pictures for it; without one each has a batch to itself, from the files to the
    features, so that these do not depend on the number of threads.
    """
    cuda, jobs = encoder.device.type == "cuda", workers.default_jobs()

    def opened(sources: list[Source]) -> Tensor:
        torch.set_num_threads(1)  # a number that each thread has of its own
        return encoder.pixels([open_picture(source) for source in sources])

    def encoded(sources: list[Source]) -> list[Tensor]:
        return encoder.maps(opened(sources))

    ahead: Generator[Any] = prefetched(opened if cuda else encoded, batches, jobs, jobs)
    with closing(ahead):
        for item in ahead:
            yield (encoder.maps(item) if cuda else item)[::-1]


def _half(features: Tensor, sources: Sequence[Source]) -> np.ndarray:
    """``features`` in half precision; :class:`BncapError`, with the picture, if any of them is not finite there."""
    half = features.half()
    bad = ~torch.isfinite(half).flatten(1).all(1)
    if bad.any():
        raise BncapError(
            f"features of {sources[int(bad.nonzero()[0])]} are not finite in float16; "
            "check the picture and the encoder's checkpoint"
        )
    return half.numpy()


def _bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
