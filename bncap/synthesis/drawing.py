"""One tar shard of synthetic pictures: what is drawn for it, batch by batch, and what is kept of each (Sec. 4.2.3)."""

from __future__ import annotations

import functools
import hashlib
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL
from PIL import Image
from tqdm.auto import tqdm

from bncap.data.corpus import Pair
from bncap.errors import OutOfTime
from bncap.pipeline import artifacts, deadline, paths
from bncap.pipeline.provenance import package_versions
from bncap.settings import Config, Synthesis
from bncap.synthesis import pictures
from bncap.synthesis.prompts import Prompt, Tokenizer, fit_prompt
from bncap.synthesis.text_to_image import Synthesiser, component_names

VERSIONED = ("torch", "diffusers", "transformers", "numpy")
IN_PROMPTS = ("english_tokens", "target_tokens", "seed", "shard")
"""Settings that a shard knows by its prompts and seeds."""
LOOSE = "loose"
MEASURED = 3
"""Pictures that an estimate needs."""
SESSION = 12
"""Hours of a Kaggle session."""


@dataclass(frozen=True)
class Request:
    """A picture to be drawn: for which pair, from which prompt and seed, and its place in the batch."""

    pair: Pair
    prompt: Prompt
    seed: int
    position: int


class Shard:
    """Tar shard ``number``, from 0, of ``count``: its pictures and its step folder.

    The folder's key stands for the models, the settings and the shard's own prompts and seeds, not for the corpus.
    """

    def __init__(
        self, config: Config, number: int, count: int, pairs: Sequence[Pair], tokenizers: dict[str, Tokenizer]
    ) -> None:
        self.config, self.number, self.pairs, self.tokenizers = config, number, pairs, tokenizers
        self.name = f"tar shard {number} of {count} of the synthetic pictures"
        variant = f"pictures.{number:04d}of{count:04d}"
        self.folder = paths.step_dir(config.profile, pictures.STEP, variant, config.data.seed)

    @functools.cached_property
    def requests(self) -> list[Request]:
        settings, lang = self.config.synthesis, self.config.data.lang
        budgets = settings.english_tokens, settings.target_tokens
        return [
            Request(
                pair,
                fit_prompt(pair.en, pair.target, budgets, lang, self.tokenizers),
                image_seed(settings.seed, pair.caption_id),
                i % settings.batch,
            )
            for i, pair in enumerate(self.pairs)
        ]

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """Settings and components, for :func:`bncap.pipeline.artifacts.run_step`."""
        settings = {name: value for name, value in asdict(self.config.synthesis).items() if name not in IN_PROMPTS}
        digest = hashlib.sha256()
        for request in self.requests:
            digest.update(f"{request.pair.caption_id}|{request.seed}|{request.prompt.text}\n".encode())
        named = component_names(self.config)
        settings |= {"synthesiser": named, "pictures": len(self.pairs), "requests": digest.hexdigest()}
        return {"settings": settings, "components": named, "config": self.config}

    def require(self) -> Path:
        """The finished folder; :class:`BncapError` if it is missing, or foreign: drawn from something else."""
        return artifacts.require_step(self.folder, artifacts.Step(**self.recipe), self.name)

    def is_drawn(self) -> bool:
        """Whether it is there and finished.

        One of the user's own with another key will be drawn anew, as any step is; a read-only one that is foreign is a
        :class:`BncapError`, since it was put there to be used.
        """
        if not artifacts.is_finished(self.folder):
            return False
        if not self.folder.is_relative_to(paths.artifacts_root()):
            return self.require().is_dir()
        if artifacts.read_manifest(self.folder)["key"] != artifacts.Step(**self.recipe).key:
            return False
        artifacts.check_outputs(self.folder)
        return True

    def missing(self) -> int:
        """How many of its pictures are not there yet, while it is under way."""
        there = pictures.loose_names(self.folder / LOOSE)
        return sum(f"{pair.caption_id}.json" not in there for pair in self.pairs)

    def draw(self, synthesiser: Synthesiser, estimate: Estimate, bar: tqdm) -> Path:
        """Draw what is missing and pack it: the step folder with ``pictures.tar``, ``index.csv`` and ``prompts.csv``.

        Raises :class:`bncap.errors.OutOfTime` after the batch in which the time is up; what is drawn by then is kept.
        """
        build = functools.partial(self._build, synthesiser, estimate, bar)
        return artifacts.run_step(self.folder, **self.recipe, build=build)

    def _build(self, synthesiser: Synthesiser, estimate: Estimate, bar: tqdm, folder: Path) -> None:
        loose = folder / LOOSE
        pictures.unbundle(loose)
        try:
            self._draw_missing(synthesiser, estimate, bar, folder)
        except OutOfTime:
            pictures.bundle(loose)
            raise
        shutil.rmtree(loose, ignore_errors=True)

    def _draw_missing(self, synthesiser: Synthesiser, estimate: Estimate, bar: tqdm, folder: Path) -> None:
        loose, settings = folder / LOOSE, self.config.synthesis
        if not (folder / pictures.INDEX).is_file():  # it is written last: with it, the tar is whole
            for start in range(0, len(self.requests), settings.batch):
                batch = self.requests[start : start + settings.batch]
                if not all(_is_whole(loose, request) for request in batch):
                    began = time.monotonic()
                    sizes = _draw_batch(loose, batch, synthesiser, settings)
                    estimate.add(len(batch), time.monotonic() - began, sum(sizes))
                    if (done := start + len(batch)) < len(self.pairs):
                        deadline.check(f"{self.name}, {done:,} of {len(self.pairs):,} pictures")
                bar.update(len(batch))
            artifacts.write_csv(folder / pictures.PROMPTS, *prompt_table(self.requests))
            pictures.pack(folder, loose, [request.pair.caption_id for request in self.requests])


