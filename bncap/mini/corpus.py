"""What the small language models learn from: text of the mini world, or the training captions of a user's own."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category, is_normalized, name

from bncap.errors import BncapError
from bncap.mini.grammar import captions_en, parse_en, say_bn
from bncap.mini.scene import sample_scene
from bncap.settings import Config
from bncap.text import language_name

BENGALI_CHARACTERS = "".join(
    char for char in map(chr, range(0x0980, 0x0A00)) if category(char) != "Cn" and is_normalized("NFC", char)
)
"""Every character of the Bengali block that NFC text can hold."""
SENTENCES = 6000
"""Sentences of the mini world that a model learns from; 500 more are held out to measure it."""
HELD_OUT = 0.05
"""Share of a user's own training captions that a language model is measured on, at most 200."""


@dataclass(frozen=True)
class Texts:
    """Captions in the language ``lang`` (an mBART-50 code) for small language models.

    ``train`` is learnt from, ``held_out`` measures what was learnt; tokenizers are made from ``words``, the decoder's
    from ``spelt``, which may hold another language as well; each of ``characters`` is a piece of every tokenizer, so
    that no text written with them has an unknown one.
    """

    lang: str
    train: Sequence[str]
    held_out: Sequence[str]
    words: Sequence[str]
    spelt: Sequence[str]
    characters: str


def texts_for(config: Config) -> Texts:
    """What the small language models of ``config`` learn from: no text of its validation and test pictures.

    With data of one's own the training captions in ``data.lang``, else generated sentences of the mini world; raises
    :class:`BncapError` if none is in that language.
    """
    return own_texts(config) if config.data.source == "own" else mini_texts(config.data.seed)


def mini_texts(seed: int) -> Texts:
    """In-domain Bengali, and English for the decoder's tokenizer, which meets both in the bilingual prompts."""
    pairs = parallel_captions(seed, 3000)
    sentences = [bengali for _, bengali in parallel_captions(seed, SENTENCES + 500)]
    return Texts(
        lang="bn_IN",
        train=sentences[:SENTENCES],
        held_out=sentences[SENTENCES:],
        words=[bengali for _, bengali in pairs],
        spelt=[text for pair in pairs for text in pair],
        characters=BENGALI_CHARACTERS + "।॥" + string.printable.strip(),
    )


def parallel_captions(seed: int, n: int) -> list[tuple[str, str]]:
    """``n`` pairs (English, faultless Bengali) of in-domain scenes that no data split contains but by chance."""
    rng = random.Random(f"{seed}|parallel captions")
    english = [captions_en(sample_scene(rng), rng, 1)[0] for _ in range(n)]
    return [(caption, say_bn(parse_en(caption), rng)) for caption in english]


def own_texts(config: Config) -> Texts:
    """The training captions of a user's own in ``data.lang``; the captions of some of the images measure the models."""
    from bncap.data.splits import read_splits

    data = config.data
    captions = [caption for caption in read_splits(config)["train"] if caption.lang == data.lang]
    if not captions:
        language = language_name(data.lang)
        raise BncapError(
            f"{data.captions} has no training caption in {language}, from which the small language models would learn; "
            f"set data.lang to the language of the captions, or name models that know {language}, "
            "such as components.decoder=facebook/mbart-large-50"
        )
    images = sorted({caption.image for caption in captions})
    random.Random(f"{data.seed}|held-out text").shuffle(images)
    place = {image: i for i, image in enumerate(images)}
    ordered = [caption.text for caption in sorted(captions, key=lambda c: (place[c.image], c.caption_id))]
    count = min(200, round(HELD_OUT * len(ordered)))
    train = ordered[: len(ordered) - count]
    # of a handful of captions none can be spared
    held_out = ordered[len(train) :] or ordered
    return Texts(data.lang, train, held_out, words=train, spelt=train, characters=characters_near(train))


def characters_near(texts: Sequence[str]) -> str:
    """The characters of ``texts``, printable ASCII, and what stands near their letters in Unicode's tables, sorted.

    Near is the same run of 128 code points, which holds a script, or a part of it, with its signs and digits.  Of
    ideographs and Hangul syllables, which are too many, only those that occur are taken.
    """
    used = {char for text in texts for char in text}
    many = ("CJK", "HANGUL SYLLABLE")
    spelling = {c for c in used if category(c)[0] in "LM" and not name(c, "").startswith(many)}
    runs = sorted({ord(char) // 128 for char in spelling})
    near = {chr(128 * run + i) for run in runs for i in range(128)}
    taken = used | set(string.printable) | {char for char in near if is_normalized("NFC", char)}
    # sentencepiece's own sign for a blank is none of the text's
    return "".join(sorted(c for c in taken if (category(c)[0] not in "ZC" or category(c) == "Cf") and c != "▁"))
