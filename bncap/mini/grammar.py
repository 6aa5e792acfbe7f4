"""Captions of the mini world: English from a scene, Bengali from parsed English, and both parsed back to a meaning.

The English is generated from the scene, as annotators would write it; the Bengali from the *parsed English*, so it has
no more than the caption does.  The words are in ``dialects.json``, for each language in both domains: an out-of-domain
dialect lists only its *own* words, which are mixed with the in-domain ones, never the other way round.  Bengali is in
NFC, in which ড়, ঢ় and য় are decomposed.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category, is_normalized

from bncap.mini.scene import COLOURS, Object, Scene, sample_scene
from bncap.text import normalise, tokenise

Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Dialect:
    """Words and patterns.  Slots of the patterns: ``a``, ``b`` and ``c`` are noun phrases of objects; ``rel`` is where
    ``a`` is from ``b``, ``own`` that with a pronoun for ``b``; ``b_gen`` a genitive; ``bg`` the background, ``tail``
    one of ``tails`` or nothing.  ``relations``: pairs (``rel``, ``own``); ``joined``: two objects without a relation.
    """

    nouns: Words
    sizes: Words
    backgrounds: Words
    relations: Mapping[str, Sequence[tuple[str, str]]]
    single: Sequence[str]
    pairs: Sequence[str]
    joined: Sequence[str]
    tails: Sequence[str]


_TABLES = json.loads(Path(__file__).with_name("dialects.json").read_text("utf-8"))
ENGLISH, ENGLISH_OOD, BENGALI, BENGALI_OOD = (
    Dialect(**_TABLES[name]) for name in ("english", "english_ood", "bengali", "bengali_ood")
)
COLOURS_BN: dict[str, str] = _TABLES["colours_bengali"]
BACKGROUND_WORDS_EN: dict[str, str] = _TABLES["background_words_english"]
RELATION_WORDS_EN: dict[str, str] = _TABLES["relation_words_english"]


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

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
BENGALI_CHARACTERS = "".join(
    char for char in map(chr, range(0x0980, 0x0A00)) if category(char) != "Cn" and is_normalized("NFC", char)
)
"""Every character of the Bengali block that NFC text can hold."""

OWN_PATTERN, OWN_WORD = 0.6, 0.4
"""Share of patterns and of words that out-of-domain Bengali takes from its own dialect, where it has any."""


@dataclass(frozen=True)
class Mention:
    """One object as a caption mentions it; what the caption leaves open is None."""

    kind: str
    colour: str | None
    size: str | None


@dataclass(frozen=True)
class ParsedCaption:
    """The meaning of a caption; ``objects`` in the order of mention.

    ``relation`` is where ``objects[0]`` is from ``objects[1]``; ``out_of_domain``: a word is only that dialect's.
    """

    objects: tuple[Mention, ...]
    relation: str | None
    background: str | None
    out_of_domain: bool = False


def list_words(dialect: Dialect) -> frozenset[str]:
    """The words of a dialect's phrases and patterns, lower case, slots left out."""
    tables = (dialect.nouns, dialect.sizes, dialect.backgrounds)
    texts = [text for table in tables for words in table.values() for text in words]
    texts += [text for pairs in dialect.relations.values() for pair in pairs for text in pair]
    texts += [*dialect.single, *dialect.pairs, *dialect.joined, *dialect.tails]
    return frozenset(word for text in texts for word in re.sub(r"\{\w+\}|[,-]", " ", text).split())


_OOD_WORDS_EN = (list_words(ENGLISH_OOD) | {"that", "coloured"}) - list_words(ENGLISH)
_KINDS_EN = {noun: kind for d in (ENGLISH, ENGLISH_OOD) for kind, nouns in d.nouns.items() for noun in nouns}
_SIZES_EN = {word: size for d in (ENGLISH, ENGLISH_OOD) for size, words in d.sizes.items() for word in words}
_NOUNS_BN = {normalise(word, "bn"): kind for word, kind in NOUN_LEXICON_BN.items()}
_COLOURS_BN = {normalise(word, "bn"): colour for colour, word in COLOURS_BN.items()}
_SIZES_BN = {
    normalise(word, "bn"): size for d in (BENGALI, BENGALI_OOD) for size, words in d.sizes.items() for word in words
}
_RELATIONS_BN = {
    tuple(tokenise(text, "bn")): relation
    for d in (BENGALI, BENGALI_OOD)
    for relation, pairs in d.relations.items()
    for text, _ in pairs
}


def _clean(text: str) -> str:
    text = re.sub(r"\s+", " ", text).replace(" ,", ",")
    return text.strip(" ,")


