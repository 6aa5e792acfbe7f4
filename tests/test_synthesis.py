"""Triplets, seeds, sidecars and exact regeneration; Kandinsky's classes with tiny random weights."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bncap import paths
from bncap.artifacts import file_hash, read_csv, read_json, run_step, write_csv
from bncap.config import get_config
from bncap.corpus import Pair
from bncap.errors import BncapError
from bncap.kandinsky import KandinskySynthesiser
from bncap.mini.synthesiser import MiniSynthesiser
from bncap.prompts import english_part, joint_prompt, target_part
from bncap.synthesis import build_images, draw_pairs, fit_prompt, image_seed, load_synthesiser, regenerate

PAIRS = [
    Pair(10 * image + k, str(image), f"train2014/{image}.jpg", "train", f"A red ball {image} {k}.", "একটি লাল বল।", 0.9)
    for image in range(30)
    for k in range(5)
]  # fmt: skip


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "artifacts"))
    made = get_config("smoke", ["data.triplets=7", "synthesis.batch=3"])
    rows = [(p.caption_id, p.image_id, p.image, p.split, p.en, p.bn, p.similarity) for p in PAIRS]
    header = ("caption_id", "image_id", "image", "split", "en", "bn", "similarity")
    run_step(
        paths.step_dir("smoke", "01_data_build", "corpus", 42),
        settings={},
        build=lambda folder: write_csv(folder / "corpus.csv", header, rows),
        quiet=True,
    )
    return made


def test_the_draw_takes_at_most_so_many_captions_of_an_image_and_is_sorted():
    drawn = draw_pairs(PAIRS, 50, 2, seed=1)
    assert len(drawn) == 50 and [p.caption_id for p in drawn] == sorted(p.caption_id for p in drawn)
    counts = np.unique([p.image_id for p in drawn], return_counts=True)[1]
    assert counts.max() == 2


def test_the_draw_is_seeded_whatever_the_order_of_the_corpus_and_nested_in_its_size():
    drawn = draw_pairs(PAIRS, 20, 2, seed=1)
    assert draw_pairs(PAIRS[::-1], 20, 2, seed=1) == drawn
    assert draw_pairs(PAIRS, 20, 2, seed=2) != drawn
    assert set(draw_pairs(PAIRS, 8, 2, seed=1)) < set(drawn)


def test_only_training_pairs_are_drawn_and_fewer_if_there_are_no_more():
    other = Pair(999, "999", "val2014/999.jpg", "test", "A cat.", "একটি বিড়াল।", 0.9)
    assert len(draw_pairs([*PAIRS, other], 1000, 5, seed=1)) == len(PAIRS)


def test_image_seeds_differ_by_caption_and_by_base_seed():
    seeds = {image_seed(base, caption) for base in (42, 43) for caption in range(500)}
    assert len(seeds) == 1000 and min(seeds) >= 0 and max(seeds) < 2**32


def test_every_triplet_has_a_picture_and_a_sidecar_whose_hashes_hold(config):
    folder = build_images(config)
    rows = read_csv(folder / "triplets.csv")
    assert len(rows) == 7 == read_json(folder / "counts.json")["triplets"]
    by_id = {str(p.caption_id): p for p in PAIRS}
    for row in rows:
        sidecar = read_json((folder / row["synthetic"]).with_suffix(".json"))
        pair = by_id[row["caption_id"]]
        assert (row["image"], row["en"], row["bn"]) == (pair.image, pair.en, pair.bn)
        assert sidecar["prompt"] == joint_prompt(pair.en, pair.bn)
        assert sidecar["image_sha256"] == file_hash(folder / row["synthetic"])
        assert sidecar["negative_prompt"] == config.synthesis.negative_prompt


def test_each_picture_is_made_again_to_the_byte_from_its_sidecar(config):
    for sidecar in sorted((build_images(config) / "images").glob("*.json")):
        assert regenerate(sidecar, config) == sidecar.with_suffix(".png").read_bytes()


def test_regeneration_with_other_models_is_refused(config):
    sidecar = sorted((build_images(config) / "images").glob("*.json"))[0]
    record = read_json(sidecar)
    record["components"]["synthesiser"] = "another/model"
    copy = sidecar.parents[2] / "copy.json"
    copy.write_text(json.dumps(record))
    with pytest.raises(BncapError, match="another/model"):
        regenerate(copy, config)


def test_an_interrupted_run_keeps_whole_pictures_and_mends_the_others(config, monkeypatch):
    folder = build_images(config)
    pictures = sorted((folder / "images").glob("*.png"), key=lambda path: int(path.stem))
    before = {p.name: p.read_bytes() for p in pictures}
    key = read_json(folder / "manifest.json")["key"]
    (folder / "manifest.json").unlink()
    (folder / ".working.json").write_text(json.dumps({"key": key}))
    pictures[-1].write_bytes(b"half a picture")  # in the last batch, which holds one picture

    drawn: list[str] = []
    draw = MiniSynthesiser.draw
    monkeypatch.setattr(MiniSynthesiser, "draw", lambda self, p, n, s: drawn.extend(p) or draw(self, p, n, s))
    build_images(config)
    assert len(drawn) == 3 and len(set(drawn)) == 1  # one batch, filled up with its only request
    assert {p.name: p.read_bytes() for p in pictures} == before


def test_a_corpus_without_accepted_training_pairs_is_an_error_that_says_what_to_do(config):
    folder = paths.step_dir("smoke", "01_data_build", "corpus", 42)
    header = (folder / "corpus.csv").read_text().splitlines()[0].split(",")
    run_step(folder, settings={"pairs": 0}, build=lambda f: write_csv(f / "corpus.csv", header, []), quiet=True)
    with pytest.raises(BncapError, match=r"data\.threshold"):
        build_images(config)


@pytest.fixture(scope="module")
def tiny_kandinsky(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a random prior and decoder of a few thousand weights, with tokenizers that spell words out."""
    from diffusers import (
        DDIMScheduler,
        KandinskyPipeline,
        KandinskyPriorPipeline,
        PriorTransformer,
        UnCLIPScheduler,
        UNet2DConditionModel,
        VQModel,
    )
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        XLMRobertaTokenizer,
    )
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.manual_seed(0)
    root, width = tmp_path_factory.mktemp("kandinsky"), 32
    letters = [*bytes_to_unicode().values()]
    clip_vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    clip = CLIPTokenizer(vocab={t: i for i, t in enumerate(clip_vocabulary)}, merges=[], model_max_length=77)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *map(chr, range(33, 127)), *map(chr, range(0x980, 0xA00)), "<mask>"]
    xlmr = XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces], model_max_length=77)

    text = {"hidden_size": width, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 1}
    KandinskyPriorPipeline(
        prior=PriorTransformer(
            num_attention_heads=2, attention_head_dim=8, embedding_dim=width, num_layers=1, num_embeddings=77
        ),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**text, projection_dim=width, image_size=32, patch_size=16)
        ),
        text_encoder=CLIPTextModelWithProjection(
            CLIPTextConfig(**text, projection_dim=width, vocab_size=len(clip_vocabulary), eos_token_id=513)
        ),
        tokenizer=clip,
        scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample=True),
        image_processor=CLIPImageProcessor(),
    ).save_pretrained(root / "prior")
    mclip = MCLIPConfig(
        **text, vocab_size=len(pieces), max_position_embeddings=80, transformerDimSize=width, imageDimSize=width
    )
    KandinskyPipeline(
        text_encoder=MultilingualCLIP(mclip),
        tokenizer=xlmr,
        unet=UNet2DConditionModel(
            in_channels=4, out_channels=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", addition_embed_type="text_image",
            addition_embed_type_num_heads=2, attention_head_dim=4, cross_attention_dim=32, encoder_hid_dim=width,
            encoder_hid_dim_type="text_image_proj", resnet_time_scale_shift="scale_shift",
        ),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False),
        movq=VQModel(
            block_out_channels=(8, 8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=4, num_vq_embeddings=12,
            vq_embed_dim=4,
        ),
    ).save_pretrained(root / "decoder")  # fmt: skip
    return root / "prior", root / "decoder"


