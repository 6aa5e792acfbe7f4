import random
import unicodedata

import pytest
import sentencepiece

from bncap.errors import BncapError
from bncap.text import LANGUAGES, iso, language_name, normalise, share_in_script, stem, stemmer_name, tokenise

ZWNJ, ZWJ, NUKTA, HASANTA = "\u200c", "\u200d", "\u09bc", "\u09cd"
CAPTIONS = (
    "একটি লাল বল গাছের নিচে আছে।",
    "ক্ষুদ্র নৌকাটি নদীতে, আর মন্ত্রী স্বাস্থ্যকেন্দ্রে!",
    f"উদ্{ZWNJ}যানে টেনিস র{ZWNJ}{HASANTA}যাকেট হাতে ৩টি মেয়ে",
    "“দু’টি” কুকুর ১২.৫ মিটার দূরে… বাড়ির পাশে॥",
    f"র{ZWJ}{HASANTA}যাম্পে উত্{ZWJ}সব — ঢাকায়",
    "A MAN’s ½ “T-shirt”, 1,000 ৳",
)


@pytest.fixture(scope="module")
def character_map():
    """What the tokenizer of mBART-50 does to text before it looks for pieces."""
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    return lambda text: normalizer.normalize(text).replace("▁", " ").strip()


@pytest.mark.parametrize("composed", ["\u09dc", "\u09dd", "\u09df"])
def test_composed_and_decomposed_nukta_letters_end_as_two_characters(composed):
    decomposed = unicodedata.normalize("NFD", composed)
    assert len(decomposed) == 2
    assert normalise(f"বা{composed}ি", "bn") == normalise(f"বা{decomposed}ি", "bn") == f"বা{decomposed}ি"


def test_two_part_vowel_signs_are_one_character_however_typed():
    assert normalise("ক\u09c7\u09beন", "bn") == normalise("ক\u09cbন", "bn") == "ক\u09cbন"
    assert normalise("ম\u09c7\u09d7", "bn") == "ম\u09cc"
    assert normalise(f"ক\u09c7{ZWNJ}\u09beন", "bn") == normalise(f"ক\u09c7{ZWJ}\u09beন", "bn") == "ক\u09cbন"


@pytest.mark.parametrize("caption", CAPTIONS)
@pytest.mark.parametrize("lang", ["bn", "hi_IN", "en_XX"])
def test_normalising_twice_changes_nothing_and_leaves_nfc(caption, lang):
    once = normalise(caption, lang)
    assert normalise(once, lang) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())


def test_normalising_twice_changes_nothing_for_random_strings():
    rng = random.Random(0)
    alphabet = [chr(c) for c in range(0x980, 0xA00)] + list(" '\"`´.,:|-…½aA1") + [ZWNJ, ZWJ, HASANTA, NUKTA] * 6
    for _ in range(2000):
        text = "".join(rng.choices(alphabet, k=rng.randint(1, 10)))
        for lang in ("bn", "en"):
            once = normalise(text, lang)
            assert normalise(once, lang) == once, ascii(text)


@pytest.mark.parametrize("caption", CAPTIONS)
@pytest.mark.parametrize("lang", ["bn_IN", "hi", "en"])
def test_a_caption_through_the_character_map_equals_its_reference(caption, lang, character_map):
    assert normalise(character_map(caption), lang) == normalise(caption, lang)


@pytest.mark.parametrize("sign", [ZWNJ, ZWJ, " ", ""])
def test_joiners_a_blank_and_nothing_end_equal_around_a_hasanta(sign):
    assert tokenise(f"উদ্{sign}যান", "bn") == ["উদ্যান"]
    assert tokenise(f"র{sign}{HASANTA}যাকেট", "bn") == ["র্যাকেট"]


def test_zwnj_elsewhere_is_a_blank_and_zwj_is_nothing():
    assert tokenise(f"বল{ZWNJ}গুলি", "bn") == ["বল", "গুলি"]
    assert tokenise(f"বল{ZWJ}গুলি", "bn") == ["বলগুলি"]


def test_a_final_virama_joins_no_words_in_other_scripts():
    assert tokenise("अर्थात् यह", "hi") == ["अर्थात्", "यह"]
    assert tokenise("അവന് പന്ത്", "ml") == ["അവന്", "പന്ത്"]


@pytest.mark.parametrize("mark", ["।", "॥", "?", "!", ",", ";", "(", "৳", "|"])
def test_punctuation_stands_apart_from_its_word(mark):
    expected = ["আছে", "।" if mark == "|" else mark]
    assert tokenise(f"আছে{mark}", "bn") == tokenise(f"আছে {mark} ", "bn") == expected


