"""The real sizes with random weights on whatever device there is: what a machine can carry, before hours are spent.

Everything but the values of the weights is real: MaxViT-B, mBART-50's decoder with 250,054 pieces and with a trimmed
vocabulary, the bridge, the whole objective, AdamW, beam search.  Nothing is downloaded.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bncap.bench.harness import alone, progress
from bncap.commands.random_models import Sizes, random_captioner
from bncap.config import get_config

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncap.model import Captioner
    from bncap.settings import Config

ENCODER, CLASSIFIER = "MaxViT-B as used", "MaxViT-B with its classifier"
WHOLE, LOADED = "mBART-50 whole", "mBART-50 as loaded, no text encoder"
EXPECTED = {CLASSIFIER: 119.5, ENCODER: 118.1, WHOLE: 610.9, LOADED: 459.7}
"""Millions of parameters to one decimal, as published with the checkpoints; as loaded, mBART-50 has 12 x 12,596,224
fewer, the layers of its text encoder."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a part with its parameters, or an operation with its time and peak memory."""

    what: str
    parameters: int | None = None
    seconds: float | None = None
    peak: int | None = None  # bytes
    note: str = ""


def full_size_table(
    seed: int = 42, sizes: Sizes | None = None, expected: Mapping[str, float] = EXPECTED
) -> tuple[str, bool]:
    """Parameters by part, time of each operation and peak memory; and whether all counts are the published ones.

    On a CPU the peak is that of the resident memory of a process of its own for each vocabulary, which also holds
    everything above the line within it; on CUDA it is what the operation had allocated.
    """
    sizes = sizes or Sizes()
    counts = parameter_counts(sizes)
    rows = [_counted(name, count, expected.get(name)) for name, count in counts.items()]
    device, encoded, features = _alone("encoder", encode_pictures, sizes, seed)
    rows += encoded
    for trimmed in (False, True):
        part = "decoder with a trimmed vocabulary" if trimmed else "decoder with the whole vocabulary"
        rows += _alone(part, train_and_decode, sizes, features, trimmed, seed)
    agree = all(_agrees(counts[name], million) for name, million in expected.items())
    head = f"full size, random weights (seed {seed}) on {device}"
    lines = [head, f"{'':<46} {'million':>9} {'seconds':>8} {'peak GB':>8}", *(_line(row) for row in rows)]
    lines.append(f"parameters {'agree' if agree else 'DISAGREE'} with those of the published checkpoints")
    return "\n".join(lines), agree


