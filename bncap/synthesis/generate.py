"""A synthetic picture for each training pair: which are drawn, in which tar shards, and the list of triplets."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import Image
from tqdm.auto import tqdm

from bncap.data.corpus import Pair, read_corpus
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts, deadline, paths, workers
from bncap.pipeline.artifacts import package_versions
from bncap.settings import Config, Synthesis
from bncap.synthesis.prompts import WINDOW, Prompt, Tokenizer, fit_prompt
from bncap.synthesis.shards import INDEX, PROMPTS, STEP, TAR, bundle, encode, loose_names, pack, tar_size, unbundle
from bncap.synthesis.text_to_image import NONE, Synthesiser, component_names, load_synthesiser, load_tokenizers

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
        self.folder = paths.step_dir(config.profile, STEP, variant, config.data.seed)

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
        return artifacts.require_step(self.folder, artifacts.Step(**self.recipe, build=self._build), self.name)

    def is_drawn(self) -> bool:
        """Whether it is there and finished.

        One of the user's own with another key will be drawn anew, as any step is; a read-only one that is foreign is a
        :class:`BncapError`, since it was put there to be used.
        """
        if not artifacts.is_finished(self.folder):
            return False
        if not self.folder.is_relative_to(paths.artifacts_root()):
            return self.require().is_dir()
        if not artifacts.Step(**self.recipe, build=self._build).is_current(self.folder):
            return False
        artifacts.check_outputs(self.folder)
        return True

    def missing(self) -> int:
        """How many of its pictures are not there yet, while it is under way."""
        there = loose_names(self.folder / LOOSE)
        return sum(f"{pair.caption_id}.json" not in there for pair in self.pairs)

    def draw(self, synthesiser: Synthesiser, estimate: Estimate, bar: tqdm) -> Path:
        """Draw what is missing and pack it: the step folder with ``pictures.tar``, ``index.csv`` and ``prompts.csv``.

        Raises :class:`bncap.errors.OutOfTime` after the batch in which the time is up; what is drawn by then is kept.
        """
        build = functools.partial(self._build, synthesiser, estimate, bar)
        return artifacts.run_step(self.folder, **self.recipe, build=build)

    def _build(self, synthesiser: Synthesiser, estimate: Estimate, bar: tqdm, folder: Path) -> None:
        loose = folder / LOOSE
        unbundle(loose)
        try:
            self._draw_missing(synthesiser, estimate, bar, folder)
        except OutOfTime:
            bundle(loose)
            raise
        shutil.rmtree(loose, ignore_errors=True)

    def _draw_missing(self, synthesiser: Synthesiser, estimate: Estimate, bar: tqdm, folder: Path) -> None:
        loose, settings = folder / LOOSE, self.config.synthesis
        if not (folder / INDEX).is_file():  # it is written last: with it, the tar is whole
            for start in range(0, len(self.requests), settings.batch):
                batch = self.requests[start : start + settings.batch]
                if not all(_is_whole(loose, request) for request in batch):
                    began = time.monotonic()
                    sizes = _draw_batch(loose, batch, synthesiser, settings)
                    estimate.add(len(batch), time.monotonic() - began, sum(sizes))
                    if (done := start + len(batch)) < len(self.pairs):
                        deadline.check(f"{self.name}, {done:,} of {len(self.pairs):,} pictures")
                bar.update(len(batch))
            artifacts.write_csv(folder / PROMPTS, *prompt_table(self.requests))
            pack(folder, loose, [request.pair.caption_id for request in self.requests])


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
        content = encode(picture, settings.stored_side)
        path = loose / f"{request.pair.caption_id}.png"
        with artifacts.atomic(path) as temporary:
            temporary.write_bytes(content)
        hashes = {"drawn_sha256": pixels_hash(picture), "image_sha256": hashlib.sha256(content).hexdigest()}
        artifacts.write_json(path.with_suffix(".json"), _sidecar(request, synthesiser, settings) | hashes)
        sizes.append(tar_size([len(content), path.with_suffix(".json").stat().st_size]))
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


TRIPLETS_HEADER = ("caption_id", "image_id", "image", "synthetic", "en", "target")


def draw_pairs(pairs: Sequence[Pair], triplets: int, captions_per_image: int, seed: int) -> list[Pair]:
    """``triplets`` training pairs drawn at random, at most ``captions_per_image`` of one image, by caption id.

    Fewer if there are no more.  A larger ``triplets`` contains what a smaller one draws.
    """
    order = sorted((pair for pair in pairs if pair.split == "train"), key=lambda pair: pair.caption_id)
    random.Random(seed).shuffle(order)
    taken: dict[str, int] = {}
    drawn = []
    for pair in order:
        if len(drawn) < triplets and taken.get(pair.image_id, 0) < captions_per_image:
            taken[pair.image_id] = taken.get(pair.image_id, 0) + 1
            drawn.append(pair)
    return sorted(drawn, key=lambda pair: pair.caption_id)


def build_images(config: Config) -> Path:
    """A synthetic picture for each of ``data.triplets`` accepted training pairs: ``02_synthesis/images-s<seed>``.

    Draws the tar shards that are missing and lists all of them in ``triplets.csv``, whose column ``synthetic`` is a
    name for :class:`bncap.synthesis.shards.Pictures`: of the picture drawn, of the one that the data set brings, or "" where
    ``components.synthesiser`` is "none".  ``prompts.csv`` has the lengths of the prompts before and after cutting.

    Raises :class:`BncapError` without an accepted training pair and, by its name, for a shard drawn from something
    else; :class:`bncap.errors.OutOfTime` when the minutes are used up.
    """
    accepted, pairs = _training_pairs(config)
    shards = plan(config, pairs)
    folder = paths.step_dir(config.profile, STEP, "images", config.data.seed)
    if not _is_current(folder, config, shards):
        _draw(config, shards, None)
    build = functools.partial(_merge, config, shards, pairs, len(accepted))
    return artifacts.run_step(folder, **_recipe(config, shards), build=build)


def draw_shards(config: Config, part: tuple[int, int] | None = None) -> None:
    """Draw the tar shards that are missing; with ``part`` (i, n), only those whose number is i - 1 modulo n.

    Without ``part`` a machine with several GPUs starts a process for each.  An interrupted run goes on where it was,
    batch by batch.  Raises what :func:`build_images` raises.
    """
    _draw(config, plan(config, _training_pairs(config)[1]), part)


def plan(config: Config, pairs: Sequence[Pair]) -> list[Shard]:
    """The tar shards of the pictures that ``pairs`` need, ``synthesis.shard`` in each; none for synthesiser "none"."""
    settings = config.synthesis
    if not pairs:
        raise BncapError(
            f"{paths.short_name(_corpus(config))} has no accepted training pair; lower data.threshold and make it again"
        )
    if (tokens := settings.english_tokens + settings.target_tokens) > WINDOW:
        raise BncapError(
            f"synthesis.english_tokens + synthesis.target_tokens = {tokens}: the text encoders read {WINDOW} tokens "
            "of a prompt; lower one of the two"
        )
    wanted = [pair for pair in pairs if not pair.synthetic]
    if config.components.synthesiser == NONE or not wanted:
        return []
    count, tokenizers = -(-len(wanted) // settings.shard), load_tokenizers(config)
    parts = [wanted[start : start + settings.shard] for start in range(0, len(wanted), settings.shard)]
    return [Shard(config, number, count, part, tokenizers) for number, part in enumerate(parts)]


def _draw(config: Config, shards: Sequence[Shard], part: tuple[int, int] | None) -> None:
    processes = min(torch.cuda.device_count(), len(shards))
    if part is None and processes > 1:
        jobs = [(config, number, processes) for number in range(1, processes + 1)]
        workers.run_parallel(_draw_on_gpu, jobs, processes, "synthetic pictures, a process for each GPU")
        return
    number, count = part or (1, 1)
    left = [shard for shard in shards if shard.number % count == number - 1 and not shard.is_drawn()]
    if not left:
        print("synthetic pictures: none is left to draw")
        return
    synthesiser = load_synthesiser(config)
    estimate = Estimate(sum(shard.missing() for shard in left), f"part {number} of {count}, " if count > 1 else "")
    with tqdm(total=sum(len(shard.pairs) for shard in left), desc="synthetic pictures", unit="picture") as bar:
        for done, shard in enumerate(left):
            if done:
                deadline.check(f"{left[done - 1].name}, which is finished")
            shard.draw(synthesiser, estimate, bar)


def _draw_on_gpu(config: Config, number: int, count: int) -> None:
    """Part ``number`` of ``count`` on the GPU of that number; runs in a process of its own."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number - 1]  # before anything asks CUDA what there is
    draw_shards(config, (number, count))


