import dataclasses
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from bncap.chunked_cross_entropy import IGNORED
from bncap.decoders import decode
from bncap.decoders.mbart import load_decoder, load_tokenizer
from bncap.errors import BncapError
from bncap.model import Bridge, Captioner, load_captioner, shift_right
from bncap.settings import Decode

BEAMS = Decode(beams=3, batch=2, no_repeat_ngram=0)


@pytest.fixture
def features():
    return torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def labels(captioner, sentences):
    return captioner.labels(list(sentences[:3]), 32)


def test_the_bridge_is_a_linear_map_and_a_layer_norm(features):
    bridge = Bridge(12, 8)
    projected = features @ bridge.projection.weight.T
    mean, var = projected.mean(-1, keepdim=True), projected.var(-1, keepdim=True, correction=0)
    torch.testing.assert_close(bridge(features), (projected - mean) / (var + 1e-5).sqrt())


def test_labels_begin_with_the_language_and_end_with_eos(captioner, labels):
    eos = captioner.decoder.config.eos_token_id
    assert labels[:, 0].tolist() == [captioner.language_id] * 3
    assert all(row[row != IGNORED][-1] == eos for row in labels)


def test_a_long_caption_is_cut_to_max_tokens(captioner, sentences):
    assert captioner.labels([sentences[3] * 9], 7).shape == (1, 7)


def test_decoder_inputs_are_the_labels_shifted_behind_eos(labels):
    inputs = shift_right(labels, padding=1, start=2)
    for label, shifted in zip(labels, inputs, strict=True):
        real = label[label != IGNORED].tolist()
        assert shifted.tolist() == [2, *real[:-1]] + [1] * (len(label) - len(real))


def test_tapped_attention_equals_the_eager_models(captioner, mbart_folder, features, labels):
    eager = MBartForConditionalGeneration.from_pretrained(mbart_folder, attn_implementation="eager").eval()
    memory = captioner.bridge(features)
    logits, attention = captioner(memory, labels)
    inputs = shift_right(labels, 1, 2)
    plain = eager(
        encoder_outputs=BaseModelOutput(memory), decoder_input_ids=inputs, decoder_attention_mask=inputs.ne(1),
        output_attentions=True,
    )  # fmt: skip
    real = labels.ne(IGNORED)
    expected = torch.stack([a.mean(1) for a in plain.cross_attentions[-2:]]).mean(0)
    torch.testing.assert_close(attention[real], expected[real], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits[real], plain.logits[real], rtol=1e-4, atol=1e-5)


def test_padding_on_the_right_changes_nothing_at_the_real_tokens(captioner, features, labels):
    padded = torch.nn.functional.pad(labels, (0, 5), value=IGNORED)
    memory, real = captioner.bridge(features), labels.ne(IGNORED)
    for wide, alone in zip(captioner(memory, padded), captioner(memory, labels), strict=True):
        torch.testing.assert_close(wide[:, : labels.shape[1]][real], alone[real])


def test_a_closed_tap_gives_the_same_states_and_no_attention(captioner, features, labels):
    memory = captioner.bridge(features)
    expected, _ = captioner.states(memory, labels)
    with captioner.tap.closed():
        states, attention = captioner.states(memory, labels)
    assert attention is None and not captioner.tap.weights
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_on_a_cpu_attends_as_float32_does_within_its_rounding(captioner, features, labels):
    """There all attention takes the path of the tapped, and has to hide later words by itself."""

    def gradient(enabled):
        memory = captioner.bridge(features).detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), captioner.tap.closed():
            states, _ = captioner.states(memory, labels)
        states[labels.ne(IGNORED)].square().sum().backward()
        return torch.cat([states.detach().flatten(), memory.grad.flatten()])

    whole, rounded = gradient(False), gradient(True)
    assert 0 < (rounded - whole).norm() < 0.03 * whole.norm()


