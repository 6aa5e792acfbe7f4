"""The Bengali words for COCO's categories, found as they stand in captions."""

from __future__ import annotations

import pytest

from bncap.config import get_config
from bncap.data.readers import NOUN_LEXICON_BN, NOUNS_BN
from bncap.experiments import evaluate
from bncap.metrics import Nouns, noun_counts
from bncap.mini.grammar import genitive_bn
from bncap.text import tokenise

# As instances_val2014.json lists them.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip

NOUNS = Nouns(NOUN_LEXICON_BN)
INFLECTED = ("মায়ের", "মোটরবাইকে", "ব্যাকপ্যাকে", "পুস্তকে", "কায়াকে")
IRREGULAR = ("মা", "স্কি")
"""One syllable: what the stemmer leaves alone; their forms are tried by name."""


def kinds(text):
    return [kind for _, _, kind in NOUNS.find(tokenise(text, "bn"))]


def locatives(word):
    if word[-1] == "া":
        return word + "য়", word + "তে"
    if "\u09be" <= word[-1] <= "\u09cc" or "\u0985" <= word[-1] <= "\u0994":
        return (word + "তে",) if word[-1] != "ে" else ()  # of people, who are no place
    return (word + "ে",) if word[-1] != "ক" else ()  # ...কে is the objective case


def forms(word):
    plain = (word, genitive_bn(word), *locatives(word))
    return *plain, *(word + suffix for suffix in ("টি", "টা", "গুলি", "গুলো", "টির", "টিতে", "গুলোর", "টিকে"))


def test_it_covers_exactly_the_categories_of_coco():
    assert len(COCO) == 80
    assert set(NOUNS_BN["categories"]) == NOUNS.kinds == set(COCO)


def test_every_word_and_its_usual_inflections_are_found_in_a_sentence():
    regular = [
        (kind, word)
        for kind, words in NOUNS_BN["categories"].items()
        for word in words
        if word not in INFLECTED and not word.startswith(IRREGULAR[1]) and word != IRREGULAR[0]
    ]
    assert len(regular) > 250
    missed = [
        (kind, form)
        for kind, word in regular
        for form in forms(word)
        if kinds(f"ছবিতে একটি লাল {form}, দেখা যাচ্ছে।") != [kind]
    ]
    assert not missed


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("একজন মহিলা টেনিস র‍্যাকেট হাতে নিয়ে কোর্টে দাঁড়িয়ে আছেন।", ["person", "tennis racket"]),
        ("রাস্তার পাশে একটি ফায়ার হাইড্রেন্টের উপর একটি পাখি বসে আছে।", ["fire hydrant", "bird"]),
        ("ট্রাফিক লাইটের নিচে একটি বাস ও দুটি গাড়ি।", ["traffic light", "bus", "car"]),
        ("প্লেটে একটি হট ডগ, কাঁটা চামচ ও ছুরি।", ["hot dog", "fork", "knife"]),
        ("কুকুরটি ফ্রিসবি ধরছে", ["dog", "frisbee"]),
        ("ছেলেটির হাতে বেসবল ব্যাট ও বেসবলের দস্তানা", ["person", "baseball bat", "baseball glove"]),
        ("বিছানায় একটি টেডি বিয়ারের পাশে বিড়াল", ["bed", "teddy bear", "cat"]),
        ("একটি বাদামী ভালুক নদীতে", ["bear"]),
        ("টয়লেটের পাশে একটি সিঙ্ক এবং দাঁত মাজার ব্রাশ", ["toilet", "sink", "toothbrush"]),
        ("টেবিলে ওয়াইনের গ্লাস ও মোবাইল ফোনগুলি", ["dining table", "wine glass", "cell phone"]),
        ("মায়ের সাথে শিশুটি", ["person", "person"]),
        ("তুষারে স্কিগুলি ও স্কিতে একজন মানুষ", ["skis", "skis", "person"]),
        ("ঘোড়ার গাড়ি ও পুলিশের গাড়িতে", ["horse", "car"]),
    ],
)
def test_running_text_gives_the_kinds_in_their_order(caption, expected):
    assert kinds(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "কমলা রঙের দেয়াল", "টেবিল টেনিস খেলা", "জেব্রা ক্রসিংয়ে আলো", "বাস স্টপের ছাউনি", "মাটিতে ঘাস", "কার জন্য", "হাতে ধরা",
        "টয়লেট পেপারের রোল",
    ],
)  # fmt: skip
def test_words_with_another_meaning_name_no_category(caption):
    assert kinds(caption) == []


def test_real_data_in_bengali_have_the_lexicon_and_other_languages_none():
    assert evaluate.noun_lexicon(get_config("paper")) is NOUN_LEXICON_BN
    assert evaluate.noun_lexicon(get_config("paper", ["data.lang=hi_IN"])) == {}
    assert set(evaluate.noun_lexicon(get_config("mini")).values()).isdisjoint({""})
    assert noun_counts(["একটি গাড়ি ও বাস স্টপ"], [{"car"}], NOUN_LEXICON_BN).tolist() == [[1, 1, 1]]
