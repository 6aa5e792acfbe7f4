"""Checkpoints that are missing, damaged, or of another model: one line each that names the folder and the remedy."""

import os
import shutil

import pytest

from bncap.bertscore import load_bertscore
from bncap.config import get_config
from bncap.data.translate import Seq2SeqTranslator
from bncap.data.verify import Verifier
from bncap.decoders.baselines import load_gpt2
from bncap.decoders.mbart import load_decoder, load_tokenizer
from bncap.encoders.features import Encoder
from bncap.errors import BncapError
from bncap.pipeline.hub import loading
from bncap.synthesis.text_to_image import load_tokenizers

VOCABULARIES = (
    "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "sentencepiece.bpe.model", "source.spm", "target.spm",
    "spiece.model",
)  # fmt: skip


def decoder(path):
    load_decoder(path)
    load_tokenizer(path, "bn_IN")


def prompt_tokenizers(path):
    load_tokenizers(get_config("kaggle", [f"components.synthesiser={path}"]))


LOADERS = {
    "timm/maxvit_base_tf_224.in1k": Encoder,
    "facebook/mbart-large-50": decoder,
    "Helsinki-NLP/opus-mt-en-inc": Seq2SeqTranslator,
    "csebuetnlp/banglat5_nmt_en_bn": Seq2SeqTranslator,
    "sentence-transformers/LaBSE": Verifier,
    "bert-base-multilingual-cased": lambda path: load_bertscore(path, 9),
    "flax-community/gpt2-bengali": load_gpt2,
}
WITH_TEXT = {**LOADERS, "kandinsky-community/kandinsky-2-1": prompt_tokenizers}
del WITH_TEXT["timm/maxvit_base_tf_224.in1k"]


@pytest.fixture
def copy(standins, tmp_path, monkeypatch):
    monkeypatch.setenv("BNCAP_MODELS", str(standins))
    return lambda name: shutil.copytree(standins / name, tmp_path / "model")


@pytest.mark.parametrize("name", LOADERS)
def test_damage_to_weights_or_configuration_is_one_line_with_the_folder(copy, name, tmp_path):
    folder = copy(name)
    for file in ("model.safetensors", "config.json"):
        whole = (folder / file).read_bytes()
        for content in (None, b"", whole[: len(whole) // 2], bytes(range(256))):
            (folder / file).unlink()
            if content is not None:
                (folder / file).write_bytes(content)
            with pytest.raises(BncapError, match=str(folder)) as error:
                LOADERS[name](str(folder))
            assert len(str(error.value).splitlines()) == 1
            (folder / file).write_bytes(whole)
    with pytest.raises(BncapError, match="nowhere: there is no such folder"):
        LOADERS[name](str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", WITH_TEXT)
def test_a_tokenizer_without_its_vocabulary_is_never_taken_for_an_empty_one(copy, name):
    folder = copy(name)
    for path in folder.rglob("*"):
        if path.name in VOCABULARIES:
            path.unlink()
    with pytest.raises(BncapError, match=str(folder)):
        WITH_TEXT[name](str(folder))


def test_a_language_model_in_the_place_of_an_image_encoder_is_said_in_words(standins):
    with pytest.raises(BncapError, match="the encoder cannot be loaded .it has no 'architecture'.; make"):
        Encoder(str(standins / "facebook/mbart-large-50"))


def test_half_a_vocabulary_file_is_called_damaged(copy):
    folder = copy("facebook/mbart-large-50")
    os.truncate(folder / "sentencepiece.bpe.model", 500)
    (folder / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(BncapError, match="its vocabulary file is damaged"):
        load_tokenizer(str(folder), "bn_IN")


def test_a_lack_of_memory_and_the_packages_own_errors_pass_as_they_are(tmp_path):
    for error in (MemoryError(), BncapError("as it is")):
        with pytest.raises(type(error)) as caught, loading("decoder", str(tmp_path)):
            raise error
        assert caught.value is error
