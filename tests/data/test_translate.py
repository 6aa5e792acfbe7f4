"""Translators: each kind on a tiny random checkpoint with a real tokenizer in the hub's layout, through one loader."""

import json
import re
import shutil

import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import MarianMTModel, MarianTokenizer
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

from bncap.config import get_config
from bncap.data import translate
from bncap.data.translate import Seq2SeqTranslator, load_translator
from bncap.errors import BncapError
from bncap.text import LANGUAGES

CAPTIONS = ["a red ball on the grass", "a cat", "two dogs run over the snow near a small house", "a dog", "a cat"]
BENGALI = ["একটি লাল বল ঘাসের উপর", "একটি বিড়াল", "দুটি কুকুর দৌড়ায়"]
SHAPE = {"d_model": 16, "max_length": 12}
BART = SHAPE | {
    "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64, "init_std": 1.0,
}  # fmt: skip


def train_spm(path, texts, **options):
    """A sentencepiece model at ``path``, by default with the ids of the hub's ``sentencepiece.bpe.model``."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(path), vocab_size=options.pop("vocab_size", 64),
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    path.with_name(path.name + ".model").rename(path)
    path.with_name(path.name + ".vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def save_model(folder, cls, config, **generation):
    torch.manual_seed(0)
    model = cls(config)
    with torch.no_grad():  # a random model with tied embeddings says one token for ever unless they are large
        model.get_input_embeddings().weight.normal_()
    if config.model_type in ("t5", "mt5"):  # T5 1.1 has an output layer of its own, which transformers 5 ties when made
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.generation_config = transformers.GenerationConfig.from_model_config(config)
    model.generation_config.update(max_length=12, **generation)
    model.save_pretrained(folder)
    return str(folder)


def foreign(vocab):
    """The languages' tokens, which a trained model would not say in the middle of a text."""
    return [[i] for token, i in vocab.items() if re.fullmatch("[a-z]{2,3}_([A-Z]{2}|[A-Z][a-z]{3})", token)]


def save_marian(folder, codes=(), target="inc"):
    pieces = ["</s>", "<unk>", *codes]
    for side, texts in (("source", CAPTIONS), ("target", BENGALI)):
        spm = train_spm(folder / f"{side}.spm", texts, vocab_size=40, bos_id=-1, eos_id=0, unk_id=1)
        pieces += [piece for piece in map(spm.id_to_piece, range(len(spm))) if piece not in pieces]
    pieces.append("<pad>")
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": target}), "utf-8")
    pad = len(pieces) - 1
    ids = {"pad_token_id": pad, "eos_token_id": 0, "decoder_start_token_id": pad, "forced_eos_token_id": 0}
    config = transformers.MarianConfig(vocab_size=len(pieces), **ids, **BART)
    return save_model(folder, MarianMTModel, config, bad_words_ids=[[pad]])


def save_t5(folder, model_type="t5"):
    spm = train_spm(folder / "spiece.model", CAPTIONS + BENGALI, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}), "utf-8")
    cls = {"t5": transformers.T5ForConditionalGeneration, "mt5": transformers.MT5ForConditionalGeneration}[model_type]
    config = cls.config_class(
        vocab_size=len(spm) + 100, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, decoder_start_token_id=0, initializer_factor=2.0, **SHAPE,
    )  # fmt: skip
    never_said = [[i] for i in (0, 2, spm.piece_to_id("▁"), *range(len(spm), len(spm) + 100))]
    return save_model(folder, cls, config, bad_words_ids=never_said, min_length=4)


def save_nllb(folder):
    """As on the hub: languages numbered behind the pieces and ``<mask>`` last, which only ``tokenizer.json`` says."""
    train_spm(folder / "sentencepiece.bpe.model", CAPTIONS + BENGALI, model_type="bpe")
    tokenizer = transformers.NllbTokenizer.from_pretrained(folder, extra_special_tokens=FAIRSEQ_LANGUAGE_CODES)
    tokenizer.set_src_lang_special_tokens("eng_Latn")
    tokenizer.save_pretrained(folder)
    made = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocab = made["model"]["vocab"]
    for token in (*FAIRSEQ_LANGUAGE_CODES, "<mask>"):
        vocab[token] = len(vocab)
    for token in made["added_tokens"]:
        token["id"] = vocab[token["content"]]
    made["added_tokens"].sort(key=lambda token: token["id"])
    made["post_processor"]["special_tokens"]["eng_Latn"]["ids"] = [vocab["eng_Latn"]]
    (folder / "tokenizer.json").write_text(json.dumps(made), "utf-8")
    tokenizer_config = {
        "tokenizer_class": "NllbTokenizer",
        "src_lang": None,
        "tgt_lang": None,
        "model_max_length": 1024,
    }
    tokenizer_config |= {"additional_special_tokens": None, "special_tokens_map_file": None, "sp_model_kwargs": {}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), "utf-8")
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.M2M100Config(vocab_size=len(vocab) + 2, scale_embedding=True, **ids, **BART)
    return save_model(folder, transformers.M2M100ForConditionalGeneration, config, bad_words_ids=foreign(vocab))


