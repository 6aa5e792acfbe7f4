"""One beam search for all decoders: it finds what the library's finds, with less work."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_baselines import make_gpt2
from transformers.modeling_outputs import BaseModelOutput

from bncap.decoders import beam, decode
from bncap.decoders.baselines import AttentionLstm, AttentionLstmConfig, CnnLstmCaptioner, VitGpt2Captioner, load_gpt2
from bncap.settings import Decode

CHANNELS, PATCHES, LONGEST = 12, 7, 14
NAMES = ("mbart", "gpt2", "lstm")


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory, sentences):
    return make_gpt2(tmp_path_factory.mktemp("gpt2"), sentences, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(params=NAMES)
def model(request, captioner, gpt2_folder):
    """A captioner whose captions differ from picture to picture and end before the greatest length."""
    torch.manual_seed(2)
    if request.param == "gpt2":
        captioner = VitGpt2Captioner(*load_gpt2(str(gpt2_folder)), CHANNELS)
    elif request.param == "lstm":
        decoder = AttentionLstm(AttentionLstmConfig(vocab_size=len(captioner.tokenizer), width=24))
        captioner = CnnLstmCaptioner(decoder, captioner.tokenizer, CHANNELS)
    with torch.no_grad():
        for parameter in captioner.decoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return captioner.eval()


def memory_of(model, pictures=6):
    features = 3 * torch.randn(pictures, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return model.bridge(features)


def tokens_of(model):
    """The arguments of ``beam_search`` that say which tokens are special."""
    tokenizer = model.tokenizer
    tokens = {"end": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id, "forced": None}
    if isinstance(model, VitGpt2Captioner):
        return tokens | {"start": tokenizer.bos_token_id}
    return tokens | {"start": tokenizer.eos_token_id, "forced": model.language_id}


def generate(model, memory, settings):
    """The same search by the library: the oracle."""
    tokens = tokens_of(model)
    if model.decoder.config.is_encoder_decoder:
        given = {"encoder_outputs": BaseModelOutput(memory.clone()), "decoder_start_token_id": tokens["start"]}
    else:
        start = torch.full((len(memory), 1), tokens["start"])
        given = {"inputs": start, "encoder_hidden_states": memory}
        if isinstance(model, VitGpt2Captioner):
            given["attention_mask"] = torch.ones_like(start)
    output = model.decoder.generate(
        **given,
        do_sample=False,
        early_stopping=False,
        num_beams=settings.beams,
        length_penalty=settings.length_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram,
        max_new_tokens=LONGEST,
        eos_token_id=tokens["end"],
        pad_token_id=tokens["padding"],
        forced_bos_token_id=tokens["forced"],
        output_scores=True,
        return_dict_in_generate=True,
    )
    return output.sequences, output.sequences_scores if settings.beams > 1 else None


def search(model, memory, settings, longest=LONGEST):
    return beam.beam_search(model.decoder, memory, settings, longest, **tokens_of(model))


@pytest.mark.parametrize(
    "settings",
    [
        Decode(beams=3),
        Decode(beams=5, no_repeat_ngram=2, length_penalty=0.4),
        Decode(beams=2, no_repeat_ngram=1, length_penalty=1.6),
        Decode(beams=4, no_repeat_ngram=0, length_penalty=0.0),
        Decode(beams=1, no_repeat_ngram=2),
    ],
)
def test_the_search_finds_what_the_librarys_finds(model, settings):
    memory = memory_of(model)
    expected, expected_scores = generate(model, memory, settings)
    sequences, scores = search(model, memory, settings)
    assert sequences.tolist() == expected.tolist()
    assert len(set(map(tuple, sequences.tolist()))) > 1
    if expected_scores is not None:
        torch.testing.assert_close(scores, expected_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ends", [-4.0, 3.0])
def test_captions_that_end_late_or_early_are_the_librarys_too(captioner, ends):
    eos = captioner.tokenizer.eos_token_id
    with torch.no_grad():
        captioner.decoder.final_logits_bias[0, eos] = ends
    memory = memory_of(captioner)
    for settings in (Decode(beams=3, no_repeat_ngram=0), Decode(beams=1, no_repeat_ngram=0)):
        sequences, _ = search(captioner, memory, settings)
        assert sequences.tolist() == generate(captioner, memory, settings)[0].tolist()
        full = sequences.ne(captioner.tokenizer.pad_token_id).sum(1).eq(1 + LONGEST)
        assert full.all() if ends < 0 else not full.any()


@pytest.mark.parametrize("model", ["mbart"], indirect=True)
def test_memory_is_projected_once_a_picture_and_pictures_leave_when_they_are_done(model):
    with torch.no_grad():
        model.decoder.final_logits_bias[0, model.tokenizer.eos_token_id] = 6.0
    layer = model.layers[0]
    projected, rows = [], []
    layer.encoder_attn.k_proj.register_forward_hook(lambda module, given, output: projected.append(len(given[0])))
    layer.fc1.register_forward_hook(lambda module, given, output: rows.append(tuple(given[0].shape[:2])))
    search(model, memory_of(model), Decode(beams=3, no_repeat_ngram=0))
    assert projected == [6]
    assert rows[0] == (6, 2)  # the start and the language, before there are beams
    assert rows[1] == (18, 1)
    assert rows[1:] == sorted(rows[1:], reverse=True) and 0 < rows[-1][0] < 18, rows


def test_the_attention_of_training_is_back_after_a_search_that_failed(captioner):
    before = captioner.decoder.config._attn_implementation
    with pytest.raises(RuntimeError):
        search(captioner, memory_of(captioner)[..., :5], Decode())
    assert captioner.decoder.config._attn_implementation == before


def test_captions_and_scores_do_not_depend_on_the_size_of_a_batch(model):
    features = 3 * torch.randn(7, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(5))
    together = decode.caption(model, features, Decode(beams=3, batch=64), LONGEST)
    for batch in (1, 2, 5):
        apart = decode.caption(model, features, Decode(beams=3, batch=batch), LONGEST)
        assert [c.text for c in apart] == [c.text for c in together]
        assert [c.score for c in apart] == pytest.approx([c.score for c in together], rel=1e-5)


def test_a_batch_that_memory_cannot_hold_is_halved_and_nothing_is_lost(captioner, monkeypatch, capsys):
    features = torch.randn(11, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(6))
    expected = decode.caption(captioner, features, Decode(beams=2), LONGEST)
    whole, sizes = captioner.generate, []

    def little_memory(memory, settings, max_tokens):
        sizes.append(len(memory))
        if len(memory) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(memory, settings, max_tokens)

    monkeypatch.setattr(captioner, "generate", little_memory)
    found = decode.caption(captioner, features, Decode(beams=2, batch=8), LONGEST, "captions: test")
    assert [c.text for c in found] == [c.text for c in expected]
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    said = capsys.readouterr().err
    assert "captions: test: 4 at a time need more memory than there is, 2 from here on" in said
    monkeypatch.setattr(captioner, "generate", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        decode.caption(captioner, features, dataclasses.replace(Decode(), batch=4), LONGEST)


def test_in_half_precision_scores_are_float32_and_close_to_those_of_whole_precision(model):
    memory = memory_of(model)
    whole, expected = search(model, memory, Decode(beams=3))
    with torch.autocast("cpu", torch.bfloat16):
        sequences, scores = search(model, memory, Decode(beams=3))
    assert scores.dtype == torch.float32
    ends = [row[row.ne(model.tokenizer.pad_token_id)].tolist() for row in (*whole, *sequences)]
    agree = [a == b for a, b in zip(ends[: len(whole)], ends[len(whole) :], strict=True)]
    assert sum(agree) >= 3  # the others had a rival as good
    torch.testing.assert_close(scores[agree], expected[agree], rtol=0.1, atol=0.1)
