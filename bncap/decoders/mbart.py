"""mBART-50: loading its decoder and tokenizer, and trimming its vocabulary to the pieces that the captions use.

Of 250,054 rows of the embedding thousands are left.  The tokenizer stays whole: its ids are mapped to row numbers of
the trimmed embedding on the way in and back on the way out, which leaves the mathematics of the kept pieces as it is.
"""

from __future__ import annotations

import functools
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MBart50Tokenizer, MBartForConditionalGeneration

from bncap.chunked_cross_entropy import IGNORED
from bncap.decoders.captioner import IMPLEMENTATION
from bncap.errors import BncapError
from bncap.pipeline.artifacts import read_json, write_json
from bncap.pipeline.hub import has_words, loading, require_weights
from bncap.text import language_name

FILE = "vocabulary.json"
SPECIALS = (0, 1, 2, 3)
"""``<s> <pad> </s> <unk>``, which have the same ids in every mBART-50 vocabulary, and in a trimmed one."""
UNKNOWN = 3
WORD_START = "▁"
"""Sentencepiece's mark of the first piece of a word."""
ID_SETTINGS = (
    "bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",
)  # fmt: skip
TOKENIZED_AT_ONCE = 10_000


def load_decoder(path: str) -> MBartForConditionalGeneration:
    """An mBART-50 model without the layers of its text encoder (152 M of 611 M), its attention ready to be tapped.

    Raises :class:`BncapError` if the checkpoint cannot be read, is of another model, or lacks a weight.
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


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The pieces kept: ``kept`` (N,) int64, ascending ids among the ``whole`` ids of the tokenizer."""

    kept: Tensor
    whole: int

    def __len__(self) -> int:
        return len(self.kept)

    @classmethod
    def of(cls, captions: Sequence[str], tokenizer: MBart50Tokenizer) -> Vocabulary:
        """What ``captions`` need: their pieces, their characters one by one, ASCII, punctuation and the language token.

        With the single characters any text of the same script can be written, if in more pieces.
        """
        used: set[int] = set()
        for start in range(0, len(captions), TOKENIZED_AT_ONCE):
            some = list(captions[start : start + TOKENIZED_AT_ONCE])
            used.update(chain.from_iterable(tokenizer(some, add_special_tokens=False)["input_ids"]))
        characters = set("".join(tokenizer.convert_ids_to_tokens(sorted(used)))) | set(string.printable) | {WORD_START}
        singles = {
            id_
            for piece, id_ in tokenizer.get_vocab().items()
            if len(bare := piece.removeprefix(WORD_START) or piece) == 1
            and (bare in characters or unicodedata.category(bare).startswith("P"))
        }
        language = tokenizer.convert_tokens_to_ids(tokenizer.tgt_lang)
        return cls(torch.tensor(sorted({*SPECIALS, language} | used | singles)), len(tokenizer))

    def encode(self, ids: Tensor) -> Tensor:
        """Ids of the tokenizer, any shape, int64 -> rows of the trimmed embedding; <unk>'s for what is not kept."""
        kept = self.kept.to(ids.device)
        rows = torch.searchsorted(kept, ids).clamp(max=len(kept) - 1)
        return torch.where(kept[rows] == ids, rows, UNKNOWN)

    def decode(self, rows: Tensor) -> Tensor:
        """Rows of the trimmed embedding, any shape, int64 -> ids of the tokenizer."""
        return self.kept.to(rows.device)[rows]

    def spell(self, ids: Sequence[int], tokenizer: MBart50Tokenizer) -> list[int]:
        """``ids`` of the tokenizer with each piece that is not kept written in kept ones, the longest first; <unk>
        stands for a character that no kept piece has."""
        return list(chain.from_iterable([i] if i in self._members else self._spell(i, tokenizer) for i in ids))

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {"whole": self.whole, "pieces": len(self), "kept": self.kept.tolist()})

    @classmethod
    def load(cls, folder: Path) -> Vocabulary | None:
        """What :meth:`save` wrote; None if the captioner in ``folder`` has its whole vocabulary."""
        if not (folder / FILE).is_file():
            return None
        saved = read_json(folder / FILE)
        try:
            kept, whole = torch.tensor(saved["kept"]), int(saved["whole"])
            same = kept.dtype == torch.int64 and len(kept) == saved["pieces"] and bool((kept.diff() > 0).all())
        except (KeyError, TypeError, ValueError, RuntimeError):
            same = False
        if not same or tuple(kept[: len(SPECIALS)].tolist()) != SPECIALS or kept[-1] >= whole:
            raise BncapError(f"{folder / FILE} is damaged or no vocabulary of this project; make the run again")
        return cls(kept, whole)

    @functools.cached_property
    def _members(self) -> frozenset[int]:
        return frozenset(self.kept.tolist())

    def _spell(self, id_: int, tokenizer: MBart50Tokenizer) -> list[int]:
        piece, found, start = tokenizer.convert_ids_to_tokens(id_), [], 0
        while start < len(piece):
            for end in range(len(piece), start, -1):
                part = tokenizer.convert_tokens_to_ids(piece[start:end])
                if part != UNKNOWN and part in self._members:
                    break
            else:
                part, end = UNKNOWN, start + 1
            found.append(part)
            start = end
        return found


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


