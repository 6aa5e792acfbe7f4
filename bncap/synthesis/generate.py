"""A synthetic picture for each training pair: which pairs are drawn, in which tar shards, and the list of triplets.

A tar shard is a step of its own, drawn batch by batch: a finished one is never drawn again, and an interrupted one
continues at its next batch (Sec. 4.2.3).
"""

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

import pandas as pd
import PIL
import torch
from tqdm.auto import tqdm

from bncap.data.pairs import Pair, read_corpus
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts, deadline, paths, workers
from bncap.settings import Config, Synthesis
from bncap.synthesis import shards as tars
from bncap.synthesis.prompts import WINDOW, Prompt, Tokenizer, fit_prompt
from bncap.synthesis.shards import INDEX, PROMPTS, STEP, TAR
from bncap.synthesis.text_to_image import NONE, Synthesiser, component_names, load_synthesiser, load_tokenizers

TRIPLETS_HEADER = ("caption_id", "image_id", "image", "synthetic", "en", "target")
VERSIONED = ("torch", "diffusers", "transformers", "numpy")
"""Packages that decide what a picture looks like."""
IN_PROMPTS = ("english_tokens", "target_tokens", "seed", "shard")
"""Settings that the key of a shard holds by its prompts and seeds."""
WORDS, WORDS_KEPT = ["en_words", "target_words"], ["en_words_kept", "target_words_kept"]
LOOSE = "loose"
"""Folder of the pictures of a shard that is not complete."""
MEASURED, SESSION = 3, 12
"""Pictures that an estimate needs; hours of a Kaggle session."""


def draw_pairs(pairs: Sequence[Pair], triplets: int, captions_per_image: int, seed: int) -> list[Pair]:
    """``triplets`` training pairs drawn at random, at most ``captions_per_image`` of one image, by caption id.

    Fewer if there are no more.  A larger ``triplets`` contains what a smaller one draws.
    """
    order = sorted((pair for pair in pairs if pair.split == "train"), key=lambda pair: pair.caption_id)
    random.Random(seed).shuffle(order)
    taken: dict[str, int] = {}
    drawn: list[Pair] = []
    for pair in order:
        if len(drawn) < triplets and taken.get(pair.image_id, 0) < captions_per_image:
            taken[pair.image_id] = taken.get(pair.image_id, 0) + 1
            drawn.append(pair)
    return sorted(drawn, key=lambda pair: pair.caption_id)


