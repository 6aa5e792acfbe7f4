"""One written form for captions: languages, normalisation, tokens and stems.

Hypotheses come back from the mBART-50 tokenizer, references do not.  :func:`normalise` therefore does to a reference
what the tokenizer's character map (sentencepiece ``nmt_nfkc``) has done to a hypothesis, and goes on from there.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bncap.errors import BncapError

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer

NORMALISER = "bncap-1"
"""Name of the rules below for metric signatures; raise the number whenever a rule changes."""

_TABLE: dict[str, dict] = json.loads(Path(__file__).with_name("languages.json").read_text("utf-8"))
LANGUAGES: dict[str, str] = {code: row["name"] for code, row in _TABLE.items()}
"""The 52 language codes of mBART-50 and their English names, as in the prompt "In Bengali: ..."."""
NLLB_CODES: dict[str, str] = {code[:2]: row["nllb"] for code, row in _TABLE.items()}
"""Their codes in FLORES-200, which NLLB uses."""

UNSPACED = frozenset({"ja", "km", "my", "th", "zh"})
"""Languages written without blanks between words; their tokens are characters."""

SNOWBALL: dict[str, str] = {code[:2]: row["snowball"] for code, row in _TABLE.items() if "snowball" in row}
"""Languages with one of nltk's Snowball stemmers, by its name there."""

HASANTA = "\u09cd"

_CODES = {code[:2]: code for code in LANGUAGES}

# What the character map makes a blank: zero-width space, ZWNJ, direction marks, byte-order mark, its own blank sign,
# the replacement character.
_BLANKS = dict.fromkeys((0x200B, 0x200C, 0x200E, 0x200F, 0x061C, 0xFEFF, 0x2581, 0xFFFD), " ")
# Invisible, and no part of any word: ZWJ, soft hyphen, word joiner, variation selectors, control characters.
_INVISIBLE = dict.fromkeys(
    (0x200D, 0x00AD, 0x2060, *range(0xFE00, 0xFE10), *range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F)
)
# An acute accent on its own is a quote here; NFKC would make it a blank with a combining accent.
_BEFORE_NFKC = _BLANKS | _INVISIBLE | {0x00B4: "'"}
_QUOTES_AND_DASHES = (
    dict.fromkeys(map(ord, "“”„‟«»"), '"')
    | dict.fromkeys(map(ord, "‘’‚‛‹›′`ʼ"), "'")
    | dict.fromkeys(map(ord, "‐‑‒–—―−"), "-")
)
# One word in two encodings that look the same: independent a + sign aa; ba + nukta.
_BENGALI_LOOKALIKES = (("\u0985\u09be", "\u0986"), ("\u09ac\u09bc", "\u09b0"))
# A blank before a dependent sign, or between hasanta and a consonant, stands where a ZWNJ or ZWJ was.
_BENGALI_TORN = re.compile(
    "(?<=[\u0980-\u09e3]) (?=[\u0981-\u0983\u09bc\u09be-\u09cd\u09d7])|(?<=\u09cd) (?=[\u0995-\u09b9])"
)

_VOWELS = "\u09be\u09bf\u09c0\u09c1\u09c2\u09c3\u09cb\u09cc\u0985\u0986\u0987\u0988\u0989\u098a\u098f\u0993"
_BENGALI_SUFFIXES = (  # (suffix, the characters one of which it must follow; empty: any), longest first
    ("গুলি", ""), ("গুলো", ""), ("গুলা", ""),  # plural classifiers
    ("য\u09bcের", "ইউও"), ("েরা", ""), ("দের", ""),  # genitive after a vowel letter; human plurals
    ("য\u09bcে", "ইউও"), ("রা", ""), ("টি", ""), ("টা", ""), ("ের", ""), ("কে", ""),
    ("তে", _VOWELS), ("য\u09bc", "\u09be"), ("র", _VOWELS), ("ে", ""),  # locatives, genitive after a vowel
)  # fmt: skip


