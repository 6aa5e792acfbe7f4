"""A training step of the full objective: this project over cached features, the plain reading over pictures."""

from __future__ import annotations

import pytest
import torch

from bncap import train
from bncap.batches import Batch
from bncap.config import get_config
from bncap.device import gradient_scaler

from .models import draw_labels, draw_pictures, make_captioner, make_plain_reading


@pytest.fixture(scope="module")
def plain(scale):
    return make_plain_reading(scale).train()


@pytest.fixture(scope="module")
def pictures(scale):
    """Real and synthetic pictures, (B, 3, H, W) each."""
    return draw_pictures(scale, 2 * scale.batch).split(scale.batch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ours(measure, scale, plain, pictures, precision):
    real, synthetic = (plain.features(part) for part in pictures)
    model = make_captioner(scale, real.shape[2]).train()
    rows = torch.arange(scale.batch)
    labels = draw_labels(scale, model.language_id)
    batch = Batch(real, synthetic, labels, rows, torch.ones_like(rows, dtype=torch.bool))
    config = get_config("kaggle", [f"train.batch={scale.batch}", f"train.precision={precision}"])
    optimizer, _ = train.build_optimizer(model, config, 1000)
    scaler = gradient_scaler(real.device, precision)

    def step():
        return train.training_step(model, batch, config, optimizer, scaler)

    measure("training step", f"ours, {precision}", step, scale.batch)


def test_plain_reading(measure, scale, plain, pictures):
    optimizer, labels = plain.adamw(), draw_labels(scale, plain.language)
    images = torch.arange(scale.batch)
    measure("training step", "plain reading", lambda: plain.step(optimizer, *pictures, labels, images), scale.batch)
