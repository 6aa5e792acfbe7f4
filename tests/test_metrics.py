import math
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from nltk.translate.meteor_score import meteor_score
from sacrebleu.metrics import BLEU

from bncap.metrics import (
    Nouns,
    bleu_statistics,
    diversity,
    noun_counts,
    score,
    sentence_scores,
)
from bncap.text import stem, tokenise

WORDS = ["একটি", "দুটি", "লাল", "সবুজ", "বল", "গাছ", "নদী", "বাড়ি", "ক্ষুদ্র", "মন্ত্র", "পাশে", "উপরে", "আছে", "।"]
BLEU_NAMES = ("B1", "B2", "B3", "B4")


def make_corpus(seed, n, most_references=4):
    rng = random.Random(seed)
    references = [
        [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(rng.randint(1, most_references))]
        for _ in range(n)
    ]
    hypotheses = [
        " ".join(word if rng.random() < 0.8 else rng.choice(WORDS) for word in rng.choice(refs).split())
        for refs in references
    ]
    return hypotheses, references


def bleu_by_hand(hypotheses, references, order):
    """Papineni et al. 2002 on ready tokens, word by word."""
    matched, total, hyp_len, ref_len = [0] * order, [0] * order, 0, 0
    for caption, refs in zip(hypotheses, references, strict=True):
        tokens, others = caption.split(), [ref.split() for ref in refs]
        hyp_len += len(tokens)
        ref_len += min((abs(len(other) - len(tokens)), len(other)) for other in others)[1]
        for n in range(1, order + 1):
            grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
            for gram, count in grams.items():
                most = max(sum(tuple(o[i : i + n]) == gram for i in range(len(o) - n + 1)) for o in others)
                matched[n - 1] += min(count, most)
                total[n - 1] += count
    if not all(matched):
        return 0.0
    brevity = min(1.0, math.exp(1 - ref_len / hyp_len))
    return 100 * brevity * math.prod(m / t for m, t in zip(matched, total, strict=True)) ** (1 / order)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_corpus_bleu_equals_sacrebleu_and_a_plain_loop(order):
    hypotheses, references = make_corpus(0, 40)
    columns = [list(column) for column in zip(*(refs + [None] * (4 - len(refs)) for refs in references), strict=True)]
    sacre = BLEU(max_ngram_order=order, tokenize="none", force=True, smooth_method="none")
    ours = score(hypotheses, references)[f"B{order}"]
    assert 1 < ours < 99
    assert ours == pytest.approx(sacre.corpus_score(hypotheses, columns).score, abs=1e-9)
    assert ours == pytest.approx(bleu_by_hand(hypotheses, references, order), abs=1e-9)


def test_a_perfect_corpus_scores_100_and_a_foreign_one_0():
    captions = ["একটি লাল বল গাছের পাশে আছে।", "দুটি সবুজ গাছ নদীর পাশে আছে।"]
    perfect = score(captions, [[caption] for caption in captions])
    assert [perfect[name] for name in BLEU_NAMES] == pytest.approx([100] * 4)
    assert 99 < perfect["METEOR"] < 100
    other = score(["ক খ গ ঘ ঙ", "চ ছ জ"], [[caption] for caption in captions])
    assert [other[name] for name in (*BLEU_NAMES, "METEOR")] == [0] * 5


def test_the_written_form_makes_no_difference():
    composed, decomposed = "বা\u09dcির পাশে একটি মেয়ে আছে।", "বা\u09a1\u09bcির  পাশে একটি মেয়ে আছে ।"
    assert score([composed], [[decomposed]])["B4"] == pytest.approx(100)
    assert score(["উদ্ যানে ৩টি র ্যাকেট আছে"], [["উদ্\u200cযানে 3টি র\u200c্যাকেট আছে"]])["B4"] == pytest.approx(100)


def test_the_columns_of_the_statistics_are_lengths_matches_and_totals():
    row = bleu_statistics(["লাল বল লাল বল"], [["লাল বল আছে", "একটি লাল বল পাশে আছে"]])[0]
    assert row.tolist() == [4, 3, 2, 1, 0, 0, 4, 3, 2, 1]


def test_meteor_by_hand_with_exact_and_stem_matches():
    # লাল exact, গাছের ~ গাছ by stem; 2 matches in 1 chunk; P = 2/2, R = 2/3
    fmean = 1 * (2 / 3) / (0.9 * 1 + 0.1 * (2 / 3))
    assert score(["লাল গাছের"], [["লাল গাছ আছে"]])["METEOR"] == pytest.approx(100 * fmean * (1 - 0.5 * (1 / 2) ** 3))


@pytest.mark.parametrize(
    ("lang", "caption", "reference", "matches"),
    [
        ("bn_IN", "লাল গাছের", "লাল গাছ", "exact+stem"),
        ("en_XX", "Red lamps", "red lamp", "exact+stem:Porter"),
        ("de_DE", "rote Hunde", "rote Hund", "exact+stem:Snowball"),
        ("hi_IN", "लाल गेंदें", "लाल गेंद", "exact"),
        ("uk_UA", "червоні м'ячі", "червоні м'яч", "exact"),
    ],
)
def test_stem_matches_count_where_the_signature_names_a_stemmer(lang, caption, reference, matches):
    found = score([caption], [[reference]], lang)
    assert f"; METEOR|match:{matches}|alpha" in found["signature"]
    matched = 2 if "stem" in matches else 1
    # one chunk; precision and recall are equal
    assert found["METEOR"] == pytest.approx(100 * matched / 2 * (1 - 0.5 / matched**3))