def test_marks_inside_numbers_and_apostrophes_inside_words_stay():
    assert tokenise("১২.৫ ও 1,000 বা 10:30.", "bn") == ["12.5", "ও", "1,000", "বা", "10:30", "."]
    assert tokenise("দু’টি 'বল'", "bn") == ["দু'টি", "'", "বল", "'"]


def test_bengali_and_ascii_digits_are_one():
    assert normalise("০১২৩৪৫৬৭৮৯", "bn") == "0123456789"
    assert tokenise("৩টি", "bn") == tokenise("3টি", "bn")


def test_quotes_and_dashes_are_of_one_kind():
    assert tokenise("“বল” «বল» ''বল''", "bn") == ['"', "বল", '"'] * 3
    assert tokenise("ছোট–বড় ছোট—বড়", "bn") == tokenise("ছোট-বড় ছোট - বড়", "bn")


def test_blanks_of_every_kind_are_folded():
    assert normalise("\ufeff\n একটি\u00a0 \tবল\u2003\u200bআছে\r\n", "bn") == "একটি বল আছে"
    assert normalise("", "bn") == normalise(" \n", "bn") == ""


def test_only_english_is_case_folded():
    assert normalise("Red BALL", "en_XX") == "red ball"
    assert normalise("Roter BALL", "de_DE") == "Roter BALL"
    assert normalise("LED বাতি", "bn") == "LED বাতি"


def test_look_alike_spellings_are_one():
    assert normalise("\u0985\u09beকাশ", "bn") == "\u0986কাশ"
    assert normalise(f"ঘ\u09ac{NUKTA}", "bn") == "ঘর"


def test_no_word_with_conjuncts_or_signs_is_torn():
    words = ["ক্ষুদ্র", "মন্ত্র", "স্বাস্থ্যকেন্দ্র", "চাঁদ", "দুঃখ", "বাংলা", "উৎসব", "হৃদয়", "ঐক্য", "সূর্য", "আড়াআড়ি"]
    assert len(tokenise(" ".join(words), "bn")) == len(words)
    assert tokenise(" ".join(words), "bn") == [unicodedata.normalize("NFC", word) for word in words]


def test_languages_without_blanks_are_split_into_characters():
    assert tokenise("一只狗, LED灯。", "zh_CN") == ["一", "只", "狗", ",", "LED", "灯", "。"]
    assert tokenise("ที่บ้าน", "th") == ["ที่", "บ้", "า", "น"]


@pytest.mark.parametrize(
    ("word", "root"),
    [
        ("গাছের", "গাছ"), ("গাছে", "গাছ"), ("গাছটি", "গাছ"), ("গাছটির", "গাছ"), ("গাছটায়", "গাছ"),
        ("গাছগুলোকে", "গাছ"), ("বাড়িগুলির", "বাড়ি"), ("নদীতে", "নদী"), ("নদীর", "নদী"), ("রাস্তায়", "রাস্তা"),
        ("লোকেরা", "লোক"), ("মহিলাদের", "মহিলা"), ("শিশুরা", "শিশু"), ("বইয়ের", "বই"), ("মন্ত্রের", "মন্ত্র"),
        ("পর্বতে", "পর্বত"), ("হাতে", "হাত"), ("পার্কে", "পার্ক"), ("ট্রাকে", "ট্রাক"), ("বৃক্ষে", "বৃক্ষ"),
    ],
)  # fmt: skip
def test_bengali_inflection_comes_off(word, root):
    assert stem(word, "bn") == unicodedata.normalize("NFC", root)


@pytest.mark.parametrize(
    "word", ["মাটি", "রুটি", "ঘণ্টা", "পার্টি", "মা", "বল", "ছাতা", "তারা", "টি", "ক্ষেত", "মন্ত্র", "।", "3", "LED"]
)
def test_short_words_conjuncts_and_other_tokens_keep_their_ends(word):
    assert stem(word, "bn") == word


@pytest.mark.parametrize("noun", ["ছেলে", "মেয়ে", "কুকুর", "চেয়ার", "বিড়াল", "ক্যামেরা"])
def test_inflected_and_bare_nouns_share_a_stem(noun):
    endings = ["টি", "টিকে", "টির", "কে"] + (["র", "দের"] if noun.endswith(("ে", "া")) else ["ের", "গুলো"])
    assert {stem(noun + ending, "bn") for ending in endings} == {stem(noun, "bn")}


