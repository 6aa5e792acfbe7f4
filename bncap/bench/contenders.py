"""What the benchmarks of training and decoding compare: ours over cached features, the plain reading on pictures."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bncap import precision
from bncap.batches import Triplets
from bncap.bench.harness import Ratio, Row, machine
from bncap.commands.random_models import SPECIAL_PIECES, Sizes, random_captioner, random_mbart
from bncap.encoders.feature_store import FeatureStore
from bncap.errors import BncapError
from bncap.model import Captioner
from bncap.pipeline import artifacts, paths

if TYPE_CHECKING:
    from plain_reading import PlainReading

SEED = 42
PLAIN = paths.ROOT / "tests" / "plain_reading.py"
PATCHES = 49  # 7 x 7, of MaxViT-B's 224 px and of the miniature's 112
BENGALI = 26  # place of bn_IN's token, from the end of a vocabulary
COPIES = 32  # of each picture's features in the cache, so that an epoch has some batches


@dataclass(frozen=True)
class Pictures:
    """B triplets of noise: ``real`` and ``synthetic`` (B, 3, H, W) pixels and their (B, S, C) features by MaxViT."""

    real: Tensor
    synthetic: Tensor
    features: Tensor
    features_syn: Tensor


def plain_module() -> ModuleType:
    """``tests/plain_reading.py``; :class:`BncapError` where the package was installed without the repository."""
    if "plain_reading" not in sys.modules:
        if not PLAIN.is_file():
            raise BncapError(f"{PLAIN} is missing: this benchmark needs a clone of the repository; start it there")
        spec = importlib.util.spec_from_file_location("plain_reading", PLAIN)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["plain_reading"] = module
    return sys.modules["plain_reading"]


def plain_reading(sizes: Sizes, tokens: int, device: str) -> PlainReading:
    """The plain reading with random weights: MaxViT and the whole of mBART-50, its text encoder too."""
    import timm

    import bncap.mini.encoder  # noqa: F401  registers the mini architectures with timm

    module = plain_module()
    torch.manual_seed(SEED)
    encoder = timm.create_model(sizes.encoder, pretrained=False)
    mbart = random_mbart(sizes.decoder, "eager")
    return module.PlainReading(encoder, mbart, sizes.decoder["vocab_size"] - BENGALI, tokens).to(device)


def captioner(sizes: Sizes, channels: int, device: str) -> Captioner:
    """Ours with random weights and the trimmed vocabulary."""
    torch.manual_seed(SEED)
    trimmed = replace(sizes, decoder=sizes.decoder | {"vocab_size": sizes.trimmed})
    return random_captioner(trimmed, channels, trimmed=False)[0].to(device)


@torch.no_grad()
def give_weights(model: Captioner, plain: PlainReading) -> Tensor:
    """Put the weights of ``plain`` into ``model``; returns the ids (V,) in its vocabulary of the pieces of ``model``:
    the first, and the language's."""
    kept = torch.arange(model.decoder.config.vocab_size)
    kept[model.language_id] = plain.language
    values = dict(plain.mbart.named_parameters())
    for name, parameter in model.decoder.named_parameters():
        value = values[name]
        parameter.copy_(value[kept.to(value.device)] if name == "model.shared.weight" else value)
    model.bridge.projection.load_state_dict(plain.projection.state_dict())
    model.bridge.norm.load_state_dict(plain.norm.state_dict())
    return kept


