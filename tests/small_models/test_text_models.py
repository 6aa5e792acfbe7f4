"""The mini language models: they load by the real ones' classes, learn, and come out the same again."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from bncap.mini.grammar import (
    BENGALI_CHARACTERS,
    draw_parallel_captions,
    generate_caption_bn,
    generate_captions_en,
    parse_en,
)
from bncap.mini.scene import sample_scene
from bncap.small_models import text_models
from bncap.small_models.sentence_encoder import train_sentence_encoder
from bncap.small_models.text_models import (
    IGNORED,
    TEXT_MODELS,
    Task,
    Texts,
    collect_characters,
    generate_mini_texts,
    train_bert,
    train_mbart,
)

SEED = 3


@pytest.fixture(scope="module", autouse=True)
def small_corpus():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_models, "SENTENCES", 600)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder and figures of each model, trained for a few steps."""
    root, texts = tmp_path_factory.mktemp("text-models"), generate_mini_texts(SEED)
    figures = {name: train(root / name, texts, SEED, 25) for name, train in TEXT_MODELS.items()}
    figures["verifier"] = train_sentence_encoder(root / "verifier", SEED, 60)
    return {name: (root / name, measured) for name, measured in figures.items()}


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Bengali of both domains that no model was trained on."""
    rng = random.Random(99)
    said = []
    for i in range(200):
        out_of_domain = bool(i % 2)
        scene = sample_scene(rng, out_of_domain=out_of_domain)
        for caption in generate_captions_en(scene, rng, 2, out_of_domain=out_of_domain):
            said.append(generate_caption_bn(parse_en(caption), rng, out_of_domain=out_of_domain))
    return said


def test_mbart_loads_as_the_real_one_and_frames_a_caption_as_it_does(trained, sentences):
    from transformers import MBart50Tokenizer, MBartForConditionalGeneration

    folder, figures = trained["decoder"]
    tokenizer = MBart50Tokenizer.from_pretrained(folder, src_lang="bn_IN", tgt_lang="bn_IN")
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.model_max_length == 128
    for sentence in sentences:
        ids = tokenizer(text_target=sentence)["input_ids"]
        assert ids[0] == tokenizer.convert_tokens_to_ids("bn_IN") and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == sentence
    model, report = MBartForConditionalGeneration.from_pretrained(folder, encoder_layers=0, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert len(model.model.decoder.layers) == 2 and model.config.d_model == 96
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert figures["loss"] < 5.5  # ln 436 = 6.1 untrained


def test_no_tokenizer_lacks_a_character_of_bengali(trained):
    from transformers import AutoTokenizer, MBart50Tokenizer

    mbart = MBart50Tokenizer.from_pretrained(trained["decoder"][0], src_lang="bn_IN", tgt_lang="bn_IN")
    bert = AutoTokenizer.from_pretrained(trained["bertscore"][0])
    gpt2 = AutoTokenizer.from_pretrained(trained["gpt2"][0])
    for char in BENGALI_CHARACTERS:
        word = f"ক{char}"
        assert mbart.unk_token_id not in mbart(word)["input_ids"], char
        assert bert.unk_token_id not in bert(word)["input_ids"], char
        assert gpt2.decode(gpt2(word)["input_ids"]) == word, char


def test_bert_scores_a_right_caption_above_a_wrong_one_through_automodel(trained, sentences):
    from transformers import AutoModel, AutoTokenizer

    folder, figures = trained["bertscore"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    assert tokenizer.model_max_length == 128 and model.config.num_hidden_layers == 2
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(sentences)["input_ids"])
    with torch.no_grad():
        states = model(**tokenizer(sentences[:2], padding=True, return_tensors="pt")).last_hidden_state
    assert states.isfinite().all() and states.shape[-1] == 96
    assert figures["loss"] < 6.0  # ln 590 = 6.4 untrained


def test_gpt2_takes_cross_attention_when_it_is_loaded(trained, sentences):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    folder, figures = trained["gpt2"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}) == 3
    model = GPT2LMHeadModel.from_pretrained(folder, add_cross_attention=True).eval()
    encoded = tokenizer(sentences[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoded, encoder_hidden_states=torch.zeros(2, 5, 96)).logits
    assert logits.shape == (*encoded["input_ids"].shape, len(tokenizer))
    assert figures["loss"] < 5.5  # ln 547 = 6.3 untrained


def test_the_sentence_encoder_ranks_a_translation_above_other_sentences(trained):
    from sentence_transformers import SentenceTransformer

    folder, figures = trained["verifier"]
    model = SentenceTransformer(str(folder), device="cpu")
    english, bengali = zip(*draw_parallel_captions(SEED + 9, 100), strict=True)
    u, v = model.encode(list(english)), model.encode(list(bengali))
    best = (u @ v.T).argmax(1)
    assert sum(int(j) == i or bengali[j] == bengali[i] for i, j in enumerate(best)) > 80
    assert abs((u * u).sum(1) - 1).max() < 1e-5
    assert figures["precision"] > 0.88 and figures["recall"] > 0.5  # 0.85 if every pair is accepted


@pytest.mark.parametrize("name", [*TEXT_MODELS, "verifier"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name, tmp_path):
    figures = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / folder / name
        verifier = name == "verifier"
        figures.append(
            train_sentence_encoder(out, seed, 3)
            if verifier
            else TEXT_MODELS[name](out, generate_mini_texts(seed), seed, 3)
        )
    first, second, other = ((tmp_path / folder / name) for folder in "abc")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names and figures[0] == figures[1]
    for path in names:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


OTHERS = {
    "hi_IN": (["नदी पर एक लाल नाव है।", "घास पर काला कुत्ता"] * 9, "पहाड़ की ऊँची चोटी"),
    "ja_XX": (["犬が公園で走っている。", "白い猫が椅子の上で寝る"] * 9, "ねこがはしる"),
    "th_TH": (["ผู้ชายกำลังขี่จักรยานบนถนน" * 6, "แมวสีขาว"] * 9, "สุนัขวิ่ง"),
    "de_DE": (["Ein Hund läuft über die Straße."] * 9, "Größe, Käfer & Öl"),
    "ur_PK": (["ایک کتا پارک میں دوڑ رہا ہے۔"] * 9, "سفید بلی"),
    "xh_ZA": (["inja"] * 30, "ikati emnyama"),
    "ta_IN": (["நாய்"], "வெள்ளை பூனை"),
}


@pytest.mark.parametrize("lang", OTHERS)
def test_from_a_handful_of_captions_in_any_language_new_words_come_apart_and_are_never_unknown(lang, tmp_path):
    from transformers import AutoTokenizer

    from bncap.model import load_tokenizer

    captions, new = OTHERS[lang]
    texts = Texts(lang, captions, captions[:1], captions, captions, collect_characters(captions))
    train_mbart(tmp_path / "decoder", texts, SEED, 2)
    train_bert(tmp_path / "bert", texts, SEED, 2)
    mbart = load_tokenizer(str(tmp_path / "decoder"), lang)
    bert = AutoTokenizer.from_pretrained(tmp_path / "bert")
    for text in (*captions, new):
        ids = mbart(text_target=text)["input_ids"]
        assert mbart.unk_token_id not in ids and mbart.decode(ids, skip_special_tokens=True) == text
        assert bert.unk_token_id not in bert(text)["input_ids"]


def test_the_characters_near_a_text_are_those_of_its_script_with_ascii_and_of_han_those_that_occur():
    near = collect_characters(["नदी\u200d।", "犬 ▁"])
    assert {"ऑ", "९", "़", "।", "犬", "A", "~", "\u200d"} <= set(near)
    assert not {"猫", " ", "\n", "▁", "অ", "\u0958"} & set(near)  # the last is two characters in NFC
    assert near == "".join(sorted(set(near)))


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> dict[str, Task]:
    """What each model is trained for, untrained."""
    monkeypatch.setattr(text_models, "fit", lambda task, *_: task)
    return {name: train(tmp_path / name, generate_mini_texts(SEED), SEED, 1) for name, train in TEXT_MODELS.items()}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_the_loss_of_the_labelled_places_and_its_gradient_are_those_of_the_library(name, tasks, sentences):
    task = tasks[name]
    task.model.eval()
    examples = task.encode(sentences[:7], random.Random(0))
    loss = F.cross_entropy(*text_models.predict_labelled(task, examples))
    inputs, labels = text_models.collate(examples, task.model.config.pad_token_id)
    assert (labels == IGNORED).any() and (inputs["attention_mask"] == 0).any()
    if name == "gpt2":  # the library shifts by itself
        whole, _ = text_models.collate([(ids + answer[-1:], answer) for ids, answer in examples], IGNORED)
        labels = whole["input_ids"]
        inputs = {"input_ids": labels.clamp(min=0), "attention_mask": whole["attention_mask"]}
    expected = task.model(**inputs, labels=labels).loss
    torch.testing.assert_close(loss, expected)
    parameters = list(task.model.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(each, parameters) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_any_number_of_steps_will_do(steps, tmp_path):
    texts = Texts("bn_IN", ["একটি লাল বল।"] * 3, ["একটি বল।"], ["একটি লাল বল।"], [], BENGALI_CHARACTERS)
    assert train_bert(tmp_path, texts, SEED, steps)["loss"] > 0
