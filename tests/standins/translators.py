"""Stand-ins for the translators from English: two Marian models, BanglaT5 and NLLB."""

from __future__ import annotations

from pathlib import Path

import torch

from bncap.pipeline.artifacts import write_json

from .files import (
    BART_SIZES,
    HEADS,
    HIDDEN,
    LAYERS,
    MARKS,
    MASK,
    WIDTH,
    ParallelTexts,
    save_generator,
    save_json,
    save_sentencepiece,
    spread_weights,
)

INDIC_CODES = (
    "asm", "awa", "ben", "bho", "gom", "guj", "hif_Latn", "hin", "mai", "mar", "npi", "ori", "pan_Guru", "pnb", "rom",
    "san_Deva", "sin", "snd_Arab", "urd",
)  # fmt: skip
"""Target languages of ``opus-mt-en-inc``."""
GENERATED = 16
"""Longest output, tokens: a random model never ends by itself, and the published 200 to 512 would take minutes."""


def save_marian(folder: Path, texts: ParallelTexts, codes: tuple[str, ...], target: str) -> None:
    """An ``opus-mt`` model with the target languages ``codes``; none where there is only one, ``target``."""
    from transformers import MarianConfig, MarianMTModel

    vocabulary = ["</s>", "<unk>", *(f">>{code}<<" for code in codes)]
    for side, lines in (("source", texts.english), ("target", texts.bengali)):
        pieces = save_sentencepiece(folder / f"{side}.spm", lines, bos_id=-1, eos_id=0, unk_id=1)
        vocabulary += [piece for piece in pieces if piece not in set(vocabulary)]
    vocabulary.append("<pad>")
    pad = len(vocabulary) - 1
    save_json(
        folder,
        vocab={piece: i for i, piece in enumerate(vocabulary)},
        tokenizer_config={"source_lang": "en", "target_lang": target, "model_max_length": 512}
        | {"tokenizer_class": "MarianTokenizer"},
    )
    settings = BART_SIZES | {
        "activation_function": "swish", "add_bias_logits": False, "add_final_layer_norm": False, "bos_token_id": 0,
        "decoder_start_token_id": pad, "dropout": 0.1, "eos_token_id": 0, "forced_eos_token_id": 0, "init_std": 0.1,
        "max_position_embeddings": 512, "normalize_before": False, "normalize_embedding": False, "pad_token_id": pad,
        "scale_embedding": True, "share_encoder_decoder_embeddings": True, "static_position_embeddings": True,
        "vocab_size": pad + 1,
    }  # fmt: skip
    search = {"bad_words_ids": [[i] for i in (*range(2, 2 + len(codes)), pad)], "max_length": GENERATED, "num_beams": 4}
    model = spread_weights(MarianMTModel(MarianConfig(**settings)))
    save_generator(folder, model, settings, search | {"forced_eos_token_id": 0})


def save_marian_inc(folder: Path, texts: ParallelTexts) -> None:
    """``Helsinki-NLP/opus-mt-en-inc``: the languages of India, picked by ``>>code<<`` before the sentence."""
    save_marian(folder, texts, INDIC_CODES, "inc")


def save_marian_bn(folder: Path, texts: ParallelTexts) -> None:
    """``shhossain/opus-mt-en-to-bn``: Bengali alone; beside its safetensors a ``pytorch_model.bin`` of zeros.

    Repositories often hold both; the zeros tell which of the two was loaded.
    """
    from safetensors.torch import load_file

    save_marian(folder, texts, (), "bn")
    weights = load_file(folder / "model.safetensors")
    torch.save({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, folder / "pytorch_model.bin")


def save_t5(folder: Path, texts: ParallelTexts) -> None:
    """``csebuetnlp/banglat5_nmt_en_bn``: T5 1.1 (gated GELU, untied output)."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    options = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    save_sentencepiece(folder / "spiece.model", texts.both, **options)
    marks = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    save_json(
        folder,
        special_tokens_map=marks,
        tokenizer_config=marks
        | {"extra_ids": 0, "additional_special_tokens": None, "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer"},
    )
    tokenizer = T5Tokenizer.from_pretrained(folder)
    settings = {
        "d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": HIDDEN, "num_layers": LAYERS, "num_decoder_layers": LAYERS,
        "num_heads": HEADS, "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "pad_token_id": 0,
        "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "vocab_size": len(tokenizer),
    }  # fmt: skip
    model = spread_weights(T5ForConditionalGeneration(T5Config(**settings)))
    save_generator(folder, model, settings, {"max_length": GENERATED})


def save_nllb(folder: Path, texts: ParallelTexts) -> None:
    """``facebook/nllb-200-distilled-600M``: M2M100 with BPE pieces and 202 language codes."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    save_sentencepiece(folder / "sentencepiece.bpe.model", texts.both, model_type="bpe", hard_vocab_limit=True)
    marks = MARKS | {"mask_token": MASK, "additional_special_tokens": list(FAIRSEQ_LANGUAGE_CODES)}
    described = marks | {"src_lang": None, "tgt_lang": None, "tokenizer_class": "NllbTokenizer"}
    described["model_max_length"] = 1024
    save_json(folder, tokenizer_config=described)
    tokenizer = NllbTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)  # tokenizer.json, and the settings in the words of transformers 5
    write_json(folder / "tokenizer_config.json", described)
    save_json(folder, special_tokens_map=marks | {"mask_token": "<mask>"})
    settings = BART_SIZES | {
        "activation_function": "relu", "attention_dropout": 0.1, "bos_token_id": 0, "decoder_layerdrop": 0,
        "decoder_start_token_id": 2, "dropout": 0.1, "encoder_layerdrop": 0, "eos_token_id": 2, "init_std": 0.1,
        "max_position_embeddings": 1024, "pad_token_id": 1, "scale_embedding": True, "vocab_size": len(tokenizer),
    }  # fmt: skip
    model = spread_weights(M2M100ForConditionalGeneration(M2M100Config(**settings)))
    save_generator(folder, model, settings, {"max_length": GENERATED}, tokenizer_class="NllbTokenizer")
