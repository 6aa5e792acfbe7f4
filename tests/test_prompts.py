"""The joint prompt (Eq. 5) and the cutting of captions."""

from __future__ import annotations

import random

import pytest

from bncap.prompts import is_function_word, joint_prompt, truncate


def words(text: str) -> int:
    return len(text.split())


def test_the_prompt_is_that_of_equation_5():
    assert joint_prompt("a red ball", "একটি লাল বল") == "A photo of: a red ball. In Bengali: একটি লাল বল"


def test_the_full_stop_of_a_caption_is_not_doubled_and_its_danda_stays():
    prompt = joint_prompt(" A red ball.\n", "একটি লাল বল। ")
    assert prompt == "A photo of: A red ball. In Bengali: একটি লাল বল।"


def test_the_prompt_names_another_language():
    assert joint_prompt("a cat", "eine Katze", language="German") == "A photo of: a cat. In German: eine Katze"


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
        is_function_word("রয়েছে।") and is_function_word("\u09b0\u09df\u09c7\u099b\u09c7") and not is_function_word("বল")
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
        if cut.cut_en and any(is_function_word(word) for word in kept):
            assert all(is_function_word(word) for word in cut.cut_en)


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_that_nothing_fits_leaves_nothing_and_ends(budget):
    assert truncate("a cat", "", budget, 0, lambda text: words(text) + 1, words).en == ""
