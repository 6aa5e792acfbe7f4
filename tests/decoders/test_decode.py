"""Beam search over features, for every decoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_baselines import make_gpt2

from bncap.chunked_cross_entropy import IGNORED
from bncap.decoders import decode
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


def exhaustive_beams(model, memory, settings, longest=LONGEST):
    """Beam search over one picture at a time by teacher forcing alone: no cache, no batch, no library.

    Returns the tokens of the best caption, without the start, and its score.
    """
    end, found = model.tokenizer.eos_token_id, []
    forced = [] if model.language_id == IGNORED else [model.language_id]
    for patches in memory.unsqueeze(1):
        running, ended = [(0.0, forced)], []
        while running and len(running[0][1]) < longest:
            longer = []
            for total, tokens in running:
                logs = model(patches, torch.tensor([[*tokens, 0]]))[0][0, -1].log_softmax(-1)
                for token in banned(tokens, settings.no_repeat_ngram):
                    logs[token] = -torch.inf
                if forces_end(model) and len(tokens) == longest - 1:
                    longer.append((total, [*tokens, end]))
                else:
                    longer += [
                        (total + logs[i].item(), [*tokens, i]) for i in logs.topk(2 * settings.beams)[1].tolist()
                    ]
            longer = sorted(longer, key=lambda beam: -beam[0])[: 2 * settings.beams]
            last = len(longer[0][1]) == longest
            for total, tokens in longer[: settings.beams]:
                if tokens[-1] == end or last:
                    ended.append((total / len(tokens) ** settings.length_penalty, tokens))
            running = [beam for beam in longer if beam[1][-1] != end][: settings.beams]
            ended = sorted(ended, key=lambda beam: -beam[0])[: settings.beams]
            rivals = [total / len(tokens) ** settings.length_penalty for total, tokens in running]
            full = len(ended) == settings.beams
            if full and (settings.beams == 1 or not rivals or rivals[0] <= ended[-1][0]):
                break
        found.append(ended[0][::-1])
    return found


def forces_end(model):
    return model.decoder.generation_config.forced_eos_token_id == model.tokenizer.eos_token_id


def banned(tokens, size):
    """Tokens that would repeat ``size`` tokens, the start counted as one."""
    tokens = [None, *tokens]
    if not 0 < size <= len(tokens):
        return []
    latest = tokens[len(tokens) - size + 1 :]
    windows = [tokens[i : i + size] for i in range(len(tokens) - size + 1)]
    return [window[-1] for window in windows if window[:-1] == latest]


@pytest.mark.parametrize(
    "settings",
    [
        Decode(beams=3),
        Decode(beams=5, no_repeat_ngram=2, length_penalty=0.4),
        Decode(beams=4, no_repeat_ngram=0, length_penalty=0.0),
        Decode(beams=1, no_repeat_ngram=2),
    ],
)
@torch.no_grad()
def test_the_search_finds_what_beams_without_cache_and_batch_find(model, settings):
    memory = memory_of(model, 4)
    expected = exhaustive_beams(model, memory, settings)
    sequences, scores = model.generate(memory, settings, LONGEST)
    for row, score, (tokens, best) in zip(sequences, scores, expected, strict=True):
        assert row[1 : 1 + len(tokens)].tolist() == tokens
        assert row[1 + len(tokens) :].eq(model.tokenizer.pad_token_id).all()
        assert score.item() == pytest.approx(best, abs=1e-4)
    assert len(set(map(tuple, sequences.tolist()))) > 1


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
    whole, expected = model.generate(memory, Decode(beams=3), LONGEST)
    with torch.autocast("cpu", torch.bfloat16):
        sequences, scores = model.generate(memory, Decode(beams=3), LONGEST)
    assert scores.dtype == torch.float32
    ends = [row[row.ne(model.tokenizer.pad_token_id)].tolist() for row in (*whole, *sequences)]
    agree = [a == b for a, b in zip(ends[: len(whole)], ends[len(whole) :], strict=True)]
    assert sum(agree) >= 3  # the others had a rival as good
    torch.testing.assert_close(scores[agree], expected[agree], rtol=0.1, atol=0.1)
