"""The mini world on disk: pictures and annotations in COCO's and Flickr30k's own layout; and the small models.

Everything downstream reads these files as it would read the real ones.  ``train2014`` and ``val2014`` are in-domain,
``flickr30k`` is out of domain.  As an extra, each object's annotation has its ``colour``, and Flickr30k's pictures have
an ``instances.json``.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from bncap.data.readers import FLICKR_HEADER
from bncap.mini.corpus import texts_for
from bncap.mini.draw import boxes, paint
from bncap.mini.grammar import captions_en
from bncap.mini.scene import KINDS, SIDE, sample_scene
from bncap.pipeline import hub
from bncap.pipeline.artifacts import (  # fmt: skip
    MANIFEST,
    Step,
    atomic,
    read_json,
    run_step,
    write_json,
    write_text,
)
from bncap.pipeline.paths import dataset_roots, step_dir
from bncap.pipeline.workers import run_parallel
from bncap.settings import Components, Config, World

STEP = "00_mini_world"
CAPTIONS = 5
JPEG_QUALITY = 90
TRAINED_PARTS = ("encoder", "decoder", "verifier", "bertscore", "gpt2", "vit", "cnn")
"""Components of the configuration that consist of weights, where they are mini ones."""
LONGEST_FIRST = ("encoder", "vit", "cnn", "decoder", "bertscore", "gpt2", "verifier")
"""The same in the order in which they are trained."""
OWN_PARTS = ("encoder", "decoder", "bertscore")
"""Those that serve a user's own data; the others know the mini world alone, or are for comparisons made there."""
LANGUAGE_PARTS = ("decoder", "bertscore", "gpt2")
"""Those that are made by :mod:`bncap.mini.text_models`."""
IMAGE_PARTS = {"encoder": "bncap_maxvit_mini", "vit": "bncap_vit_mini", "cnn": "bncap_cnn_mini"}
"""Those that are made by :mod:`bncap.mini.encoder` -> their architecture there."""

_CATEGORIES = [{"id": i, "name": kind, "supercategory": "object"} for i, kind in enumerate(KINDS, 1)]


@dataclass
class _Records:
    """COCO records of one split as they gather."""

    images: list[dict[str, Any]] = field(default_factory=list)
    captions: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)


def build_world(config: Config) -> Path:
    """Paint the pictures, write captions and boxes; the dataset root.

    Each picture depends on ``data.seed`` and its own number alone, so a larger world begins with the same pictures.
    The annotations are written last.
    """
    world = config.world
    sizes = {name: value for name, value in asdict(world).items() if name.endswith("_images")}
    return run_step(
        dataset_roots(config)[0],
        settings={**sizes, "seed": config.data.seed},
        build=partial(_paint_splits, world, config.data.seed),
        config=config,
    )


def _paint_splits(world: World, seed: int, folder: Path) -> None:
    held_out = world.validation_images + world.test_images
    splits = {"train2014": world.train_images, "val2014": held_out, "flickr30k": world.ood_images}
    gathered = {split: _Records() for split in splits}
    with tqdm(total=sum(splits.values()), desc="painting", unit="picture") as bar:
        for split, count in splits.items():
            # ids do not overlap between train2014 and val2014, as in COCO
            first = 1 + (500_000 if split == "val2014" else 0)
            for image_id in range(first, first + count):
                _paint_image(folder, split, image_id, seed, gathered[split])
                bar.update()
    for split in ("train2014", "val2014"):
        _write_coco(folder / "annotations", split, gathered[split])
    _write_flickr(folder / "flickr30k", gathered["flickr30k"])


def _paint_image(folder: Path, split: str, image_id: int, seed: int, records: _Records) -> None:
    out_of_domain = split == "flickr30k"
    rng = random.Random(f"{seed}|{split}|{image_id}")
    scene = sample_scene(rng, out_of_domain=out_of_domain)
    captions = captions_en(scene, rng, CAPTIONS, out_of_domain=out_of_domain)
    picture = paint(scene, "ood" if out_of_domain else "real", rng.getrandbits(32))
    if out_of_domain:
        name, path = f"{image_id:09d}.jpg", folder / "flickr30k" / "flickr30k_images"
    else:
        name, path = f"COCO_{split}_{image_id:012d}.jpg", folder / split
    with atomic(path / name) as temporary:
        picture.save(temporary, "JPEG", quality=JPEG_QUALITY)
    records.images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
    for caption in captions:
        caption_id = image_id * 10 + len(records.captions) % CAPTIONS
        records.captions.append({"id": caption_id, "image_id": image_id, "caption": caption})
    for number, (thing, box) in enumerate(zip(scene.objects, boxes(scene), strict=True)):
        records.instances.append(
            {
                "id": image_id * 10 + number,
                "image_id": image_id,
                "category_id": 1 + KINDS.index(thing.kind),
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "colour": thing.colour,
            }
        )


def _write_coco(folder: Path, split: str, records: _Records) -> None:
    info = {"description": f"bncap mini world, {split}", "version": "1.0"}
    base = {"info": info, "images": records.images}
    write_json(folder / f"captions_{split}.json", {**base, "annotations": records.captions})
    write_json(
        folder / f"instances_{split}.json", {**base, "annotations": records.instances, "categories": _CATEGORIES}
    )


