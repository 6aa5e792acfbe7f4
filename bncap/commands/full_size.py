"""``python -m bncap check --full-size``: one training step and one beam search at the real sizes, with random weights.

Shows whether a machine can carry the paper's models before hours are spent.  Everything but the values of the weights
is real: MaxViT-B, mBART-50's decoder with 250,054 pieces and with a trimmed vocabulary, the bridge, the whole
objective, AdamW, beam search.  Nothing is downloaded.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bncap.config import get_config
from bncap.errors import BncapError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncap.model import Captioner
    from bncap.settings import Config

MBART50: dict[str, Any] = {
    "vocab_size": 250_054, "d_model": 1024, "max_position_embeddings": 1024, "scale_embedding": True,
    "encoder_layers": 12, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "decoder_layers": 12, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096,
    "dropout": 0.1, "activation_function": "gelu", "decoder_start_token_id": 2,
}  # fmt: skip
"""``config.json`` of ``facebook/mbart-large-50``."""
SPECIAL_PIECES = 57
"""Of mBART-50's vocabulary: ``<s> <pad> </s> <unk>``, 52 languages, ``<mask>``."""
ALWAYS_KEPT = 6
"""Of a trimmed vocabulary: ``<s> <pad> </s> <unk>``, the language, the mark of a word's start."""
ENCODER, CLASSIFIER = "MaxViT-B as used", "MaxViT-B with its classifier"
WHOLE, LOADED = "mBART-50 whole", "mBART-50 as loaded, no text encoder"
EXPECTED = {CLASSIFIER: 119.5, ENCODER: 118.1, WHOLE: 610.9, LOADED: 459.7}
"""Millions of parameters to one decimal, as published with the checkpoints; as loaded, mBART-50 has 12 x 12,596,224
fewer, the layers of its text encoder."""


@dataclass(frozen=True)
class Sizes:
    """A timm encoder, the side of its pictures in px, settings of an mBART, and the pieces of a trimmed vocabulary."""

    encoder: str = "maxvit_base_tf_224"
    side: int = 224
    decoder: dict[str, Any] = field(default_factory=lambda: MBART50)
    trimmed: int = 12_000  # about what 80,000 captions use


def full_size_table(
    seed: int = 42, sizes: Sizes | None = None, expected: Mapping[str, float] = EXPECTED
) -> tuple[str, bool]:
    """Parameters by part, time of each operation and peak memory; and whether all counts are the published ones.

    On a CPU the peak is the resident memory of a process that runs this part alone, up to and including the line; on
    CUDA it is what the operation had allocated.
    """
    sizes = sizes or Sizes()
    counts = count_parameters(sizes)
    wrong = [name for name, million in expected.items() if round(counts[name] / 1e6, 1) != million]
    notes = {name: f"expected {million}{': DISAGREES' if name in wrong else ''}" for name, million in expected.items()}
    rows = [
        {"part": name, "million": f"{count / 1e6:.1f}", "note": notes.get(name, "")} for name, count in counts.items()
    ]
    device, encoded, features = run_alone(encode_pictures, sizes, seed)
    rows += encoded
    for trimmed in (False, True):
        rows += run_alone(train_and_decode, sizes, features, trimmed, seed)
    table = pd.DataFrame(rows).set_index("part").rename_axis(None)[["million", "seconds", "peak GB", "note"]]
    text = table.fillna("").to_string()
    verdict = f"parameters {'DISAGREE' if wrong else 'agree'} with those of the published checkpoints"
    return f"full size, random weights (seed {seed}) on {device}\n{text}\n{verdict}", not wrong


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a process of its own, so that its peak memory is nobody else's."""
    print(f"full size: {function.__name__} ...", file=sys.stderr, flush=True)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise BncapError(
            f"{function.__name__}: the process ended abruptly, most likely for lack of memory; use a larger machine"
        ) from error


def count_parameters(sizes: Sizes) -> dict[str, int]:
    """Parameters of each part, counted on models without storage."""
    import timm  # heavy
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration

    from bncap.model import Bridge  # loads heavy libraries

    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    pieces = sizes.decoder["vocab_size"]
    with torch.device("meta"):
        encoder = timm.create_model(sizes.encoder, pretrained=False)
        mbart = MBartForConditionalGeneration(MBartConfig(**sizes.decoder))
        loaded = MBartForConditionalGeneration(MBartConfig(**{**sizes.decoder, "encoder_layers": 0}))
        bridge = Bridge(encoder.feature_info[-1]["num_chs"], sizes.decoder["d_model"])
    embedding = count(loaded.model.shared)
    return {
        CLASSIFIER: count(encoder),
        ENCODER: count(encoder) - count(encoder.head),
        WHOLE: count(mbart),
        LOADED: count(loaded),
        f"  embedding, {pieces:,} pieces": embedding,
        f"  embedding, {sizes.trimmed:,} pieces": embedding // pieces * sizes.trimmed,
        "  decoder layers and positions": count(loaded.model.decoder) - embedding,
        "bridge": count(bridge),
    }


