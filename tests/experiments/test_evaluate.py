"""What captions add to their scores: written, read, and summed as the metrics sum them."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from bncap import metrics
from bncap.errors import BncapError
from bncap.experiments import evaluate
from bncap.text import tokenise

HYPOTHESES = ["একটি লাল বল আছে।", "ঘাসের উপর একটি পাখি।", "একটি ছোট হলুদ ফুল।", "বালির উপর একটি কালো বিড়াল।", "একটি বল।"]
REFERENCES = [
    ["একটি লাল বল আছে।", "এখানে একটি বল আছে।"],
    ["ঘাসের উপর একটি নীল পাখি।"],
    ["একটি ছোট হলুদ ফুলের ডান পাশে একটি ঘর।", "একটি ছোট হলুদ ফুল আছে।"],
    ["বালির উপর একটি সাদা বিড়াল বসে আছে।"],
    ["টেবিলের বাম পাশে একটি বড় গাড়ি।"],
]
IMAGES = [f"{i}.jpg" for i in range(5)]
NOUNS = np.array([[1, 1, 2], [2, 1, 1], [0, 0, 1], [3, 2, 4], [1, 0, 1]])
SPLIT = "ood"


@pytest.fixture
def scored():
    found = metrics.per_caption(HYPOTHESES, REFERENCES)
    return {**found, "BERT-F1": np.linspace(50, 90, 5)}


@pytest.fixture
def found(tmp_path, scored) -> evaluate.CaptionScores:
    evaluate.write_caption_scores(tmp_path, SPLIT, IMAGES, scored, NOUNS)
    return evaluate.read_caption_scores(tmp_path, SPLIT)


def test_what_is_written_reads_back_and_has_the_scores_of_the_corpus(found, scored):
    assert found.images == tuple(IMAGES)
    assert found.values["METEOR"] == pytest.approx(scored["METEOR"], abs=1e-8)
    corpus = found.corpus_scores()
    for metric, value in metrics.of_corpus(scored).items():
        assert corpus[metric] == pytest.approx([value], abs=1e-6), metric
    assert corpus["noun_precision"] == pytest.approx([100 * 4 / 7])
    assert corpus["noun_recall"] == pytest.approx([100 * 4 / 9])


def test_the_bleu_of_samples_is_that_of_their_summed_statistics_and_that_of_sacrebleu(found, scored):
    counts = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 2, 0], [0, 3, 0, 1, 1], [5, 0, 0, 0, 0], [0, 0, 2, 2, 1]])
    ours = found.corpus_scores(counts)
    for row, drawn in enumerate(counts):
        expected = metrics.bleu_from_statistics(drawn @ scored["bleu"])
        rows = np.repeat(np.arange(5), drawn)
        spaced = [" ".join(tokenise(HYPOTHESES[i], "bn")) for i in rows]
        refs = [[" ".join(tokenise(ref, "bn")) for ref in REFERENCES[i]] for i in rows]
        most = max(map(len, refs))
        streams = [[ref[n] if n < len(ref) else None for ref in refs] for n in range(most)]
        for n in (1, 2, 3, 4):
            assert ours[f"B{n}"][row] == pytest.approx(expected[f"B{n}"])
            bleu = sacrebleu.BLEU(tokenize="none", smooth_method="none", max_ngram_order=n)
            assert ours[f"B{n}"][row] == pytest.approx(bleu.corpus_score(spaced, streams).score)


def test_means_and_shares_of_a_sample_are_those_of_its_captions_drawn_as_often(found):
    counts = np.array([[2, 0, 1, 2, 0], [0, 0, 5, 0, 0]])
    ours = found.corpus_scores(counts)
    repeated = np.repeat(np.arange(5), counts[0])
    assert ours["METEOR"][0] == pytest.approx(found.values["METEOR"][repeated].mean())
    assert ours["noun_precision"][0] == pytest.approx(100 * NOUNS[repeated, 1].sum() / NOUNS[repeated, 0].sum())
    assert np.isnan(ours["noun_precision"][1]) and ours["noun_recall"][1] == 0


def test_empty_captions_and_orders_without_a_match_have_a_bleu_of_zero(tmp_path):
    hypotheses, references = ["", "একটি বল"], [["একটি লাল বল আছে।"], ["একটি ঘর"]]
    scored = metrics.per_caption(hypotheses, references)
    evaluate.write_caption_scores(tmp_path, SPLIT, IMAGES[:2], scored, None)
    found = evaluate.read_caption_scores(tmp_path, SPLIT)
    ours = found.corpus_scores(np.array([[1, 1], [2, 0]]))
    assert ours["B1"][0] == pytest.approx(metrics.of_corpus(scored)["B1"]) and ours["B1"][0] > 0
    assert ours["B2"].tolist() == [0, 0] and ours["B1"][1] == 0
    assert np.isnan(ours["BERT-F1"]).all() and "noun_recall" not in ours
    with pytest.raises(BncapError, match=r"items_test\.csv is missing"):
        evaluate.read_caption_scores(tmp_path, "test")