def save_mbart(folder):
    train_spm(folder / "sentencepiece.bpe.model", CAPTIONS + BENGALI)
    # the hub's file names no class
    tokenizer_config = {"language_codes": "ML50", "src_lang": None, "tgt_lang": None, "tokenizer_file": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), "utf-8")
    vocab = transformers.MBart50Tokenizer.from_pretrained(folder).get_vocab()
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.MBartConfig(vocab_size=len(vocab), **ids, **BART)
    return save_model(folder, transformers.MBartForConditionalGeneration, config, bad_words_ids=foreign(vocab))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of one checkpoint of each kind; "marian" has two target languages, "single" but one."""
    makers = {
        "marian": lambda folder: save_marian(folder, (">>ben<<", ">>hin<<", ">>cmn_Hans<<")),
        "single": lambda folder: save_marian(folder, target="bn"),
        "t5": save_t5,
        "mt5": lambda folder: save_t5(folder, "mt5"),
        "nllb": save_nllb,
        "mbart": save_mbart,
    }
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in makers.items()}


@pytest.fixture
def broken(checkpoints, tmp_path):
    """A function that copies a checkpoint to a folder of one's own."""
    return lambda name: shutil.copytree(checkpoints[name], tmp_path / name)


KINDS = ("marian", "single", "t5", "mt5", "nllb", "mbart")


