"""The mini world's translator, in the place of Marian, and its text-to-image model, in the place of Kandinsky 2.1.

The translator errs at a known rate.  Its output depends on the caption's text and the seed alone, so its faults can
be listed afterwards; the verification filter then has a precision and a recall.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from PIL import Image

from bncap.mini.draw import paint
from bncap.mini.grammar import ParsedCaption, generate_caption_bn, parse_en
from bncap.mini.scene import COLOURS, KINDS, SIDE, SIZES, Object, Scene, sample_scene

FAULTS = (
    "object swapped", "colour swapped", "object dropped", "left in English", "truncated", "empty", "repeated",
)  # fmt: skip


class MiniTranslator:
    """English captions of the mini world to Bengali, a share ``fault_rate`` of them wrong in one of :data:`FAULTS`.

    The kinds of fault are equally likely among those that a caption allows.  A text with no object in it is left in
    English.
    """

    name = "bncap/mini-translator"

    def __init__(self, fault_rate: float = 0.15, seed: int = 42) -> None:
        if not 0 <= fault_rate <= 1:
            raise ValueError(f"fault_rate must lie in [0, 1], not {fault_rate}")
        self.fault_rate = fault_rate
        self.seed = seed

    def translate(self, captions: list[str]) -> list[str]:
        """One Bengali sentence (NFC) for each caption, in order; "" where the fault is "empty"."""
        return [self._translate(caption) for caption in captions]

    def faults(self, captions: list[str]) -> list[str | None]:
        """The fault that each caption's translation has, or None."""
        return [self._fault(caption, parse_en(caption)) for caption in captions]

    def _generator(self, purpose: str, caption: str) -> random.Random:
        return random.Random(f"{self.seed}|{purpose}|{caption}")

    def _fault(self, caption: str, parsed: ParsedCaption) -> str | None:
        if not parsed.objects:
            return "left in English"
        rng = self._generator("fault", caption)
        if rng.random() >= self.fault_rate:
            return None
        impossible = {"object dropped"} if len(parsed.objects) == 1 else set()
        if not any(o.colour for o in parsed.objects):
            impossible.add("colour swapped")
        return rng.choice([fault for fault in FAULTS if fault not in impossible])

    def _translate(self, caption: str) -> str:
        parsed = parse_en(caption)
        fault = self._fault(caption, parsed)
        if fault == "left in English":
            return caption
        if fault == "empty":
            return ""
        rng = self._generator("place", caption)
        if fault in ("object swapped", "colour swapped", "object dropped"):
            parsed = apply_fault(parsed, fault, rng)
        text = generate_caption_bn(parsed, self._generator("say", caption), out_of_domain=parsed.out_of_domain)
        words = text.removesuffix("।").split()
        if fault == "truncated":
            return " ".join(words[: rng.randint(1, max(1, len(words) // 2))])
        if fault == "repeated":
            at = rng.randrange(len(words) - 1)
            return " ".join(words[:at] + words[at : at + 2] * 5) + "।"
        return text


def apply_fault(parsed: ParsedCaption, fault: str, rng: random.Random) -> ParsedCaption:
    """``parsed`` with one object swapped or dropped, or one colour swapped, by ``fault``."""
    objects = list(parsed.objects)
    eligible = [i for i, o in enumerate(objects) if o.colour or fault != "colour swapped"]
    i = rng.choice(eligible)
    if fault == "object dropped":
        return replace(
            parsed, objects=tuple(objects[:i] + objects[i + 1 :]), relation=parsed.relation if i > 1 else None
        )
    if fault == "object swapped":
        present = {o.kind for o in objects}
        objects[i] = replace(objects[i], kind=rng.choice([kind for kind in KINDS if kind not in present]))
    else:
        objects[i] = replace(objects[i], colour=rng.choice([c for c in COLOURS if c != objects[i].colour]))
    return replace(parsed, objects=tuple(objects))


class MiniSynthesiser:
    """Paints the scene that the English part of a joint prompt describes, and draws the rest from the seed."""

    name = "bncap/mini-synthesiser"

    def draw(self, prompts: list[str], negative_prompt: str, seeds: list[int]) -> list[Image.Image]:
        """One RGB picture of 112 x 112 px for each prompt, by its seed; ``negative_prompt`` has no effect."""
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