def iso(code: str) -> str:
    """The two-letter ISO 639-1 code of an mBART-50 code or of itself: ``bn_IN`` -> ``bn``, ``bn`` -> ``bn``.

    Raises BncapError, with close matches, for a language that mBART-50 does not know.
    """
    if code in LANGUAGES:
        return code[:2]
    if code in _CODES:
        return code
    known = {name.lower(): key for key, name in LANGUAGES.items()} | {key.lower(): key for key in LANGUAGES}
    close = [known[word] for word in difflib.get_close_matches(str(code).lower(), known, n=3, cutoff=0.5)]
    same_language = _CODES.get(re.split("[_-]", str(code).lower())[0])
    close = [same_language] if same_language else list(dict.fromkeys(close))
    hint = ", ".join(f"{key} ({LANGUAGES[key]})" for key in close) or "one of " + ", ".join(LANGUAGES)
    raise BncapError(f"unknown language {code!r}; did you mean {hint}?")


def mbart_code(code: str) -> str:
    """The mBART-50 code of an mBART-50 or ISO code; raises BncapError, with close matches, if unknown."""
    return _CODES[iso(code)]


def language_name(code: str) -> str:
    """English name of an mBART-50 or ISO code, for prompts; raises BncapError, with close matches, if unknown."""
    return LANGUAGES[mbart_code(code)]


@lru_cache(maxsize=65536)
def normalise(text: str, lang: str) -> str:
    """The one written form of ``text`` in which captions are compared; idempotent.

    All languages: NFKC, as in the tokenizer's character map, so that nukta letters (ড় ঢ় য়, क़ ...) are two characters
    (Unicode excludes them from composition) however they were typed; decimal digits of any script are ASCII; quotes and
    dashes are of one kind; punctuation and symbols, the danda and double danda among them, stand apart, save an
    apostrophe between letters (দু'টি) and ``. , :`` between digits; runs of blanks are one blank.  English alone is
    case-folded.

    Invisible characters: ZWNJ becomes a blank because the character map makes it one and a hypothesis cannot have it
    back; ZWJ is dropped.  In Bengali the blank is then closed before a dependent sign (র‌্যা) and between hasanta and a
    consonant (উদ্‌যান), where it would tear a word, so that ZWNJ, ZWJ, a blank in place of either, and neither all end
    the same.  The price: a word that is spelt with a final hasanta is joined to the word behind it.  (Not so in other
    scripts, where a final virama is common.)  Bengali ``|`` is a danda; অ + া is আ, ব + nukta is র.

    ``lang`` is an mBART-50 or ISO code; raises BncapError if it is unknown.
    """
    language = iso(lang)
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE_NFKC))
    text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
    # two singles are one double: NFKC takes a double prime apart, and people type them so
    text = text.translate(_QUOTES_AND_DASHES).replace("''", '"')
    if language == "en":
        text = text.casefold()
    if language == "bn":
        text = text.replace("|", "।")
    text = " ".join(_set_punctuation_apart(text).split())
    if language == "bn":
        text = _BENGALI_TORN.sub("", text)
        for found, meant in _BENGALI_LOOKALIKES:
            text = text.replace(found, meant)
    return unicodedata.normalize("NFC", text)


def share_in_script(texts: Iterable[str], lang: str) -> float:
    """Share of the letters of ``texts`` that are of the script that ``lang`` is written in; 1 where there are none."""
    script = tuple(_TABLE[mbart_code(lang)]["script"])  # beginnings of the Unicode names of its letters
    letters = [char for text in texts for char in text if unicodedata.category(char)[0] == "L"]
    return sum(unicodedata.name(char, "").startswith(script) for char in letters) / len(letters) if letters else 1.0


