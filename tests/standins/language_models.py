"""Stand-ins for the decoder (mBART-50), the verifier (LaBSE), BERTScore's model and the baseline's GPT-2."""

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
    drop_loading_notes,
    save_generator,
    save_json,
    save_sentencepiece,
    save_wordpiece,
    spread_weights,
)


def save_mbart(folder: Path, texts: ParallelTexts) -> None:
    """``facebook/mbart-large-50``."""
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    save_sentencepiece(folder / "sentencepiece.bpe.model", texts.both)
    marks = MARKS | {"mask_token": MASK, "additional_special_tokens": list(FAIRSEQ_LANGUAGE_CODES)}
    settings = {"src_lang": None, "tgt_lang": None, "language_codes": "ML50", "tokenizer_class": "MBart50Tokenizer"}
    save_json(folder, tokenizer_config=marks | settings, special_tokens_map=marks | {"mask_token": "<mask>"})
    tokenizer = MBart50Tokenizer.from_pretrained(folder)
    settings = BART_SIZES | {
        "activation_function": "gelu", "add_bias_logits": False, "add_final_layer_norm": True, "attention_dropout": 0.0,
        "bos_token_id": 0, "classifier_dropout": 0.0, "decoder_layerdrop": 0.0, "decoder_start_token_id": 2,
        "dropout": 0.1, "encoder_layerdrop": 0.0, "eos_token_id": 2, "forced_eos_token_id": 2, "init_std": 0.1,
        "max_position_embeddings": 1024, "normalize_before": True, "normalize_embedding": True, "pad_token_id": 1,
        "scale_embedding": True, "static_position_embeddings": False, "vocab_size": len(tokenizer),
    }  # fmt: skip
    search = {"early_stopping": True, "forced_eos_token_id": 2, "max_length": 200, "num_beams": 5}
    model = MBartForConditionalGeneration(MBartConfig(**settings))
    save_generator(folder, model, settings, search, tokenizer_class="MBart50Tokenizer")


def save_bert(folder: Path, texts: ParallelTexts) -> None:
    """``bert-base-multilingual-cased``: 12 layers, so that there is a ninth."""
    from transformers import BertForMaskedLM

    spread_weights(BertForMaskedLM(make_bert_config(save_wordpiece(folder, texts.both), 12))).save_pretrained(folder)
    save_json(folder, config={"directionality": "bidi", "pooler_type": "first_token_transform"})


def save_labse(folder: Path, texts: ParallelTexts) -> None:
    """``sentence-transformers/LaBSE``: BERT, its first token, a dense layer with tanh, and length one."""
    from safetensors.torch import save_file
    from transformers import BertModel

    spread_weights(BertModel(make_bert_config(save_wordpiece(folder, texts.both), LAYERS))).save_pretrained(folder)
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
    pooling |= {"word_embedding_dimension": WIDTH, "pooling_mode_mean_sqrt_len_tokens": False}
    save_json(folder / "1_Pooling", config=pooling)
    activation = "torch.nn.modules.activation.Tanh"
    dense = {"in_features": WIDTH, "out_features": WIDTH, "bias": True, "activation_function": activation}
    save_json(folder / "2_Dense", config=dense)
    weights = torch.nn.Linear(WIDTH, WIDTH).state_dict()
    save_file({f"linear.{name}": tensor for name, tensor in weights.items()}, folder / "2_Dense/model.safetensors")


def make_bert_config(vocabulary: int, layers: int):
    """A ``BertConfig`` of the stand-ins' sizes."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=HIDDEN, max_position_embeddings=512, initializer_range=0.1, pad_token_id=0,
    )  # fmt: skip


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
    drop_loading_notes(folder)
    save_json(folder, special_tokens_map=end)
    size = pieces.get_vocab_size()
    settings = {
        "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 1024, "n_ctx": 1024, "vocab_size": size,
        "activation_function": "gelu_new", "bos_token_id": size - 1, "eos_token_id": size - 1, "initializer_range": 0.1,
        "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    }  # fmt: skip
    GPT2LMHeadModel(GPT2Config(**settings)).save_pretrained(folder)
    save_json(folder, config=settings | {"task_specific_params": {"text-generation": {"do_sample": True}}})
