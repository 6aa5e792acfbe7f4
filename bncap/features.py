"""Frozen encoder features, computed once and shared by every run.

A feature folder holds, for each set of pictures, ``<set>.npy`` (N, S, C) float16 and ``<set>.csv`` with the identifier
of each row; sets are ``train``, ``synthetic``, ``validation``, ``test`` and ``ood``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from bncap import artifacts, deadline, hub, paths, workers
from bncap.corpus import read_corpus
from bncap.device import default_device
from bncap.errors import BncapError
from bncap.images import to_rgb
from bncap.loading import loading
from bncap.pictures import Member, Pictures
from bncap.settings import Config, Features

EVALUATION_SETS = ("validation", "test", "ood")
KEPT_EVERY = 64
"""Batches after which it is noted how far a set is; what an interruption can cost."""


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

        import bncap.mini.encoder  # noqa: F401  registers the mini architectures with timm

        with loading("encoder", path):
            self.model = timm.create_model(f"local-dir:{path}", pretrained=True).eval().requires_grad_(False)
        self.device = default_device()
        self.model.to(self.device, memory_format=torch.channels_last)  # a quarter faster, on a CPU as well
        settings = timm.data.resolve_model_data_config(self.model)
        self.transform: Callable[[Image.Image], Tensor] = timm.data.create_transform(**settings, is_training=False)
        self.indices = (-2, -1) if penultimate else (-1,)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[Tensor]:
        """Eq. (2): F(x) in R^{C x H x W}, S = HW, flattened to (B, S, C) float32; the final stage comes last."""
        pixels = torch.stack([self.transform(picture) for picture in pictures])  # (B, 3, H0, W0)
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


def open_picture(source: Path | Member) -> Image.Image:
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


class FeatureStore:
    """Read access to a feature folder; rows stay on disk until they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = artifacts.require(folder)
        self._arrays: dict[str, np.ndarray] = {}
        self._rows: dict[str, dict[str, int]] = {}

    def ids(self, name: str) -> list[str]:
        if name not in self._rows:
            records = artifacts.read_csv(self.folder / f"{name}.csv")
            self._rows[name] = {record["id"]: i for i, record in enumerate(records)}
        return list(self._rows[name])

    def rows(self, name: str, ids: Sequence[str]) -> np.ndarray:
        """Row numbers of ``ids`` in set ``name``, int64."""
        self.ids(name)
        missing = [i for i in ids if i not in self._rows[name]]
        if missing:
            raise BncapError(f"{self.folder.name}/{name}.npy has no features of {missing[0]}; make the features anew")
        return np.array([self._rows[name][i] for i in ids], dtype=np.int64)

    def take(self, name: str, rows: np.ndarray, penultimate: bool = False) -> Tensor:
        """(N, S, C) float32 features of ``rows`` of the set ``name``; :class:`BncapError` if any is not finite."""
        key = f"{name}.penultimate" if penultimate else name
        if key not in self._arrays:
            path = self.folder / f"{key}.npy"
            if not path.is_file():
                raise BncapError(f"{path.name} is missing in {self.folder.name}; set features.penultimate=True")
            try:
                self._arrays[key] = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise BncapError(f"{path} cannot be read ({error}); delete {self.folder} and start again") from error
        taken = torch.from_numpy(self._arrays[key][rows].astype(np.float32))
        bad = ~taken.isfinite().flatten(1).all(1)
        if bad.any():
            broken = self.ids(name)[int(rows[int(bad.nonzero()[0])])]
            raise BncapError(
                f"{self.folder / key}.npy: the features of {broken} are not finite; "
                f"delete {self.folder} and start again to make them anew"
            )
        return taken

    def channels(self, penultimate: bool = False) -> int:
        self.take("train", np.array([0]), penultimate)
        return self._arrays["train.penultimate" if penultimate else "train"].shape[2]


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
        largest_first = sorted(sets.items(), key=lambda entry: -len(entry[1]))
        model = hub.path(config, component)
        arguments = [(model, config.features, name, items, folder) for name, items in largest_first]
        workers.run_parallel(_extract, arguments, 1 if torch.cuda.is_available() else None, f"{step}/{variant}")

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