@pytest.fixture(scope="module")
def kandinsky(tiny_kandinsky) -> KandinskySynthesiser:
    prior, decoder = map(str, tiny_kandinsky)
    return KandinskySynthesiser(prior, decoder, 64, "cpu", prior_steps=2, steps=2)


def draw(kandinsky, prompts, seeds, negative="low quality") -> list[bytes]:
    return [np.asarray(picture).tobytes() for picture in kandinsky.draw(prompts, negative, seeds)]


def test_kandinsky_draws_pictures_of_the_side_asked_for(kandinsky):
    pictures = kandinsky.draw(["a cat", "a dog"], "watermark", [1, 2])
    assert [(p.size, p.mode) for p in pictures] == [((64, 64), "RGB")] * 2


def test_kandinsky_gives_the_same_picture_for_the_same_seed_whatever_its_neighbours(kandinsky):
    first = draw(kandinsky, ["a cat", "a dog", "a hat"], [1, 2, 3])
    assert draw(kandinsky, ["a cat", "a dog", "a hat"], [1, 2, 3]) == first
    assert draw(kandinsky, ["a fish", "a dog", "a key"], [7, 2, 8])[1] == first[1]


def test_kandinsky_draws_otherwise_for_another_seed_prompt_or_negative_prompt(kandinsky):
    here = draw(kandinsky, ["a cat", "a cat", "a dog"], [1, 2, 1])
    assert len(set(here)) == 3
    assert draw(kandinsky, ["a cat", "a cat", "a dog"], [1, 2, 1], "watermark")[0] != here[0]


