"""Scores of captions: BLEU, METEOR, BERTScore-F1, nouns named rightly, diversity.  All shares and scores are 0 to 100.

Every function takes captions as written and brings hypotheses and references to one form with :mod:`bncap.text`; the
signature names that form, the tools and their versions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.metrics.bleu import BLEUScore

from bncap.bertscore import BertScore
from bncap.bertscore import load_bertscore as load_bertscore
from bncap.text import NORMALISER, UNSPACED, iso, normalise, stem, stemmer_name, tokenise


def score(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str = "bn", bertscore: BertScore | None = None
) -> dict[str, Any]:
    """Sec. 5.1: BLEU-1..4, METEOR and BERTScore-F1 of a corpus of captions.

    ``hypotheses`` holds N captions, ``references`` N lists of one or more captions each, in unequal numbers if need be.

    - ``B1``..``B4``: corpus BLEU by sacrebleu on :func:`bncap.text.tokenise`, closest reference length, no smoothing:
      an order without a single match gives 0, where sacrebleu's default would give a small share for nothing.
    - ``METEOR``: by nltk, exact and then stem matches (:func:`bncap.text.stem`), no synonyms; best reference, mean over
      captions.  Its penalty leaves a perfect caption of m tokens at 100 (1 - 0.5 / m^3).
    - ``BERT-F1``: by bert-score, no idf, no rescaling; best reference, mean over captions.  NaN without ``bertscore``
      (:func:`load_bertscore`).
    - ``signature``: one line that says how.

    Raises ValueError, with the index, for empty or unequal lists, an empty list of references, anything not a string.
    """
    items = per_caption(hypotheses, references, lang, bertscore)
    return {**of_corpus(items), "signature": signature(references, lang, bertscore)}


def per_caption(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str = "bn", bertscore: BertScore | None = None
) -> dict[str, np.ndarray]:
    """What :func:`score` is an aggregate of, caption by caption: ``bleu`` (N, 10), the :func:`bleu_statistics`, and
    ``METEOR`` and ``BERT-F1``, (N,), 0 to 100 or NaN.  Raises ValueError as :func:`score` does.
    """
    _check(hypotheses, references)
    f1 = np.full(len(hypotheses), math.nan) if bertscore is None else bertscore.f1(hypotheses, references, lang)
    return {
        "bleu": bleu_statistics(hypotheses, references, lang),
        "METEOR": 100 * np.array(_meteor(hypotheses, references, lang)),
        "BERT-F1": 100 * np.array(f1),
    }


def of_corpus(items: dict[str, np.ndarray]) -> dict[str, Any]:
    """Corpus ``B1``..``B4`` and mean ``METEOR`` and ``BERT-F1`` of what :func:`per_caption` found."""
    means = {name: float(items[name].mean()) for name in ("METEOR", "BERT-F1")}
    return {**bleu_from_statistics(items["bleu"].sum(axis=0)), **means}


def sentence_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str = "bn"
) -> list[dict[str, float]]:
    """``B4`` and ``METEOR`` of each caption, to rank samples by; their mean is not the corpus score.

    Sentence BLEU-4 has sacrebleu's smoothing for sentences (``exp``, orders up to the caption's length).
    Raises ValueError as :func:`score` does.
    """
    _check(hypotheses, references)
    pairs = zip(hypotheses, references, _meteor(hypotheses, references, lang), strict=True)
    return [{"B4": _bleu(text, tuple(refs), lang).score, "METEOR": 100 * meteor} for text, refs, meteor in pairs]


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str = "bn") -> np.ndarray:
    """Sufficient statistics of BLEU, (N, 10) int64: hypothesis length, closest reference length, matched 1..4-grams,
    all 1..4-grams.  Sums of rows go into :func:`bleu_from_statistics`, so that a bootstrap over images does not count
    again.  Raises ValueError as :func:`score` does.
    """
    _check(hypotheses, references)
    bleus = (_bleu(text, tuple(refs), lang) for text, refs in zip(hypotheses, references, strict=True))
    return np.array([(bleu.sys_len, bleu.ref_len, *bleu.counts, *bleu.totals) for bleu in bleus], dtype=np.int64)


def bleu_from_statistics(stats_sum: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Corpus ``B1``..``B4``, unsmoothed, from summed :func:`bleu_statistics`, (10,)."""
    hyp_len, ref_len, *counts = np.asarray(stats_sum).tolist()
    options = {"sys_len": hyp_len, "ref_len": ref_len, "smooth_method": "none"}
    scores = (BLEU.compute_bleu(counts[:n], counts[4 : 4 + n], **options, max_ngram_order=n) for n in (1, 2, 3, 4))
    return {f"B{n}": float(scored.score) for n, scored in enumerate(scores, 1)}


@lru_cache(maxsize=16384)
def _bleu(caption: str, refs: tuple[str, ...], lang: str) -> BLEUScore:
    """sacrebleu's counts of a caption, and its smoothed score as a sentence."""
    text, *texts = (" ".join(tokenise(each, lang)) for each in (caption, *refs))
    return BLEU(tokenize="none", force=True, effective_order=True).sentence_score(text, texts)


def _meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str) -> list[float]:
    """METEOR of each caption against its best reference, 0 to 1."""
    pairs = zip(hypotheses, references, strict=True)
    return [max(_single_meteor(caption, ref, lang) for ref in refs) for caption, refs in pairs]


@lru_cache(maxsize=65536)
def _single_meteor(caption: str, ref: str, lang: str) -> float:
    from nltk.translate.meteor_score import single_meteor_score  # slow to import

    # The normaliser decides on case, hence preprocess=str; WordNet has no Bengali and is no part of nltk's package.
    stemmer, wordnet = SimpleNamespace(stem=lambda token: stem(token, lang)), SimpleNamespace(synsets=lambda word: [])
    return single_meteor_score(tokenise(ref, lang), tokenise(caption, lang), str, stemmer, wordnet)


