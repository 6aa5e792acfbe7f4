"""Captions from cached features, and where the words look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bncap.model import IGNORED, Captioner
from bncap.settings import Decode

WORD_START = "▁"
"""Sentencepiece's mark of the first piece of a word."""


@dataclass(frozen=True)
class Caption:
    """A generated caption; ``score`` is its log-probability over its length ** length_penalty, in nats."""

    text: str
    score: float
    tokens: tuple[int, ...]


@torch.no_grad()
def caption(
    model: Captioner, features: Tensor, decode: Decode, max_tokens: int, label: str = "captions"
) -> list[Caption]:
    """Eq. (1): y = arg max p(y | x), by beam search, for each of the (N, S, C) ``features``."""
    device = model.bridge.projection.weight.device
    captions: list[Caption] = []
    starts = range(0, len(features), decode.batch)
    for start in tqdm(starts, desc=label, unit="batch", leave=False):
        memory = model.bridge(features[start : start + decode.batch].to(device))
        sequences, scores = model.generate(memory, decode, max_tokens)
        texts = model.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        for text, score, tokens in zip(texts, scores.tolist(), sequences.tolist(), strict=True):
            captions.append(Caption(text.strip(), score, tuple(tokens)))
    return captions


@dataclass(frozen=True)
class WordAttention:
    """A word of a caption and the share of attention on each patch: (S,) float32, sums to 1."""

    word: str
    weights: np.ndarray


@torch.no_grad()
def word_attention(model: Captioner, features: Tensor, text: str, max_tokens: int) -> list[WordAttention]:
    """For each word of ``text``, its pieces joined, the tapped cross-attention averaged over its pieces.

    Args:
        features: (S, C) patch features of one picture.
    """
    device = model.bridge.projection.weight.device
    labels = model.labels([text], max_tokens).to(device)  # (1, T)
    _, attention = model(model.bridge(features[None].to(device)), labels)
    words: list[tuple[str, list[int]]] = []
    special = set(model.tokenizer.all_special_ids) | {IGNORED}
    for position, token in enumerate(labels[0].tolist()):
        if token in special:
            continue
        piece = model.tokenizer.convert_ids_to_tokens(token)
        if piece.startswith(WORD_START) or not words:
            words.append((piece.removeprefix(WORD_START), [position]))
        else:
            words[-1] = (words[-1][0] + piece, [*words[-1][1], position])
    maps = attention[0].cpu().numpy()  # (T, S)
    return [WordAttention(word, maps[positions].mean(0)) for word, positions in words if word]