def encode_labels(
    captions: Sequence[str], max_tokens: int, tokenizer: MBart50Tokenizer, vocabulary: Vocabulary | None
) -> Tensor:
    """(N, T) int64: ``lang w_1 ... w_n </s>``, cut to ``max_tokens``, padded with :data:`IGNORED`.

    A piece that the ``vocabulary`` was trimmed of is written in several that it has.
    """
    if vocabulary is None:
        encoded = tokenizer(
            text_target=list(captions), max_length=max_tokens, truncation=True, padding=True, return_tensors="pt"
        )
        return encoded["input_ids"].masked_fill(encoded["attention_mask"].eq(0), IGNORED)
    rows = []
    for ids in tokenizer(text_target=list(captions))["input_ids"]:
        *body, end = vocabulary.spell(ids, tokenizer)
        rows.append(vocabulary.encode(torch.tensor([*body[: max_tokens - 1], end])))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


@torch.no_grad()
def trim(model: MBartForConditionalGeneration, vocabulary: Vocabulary) -> None:
    """Keep only the rows of ``vocabulary`` in the embedding, the tied output layer and its bias, in place.

    Also renumbers the ids in the model's settings; None for one that is not kept, such as another language's token.
    :class:`BncapError` if the embedding is not the tokenizer's.
    """
    shared = model.model.shared
    if shared.num_embeddings < vocabulary.whole:
        raise BncapError(
            f"the decoder's embedding has {shared.num_embeddings} rows and its tokenizer {vocabulary.whole} pieces: "
            "they do not belong together; fetch the checkpoint again"
        )
    kept = vocabulary.kept.to(shared.weight.device)
    rows, bias = shared.weight[kept], model.final_logits_bias[:, kept]
    with torch.random.fork_rng(devices=[]):  # the library draws weights that are overwritten at once
        model.resize_token_embeddings(len(vocabulary))  # keeps the class, and with it the scale, of the embedding
    model.model.shared.weight.copy_(rows)
    model.final_logits_bias.copy_(bias)
    model.tie_weights()
    for settings in (model.config, model.generation_config):
        for name in ID_SETTINGS:
            value = getattr(settings, name, None)
            if value is not None:
                setattr(settings, name, _renumbered(value, vocabulary))


def _renumbered(value: Any, vocabulary: Vocabulary) -> Any:
    """The new id or ids; None for one that is not kept, such as another language's token."""
    if isinstance(value, list):
        return [i for i in (_renumbered(v, vocabulary) for v in value) if i is not None] or None
    row = int(vocabulary.encode(torch.tensor(value)))
    return row if int(vocabulary.kept[row]) == value else None


@torch.no_grad()
def untrim(
    trimmed: MBartForConditionalGeneration, vocabulary: Vocabulary, whole: MBartForConditionalGeneration
) -> None:
    """Put the weights of ``trimmed`` into the ``whole`` model that it was trimmed from, in place.

    Pieces that were not kept have the rows that they have in ``whole``.
    """
    values = dict(trimmed.named_parameters())
    for name, parameter in whole.named_parameters():
        value = values[name].to(parameter.device)
        if name == "model.shared.weight":
            parameter[vocabulary.kept.to(parameter.device)] = value
        else:
            parameter.copy_(value)
    kept = vocabulary.kept.to(whole.final_logits_bias.device)
    whole.final_logits_bias[:, kept] = trimmed.final_logits_bias.to(kept.device)
