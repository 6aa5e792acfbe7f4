"""The pretrained mBART-50 decoder and its tokenizer, loaded from a folder in the hub's layout and checked."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from transformers import MBart50Tokenizer, MBartForConditionalGeneration

from bncap.attention import IMPLEMENTATION
from bncap.decoders.vocabulary import FILE, Vocabulary
from bncap.errors import BncapError
from bncap.pipeline.loading import has_words, loading, require_weights
from bncap.text import language_name


def load_decoder(path: str) -> MBartForConditionalGeneration:
    """An mBART-50 model without the layers of its text encoder (152 M of 611 M), its attention ready to be tapped.

    Raises :class:`BncapError` if the checkpoint cannot be read, is of another model, or lacks any weight of the rest,
    which would otherwise be left random.
    """
    with loading("decoder", path, "mbart"):
        model, found = MBartForConditionalGeneration.from_pretrained(
            path,
            encoder_layers=0,
            attn_implementation=IMPLEMENTATION,
            dtype=torch.float32,  # mixed precision wants whole master weights
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    require_weights(path, found)
    # the published checkpoint stops a search as soon as there are enough captions, and a limit of its own
    model.generation_config.update(early_stopping=False, max_length=None)
    return model


def load_tokenizer(path: str, lang: str) -> MBart50Tokenizer:
    """The tokenizer of ``path`` set to an mBART-50 language code.

    Raises :class:`BncapError` for any other code and for a folder without such a tokenizer.
    """
    language_name(lang)
    with loading("tokenizer", path):
        tokenizer = MBart50Tokenizer.from_pretrained(path, src_lang=lang, tgt_lang=lang)
    if not has_words(tokenizer):
        raise BncapError(f"{path}: no tokenizer of mBART-50 is there, or it is damaged; make or fetch it again")
    return tokenizer


def language_row(tokenizer: MBart50Tokenizer, vocabulary: Vocabulary | None, rows: int) -> int:
    """The target language's token as a row of the decoder's embedding, which has ``rows``.

    Raises :class:`BncapError` if that embedding does not belong to the tokenizer and the vocabulary.
    """
    pieces = len(tokenizer) if vocabulary is None else len(vocabulary)
    if pieces > rows or (vocabulary is not None and (pieces < rows or vocabulary.whole != len(tokenizer))):
        raise BncapError(
            f"the decoder has {rows} pieces, its tokenizer {len(tokenizer)}"
            + (f" and {FILE} {pieces} of {vocabulary.whole}" if vocabulary else f", and there is no {FILE}")
            + ": they do not belong together; make or fetch all of them again"
        )
    token = tokenizer.convert_tokens_to_ids(tokenizer.tgt_lang)
    return token if vocabulary is None else int(vocabulary.encode(torch.tensor(token)))


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the parameters' names and bytes."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
