"""The bilingual prompt of the text-to-image model, and how captions are cut to fit it (Sec. 4.2.3)."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

CountTokens = Callable[[str], int]
"""Text -> number of tokens it takes; for several tokenizers, the largest of their numbers."""

# Articles, prepositions, conjunctions, pronouns, auxiliaries.
_ENGLISH = """
a an the this that these those some any of to in on at by for from with without into onto over under near next beside
between behind above below up down out off across along around through and or but nor so as while than then there here
it its he she they them his her their who whom whose which what is are was were be been being am has have had do does
did can could will would may might must shall should very just also
"""
# Classifiers, postpositions, conjunctions, pronouns, copulas.
_BENGALI = """
একটি একটা একজন এক টি টা এই সেই ওই এটি এটা সেটি সেটা এর তার তাদের তাঁর এবং ও আর অথবা বা কিন্তু যে যা যার সে তারা উপর উপরে ওপর
ওপরে নিচে নীচে মধ্যে মাঝে ভিতরে ভেতরে পাশে কাছে সামনে পিছনে পেছনে সাথে সঙ্গে জন্য থেকে দিয়ে দ্বারা দিকে হতে আছে রয়েছে হয় হল হলো
হচ্ছে ছিল করে করা করছে নেই কিছু কোনো কোন খুব
"""
FUNCTION_WORDS = frozenset(unicodedata.normalize("NFC", _ENGLISH + _BENGALI).split())
"""Words that say little of what a picture shows, in NFC; the first to go when a caption is too long."""

PUNCTUATION = string.punctuation + "।॥“”‘’–—…"


@dataclass(frozen=True)
class Truncation:
    """The two captions as they enter the prompt, and the words cut from each, in the order they stood in."""

    en: str
    target: str
    cut_en: list[str]
    cut_target: list[str]


def joint_prompt(en: str, target: str, language: str = "Bengali") -> str:
    """Eq. (5): "A photo of: {en}. In Bengali: {target}".

    Args:
        en: English caption.  White space around it and a full stop at its end are dropped, as the format brings its
            own full stop; COCO's captions mostly end in one.
        target: caption in the target language; white space around it is dropped, a danda at its end stays.
        language: English name of the target language.
    """
    return f"{english_part(en)} {target_part(target, language)}"


def english_part(en: str) -> str:
    """The first sentence of :func:`joint_prompt`."""
    return f"A photo of: {en.strip().rstrip('.').rstrip()}."


def target_part(target: str, language: str = "Bengali") -> str:
    """The second sentence of :func:`joint_prompt`."""
    return f"In {language}: {target.strip()}"


def truncate(
    en: str, target: str, budget_en: int, budget_target: int, count_en: CountTokens, count_target: CountTokens
) -> Truncation:
    """Cut each caption to its share of the prompt: "~37 English + ~40 Bengali tokens" (Sec. 4.2.3).

    Of a caption over its budget (in tokens, by its own counter) function words go first, from the end, then content
    words, from the end; what is left keeps its order.  A caption within its budget is returned as it is.
    """
    kept_en, cut_en = _cut(en, budget_en, count_en)
    kept_target, cut_target = _cut(target, budget_target, count_target)
    return Truncation(kept_en, kept_target, cut_en, cut_target)


def _cut(text: str, budget: int, count: CountTokens) -> tuple[str, list[str]]:
    if count(text) <= budget:
        return text, []
    words = text.split()
    function = [i for i, word in enumerate(words) if is_function_word(word)]
    content = [i for i, word in enumerate(words) if not is_function_word(word)]
    kept = set(range(len(words)))
    for i in (*reversed(function), *reversed(content)):
        kept.remove(i)
        text = " ".join(words[k] for k in sorted(kept))
        if count(text) <= budget:
            break
    return text, [word for i, word in enumerate(words) if i not in kept]


def is_function_word(word: str) -> bool:
    """Whether ``word``, in any case and with any punctuation about it, is one of :data:`FUNCTION_WORDS`."""
    return unicodedata.normalize("NFC", word.strip(PUNCTUATION).lower()) in FUNCTION_WORDS
