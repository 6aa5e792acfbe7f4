"""Which translations keep the meaning: cosine of bilingual sentence embeddings, and how good that filter is.

Where it is known which translations are faulty, the filter is measured as a detector of *good pairs*: precision is the
share of accepted pairs without a fault, recall the share of faultless pairs that are accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bncap.errors import BncapError
from bncap.pipeline.hub import has_words, loading

THRESHOLDS = tuple(round(0.30 + 0.01 * step, 2) for step in range(61))
"""Where acceptance is measured: 0.30 to 0.90, the paper's 0.55 among them."""
EMPTY = -1.0
"""Similarity of a pair with an empty side: the lowest cosine."""


def cosine(en_embeddings: np.ndarray, target_embeddings: np.ndarray) -> np.ndarray:
    """Eq. (4): s_i = cos(φ(y_i^en), φ(y_i^bn)) of two (N, D) float arrays, pair by pair -> (N,) in [-1, 1].

    Raises ValueError for different shapes and for a row of zeros, whose direction is undefined.
    """
    if en_embeddings.shape != target_embeddings.shape or en_embeddings.ndim != 2:
        raise ValueError(
            f"expected two (N, D) arrays of one shape, got {en_embeddings.shape}, {target_embeddings.shape}"
        )
    norms = np.linalg.norm(en_embeddings, axis=1) * np.linalg.norm(target_embeddings, axis=1)
    if not np.all(norms > 0):
        raise ValueError(f"row {int(np.argmin(norms > 0))} has an embedding of length 0 or NaN")
    # rounding may carry the cosine of equal vectors past 1
    return np.clip((en_embeddings * target_embeddings).sum(axis=1) / norms, -1.0, 1.0)


def accept_pairs(similarity: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool, True where s_i ≥ threshold (Sec. 4.2.2); ValueError if the threshold is no cosine."""
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold {threshold} is not a cosine, in [-1, 1]; the paper's is 0.55")
    return np.asarray(similarity) >= threshold


class Verifier:
    """A bilingual sentence encoder φ such as LaBSE, from its folder; no code from it is run.

    Raises :class:`BncapError`, naming the folder, if it cannot be loaded or lacks a file.
    """

    def __init__(self, path: str) -> None:
        from sentence_transformers import SentenceTransformer  # heavy
        from transformers import PreTrainedTokenizerBase  # heavy

        with loading("verifier", path):
            self.encoder = SentenceTransformer(path, trust_remote_code=False)
        # both of these sentence-transformers makes up where a file is missing: a pooling, and an empty vocabulary
        if not Path(path, "modules.json").is_file():
            raise BncapError(f"verifier {path} is no sentence-transformers model, or not whole: it has no modules.json")
        if isinstance(self.encoder.tokenizer, PreTrainedTokenizerBase) and not has_words(self.encoder.tokenizer):
            raise BncapError(f"verifier {path} lacks its vocabulary file; fetch it again, whole")

    def similarity(self, en: Sequence[str], target: Sequence[str]) -> np.ndarray:
        """Cosine (Eq. 4) of each pair of texts -> (N,) float32; :data:`EMPTY` where one of the two is blank."""
        similarity = np.full(len(en), EMPTY, dtype=np.float32)
        filled = [i for i, pair in enumerate(zip(en, target, strict=True)) if all(text.strip() for text in pair)]
        if filled:
            similarity[filled] = cosine(*(self._encode([texts[i] for i in filled]) for texts in (en, target)))
        return similarity

    def _encode(self, texts: list[str]) -> np.ndarray:
        # in batches of texts of like length, in float32: half precision would accept other pairs on another device
        return self.encoder.encode(texts, batch_size=128, convert_to_numpy=True, show_progress_bar=False)


def measure_filter(similarity: np.ndarray, faulty: np.ndarray) -> pd.DataFrame:
    """Quality of the filter at each of :data:`THRESHOLDS`: threshold, accepted, precision, recall, f1; in [0, 1].

    ``similarity``: (N,) cosines; ``faulty``: (N,) bool, True where the translation is faulty.  Precision is 1 where
    nothing is accepted and F1 then 0.  Raises ValueError if no pair is without a fault: recall is then undefined.
    """
    good = ~np.asarray(faulty, dtype=bool)
    if not good.any():
        raise ValueError("every pair is faulty: the filter's recall is undefined")
    taken = np.stack([accept_pairs(similarity, threshold) for threshold in THRESHOLDS])  # (61, N)
    hits, accepted = (taken & good).sum(axis=1), taken.sum(axis=1)
    return pd.DataFrame(
        {
            "threshold": THRESHOLDS,
            "accepted": taken.mean(axis=1),
            "precision": np.where(accepted > 0, hits / np.maximum(accepted, 1), 1.0),
            "recall": hits / good.sum(),
            "f1": 2 * hits / (accepted + good.sum()),
        }
    )


def calibrate_threshold(similarity: np.ndarray, faulty: np.ndarray) -> float:
    """The threshold of highest F1; of several equally good ones the middle, farthest from either kind of error."""
    curve = measure_filter(similarity, faulty)
    ties = curve.threshold[curve.f1 == curve.f1.max()].tolist()
    return ties[len(ties) // 2]
