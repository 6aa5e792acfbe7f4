"""The words and sentence patterns of the mini world, in English and Bengali, for both domains.

A :class:`Dialect` holds what one language says in one domain.  An out-of-domain dialect lists only what is its *own*:
its speaker mixes it with the in-domain words of the same language, never the other way round.  Bengali is in NFC, in
which ড়, ঢ় and য় are decomposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Words = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Dialect:
    """Slots of the patterns: ``a`` the first object, ``b`` the second, ``c`` the third, each a noun phrase; ``rel``
    where ``a`` is from ``b``, ``own`` the same with a pronoun for ``b``; ``b_gen`` a genitive; ``bg`` the background;
    ``tail`` one of :attr:`tails` or nothing.
    """

    nouns: Words
    sizes: Words
    backgrounds: Words
    relations: Mapping[str, tuple[tuple[str, str], ...]]
    """Relation -> pairs (``rel``, ``own``)."""
    single: tuple[str, ...]
    pairs: tuple[str, ...]
    joined: tuple[str, ...]
    """Two objects without a relation."""
    tails: tuple[str, ...]


ENGLISH = Dialect(
    nouns={
        "ball": ("ball", "sphere"), "box": ("box", "crate"), "cup": ("cup", "mug"), "house": ("house", "home"),
        "tree": ("tree",), "car": ("car", "automobile"), "boat": ("boat", "ship"), "fish": ("fish",),
        "bird": ("bird",), "flower": ("flower", "blossom"), "star": ("star",), "book": ("book",), "key": ("key",),
        "umbrella": ("umbrella",), "clock": ("clock", "watch"), "chair": ("chair", "seat"),
        "table": ("table", "desk"), "lamp": ("lamp",), "hat": ("hat", "cap"), "kite": ("kite",),
        "mushroom": ("mushroom", "toadstool"), "bottle": ("bottle", "flask"), "bell": ("bell",),
        "cat": ("cat", "kitten"),
    },
    sizes={"small": ("small", "little", "tiny"), "large": ("large", "big")},
    backgrounds={
        "grass": ("on the grass", "on a lawn"),
        "sand": ("on the sand", "on a sandy beach"),
        "water": ("on the water", "in the water"),
        "snow": ("in the snow", "on snowy ground"),
    },
    relations={
        "left": (("to the left of", "to its left"), ("on the left of", "on its left")),
        "right": (("to the right of", "to its right"), ("on the right of", "on its right")),
        "above": (("above", "above it"), ("over", "over it")),
        "below": (("below", "below it"), ("under", "under it")),
    },
    single=("there is {a} {bg}", "{a} {bg}", "a picture of {a} {bg}", "{bg} there is {a}", "here is {a} {bg}"),
    pairs=(
        "there is {a} {rel} {b} {bg}{tail}",
        "{a} {rel} {b} {bg}{tail}",
        "{b} with {a} {own} {bg}{tail}",
        "{b} {bg}, and {own} {a}{tail}",
        "{rel} {b} {bg} is {a}{tail}",
        "{a} is {rel} {b} {bg}{tail}",
        "{a} lying {rel} {b} {bg}{tail}",
        "{bg} there is {a} {rel} {b}{tail}",
    ),
    joined=("{a} and {b} {bg}{tail}", "there is {a} next to {b} {bg}{tail}"),
    tails=(", and {c} nearby", ", with {c} close by", ", and also {c}"),
)  # fmt: skip

ENGLISH_OOD = Dialect(
    nouns={
        "ball": ("globe",), "box": ("carton",), "cup": ("teacup",), "house": ("cottage",), "car": ("vehicle",),
        "boat": ("vessel",), "flower": ("bloom",), "book": ("novel",), "umbrella": ("parasol",),
        "clock": ("timepiece",), "chair": ("armchair",), "lamp": ("lantern",), "mushroom": ("fungus",),
        "cat": ("feline",),
    },
    sizes={"small": ("miniature", "undersized"), "large": ("huge", "oversized")},
    backgrounds={
        "brick": ("against a brick wall", "in front of a wall of bricks"),
        "wood": ("on a wooden floor", "on wooden boards"),
        "night": ("at night", "in the dark of the night"),
        "carpet": ("on a carpet", "on a patterned rug"),
    },
    relations={
        "left": (("on the left-hand side of", "on its left-hand side"),),
        "right": (("on the right-hand side of", "on its right-hand side"),),
        "above": (("directly above", "directly above it"),),
        "below": (("beneath", "beneath it"), ("underneath", "underneath it")),
    },
    single=(
        "the photograph shows nothing but {a} {bg}",
        "{a} can be seen all by itself {bg}",
        "someone has photographed {a} {bg}",
        "{bg}, one notices {a}",
    ),
    pairs=(
        "the photograph shows {a} positioned {rel} {b} {bg}{tail}",
        "{bg}, {a} can be seen {rel} {b}{tail}",
        "someone has photographed {a} {rel} {b} {bg}{tail}",
        "{b} rests {bg} while {a} appears {own}{tail}",
        "one notices {b} {bg} along with {a} {own}{tail}",
    ),
    joined=("the photograph shows {a} together with {b} {bg}{tail}", "{a} can be seen beside {b} {bg}{tail}"),
    tails=(", plus {c} further away", ", as well as {c}", ", while {c} waits in the distance"),
)  # fmt: skip

BENGALI = Dialect(
    nouns={
        "ball": ("বল",), "box": ("বাক্স",), "cup": ("কাপ", "পেয়ালা"), "house": ("বাড়ি", "ঘর"), "tree": ("গাছ",),
        "car": ("গাড়ি",), "boat": ("নৌকা",), "fish": ("মাছ",), "bird": ("পাখি",), "flower": ("ফুল",),
        "star": ("তারা",), "book": ("বই",), "key": ("চাবি",), "umbrella": ("ছাতা",), "clock": ("ঘড়ি",),
        "chair": ("চেয়ার",), "table": ("টেবিল",), "lamp": ("বাতি", "ল্যাম্প"), "hat": ("টুপি",), "kite": ("ঘুড়ি",),
        "mushroom": ("মাশরুম",), "bottle": ("বোতল",), "bell": ("ঘণ্টা",), "cat": ("বিড়াল", "বেড়াল"),
    },
    sizes={"small": ("ছোট",), "large": ("বড়",)},
    backgrounds={
        "grass": ("ঘাসের উপর", "ঘাসের মাঠে"),
        "sand": ("বালির উপর", "বালুচরে"),
        "water": ("পানির উপর", "পানিতে"),
        "snow": ("বরফের উপর", "তুষারের মধ্যে"),
    },
    relations={
        "left": (("বাম পাশে", "তার বাম পাশে"), ("বাঁ দিকে", "তার বাঁ দিকে")),
        "right": (("ডান পাশে", "তার ডান পাশে"), ("ডান দিকে", "তার ডান দিকে")),
        "above": (("উপরে", "তার উপরে"),),
        "below": (("নিচে", "তার নিচে"),),
    },
    single=("{bg} {a} আছে", "{bg} {a}", "{bg} {a} দেখা যাচ্ছে", "{a} {bg} রয়েছে"),
    pairs=(
        "{bg} {b_gen} {rel} {a} আছে{tail}",
        "{bg} {b_gen} {rel} {a} দেখা যাচ্ছে{tail}",
        "{bg} {b_gen} {rel} {a}{tail}",
        "{bg} {a} {b_gen} {rel} রয়েছে{tail}",
        "{bg} {b} ও {own} {a}{tail}",
        "{bg} {b} আছে, {own} {a}{tail}",
    ),
    joined=("{bg} {a} ও {b} আছে{tail}", "{bg} {a} এবং {b}{tail}", "{bg} {a} ও {b} দেখা যাচ্ছে{tail}"),
    tails=(", কাছেই {c}", " এবং কাছেই {c}", ", সঙ্গে {c}"),
)  # fmt: skip

BENGALI_OOD = Dialect(
    nouns={
        "ball": ("গোলক",), "box": ("কার্টন",), "cup": ("মগ",), "house": ("কুটির",), "tree": ("বৃক্ষ",),
        "car": ("মোটরগাড়ি",), "boat": ("ডিঙি",), "flower": ("পুষ্প",), "star": ("নক্ষত্র",), "book": ("পুস্তক",),
        "lamp": ("লণ্ঠন",), "mushroom": ("ছত্রাক",), "bottle": ("শিশি",),
    },
    sizes={"small": ("ছোট্ট", "খুদে"), "large": ("বিশাল", "মস্ত")},
    backgrounds={
        "brick": ("ইটের দেয়ালের সামনে", "ইটের প্রাচীরের সামনে"),
        "wood": ("কাঠের মেঝেতে", "কাঠের তক্তার উপর"),
        "night": ("রাতের বেলা", "রাতের অন্ধকারে"),
        "carpet": ("গালিচার উপর", "নকশা করা কার্পেটে"),
    },
    relations={
        "left": (("বাঁ ধারে", "তার বাঁ ধারে"),),
        "right": (("ডান ধারে", "তার ডান ধারে"),),
        "above": (("ঠিক উপরে", "তার ঠিক উপরে"),),
        "below": (("তলায়", "তার তলায়"),),
    },
    single=(
        "এই ছবিতে {bg} {a} দেখতে পাওয়া যাচ্ছে",
        "{bg} কেবল {a} চোখে পড়ছে",
        "{bg} {a} নজরে আসছে",
    ),
    pairs=(
        "এই ছবিতে {bg} {b_gen} {rel} {a} দেখতে পাওয়া যাচ্ছে{tail}",
        "{bg} {b_gen} {rel} {a} চোখে পড়ছে{tail}",
        "{bg} {b_gen} {rel} {a} নজরে আসছে{tail}",
        "{bg} {b} দেখা যাচ্ছে, আর {own} রয়েছে {a}{tail}",
    ),
    joined=("এই ছবিতে {bg} {a} আর {b} দেখতে পাওয়া যাচ্ছে{tail}", "{bg} একসঙ্গে {a} ও {b} চোখে পড়ছে{tail}"),
    tails=(", আর খানিকটা দূরে {c}", ", তাছাড়া রয়েছে {c}"),
)  # fmt: skip

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
