"""A trimmed vocabulary changes nothing of what is kept: logits, gradients, beams, files."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import MBart50Tokenizer, MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from bncap.chunked_cross_entropy import IGNORED
from bncap.decoders import decode
from bncap.decoders.mbart import SPECIALS, UNKNOWN, Vocabulary, load_decoder, load_tokenizer, trim
from bncap.errors import BncapError
from bncap.model import Captioner, build_captioner, load_captioner, shift_right
from bncap.settings import Decode

CHANNELS, PATCHES = 12, 5


@pytest.fixture(scope="module")
def captions(sentences):
    return list(sentences[:2])


@pytest.fixture(scope="module")
def tokenizer(mbart_folder):
    return load_tokenizer(str(mbart_folder), "bn_IN")


@pytest.fixture(scope="module")
def vocabulary(captions, tokenizer):
    return Vocabulary.of(captions, tokenizer)


@pytest.fixture
def whole(mbart_folder):
    torch.manual_seed(1)
    return build_captioner(str(mbart_folder), "bn_IN", CHANNELS, 2).eval()


@pytest.fixture
def trimmed(mbart_folder, captions):
    torch.manual_seed(1)
    return build_captioner(str(mbart_folder), "bn_IN", CHANNELS, 2, captions=captions).eval()


@pytest.fixture
def features():
    return 3 * torch.randn(3, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(3))


def sharpen(model):
    """Make the next-token distributions of a random model differ from word to word and from picture to picture."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_what_captions_need_is_kept_in_ascending_order(vocabulary, captions, tokenizer):
    kept = vocabulary.kept.tolist()
    assert kept == sorted(set(kept)) and tuple(kept[:4]) == SPECIALS == (0, 1, 2, 3)
    assert tokenizer.convert_tokens_to_ids("bn_IN") in kept
    assert {i for row in tokenizer(captions)["input_ids"] for i in row} <= set(kept)
    pieces = tokenizer.get_vocab()
    assert {pieces[c] for c in set("".join(captions)) if c in pieces} <= set(kept)
    assert vocabulary.whole - len(vocabulary) > 60 and vocabulary.whole == len(tokenizer)
    assert Vocabulary.of(captions[::-1], tokenizer).kept.tolist() == kept


def test_ids_come_back_and_pieces_outside_become_unknown(vocabulary):
    rows = torch.arange(len(vocabulary)).view(1, -1)
    assert torch.equal(vocabulary.encode(vocabulary.decode(rows)), rows)
    outside = sorted(set(range(vocabulary.whole)) - set(vocabulary.kept.tolist()))
    assert vocabulary.encode(torch.tensor(outside)).tolist() == [UNKNOWN] * len(outside)


def test_labels_of_the_captions_are_those_of_the_whole_vocabulary(whole, trimmed, captions):
    for length in (32, 6):
        expected, found = whole.labels(captions, length), trimmed.labels(captions, length)
        real = expected.ne(IGNORED)
        assert torch.equal(found.ne(IGNORED), real)
        assert torch.equal(trimmed.vocabulary.decode(found[real]), expected[real])


def test_any_text_of_the_kept_characters_round_trips(trimmed, captions, tokenizer):
    rng = random.Random(4)
    letters = [c for c in "".join(captions) if not c.isspace()]
    for _ in range(50):
        text = " ".join("".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(4))
        labels = trimmed.labels([text], 64)[0]
        assert UNKNOWN not in labels
        found = tokenizer.decode(trimmed.vocabulary.decode(labels), skip_special_tokens=True)
        assert found == tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


def test_a_piece_outside_is_written_in_kept_ones_and_a_character_outside_becomes_unknown(vocabulary, tokenizer):
    outside = {
        piece: i
        for piece, i in tokenizer.get_vocab().items()
        if i not in set(vocabulary.kept.tolist()) and i not in tokenizer.all_special_ids
    }
    assert outside
    for piece, i in outside.items():
        spelt = vocabulary.spell([i], tokenizer)
        written = [tokenizer.convert_ids_to_tokens(s) for s in spelt]
        kept = [c in tokenizer.get_vocab() and tokenizer.get_vocab()[c] in vocabulary.kept for c in piece]
        assert written.count("<unk>") == kept.count(False)
        assert "".join(w for w in written if w != "<unk>") == "".join(c for c, k in zip(piece, kept, strict=True) if k)
    assert any(UNKNOWN in vocabulary.spell([i], tokenizer) for i in outside.values())


