"""The text-to-image models that the configuration can name: how they draw, and how they count a prompt's tokens.

Kandinsky 2.1, which the paper uses (Sec. 4.2.3), draws in two stages: from the prompt a prior makes an embedding of a
picture, and from both a decoder makes the picture.  Any other pipeline of diffusers is given the prompt directly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bncap.device import default_device
from bncap.errors import BncapError
from bncap.mini.models import MiniSynthesiser
from bncap.pipeline import hub
from bncap.pipeline.artifacts import read_json
from bncap.pipeline.hub import has_words, loading
from bncap.pipeline.workers import one_thread
from bncap.settings import Config, Synthesis
from bncap.synthesis.prompts import Tokenizer

Draw = Callable[[list[str], str, list[int]], list[Image.Image]]
NONE, MINI = "none", "mini:synthesiser"
TWO_STAGES = "KandinskyPipeline"
"""Class of the pipeline that draws from the embedding that a prior makes."""


@dataclass(frozen=True)
class Synthesiser:
    """A text-to-image model: ``draw(prompts, negative_prompt, seeds)`` gives one RGB picture a prompt, from noise
    of its own seed, whatever its neighbours in the batch.

    ``components`` says for each part its name, revision and a SHA-256 of its files, ``sampling`` how it draws.
    """

    draw: Draw
    components: dict[str, dict[str, str]]
    sampling: dict[str, Any]


def component_names(config: Config) -> list[str]:
    """The components that pictures are drawn with."""
    parts = config.components
    if parts.synthesiser in hub.BUILT_IN:
        return [parts.synthesiser]
    return [parts.synthesiser, parts.synthesiser_prior] if _has_prior(config) else [parts.synthesiser]


def load_synthesiser(config: Config) -> Synthesiser:
    """The synthesiser that the configuration names, on a GPU in fp16, on a CPU in fp32.

    Raises :class:`BncapError` if it cannot be loaded, or cannot draw in this size or number of steps.
    """
    if config.components.synthesiser == MINI:
        painter = MiniSynthesiser()
        return Synthesiser(painter.draw, {"synthesiser": {"name": painter.name}}, {})
    names = component_names(config)
    paths = [hub.path(config, name) for name in names]
    draw, sampling = (_load_two_stages if len(paths) == 2 else _load_one_stage)(config.synthesis, *paths)
    described = zip(("synthesiser", "synthesiser_prior"), names, strict=False)
    return Synthesiser(draw, {part: _describe(config, name) for part, name in described}, sampling)


def _load_one_stage(settings: Synthesis, path: str) -> tuple[Draw, dict[str, Any]]:
    """A pipeline of diffusers that takes a prompt directly, such as Stable Diffusion, and how it samples."""
    from diffusers import AutoPipelineForText2Image  # heavy

    side = settings.side
    if side % 8:
        raise BncapError(f"synthesis.side={side}: such a pipeline draws sides of a multiple of 8 px; change it")
    options = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
    pipeline, arithmetic = _load_pipeline(AutoPipelineForText2Image, path)

    def draw(prompts: list[str], negative_prompt: str, seeds: list[int]) -> list[Image.Image]:
        negative, noise = [negative_prompt] * len(prompts), _make_generators(seeds)
        with _deterministic():
            return pipeline(
                prompts, negative_prompt=negative, generator=noise, height=side, width=side, **options
            ).images

    return draw, {"steps": settings.steps, "guidance": settings.guidance, "arithmetic": arithmetic}


def _load_two_stages(settings: Synthesis, decoder_path: str, prior_path: str) -> tuple[Draw, dict[str, Any]]:
    """Kandinsky 2.1, prior and decoder, and how they sample; the guidance is that of both."""
    from diffusers import KandinskyPipeline, KandinskyPriorPipeline  # heavy

    side, steps, guidance = settings.side, settings.steps, settings.guidance
    if settings.prior_steps < 2 or side % 64:
        raise BncapError(
            f"Kandinsky draws sides of a multiple of 64 px in 2 prior steps or more, not synthesis.side={side} in "
            f"synthesis.prior_steps={settings.prior_steps}; change them"
        )
    prior, _ = _load_pipeline(KandinskyPriorPipeline, prior_path)
    decoder, arithmetic = _load_pipeline(KandinskyPipeline, decoder_path)

    def draw(prompts: list[str], negative_prompt: str, seeds: list[int]) -> list[Image.Image]:
        negative, noise = [negative_prompt] * len(prompts), _make_generators(seeds + seeds)  # negative ones double it
        with _deterministic():
            made = prior(
                prompts, negative, generator=noise, num_inference_steps=settings.prior_steps, guidance_scale=guidance
            )
            return decoder(
                prompts, made.image_embeds, made.negative_image_embeds, negative_prompt=negative,
                generator=_make_generators(seeds), num_inference_steps=steps, guidance_scale=guidance, height=side,
                width=side,
            ).images  # fmt: skip

    return draw, {"prior_steps": settings.prior_steps, "steps": steps, "guidance": guidance, "arithmetic": arithmetic}


def load_tokenizers(config: Config) -> dict[str, Tokenizer]:
    """The tokenizers that read a prompt, by name, without the models: "prior" and "decoder" for Kandinsky 2.1."""
    parts = config.components
    if parts.synthesiser == MINI:
        return {"words": Tokenizer(count_words, 0)}
    folder = Path(hub.path(config, parts.synthesiser))
    if not _has_prior(config):
        return _pipeline_tokenizers(folder)
    prior = Path(hub.path(config, parts.synthesiser_prior))
    of_stages = {"prior": _pipeline_tokenizers(prior), "decoder": _pipeline_tokenizers(folder)}
    return {stage: tokenizers["tokenizer"] for stage, tokenizers in of_stages.items()}


def count_words(text: str) -> int:
    """Words of ``text``: the tokens of the mini synthesiser, which reads no subwords."""
    return len(text.split())


def _load_pipeline(kind: Any, path: str) -> tuple[Any, str]:
    """A pipeline of the class ``kind``, and what decides how it rounds, such as "torch.float16 on Tesla T4"."""
    from diffusers.utils import logging  # heavy

    device = str(default_device())
    on_gpu = device.startswith("cuda")
    dtype = torch.float16 if on_gpu else torch.float32
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with loading("text-to-image model", path):
            pipeline = kind.from_pretrained(path, dtype=dtype).to(device)
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, f"{dtype} on {torch.cuda.get_device_name(device) if on_gpu else device}"


@contextmanager
def _deterministic() -> Iterator[None]:
    """cuDNN without its search for the fastest algorithm, and one thread: the same picture each time and on any CPU."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True), one_thread():
        yield