def derive_seed(seed: int, caption_id: int) -> int:
    """Seed of one picture, in [0, 2^32).

    The paper's "fixed seed (42)" is read as the seed that all of these derive from: one seed for every picture would
    start them all from the same noise, and seeds counted in drawing order would change with the set drawn.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}|{caption_id}".encode()).digest()[:4], "big")


def build_images(config: Config) -> Path:
    """A synthetic picture for each of ``data.triplets`` accepted training pairs: ``02_synthesis/images-s<seed>``.

    Draws the tar shards that are missing and lists all of them in ``triplets.csv``; its column ``synthetic`` is a name
    for :class:`bncap.synthesis.shards.PictureStore`, or "" where ``components.synthesiser`` is "none".  Raises
    :class:`BncapError` without an accepted training pair and, by its name, for a shard drawn from something else;
    :class:`bncap.errors.OutOfTime` when the minutes are used up.
    """
    accepted, pairs = _training_pairs(config)
    shards = plan_shards(config, pairs)
    folder = paths.step_dir(config.profile, STEP, "images", config.data.seed)
    # where all is there and matches, the tokens of every prompt need not be counted again
    finished = all(artifacts.is_finished(path) for path in (folder, *(shard.folder for shard in shards)))
    if not finished or not artifacts.Step(**_recipe(config, shards), build=_merge).is_current(folder):
        _draw(config, shards, None)
    build = functools.partial(_merge, config, shards, pairs, len(accepted))
    return artifacts.run_step(folder, **_recipe(config, shards), build=build)


def draw_shards(config: Config, part: tuple[int, int] | None = None) -> None:
    """Draw the tar shards that are missing; with ``part`` (i, n), only those whose number is i - 1 modulo n.

    Without ``part`` a machine with several GPUs starts a process for each.  Raises as :func:`build_images` does.
    """
    _draw(config, plan_shards(config, _training_pairs(config)[1]), part)


def plan_shards(config: Config, pairs: Sequence[Pair]) -> list[TarShard]:
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
    missing = [pair for pair in pairs if not pair.synthetic]
    if config.components.synthesiser == NONE or not missing:
        return []
    tokenizers = load_tokenizers(config)
    parts = [missing[start : start + settings.shard] for start in range(0, len(missing), settings.shard)]
    return [TarShard(config, number, len(parts), part, tokenizers) for number, part in enumerate(parts)]


@dataclass(frozen=True)
class PictureRequest:
    """A picture to be drawn, and its place in the batch."""

    pair: Pair
    prompt: Prompt
    seed: int
    position: int


class TarShard:
    """Tar shard ``number``, from 0, of ``count``; its key stands for models, settings, its own prompts and seeds."""

    def __init__(
        self, config: Config, number: int, count: int, pairs: Sequence[Pair], tokenizers: dict[str, Tokenizer]
    ) -> None:
        self.config, self.number, self.pairs, self.tokenizers = config, number, pairs, tokenizers
        self.name = f"tar shard {number} of {count} of the synthetic pictures"
        variant = f"pictures.{number:04d}of{count:04d}"
        self.folder = paths.step_dir(config.profile, STEP, variant, config.data.seed)

    @functools.cached_property
    def requests(self) -> list[PictureRequest]:
        """A request for each of ``pairs``, in their order."""
        settings, requests = self.config.synthesis, []
        budgets = settings.english_tokens, settings.target_tokens
        for i, pair in enumerate(self.pairs):
            prompt = fit_prompt(pair.en, pair.target, budgets, self.config.data.lang, self.tokenizers)
            seed = derive_seed(settings.seed, pair.caption_id)
            requests.append(PictureRequest(pair, prompt, seed, i % settings.batch))
        return requests

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

    @functools.cached_property
    def step(self) -> artifacts.Step:
        """The step, to compare with a finished folder."""
        return artifacts.Step(**self.recipe, build=self._build)

    def is_drawn(self) -> bool:
        """Whether the folder is there and finished.

        One of the user's own with another key will be drawn again; a read-only one is a :class:`BncapError`, since it
        was put there to be used.
        """
        if not artifacts.is_finished(self.folder):
            return False
        if not self.folder.is_relative_to(paths.artifacts_root()):
            return artifacts.require_step(self.folder, self.step, self.name).is_dir()
        if not self.step.is_current(self.folder):
            return False
        artifacts.check_outputs(self.folder)
        return True

    def draw(self, synthesiser: Synthesiser, estimate: TimeEstimate, bar: tqdm) -> None:
        """Draw what is missing and pack it; :class:`bncap.errors.OutOfTime` keeps what is drawn by then."""
        build = functools.partial(self._build, synthesiser, estimate, bar)
        artifacts.run_step(self.folder, **self.recipe, build=build)

    def _build(self, synthesiser: Synthesiser, estimate: TimeEstimate, bar: tqdm, folder: Path) -> None:
        loose = folder / LOOSE
        tars.unbundle_pictures(loose)
        if not (folder / INDEX).is_file():  # it is written last: with it, the tar is whole
            try:
                self._draw_batches(loose, synthesiser, estimate, bar)
            except OutOfTime:
                tars.bundle_pictures(loose)
                raise
            lengths = [{"caption_id": r.pair.caption_id} | r.prompt.lengths for r in self.requests]
            artifacts.write_csv(folder / PROMPTS, list(lengths[0]), ([*row.values()] for row in lengths))
            tars.pack_shard(folder, loose, [pair.caption_id for pair in self.pairs])
        shutil.rmtree(loose, ignore_errors=True)

    def _draw_batches(self, loose: Path, synthesiser: Synthesiser, estimate: TimeEstimate, bar: tqdm) -> None:
        settings = self.config.synthesis
        for start in range(0, len(self.requests), settings.batch):
            batch = self.requests[start : start + settings.batch]
            if not all(_is_whole(loose, request) for request in batch):
                began = time.monotonic()
                size = _draw_batch(loose, batch, synthesiser, settings)
                estimate.add(len(batch), time.monotonic() - began, size)
                if (done := start + len(batch)) < len(self.pairs):
                    deadline.check(f"{self.name}, {done:,} of {len(self.pairs):,} pictures")
            bar.update(len(batch))


class TimeEstimate:
    """What drawing ``missing`` pictures will take, printed once, when :data:`MEASURED` of them are drawn."""

    def __init__(self, missing: int, part: str = "") -> None:
        self.missing, self.part = missing, part
        self.pictures, self.seconds, self.bytes = 0, 0.0, 0

    def add(self, pictures: int, seconds: float, size: int) -> None:
        """Count pictures that were drawn, in ``seconds``, and now take ``size`` bytes."""
        printed = self.pictures >= MEASURED
        self.pictures, self.seconds, self.bytes = self.pictures + pictures, self.seconds + seconds, self.bytes + size
        if printed or not MEASURED <= self.pictures < self.missing:
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


def drawing_versions() -> dict[str, str]:
    """Versions of the packages that decide what a picture looks like."""
    versions = artifacts.package_versions()
    return {name: versions[name] for name in VERSIONED} | {"pillow": PIL.__version__}


def _draw(config: Config, shards: Sequence[TarShard], part: tuple[int, int] | None) -> None:
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
    missing = 0
    for shard in left:
        names = tars.list_loose(shard.folder / LOOSE)
        missing += sum(f"{pair.caption_id}.json" not in names for pair in shard.pairs)
    estimate = TimeEstimate(missing, f"part {number} of {count}, " if count > 1 else "")
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


def _draw_batch(loose: Path, batch: Sequence[PictureRequest], synthesiser: Synthesiser, settings: Synthesis) -> int:
    """Draw one batch and write it; the last one is filled up with its last request, as all have the same shape.

    Returns the bytes of the pictures and their sidecars.
    """
    full = [*batch, *[batch[-1]] * (settings.batch - len(batch))]
    drawn = synthesiser.draw([r.prompt.text for r in full], settings.negative_prompt, [r.seed for r in full])
    size = 0
    for request, picture in zip(batch, drawn, strict=False):
        content, prompt = tars.encode_picture(picture, settings.stored_side), request.prompt
        path = loose / f"{request.pair.caption_id}.png"
        with artifacts.atomic(path) as temporary:
            temporary.write_bytes(content)
        sidecar = {
            "caption_id": request.pair.caption_id,
            "prompt": prompt.text, "prompt_sha256": hashlib.sha256(prompt.text.encode()).hexdigest(),
            "cut_en": prompt.cut.cut_en, "cut_target": prompt.cut.cut_target, "lengths": prompt.lengths,
            "negative_prompt": settings.negative_prompt, "seed": request.seed,
            "side": settings.side, "stored_side": settings.stored_side,
            "batch": settings.batch, "position": request.position,
            "components": synthesiser.components, "sampling": synthesiser.sampling, "packages": drawing_versions(),
            "drawn_sha256": hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest(),  # RGB bytes, row by row
            "image_sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
        artifacts.write_json(path.with_suffix(".json"), sidecar)
        size += len(content) + path.with_suffix(".json").stat().st_size
    return size


def _is_whole(loose: Path, request: PictureRequest) -> bool:
    path = loose / f"{request.pair.caption_id}.png"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return False
    sidecar = artifacts.read_json(path.with_suffix(".json"))
    same = (sidecar["prompt"], sidecar["seed"]) == (request.prompt.text, request.seed)
    return same and sidecar["image_sha256"] == artifacts.file_hash(path)


def _recipe(config: Config, shards: Sequence[TarShard]) -> dict[str, Any]:
    """What ``images-s<seed>`` is made from, for :func:`bncap.pipeline.artifacts.run_step`."""
    named = component_names(config)
    settings: dict[str, Any] = {
        name: getattr(config.data, name) for name in ("triplets", "captions_per_image", "lang", "seed")
    }
    settings |= {"synthesis": asdict(config.synthesis), "synthesiser": named}
    inputs = [_corpus(config), *(shard.folder for shard in shards)]
    return {"settings": settings, "inputs": inputs, "components": named, "config": config}


def _merge(config: Config, shards: Sequence[TarShard], pairs: Sequence[Pair], accepted: int, folder: Path) -> None:
    names, hashes = {}, []
    for shard in shards:
        for row in artifacts.read_csv(artifacts.require_step(shard.folder, shard.step, shard.name) / INDEX):
            names[int(row["caption_id"])] = f"{shard.folder.name}/{row['caption_id']}.png"
            hashes.append(row["sha256"])
    for pair in pairs:
        if pair.synthetic:
            names[pair.caption_id] = pair.synthetic
            path = paths.data_path(config, pair.synthetic)
            if not path.is_file():
                raise BncapError(
                    f"{path}, the synthetic picture of caption {pair.caption_id}, is missing; put it there"
                )
            hashes.append(artifacts.file_hash(path))
    rows = [(p.caption_id, p.image_id, p.image, names.get(p.caption_id, ""), p.en, p.target) for p in pairs]
    artifacts.write_csv(folder / "triplets.csv", TRIPLETS_HEADER, rows)
    prompts = pd.DataFrame(columns=[*WORDS, *WORDS_KEPT], dtype=int)
    if shards:
        prompts = pd.concat([pd.read_csv(shard.folder / PROMPTS) for shard in shards])
        artifacts.write_csv(folder / PROMPTS, list(prompts), prompts.itertuples(index=False, name=None))
    counts: dict[str, Any] = {
        "accepted_train_pairs": accepted,
        "triplets_wanted": config.data.triplets,
        "triplets": len(pairs),
        "real_images": len({pair.image_id for pair in pairs}),
        "paired": len(names),
        "drawn_images": sum(len(shard.pairs) for shard in shards),
        "drawn_bytes": sum((shard.folder / TAR).stat().st_size for shard in shards),
        # every picture takes part in the hash of this file, and so in the key of what is made from the pictures
        "pictures_sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
    }
    cut = int((prompts[WORDS].to_numpy() != prompts[WORDS_KEPT].to_numpy()).any(axis=1).sum())
    counts |= {"prompts": len(prompts), "prompts_cut": cut, "prompts_cut_share": _share(cut, len(prompts))}
    counts |= {name: int(prompts[name].sum()) for name in (*WORDS, *WORDS_KEPT)}
    counts |= {f"{kept}_share": _share(counts[kept], counts[n]) for n, kept in zip(WORDS, WORDS_KEPT, strict=True)}
    artifacts.write_json(folder / "counts.json", counts)


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _training_pairs(config: Config) -> tuple[list[Pair], list[Pair]]:
    """The accepted pairs of the training split, and those of them that become triplets."""
    accepted = [pair for pair in read_corpus(_corpus(config)) if pair.split == "train"]
    return accepted, draw_pairs(accepted, config.data.triplets, config.data.captions_per_image, config.data.seed)


def _corpus(config: Config) -> Path:
    return paths.step_dir(config.profile, "01_data_build", "corpus", config.data.seed)
