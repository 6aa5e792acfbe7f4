"""The mini world's text-to-image model, which takes the place of Kandinsky 2.1."""

from __future__ import annotations

import random
import re

from PIL import Image

from bncap.mini.draw import paint
from bncap.mini.grammar import ParsedCaption, parse_en
from bncap.mini.scene import COLOURS, SIDE, SIZES, Object, Scene, sample_scene


class MiniSynthesiser:
    """Paints the scene that the English part of a joint prompt describes, and draws the rest from the seed.

    Like the real one it reads the prompt alone; of a truncated English part it paints what is left.
    """

    name = "bncap/mini-synthesiser"

    def draw(self, prompts: list[str], negative_prompt: str, seeds: list[int]) -> list[Image.Image]:
        """One RGB picture of 112 x 112 px for each prompt; the same prompt and seed give the same picture.

        ``negative_prompt`` is accepted as by the real one, and has no effect.
        Raises ValueError unless there is one seed for each prompt.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed for each prompt")
        return [
            paint(_imagine(parse_en(re.split(r"\bIn [A-Z]\w+:", prompt)[0]), random.Random(seed)), "synthetic", seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


def _imagine(parsed: ParsedCaption, rng: random.Random) -> Scene:
    """A scene of which the caption is true; any scene if the caption names no object."""
    if not parsed.objects:
        return sample_scene(rng)
    mentions = parsed.objects[:3]
    while True:
        objects: list[Object] = []
        for mention in mentions:
            size = mention.size or rng.choice(tuple(SIZES))
            low, high = SIZES[size] + 1, SIDE - SIZES[size] - 2
            colour = mention.colour or rng.choice(COLOURS)
            objects.append(Object(mention.kind, colour, size, rng.randint(low, high), rng.randint(low, high)))
        scene = Scene(tuple(objects), parsed.background)
        if parsed.relation in (None, scene.relation) and not _crowded(objects):
            return scene


def _crowded(objects: list[Object]) -> bool:
    return any(
        max(abs(p.x - q.x), abs(p.y - q.y)) <= 0.85 * (p.radius + q.radius)
        for i, p in enumerate(objects)
        for q in objects[:i]
    )