def _recipe(config: Config, shards: Sequence[Shard]) -> dict[str, Any]:
    """What ``images-s<seed>`` is made from, for :func:`bncap.pipeline.artifacts.run_step`."""
    named = component_names(config)
    settings = {
        "triplets": config.data.triplets,
        "captions_per_image": config.data.captions_per_image,
        "lang": config.data.lang,
        "seed": config.data.seed,
        "synthesis": asdict(config.synthesis),
        "synthesiser": named,
    }
    inputs = [_corpus(config), *(shard.folder for shard in shards)]
    return {"settings": settings, "inputs": inputs, "components": named, "config": config}


def _is_current(folder: Path, config: Config, shards: Sequence[Shard]) -> bool:
    """Whether the list and all shards are there and match; quicker than counting the tokens of every prompt again."""
    if not all(artifacts.is_finished(path) for path in (folder, *(shard.folder for shard in shards))):
        return False
    return artifacts.Step(**_recipe(config, shards), build=_merge).is_current(folder)


def _merge(config: Config, shards: Sequence[Shard], pairs: Sequence[Pair], accepted: int, folder: Path) -> None:
    names, prompts, hashes = {}, [], []
    for shard in shards:
        made = shard.require()
        prompts += artifacts.read_csv(made / PROMPTS)
        for row in artifacts.read_csv(made / INDEX):
            names[int(row["caption_id"])] = f"{made.name}/{row['caption_id']}.png"
            hashes.append(row["sha256"])
    hashes += [_brought_hash(config, pair) for pair in pairs if pair.synthetic]
    names |= {pair.caption_id: pair.synthetic for pair in pairs if pair.synthetic}
    rows = [(p.caption_id, p.image_id, p.image, names.get(p.caption_id, ""), p.en, p.target) for p in pairs]
    artifacts.write_csv(folder / "triplets.csv", TRIPLETS_HEADER, rows)
    if prompts:
        artifacts.write_csv(folder / PROMPTS, list(prompts[0]), [list(row.values()) for row in prompts])
    counts = {
        "accepted_train_pairs": accepted,
        "triplets_wanted": config.data.triplets,
        "triplets": len(pairs),
        "real_images": len({pair.image_id for pair in pairs}),
        "paired": len(names),
        "drawn_images": sum(len(shard.pairs) for shard in shards),
        "drawn_bytes": sum((shard.folder / TAR).stat().st_size for shard in shards),
        # every picture takes part in the hash of this file, and so in the key of what is made from the pictures
        "pictures_sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        **prompt_counts(prompts),
    }
    artifacts.write_json(folder / "counts.json", counts)


