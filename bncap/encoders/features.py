"""Frozen encoder features (Eq. 2), computed once and shared by every run.

The sets of pictures are ``train``, ``synthetic``, ``validation``, ``test`` and ``ood``.  For each a feature folder has
``<set>.npy`` (N, S, C) float16 and ``<set>.csv`` with the row of each identifier.
"""

from __future__ import annotations

import io
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from bncap.data.images import to_rgb
from bncap.data.pairs import read_corpus
from bncap.device import default_device
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts, deadline, hub, paths, workers
from bncap.pipeline.hub import loading
from bncap.settings import Config, Features
from bncap.synthesis.shards import Member, PictureStore

EVALUATION_SETS = ("validation", "test", "ood")
MEASURED = 4
"""Pictures by which the time is estimated on a CPU; on a GPU, which is faster with many at once, a batch."""

Source = Path | Member
S = TypeVar("S")
T = TypeVar("T")


class Encoder:
    """A frozen timm model in the folder ``path`` that turns pictures into patch features.

    ``penultimate``: also of the stage before the last.  The whole classifier is loaded, strictly, and its intermediate
    maps are read: a half-empty checkpoint is a :class:`BncapError`.
    """

    def __init__(self, path: str, penultimate: bool = False) -> None:
        import timm  # heavy

        import bncap.encoders.mini_models  # noqa: F401  registers the mini architectures with timm

        with loading("encoder", path):
            self.model = timm.create_model(f"local-dir:{path}", pretrained=True).eval().requires_grad_(False)
        self.device = default_device()
        self.model.to(self.device, memory_format=torch.channels_last)  # a quarter faster, on a CPU as well
        settings = timm.data.resolve_model_data_config(self.model)
        self.transform: Callable[[Image.Image], Tensor] = timm.data.create_transform(**settings, is_training=False)
        blocks = getattr(self.model, "blocks", None)
        stages = len(blocks if isinstance(blocks, nn.Sequential) else self.model.feature_info)
        self.stages = [stages - 2, stages - 1] if penultimate else [stages - 1]

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
        options = {"indices": self.stages, "intermediates_only": True, "output_fmt": "NCHW"}
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            maps = self.model.forward_intermediates(pixels, **options)
        return [m.flatten(2).transpose(1, 2).float().cpu() for m in maps]  # (B, S, C)


def open_picture(source: Source) -> Image.Image:
    """The picture in RGB, see :func:`to_rgb`; :class:`BncapError` if it is missing or does not decode."""
    try:
        with Image.open(io.BytesIO(source.read()) if isinstance(source, Member) else source) as picture:
            return to_rgb(picture)
    except FileNotFoundError as error:
        raise BncapError(f"{source} is missing; check the folder that the annotations speak of") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BncapError(f"{source} does not decode as a picture ({error}); replace or remove it") from error


class FeatureStore:
    """Read access to a feature folder through memory maps; rows stay on disk until they are requested."""

    def __init__(self, folder: Path) -> None:
        self.folder = artifacts.require(folder)
        self._arrays: dict[str, np.ndarray] = {}
        self._rows: dict[str, dict[str, int]] = {}

    def ids(self, name: str) -> list[str]:
        """Identifiers of the set ``name``: picture paths, or caption ids for ``"synthetic"``."""
        if name not in self._rows:
            records = artifacts.read_csv(self.folder / f"{name}.csv")
            self._rows[name] = {record["id"]: int(record["row"]) for record in records}
        return list(self._rows[name])

    def rows(self, name: str, ids: Sequence[str]) -> np.ndarray:
        """Row numbers of ``ids`` in the set ``name``, int64; :class:`BncapError` for one that is not in it."""
        self.ids(name)
        missing = [i for i in ids if i not in self._rows[name]]
        if missing:
            raise BncapError(f"{self.folder.name}/{name}.npy has no features of {missing[0]}; make the features again")
        return np.array([self._rows[name][i] for i in ids], dtype=np.int64)

    def take(self, name: str, rows: Sequence[int] | np.ndarray, penultimate: bool = False) -> Tensor:
        """(N, S, C) float16 features of ``rows`` of the set ``name``; :class:`BncapError` if any is not finite."""
        taken = torch.from_numpy(self._array(name, penultimate)[np.asarray(rows, dtype=np.int64)])
        # one pass without a copy; a number that is not finite is the least or the greatest
        if len(taken) and not all(bool(bound.isfinite()) for bound in torch.aminmax(taken)):
            broken = int(rows[int((~taken.isfinite().flatten(1).all(1)).nonzero()[0])])
            identifier = next(i for i in self.ids(name) if self._rows[name][i] == broken)
            raise BncapError(
                f"{_set_file(self.folder, name, penultimate)}: the features of {identifier} are not finite; "
                f"delete {self.folder} and start again to make them again"
            )
        return taken

    def channels(self, penultimate: bool = False) -> int:
        """C of the training pictures' features."""
        return self._array("train", penultimate).shape[2]

    def _array(self, name: str, penultimate: bool) -> np.ndarray:
        path = _set_file(self.folder, name, penultimate)
        if path.name not in self._arrays:
            if not path.is_file():
                raise BncapError(f"{path.name} is missing in {self.folder.name}; set features.penultimate=True")
            try:
                self._arrays[path.name] = np.load(path, mmap_mode="r")  # fails if the file is shorter than its header
            except (OSError, ValueError, EOFError) as error:
                raise BncapError(f"{path} cannot be read ({error}); delete {path.parent} and start again") from error
        return self._arrays[path.name]


