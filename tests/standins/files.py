"""What the stand-ins share: sizes, training texts, special tokens, tokenizer files, JSON files."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any
from unicodedata import category, is_normalized

import torch

from bncap.mini.grammar import BENGALI_CHARACTERS, draw_parallel_captions
from bncap.pipeline.artifacts import write_json

DEVANAGARI = "".join(c for c in map(chr, range(0x0900, 0x0980)) if category(c) != "Cn" and is_normalized("NFKC", c))
CHARACTERS = BENGALI_CHARACTERS + DEVANAGARI + string.printable.strip()
"""Characters in the vocabulary of every tokenizer."""

WIDTH, HEADS, LAYERS, HIDDEN = 32, 4, 2, 64
"""Width, heads, layers a side and feed-forward width of a language model."""
BART_SIZES = {"d_model": WIDTH, "num_hidden_layers": LAYERS} | {
    f"{side}_{name}": value
    for name, value in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", HIDDEN))
    for side in ("encoder", "decoder")
}
"""Sizes of an encoder-decoder of BART's family."""
MARKS = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
         "pad_token": "<pad>"}  # fmt: skip
"""Special tokens of mBART-50 and NLLB, without the mask."""
MASK = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": True,
        "single_word": False}  # fmt: skip


class ParallelTexts:
    """Training texts of the tokenizers: parallel captions of the mini world, drawn with ``seed``."""

    def __init__(self, seed: int) -> None:
        pairs = draw_parallel_captions(seed, 1000)
        self.english = [english for english, _ in pairs]
        self.bengali = [bengali for _, bengali in pairs]
        self.both = self.english + self.bengali


def save_sentencepiece(path: Path, texts: list[str], **options: Any) -> list[str]:
    """Train sentencepiece on ``texts`` and write it; returns its pieces in order.

    The trainer considers only what recurs in different words, so each word is added once more with a comma.
    """
    import sentencepiece

    texts = texts + sorted({f"{word}," for text in texts for word in re.findall(r"[^\s,.।]+", text)})
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=700, character_coverage=1.0,
            required_chars=CHARACTERS, num_threads=1, minloglevel=2,
            **({"model_type": "unigram", "hard_vocab_limit": False} | options),
        )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [model.id_to_piece(i) for i in range(len(model))]


def save_wordpiece(folder: Path, texts: list[str]) -> int:
    """A cased WordPiece tokenizer of frequent words and every character; returns the size of its vocabulary."""
    from transformers import BertTokenizerFast

    characters = sorted(set(CHARACTERS))
    words = Counter(word for text in texts for word in re.findall(r"[^\s,.।]{2,}", text))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    pieces += sorted(word for word, count in words.items() if count > 4 and word not in set(pieces))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=False, strip_accents=False, model_max_length=512).save_pretrained(
        folder
    )
    drop_loading_notes(folder)
    return len(pieces)


def save_json(folder: Path, **files: dict[str, Any]) -> None:
    """Write each ``name={...}`` to ``name.json``, keeping the other entries of a file that exists."""
    for name, content in files.items():
        path = folder / f"{name}.json"
        before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        write_json(path, before | content)


def drop_loading_notes(folder: Path) -> None:
    """Remove from ``tokenizer_config.json`` what transformers 5 notes of how it had loaded the tokenizer."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    write_json(path, {k: v for k, v in settings.items() if k not in ("backend", "is_local", "local_files_only")})


def save_generator(folder: Path, model: Any, settings: dict, search: dict[str, Any], **described: Any) -> None:
    """Save a model that generates; its two configurations hold the ``search`` settings, as the published ones do."""
    model.save_pretrained(folder)
    save_json(folder, config=settings | search | described, generation_config=search)


def spread_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Enlarge the weights so that each word changes what follows; with the usual ones, one word repeats for ever."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and not any(part in name for part in ("embed", "shared", "bias", "lm_head")):
            torch.nn.init.normal_(weight, std=8 / weight.shape[1] ** 0.5)
    return model