def _write_flickr(folder: Path, records: _Records) -> None:
    names = {image["id"]: image["file_name"] for image in records.images}
    lines = [f"{names[c['image_id']]}| {c['id'] % 10}| {c['caption']}" for c in records.captions]
    write_text(folder / "results.csv", "\n".join([FLICKR_HEADER, *lines]) + "\n")
    info = {"description": "bncap mini world, boxes of flickr30k_images", "version": "1.0"}
    instances = {"info": info, "images": records.images, "annotations": records.instances, "categories": _CATEGORIES}
    write_json(folder / "instances.json", instances)


def build_models(config: Config, jobs: int | None = None) -> dict[str, Path]:
    """Train those components that ``config`` names ``mini:...`` and that are not there yet, ``jobs`` at a time.

    With ``world.retrain_encoder`` the main encoder is trained as well, instead of being taken from the package.  Each
    folder has the model's measured figures in ``figures.json``.  Returns component -> folder in hub layout.
    """
    parts = [part for part in named_parts(config) if part != "encoder" or config.world.retrain_encoder]
    if not parts:
        print(f"{STEP}: nothing to make, profile {config.profile} names no component mini:...")
    settings = {part: _settings(config, part) for part in parts}
    stale = [part for part in parts if not _is_current(config, part, settings[part])]
    stale.sort(key=LONGEST_FIRST.index)  # so that no worker is left alone with much to do
    run_parallel(_build_model, [(config, part, settings[part]) for part in stale], jobs, label="mini models")
    for part in stale:
        seconds = read_json(_folder(config, part) / MANIFEST)["seconds"]
        print(f"{STEP}/{_folder(config, part).name}: made in {seconds:.1f} s")
    return {
        part: _folder(config, part) if part in stale else _build_model(config, part, settings[part], quiet=False)
        for part in parts
    }


def named_parts(config: Config) -> list[str]:
    """The components that ``config`` names ``mini:...`` and that consist of weights which its data can use."""
    parts = OWN_PARTS if config.data.source == "own" else TRAINED_PARTS
    return [part for part in parts if getattr(config.components, part) == f"mini:{part}"]


def describe_models(config: Config) -> list[dict[str, Any]]:
    """One record for each mini component of :func:`named_parts`: what it stands for, its size and measured figures."""
    records = []
    for part in named_parts(config):
        folder = hub.find(config, f"mini:{part}").folder
        if (folder / "figures.json").is_file():
            figures = read_json(folder / "figures.json")
        else:  # the encoder that ships with the package
            figures = _flatten(read_json(folder / "card.json")["accuracy"])
        records.append(
            {
                "component": part,
                "stands for": getattr(Components(), part),
                "parameters": count_parameters(folder),
                "measured": ", ".join(f"{name} {value:.3g}" for name, value in figures.items()),
            }
        )
    return records


def count_parameters(folder: Path) -> int:
    """Numbers held in the ``model.safetensors`` of a model folder."""
    from safetensors import safe_open

    with safe_open(next(folder.rglob("model.safetensors")), "numpy") as weights:
        names = weights.keys()
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


def default_steps(part: str) -> int:
    """Steps of the component's training when ``world.model_steps`` is 1."""
    from bncap.mini import sentence_encoder
    from bncap.mini.encoder import RECIPES
    from bncap.mini.text_models import TEXT_MODEL_STEPS

    if part == "verifier":
        return sentence_encoder.STEPS
    return RECIPES[IMAGE_PARTS[part]].steps if part in IMAGE_PARTS else TEXT_MODEL_STEPS[part]


def _folder(config: Config, part: str) -> Path:
    return step_dir(config.profile, STEP, part, config.data.seed)


def _settings(config: Config, part: str) -> dict[str, Any]:
    steps = max(2, round(default_steps(part) * config.world.model_steps))
    settings = {"seed": config.data.seed, "steps": steps, "scenes": min(200, config.world.test_images)}
    if config.data.source == "own" and part in LANGUAGE_PARTS:
        texts = texts_for(config)
        lines = "\n".join([*texts.train, "", *texts.held_out])
        settings |= {"lang": texts.lang, "texts": hashlib.sha256(lines.encode()).hexdigest()}
    return settings


def _is_current(config: Config, part: str, settings: dict[str, Any]) -> bool:
    return Step(settings, build=_train).is_current(_folder(config, part))


def _build_model(config: Config, part: str, settings: dict[str, Any], quiet: bool = True) -> Path:
    build = partial(_train, config, part, settings)
    return run_step(_folder(config, part), settings=settings, build=build, config=config, quiet=quiet)


def _train(config: Config, part: str, settings: dict[str, Any], folder: Path) -> None:
    seed, steps = settings["seed"], settings["steps"]
    if part == "verifier":
        from bncap.mini.sentence_encoder import train_sentence_encoder

        figures = train_sentence_encoder(folder, seed, steps)
    elif part in LANGUAGE_PARTS:
        from bncap.mini.text_models import TEXT_MODELS

        figures = TEXT_MODELS[part](folder, texts_for(config), seed, steps)
    else:
        from bncap.mini import encoder

        if part == "encoder":
            accuracy = encoder.pretrain(folder, seed, steps, progress=False)["accuracy"]
        else:
            encoder.pretrain_classifier(IMAGE_PARTS[part], folder, seed, steps, progress=False)
            styles = ("real", "synthetic", "ood")
            accuracy = {style: encoder.evaluate(folder, style, settings["scenes"], seed + 1) for style in styles}
        figures = _flatten(accuracy)
    write_json(folder / "figures.json", figures)


def _flatten(accuracy: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{name}_{style}": value for style, values in accuracy.items() for name, value in values.items()}