def signature(references: Sequence[Sequence[str]], lang: str, bertscore: BertScore | None) -> str:
    """One line that says how captions were scored: normaliser, tokens, number of references, tools and versions."""
    counts = sorted({len(refs) for refs in references})
    nrefs = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    tokens = "characters" if iso(lang) in UNSPACED else "words"
    stemmer = stemmer_name(lang)
    # a stemmer of our own goes with the normaliser, which is named already
    stems = "" if not stemmer else "+stem" if stemmer.startswith(NORMALISER) else f"+stem:{stemmer}"
    bert = bertscore.signature if bertscore is not None else "none"
    return "; ".join((
        f"lang:{iso(lang)}|norm:{NORMALISER}|tok:{tokens}|nrefs:{nrefs}",
        f"BLEU|smooth:none|eff:no|sacrebleu:{version('sacrebleu')}",
        f"METEOR|match:exact{stems}|alpha:0.9|beta:3|gamma:0.5|nltk:{version('nltk')}",
        f"BERT-F1|{bert}",
    ))  # fmt: skip


def noun_counts(
    hypotheses: Sequence[str], present: Sequence[Iterable[str]], lexicon: Mapping[str, str], lang: str = "bn"
) -> np.ndarray:
    """Kinds named, named and present, and present of each caption: (N, 3) int64, each kind once a caption.

    Noun precision and recall are shares of their sums: of the kinds named, those present; of the kinds present that the
    lexicon has a word for, those named.  ``present``: for each caption the kinds in its picture.  ``lexicon``: that of
    :class:`Nouns`.  Raises ValueError for unequal lengths and as :class:`Nouns` does.
    """
    if len(hypotheses) != len(present):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(present)} sets of kinds; give one set per hypothesis")
    nouns, counts = Nouns(lexicon, lang), []
    for caption, kinds in zip(hypotheses, present, strict=True):
        named = {kind for *_, kind in nouns.find(tokenise(caption, lang))}
        known = set(kinds) & nouns.kinds
        counts.append((len(named), len(named & known), len(known)))
    return np.array(counts, dtype=np.int64).reshape(-1, 3)


class Nouns:
    """Finds the nouns of a lexicon in captions.

    ``lexicon``: word or phrase -> kind; both are compared with a caption token by token, by their stems.  A phrase
    whose kind is "" names no thing: it keeps its words from being taken for one.  Raises ValueError for an entry
    without a token and for two kinds whose words have one stem.
    """

    def __init__(self, lexicon: Mapping[str, str], lang: str = "bn") -> None:
        self.lang = lang
        self.kinds = set(lexicon.values()) - {""}
        self._entries: dict[tuple[str, ...], str] = {}
        for words, kind in lexicon.items():
            stems = self._stems(tokenise(words, lang))
            if not stems:
                raise ValueError(f"lexicon word {words!r} ({kind}) has no token; delete it")
            known = self._entries.setdefault(stems, kind)
            if known != kind:
                raise ValueError(
                    f"lexicon word {words!r} ({kind!r}) has the stem {' '.join(stems)!r} of a word for {known!r}"
                )
        self._lengths = sorted({len(stems) for stems in self._entries}, reverse=True)

    def find(self, tokens: Sequence[str]) -> list[tuple[int, int, str]]:
        """(first token, the one behind the last, kind) of each noun, from the left, the longest first; none overlap."""
        stems, start, found = self._stems(tokens), 0, []
        while start < len(stems):
            ends = (start + length for length in self._lengths if start + length <= len(stems))
            end = next((end for end in ends if stems[start:end] in self._entries), None)
            if end is not None and (kind := self._entries[stems[start:end]]):
                found.append((start, end, kind))
            start = end or start + 1
        return found

    def _stems(self, tokens: Sequence[str]) -> tuple[str, ...]:
        return tuple(stem(token, self.lang) for token in tokens)


def diversity(hypotheses: Sequence[str], lang: str = "bn") -> dict[str, Any]:
    """Variety of captions: ``distinct`` (share of different ones), ``vocabulary`` (different tokens), ``mean_length``
    (tokens), ``most_frequent`` (as normalised; the first in code-point order of equals), ``most_frequent_share``.

    Raises ValueError for an empty list.
    """
    if not len(hypotheses):
        raise ValueError("no hypotheses")
    captions = Counter(normalise(text, lang) for text in hypotheses)
    lengths = [len(tokenise(text, lang)) for text in hypotheses]
    top, count = min(captions.items(), key=lambda item: (-item[1], item[0]))
    return {
        "distinct": 100 * len(captions) / len(hypotheses),
        "vocabulary": len({token for caption in captions for token in tokenise(caption, lang)}),
        "mean_length": sum(lengths) / len(lengths),
        "most_frequent": top,
        "most_frequent_share": 100 * count / len(hypotheses),
    }


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses, but {len(references)} lists of references: index "
            f"{min(len(hypotheses), len(references))} is in one of them only; give one list per hypothesis"
        )
    if not len(hypotheses):
        raise ValueError("no hypotheses: index 0 is missing")
    for index, (caption, refs) in enumerate(zip(hypotheses, references, strict=True)):
        if not isinstance(caption, str):
            raise ValueError(f"hypothesis {index} is {caption!r}, not a string")
        if isinstance(refs, str) or not isinstance(refs, Sequence) or not all(isinstance(ref, str) for ref in refs):
            raise ValueError(f"references {index} must be a list of strings, not {refs!r}")
        if not len(refs):
            raise ValueError(f"references {index} is an empty list; give at least one reference")
