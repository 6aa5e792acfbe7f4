"""Text-to-image models by name, real classes with tiny random weights: drawing, seeds, tokenizers, what is broken."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from bncap.config import get_config
from bncap.errors import BncapError
from bncap.synthesis import text_to_image
from bncap.synthesis.prompts import fit_prompt

KANDINSKY = (
    "components.synthesiser=kandinsky-community/kandinsky-2-1",
    "components.synthesiser_prior=kandinsky-community/kandinsky-2-1-prior",
    "synthesis.side=64",
    "synthesis.prior_steps=2",
    "synthesis.steps=2",
)


@pytest.fixture
def models(standins, monkeypatch):
    monkeypatch.setenv("BNCAP_MODELS", str(standins))


@pytest.fixture(scope="module")
def kandinsky(standins):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNCAP_MODELS", str(standins))
        return text_to_image.load_synthesiser(get_config("smoke", KANDINSKY))


def draw(kandinsky, prompts, seeds, negative="low quality") -> list[bytes]:
    return [np.asarray(picture).tobytes() for picture in kandinsky.draw(prompts, negative, seeds)]


def test_kandinsky_gives_the_same_picture_for_the_same_seed_whatever_its_neighbours(kandinsky):
    first = draw(kandinsky, ["a cat", "a dog", "a hat"], [1, 2, 3])
    assert draw(kandinsky, ["a cat", "a dog", "a hat"], [1, 2, 3]) == first
    assert draw(kandinsky, ["a fish", "a dog", "a key"], [7, 2, 8])[1] == first[1]


def test_kandinsky_draws_otherwise_for_another_seed_prompt_or_negative_prompt(kandinsky):
    here = draw(kandinsky, ["a cat", "a cat", "a dog"], [1, 2, 1])
    assert len(set(here)) == 3
    assert draw(kandinsky, ["a cat", "a cat", "a dog"], [1, 2, 1], "watermark")[0] != here[0]


def test_no_prompt_is_over_77_tokens_by_either_real_tokenizer(models, standins):
    from transformers import CLIPTokenizer, XLMRobertaTokenizer

    folder = standins / "kandinsky-community"
    tokenizers = text_to_image.load_tokenizers(get_config("smoke", KANDINSKY))
    clip = CLIPTokenizer.from_pretrained(folder / "kandinsky-2-1-prior/tokenizer")
    xlmr = XLMRobertaTokenizer.from_pretrained(folder / "kandinsky-2-1/tokenizer")
    rng = np.random.default_rng(0)
    words = [
        "a", "dog's", "e.g.", "brown", "motor-cycle,", "१२३",
        "কুকুর", "বিড়াল।", "দু'টি", "ক্ষ\u200dেত", "🐕", "«ß»", "x" * 90,
    ]  # fmt: skip
    for _ in range(60):
        en, target = (" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(2))
        prompt = fit_prompt(en, target, (37, 40), "bn_IN", tokenizers)
        found = {"prior": len(clip(prompt.text).input_ids), "decoder": len(xlmr(prompt.text).input_ids)}
        assert max(found.values()) <= 77
        assert found == {name: prompt.lengths[f"{name}_prompt_kept"] for name in found}


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory, standins):
    """A folder for ``BNCAP_MODELS`` with a tiny random Stable Diffusion, ``some/diffusion``."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(standins / "kandinsky-community/kandinsky-2-1-prior/tokenizer")
    text = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=1, vocab_size=len(tokenizer),
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=32, norm_num_groups=8, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models")
    StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        None, None, requires_safety_checker=False,
    ).save_pretrained(folder / "some/diffusion")  # fmt: skip
    return folder


def test_another_pipeline_of_diffusers_draws_by_its_name(stable_diffusion, monkeypatch):
    monkeypatch.setenv("BNCAP_MODELS", str(stable_diffusion))
    config = get_config("smoke", ["components.synthesiser=some/diffusion", "synthesis.side=64", "synthesis.steps=2"])
    assert text_to_image.component_names(config) == ["some/diffusion"]
    assert {name: t.special for name, t in text_to_image.load_tokenizers(config).items()} == {"tokenizer": 2}
    synthesiser = text_to_image.load_synthesiser(config)
    assert synthesiser.sampling == {"steps": 2, "guidance": 4.0, "arithmetic": "torch.float32 on cpu"}
    assert synthesiser.components["synthesiser"]["name"] == "some/diffusion"
    first = draw(synthesiser, ["a cat", "a dog", "a hat"], [1, 2, 3])
    assert draw(synthesiser, ["a fish", "a dog", "a key"], [7, 2, 8])[1] == first[1]
    assert len({*first, *draw(synthesiser, ["a cat", "a dog", "a hat"], [1, 2, 3], "watermark")}) == 6


def test_a_folder_that_is_no_pipeline_is_named(tmp_path, monkeypatch):
    (tmp_path / "no/pipeline").mkdir(parents=True)
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path))
    with pytest.raises(BncapError, match=r"no/pipeline has no model_index\.json"):
        text_to_image.load_tokenizers(get_config("smoke", ["components.synthesiser=no/pipeline"]))


@pytest.mark.parametrize("wrong", ["synthesis.prior_steps=1", "synthesis.side=100"])
def test_what_kandinsky_cannot_draw_is_an_error_before_it_is_loaded(models, wrong):
    with pytest.raises(BncapError, match=wrong):
        text_to_image.load_synthesiser(get_config("smoke", [*KANDINSKY, wrong]))


def test_a_side_that_another_pipeline_cannot_draw_is_an_error(stable_diffusion, monkeypatch):
    monkeypatch.setenv("BNCAP_MODELS", str(stable_diffusion))
    with pytest.raises(BncapError, match="synthesis.side=50: such a pipeline draws sides of a multiple of 8 px"):
        text_to_image.load_synthesiser(
            get_config("smoke", ["components.synthesiser=some/diffusion", "synthesis.side=50"])
        )


def test_a_damaged_pipeline_is_named(standins, tmp_path, monkeypatch):
    shutil.copytree(standins / "kandinsky-community", tmp_path / "kandinsky-community")
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path))
    folder, config = tmp_path / "kandinsky-community/kandinsky-2-1", get_config("smoke", KANDINSKY)
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BncapError, match=r"kandinsky-2-1: the text-to-image model cannot be loaded"):
        text_to_image.load_synthesiser(config)
    (folder / "tokenizer/tokenizer.json").write_text("{")
    with pytest.raises(BncapError, match=r"kandinsky-2-1: the prompt's tokenizer cannot be loaded"):
        text_to_image.load_tokenizers(config)
