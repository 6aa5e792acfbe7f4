"""A painter of prompts for the mini world, in the place of Kandinsky 2.1."""

from __future__ import annotations

import random
import re

from PIL import Image

from bncap.mini.draw import paint
from bncap.mini.grammar import ParsedCaption, parse_en
from bncap.mini.scene import COLOURS, SIDE, SIZES, Object, Scene, sample_scene


class MiniSynthesiser:
    """Paints what the English part of a joint prompt says and invents the rest from the seed.

    Like the real one it sees nothing but the prompt; of an English part cut short it paints what is left.
    """

    name = "bncap/mini-synthesiser"

    def draw(self, prompts: list[str], negative_prompt: str, seeds: list[int]) -> list[Image.Image]:
        """One RGB picture of 112 x 112 px for each prompt; the same prompt and seed give the same picture.

        ``negative_prompt`` is taken as the real one takes it; nothing that it could forbid is ever painted here.
        Raises ValueError unless there is one seed for each prompt.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed for each prompt")
        return [
            paint(_imagine(parse_en(re.split(r"\bIn [A-Z]\w+:", prompt)[0]), random.Random(seed)), "synthetic", seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


def _imagine(parsed: ParsedCaption, rng: random.Random) -> Scene:
    """A scene of which the caption is true; one of anything if the caption names no object."""
    if not parsed.objects:
        return sample_scene(rng)
    mentions = parsed.objects[:3]
    while True:
        things: list[Object] = []
        for mention in mentions:
            size = mention.size or rng.choice(tuple(SIZES))
            low, high = SIZES[size] + 1, SIDE - SIZES[size] - 2
            colour = mention.colour or rng.choice(COLOURS)
            things.append(Object(mention.kind, colour, size, rng.randint(low, high), rng.randint(low, high)))
        scene = Scene(tuple(things), parsed.background)
        if parsed.relation in (None, scene.relation) and not _crowded(things):
            return scene


def _crowded(things: list[Object]) -> bool:
    return any(
        max(abs(p.x - q.x), abs(p.y - q.y)) <= 0.85 * (p.radius + q.radius)
        for i, p in enumerate(things)
        for q in things[:i]
    )
