"""Stand-ins for Kandinsky 2.1, prior and decoder, for pictures with sides of a multiple of 64 px."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bncap.pipeline.artifacts import write_json, write_text

from .files import ParallelTexts, drop_loading_notes, save_json, save_sentencepiece

WIDTH = 32
"""Of every text and image embedding."""
TOKENS = 77
"""Longest prompt of the prior (CLIP) and of the decoder (XLM-R)."""
TEXT = {"hidden_size": WIDTH, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 1}


def save_clip_tokenizer(folder: Path, texts: ParallelTexts):
    """CLIP's byte-level BPE of lower-case English: ``vocab.json``, ``merges.txt`` and their settings; returns it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(texts.english, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    marks["pad_token"] = "<|endoftext|>"
    vocabulary = [*pieces, marks["bos_token"], marks["eos_token"]]  # the end mark last: the encoder looks for the max
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {piece: i for i, piece in enumerate(vocabulary)})
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    save_json(
        folder,
        special_tokens_map=marks,
        tokenizer_config=marks
        | {"do_lower_case": True, "model_max_length": TOKENS, "tokenizer_class": "CLIPTokenizer"},
    )
    return CLIPTokenizer.from_pretrained(folder)


def save_prior(folder: Path, texts: ParallelTexts) -> None:
    """``kandinsky-community/kandinsky-2-1-prior``."""
    from diffusers import KandinskyPriorPipeline, PriorTransformer, UnCLIPScheduler
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    tokenizer = save_clip_tokenizer(folder / "tokenizer", texts)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1, num_embeddings=TOKENS
    )
    torch.nn.init.ones_(prior.clip_std)  # it starts at 0, which would make every image embedding the same
    vision = CLIPVisionConfig(**TEXT, projection_dim=WIDTH, image_size=32, patch_size=16)
    text = CLIPTextConfig(
        **TEXT, projection_dim=WIDTH, vocab_size=len(tokenizer), max_position_embeddings=TOKENS,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    KandinskyPriorPipeline(
        prior=prior,
        image_encoder=CLIPVisionModelWithProjection(vision),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=10.0
        ),
        image_processor=CLIPImageProcessor(),
    ).save_pretrained(folder)
    drop_loading_notes(folder / "tokenizer")


def save_decoder(folder: Path, texts: ParallelTexts) -> None:
    """``kandinsky-community/kandinsky-2-1``."""
    from diffusers import DDIMScheduler, KandinskyPipeline, UNet2DConditionModel, VQModel
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
    from transformers import XLMRobertaTokenizer

    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    save_sentencepiece(folder / "tokenizer/sentencepiece.bpe.model", texts.both)
    save_json(
        folder / "tokenizer",
        tokenizer_config={"model_max_length": TOKENS, "tokenizer_class": "XLMRobertaTokenizer"},
    )
    tokenizer = XLMRobertaTokenizer.from_pretrained(folder / "tokenizer")
    settings = MCLIPConfig(
        **TEXT, vocab_size=len(tokenizer), max_position_embeddings=514, type_vocab_size=1, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, transformerDimSize=WIDTH, imageDimSize=WIDTH,
    )  # fmt: skip
    KandinskyPipeline(
        text_encoder=MultilingualCLIP(settings),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            in_channels=4, out_channels=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", addition_embed_type="text_image",
            addition_embed_type_num_heads=2, attention_head_dim=4, cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH,
            encoder_hid_dim_type="text_image_proj", resnet_time_scale_shift="scale_shift",
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, set_alpha_to_one=False,
            steps_offset=1, prediction_type="epsilon",
        ),
        movq=VQModel(
            down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",), latent_channels=4,
            up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3, block_out_channels=(32,) * 4,
            layers_per_block=1, norm_num_groups=32, num_vq_embeddings=16, vq_embed_dim=4, norm_type="spatial",
        ),
    ).save_pretrained(folder)  # fmt: skip
    drop_loading_notes(folder / "tokenizer")