def test_logits_of_kept_pieces_are_equal_to_the_bit(whole, trimmed, captions, features):
    memory = whole.bridge(features[:2])
    expected, attention = whole(memory, whole.labels(captions, 32))
    found, seen = trimmed(trimmed.bridge(features[:2]), trimmed.labels(captions, 32))
    assert found.shape[-1] == len(trimmed.vocabulary)
    assert (found - expected[..., trimmed.vocabulary.kept]).abs().max() == 0
    assert torch.equal(seen, attention)


def test_the_gradient_of_a_loss_over_kept_pieces_is_the_whole_models(whole, trimmed, captions, features):
    kept = trimmed.vocabulary.kept
    labels = trimmed.labels(captions, 32)

    def gradients(model, logits):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients(whole, whole(whole.bridge(features[:2]), whole.labels(captions, 32))[0][..., kept])
    found = gradients(trimmed, trimmed(trimmed.bridge(features[:2]), labels)[0])
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        rows = expected[name][kept] if name.endswith("shared.weight") else expected[name]
        torch.testing.assert_close(gradient, rows, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("beams", [1, 4])
def test_beams_are_those_of_the_whole_model_without_the_other_pieces(whole, trimmed, features, beams):
    others = torch.ones(trimmed.vocabulary.whole, dtype=torch.bool)
    others[trimmed.vocabulary.kept] = False
    whole.decoder.final_logits_bias[:, others] = -1e9
    sharpen(whole)
    sharpen(trimmed)
    settings = Decode(beams=beams, batch=3)
    found, expected = (decode.caption(model, features, settings, 12) for model in (trimmed, whole))
    assert [c.tokens for c in found] == [c.tokens for c in expected] and len({c.text for c in found}) > 1
    assert [c.text for c in found] == [c.text for c in expected]
    assert [c.score for c in found] == pytest.approx([c.score for c in expected], rel=1e-5)


def test_trimming_keeps_scale_ties_settings_and_the_random_numbers(mbart_folder, vocabulary, tokenizer):
    model = load_decoder(str(mbart_folder))
    spanish = tokenizer.convert_tokens_to_ids("es_XX")
    model.config.forced_bos_token_id, model.generation_config.forced_bos_token_id = int(vocabulary.kept[-1]), spanish
    scale, kind = model.model.shared.embed_scale, type(model.model.shared)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trim(model, vocabulary)
    assert torch.equal(torch.rand(3), expected)
    for embedding in (model.model.shared, model.model.decoder.embed_tokens):
        assert type(embedding) is kind and embedding.embed_scale == scale == 32**0.5
        assert embedding.weight is model.lm_head.weight and embedding.padding_idx == 1
    assert model.config.vocab_size == len(vocabulary) == model.lm_head.out_features
    assert (model.config.eos_token_id, model.config.pad_token_id) == (2, 1)
    assert model.config.forced_bos_token_id == len(vocabulary) - 1
    assert model.generation_config.forced_bos_token_id is None


def test_a_trimmed_captioner_comes_back_with_its_vocabulary(trimmed, captions, features, tmp_path):
    trimmed.save(tmp_path, {"components": {"encoder": "timm/some"}})
    again, record = load_captioner(tmp_path)
    assert record["components"] == {"encoder": "timm/some"}
    assert torch.equal(again.vocabulary.kept, trimmed.vocabulary.kept) and again.language_id == trimmed.language_id
    labels = trimmed.labels(captions, 32)
    assert torch.equal(again.labels(captions, 32), labels)
    expected = trimmed(trimmed.bridge(features[:2]), labels)
    for found, wanted in zip(again(again.bridge(features[:2]), labels), expected, strict=True):
        assert torch.equal(found, wanted)
    settings = Decode(beams=2, batch=2)
    assert decode.caption(again, features, settings, 8) == decode.caption(trimmed, features, settings, 8)


def test_an_exported_captioner_is_a_plain_checkpoint_with_every_piece(
    trimmed, captions, features, mbart_folder, tmp_path
):
    with torch.no_grad():
        for parameter in trimmed.parameters():
            parameter.add_(0.01)  # as if trained
    trimmed.export(tmp_path, str(mbart_folder))
    plain = MBartForConditionalGeneration.from_pretrained(tmp_path).eval()
    tokenizer = MBart50Tokenizer.from_pretrained(tmp_path, src_lang="bn_IN", tgt_lang="bn_IN")
    labels = tokenizer(text_target=captions, padding=True, return_tensors="pt")["input_ids"]
    labels = labels.masked_fill(labels.eq(1), IGNORED)
    inputs, memory = shift_right(labels, 1, 2), trimmed.bridge(features[:2])
    logits = plain(
        encoder_outputs=BaseModelOutput(memory), decoder_input_ids=inputs, decoder_attention_mask=inputs.ne(1)
    ).logits
    expected, _ = trimmed(memory, trimmed.labels(captions, 32))
    real = labels.ne(IGNORED)
    torch.testing.assert_close(logits[..., trimmed.vocabulary.kept][real], expected[real], rtol=1e-5, atol=1e-5)
    others = sorted(set(range(len(tokenizer))) - set(trimmed.vocabulary.kept.tolist()))
    original = load_decoder(str(mbart_folder)).model.shared.weight
    assert torch.equal(plain.model.shared.weight[others], original[others])


@pytest.mark.parametrize("which", ["whole", "trimmed"])
def test_an_initial_state_needs_no_copy_of_the_pretrained_weights(which, request, mbart_folder, tmp_path, features):
    model = request.getfixturevalue(which)
    model.save_initial(tmp_path, {"variant": "x"})
    assert not (tmp_path / "decoder").exists()
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 10_000
    again, record = load_captioner(tmp_path, str(mbart_folder))
    assert record["variant"] == "x" and not again.training
    expected, found = model.state_dict(), again.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)
    assert again.language_id == model.language_id
    changed = load_decoder(str(mbart_folder))
    with torch.no_grad():
        changed.model.decoder.layers[0].fc1.bias[0] += 1
    changed.save_pretrained(tmp_path / "changed")
    load_tokenizer(str(mbart_folder), "bn_IN").save_pretrained(tmp_path / "changed")
    with pytest.raises(BncapError, match="does not hold the weights that the run .* began with"):
        load_captioner(tmp_path, str(tmp_path / "changed"))


