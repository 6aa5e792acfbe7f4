"""The bilingual prompt of the text-to-image model, and how captions are cut to fit it (Sec. 4.2.3)."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bncap.text import UNSPACED, iso, language_name

WINDOW = 77
"""Tokens that either of Kandinsky's text encoders reads of a prompt, special ones included."""

CountTokens = Callable[[str], int]
"""Text -> number of tokens it takes; for several tokenizers, the largest of their numbers."""

_ENGLISH = """
a an the this that these those some any of to in on at by for from with without into onto over under near next beside
between behind above below up down out off across along around through and or but nor so as while than then there here
it its he she they them his her their who whom whose which what is are was were be been being am has have had do does
did can could will would may might must shall should very just also
"""
_BENGALI = """
একটি একটা একজন এক টি টা এই সেই ওই এটি এটা সেটি সেটা এর তার তাদের তাঁর এবং ও আর অথবা বা কিন্তু যে যা যার সে তারা উপর উপরে ওপর
ওপরে নিচে নীচে মধ্যে মাঝে ভিতরে ভেতরে পাশে কাছে সামনে পিছনে পেছনে সাথে সঙ্গে জন্য থেকে দিয়ে দ্বারা দিকে হতে আছে রয়েছে হয় হল হলো
হচ্ছে ছিল করে করা করছে নেই কিছু কোনো কোন খুব
"""
FUNCTION_WORDS = {
    "en": frozenset(_ENGLISH.split()), "bn": frozenset(unicodedata.normalize("NFC", _BENGALI).split()),
}  # fmt: skip
"""Articles, prepositions, conjunctions, pronouns and the like, in NFC; the first to go when a caption is too long.

There are lists for these languages only: in any other every word counts as content, and is cut from the end.
"""

PUNCTUATION = string.punctuation + "।॥“”‘’–—…"


@dataclass(frozen=True)
class Tokenizer:
    """How a text encoder counts: ``count`` gives a text's tokens without the ``special`` ones put around a prompt."""

    count: CountTokens
    special: int


@dataclass(frozen=True)
class Truncation:
    """The two captions as they enter the prompt, and the words cut from each, in the order they stood in."""

    en: str
    target: str
    cut_en: list[str]
    cut_target: list[str]


@dataclass(frozen=True)
class Prompt:
    """A joint prompt that fits, what was cut for it, and its ``lengths`` before and after, see :func:`fit_prompt`."""

    text: str
    cut: Truncation
    lengths: dict[str, int]


def joint_prompt(en: str, target: str, language: str = "Bengali") -> str:
    """Eq. (5): "A photo of: {en}. In Bengali: {target}", ``language`` being the English name of the target language.

    White space around the captions is dropped, and the English one's full stop, as the format brings its own; a danda
    stays.  Without an English caption the prompt begins "A photo.".
    """
    return f"{english_part(en)} {target_part(target, language)}"


def english_part(en: str) -> str:
    """The first sentence of :func:`joint_prompt`."""
    text = en.strip().rstrip(".").rstrip()
    return f"A photo of: {text}." if text else "A photo."


def target_part(target: str, language: str) -> str:
    """The second sentence of :func:`joint_prompt`."""
    return f"In {language}: {target.strip()}"


def fit_prompt(
    en: str, target: str, budgets: tuple[int, int], lang: str, tokenizers: Mapping[str, Tokenizer]
) -> Prompt:
    """The joint prompt of two captions, cut so that its halves keep their ``budgets`` by each of the tokenizers.

    The paper's 37 and 40 are read as the shares of the prompt's two sentences with their fixed words and one special
    token each: 37 + 40 = 77, which is what both of Kandinsky's text encoders read.  ``lengths`` has ``en_words``,
    ``target_words`` and, for each tokenizer, ``<name>_en`` and ``<name>_target``, tokens of the sentences, and
    ``<name>_prompt``, of the whole with special tokens; after cutting, ``..._kept``.
    """
    language = language_name(lang)
    counters = [tokenizer.count for tokenizer in tokenizers.values()]

    def count_en(text: str) -> int:
        return 1 + max(count(english_part(text)) for count in counters)

    def count_target(text: str) -> int:
        return 1 + max(count(target_part(text, language)) for count in counters)

    cut = truncate(en, target, *budgets, count_en, count_target, lang)
    before = _lengths(en, target, lang, tokenizers)
    after = _lengths(cut.en, cut.target, lang, tokenizers)
    lengths = before | {f"{name}_kept": number for name, number in after.items()}
    return Prompt(joint_prompt(cut.en, cut.target, language), cut, lengths)


def truncate(
    en: str,
    target: str,
    budget_en: int,
    budget_target: int,
    count_en: CountTokens,
    count_target: CountTokens,
    lang: str = "bn_IN",
) -> Truncation:
    """Cut each caption to its share of the prompt: "~37 English + ~40 Bengali tokens" (Sec. 4.2.3).

    Of a caption over its budget, in tokens, function words go first, from the end, then content words, from the end.
    ``lang`` is the language of ``target``; where it is written without blanks, characters are cut in place of words.
    """
    kept_en, cut_en = _cut(en, "en", budget_en, count_en)
    kept_target, cut_target = _cut(target, lang, budget_target, count_target)
    return Truncation(kept_en, kept_target, cut_en, cut_target)


def _cut(text: str, lang: str, budget: int, count: CountTokens) -> tuple[str, list[str]]:
    if count(text) <= budget:
        return text, []
    words, between = split_words(text, lang), "" if iso(lang) in UNSPACED else " "
    function = [i for i, word in enumerate(words) if is_function_word(word, lang)]
    content = sorted(set(range(len(words))) - set(function))
    kept = set(range(len(words)))
    for i in (*reversed(function), *reversed(content)):
        kept.remove(i)
        text = between.join(words[k] for k in sorted(kept)).strip()
        if count(text) <= budget:
            break
    return text, [word for i, word in enumerate(words) if i not in kept]


def split_words(text: str, lang: str) -> list[str]:
    """The words of ``text``; in a language without blanks its characters, with the marks and blanks behind each."""
    if iso(lang) not in UNSPACED:
        return text.split()
    characters: list[str] = []
    for char in text.strip():
        if characters and (char.isspace() or unicodedata.category(char).startswith("M")):
            characters[-1] += char
        else:
            characters.append(char)
    return characters


def is_function_word(word: str, lang: str) -> bool:
    """Whether ``word``, in any case and with any punctuation about it, is in the list of its language."""
    bare = unicodedata.normalize("NFC", word.strip(PUNCTUATION).lower())
    return bare in FUNCTION_WORDS.get(iso(lang), ())


def _lengths(en: str, target: str, lang: str, tokenizers: Mapping[str, Tokenizer]) -> dict[str, int]:
    language = language_name(lang)
    lengths = {"en_words": len(split_words(en, "en")), "target_words": len(split_words(target, lang))}
    for name, tokenizer in tokenizers.items():
        lengths[f"{name}_en"] = tokenizer.count(english_part(en))
        lengths[f"{name}_target"] = tokenizer.count(target_part(target, language))
        lengths[f"{name}_prompt"] = tokenizer.special + tokenizer.count(joint_prompt(en, target, language))
    return lengths