def _make_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Noise is drawn on the CPU, so that a seed means the same on every device."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _has_prior(config: Config) -> bool:
    return _read_index(Path(hub.path(config, config.components.synthesiser)))["_class_name"] == TWO_STAGES


def _read_index(folder: Path) -> dict[str, Any]:
    if not (folder / "model_index.json").is_file():
        raise BncapError(f"{folder} has no model_index.json: it is no pipeline of diffusers; name another synthesiser")
    return read_json(folder / "model_index.json")


def _pipeline_tokenizers(folder: Path) -> dict[str, Tokenizer]:
    import transformers  # heavy

    index = _read_index(folder)
    names = [name for name in sorted(index) if name.startswith("tokenizer") and index[name][1]]
    with loading("prompt's tokenizer", str(folder)):
        loaded = {name: getattr(transformers, index[name][1]).from_pretrained(folder / name) for name in names}
    if empty := [name for name, tokenizer in loaded.items() if not has_words(tokenizer)]:
        raise BncapError(f"{folder / empty[0]} lacks its vocabulary file; fetch it again, whole")
    return {
        name: Tokenizer(partial(_count_tokens, tokenizer), len(tokenizer("").input_ids))
        for name, tokenizer in loaded.items()
    }


def _count_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _describe(config: Config, name: str) -> dict[str, str]:
    record = hub.find(config, name).record()
    digest = hashlib.sha256(json.dumps(record["files"], sort_keys=True).encode()).hexdigest()
    return {"name": name, "revision": record["revision"], "sha256": digest}
