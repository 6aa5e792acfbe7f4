"""What the method's figures show of a trained model, chosen by rank or seed and saved, so that drawing needs none."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bncap.config import MAIN
from bncap.data.pairs import read_corpus
from bncap.decoders import decode
from bncap.decoders.captioner import CaptionModel
from bncap.encoders.features import Encoder, FeatureStore, open_picture
from bncap.experiments import evaluate
from bncap.experiments.alignment import caption_weights
from bncap.experiments.evaluate import load_run
from bncap.experiments.runs import TRAINING, inputs_of, run_dir, trainable, weights_dir
from bncap.pipeline import artifacts, hub, paths
from bncap.settings import Config
from bncap.synthesis.shards import Member, PictureStore
from bncap.text import iso

SHOWN = 8
"""Pictures in all, as many from each test split as from the other."""


def build_samples(config: Config, seed: int) -> Path:
    """Captions, attention and feature maps for the figures: the step folder ``04_training/samples-s<seed>``.

    They are those of the main model, or of the one with cross-entropy alone where there are no synthetic pictures.
    ``samples.json`` holds

    - ``lang``: the ISO code of the captions' language;
    - ``captions``: :data:`SHOWN` held-out pictures, in each test split evenly spaced by METEOR rank, best first, with
      ``meteor``, its ``rank`` ``of`` so many captions (1 the best), ``words`` and their attention over the patches, and
      Eq. 8's ``weights`` w for the caption that was generated;
    - ``stages``: name, side and channels of each map in ``stages.npz``, of the first of those pictures;
    - ``triplet``: a training triplet drawn by seed, with its similarity (None where nothing was translated), prompt
      ("" where the picture was not drawn) and w; None where there are no synthetic pictures.

    ``pictures/`` has these pictures as the encoder sees them.  ``stages.npz`` has (H, W, 3) uint8 arrays: each stage's
    first three principal components as colours, and those of the triplet's ``real`` and ``synthetic`` picture together.
    """
    variant = list(trainable(config))[-1]
    data, made = inputs_of(config, variant), (weights_dir(config, variant, seed), run_dir(config, variant, seed))
    return artifacts.run_step(
        paths.step_dir(config.profile, TRAINING, "samples", seed),
        settings={"loss": asdict(config.loss), "max_tokens": config.model.max_tokens, "shown": SHOWN},
        inputs=[*made, data.corpus, data.triplets, data.features],
        components=[config.components.encoder],
        build=functools.partial(_build, config, seed, variant, FeatureStore(data.features)),
        config=config,
    )


def _build(config: Config, seed: int, variant: str, store: FeatureStore, folder: Path) -> None:
    model = load_run(config, variant, weights_dir(config, variant, seed))
    encoder = Encoder(hub.path(config, config.components.encoder))
    files = {split: run_dir(config, variant, seed) / f"captions_{split}.csv" for split in evaluate.SPLITS}
    tables = {split: artifacts.read_csv(path) for split, path in files.items() if path.is_file()}
    captions = []
    for split, table in tables.items():
        ranks = {row["image"]: rank for rank, row in enumerate(evaluate.sample_by_rank(table, len(table)), 1)}
        chosen = evaluate.sample_by_rank(table, min(SHOWN // len(tables), len(table)))
        for number, row in enumerate(chosen):
            picture = _save_seen(encoder, paths.data_path(config, row["image"]), folder, f"{split}_{number}.png")
            rank, meteor = ranks[row["image"]], float(row["meteor"])
            place = {"rank": rank, "of": len(table), "meteor": meteor, "picture": picture}
            captions.append(_caption(config, model, store, split, row) | place)
    stages, maps = _stage_maps(encoder, paths.data_path(config, captions[0]["image"]))
    triplet = None
    if found := _triplet(config, seed, model, store):
        triplet, sources, pair = found
        triplet |= {name: _save_seen(encoder, sources[name], folder, f"{name}.png") for name in sources}
        maps |= pair
    record = {"lang": iso(config.data.lang), "captions": captions, "stages": stages, "triplet": triplet}
    artifacts.write_json(folder / "samples.json", record)
    with artifacts.atomic(folder / "stages.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **maps)


def _caption(
    config: Config, model: CaptionModel, store: FeatureStore, split: str, row: dict[str, str]
) -> dict[str, Any]:
    features = store.take(split, store.rows(split, [row["image"]]))
    words = decode.word_attention(model, features[0], row["caption"], config.model.max_tokens)
    w = caption_weights(model, features, [row["caption"]], config.loss, config.model.max_tokens)
    return {
        "split": split,
        **{name: row[name] for name in ("image", "caption", "reference")},
        "words": [{"word": word.word, "weights": _rounded(word.weights)} for word in words],
        "weights": _rounded(w[0].numpy()),
    }


def seen_picture(encoder: Encoder, picture: Image.Image) -> Image.Image:
    """What the encoder sees of a picture: resized and cropped to its square, so that patches lie where they belong."""
    import timm  # heavy

    settings = timm.data.resolve_model_data_config(encoder.model)
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = (encoder.transform(picture) * std + mean).clamp(0, 1)  # (3, H0, W0)
    return Image.fromarray((255 * pixels).round().byte().permute(1, 2, 0).numpy())


@torch.inference_mode()
def _stage_maps(encoder: Encoder, picture: Path) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.uint8]]]:
    """The encoder's intermediate maps of a picture: ``window`` is the side of an attention window, 0 where none is."""
    pixels = encoder.transform(open_picture(picture))[None].to(encoder.device)
    found = encoder.model.forward_intermediates(pixels, intermediates_only=True, output_fmt="NCHW")
    window = next((m.partition_size[0] for m in encoder.model.modules() if hasattr(m, "partition_size")), 0)
    table, maps = [], {}
    for number, stage in enumerate(found):
        name = "stem" if number == 0 and window else f"stage {number}"
        _, channels, side, _ = stage.shape
        fits = number > 0 and window and side % window == 0
        table.append({"name": name, "side": side, "channels": channels, "window": window if fits else 0})
        maps[name] = principal_colours(stage[0].flatten(1).T.float().cpu()[None])[0]
    return table, maps


