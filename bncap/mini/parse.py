"""What a Bengali caption says, by the words of the mini world's grammar: things, their colours, where they lie."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from bncap.mini.grammar import Mention
from bncap.mini.lexicon import BENGALI, BENGALI_OOD, COLOURS_BN, NOUN_LEXICON_BN
from bncap.text import normalise, tokenise

_ARTICLE, _PRONOUN = "একটি", "তার"


@dataclass(frozen=True)
class Said:
    """``objects`` in the order of mention; ``relations``: (i, relation, j), where ``objects[i]`` is from
    ``objects[j]``, a relation being one of :data:`bncap.mini.scene.RELATIONS`.
    """

    objects: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...]


@functools.lru_cache(maxsize=65536)
def read_bn(caption: str) -> Said:
    """The meaning of a Bengali caption of either domain; words that are not the grammar's are passed over.

    "X-er r Y" and "Y X-er r" say that Y is r of X, the thing named last before r being X; "X o tar r Y" says the same
    with a pronoun for X.  Never raises.
    """
    words = tokenise(caption, "bn")
    objects: list[Mention] = []
    relations: list[tuple[int, str, int]] = []
    awaited: tuple[str, int] | None = None  # a relation and its X, whose Y comes next
    colour = size = None
    for at, word in enumerate(words):
        if word == _ARTICLE:
            colour = size = None
        elif word in _colours():
            colour = _colours()[word]
        elif word in _sizes():
            size = _sizes()[word]
        elif word in _nouns():
            if awaited:
                relations.append((len(objects), *awaited))
                awaited = None
            objects.append(Mention(_nouns()[word], colour, size))
            colour = size = None
        elif objects and (relation := _relation(words, at)):
            ground = len(objects) - 1
            if ground == 0 or words[at - 1] == _PRONOUN:
                awaited = relation, ground
            else:
                relations.append((ground - 1, relation, ground))
    return Said(tuple(objects), tuple(relations))


def _relation(words: list[str], at: int) -> str | None:
    """The relation whose words begin at ``at``; "on the left side" is one of several words."""
    found = [phrase for phrase in _relations() if tuple(words[at : at + len(phrase)]) == phrase]
    return _relations()[max(found, key=len)] if found else None


@functools.cache
def _nouns() -> dict[str, str]:
    return {normalise(word, "bn"): kind for word, kind in NOUN_LEXICON_BN.items()}


@functools.cache
def _colours() -> dict[str, str]:
    return {normalise(word, "bn"): colour for colour, word in COLOURS_BN.items()}


@functools.cache
def _sizes() -> dict[str, str]:
    return {
        normalise(word, "bn"): size for d in (BENGALI, BENGALI_OOD) for size, words in d.sizes.items() for word in words
    }


@functools.cache
def _relations() -> Mapping[tuple[str, ...], str]:
    return {
        tuple(tokenise(text, "bn")): relation
        for dialect in (BENGALI, BENGALI_OOD)
        for relation, pairs in dialect.relations.items()
        for text, _ in pairs
    }