def _set_file(folder: Path, name: str, penultimate: bool = False) -> Path:
    return folder / (f"{name}.penultimate.npy" if penultimate else f"{name}.npy")


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
    folder = paths.step_dir(config.profile, step, variant, seed)
    return artifacts.run_step(
        folder, settings=settings, inputs=inputs, components=[component], build=build, config=config
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
    left = [name for name in sets if not (folder / f"{name}.csv").is_file()]
    pictures = {name: list(dict.fromkeys(sets[name].values())) for name in left}
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
    size, free = rows * torch.float16.itemsize * sum(m[0].numel() for m in maps), shutil.disk_usage(folder).free
    taken = tqdm.format_sizeof(size, "B")
    if size > free:
        raise BncapError(
            f"{folder}: the features ({what}) take {taken} and the disk has {tqdm.format_sizeof(free, 'B')} free; make "
            "room, or let BNCAP_ARTIFACTS name a folder on a larger disk"
        )
    print(f"features: {what}: {taken} in {folder}, in about {tqdm.format_interval(max(1, each * rows))}", flush=True)


def write_set(folder: Path, name: str, rows: Mapping[str, int], batches: Iterable[Sequence[np.ndarray]]) -> None:
    """Write the set ``name``; its files get their names when they are complete, ``<set>.csv`` last.

    ``rows``: the row of each identifier; ``batches``: the maps of the rows 0, 1, ..., each (B, S, C) float16, of the
    final stage and, where it is kept, of the one before, for ``<set>.penultimate.npy``.
    """
    count = len(set(rows.values()))
    paths = [_set_file(folder, name), _set_file(folder, name, penultimate=True)]
    arrays: list[np.memmap] = []
    done = 0
    for maps in batches:
        if not arrays:
            arrays = [
                np.lib.format.open_memmap(path.with_name(f".{path.name}"), "w+", np.float16, (count, *m.shape[1:]))
                for path, m in zip(paths, maps, strict=False)
            ]
        for array, m in zip(arrays, maps, strict=True):
            array[done : done + len(m)] = m
        done += len(maps[0])
    for array, path in zip(arrays, paths, strict=False):
        array.flush()
        path.with_name(f".{path.name}").rename(path)
    artifacts.write_csv(folder / f"{name}.csv", ["row", "id"], [(row, i) for i, row in rows.items()])


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
            halves = [m.half() for m in maps]
            for half in halves:
                if (bad := ~torch.isfinite(half).flatten(1).all(1)).any():
                    raise BncapError(
                        f"features of {pictures[start + int(bad.nonzero()[0])]} are not finite in float16; "
                        "check the picture and the encoder's checkpoint"
                    )
            yield [half.numpy() for half in halves]


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


def prefetched(function: Callable[[S], T], items: Iterable[S], threads: int = 1, ahead: int = 4) -> Generator[T]:
    """``function`` of each item, in order, with at most ``ahead`` results made before they are asked for.

    What ``function`` raises is raised here in its turn.  The threads end with the iterator, also if it is closed early.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