@pytest.mark.parametrize("beams", [1, 3])
def test_the_log_probability_is_that_of_teacher_forcing_given_the_language(captioner, features, beams):
    settings = dataclasses.replace(BEAMS, beams=beams, no_repeat_ngram=0)
    eos = captioner.tokenizer.eos_token_id
    with torch.no_grad():
        captioner.decoder.final_logits_bias[0, eos] = 3.0  # so that captions end
    for feature, found in zip(features, decode.caption(captioner, features, settings, 12), strict=True):
        tokens = list(found.tokens[1:])
        labels = torch.tensor([tokens[: tokens.index(eos) + 1]])
        logits, _ = captioner(captioner.bridge(feature[None]), labels)
        chosen = logits.log_softmax(-1).gather(2, labels[..., None])[0, 1:, 0]  # the language token is forced
        assert found.log_probability == pytest.approx(chosen.sum().item(), abs=1e-4)
        assert found.score == pytest.approx(found.log_probability / labels.shape[1] ** settings.length_penalty)


def test_the_text_encoder_is_dropped_and_nothing_else_changes(mbart_folder, captioner):
    whole = MBartForConditionalGeneration.from_pretrained(mbart_folder)
    assert len(captioner.decoder.model.encoder.layers) == 0
    for name, value in captioner.decoder.model.decoder.state_dict().items():
        torch.testing.assert_close(value, whole.model.decoder.state_dict()[name], rtol=0, atol=0)


def test_unfreezing_goes_from_the_top_down(captioner):
    captioner.unfreeze_top(1)
    trains = [any(p.requires_grad for p in layer.parameters()) for layer in captioner.layers]
    assert trains == [False, False, True]
    assert not captioner.decoder.model.shared.weight.requires_grad and captioner.bridge.projection.weight.requires_grad
    captioner.unfreeze_top(3)
    assert all(p.requires_grad for p in captioner.parameters())


def test_words_join_their_pieces_and_attend_on_the_simplex(captioner, features, sentences):
    words = decode.word_attention(captioner, features[0], sentences[1], 32)
    assert "".join(w.word for w in words) == sentences[1].replace(" ", "")
    assert len(words) == len(sentences[1].split())
    for word in words:
        assert word.weights.sum() == pytest.approx(1, abs=1e-5)


def test_too_many_tapped_layers_are_an_error(mbart_folder):
    with pytest.raises(BncapError, match="last_k=4: the decoder has 3 layers"):
        Captioner(load_decoder(str(mbart_folder)), load_tokenizer(str(mbart_folder), "bn_IN"), 12, last_k=4)


def test_the_attention_of_all_layers_is_that_of_as_many_as_there_are(mbart_folder):
    parts = load_decoder(str(mbart_folder)), load_tokenizer(str(mbart_folder), "bn_IN"), 12
    for last_k in (0, 3):
        model = Captioner(*parts, last_k=last_k)
        assert [layer.encoder_attn.tap is model.tap for layer in model.decoder.model.decoder.layers] == [True] * 3


def test_a_folder_without_a_whole_captioner_is_an_error(captioner, tmp_path):
    with pytest.raises(BncapError, match=r"holds no captioner \(no captioner.json\)"):
        load_captioner(tmp_path)
    captioner.save(tmp_path, {})
    record = json.loads((tmp_path / "captioner.json").read_text())
    for broken, message in (([], "is no record of a captioner"), ({"lang": "bn_IN"}, "lacks last_k or lang")):
        (tmp_path / "captioner.json").write_text(json.dumps(broken))
        with pytest.raises(BncapError, match=message):
            load_captioner(tmp_path)
    (tmp_path / "captioner.json").write_text(json.dumps(record))
    bridges = load_file(tmp_path / "bridge.safetensors")
    for foreign in ({"bridge.projection.weight": torch.zeros(7, 12)}, bridges | {"bridge.norm.weight": torch.ones(7)}):
        save_file(foreign, tmp_path / "bridge.safetensors")
        with pytest.raises(BncapError, match="does not fit the decoder"):
            load_captioner(tmp_path)
    os.truncate(tmp_path / "bridge.safetensors", 20)
    with pytest.raises(BncapError, match="bridge.safetensors cannot be read"):
        load_captioner(tmp_path)


def test_an_initial_state_of_a_multi_scale_captioner_comes_back(mbart_folder, tmp_path):
    path = str(mbart_folder)
    model = Captioner(load_decoder(path), load_tokenizer(path, "bn_IN"), 12, 1, penultimate_channels=6)
    model.save_initial(tmp_path, {})
    again, record = load_captioner(tmp_path, path)
    assert record["last_k"] == again.fields["last_k"] == 1
    assert torch.equal(again.penultimate_bridge.projection.weight, model.penultimate_bridge.projection.weight)