def _sample_words(rng: random.Random, dialects: Sequence[Dialect], table: str, key: str | None) -> Any:
    """One entry of a dialect's table; ``dialects`` are the common one and, out of domain, the own one."""
    own = getattr(dialects[-1], table).get(key)
    common = getattr(dialects[0], table).get(key)
    if own and common and len(dialects) > 1:
        return rng.choice(own if rng.random() < OWN_WORD else common)
    return rng.choice(own or common)


def _noun_phrase_en(o: Object, rng: random.Random, dialects: Sequence[Dialect]) -> str:
    colour = o.colour if rng.random() < 0.92 else ""
    size = _sample_words(rng, dialects, "sizes", o.size) if rng.random() < 0.35 else ""
    relative = ""
    if colour and len(dialects) > 1:
        form = rng.random()
        if form < 0.12:
            colour, relative = "", f"that is {colour}"
        elif form < 0.24:
            colour = f"{colour}-coloured"
    words = _clean(f"{size} {colour} {_sample_words(rng, dialects, 'nouns', o.kind)} {relative}")
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _generate_caption_en(scene: Scene, rng: random.Random, dialects: Sequence[Dialect]) -> str:
    own = dialects[-1]
    mentioned = len(scene.objects)
    # People leave out what does not strike them: the third object often, the second seldom.
    if mentioned == 3 and rng.random() < 0.4:
        mentioned = 2
    if mentioned == 2 and rng.random() < 0.08:
        mentioned = 1
    slots = dict.fromkeys(("a", "b", "c", "rel", "own", "bg", "tail"), "")
    for name, o in zip("abc", scene.objects[:mentioned], strict=False):
        slots[name] = _noun_phrase_en(o, rng, dialects)
    if rng.random() < 0.45:
        slots["bg"] = _sample_words(rng, dialects, "backgrounds", scene.background)
    patterns = own.single
    if mentioned > 1:
        slots["rel"], slots["own"] = _sample_words(rng, dialects, "relations", scene.relation)
        patterns = own.pairs if rng.random() < 0.85 else own.joined
    if mentioned == 3:
        slots["tail"] = rng.choice(own.tails).format(c=slots["c"])
    text = _clean(rng.choice(patterns).format(**slots))
    return f"{text[0].upper()}{text[1:]}."


def generate_captions_en(scene: Scene, rng: random.Random, n: int = 5, *, out_of_domain: bool = False) -> list[str]:
    """``n`` different English captions of ``scene``, each true of it, each a sentence with a full stop.

    Out of domain every caption has a pattern that no in-domain caption has.
    """
    dialects = (ENGLISH, ENGLISH_OOD) if out_of_domain else (ENGLISH,)
    captions: dict[str, None] = {}
    for _ in range(50 + 20 * n):
        if len(captions) == n:
            return list(captions)
        captions.setdefault(_generate_caption_en(scene, rng, dialects))
    raise ValueError(f"the grammar has fewer than {n} captions for {scene}")


def _relation_en(words: list[str], at: int, before: int) -> str:
    """Where the first object is from the second, by the relation word ``words[at]`` after ``before`` objects.

    In "X left of Y" the word holds of X; in "left of X is Y" and "X with Y to its left" it holds of Y, its opposite of
    X.
    """
    relation = RELATION_WORDS_EN[words[at]]
    pronoun = words[at - 1 : at] == ["its"] or words[at + 1 : at + 2] == ["it"]
    return OPPOSITE[relation] if pronoun or before == 0 else relation