def test_meteor_is_nltks_mean_over_captions_of_the_best_reference():
    stemmer, wordnet = SimpleNamespace(stem=lambda token: stem(token, "bn")), SimpleNamespace(synsets=lambda word: [])
    hypotheses, references = make_corpus(3, 20)
    single = [
        100 * meteor_score([tokenise(r, "bn") for r in refs], tokenise(caption, "bn"), stemmer=stemmer, wordnet=wordnet)
        for caption, refs in zip(hypotheses, references, strict=True)
    ]
    assert score(hypotheses, references)["METEOR"] == pytest.approx(np.mean(single))
    assert [row["METEOR"] for row in sentence_scores(hypotheses, references)] == pytest.approx(single)


def test_meteor_keeps_the_case_of_languages_without_a_stemmer_for_lower_case():
    assert score(["Червоний М'яч"], [["червоний м'яч"]], lang="uk_UA")["METEOR"] == 0
    assert score(["Ein Ball"], [["ein ball"]], lang="de_DE")["METEOR"] == pytest.approx(93.75)
    assert score(["A Ball"], [["a ball"]], lang="en_XX")["METEOR"] > 90


def test_a_captions_bleu_is_sacrebleus_of_sentences():
    hypotheses, references = make_corpus(4, 30)
    sacre = BLEU(tokenize="none", force=True, effective_order=True)
    expected = [sacre.sentence_score(caption, refs).score for caption, refs in zip(hypotheses, references, strict=True)]
    found = [row["B4"] for row in sentence_scores(hypotheses, references)]
    assert found == pytest.approx(expected, abs=1e-9) and len(set(found)) > 10


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "index 0"),
        (["বল", "গাছ"], [["বল"]], "index 1"),
        (["বল"], [["বল"], ["গাছ"]], "index 1"),
        (["বল", "গাছ"], [["বল"], []], "references 1"),
        (["বল"], ["বল"], "references 0"),
        (["বল", "গাছ"], [["বল"], [None]], "references 1"),
        (["বল", None], [["বল"], ["গাছ"]], "hypothesis 1"),
    ],
)
def test_wrong_lists_are_errors_that_name_the_index(hypotheses, references, message):
    for function in (score, sentence_scores, bleu_statistics):
        with pytest.raises(ValueError, match=message):
            function(hypotheses, references)


def test_without_an_encoder_bertscore_is_nan_and_the_signature_says_so():
    scores = score(["বল"], [["বল"]])
    assert math.isnan(scores["BERT-F1"])
    assert "BERT-F1|none" in scores["signature"]


LEXICON = {"বল": "ball", "গাছ": "tree", "বৃক্ষ": "tree", "বাড়ি": "house"}


def test_nouns_are_counted_once_a_kind_and_by_stem():
    hypotheses = ["বলটি গাছের পাশে, বৃক্ষ", "বা\u09dcিতে লাল বল", "কিছু নেই"]
    present = [{"ball", "tree"}, {"ball"}, {"house", "unicorn"}]
    np.testing.assert_array_equal(noun_counts(hypotheses, present, LEXICON), [[2, 2, 2], [2, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("present", "lexicon", "message"),
    [
        ([], LEXICON, "1 hypotheses, but 0"),
        ([{"ball"}], {" ": "ball"}, "no token"),
        ([{"ball"}], {"গাছ": "tree", "গাছটি": "plant"}, "'tree'"),
    ],
)
def test_wrong_nouns_are_errors(present, lexicon, message):
    with pytest.raises(ValueError, match=message):
        noun_counts(["বল"], present, lexicon)


def test_a_phrase_is_found_before_its_words_and_one_of_no_kind_hides_them():
    lexicon = {"চামচ": "spoon", "কাঁটা চামচ": "fork", "বাস": "bus", "বাস স্টপ": "", "বড় কাঁটা চামচ স্ট্যান্ড": "stand"}
    nouns = Nouns(lexicon)
    tokens = tokenise("বাস স্টপে বাসের পাশে বড় কাঁটা চামচটি, কাঁটা ও চামচ", "bn")
    assert nouns.kinds == {"spoon", "fork", "bus", "stand"}
    assert nouns.find(tokens) == [(2, 3, "bus"), (5, 7, "fork"), (10, 11, "spoon")]
    counts = noun_counts(["বাস স্টপে একটি বাস ও কাঁটা চামচ"], [{"bus", "spoon"}], lexicon)
    np.testing.assert_array_equal(counts, [[2, 1, 2]])
    assert nouns.find([]) == []


def test_diversity_counts_captions_as_normalised():
    found = diversity(["লাল বল।", "লাল বল ।", "সবুজ গাছ", "একটি সবুজ গাছ"], "bn")
    assert found["distinct"] == pytest.approx(75)
    assert found["vocabulary"] == 6
    assert found["mean_length"] == pytest.approx((3 + 3 + 2 + 3) / 4)
    assert (found["most_frequent"], found["most_frequent_share"]) == ("লাল বল ।", 50)
    assert diversity(["খ", "ক"], "bn")["most_frequent"] == "ক"
    with pytest.raises(ValueError, match="no hypotheses"):
        diversity([])