def principal_colours(maps: Tensor) -> NDArray[np.uint8]:
    """Square feature maps as pictures: the first three principal components over all their patches as R, G and B.

    maps: (N, S, C) with C at least 3.  Each component runs from its 2nd to its 98th percentile.  Returns
    (N, H, W, 3) uint8.
    """
    N, S, C = maps.shape
    side = round(S**0.5)
    flat = maps.reshape(N * S, C).double().numpy()
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    axes = axes[:3]
    # the sign of a component is arbitrary: its largest entry is made positive
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
    scores = (flat - flat.mean(0)) @ axes.T  # (N S, 3)
    low, high = np.percentile(scores, [2, 98], axis=0)
    scaled = (scores - low) / np.maximum(high - low, 1e-12)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8).reshape(N, side, side, 3)


def _save_seen(encoder: Encoder, picture: Path | Member, folder: Path, name: str) -> str:
    with artifacts.atomic(folder / "pictures" / name) as temporary:
        seen_picture(encoder, open_picture(picture)).save(temporary, "PNG")
    return f"pictures/{name}"


def _triplet(
    config: Config, seed: int, model: CaptionModel, store: FeatureStore
) -> tuple[dict[str, Any], dict[str, Path | Member], dict[str, NDArray[np.uint8]]] | None:
    """A training triplet drawn by ``seed``, its ``real`` and ``synthetic`` picture and their last maps as colours; None
    where no caption has a synthetic picture.
    """
    data = inputs_of(config, MAIN)
    table = [row for row in artifacts.read_csv(data.triplets / "triplets.csv") if row["synthetic"]]
    if not table:
        return None
    row = table[np.random.default_rng(seed).integers(len(table))]
    pairs = (p for p in read_corpus(data.corpus) if p.split == "train" and str(p.caption_id) == row["caption_id"])
    real = store.take("train", store.rows("train", [row["image"]]))
    synthetic = store.take("synthetic", store.rows("synthetic", [row["caption_id"]]))
    w = caption_weights(model, real, [row["target"]], config.loss, config.model.max_tokens)
    pictures = PictureStore(config)
    sidecar = pictures.sidecar(row["synthetic"])
    colours = principal_colours(torch.cat([real, synthetic]))
    record = {
        **row,
        "similarity": next(pairs).similarity,
        "threshold": artifacts.read_json(data.corpus / "counts.json")["threshold"],
        "prompt": sidecar["prompt"] if sidecar else "",
        "weights": _rounded(w[0].numpy()),
    }
    sources = {"real": paths.data_path(config, row["image"]), "synthetic": pictures.find(row["synthetic"])}
    return record, sources, {"real": colours[0], "synthetic": colours[1]}


def _rounded(weights: NDArray[np.floating]) -> list[float]:
    return [round(float(value), 6) for value in weights]
