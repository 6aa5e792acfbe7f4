"""Captions from cached features by beam search, and the attention of their words.

The beam settings (beams, length penalty, repeated n-grams, batch) are :class:`bncap.settings.Decode`, ``decode.*`` in
overrides; the search itself is :meth:`bncap.decoders.captioner.CaptionModel.generate`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bncap.chunked_cross_entropy import IGNORED
from bncap.decoders.captioner import CaptionModel, caption_mask
from bncap.decoders.mbart import WORD_START
from bncap.device import autocast
from bncap.settings import Decode


@dataclass(frozen=True)
class Caption:
    """A generated caption.

    ``log_probability`` is that of its words and its end, in nats, the language token being given; ``score``, which the
    search ranks by, is the same over the number of tokens ** length_penalty.  ``tokens`` are ids of the tokenizer,
    padded.
    """

    text: str
    score: float
    log_probability: float
    tokens: tuple[int, ...]


@torch.no_grad()
def caption(
    model: CaptionModel, features: Tensor, decode: Decode, max_tokens: int, label: str = "captions"
) -> list[Caption]:
    """Eq. (1): y = arg max p(y | x), by beam search, for each of the (N, S, C) ``features``, in their order.

    ``decode.batch`` pictures at a time, or half as many, and so on, if a GPU's memory cannot hold them.  On a GPU
    matrix products are in half precision, log-probabilities in float32.
    """
    device = model.bridge.projection.weight.device
    captions: list[Caption] = []
    batch = decode.batch
    with tqdm(total=len(features), desc=label, unit="picture", leave=False) as bar:
        while len(captions) < len(features):
            chosen = features[len(captions) : len(captions) + batch]
            try:
                captions += _caption_batch(model, chosen.to(device), decode, max_tokens)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch = (len(chosen) + 1) // 2
                note = f"{label}: {len(chosen)} at a time need more memory than there is, {batch} from here on"
                print(note, file=sys.stderr)
                continue
            bar.update(len(chosen))
    return captions


def _caption_batch(model: CaptionModel, features: Tensor, decode: Decode, max_tokens: int) -> list[Caption]:
    with autocast(features.device):
        sequences, scores = model.generate(model.bridge(features), decode, max_tokens)
    if model.vocabulary is not None:
        sequences = model.vocabulary.decode(sequences)
    texts = model.tokenizer.batch_decode(sequences, skip_special_tokens=True)
    totals = scores * caption_mask(sequences[:, 1:], model.tokenizer.eos_token_id).sum(1) ** decode.length_penalty
    found = zip(texts, scores.tolist(), totals.tolist(), sequences.tolist(), strict=True)
    return [Caption(text.strip(), score, total, tuple(tokens)) for text, score, total, tokens in found]


@dataclass(frozen=True)
class WordAttention:
    """A word of a caption and the share of attention on each patch: (S,) float32, sums to 1."""

    word: str
    weights: np.ndarray

    def strongest_patch(self) -> tuple[int, int]:
        """Row and column, counted from 1, of the patch with the largest share."""
        row, column = divmod(int(self.weights.argmax()), round(len(self.weights) ** 0.5))
        return row + 1, column + 1


def word_attention(model: CaptionModel, features: Tensor, text: str, max_tokens: int) -> list[WordAttention]:
    """For each word of ``text``, its pieces joined, the tapped cross-attention averaged over its pieces.

    Args:
        features: (S, C) patch features of one picture.
    """
    return word_attentions(model, features[None], [text], max_tokens)[0]


@torch.no_grad()
def word_attentions(
    model: CaptionModel, features: Tensor, texts: Sequence[str], max_tokens: int
) -> list[list[WordAttention]]:
    """:func:`word_attention` of N ``texts`` with their (N, S, C) ``features``, all at once."""
    device = model.bridge.projection.weight.device
    labels = model.labels(list(texts), max_tokens).to(device)  # (N, T)
    _, attention = model.states(model.bridge(features.to(device)), labels)
    assert attention is not None  # the tap is open
    ids = labels.masked_fill(labels.eq(IGNORED), model.decoder.config.pad_token_id)
    ids = ids if model.vocabulary is None else model.vocabulary.decode(ids)
    maps = attention.cpu().numpy()  # (N, T, S)
    return [_words(model, row, own) for row, own in zip(ids.tolist(), maps, strict=True)]


def _words(model: CaptionModel, ids: list[int], maps: np.ndarray) -> list[WordAttention]:
    """The words of one caption, ``ids`` of the tokenizer, padded; maps: (T, S)."""
    words: list[tuple[str, list[int]]] = []
    special = set(model.tokenizer.all_special_ids)
    for position, token in enumerate(ids):
        if token in special:
            continue
        piece = model.tokenizer.convert_ids_to_tokens(token)
        if piece.startswith(WORD_START) or not words:
            words.append((piece.removeprefix(WORD_START), [position]))
        else:
            words[-1] = (words[-1][0] + piece, [*words[-1][1], position])
    return [WordAttention(word, maps[positions].mean(0)) for word, positions in words if word]