def by_hand(path, kind, caption, lang):
    """One sentence as the model's card has it, without batches, padding or bncap."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    forced = {}
    if kind in ("marian", "single"):
        tokenizer = MarianTokenizer.from_pretrained(path)
        caption = {"bn_IN": ">>ben<< ", "hi_IN": ">>hin<< "}[lang] + caption if kind == "marian" else caption
    elif kind == "nllb":
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, src_lang="eng_Latn")
        forced = {"forced_bos_token_id": tokenizer.get_vocab()[{"bn_IN": "ben_Beng", "hi_IN": "hin_Deva"}[lang]]}
    elif kind == "mbart":
        tokenizer = transformers.MBart50Tokenizer.from_pretrained(path, src_lang="en_XX")
        forced = {"forced_bos_token_id": tokenizer.get_vocab()[lang]}
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    inputs = tokenizer(caption, return_tensors="pt")
    output = model.generate(**inputs, num_beams=4, do_sample=False, **forced)
    if forced:
        assert output[0, 1] == forced["forced_bos_token_id"]
    return tokenizer.decode(output[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_a_translation_is_what_generate_gives_by_hand_whatever_the_batch(checkpoints, kind):
    path = checkpoints[kind]
    together = Seq2SeqTranslator(path, batch=128).translate(CAPTIONS)
    assert together == Seq2SeqTranslator(path, batch=1).translate(CAPTIONS)
    assert together[1] == together[4] and len(set(together)) > 1 and all(together)
    assert together[0] == by_hand(path, kind, CAPTIONS[0], "bn_IN")


@pytest.mark.parametrize("kind", ["marian", "nllb", "mbart"])
def test_another_target_language_gives_another_translation(checkpoints, kind):
    hindi = Seq2SeqTranslator(checkpoints[kind], "hi_IN").translate(CAPTIONS)
    assert hindi[0] == by_hand(checkpoints[kind], kind, CAPTIONS[0], "hi_IN")
    assert hindi != Seq2SeqTranslator(checkpoints[kind], "bn_IN").translate(CAPTIONS)


def test_t5_keeps_its_own_output_layer(checkpoints):
    model = Seq2SeqTranslator(checkpoints["t5"]).model
    weights = load_file(f"{checkpoints['t5']}/model.safetensors")
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(model.decoder.embed_tokens.weight, weights["shared.weight"])
    assert not torch.equal(model.lm_head.weight, model.shared.weight)


def test_blank_captions_are_not_given_to_the_model(checkpoints):
    translator = Seq2SeqTranslator(checkpoints["marian"])
    with_blanks = translator.translate(["", CAPTIONS[0], " \n", CAPTIONS[1]])
    assert with_blanks == ["", *translator.translate(CAPTIONS[:1]), "", *translator.translate(CAPTIONS[1:2])]
    assert translator.translate([]) == [] and translator.translate([""]) == [""]


def test_a_caption_longer_than_the_model_reads_is_cut(checkpoints):
    translator = Seq2SeqTranslator(checkpoints["marian"])
    assert translator.longest == 64
    assert translator.translate(["a dog " * 300]) == translator.translate(["a dog " * 200])


@pytest.mark.parametrize(
    ("kind", "lang", "message"),
    [
        ("marian", "ur_PK", "has no >>urd<<, only >>ben<< >>cmn_Hans<< >>hin<<"),
        ("single", "hi_IN", "is for Bengali, not Hindi"),
    ],
)
def test_a_language_that_the_model_lacks_is_an_error_that_names_those_it_has(checkpoints, kind, lang, message):
    with pytest.raises(BncapError, match=message) as error:
        Seq2SeqTranslator(checkpoints[kind], lang)
    assert checkpoints[kind] in str(error.value)


def test_a_forced_token_beyond_the_models_vocabulary_is_an_error(broken):
    folder = broken("nllb")
    kept = transformers.NllbTokenizer.from_pretrained(folder).convert_tokens_to_ids("ben_Beng")
    model = transformers.M2M100ForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(kept)
    model.generation_config.bad_words_ids = None
    model.save_pretrained(folder)
    with pytest.raises(BncapError, match="has no ben_Beng"):
        Seq2SeqTranslator(str(folder), "bn_IN")


@pytest.mark.parametrize(("kind", "types"), [("t5", ("t5",)), ("nllb", ("m2m_100",)), ("single", ("marian",))])
def test_the_configuration_picks_model_language_and_batch_and_not_the_name(broken, kind, types):
    folder = broken(kind)
    folder = folder.rename(folder.with_name("opus-mt-t5-nllb-mbart-large-50"))
    overrides = (f"components.translator={folder}", "data.translation_batch=7")
    translator = load_translator(get_config("paper", overrides))
    assert translator.model.config.model_type in types and translator.batch == 7


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_weight(path):
    weights = load_file(path)
    weights.pop(next(name for name in sorted(weights) if "encoder_attn.k_proj" in name))
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "file", "damage"),
    [
        ("marian", "config.json", lambda path: path.unlink()),
        ("marian", "model.safetensors", lambda path: path.unlink()),
        ("marian", "model.safetensors", drop_weight),
        ("marian", "vocab.json", lambda path: path.unlink()),
        ("marian", "source.spm", lambda path: path.unlink()),
        ("t5", "spiece.model", lambda path: path.unlink()),
        ("mbart", "sentencepiece.bpe.model", lambda path: path.unlink()),
        ("mbart", "sentencepiece.bpe.model", lambda path: path.write_text("version https://git-lfs.github.com/spec")),
        ("nllb", "tokenizer.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_checkpoint_is_one_line_that_names_its_folder(broken, kind, file, damage):
    folder = broken(kind)
    damage(folder / file)
    with pytest.raises(BncapError) as error:
        Seq2SeqTranslator(str(folder))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"model_type": "bert"}, "is a bert model; components.translator takes"),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "MBartTokenizer", "language_codes": ""},
            "mBART-25, not mBART-50",
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "M2M100Tokenizer", "language_codes": "m2m100"},
            "is M2M100, not NLLB",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(broken, file, change, message):
    path = broken("mbart") / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BncapError, match=message):
        Seq2SeqTranslator(str(path.parent))


def test_text_for_t5_has_plain_quotes_and_letters(checkpoints):
    written = "A “café”\u00a0— the dog’s\u200b ½ bowl…"
    assert Seq2SeqTranslator(checkpoints["t5"]).prepare(written) == 'A "cafe" - the dog\'s 1\u20442 bowl...'
    assert Seq2SeqTranslator(checkpoints["mbart"]).prepare(written) == written


def test_every_language_of_mbart_has_a_code_that_nllb_knows():
    assert set(translate.NLLB_CODES) == {code[:2] for code in LANGUAGES}
    assert set(translate.NLLB_CODES.values()) <= set(FAIRSEQ_LANGUAGE_CODES)
    assert len(set(translate.NLLB_CODES.values())) == 52


def test_the_identity_translator_changes_nothing():
    translator = load_translator(get_config("paper", ("components.translator=identity",)))
    assert translator.translate([" A  dog", ""]) == [" A  dog", ""]
