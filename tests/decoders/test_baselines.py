"""The baselines of Table 1 stand where the main captioner stands: one training loop, one objective, one decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bncap.batches import Batch
from bncap.chunked_cross_entropy import IGNORED
from bncap.config import get_config
from bncap.decoders.baselines import BASELINES, build_baseline, load_baseline, load_gpt2
from bncap.decoders.decode import caption
from bncap.errors import BncapError
from bncap.objective import compute_terms
from bncap.settings import Decode, override
from bncap.train import Validation, train

CHANNELS, PATCHES, MAX_TOKENS = 12, 9, 40
NAMES = sorted(BASELINES)


def make_gpt2(folder, sentences, **special):
    """A random GPT-2 without cross-attention and its byte-level BPE tokenizer, in the hub's layout."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(sentences * 20, vocab_size=330, special_tokens=["<s>", "<pad>"], show_progress=False)
    size = pieces.get_vocab_size()
    PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    marks = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.1, **marks)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory, sentences):
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}  # </s> lies beyond the embedding
    return make_gpt2(tmp_path_factory.mktemp("gpt2"), sentences, **special)


@pytest.fixture(scope="module")
def settings(gpt2_folder, mbart_folder):
    return get_config("smoke", [f"components.gpt2={gpt2_folder}", f"components.decoder={mbart_folder}"])


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def model(name, settings):
    torch.manual_seed(3)
    return build_baseline(name, settings, CHANNELS).eval()


def features(count, seed=0):
    return torch.randn(count, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(seed))