def _picture_sets(
    config: Config, corpus: Path, images: Path, with_synthetic: bool
) -> dict[str, dict[str, Path | Member]]:
    """Set name -> identifier -> source; real pictures go by their path in the dataset, synthetic ones by caption id."""
    triplets = artifacts.read_csv(images / "triplets.csv")
    sets = {"train": paths.data_paths(config, (t["image"] for t in triplets))}
    if with_synthetic:
        store = Pictures(config)
        sets["synthetic"] = {t["caption_id"]: store.find(t["synthetic"]) for t in triplets if t["synthetic"]}
    pairs = read_corpus(corpus)
    for split in EVALUATION_SETS:
        sets[split] = paths.data_paths(config, (p.image for p in pairs if p.split == split))
    return sets


def _extract(model: str, settings: Features, name: str, items: dict[str, Path | Member], folder: Path) -> None:
    """Write ``<name>.npy`` and, last, ``<name>.csv``; a set whose CSV is there was finished before.

    An interrupted set goes on at the batch noted in ``.<name>.json``.  A set without pictures has a CSV only.
    """
    if (folder / f"{name}.csv").is_file():
        return
    ids, sources = list(items), list(items.values())
    note = folder / f".{name}.json"
    if items:
        encoder = Encoder(model, settings.penultimate)
        suffixes = ["", ".penultimate"][: len(encoder.indices)]
        files = [folder / f".{name}{suffix}.npy" for suffix in suffixes]
        done, arrays = _left(note, files)
        starts = range(done, len(ids), settings.batch)
        for count, start in enumerate(tqdm(starts, desc=f"features: {name}", unit="batch")):
            if count and (deadline.reached() or count % KEPT_EVERY == 0):
                _note(note, arrays, start)
                deadline.check(f"features of the {name} set, {start:,} of {len(ids):,} pictures")
            maps = encoder([open_picture(source) for source in sources[start : start + settings.batch]])[::-1]
            arrays = arrays or [_allocate(f, (len(ids), *m.shape[1:])) for f, m in zip(files, maps, strict=True)]
            for array, m in zip(arrays, maps, strict=True):
                array[start : start + len(m)] = _half(m, sources[start : start + len(m)])
        for array, file, suffix in zip(arrays, files, suffixes, strict=True):
            array.flush()
            file.rename(folder / f"{name}{suffix}.npy")
    artifacts.write_csv(folder / f"{name}.csv", ["row", "id"], list(enumerate(ids)))
    note.unlink(missing_ok=True)


def _left(note: Path, files: Sequence[Path]) -> tuple[int, list[np.ndarray]]:
    """How many pictures an interruption left done, and their arrays; none if anything of it is damaged."""
    if not all(path.is_file() for path in (note, *files)):
        return 0, []
    try:
        for file in files:
            np.load(file, mmap_mode="r")  # to write in it would lengthen one that was cut
        return artifacts.read_json(note)["done"], [np.lib.format.open_memmap(file, mode="r+") for file in files]
    except (ValueError, KeyError, TypeError):
        return 0, []


def _half(features: Tensor, sources: Sequence[Path | Member]) -> np.ndarray:
    """``features`` in half precision; :class:`BncapError`, with the picture, if any of them is not finite there."""
    half = features.half()
    bad = ~torch.isfinite(half).flatten(1).all(1)
    if bad.any():
        raise BncapError(
            f"features of {sources[int(bad.nonzero()[0])]} are not finite in float16; "
            "check the picture and the encoder's checkpoint"
        )
    return half.numpy()


def _note(path: Path, arrays: Sequence[np.ndarray], done: int) -> None:
    for array in arrays:
        array.flush()
    artifacts.write_json(path, {"done": done})


def _allocate(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float16 array on disk with all its blocks; without them a disk that fills up later kills the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array