def parse_en(caption: str) -> ParsedCaption:
    """The meaning of an English caption of either domain.

    Unknown words are skipped, so other or truncated text gives fewer objects, down to none.  Never raises.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    objects: list[Mention] = []
    colour = size = relation = background = None
    for i, word in enumerate(words):
        if word in ("a", "an", "the"):
            colour = size = None
        elif word in COLOURS and words[max(i - 2, 0) : i] == ["that", "is"] and objects:
            objects[-1] = Mention(objects[-1].kind, word, objects[-1].size)
        elif word in COLOURS:
            colour = word
        elif word in _SIZES_EN:
            size = _SIZES_EN[word]
        elif word in _KINDS_EN:
            objects.append(Mention(_KINDS_EN[word], colour, size))
            colour = size = None
        elif word in RELATION_WORDS_EN:
            relation = relation or _relation_en(words, i, len(objects))
        background = background or BACKGROUND_WORDS_EN.get(word)
    relation = relation if len(objects) > 1 else None
    return ParsedCaption(tuple(objects), relation, background, not _OOD_WORDS_EN.isdisjoint(words))


def _noun_phrase_bn(o: Mention, rng: random.Random, dialects: Sequence[Dialect]) -> tuple[str, str]:
    """A noun phrase and its genitive."""
    size = _sample_words(rng, dialects, "sizes", o.size) if o.size else ""
    colour = COLOURS_BN[o.colour] if o.colour else ""
    if colour and len(dialects) > 1 and rng.random() < OWN_WORD:
        colour = f"{colour} রঙের"
    noun = _sample_words(rng, dialects, "nouns", o.kind)
    return _clean(f"একটি {size} {colour} {noun}"), _clean(f"একটি {size} {colour} {genitive_bn(noun)}")


def generate_caption_bn(parsed: ParsedCaption, rng: random.Random, *, out_of_domain: bool = False) -> str:
    """A Bengali sentence of the meaning ``parsed``, in NFC, with a danda at its end; "" if it has no object.

    Objects beyond the third are left out.
    """
    if not parsed.objects:
        return ""
    dialects = (BENGALI, BENGALI_OOD) if out_of_domain else (BENGALI,)
    patterns_of = dialects[-1] if rng.random() < OWN_PATTERN else dialects[0]
    objects, relation = parsed.objects[:3], parsed.relation
    # The ground comes first in Bengali; now and then it is the other of the two.
    if relation and rng.random() < 0.25:
        objects, relation = (objects[1], objects[0], *objects[2:]), OPPOSITE[relation]
    slots = dict.fromkeys(("a", "b", "b_gen", "c", "rel", "own", "bg", "tail"), "")
    for name, o in zip("abc", objects, strict=False):
        slots[name], genitive = _noun_phrase_bn(o, rng, dialects)
        slots["b_gen"] = genitive if name == "b" else slots["b_gen"]
    if parsed.background:
        slots["bg"] = _sample_words(rng, (BENGALI, BENGALI_OOD), "backgrounds", parsed.background)
    patterns = patterns_of.single if len(objects) == 1 else patterns_of.joined
    if relation:
        slots["rel"], slots["own"] = _sample_words(rng, dialects, "relations", relation)
        patterns = patterns_of.pairs
    if len(objects) == 3:
        slots["tail"] = rng.choice(patterns_of.tails).format(c=slots["c"])
    return _clean(rng.choice(patterns).format(**slots)) + "।"


def draw_parallel_captions(seed: int, n: int) -> list[tuple[str, str]]:
    """``n`` pairs (English, faultless Bengali) of in-domain scenes that no data split contains but by chance."""
    rng = random.Random(f"{seed}|parallel captions")
    english = [generate_captions_en(sample_scene(rng), rng, 1)[0] for _ in range(n)]
    return [(caption, generate_caption_bn(parse_en(caption), rng)) for caption in english]


@dataclass(frozen=True)
class BengaliMeaning:
    """Objects of a Bengali caption in the order of mention; (i, relation, j) says where ``objects[i]`` is from j."""

    objects: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...]


@functools.lru_cache(maxsize=65536)
def parse_bn(caption: str) -> BengaliMeaning:
    """The meaning of a Bengali caption of either domain; words that are not the grammar's are skipped.

    "X-er r Y" and "Y X-er r" say that Y is r of X, the object named last before r being X; "X o tar r Y" says the same
    with a pronoun for X.  Never raises.
    """
    words = tokenise(caption, "bn")
    objects: list[Mention] = []
    relations: list[tuple[int, str, int]] = []
    open_relation: tuple[str, int] | None = None  # a relation and its X, whose Y comes next
    colour = size = None
    for at, word in enumerate(words):
        if word == "একটি":
            colour = size = None
        elif word in _COLOURS_BN:
            colour = _COLOURS_BN[word]
        elif word in _SIZES_BN:
            size = _SIZES_BN[word]
        elif word in _NOUNS_BN:
            if open_relation:
                relations.append((len(objects), *open_relation))
                open_relation = None
            objects.append(Mention(_NOUNS_BN[word], colour, size))
            colour = size = None
        elif objects and (relation := _relation_bn(words, at)):
            ground = len(objects) - 1
            if ground == 0 or words[at - 1] == "তার":
                open_relation = relation, ground
            else:
                relations.append((ground - 1, relation, ground))
    return BengaliMeaning(tuple(objects), tuple(relations))


def _relation_bn(words: list[str], at: int) -> str | None:
    """The relation whose words begin at ``at``: the longest phrase, as "on the left side" is one of several words."""
    phrases = [phrase for phrase in _RELATIONS_BN if tuple(words[at : at + len(phrase)]) == phrase]
    return _RELATIONS_BN[max(phrases, key=len)] if phrases else None
