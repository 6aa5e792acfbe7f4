"""The table of real sizes: its counts against arithmetic of their own, and the table itself on small models."""

from __future__ import annotations

import math
import os

import pytest
import torch

from bncap.commands import full_size
from bncap.commands.full_size import CLASSIFIER, ENCODER, LOADED, MBART50, WHOLE, Sizes, make_random_captioner
from bncap.errors import BncapError

TINY = Sizes(
    encoder="test_maxvit",  # of timm
    side=160,
    decoder=MBART50
    | {"vocab_size": 600, "d_model": 32, "max_position_embeddings": 64, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    | {"encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    trimmed=100,
)


def mbart_parameters(vocab_size, d_model, max_position_embeddings, encoder, decoder):
    """By hand: ``encoder`` and ``decoder`` are (layers, width of the feed-forward part)."""
    norm = 2 * d_model
    attention = 4 * (d_model * d_model + d_model)
    ends = (max_position_embeddings + 2) * d_model + 2 * norm  # positions, norm of the embedding, last norm

    def feed_forward(width):
        return 2 * d_model * width + width + d_model

    encoder_layers = encoder[0] * (attention + feed_forward(encoder[1]) + 2 * norm)
    decoder_layers = decoder[0] * (2 * attention + feed_forward(decoder[1]) + 3 * norm)
    return vocab_size * d_model, encoder_layers + ends, decoder_layers + ends


@pytest.fixture(scope="module")
def counts():
    return full_size.count_parameters(Sizes())


def test_mbart_50_has_its_published_parameters(counts):
    embedding, encoder, decoder = mbart_parameters(250_054, 1024, 1024, (12, 4096), (12, 4096))
    assert counts[WHOLE] == embedding + encoder + decoder == 610_879_488
    assert counts[LOADED] == counts[WHOLE] - 12 * 12_596_224
    assert counts["  embedding, 250,054 pieces"] == embedding
    assert counts["  embedding, 12,000 pieces"] == 12_000 * 1024
    assert counts["  decoder layers and positions"] == decoder


def test_maxvit_b_has_its_published_parameters(counts):
    assert counts[ENCODER] == 118_106_580
    head = 2 * 768 + (768 * 768 + 768) + (768 * 1000 + 1000)  # norm, tanh layer, classes
    assert counts[CLASSIFIER] == counts[ENCODER] + head
    assert counts["bridge"] == 768 * 1024 + 2 * 1024


@pytest.mark.parametrize(("trimmed", "pieces"), [(False, 600), (True, 100)])
def test_a_training_step_has_every_term_and_changes_every_weight(trimmed, pieces):
    torch.manual_seed(0)
    model, captions = make_random_captioner(TINY, 16, trimmed)
    assert model.decoder.config.vocab_size == pieces
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    labels = model.labels(captions, 32)
    assert labels.shape == (2, 32) and 3 not in labels
    real, synthetic = torch.randn(2, 2, 49, 16)
    config = full_size.get_config("paper", ["train.learning_rate=0.01"])
    found = full_size.take_training_step(model, real, synthetic, labels, config)
    assert set(found) == {"ce", "pal", "infonce", "ot"}
    assert found["ce"] == pytest.approx(math.log(pieces), rel=0.2)
    idle = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert all("model.encoder" in name for name in idle)


def test_the_table_has_a_line_for_each_part_and_operation(monkeypatch):
    monkeypatch.setattr(full_size, "run_alone", lambda function, *arguments: function(*arguments))
    table, agree = full_size.full_size_table(seed=1, sizes=TINY, expected={WHOLE: 0.1})
    lines = table.splitlines()
    assert agree and "seed 1" in lines[0] and lines[-1].startswith("parameters agree")
    for what in ("encode 2 x 2 pictures", "600 pieces", "100 pieces", "bridge"):
        assert any(what in line for line in lines)
    assert sum("beam search, 2 x 5 beams, 32 tokens" in line for line in lines) == 2
    assert sum("training step, B = 2, 25 patches, 32 tokens" in line for line in lines) == 2
    table, agree = full_size.full_size_table(seed=1, sizes=TINY, expected={WHOLE: 7.0})
    assert not agree and "expected 7.0: DISAGREES" in table and table.endswith("published checkpoints")


def test_a_process_that_is_killed_is_an_error_of_one_line():
    with pytest.raises(BncapError, match="_exit: the process ended abruptly, most likely for lack of memory"):
        full_size.run_alone(os._exit, 9)
