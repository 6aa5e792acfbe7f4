"""Beam search: this project over cached features, transformers' ``generate`` of the plain reading over pictures."""

from __future__ import annotations

import torch

from bncap.settings import Decode

from .models import draw_pictures, forbid_end, make_captioner, make_plain_reading

PICTURES = 16
SEARCH = Decode()


@torch.no_grad()
def test_ours(measure, scale):
    channels = make_plain_reading(scale).projection.in_features
    model = make_captioner(scale, channels).eval()
    forbid_end(model.decoder)
    features = torch.randn(PICTURES, 49, channels, generator=torch.Generator().manual_seed(42))
    measure("beam search", "ours", lambda: model.generate(model.bridge(features), SEARCH, scale.tokens), PICTURES)


@torch.no_grad()
def test_generate_over_pictures(measure, scale):
    plain = make_plain_reading(scale).eval()
    forbid_end(plain.mbart)
    pictures = draw_pictures(scale, PICTURES)
    options = {
        "num_beams": SEARCH.beams,
        "length_penalty": SEARCH.length_penalty,
        "no_repeat_ngram_size": SEARCH.no_repeat_ngram,
        "max_new_tokens": scale.tokens,
        "early_stopping": False,
        "do_sample": False,
    }
    measure("beam search", "plain reading, generate", lambda: plain.generate(pictures, **options), PICTURES)