def prompt_counts(prompts: Sequence[dict[str, str]]) -> dict[str, float]:
    """Of the rows of ``prompts.csv``: how many prompts were cut, and how many words of each language survive."""
    halves = [("en_words", "en_words_kept"), ("target_words", "target_words_kept")]
    cut = sum(any(row[kept] != row[words] for words, kept in halves) for row in prompts)
    counts = {"prompts": len(prompts), "prompts_cut": cut, "prompts_cut_share": _share(cut, len(prompts))}
    for words, kept in halves:
        counts |= {name: sum(int(row[name]) for row in prompts) for name in (words, kept)}
        counts[f"{kept}_share"] = _share(counts[kept], counts[words])
    return counts


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _brought_hash(config: Config, pair: Pair) -> str:
    path = paths.data_path(config, pair.synthetic)
    if not path.is_file():
        raise BncapError(f"{path}, the synthetic picture of caption {pair.caption_id}, is missing; put it there")
    return artifacts.file_hash(path)


def _training_pairs(config: Config) -> tuple[list[Pair], list[Pair]]:
    """The accepted pairs of the training split, and those of them that become triplets."""
    accepted = [pair for pair in read_corpus(_corpus(config)) if pair.split == "train"]
    return accepted, draw_pairs(accepted, config.data.triplets, config.data.captions_per_image, config.data.seed)


def _corpus(config: Config) -> Path:
    return paths.step_dir(config.profile, "01_data_build", "corpus", config.data.seed)