def pictures(plain: PlainReading, count: int, side: int, device: str) -> Pictures:
    """``count`` triplets, seeded; each picture is of its own brightness and contrast, so that features differ."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2 * count, 3, side, side, generator=generator)
    blots = torch.randn(2 * count, 3, 7, 7, generator=generator)
    pixels = (noise + 2 * torch.nn.functional.interpolate(blots, side)).to(device)
    features = torch.cat([plain.features(part) for part in pixels.split(count)])
    return Pictures(*pixels.split(count), *features.split(count))


def labels(count: int, tokens: int, language: int, pieces: int) -> Tensor:
    """(count, tokens) int64: ``language``, random words among ``pieces``, the end."""
    words = torch.randint(4, pieces - SPECIAL_PIECES, (count, tokens), generator=torch.Generator().manual_seed(SEED))
    words[:, 0], words[:, -1] = language, 2
    return words


def write_cache(folder: Path, features: Tensor, features_syn: Tensor, made: Tensor) -> Triplets:
    """A feature cache below ``folder`` and its triplets, :data:`COPIES` of each, the first B being those given.

    Args:
        features, features_syn: (B, S, C).
        made: (B, T) labels.
    """
    count = len(features) * COPIES

    def write_features(target: Path) -> None:
        for name, values in {"train": features, "synthetic": features_syn}.items():
            rows = values.half().cpu().numpy()
            np.save(target / f"{name}.npy", np.tile(rows, (COPIES, 1, 1)))
            artifacts.write_csv(target / f"{name}.csv", ["row", "id"], [(i, i) for i in range(count)])

    def write_triplets(target: Path) -> None:
        header = ["caption_id", "image_id", "image", "synthetic", "en", "target"]
        artifacts.write_csv(target / "triplets.csv", header, [[i, i, i, f"{i}.png", "", ""] for i in range(count)])

    step = folder / "bench" / "02_synthesis"
    store = artifacts.run_step(step / "features-s42", settings={}, build=write_features, quiet=True)
    images = artifacts.run_step(step / "images-s42", settings={}, build=write_triplets, quiet=True)
    return Triplets(images, FeatureStore(store), lambda captions: made.repeat(COPIES, 1))


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def precisions(device: str) -> tuple[str, ...]:
    """Values of ``train.precision`` worth a row on ``device``: fp32, and the half precision that it computes fast."""
    if device == "cuda":
        return "fp32", named(precision.compute_dtype(torch.device(device)))
    sets = machine(device)["processor"].split()
    return ("fp32", "bf16") if {"amx_bf16", "avx512_bf16"} & set(sets) else ("fp32",)


def usual(device: str) -> str:
    """What ``train.precision=auto`` means on ``device``."""
    return named(precision.compute_dtype(torch.device(device)))


def against(device: str) -> str:
    """Precision of the plain reading that ours is to be compared with: on a GPU the paper's own, which is mixed."""
    return "fp32" if device == "cpu" else usual(device)


def ratios(
    rows: Sequence[Row], what: str, device: str, wanted: float | None, floors: Mapping[str, float]
) -> list[Ratio]:
    """Speed of the rows "ours, ..." over "plain, ...", first that of the usual precision, to which ``wanted`` applies;
    each over the plain reading :func:`against` it and over that in the same precision.

    Args:
        floors: seconds of what was counted, at the machine's ceilings, by row.
    """
    median = {row.name: row.median for row in rows}
    kinds = [name.split(", ")[1] for name in median if name.startswith("ours")]
    first = usual(device), against(device)
    pairs = dict.fromkeys([first, *((kind, against(device)) for kind in kinds), *((kind, kind) for kind in kinds)])
    found = []
    for kind, other in pairs:
        ours, plain = f"ours, {kind}", f"plain, {other}"
        goal = wanted if (kind, other) == first else None
        ratio = Ratio(f"{what}, ours in {kind} / plain in {other}", median[plain] / median[ours], goal)
        bound = (
            f"operations and bytes counted take ours {floors[ours]:.3g} s at the ceilings measured here, "
            f"{floors[ours] / median[ours]:.0%} of its time: in {kind} none could pass "
            f"{median[plain] / floors[ours]:.1f}"
        )
        found.append(ratio if ratio.reached else replace(ratio, bound=bound))
    return found


def named(dtype: torch.dtype) -> str:
    return next(name for name, value in precision.DTYPES.items() if value == dtype)
