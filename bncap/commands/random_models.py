"""Models of real or any other size with random weights, made in seconds: for checks of a machine and for benchmarks.

Everything but the values of the weights is real; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import MBart50Tokenizer, MBartForConditionalGeneration

    from bncap.model import Captioner

MBART50 = {
    "vocab_size": 250_054, "d_model": 1024, "max_position_embeddings": 1024, "scale_embedding": True,
    "encoder_layers": 12, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "decoder_layers": 12, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096,
    "dropout": 0.1, "activation_function": "gelu", "decoder_start_token_id": 2,
}  # fmt: skip
"""``config.json`` of ``facebook/mbart-large-50``."""
SPECIAL_PIECES = 57
"""Of mBART-50's vocabulary: ``<s> <pad> </s> <unk>``, 52 languages, ``<mask>``."""
KEPT_ANYWAY = 6
"""Of a trimmed one: ``<s> <pad> </s> <unk>``, the language, the mark of a word's start."""


@dataclass(frozen=True)
class Sizes:
    """A timm encoder, what it takes and gives, settings of an mBART, and the pieces of a trimmed vocabulary."""

    encoder: str = "maxvit_base_tf_224"
    side: int = 224  # px
    channels: int = 768
    decoder: Mapping[str, Any] = field(default_factory=lambda: MBART50)
    trimmed: int = 12_000  # about what 80,000 captions use


MINI = Sizes(
    encoder="bncap_maxvit_mini",
    side=112,
    channels=128,
    decoder=MBART50
    | {"vocab_size": 437, "d_model": 96, "max_position_embeddings": 128, "encoder_layers": 2, "decoder_layers": 2}
    | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256},
    trimmed=437,
)
"""Those of the miniature, which keeps its whole vocabulary."""


def random_mbart(settings: Mapping[str, Any], attention: str) -> MBartForConditionalGeneration:
    """An mBART on the CPU whose weights are drawn from torch's global generator.

    Args:
        settings: those of ``MBartConfig``; with ``encoder_layers`` 0 it is as
            :func:`bncap.decoders.pretrained.load_decoder` gives it.
        attention: the value of ``attn_implementation``.
    """
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration

    config = MBartConfig(**settings, attn_implementation=attention)
    with torch.device("meta"):  # the library's own constructor draws each weight twice
        model = MBartForConditionalGeneration(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        model.final_logits_bias.zero_()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, config.init_std)
            else:
                parameter.fill_("norm" in name and name.endswith("weight"))
    return model


def made_up_tokenizer(pieces: int) -> MBart50Tokenizer:
    """A tokenizer of mBART-50 set to Bengali with so many pieces, its words being w000000, w000001, ..."""
    from transformers import MBart50Tokenizer

    words = (f"▁w{i:06d}" for i in range(pieces - SPECIAL_PIECES - 1))
    vocabulary = [(piece, -1.0) for piece in ("<unk>", "<s>", "</s>", "▁", *words)]
    return MBart50Tokenizer(vocab=vocabulary, src_lang="bn_IN", tgt_lang="bn_IN")


def random_captioner(sizes: Sizes, channels: int, trimmed: bool) -> tuple[Captioner, list[str]]:
    """A captioner over ``channels`` channels, and two captions of more than ``model.max_tokens`` tokens."""
    from bncap.attention import IMPLEMENTATION
    from bncap.decoders.vocabulary import Vocabulary, trim
    from bncap.model import Captioner

    pieces = sizes.decoder["vocab_size"]
    tokenizer = made_up_tokenizer(pieces)
    last = pieces - SPECIAL_PIECES - 2
    used = [f"w{i:06d}" for i in np.linspace(0, last, sizes.trimmed - KEPT_ANYWAY).astype(int)]
    decoder = random_mbart(sizes.decoder | {"encoder_layers": 0}, IMPLEMENTATION)
    vocabulary = None
    if trimmed:
        vocabulary = Vocabulary.of(used, tokenizer)
        trim(decoder, vocabulary)
    captions = [" ".join(part) for part in np.array_split(used[:80], 2)]
    return Captioner(decoder, tokenizer, channels, vocabulary=vocabulary), captions