@pytest.mark.parametrize(
    ("lang", "words", "root"),
    [
        # the examples of Porter's paper, and of Snowball's pages
        ("en", ("caresses",), "caress"), ("en", ("ponies",), "poni"), ("en_XX", ("relational",), "relat"),
        ("en_XX", ("dog", "dogs"), "dog"), ("de_DE", ("Hund", "Hunde", "Hunden"), "hund"),
        ("es_XX", ("perro", "perros", "perras"), "perr"), ("ru_RU", ("собака", "собаки", "собакой"), "собак"),
        ("sv_SE", ("hund", "hundar", "hundarna"), "hund"), ("fi_FI", ("koira", "koirat"), "koira"),
        ("ar_AR", ("الكلاب", "كلاب"), "كلاب"),
    ],
)  # fmt: skip
def test_languages_with_a_stemmer_of_nltk_lose_their_endings(lang, words, root):
    assert {stem(word, lang) for word in words} == {root}


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_a_language_has_a_stemmer_exactly_where_its_name_says_so(code):
    names = {"bn_IN": "bncap-1 light", "en_XX": "Porter"} | {
        f"{lang}": "Snowball"
        for lang in ["ar_AR", "de_DE", "es_XX", "fi_FI", "fr_XX", "it_IT", "nl_XX", "pt_XX", "ro_RO", "ru_RU", "sv_SE"]
    }  # fmt: skip
    assert stemmer_name(code) == stemmer_name(code[:2]) == names.get(code, "")
    words = ["lamps", "गाड़ियों", "小さい", "kedilerin", "бачили"]
    if not stemmer_name(code):
        assert [stem(word, code) for word in words] == words


def test_a_stem_does_not_depend_on_the_words_stemmed_before_and_is_never_empty():
    rng = random.Random(0)
    prefixes, suffixes = ("", "ال", "و", "ب", "لل", "سي"), ("", "ون", "ات", "ها", "ة", "وا", "تم")
    words = [
        rng.choice(prefixes) + "".join(rng.choices("بتجحدرسعفقكلمنهي", k=3)) + rng.choice(suffixes) for _ in range(500)
    ]
    forwards = {word: stem(word, "ar") for word in words}
    stem.cache_clear()
    assert {word: stem(word, "ar") for word in reversed(words)} == forwards
    assert all(stem(token, code) for code in LANGUAGES for token in ("'", "s", "-", "।", "e", "ال"))


def test_languages_are_those_of_the_mbart50_tokenizer():
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    assert list(LANGUAGES) == FAIRSEQ_LANGUAGE_CODES
    assert len(set(LANGUAGES.values())) == 52


@pytest.mark.parametrize(("wrong", "hint"), [("bn_BD", "bn_IN (Bengali)"), ("Bengali", "bn_IN"), ("hi_XX", "hi_IN")])
def test_an_unknown_language_is_an_error_with_close_matches(wrong, hint):
    for function in (iso, language_name, lambda code: normalise("বল", code)):
        with pytest.raises(BncapError, match="unknown language") as error:
            function(wrong)
        assert hint in str(error.value)


@pytest.mark.parametrize(
    ("text", "lang", "share"),
    [
        ("একটি লাল বল।", "bn_IN", 1.0), ("a red ball", "bn_IN", 0.0), ("एक কখ", "hi_IN", 0.5), ("123 !", "ta_IN", 1.0),
        ("a red ball", "en_XX", 1.0), ("犬が走る", "ja_XX", 1.0), ("犬が", "zh_CN", 0.5), ("красный", "ru_RU", 1.0),
    ],
)  # fmt: skip
def test_the_share_of_letters_in_a_languages_script(text, lang, share):
    assert share_in_script([text], lang) == pytest.approx(share, abs=0.34 if share == 0.5 else 0)


def test_every_language_has_a_script_that_its_name_for_itself_is_written_in():
    own = {"ka": "ქართული", "he": "עברית", "si": "සිංහල", "ml": "മലയാളം", "te": "తెలుగు", "gu": "ગુજરાતી", "th": "ไทย",
           "km": "ខ្មែរ", "my": "မြန်မာ", "ko": "한국어", "fa": "فارسی", "ur": "اردو", "ps": "پښتو", "mk": "македонски",
           "mn": "монгол", "kk": "қазақ", "uk": "українська", "mr": "मराठी", "ne": "नेपाली", "vi": "tiếng việt",
           "az": "azərbaycan", "hr": "hrvatski", "ar": "العربية", "ta": "தமிழ்"}  # fmt: skip
    assert all(share_in_script([name], code) == 1 for code, name in own.items())
