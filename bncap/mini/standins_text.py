"""Stand-ins for the hub's language models and their tokenizers; see :mod:`bncap.mini.standins`."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import category, is_normalized

import torch

from bncap.mini.corpus import BENGALI_CHARACTERS, parallel_captions
from bncap.pipeline.artifacts import write_json

DEVANAGARI = "".join(c for c in map(chr, range(0x0900, 0x0980)) if category(c) != "Cn" and is_normalized("NFKC", c))
CHARACTERS = BENGALI_CHARACTERS + DEVANAGARI + string.printable.strip()
"""What every tokenizer can spell."""

WIDTH, HEADS, LAYERS, HIDDEN = 32, 4, 2, 64
"""Width, heads, layers a side and feed-forward width of a language model."""
MARKS = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
         "pad_token": "<pad>"}  # fmt: skip
"""Special tokens of mBART-50 and NLLB, but for the mask."""
MASK = {
    "__type": "AddedToken",
    "content": "<mask>",
    "lstrip": True,
    "rstrip": False,
    "normalized": True,
    "single_word": False,
}


class ParallelTexts:
    """What the tokenizers are trained on: parallel captions of the mini world drawn with ``seed``."""

    def __init__(self, seed: int) -> None:
        pairs = parallel_captions(seed, 1000)
        self.english = [english for english, _ in pairs]
        self.bengali = [bengali for _, bengali in pairs]
        self.both = self.english + self.bengali


def save_sentencepiece(path: Path, texts: list[str], **options: Any) -> list[str]:
    """Train sentencepiece on ``texts`` and write it; returns its pieces in order.

    The trainer considers only what recurs in different words: each word with a comma too, or it would be spelt out.
    """
    import sentencepiece

    texts = texts + sorted({f"{word}," for text in texts for word in re.findall(r"[^\s,.।]+", text)})
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=700,
            character_coverage=1.0,
            required_chars=CHARACTERS,
            num_threads=1,
            minloglevel=2,
            **({"model_type": "unigram", "hard_vocab_limit": False} | options),
        )
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [model.id_to_piece(i) for i in range(len(model))]


def save_json(folder: Path, **files: dict[str, Any]) -> None:
    """``name={...}`` becomes ``name.json``; what a file of that name already says is kept beside it."""
    for name, content in files.items():
        path = folder / f"{name}.json"
        before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        write_json(path, before | content)


def forget_loading(folder: Path) -> None:
    """Without what transformers 5 notes in ``tokenizer_config.json`` of how it had loaded the tokenizer."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    write_json(path, {k: v for k, v in settings.items() if k not in ("backend", "is_local", "local_files_only")})


def save_mbart(folder: Path, texts: ParallelTexts) -> None:
    """``facebook/mbart-large-50``: its configuration speaks of generation too, as the published one does."""
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    save_sentencepiece(folder / "sentencepiece.bpe.model", texts.both)
    marks = MARKS | {"mask_token": MASK, "additional_special_tokens": list(FAIRSEQ_LANGUAGE_CODES)}
    settings = {"src_lang": None, "tgt_lang": None, "language_codes": "ML50", "tokenizer_class": "MBart50Tokenizer"}
    save_json(folder, tokenizer_config=marks | settings, special_tokens_map=marks | {"mask_token": "<mask>"})
    tokenizer = MBart50Tokenizer.from_pretrained(folder)
    settings = sizes() | {
        "activation_function": "gelu", "add_bias_logits": False, "add_final_layer_norm": True, "attention_dropout": 0.0,
        "bos_token_id": 0, "classifier_dropout": 0.0, "decoder_layerdrop": 0.0, "decoder_start_token_id": 2,
        "dropout": 0.1, "encoder_layerdrop": 0.0, "eos_token_id": 2, "forced_eos_token_id": 2, "init_std": 0.1,
        "max_position_embeddings": 1024, "normalize_before": True, "normalize_embedding": True, "pad_token_id": 1,
        "scale_embedding": True, "static_position_embeddings": False, "vocab_size": len(tokenizer),
    }  # fmt: skip
    MBartForConditionalGeneration(MBartConfig(**settings)).save_pretrained(folder)
    search = {"early_stopping": True, "forced_eos_token_id": 2, "max_length": 200, "num_beams": 5}
    save_json(folder, config=settings | search | {"tokenizer_class": "MBart50Tokenizer"}, generation_config=search)


