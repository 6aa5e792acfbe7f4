"""The mini world on disk: pictures and annotations in COCO's and Flickr30k's own layout.

The later notebooks read these files as they would read the real ones.  ``train2014`` and ``val2014`` are in-domain,
``flickr30k`` is out of domain.  As an extra, each object's annotation has its ``colour``, and Flickr30k's pictures have
an ``instances.json``.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from bncap.mini.draw import boxes, paint
from bncap.mini.grammar import generate_captions_en
from bncap.mini.scene import KINDS, SIDE, sample_scene
from bncap.pipeline.artifacts import run_step
from bncap.pipeline.files import atomic, write_json, write_text
from bncap.pipeline.paths import dataset_roots
from bncap.settings import Config, World

STEP = "00_mini_world"
CAPTIONS = 5
"""Of each picture."""
JPEG_QUALITY = 90
CATEGORIES = [{"id": i, "name": kind, "supercategory": "object"} for i, kind in enumerate(KINDS, 1)]


def build_world(config: Config) -> Path:
    """Paint the pictures, write captions and boxes; returns the dataset root.

    Each picture depends on ``data.seed`` and its own number alone: a larger world begins with the same pictures.
    """
    world = config.world
    sizes = {name: value for name, value in asdict(world).items() if name.endswith("_images")}
    return run_step(
        dataset_roots(config)[0],
        settings={**sizes, "seed": config.data.seed},
        build=partial(_write_splits, world, config.data.seed),
        config=config,
    )


def _write_splits(world: World, seed: int, folder: Path) -> None:
    held_out = world.validation_images + world.test_images
    sizes = {"train2014": world.train_images, "val2014": held_out, "flickr30k": world.ood_images}
    for split, count in sizes.items():
        # ids do not overlap between train2014 and val2014, as in COCO
        first = 1 + (500_000 if split == "val2014" else 0)
        images, captions, objects = [], [], []
        for image_id in tqdm(range(first, first + count), desc=f"painting {split}", unit="picture"):
            image, texts, annotations = _paint_image(folder, split, image_id, seed)
            images.append(image)
            captions += [
                {"id": image_id * 10 + k, "image_id": image_id, "caption": text} for k, text in enumerate(texts)
            ]
            objects += annotations
        if split == "flickr30k":
            lines = ["image_name| comment_number| comment"]
            names = [image["file_name"] for image in images for _ in range(CAPTIONS)]
            lines += [f"{name}| {c['id'] % 10}| {c['caption']}" for name, c in zip(names, captions, strict=True)]
            write_text(folder / "flickr30k" / "results.csv", "\n".join(lines) + "\n")
            info, path = "boxes of flickr30k_images", folder / "flickr30k" / "instances.json"
        else:
            info, path = split, folder / "annotations" / f"instances_{split}.json"
        base = {"info": {"description": f"bncap mini world, {info}", "version": "1.0"}, "images": images}
        if split != "flickr30k":
            write_json(folder / "annotations" / f"captions_{split}.json", {**base, "annotations": captions})
        write_json(path, {**base, "annotations": objects, "categories": CATEGORIES})


def _paint_image(
    folder: Path, split: str, image_id: int, seed: int
) -> tuple[dict[str, Any], list[str], list[dict[str, Any]]]:
    """Draw a scene, write its picture; returns COCO's record of it, its captions, and its objects' annotations."""
    ood = split == "flickr30k"
    rng = random.Random(f"{seed}|{split}|{image_id}")
    scene = sample_scene(rng, out_of_domain=ood)
    captions = generate_captions_en(scene, rng, CAPTIONS, out_of_domain=ood)
    picture = paint(scene, "ood" if ood else "real", rng.getrandbits(32))
    name = f"{image_id:09d}.jpg" if ood else f"COCO_{split}_{image_id:012d}.jpg"
    with atomic((folder / "flickr30k" / "flickr30k_images" if ood else folder / split) / name) as temporary:
        picture.save(temporary, "JPEG", quality=JPEG_QUALITY)
    objects = [
        {
            "id": image_id * 10 + number, "image_id": image_id, "category_id": 1 + KINDS.index(o.kind),
            "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0, "colour": o.colour,
        }
        for number, (o, box) in enumerate(zip(scene.objects, boxes(scene), strict=True))
    ]  # fmt: skip
    return {"id": image_id, "file_name": name, "width": SIDE, "height": SIDE}, captions, objects
