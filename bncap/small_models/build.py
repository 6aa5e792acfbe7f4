"""The small models that notebook 00 trains, each in a step folder of its own, in the layout of the hub."""

from __future__ import annotations

import hashlib
import math
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bncap.mini.world import STEP
from bncap.pipeline import hub
from bncap.pipeline.artifacts import MANIFEST, Step, run_step
from bncap.pipeline.files import read_json, write_json
from bncap.pipeline.paths import step_dir
from bncap.pipeline.workers import run_parallel
from bncap.settings import Components, Config
from bncap.small_models import encoder, sentence_encoder, text_models

IMAGE_PARTS = {"encoder": "bncap_maxvit_mini", "vit": "bncap_vit_mini", "cnn": "bncap_cnn_mini"}
"""Components that encode pictures -> their architecture in :mod:`bncap.encoders.mini_models`."""
TRAINED_PARTS = (*IMAGE_PARTS, *text_models.TEXT_MODELS, "verifier")
"""Components of the configuration with weights, where they are mini ones; those that take longest first."""
OWN_PARTS = ("encoder", "decoder", "bertscore")
"""Those that serve a user's own data; the others know the mini world alone, or are for comparisons made there."""
STYLES = ("real", "synthetic", "ood")
"""Styles of pictures that an image encoder is measured on."""


def build_models(config: Config, jobs: int | None = None) -> dict[str, Path]:
    """Train the components that ``config`` names ``mini:...`` and that are not up to date, ``jobs`` at a time.

    With ``world.retrain_encoder`` the main encoder is trained as well, instead of being taken from the package.
    Returns component -> folder in the hub's layout, with the model's measured figures in ``figures.json``.
    """
    parts = [part for part in named_parts(config) if part != "encoder" or config.world.retrain_encoder]
    if not parts:
        print(f"{STEP}: nothing to make, profile {config.profile} names no component mini:...")
    folders = {part: step_dir(config.profile, STEP, part, config.data.seed) for part in parts}
    steps = {part: _define_step(config, part) for part in parts}
    stale = [part for part in parts if not Step(**steps[part]).is_current(folders[part])]
    arguments = [(folders[part], steps[part], config, True) for part in stale]
    run_parallel(_run_step, arguments, jobs, label="mini models")
    for part, folder in folders.items():
        if part in stale:
            print(f"{STEP}/{folder.name}: made in {read_json(folder / MANIFEST)['seconds']:.1f} s")
        else:
            folders[part] = _run_step(folder, steps[part], config, False)  # which may lie in a read-only input
    return folders


def named_parts(config: Config) -> list[str]:
    """The components that ``config`` names ``mini:...`` and that have weights which its data can use."""
    parts = OWN_PARTS if config.data.source == "own" else TRAINED_PARTS
    return [part for part in parts if getattr(config.components, part) == f"mini:{part}"]


def default_steps(part: str) -> int:
    """Steps of a component's training when ``world.model_steps`` is 1."""
    if part in IMAGE_PARTS:
        return encoder.RECIPES[IMAGE_PARTS[part]].steps
    return sentence_encoder.STEPS if part == "verifier" else text_models.STEPS[part]


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
                "parameters": count_weights(folder),
                "measured": ", ".join(f"{name} {value:.3g}" for name, value in figures.items()),
            }
        )
    return records


def count_weights(folder: Path) -> int:
    """Numbers in the ``model.safetensors`` of a model folder."""
    with safe_open(next(folder.rglob("model.safetensors")), "numpy") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _define_step(config: Config, part: str) -> dict[str, Any]:
    """Settings and build function of a component's step; the code of one kind of model is not part of another's key."""
    seed, steps = config.data.seed, max(2, round(default_steps(part) * config.world.model_steps))
    scenes = min(200, config.world.test_images)
    settings: dict[str, Any] = {"seed": seed, "steps": steps, "scenes": scenes}
    if part in IMAGE_PARTS:
        build = partial(_train_encoder, part, seed, steps, scenes)
    elif part == "verifier":
        build = partial(_train_verifier, seed, steps)
    else:
        build = partial(_train_text_model, config, part, seed, steps)
        if config.data.source == "own":
            texts = text_models.select_texts(config)
            lines = "\n".join([*texts.train, "", *texts.held_out])
            settings |= {"lang": texts.lang, "texts": hashlib.sha256(lines.encode()).hexdigest()}
    return {"settings": settings, "build": build}


def _run_step(folder: Path, step: dict[str, Any], config: Config, quiet: bool) -> Path:
    return run_step(folder, **step, config=config, quiet=quiet)


def _train_encoder(part: str, seed: int, steps: int, scenes: int, folder: Path) -> None:
    if part == "encoder":
        accuracy = encoder.pretrain(folder, seed, steps, progress=False)["accuracy"]
    else:
        encoder.pretrain_classifier(IMAGE_PARTS[part], folder, seed, steps, progress=False)
        accuracy = {style: encoder.evaluate(folder, style, scenes, seed + 1) for style in STYLES}
    write_json(folder / "figures.json", _flatten(accuracy))


def _train_text_model(config: Config, part: str, seed: int, steps: int, folder: Path) -> None:
    train = text_models.TEXT_MODELS[part]
    write_json(folder / "figures.json", train(folder, text_models.select_texts(config), seed, steps))


def _train_verifier(seed: int, steps: int, folder: Path) -> None:
    write_json(folder / "figures.json", sentence_encoder.train_sentence_encoder(folder, seed, steps))


def _flatten(accuracy: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{name}_{style}": value for style, values in accuracy.items() for name, value in values.items()}
