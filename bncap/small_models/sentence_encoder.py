"""The mini world's bilingual sentence encoder, which takes the place of LaBSE."""

from __future__ import annotations

import random
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bncap.mini.grammar import draw_parallel_captions, generate_caption_bn, generate_captions_en, parse_en
from bncap.mini.models import MiniTranslator, apply_fault
from bncap.mini.scene import sample_scene

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

STEPS = 600
"""Training steps where ``world.model_steps`` is 1."""
BATCH = 64
CAPTIONS, DRAWS = 6400, 3
"""Captions that it learns from, and how often each is translated and mistranslated."""
WIDTH = 64
SCALE = 20.0
"""Inverse temperature of the ranking loss; the usual one for cosine similarities."""


def train_sentence_encoder(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a ``StaticEmbedding`` with ``MultipleNegativesRankingLoss`` and save it for ``SentenceTransformer``.

    A batch has 64 in-domain English captions, each with its translation and a Bengali sentence that differs in one
    object or colour.  Returns the last loss, and :func:`measure_filter_quality` on held-out captions.  The same seed
    gives the same weights on one thread.
    """
    from sentence_transformers import SentenceTransformer  # heavy
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    pairs = draw_parallel_captions(seed, CAPTIONS)
    embedding = StaticEmbedding(_train_tokenizer([text for pair in pairs for text in pair]), embedding_dim=WIDTH)
    generator = torch.Generator().manual_seed(seed)
    # Close to zero, so that a word never trained on adds next to nothing to a sentence.
    embedding.embedding.weight.data.normal_(0, 0.02, generator=generator)
    model = SentenceTransformer(modules=[embedding, Normalize()], device="cpu")
    objective = MultipleNegativesRankingLoss(model, scale=SCALE)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    rng = random.Random(f"{seed}|sentence encoder")
    used = pairs[: steps * BATCH]
    triples = [_triple(english, rng) for english, _ in used for _ in range(DRAWS)]
    columns = [embedding.tokenizer.encode_batch(column) for column in zip(*triples, strict=True)]
    for _ in tqdm(range(steps), desc="sentence encoder"):
        chosen = [DRAWS * i + rng.randrange(DRAWS) for i in rng.sample(range(len(used)), BATCH)]
        loss = objective([_features([column[i].ids for i in chosen]) for column in columns], labels=None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.save(str(out), create_model_card=False)
    return {"loss": loss.item()} | measure_filter_quality(model, seed)


def _triple(english: str, rng: random.Random) -> tuple[str, str, str]:
    parsed = parse_en(english)
    faults = ["object swapped"]
    faults += ["object dropped"] if len(parsed.objects) > 1 else []
    faults += ["colour swapped"] if any(o.colour for o in parsed.objects) else []
    return (
        english,
        generate_caption_bn(parsed, rng),
        generate_caption_bn(apply_fault(parsed, rng.choice(faults), rng), rng),
    )


def _features(sentences: list[list[int]]) -> dict[str, Tensor]:
    """What ``StaticEmbedding`` reads: the pieces of all sentences in a row, and where each of them begins."""
    offsets = [0, *accumulate(len(ids) for ids in sentences[:-1])]
    return {"input_ids": torch.tensor([i for ids in sentences for i in ids]), "offsets": torch.tensor(offsets)}


def _train_tokenizer(texts: list[str]) -> Tokenizer:
    """Whole words: one that training never saw is [UNK], whose vector stays close to zero."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # heavy

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


def measure_filter_quality(model: SentenceTransformer, seed: int) -> dict[str, float]:
    """How well a cosine threshold tells faultless translations from faulty ones, at the mini translator's fault rate.

    On 2,000 held-out captions: the ``threshold`` of highest F1 (the middle, if several), and there ``precision`` and
    ``recall`` of faultless pairs and the share of faults ``caught``; ``ood_acceptance``: the share of 1,000 faultless
    out-of-domain pairs that it accepts.
    """
    translator = MiniTranslator(seed=seed)
    english = [english for english, _ in draw_parallel_captions(seed + 1, 2000)]
    good = np.array([fault is None for fault in translator.faults(english)])
    cosine = _cosine(model, english, translator.translate(english))
    grid = np.arange(0, 1, 0.005)
    accepted = cosine >= grid[:, None]
    hits = (accepted & good).sum(1)
    f1 = 2 * hits / (accepted.sum(1) + good.sum())
    best = np.flatnonzero(f1 == f1.max())
    best = best[len(best) // 2]
    rng = random.Random(f"{seed}|out of domain")
    ood = [
        generate_captions_en(sample_scene(rng, out_of_domain=True), rng, 1, out_of_domain=True)[0] for _ in range(1000)
    ]
    ood_cosine = _cosine(model, ood, MiniTranslator(0.0, seed).translate(ood))
    return {
        "threshold": float(grid[best]),
        "precision": float(hits[best] / max(accepted[best].sum(), 1)),
        "recall": float(hits[best] / good.sum()),
        "caught": float((~accepted[best] & ~good).sum() / (~good).sum()),
        "ood_acceptance": float((ood_cosine >= grid[best]).mean()),
    }


def _cosine(model: SentenceTransformer, english: list[str], bengali: list[str]) -> np.ndarray:
    u, v = model.encode(english), model.encode(bengali)
    return (u * v).sum(1)
