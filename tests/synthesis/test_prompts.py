"""The joint prompt (Eq. 5) and the cutting of captions."""

from __future__ import annotations

import random

import pytest

from bncap.synthesis.prompts import (
    Tokenizer,
    english_part,
    fit_prompt,
    is_function_word,
    joint_prompt,
    truncate,
)


def words(text: str) -> int:
    return len(text.split())


def test_the_prompt_is_that_of_equation_5():
    assert joint_prompt("a red ball", "একটি লাল বল") == "A photo of: a red ball. In Bengali: একটি লাল বল"


def test_the_full_stop_of_a_caption_is_not_doubled_and_its_danda_stays():
    prompt = joint_prompt(" A red ball.\n", "একটি লাল বল। ")
    assert prompt == "A photo of: A red ball. In Bengali: একটি লাল বল।"


def test_captions_within_their_budgets_come_back_as_they_are():
    cut = truncate("A  red ball .", "একটি লাল বল।", 4, 3, words, words)
    assert (cut.en, cut.target, cut.cut_en, cut.cut_target) == ("A  red ball .", "একটি লাল বল।", [], [])


def test_function_words_go_first_from_the_end_then_content_words_from_the_end():
    en = "A red ball on the grass, near The boat."
    assert truncate(en, "", 6, 1, words, words).en == "A red ball on grass, boat."
    assert truncate(en, "", 4, 1, words, words).en == "red ball grass, boat."
    assert truncate(en, "", 2, 1, words, words).en == "red ball"
    assert truncate(en, "", 2, 1, words, words).cut_en == ["A", "on", "the", "grass,", "near", "The", "boat."]


def test_bengali_function_words_go_first_in_either_encoding():
    bn = "ঘাসের ওপর একটি লাল বল রয়েছে।"
    assert truncate("", bn, 1, 3, words, words).target == "ঘাসের লাল বল"
    assert (
        is_function_word("রয়েছে।", "bn_IN")
        and is_function_word("\u09b0\u09df\u09c7\u099b\u09c7", "bn")
        and not is_function_word("বল", "bn_IN")
    )


def test_what_is_kept_and_what_is_cut_make_up_the_caption_and_keep_the_budget():
    rng = random.Random(0)
    vocabulary = ["a", "cat", "the", "dog", "on", "sits", "ball", "একটি", "লাল", "এবং", "নৌকা"]
    for _ in range(300):
        text = " ".join(rng.choices(vocabulary, k=rng.randint(1, 14)))
        budget = rng.randint(0, 30)
        cut = truncate(text, text, budget, budget + 5, len, words)
        assert len(cut.en) <= budget
        assert sorted(cut.en.split() + cut.cut_en) == sorted(text.split())
        kept, rest = cut.en.split(), iter(text.split())
        assert all(word in rest for word in kept), "the order of the words has changed"
        if cut.cut_en and any(is_function_word(word, "en") for word in kept):
            assert all(is_function_word(word, "en") for word in cut.cut_en)


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_that_nothing_fits_leaves_nothing_and_ends(budget):
    assert truncate("a cat", "", budget, 0, lambda text: words(text) + 1, words).en == ""


def test_a_language_without_a_list_has_content_words_only_and_is_cut_from_the_end():
    """German "an" and "in" are English words too, and Bengali has a list of its own."""
    assert truncate("", "ein Hund in der Sonne an Land", 1, 4, words, words, "de_DE").target == "ein Hund in der"
    assert not is_function_word("in", "de_DE") and not is_function_word("একটি", "hi_IN")


def test_a_language_without_blanks_is_cut_by_characters_that_keep_their_marks():
    cut = truncate("", "แมวสีดำที่นั่ง", 1, 7, words, len, "th_TH")
    assert cut.target == "แมวสีดำ" and "".join([cut.target, *cut.cut_target]) == "แมวสีดำที่นั่ง"
    assert cut.cut_target[0] == "ที่"
    assert truncate("", "黑猫 坐着", 1, 3, words, len, "zh_CN").target == "黑猫"


def test_a_caption_without_an_english_side_has_a_prompt_all_the_same():
    assert joint_prompt("", "ein Hund", "German") == "A photo. In German: ein Hund"
    assert english_part(" . ") == "A photo."


def test_the_lengths_of_a_prompt_are_those_before_and_after_cutting_by_each_tokenizer():
    counters = {"letters": Tokenizer(len, 2), "words": Tokenizer(words, 0)}
    whole = fit_prompt("a red ball", "লাল বল", (37, 40), "bn_IN", counters)
    assert whole.text == "A photo of: a red ball. In Bengali: লাল বল" and not whole.cut.cut_en + whole.cut.cut_target
    assert whole.lengths["letters_prompt"] == len(whole.text) + 2 == whole.lengths["letters_prompt_kept"]
    assert whole.lengths["words_en"] == 6 and whole.lengths["words_target"] == 4

    cut = fit_prompt("a red ball", "লাল বল", (21, 40), "bn_IN", counters)
    assert cut.text == "A photo of: ball. In Bengali: লাল বল".replace("ball", "red")
    assert (cut.lengths["en_words"], cut.lengths["en_words_kept"]) == (3, 1)
    assert (cut.lengths["target_words"], cut.lengths["target_words_kept"]) == (2, 2)
    assert cut.lengths["letters_en"] == len("A photo of: a red ball.")
    assert cut.lengths["letters_en_kept"] + 1 <= 21
