"""Small real components that many tests share: a sentencepiece mBART-50 tokenizer and a random mBART."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

SENTENCES = (
    "একটি লাল বল আছে।",
    "ঘাসের উপর একটি নীল পাখি।",
    "টেবিলের বাম পাশে একটি বড় গাড়ি।",
    "একটি ছোট হলুদ ফুলের ডান পাশে একটি ঘর।",
    "বালির উপর একটি কালো বিড়াল।",
)


@pytest.fixture(scope="session")
def sentences() -> tuple[str, ...]:
    return SENTENCES


@pytest.fixture(scope="session")
def mbart_folder(tmp_path_factory) -> Path:
    """A random mBART of 2 encoder and 3 decoder layers with its tokenizer, in the hub's layout."""
    import sentencepiece
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration

    folder = tmp_path_factory.mktemp("mbart")
    (folder / "text.txt").write_text("\n".join(SENTENCES * 20), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "sp"), vocab_size=60, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    (folder / "sp.model").rename(folder / "sentencepiece.bpe.model")
    settings = {"tokenizer_class": "MBart50Tokenizer", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = MBart50Tokenizer.from_pretrained(folder, src_lang="bn_IN", tgt_lang="bn_IN")
    torch.manual_seed(0)
    config = MBartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, dropout=0.1,
        init_std=0.1, scale_embedding=True,
    )  # fmt: skip
    MBartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def captioner(mbart_folder):
    """A captioner over 12-channel features, K = 2, in evaluation mode."""
    from bncap.model import Captioner, load_decoder, load_tokenizer

    torch.manual_seed(1)
    tokenizer = load_tokenizer(str(mbart_folder), "bn_IN")
    return Captioner(load_decoder(str(mbart_folder)), tokenizer, channels=12, last_k=2).eval()


@pytest.fixture
def artifacts_dir(tmp_path, monkeypatch) -> Path:
    """An artefact root and a figure root of the test's own, for the standard run until something begins a trial."""
    monkeypatch.setenv("BNCAP_TRIAL", "")
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("BNCAP_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "artifacts"


@pytest.fixture(scope="session")
def standins(tmp_path_factory) -> Path:
    """A folder for ``BNCAP_MODELS``: tiny random checkpoints under their hub names."""
    from standins import build_standins

    folder = tmp_path_factory.mktemp("models")
    build_standins(folder)
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A small COCO and Flickr30k, which the configurations of ``small_data`` read."""
    from small_data import small_world

    return small_world(tmp_path, monkeypatch)


@pytest.fixture
def translator(root, monkeypatch):
    """The translator of ``small_data``, with its verifier, in the place of the real ones."""
    from small_data import fake_models

    return fake_models(monkeypatch)