def test_a_long_prompt_is_cut_to_the_77_tokens_of_both_encoders(kandinsky):
    en = "A large brown dog and two small cats are sitting on the edge of a wooden boat near the harbour."
    bn = "একটি বড় বাদামী কুকুর এবং দুটি ছোট বিড়াল বন্দরের কাছে একটি কাঠের নৌকার কিনারায় বসে আছে।"
    cut = fit_prompt(en, bn, get_config("paper").synthesis, "bn_IN", kandinsky.count_tokens)
    prompt = joint_prompt(cut.en, cut.target)
    for tokenizer in (kandinsky.prior.tokenizer, kandinsky.decoder.tokenizer):
        assert len(tokenizer(prompt).input_ids) <= 77 < len(tokenizer(joint_prompt(en, bn)).input_ids)
    assert kandinsky.count_tokens(english_part(cut.en)) < 37 and kandinsky.count_tokens(target_part(cut.target)) < 40
    assert cut.en and cut.target and cut.cut_en and cut.cut_target


def test_pictures_by_kandinsky_are_made_again_from_their_sidecars_alone(config, tiny_kandinsky, monkeypatch):
    models = config_models(tiny_kandinsky, monkeypatch)
    kandinsky_config = get_config("smoke", ["data.triplets=3", "synthesis.batch=2", "synthesis.side=64", *models])
    monkeypatch.setattr(KandinskySynthesiser.__init__, "__kwdefaults__", {"prior_steps": 2, "steps": 2})
    sidecars = sorted((build_images(kandinsky_config) / "images").glob("*.json"))
    assert len(sidecars) == 3
    assert read_json(sidecars[0])["components"]["decoder_revision"].startswith("sha256:")
    for sidecar in sidecars[1:]:  # places 1 and 0 of a batch
        again = regenerate(sidecar, get_config("smoke", models))
        assert again == sidecar.with_suffix(".png").read_bytes()
        assert Image.open(io.BytesIO(again)).size == (64, 64)


def test_missing_weights_are_an_error_that_says_where_to_put_them(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BncapError, match="BNCAP_MODELS/nobody/nothing"):
        load_synthesiser(get_config("paper", ["components.synthesiser_prior=nobody/nothing"]))


def config_models(folders: tuple[Path, Path], monkeypatch) -> list[str]:
    monkeypatch.setenv("BNCAP_MODELS", str(folders[0].parent))
    return ["components.synthesiser=decoder", "components.synthesiser_prior=prior"]