def sharpen(model):
    """Make the next-token distributions of a random model differ from word to word and from picture to picture."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if hasattr(model.decoder, "bias"):
            model.decoder.bias[model.tokenizer.pad_token_id] = -50  # what training teaches: PAD is not a word


def log_probabilities(model, memory, sequences):
    """Of each generated token (B, T - 1), zero after the end, and the lengths; no cache, no beams."""
    eos = model.tokenizer.eos_token_id
    generated = sequences[:, 1:]
    ended = generated.eq(eos).long()
    real = (ended.cumsum(1) - ended).eq(0)
    labels = generated.masked_fill(~real, IGNORED)
    with torch.no_grad():
        logs = model(memory, labels)[0].log_softmax(-1)
    found = logs.gather(-1, generated[..., None]).squeeze(-1) * real
    if model.language_id != IGNORED:
        found[:, 0] = 0  # forced
    return found, real.sum(1)


def test_labels_end_with_eos_are_cut_and_padded_and_decode_to_the_caption(model, sentences):
    labels = model.labels(list(sentences), MAX_TOKENS)
    eos = model.tokenizer.eos_token_id
    lengths = labels.ne(IGNORED).sum(1)
    assert labels.shape[1] == lengths.max() and lengths.min() < lengths.max()
    for row, length, sentence in zip(labels, lengths.tolist(), sentences, strict=True):
        assert row[length - 1] == eos and row[: length - 1].ne(eos).all() and row[length:].eq(IGNORED).all()
        assert model.tokenizer.decode(row[:length], skip_special_tokens=True).strip() == sentence
    cut = model.labels(list(sentences), 5)
    assert cut.shape[1] == 5 and cut[:, -1].eq(eos).all()


def test_padding_changes_no_logit_and_no_loss(model, sentences):
    memory = model.bridge(features(1))
    labels = model.labels([sentences[0]], MAX_TOKENS)
    padded = torch.cat([labels, labels.new_full((1, 6), IGNORED)], 1)
    with torch.no_grad():
        alone, _ = model(memory, labels)
        wide, _ = model(memory, padded)
    torch.testing.assert_close(wide[:, : labels.shape[1]], alone, rtol=1e-4, atol=1e-5)


def test_a_token_is_not_seen_before_it_is_predicted(model, sentences):
    memory = model.bridge(features(1))
    labels = model.labels([sentences[0]], MAX_TOKENS)
    changed = labels.clone()
    changed[0, 4] = labels[0, 2]
    with torch.no_grad():
        before, after = model(memory, labels)[0][0], model(memory, changed)[0][0]
    torch.testing.assert_close(after[:5], before[:5])
    assert not torch.allclose(after[5], before[5])


def test_the_objective_is_cross_entropy_alone_and_its_gradient_reaches_the_bridge(model, name, settings, sentences):
    count = len(sentences)
    real, labels = features(count), model.labels(list(sentences), MAX_TOKENS)
    batch = Batch(real, features(count, 1), labels, torch.arange(count), torch.ones(count, dtype=torch.bool))
    found = compute_terms(model, batch, override(settings, BASELINES[name].overrides).loss)
    assert set(found) == {"ce"}
    logits, _ = model(model.bridge(real), labels)
    logs = logits.log_softmax(-1)
    rows = [logs[b, t, labels[b, t]] for b, t in labels.ne(IGNORED).nonzero().tolist()]
    torch.testing.assert_close(found["ce"], -torch.stack(rows).mean())
    found["ce"].backward()
    assert model.bridge.projection.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


class FourCaptions:
    """Four captioned pictures, again and again: as much of ``Triplets`` as the training loop uses."""

    def __init__(self, labels, repeats):
        self.labels, self.features, self.repeats = labels, 2 * features(4), repeats

    def __len__(self):
        return 4 * self.repeats

    def steps(self, size):
        return self.repeats

    def batches(self, seed, epoch, size, device, skip=0):
        generator = np.random.default_rng([seed, epoch])
        for rows in [generator.permutation(4) for _ in range(self.repeats)][skip:]:
            paired = torch.zeros(4, dtype=torch.bool)
            yield Batch(self.features[rows], None, self.labels[rows], torch.arange(4), paired)


def four_of(sentences):
    return sorted(sentences, key=len)[:4]


def learn(name, settings, sentences, folder, repeats):
    changes = ["train.batch=4", "train.epochs=2", "train.learning_rate=0.01", "train.bridge_learning_rate=0.01"]
    config = override(settings, [*BASELINES[name].overrides, *changes])
    torch.manual_seed(3)
    model = build_baseline(name, config, CHANNELS)
    four = FourCaptions(model.labels(four_of(sentences), MAX_TOKENS), repeats)
    folder.mkdir()
    record = train(model, four, Validation(four.features, four.labels), config, 5, folder)
    return model, four, record


def test_four_captions_are_learnt_by_heart_saved_and_loaded(name, settings, sentences, tmp_path):
    model, four, record = learn(name, settings, sentences, tmp_path / "run", 35)
    captions = caption(model, four.features, Decode(beams=3, no_repeat_ngram=0), MAX_TOKENS)
    assert [c.text for c in captions] == four_of(sentences)
    assert record["validation_ce"] < 0.3
    model.save(tmp_path / "best", {"seed": 5})
    again = load_baseline(name, tmp_path / "best")
    assert not again.training
    assert caption(again, four.features, Decode(beams=3, no_repeat_ngram=0), MAX_TOKENS) == captions


def test_gpt2_is_unfrozen_from_the_top_but_for_its_new_cross_attentions(settings):
    model = build_baseline("vit_gpt2", settings, CHANNELS)
    model.unfreeze_top(1)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "bridge.projection.weight" in trained and "decoder.transformer.h.2.mlp.c_fc.weight" in trained
    assert all(f"decoder.transformer.h.{i}.crossattention.c_attn.weight" in trained for i in range(3))
    assert not {n for n in trained if "h.1.attn" in n or "h.0.mlp" in n or "wte" in n}
    model.unfreeze_top(3)
    assert all(p.requires_grad for p in model.parameters())


def test_a_gpt2_tokenizer_with_an_end_mark_alone_begins_and_pads_with_it(tmp_path, sentences):
    from bncap.decoders.baselines import VitGpt2Captioner

    decoder, tokenizer = load_gpt2(str(make_gpt2(tmp_path, sentences, eos_token="<s>")))
    assert tokenizer.pad_token_id == tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    model = VitGpt2Captioner(decoder, tokenizer, CHANNELS).eval()
    sharpen(model)
    memory = model.bridge(features(3))
    sequences, scores = model.generate(memory.detach(), Decode(beams=3), 10)
    found, lengths = log_probabilities(model, memory, sequences)
    torch.testing.assert_close(scores, found.sum(1) / lengths, rtol=1e-4, atol=1e-4)


def test_pretrained_gpt2_weights_arrive_and_a_checkpoint_that_lacks_some_is_refused(gpt2_folder, tmp_path, sentences):
    weights = load_file(gpt2_folder / "model.safetensors")
    decoder, _ = load_gpt2(str(gpt2_folder))
    rows = weights["transformer.wte.weight"]
    assert torch.equal(decoder.transformer.wte.weight[: len(rows)], rows)
    assert decoder.lm_head.weight is decoder.transformer.wte.weight
    broken = make_gpt2(tmp_path, sentences, eos_token="<s>")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(BncapError, match=r"lacks weights, such as transformer\.h\.1\.mlp\.c_fc\.weight"):
        load_gpt2(str(broken))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_run_of_a_baseline_is_an_error(model, name, tmp_path):
    with pytest.raises(BncapError, match="holds no captioner"):
        load_baseline(name, tmp_path)
    model.save(tmp_path, {})
    other = next(other for other in NAMES if other != name)
    with pytest.raises(BncapError, match="lacks|of type|no tokenizer"):
        load_baseline(other, tmp_path)
    weights = load_file(tmp_path / "decoder/model.safetensors")
    lost = next(key for key in sorted(weights) if "bias" in key)
    del weights[lost]
    save_file(weights, tmp_path / "decoder/model.safetensors", {"format": "pt"})
    with pytest.raises(BncapError, match=f"lacks weights, such as {lost}"):
        load_baseline(name, tmp_path)
    cut(tmp_path / "decoder/model.safetensors")
    with pytest.raises(BncapError, match="cannot be loaded"):
        load_baseline(name, tmp_path)
    save_file({"projection.weight": torch.zeros(2, 2)}, tmp_path / "bridge.safetensors")
    model.decoder.save_pretrained(tmp_path / "decoder")
    with pytest.raises(BncapError, match="does not fit the decoder"):
        load_baseline(name, tmp_path)


def test_the_lstm_shares_a_trimmed_vocabulary_and_keeps_it(settings, sentences, tmp_path):
    captions = list(sentences[:2])
    model = build_baseline("cnn_lstm", settings, CHANNELS, captions).eval()
    whole = build_baseline("cnn_lstm", settings, CHANNELS).eval()
    kept = model.vocabulary.kept
    assert model.decoder.config.vocab_size == len(kept) < whole.decoder.config.vocab_size
    labels, expected = model.labels(captions, MAX_TOKENS), whole.labels(captions, MAX_TOKENS)
    assert torch.equal(kept[labels.clamp(min=0)][labels.ne(IGNORED)], expected[expected.ne(IGNORED)])
    sharpen(model)
    found = caption(model, features(2), Decode(beams=2), 12)
    assert {t for c in found for t in c.tokens} <= set(kept.tolist())
    assert all(c.tokens[1] == whole.language_id for c in found)
    model.save(tmp_path, {})
    assert caption(load_baseline("cnn_lstm", tmp_path), features(2), Decode(beams=2), 12) == found


def test_the_recurrence_is_show_attend_and_tell_written_out_for_one_picture(settings):
    torch.manual_seed(3)
    model = build_baseline("cnn_lstm", settings, CHANNELS).eval()
    lstm, patches, ids = model.decoder, model.bridge(features(1)), torch.tensor([[2, 5, 7, 9]])
    outputs, attentions, _ = lstm.states(ids, patches)
    hidden, cell = torch.tanh(lstm.first(patches[0].mean(0))).chunk(2)
    for t, word in enumerate(lstm.embedding(ids[0]) * lstm.config.width**0.5):
        energies = [lstm.energy.weight[0] @ torch.tanh(lstm.key(a) + lstm.query(hidden)) for a in patches[0]]
        attention = torch.stack(energies).softmax(0)
        context = torch.sigmoid(lstm.gate(hidden)) * (attention @ patches[0])
        gates = lstm.cell.weight_ih @ torch.cat([word, context]) + lstm.cell.weight_hh @ hidden
        i, f, g, o = (gates + lstm.cell.bias_ih + lstm.cell.bias_hh).chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        expected = torch.tanh(lstm.output(torch.cat([hidden, context, word])))
        torch.testing.assert_close(attentions[0, t], attention)
        torch.testing.assert_close(outputs[0, t], expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_baseline_is_refused(settings):
    with pytest.raises(BncapError, match="cnn_lstm"):
        build_baseline("cnn_gru", settings, CHANNELS)
