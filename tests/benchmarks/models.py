"""Random models and inputs of the benchmarks, in small sizes and in those of the paper."""

from __future__ import annotations

from dataclasses import dataclass, replace

import timm
import torch
from plain_reading import PlainReading
from transformers import MBartConfig, MBartForConditionalGeneration

import bncap.encoders.mini_models  # noqa: F401  registers bncap_maxvit_mini with timm
from bncap.commands.full_size import MBART50, SPECIAL_PIECES, Sizes, make_random_captioner
from bncap.model import Captioner

BENGALI = 26
"""Place of the token bn_IN, counted from the end of mBART-50's vocabulary."""
END = 2
"""Id of ``</s>``."""


@dataclass(frozen=True)
class Scale:
    """Sizes of one run: models, captions a batch, tokens a caption, and the repeats of each measurement."""

    sizes: Sizes
    batch: int
    tokens: int
    rounds: int


SMALL = Scale(
    Sizes(
        encoder="bncap_maxvit_mini",
        side=112,
        decoder=MBART50
        | {"vocab_size": 437, "d_model": 96, "max_position_embeddings": 128, "encoder_layers": 2, "decoder_layers": 2}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256},
        trimmed=437,
    ),
    batch=32,
    tokens=16,
    rounds=5,
)
FULL = Scale(Sizes(), batch=8, tokens=24, rounds=3)


def make_plain_reading(scale: Scale) -> PlainReading:
    """The paper as it reads, with random weights: MaxViT and the whole of mBART-50, its text encoder too."""
    torch.manual_seed(42)
    mbart = MBartForConditionalGeneration(MBartConfig(**scale.sizes.decoder, attn_implementation="eager"))
    encoder = timm.create_model(scale.sizes.encoder, pretrained=False)
    return PlainReading(encoder, mbart, scale.sizes.decoder["vocab_size"] - BENGALI, scale.tokens)


def make_captioner(scale: Scale, channels: int) -> Captioner:
    """This project's captioner with random weights and as many pieces as a trimmed vocabulary has."""
    torch.manual_seed(42)
    trimmed = replace(scale.sizes, decoder=scale.sizes.decoder | {"vocab_size": scale.sizes.trimmed})
    return make_random_captioner(trimmed, channels, trimmed=False)[0]


def draw_pictures(scale: Scale, count: int) -> torch.Tensor:
    """(count, 3, H, W) noise, seeded."""
    return torch.randn(count, 3, scale.sizes.side, scale.sizes.side, generator=torch.Generator().manual_seed(42))


def draw_labels(scale: Scale, language: int) -> torch.Tensor:
    """(B, T) int64: ``language``, random words, the end."""
    generator = torch.Generator().manual_seed(42)
    words = torch.randint(4, scale.sizes.trimmed - SPECIAL_PIECES, (scale.batch, scale.tokens), generator=generator)
    words[:, 0], words[:, -1] = language, END
    return words


def forbid_end(model: MBartForConditionalGeneration) -> None:
    """Forbid the end token, so that each search has its full length."""
    model.final_logits_bias[:, END] = -1e9