def parameter_counts(sizes: Sizes) -> dict[str, int]:
    """Parameters of each part, counted on models without storage."""
    import timm
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration

    import bncap.mini.encoder  # noqa: F401  registers the mini architectures with timm
    from bncap.model import Bridge

    with torch.device("meta"):
        whole = timm.create_model(sizes.encoder, pretrained=False)
        mbart = MBartForConditionalGeneration(MBartConfig(**sizes.decoder))
        loaded = MBartForConditionalGeneration(MBartConfig(**sizes.decoder | {"encoder_layers": 0}))
        bridge = Bridge(_channels(whole), sizes.decoder["d_model"])

    def count(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    embedding = count(loaded.model.shared)
    return {
        CLASSIFIER: count(whole),
        ENCODER: count(whole) - count(whole.head),
        WHOLE: count(mbart),
        LOADED: count(loaded),
        f"  embedding, {sizes.decoder['vocab_size']:,} pieces": embedding,
        f"  embedding, {sizes.trimmed:,} pieces": embedding // sizes.decoder["vocab_size"] * sizes.trimmed,
        "  decoder layers and positions": count(loaded.model.decoder) - embedding,
        "bridge": count(bridge),
    }


def encode_pictures(sizes: Sizes, seed: int) -> tuple[str, list[Row], np.ndarray]:
    """Two real and two synthetic pictures of noise through the encoder.

    Returns:
        name of the device; rows; (4, S, C) float32 patch features.
    """
    import timm
    import torch

    import bncap.mini.encoder  # noqa: F401  registers the mini architectures with timm
    from bncap.device import default_device

    torch.manual_seed(seed)
    device = default_device()
    rows: list[Row] = []
    with _measured(rows, f"build {sizes.encoder}"):
        model = timm.create_model(sizes.encoder, pretrained=False).eval().requires_grad_(False)
        model.to(device, memory_format=torch.channels_last)
    pixels = torch.randn(4, 3, sizes.side, sizes.side).to(device, memory_format=torch.channels_last)
    with (
        _measured(rows, "encode 2 x 2 pictures"),
        torch.inference_mode(),
        torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"),
    ):
        maps = model.forward_intermediates(pixels, indices=1, intermediates_only=True, output_fmt="NCHW")
    features = maps[-1].flatten(2).transpose(1, 2).float().cpu().numpy()  # (4, S, C)
    cuda = device.type == "cuda"
    return torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads", rows, features


def train_and_decode(sizes: Sizes, features: np.ndarray, trimmed: bool, seed: int) -> list[Row]:
    """A beam search and a training step of the full objective with the whole or the ``trimmed`` vocabulary.

    Args:
        features: (4, S, C) float32, of two real pictures and their two synthetic ones.
    """
    import torch

    from bncap.device import default_device

    torch.manual_seed(seed)
    config, device = get_config("paper"), default_device()
    real, synthetic = torch.from_numpy(features).to(device).split(2)
    pieces = sizes.trimmed if trimmed else sizes.decoder["vocab_size"]
    length, beams = config.model.max_tokens, config.decode.beams
    rows: list[Row] = []
    with _measured(rows, f"build decoder and bridge, {pieces:,} pieces"):
        model, captions = random_captioner(sizes, features.shape[2], trimmed)
        model.to(device)
    with _measured(rows, f"  beam search, 2 x {beams} beams, {length} tokens"), torch.no_grad():
        model.generate(model.bridge(real), config.decode, length)
    labels = model.labels(captions, length).to(device)
    with _measured(rows, f"  training step, B = 2, {real.shape[1]} patches, {labels.shape[1]} tokens"):
        train_step(model, real, synthetic, labels, config)
    return rows


def train_step(model: Captioner, real: Tensor, synthetic: Tensor, labels: Tensor, config: Config) -> dict[str, float]:
    """The first step of :func:`bncap.train.train` for B triplets, the whole decoder unfrozen; returns the raw terms.

    Args:
        real, synthetic: (B, S, C) features.
        labels: (B, T) token ids.
    """
    import torch

    from bncap import train
    from bncap.batches import Batch
    from bncap.precision import gradient_scaler

    model.train()
    places = torch.arange(len(real), device=real.device)
    batch = Batch(real, synthetic, labels, places, torch.ones_like(places, dtype=torch.bool))
    optimizer, _ = train._optimisation(model, config, 1)
    scaler = gradient_scaler(real.device, config.train.precision)
    return train._step(model, batch, None, config, optimizer, scaler)[0]


def _alone(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a process of its own, so that its peak memory is nobody else's."""
    progress(f"full size: {part}")
    return alone(function, *arguments)[0]


@contextmanager
def _measured(rows: list[Row], what: str) -> Iterator[None]:
    """Append the time and the peak memory of the block to ``rows``."""
    import torch

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    yield
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows.append(Row(what, seconds=seconds, peak=torch.cuda.max_memory_allocated() if cuda else resident))


def _channels(encoder: nn.Module) -> int:
    return encoder.feature_info[-1]["num_chs"]


def _counted(name: str, count: int, expected: float | None) -> Row:
    if expected is None:
        return Row(name, count)
    return Row(name, count, note=f"expected {expected}" + ("" if _agrees(count, expected) else ": DISAGREES"))


def _agrees(count: int, expected: float) -> bool:
    return round(count / 1e6, 1) == expected


def _line(row: Row) -> str:
    million = "" if row.parameters is None else f"{row.parameters / 1e6:.1f}"
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    peak = "" if row.peak is None else f"{row.peak / 1e9:.1f}"
    return f"{row.what:<46} {million:>9} {seconds:>8} {peak:>8}  {row.note}".rstrip()
