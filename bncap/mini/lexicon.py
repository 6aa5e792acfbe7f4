"""The words and sentence patterns of the mini world, in English and Bengali, for both domains.

A :class:`Dialect` holds the words of one language in one domain; ``dialects.json`` has all four.  An out-of-domain
dialect lists only its *own* words, which are mixed with the in-domain words of the same language, never the other way
round.  Bengali is in NFC, in which ড়, ঢ় and য় are decomposed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Dialect:
    """Slots of the patterns: ``a`` the first object, ``b`` the second, ``c`` the third, each a noun phrase; ``rel``
    where ``a`` is from ``b``, ``own`` the same with a pronoun for ``b``; ``b_gen`` a genitive; ``bg`` the background;
    ``tail`` one of :attr:`tails` or nothing.
    """

    nouns: Words
    sizes: Words
    backgrounds: Words
    relations: Mapping[str, Sequence[tuple[str, str]]]
    """Relation -> pairs (``rel``, ``own``)."""
    single: Sequence[str]
    pairs: Sequence[str]
    joined: Sequence[str]
    """Two objects without a relation."""
    tails: Sequence[str]


def _read_dialects() -> dict[str, Dialect]:
    content = json.loads(Path(__file__).with_name("dialects.json").read_text("utf-8"))
    return {name: Dialect(**tables) for name, tables in content.items()}


_DIALECTS = _read_dialects()
ENGLISH, ENGLISH_OOD = _DIALECTS["english"], _DIALECTS["english_ood"]
BENGALI, BENGALI_OOD = _DIALECTS["bengali"], _DIALECTS["bengali_ood"]

COLOURS_BN = {
    "red": "লাল", "blue": "নীল", "green": "সবুজ", "yellow": "হলুদ",
    "purple": "বেগুনি", "orange": "কমলা", "white": "সাদা", "black": "কালো",
}  # fmt: skip

BACKGROUND_WORDS_EN = {
    "grass": "grass", "lawn": "grass", "sand": "sand", "sandy": "sand", "beach": "sand", "water": "water",
    "snow": "snow", "snowy": "snow", "brick": "brick", "bricks": "brick", "wooden": "wood", "night": "night",
    "carpet": "carpet", "rug": "carpet",
}  # fmt: skip

RELATION_WORDS_EN = {
    "left": "left", "right": "right", "above": "above", "over": "above",
    "below": "below", "under": "below", "beneath": "below", "underneath": "below",
}  # fmt: skip


def genitive_bn(noun: str) -> str:
    """Bengali genitive: -র after a vowel sign, -য়ের after a full vowel, -ের after a consonant."""
    if "\u09be" <= noun[-1] <= "\u09cc":
        return noun + "র"
    return noun + ("য়ের" if "\u0985" <= noun[-1] <= "\u0994" else "ের")


NOUN_LEXICON_BN: dict[str, str] = {
    form: kind
    for dialect in (BENGALI, BENGALI_OOD)
    for kind, nouns in dialect.nouns.items()
    for noun in nouns
    for form in (noun, genitive_bn(noun))
}
"""Each Bengali form of a noun that the grammar uses -> its kind."""
