"""The real sizes with random weights on whatever device there is: what a machine can carry, before hours are spent.

Everything but the values of the weights is real: MaxViT-B, mBART-50's decoder with 250,054 pieces and with a trimmed
vocabulary, the bridge, the whole objective, AdamW, beam search.  Nothing is downloaded.
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

from bncap.config import get_config
from bncap.errors import BncapError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import MBartForConditionalGeneration

    from bncap.model import Captioner
    from bncap.settings import Config

MBART50 = {
    "vocab_size": 250_054, "d_model": 1024, "max_position_embeddings": 1024, "scale_embedding": True,
    "encoder_layers": 12, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "decoder_layers": 12, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096,
    "dropout": 0.1, "activation_function": "gelu", "decoder_start_token_id": 2,
}  # fmt: skip
"""``config.json`` of ``facebook/mbart-large-50``."""
SPECIAL_PIECES = 57
"""Of mBART-50's vocabulary: ``<s> <pad> </s> <unk>``, 52 languages, ``<mask>``."""
KEPT_ANYWAY = 6
"""Of a trimmed one: ``<s> <pad> </s> <unk>``, the language, the mark of a word's start."""
ENCODER, CLASSIFIER = "MaxViT-B as used", "MaxViT-B with its classifier"
WHOLE, LOADED = "mBART-50 whole", "mBART-50 as loaded, no text encoder"


@dataclass(frozen=True)
class Sizes:
    """What is built, and ``expected``: millions of parameters to one decimal, as published with the checkpoints; as
    loaded, mBART-50 has 12 x 12,596,224 fewer, the layers of its text encoder."""

    encoder: str = "maxvit_base_tf_224"
    side: int = 224  # px
    decoder: Mapping[str, Any] = field(default_factory=lambda: MBART50)
    trimmed: int = 12_000  # pieces: about what 80,000 captions use
    expected: Mapping[str, float] = field(
        default_factory=lambda: {CLASSIFIER: 119.5, ENCODER: 118.1, WHOLE: 610.9, LOADED: 459.7}
    )


@dataclass(frozen=True)
class Row:
    """A line of the table: a part with its parameters, or an operation with its time and peak memory."""

    what: str
    parameters: int | None = None
    seconds: float | None = None
    peak: int | None = None  # bytes
    note: str = ""


def full_size_table(seed: int = 42, sizes: Sizes | None = None) -> tuple[str, bool]:
    """Parameters by part, time of each operation and peak memory; and whether all counts are the published ones.

    On a CPU the peak is that of the resident memory of a process of its own for each vocabulary, which also holds
    everything above the line within it; on CUDA it is what the operation had allocated.
    """
    sizes = sizes or Sizes()
    counts = parameter_counts(sizes)
    rows = [_counted(name, count, sizes.expected.get(name)) for name, count in counts.items()]
    device, encoded, features = _alone("encoder", encode_pictures, sizes, seed)
    rows += encoded
    for trimmed in (False, True):
        part = "decoder with a trimmed vocabulary" if trimmed else "decoder with the whole vocabulary"
        rows += _alone(part, train_and_decode, sizes, features, trimmed, seed)
    agree = all(_agrees(counts[name], million) for name, million in sizes.expected.items())
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


def random_captioner(sizes: Sizes, channels: int, trimmed: bool) -> tuple[Captioner, list[str]]:
    """A captioner over ``channels`` channels, and two captions of more than ``model.max_tokens`` tokens.

    Its tokenizer has as many pieces as mBART-50's, made up.
    """
    from transformers import MBart50Tokenizer

    from bncap.model import Captioner
    from bncap.vocabulary import Vocabulary, trim

    words = sizes.decoder["vocab_size"] - SPECIAL_PIECES - 1
    pieces = ["<unk>", "<s>", "</s>", "▁", *(f"▁w{i:06d}" for i in range(words))]
    tokenizer = MBart50Tokenizer(vocab=[(piece, -1.0) for piece in pieces], src_lang="bn_IN", tgt_lang="bn_IN")
    used = [f"w{i:06d}" for i in np.linspace(0, words - 1, sizes.trimmed - KEPT_ANYWAY).astype(int)]
    decoder, vocabulary = _random_decoder(sizes), None
    if trimmed:
        vocabulary = Vocabulary.of(used, tokenizer)
        trim(decoder, vocabulary)
    captions = [" ".join(part) for part in np.array_split(used[:80], 2)]
    return Captioner(decoder, tokenizer, channels, vocabulary=vocabulary), captions


def train_step(model: Captioner, real: Tensor, synthetic: Tensor, labels: Tensor, config: Config) -> dict[str, float]:
    """One step of AdamW on Eq. 6 for B triplets: (B, S, C) features, (B, T) labels; returns the raw terms."""
    import torch

    from bncap.batches import Batch
    from bncap.losses import total
    from bncap.objective import terms, weights_of
    from bncap.train import autocast

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), config.train.learning_rate)
    places = torch.arange(len(real), device=real.device)
    batch = Batch(real, synthetic, labels, places, torch.ones_like(places, dtype=torch.bool))
    with autocast(real.device):
        found = terms(model, batch, config.loss)
    loss = total(found, weights_of(config.loss))
    if not loss.isfinite():
        raise BncapError(f"the loss of random weights is not finite ({found}); check the installation of torch")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
    optimizer.step()
    return {name: float(value.detach()) for name, value in found.items()}


def _random_decoder(sizes: Sizes) -> MBartForConditionalGeneration:
    """As :func:`bncap.pretrained.load_decoder` gives it; the library's own constructor draws each weight twice."""
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration

    from bncap.attention import IMPLEMENTATION

    config = MBartConfig(**sizes.decoder | {"encoder_layers": 0}, attn_implementation=IMPLEMENTATION)
    with torch.device("meta"):
        model = MBartForConditionalGeneration(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        model.final_logits_bias.zero_()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, config.init_std)
            else:
                parameter.fill_("norm" in name and name.endswith("weight"))
    return model


def _alone(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a process of its own, so that its peak memory is nobody else's."""
    print(f"full size: {part} ...", file=sys.stderr)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise BncapError(
            f"full size: {part}: the process ended abruptly, most likely for lack of memory; use a larger machine"
        ) from error


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