def _set_punctuation_apart(text: str) -> str:
    pieces = []
    for before, char, after in zip(" " + text, text, text[1:] + " ", strict=False):
        inside = (
            unicodedata.category(char)[0] not in "PS"
            or (char == "'" and _is_word(before) and _is_word(after))
            or (char in ".,:" and before.isdigit() and after.isdigit())
        )
        pieces.append(char if inside else f" {char} ")
    return "".join(pieces)


def _is_word(char: str) -> bool:
    """A letter or a mark; Bengali vowel signs and the hasanta are marks, which ``str.isalpha`` leaves out."""
    return unicodedata.category(char)[0] in "LM"


def tokenise(text: str, lang: str) -> list[str]:
    """Tokens of the normalised text: split on blanks, so that no word is torn.

    In the languages of :data:`UNSPACED` each character with its marks is a token, and a run of ASCII letters or digits
    is one.
    """
    words = normalise(text, lang).split()
    if iso(lang) not in UNSPACED:
        return words
    tokens: list[str] = []
    for word in words:
        start = len(tokens)
        for char in word:
            mark = unicodedata.category(char)[0] == "M"
            run = char.isascii() and char.isalnum() and len(tokens) > start and tokens[-1].isascii()
            if len(tokens) > start and (mark or run):
                tokens[-1] += char
            else:
                tokens.append(char)
    return tokens


def stemmer_name(lang: str) -> str:
    """What :func:`stem` uses for a language: "bncap-1 light", "Porter", "Snowball", or "" where it changes nothing.

    ``lang`` is an mBART-50 or ISO code; raises BncapError if it is unknown.
    """
    language = iso(lang)
    if language == "bn":
        return f"{NORMALISER} light"
    return "Porter" if language == "en" else "Snowball" if language in SNOWBALL else ""


@lru_cache(maxsize=65536)
def stem(token: str, lang: str) -> str:
    """What is left of a normalised token without its inflection; the token itself where a language has no stemmer.

    English: nltk's Porter stemmer, METEOR's own; the languages of :data:`SNOWBALL`: nltk's.  Both give lower case.
    Bengali: a light stemmer of inflections, :func:`_stem_bengali`.
    """
    language = iso(lang)
    if language == "bn":
        return _stem_bengali(token)
    if language == "en":
        # a stem of nothing would make unlike tokens equal
        return _porter().stem(token) or token
    if language in SNOWBALL:
        from nltk.stem.snowball import SnowballStemmer  # slow to import

        # a new one for each word: the Arabic one remembers the word before
        return SnowballStemmer(SNOWBALL[language]).stem(token) or token
    return token


@cache
def _porter() -> PorterStemmer:
    from nltk.stem.porter import PorterStemmer  # slow to import

    return PorterStemmer()


def _stem_bengali(token: str) -> str:
    """Light and inflectional only: classifiers (টি টা গুলি গুলো), human plurals (রা দের), case (র ের কে তে ে য়).

    The longest comes off first, again and again until none does (গাছগুলোকে -> গাছগুলো -> গাছ), so that an inflected
    word and the bare one end equal even where the bare one happens to end like a suffix.  A suffix stays where fewer
    than two orthographic syllables would be left (মাটি, হাতে keeps its ত) or a conjunct would be cut (ঘণ্টা, পার্ক); র
    and তে come off vowels only, as the grammar has it.  A stem need not be a word (ছেলে, ছেলের -> ছেল); verbs, emphatic
    ই and ও, and derivation are left alone.
    """
    token = unicodedata.normalize("NFC", token)
    for suffix, follows in _BENGALI_SUFFIXES:
        root = token.removesuffix(suffix)
        if root == token or root.endswith(HASANTA) or (follows and root[-1:] not in follows):
            continue
        if _syllables(root) >= 2:
            return _stem_bengali(root)
    return token


def _syllables(word: str) -> int:
    """Bengali orthographic syllables: letters that are not joined to the one before by a hasanta."""
    pairs = zip(" " + word, word, strict=False)
    return sum("\u0985" <= char <= "\u09b9" and before != HASANTA for before, char in pairs)