class Estimate:
    """What drawing ``missing`` pictures will take, printed once, when three are there to measure by."""

    def __init__(self, missing: int, part: str = "") -> None:
        self.missing, self.part = missing, part
        self.pictures, self.seconds, self.bytes = 0, 0.0, 0

    def add(self, pictures: int, seconds: float, size: int) -> None:
        """Pictures that were drawn, in ``seconds``, and now take ``size`` bytes."""
        told = self.pictures >= MEASURED
        self.pictures += pictures
        self.seconds += seconds
        self.bytes += size
        if told or not MEASURED <= self.pictures < self.missing:
            return
        each = self.seconds / self.pictures
        hours = each * self.missing / 3600
        sessions = math.ceil(hours / SESSION)
        tqdm.write(
            f"synthesis estimate: {self.part}{self.missing:,} pictures to draw, {each:.3g} s each (measured on the "
            f"first {self.pictures}): {hours:{',.1f' if hours >= 1 else '.2g'}} hours, {sessions} kernel "
            f"session{'s' if sessions > 1 else ''} of {SESSION} h, "
            f"{self.bytes / self.pictures * self.missing / 1e9:.2f} GB"
        )


def image_seed(seed: int, caption_id: int) -> int:
    """Seed of one picture, in [0, 2^32).

    The paper's "fixed seed (42)" is read as the seed that all of these derive from: one seed for every picture would
    start them all from the same noise, and seeds counted in drawing order would change with the set drawn.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}|{caption_id}".encode()).digest()[:4], "big")


def prompt_table(requests: Sequence[Request]) -> tuple[list[str], list[list[int]]]:
    """Header and rows of ``prompts.csv``: the caption's id and the lengths of :func:`bncap.synthesis.prompts.fit_prompt`."""
    header = ["caption_id", *requests[0].prompt.lengths]
    return header, [[request.pair.caption_id, *request.prompt.lengths.values()] for request in requests]


def pixels_hash(picture: Image.Image) -> str:
    """SHA-256 of the RGB bytes of ``picture``, row by row."""
    return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()


def _draw_batch(loose: Path, batch: Sequence[Request], synthesiser: Synthesiser, settings: Synthesis) -> list[int]:
    """Draw one batch and write it; the last one is filled up with its last request, as all have the same shape.

    Returns the bytes that each picture, with its sidecar, will take in the tar.
    """
    full = [*batch, *[batch[-1]] * (settings.batch - len(batch))]
    drawn = synthesiser.draw([r.prompt.text for r in full], settings.negative_prompt, [r.seed for r in full])
    sizes = []
    for request, picture in zip(batch, drawn, strict=False):
        content = pictures.encode(picture, settings.stored_side)
        path = loose / f"{request.pair.caption_id}.png"
        with artifacts.atomic(path) as temporary:
            temporary.write_bytes(content)
        hashes = {"drawn_sha256": pixels_hash(picture), "image_sha256": hashlib.sha256(content).hexdigest()}
        artifacts.write_json(path.with_suffix(".json"), _sidecar(request, synthesiser, settings) | hashes)
        sizes.append(pictures.tar_size([len(content), path.with_suffix(".json").stat().st_size]))
    return sizes


def _sidecar(request: Request, synthesiser: Synthesiser, settings: Synthesis) -> dict[str, Any]:
    prompt = request.prompt
    return {
        "caption_id": request.pair.caption_id,
        "prompt": prompt.text,
        "prompt_sha256": hashlib.sha256(prompt.text.encode()).hexdigest(),
        "cut_en": prompt.cut.cut_en,
        "cut_target": prompt.cut.cut_target,
        "lengths": prompt.lengths,
        "negative_prompt": settings.negative_prompt,
        "seed": request.seed,
        "side": settings.side,
        "stored_side": settings.stored_side,
        "batch": settings.batch,
        "position": request.position,
        "components": synthesiser.components,
        "sampling": synthesiser.sampling,
        "packages": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a picture looks like."""
    return {name: package_versions()[name] for name in VERSIONED} | {"pillow": PIL.__version__}


def _is_whole(loose: Path, request: Request) -> bool:
    path = loose / f"{request.pair.caption_id}.png"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return False
    record = artifacts.read_json(path.with_suffix(".json"))
    as_wanted = (record["prompt"], record["seed"]) == (request.prompt.text, request.seed)
    return as_wanted and record["image_sha256"] == artifacts.file_hash(path)