def test_a_lost_or_damaged_vocabulary_is_an_error_of_one_line(trimmed, tmp_path):
    trimmed.save(tmp_path, {})
    saved = json.loads((tmp_path / "vocabulary.json").read_text())
    for broken in ([], {"kept": 3}, saved | {"kept": saved["kept"][:-1]}, saved | {"kept": saved["kept"][::-1]}):
        (tmp_path / "vocabulary.json").write_text(json.dumps(broken))
        with pytest.raises(BncapError, match="vocabulary.json"):
            load_captioner(tmp_path)
    kept = saved["kept"][:-1]
    (tmp_path / "vocabulary.json").write_text(json.dumps(saved | {"kept": kept, "pieces": len(kept)}))
    with pytest.raises(BncapError, match="do not belong together"):
        load_captioner(tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(BncapError, match="there is no vocabulary.json"):
        load_captioner(tmp_path)


def test_a_decoder_of_another_tokenizer_is_refused(mbart_folder, tokenizer, vocabulary):
    decoder = load_decoder(str(mbart_folder))
    decoder.resize_token_embeddings(40)
    with pytest.raises(BncapError, match="40 rows"):
        trim(decoder, vocabulary)
    with pytest.raises(BncapError, match="the decoder has 40 pieces"):
        Captioner(decoder, tokenizer, CHANNELS)
