"""In-domain text of the mini world, from which its small language models learn."""

from __future__ import annotations

import random
from unicodedata import category, is_normalized

from bncap.mini.grammar import captions_en, parse_en, say_bn
from bncap.mini.scene import sample_scene

BENGALI_CHARACTERS = "".join(
    char for char in map(chr, range(0x0980, 0x0A00)) if category(char) != "Cn" and is_normalized("NFC", char)
)
"""Every character of the Bengali block that NFC text can hold."""


def parallel_captions(seed: int, n: int) -> list[tuple[str, str]]:
    """``n`` pairs (English, faultless Bengali) of in-domain scenes that no data split contains but by chance."""
    rng = random.Random(f"{seed}|parallel captions")
    english = [captions_en(sample_scene(rng), rng, 1)[0] for _ in range(n)]
    return [(caption, say_bn(parse_en(caption), rng)) for caption in english]
