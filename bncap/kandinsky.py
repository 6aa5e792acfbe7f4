"""Kandinsky 2.1, the text-to-image model of the paper (Sec. 4.2.3), as diffusers has it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from bncap.errors import BncapError


class KandinskySynthesiser:
    """Kandinsky 2.1, prior and decoder, on the GPU in fp16 and on a CPU in fp32.

    Args:
        prior_path, decoder_path: local folders in the hub's layout, or hub names.
        side: width and height of the pictures, px, a multiple of 64.
        device: "cuda" or "cpu"; None for the first that is there.
        prior_steps, steps: denoising steps; the paper does not say how many, these are the library's own defaults.
    """

    def __init__(
        self,
        prior_path: str,
        decoder_path: str,
        side: int,
        device: str | None = None,
        *,
        prior_steps: int = 25,
        steps: int = 100,
    ) -> None:
        from diffusers import KandinskyPipeline, KandinskyPriorPipeline

        self.side, self.prior_steps, self.steps = side, prior_steps, steps
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if self.device.startswith("cuda") else torch.float32
        prior_folder, decoder_folder = _fetch(prior_path), _fetch(decoder_path)
        self.prior = KandinskyPriorPipeline.from_pretrained(prior_folder, torch_dtype=dtype).to(self.device)
        self.decoder = KandinskyPipeline.from_pretrained(decoder_folder, torch_dtype=dtype).to(self.device)
        for pipeline in (self.prior, self.decoder):
            pipeline.set_progress_bar_config(disable=True)
        self.components = {
            "prior_revision": _revision(prior_folder),
            "decoder_revision": _revision(decoder_folder),
            "sampling": f"prior {prior_steps} steps, decoder {steps} steps, {dtype} on {self.device.split(':')[0]}",
        }

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` without special tokens: the larger of the numbers by the prior's and the decoder's."""
        tokenizers = (self.prior.tokenizer, self.decoder.tokenizer)
        return max(len(tokenizer(text, add_special_tokens=False).input_ids) for tokenizer in tokenizers)

    def draw(self, prompts: list[str], negative_prompt: str, seeds: list[int]) -> list[Image.Image]:
        """One picture for each prompt, from noise of its own seed, whatever its neighbours in the batch."""
        negative = [negative_prompt] * len(prompts)
        # a negative prompt doubles the prior's batch
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            embeddings = self.prior(
                prompts, negative, generator=_generators(seeds + seeds), num_inference_steps=self.prior_steps
            )
            return self.decoder(
                prompts,
                embeddings.image_embeds,
                embeddings.negative_image_embeds,
                negative_prompt=negative,
                height=self.side,
                width=self.side,
                num_inference_steps=self.steps,
                generator=_generators(seeds),
            ).images


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Noise is drawn on the CPU, so that a seed means the same on every device."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _fetch(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(path))
    except (OSError, ValueError) as error:
        raise BncapError(f"{path} could not be fetched ({error}); put it at BNCAP_MODELS/{path}") from error


def _revision(folder: Path) -> str:
    """The hub's commit where ``folder`` lies in the hub's cache, else a digest of its settings and file sizes."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()}"
