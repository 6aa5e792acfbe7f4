import json

import pytest
import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from bncap import translate
from bncap.config import get_config
from bncap.errors import BncapError
from bncap.translate import MarianTranslator, load_translator

CAPTIONS = ["a red ball on the grass", "a cat", "two dogs run over the snow near a small house", "a dog", "a cat"]


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A Marian model of two target languages with random weights."""
    return save_marian(tmp_path_factory.mktemp("marian"), (">>ben<<", ">>hin<<"))


def save_marian(folder, codes):
    pieces = ["</s>", "<unk>", *codes]
    for side, texts in (("source", CAPTIONS), ("target", ["একটি লাল বল ঘাসের উপর", "একটি বিড়াল", "দুটি কুকুর দৌড়ায়"])):
        prefix = folder / side
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(prefix), vocab_size=40, hard_vocab_limit=False,
            bos_id=-1, eos_id=0, unk_id=1, minloglevel=2,
        )  # fmt: skip
        prefix.with_suffix(".model").rename(folder / f"{side}.spm")
        spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
        pieces += [piece for piece in map(spm.id_to_piece, range(len(spm))) if piece not in pieces]
    pieces.append("<pad>")
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), "utf-8")
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"),
        source_lang="en", target_lang="inc",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    pad = len(pieces) - 1
    config = MarianConfig(
        vocab_size=len(pieces), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
        pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0, init_std=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MarianMTModel(config)
    model.generation_config.max_length = 12
    model.generation_config.bad_words_ids = [[pad]]
    model.save_pretrained(folder)
    return str(folder)


def test_translations_keep_the_order_and_do_not_depend_on_the_batch(marian):
    together = MarianTranslator(marian, batch=128).translate(CAPTIONS)
    alone = MarianTranslator(marian, batch=1).translate(CAPTIONS)
    assert together == alone
    assert together[1] == together[4]
    assert len(set(together)) > 1


def test_translating_twice_gives_the_same_text(marian):
    translator = MarianTranslator(marian)
    assert translator.translate(CAPTIONS) == translator.translate(CAPTIONS)
    assert translator.translate([]) == []


def test_translation_is_what_generate_gives_for_the_prefixed_caption(marian):
    tokenizer, model = MarianTokenizer.from_pretrained(marian), MarianMTModel.from_pretrained(marian).eval()
    inputs = tokenizer(">>hin<< " + CAPTIONS[0], return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])[0] == ">>hin<<"
    expected = tokenizer.decode(model.generate(**inputs, num_beams=2)[0], skip_special_tokens=True).strip()
    assert MarianTranslator(marian, ">>hin<<", beams=2).translate(CAPTIONS[:1]) == [expected]


def test_batches_hold_captions_of_like_length(marian, monkeypatch):
    batches = []
    translator = MarianTranslator(marian, batch=2)
    monkeypatch.setattr(translator, "_translate_batch", lambda texts: batches.append(texts) or [t[::-1] for t in texts])
    assert translator.translate(CAPTIONS) == [text[::-1] for text in CAPTIONS]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert batches[-1] == [CAPTIONS[2]]
    lengths = [len(text) for batch in batches for text in batch]
    assert lengths == sorted(lengths)


def test_a_language_that_the_model_lacks_is_an_error_that_names_those_it_has(marian):
    with pytest.raises(BncapError, match="has no >>urd<<, only >>ben<< >>hin<<"):
        MarianTranslator(marian, ">>urd<<")


def test_a_model_of_one_language_is_given_no_language_token(tmp_path):
    assert MarianTranslator(save_marian(tmp_path, ()), ">>ben<<").prefix == ""


def test_the_configuration_picks_the_language_token_and_the_batch(marian):
    overrides = (f"components.translator={marian}", "data.lang=hi_IN", "data.translation_batch=7")
    translator = load_translator(get_config("paper", overrides))
    assert (translator.prefix, translator.batch) == (">>hin<< ", 7)


def test_every_language_of_mbart_has_a_marian_code():
    from bncap.text import LANGUAGES

    assert {code.split("_")[0] for code in LANGUAGES} - {"en"} == set(translate.MARIAN_CODES)


def test_the_mini_translator_is_told_its_fault_rate_and_seed():
    overrides = ("world.fault_rate=0", "data.seed=7")
    translator = load_translator(get_config("mini", overrides))
    assert (translator.fault_rate, translator.seed) == (0, 7)
