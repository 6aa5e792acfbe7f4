"""A synthetic picture for each training pair: which are drawn, in which tar shards, and the list of triplets."""

from __future__ import annotations

import functools
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from bncap.data.corpus import Pair, read_corpus
from bncap.errors import BncapError
from bncap.pipeline import artifacts, deadline, paths, workers
from bncap.settings import Config
from bncap.synthesis import pictures
from bncap.synthesis.drawing import Estimate, Shard
from bncap.synthesis.prompts import WINDOW
from bncap.synthesis.text_to_image import NONE, component_names, load_synthesiser, load_tokenizers

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
    name for :class:`bncap.synthesis.pictures.Pictures`: of the picture drawn, of the one that the data set brings, or "" where
    ``components.synthesiser`` is "none".  ``prompts.csv`` has the lengths of the prompts before and after cutting.

    Raises :class:`BncapError` without an accepted training pair and, by its name, for a shard drawn from something
    else; :class:`bncap.errors.OutOfTime` when the minutes are used up.
    """
    accepted, pairs = _training_pairs(config)
    shards = plan(config, pairs)
    folder = paths.step_dir(config.profile, pictures.STEP, "images", config.data.seed)
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
    return artifacts.read_manifest(folder)["key"] == artifacts.Step(**_recipe(config, shards)).key


def _merge(config: Config, shards: Sequence[Shard], pairs: Sequence[Pair], accepted: int, folder: Path) -> None:
    names, prompts, hashes = {}, [], []
    for shard in shards:
        made = shard.require()
        prompts += artifacts.read_csv(made / pictures.PROMPTS)
        for row in artifacts.read_csv(made / pictures.INDEX):
            names[int(row["caption_id"])] = f"{made.name}/{row['caption_id']}.png"
            hashes.append(row["sha256"])
    hashes += [_brought_hash(config, pair) for pair in pairs if pair.synthetic]
    names |= {pair.caption_id: pair.synthetic for pair in pairs if pair.synthetic}
    rows = [(p.caption_id, p.image_id, p.image, names.get(p.caption_id, ""), p.en, p.target) for p in pairs]
    artifacts.write_csv(folder / "triplets.csv", TRIPLETS_HEADER, rows)
    if prompts:
        artifacts.write_csv(folder / pictures.PROMPTS, list(prompts[0]), [list(row.values()) for row in prompts])
    counts = {
        "accepted_train_pairs": accepted,
        "triplets_wanted": config.data.triplets,
        "triplets": len(pairs),
        "real_images": len({pair.image_id for pair in pairs}),
        "paired": len(names),
        "drawn_images": sum(len(shard.pairs) for shard in shards),
        "drawn_bytes": sum((shard.folder / pictures.TAR).stat().st_size for shard in shards),
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