def save_bert(folder: Path, texts: ParallelTexts) -> None:
    """``bert-base-multilingual-cased``: 12 layers, so that there is a ninth."""
    from transformers import BertForMaskedLM

    _save_wordpiece(folder, texts, 512)
    stirred(BertForMaskedLM(_bert_config(folder, 12))).save_pretrained(folder)
    save_json(folder, config={"directionality": "bidi", "pooler_type": "first_token_transform"})


def save_labse(folder: Path, texts: ParallelTexts) -> None:
    """``sentence-transformers/LaBSE``: BERT, its first token, a dense layer with tanh, and length one."""
    from safetensors.torch import save_file
    from transformers import BertModel

    _save_wordpiece(folder, texts, 512)
    stirred(BertModel(_bert_config(folder, LAYERS))).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    save_json(
        folder,
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": False},
        config_sentence_transformers={"__version__": {"sentence_transformers": "2.0.0"}},
    )
    for part in ("1_Pooling", "2_Dense"):
        (folder / part).mkdir(exist_ok=True)
    pooling = {f"pooling_mode_{mode}": mode == "cls_token" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    save_json(
        folder / "1_Pooling",
        config={"word_embedding_dimension": WIDTH, **pooling, "pooling_mode_mean_sqrt_len_tokens": False},
    )
    activation = "torch.nn.modules.activation.Tanh"
    save_json(
        folder / "2_Dense",
        config={"in_features": WIDTH, "out_features": WIDTH, "bias": True, "activation_function": activation},
    )
    dense = torch.nn.Linear(WIDTH, WIDTH).state_dict()
    save_file({f"linear.{name}": tensor for name, tensor in dense.items()}, folder / "2_Dense/model.safetensors")


def save_gpt2(folder: Path, texts: ParallelTexts) -> None:
    """``flax-community/gpt2-bengali``: its only mark, ``<|endoftext|>``, lies one beyond the embedding."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    pieces = ByteLevelBPETokenizer()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces.train_from_iterator(texts.bengali, vocab_size=700, special_tokens=marks, show_progress=False)
    pieces.save_model(str(folder))
    end = {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "unk_token")}
    save_json(folder, tokenizer_config=end | {"add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer"})
    GPT2Tokenizer.from_pretrained(folder).save_pretrained(folder)
    forget_loading(folder)
    save_json(folder, special_tokens_map=end)
    size = pieces.get_vocab_size()
    settings = {
        "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 1024, "n_ctx": 1024, "vocab_size": size,
        "activation_function": "gelu_new", "bos_token_id": size - 1, "eos_token_id": size - 1, "initializer_range": 0.1,
        "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    }  # fmt: skip
    GPT2LMHeadModel(GPT2Config(**settings)).save_pretrained(folder)
    save_json(folder, config=settings | {"task_specific_params": {"text-generation": {"do_sample": True}}})


def sizes() -> dict[str, int]:
    """Those of an encoder-decoder, in the words of BART's family."""
    sides = ("encoder", "decoder")
    layers = {f"{side}_layers": LAYERS for side in sides} | {f"{side}_attention_heads": HEADS for side in sides}
    return {"d_model": WIDTH, "num_hidden_layers": LAYERS, **layers, **{f"{side}_ffn_dim": HIDDEN for side in sides}}


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """Weights so large that each word changes what follows; with the usual ones the first word is said for ever."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and not any(part in name for part in ("embed", "shared", "bias", "lm_head")):
            torch.nn.init.normal_(weight, std=8 / weight.shape[1] ** 0.5)
    return model


def _save_wordpiece(folder: Path, texts: ParallelTexts, longest: int) -> None:
    """Common words and every character, first in a word or inside it; cased, with ``vocab.txt`` as well."""
    from transformers import BertTokenizerFast

    characters = sorted(set(CHARACTERS))
    words = Counter(word for text in texts.both for word in re.findall(r"[^\s,.।]{2,}", text))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    pieces += sorted(word for word, count in words.items() if count > 4 and word not in set(pieces))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    BertTokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)},
        do_lower_case=False,
        strip_accents=False,
        model_max_length=longest,
    ).save_pretrained(folder)
    forget_loading(folder)


def _bert_config(folder: Path, layers: int):
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len((folder / "vocab.txt").read_text("utf-8").splitlines()),
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=512,
        initializer_range=0.1,
        pad_token_id=0,
    )


MODELS: dict[str, Callable[[Path, ParallelTexts], None]] = {
    "facebook/mbart-large-50": save_mbart,
    "sentence-transformers/LaBSE": save_labse,
    "bert-base-multilingual-cased": save_bert,
    "flax-community/gpt2-bengali": save_gpt2,
}
"""Hub name -> what fills its folder."""