def encode_pictures(sizes: Sizes, seed: int) -> tuple[str, list[dict[str, str]], np.ndarray]:
    """Encode two real and two synthetic pictures of noise.

    Returns:
        name of the device; rows; (4, S, C) float32 patch features.
    """
    import timm  # heavy
    import torch

    from bncap.device import default_device  # loads heavy libraries

    torch.manual_seed(seed)
    device = default_device()
    rows: list[dict[str, str]] = []
    with measured(rows, f"build {sizes.encoder}"):
        model = timm.create_model(sizes.encoder, pretrained=False).eval().requires_grad_(False)
        model.to(device, memory_format=torch.channels_last)
    pixels = torch.randn(4, 3, sizes.side, sizes.side).to(device, memory_format=torch.channels_last)
    half = torch.autocast(device.type, torch.float16, enabled=device.type == "cuda")
    with measured(rows, "encode 2 x 2 pictures"), torch.inference_mode(), half:
        maps = model.forward_intermediates(pixels, indices=1, intermediates_only=True, output_fmt="NCHW")
    features = maps[-1].flatten(2).transpose(1, 2).float().cpu().numpy()  # (4, S, C)
    cuda = device.type == "cuda"
    return torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads", rows, features


def train_and_decode(sizes: Sizes, features: np.ndarray, trimmed: bool, seed: int) -> list[dict[str, str]]:
    """Run a beam search and a training step of the full objective with the whole or the ``trimmed`` vocabulary.

    Args:
        features: (4, S, C) float32, of two real pictures and their two synthetic ones.
    """
    import torch  # heavy

    from bncap.device import default_device  # loads heavy libraries

    torch.manual_seed(seed)
    config, device = get_config("paper"), default_device()
    real, synthetic = torch.from_numpy(features).to(device).split(2)
    pieces = sizes.trimmed if trimmed else sizes.decoder["vocab_size"]
    length, beams = config.model.max_tokens, config.decode.beams
    rows: list[dict[str, str]] = []
    with measured(rows, f"build decoder and bridge, {pieces:,} pieces"):
        model, captions = make_random_captioner(sizes, features.shape[2], trimmed)
        model.to(device)
    with measured(rows, f"  beam search, 2 x {beams} beams, {length} tokens"), torch.no_grad():
        model.generate(model.bridge(real), config.decode, length)
    labels = model.labels(captions, length).to(device)
    with measured(rows, f"  training step, B = 2, {real.shape[1]} patches, {labels.shape[1]} tokens"):
        take_training_step(model, real, synthetic, labels, config)
    return rows


def take_training_step(
    model: Captioner, real: Tensor, synthetic: Tensor, labels: Tensor, config: Config
) -> dict[str, float]:
    """The first step of :func:`bncap.train.train` for B triplets, the whole decoder unfrozen; returns the raw terms.

    Args:
        real, synthetic: (B, S, C) features.
        labels: (B, T) token ids.
    """
    import torch  # heavy

    from bncap import train  # loads heavy libraries
    from bncap.batches import Batch
    from bncap.device import gradient_scaler

    model.train()
    rows = torch.arange(len(real), device=real.device)
    batch = Batch(real, synthetic, labels, rows, torch.ones_like(rows, dtype=torch.bool))
    optimizer, _ = train.build_optimizer(model, config, 1)
    scaler = gradient_scaler(real.device, config.train.precision)
    return train.training_step(model, batch, config, optimizer, scaler)[0]


def make_random_captioner(sizes: Sizes, channels: int, trimmed: bool) -> tuple[Captioner, list[str]]:
    """A captioner with random weights for ``channels`` channels, and two captions of over ``model.max_tokens`` tokens.

    The words of its tokenizer are w000000, w000001, ...
    """
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration  # heavy

    from bncap.decoders.captioner import IMPLEMENTATION  # loads heavy libraries
    from bncap.decoders.mbart import Vocabulary, trim
    from bncap.model import Captioner

    words = [f"w{i:06d}" for i in range(sizes.decoder["vocab_size"] - SPECIAL_PIECES - 1)]
    pieces = [(piece, -1.0) for piece in ("<unk>", "<s>", "</s>", "▁", *(f"▁{word}" for word in words))]
    tokenizer = MBart50Tokenizer(vocab=pieces, src_lang="bn_IN", tgt_lang="bn_IN")
    settings = {**sizes.decoder, "encoder_layers": 0}  # as load_decoder gives it
    decoder = MBartForConditionalGeneration(MBartConfig(**settings, attn_implementation=IMPLEMENTATION))
    used = [words[i] for i in np.linspace(0, len(words) - 1, sizes.trimmed - ALWAYS_KEPT).astype(int)]
    vocabulary = None
    if trimmed:
        vocabulary = Vocabulary.of(used, tokenizer)
        trim(decoder, vocabulary)
    captions = [" ".join(part) for part in np.array_split(used[:80], 2)]
    return Captioner(decoder, tokenizer, channels, vocabulary=vocabulary), captions


@contextmanager
def measured(rows: list[dict[str, str]], operation: str) -> Iterator[None]:
    """Append the time and the peak memory of the block to ``rows``."""
    import torch  # heavy

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    yield
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak = torch.cuda.max_memory_allocated() if cuda else resident
    rows.append({"part": operation, "seconds": f"{seconds:.1f}", "peak GB": f"{peak / 1e9:.1f}"})
