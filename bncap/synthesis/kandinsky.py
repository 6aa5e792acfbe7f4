"""Kandinsky 2.1, the text-to-image model of the paper (Sec. 4.2.3), as diffusers has it."""

from __future__ import annotations

from PIL import Image

from bncap.errors import BncapError
from bncap.synthesis.text_to_image import arithmetic, deterministic, device_and_dtype, generators, loading_pipeline


class KandinskySynthesiser:
    """Kandinsky 2.1, prior and decoder, on the GPU in fp16 and on a CPU in fp32.

    Args:
        prior_path, decoder_path: folders in the hub's layout.
        side: width and height of the pictures, px, a multiple of 64.
        device: "cuda" or "cpu"; None for the first that is there.
        prior_steps, steps: denoising steps of the two.
        guidance: weight of the prompt against the negative prompt, in both.
    """

    def __init__(
        self,
        prior_path: str,
        decoder_path: str,
        side: int,
        device: str | None = None,
        *,
        prior_steps: int,
        steps: int,
        guidance: float,
    ) -> None:
        from diffusers import KandinskyPipeline, KandinskyPriorPipeline

        if prior_steps < 2 or side % 64:
            raise BncapError(
                f"Kandinsky draws sides of a multiple of 64 px in 2 prior steps or more, not synthesis.side={side} in "
                f"synthesis.prior_steps={prior_steps}; change them"
            )
        self.side = side
        self.prior_options = {"num_inference_steps": prior_steps, "guidance_scale": guidance}
        self.options = {"num_inference_steps": steps, "guidance_scale": guidance}
        device, dtype = device_and_dtype(device)
        with loading_pipeline(prior_path):
            self.prior = KandinskyPriorPipeline.from_pretrained(prior_path, dtype=dtype).to(device)
        with loading_pipeline(decoder_path):
            self.decoder = KandinskyPipeline.from_pretrained(decoder_path, dtype=dtype).to(device)
        for pipeline in (self.prior, self.decoder):
            pipeline.set_progress_bar_config(disable=True)
        self.sampling = {
            "prior_steps": prior_steps,
            "steps": steps,
            "guidance": guidance,
            "arithmetic": arithmetic(device, dtype),
        }

    def draw(self, prompts: list[str], negative_prompt: str, seeds: list[int]) -> list[Image.Image]:
        """One picture for each prompt, from noise of its own seed, whatever its neighbours in the batch."""
        negative = [negative_prompt] * len(prompts)
        with deterministic():
            # a negative prompt doubles the prior's batch
            embeddings = self.prior(prompts, negative, generator=generators(seeds + seeds), **self.prior_options)
            return self.decoder(
                prompts,
                embeddings.image_embeds,
                embeddings.negative_image_embeds,
                negative_prompt=negative,
                height=self.side,
                width=self.side,
                generator=generators(seeds),
                **self.options,
            ).images
