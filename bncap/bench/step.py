"""A training step of the full objective: ours over cached features against the plain reading on pictures."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bncap import objective, precision, train
from bncap.batches import Batch
from bncap.bench import ceiling, contenders
from bncap.bench.contenders import PATCHES, SEED
from bncap.bench.harness import Ratio, Result, Row, alternate, peak_memory, progress
from bncap.commands.random_models import MINI, Sizes
from bncap.config import get_config
from bncap.settings import Config

FASTER = {"cpu": 15, "cuda": 4}
"""Samples a second of ours over the plain reading's, wanted at full size."""
SMALLER = 3
"""Peak memory of the plain reading over ours, wanted at full size."""
T4_GIB = 13
"""Most that a step of 32 captions of 32 tokens may take in fp16 on a GPU of 16 GB."""
ADAMW_STATE, ADAMW_TRAFFIC = 16, 28
"""Bytes a parameter in fp32: weight, gradient and two moments; these read, and all but the gradient written."""


@dataclass(frozen=True)
class Setting:
    sizes: Sizes
    batch: int
    tokens: int


SETTINGS = {"full": Setting(Sizes(), 8, 24), "mini": Setting(MINI, 32, 16)}
LARGE = Setting(Sizes(), 32, 32)


class Ours:
    """Training as :func:`bncap.train.train` does it, with the whole decoder unfrozen.

    Args:
        features, features_syn: (B, S, C), written to a cache in ``folder`` that the steps read.
    """

    def __init__(self, setting: Setting, features: Tensor, features_syn: Tensor, device: str, folder: Path) -> None:
        self.setting, self.device = setting, torch.device(device)
        self.model = contenders.captioner(setting.sizes, features.shape[2], device)
        labels = contenders.labels(setting.batch, setting.tokens, self.model.language_id, setting.sizes.trimmed)
        self.triplets = contenders.write_cache(folder, features, features_syn, labels)
        self.batches = self._batches()
        self.optimizer, _ = train._optimisation(self.model, self.config("fp32"), 1000)
        self.scalers: dict[str, torch.amp.GradScaler] = {}

    def config(self, kind: str) -> Config:
        """The profile ``kaggle`` in precision ``kind``."""
        return get_config("kaggle", [f"train.batch={self.setting.batch}", f"train.precision={kind}"])

    def step(self, kind: str) -> None:
        self.model.train()
        scaler = self.scalers.setdefault(kind, precision.gradient_scaler(self.device, kind))
        train._step(self.model, next(self.batches), None, self.config(kind), self.optimizer, scaler)

    @torch.no_grad()
    def terms(self) -> dict[str, float]:
        """Those of the pictures given, in fp32 without dropout."""
        self.model.eval()
        batch = self.triplets.batch(np.arange(self.setting.batch)).to(self.device)
        found = objective.terms(self.model, batch, self.config("fp32").loss)
        return {name: float(value) for name, value in found.items()}

    def _batches(self) -> Iterator[Batch]:
        for epoch in count():
            yield from self.triplets.batches(SEED, epoch, self.setting.batch, self.device)


class Plain:
    """The plain reading on pixels that are in memory already: reading and resizing pictures costs it nothing."""

    def __init__(self, setting: Setting, device: str) -> None:
        self.device = torch.device(device)
        self.model = contenders.plain_reading(setting.sizes, setting.tokens, device)
        self.pictures = contenders.pictures(self.model, setting.batch, setting.sizes.side, device)
        labels = contenders.labels(setting.batch, setting.tokens, self.model.language, setting.sizes.trimmed)
        self.labels, self.images = labels.to(device), torch.arange(setting.batch, device=device)
        self.optimizer = self.model.adamw()
        self.scalers: dict[str, torch.amp.GradScaler] = {}

    @property
    def batch(self) -> tuple[Tensor, ...]:
        return self.pictures.real, self.pictures.synthetic, self.labels, self.images

    def step(self, kind: str) -> None:
        self.model.train()
        scaler = self.scalers.setdefault(kind, precision.gradient_scaler(self.device, kind))
        self.model.step(self.optimizer, *self.batch, mixed=precision.autocast(self.device, kind), scaler=scaler)

    @torch.no_grad()
    def terms(self) -> dict[str, float]:
        found = self.model.eval().terms(*self.batch)
        return {name: float(value) for name, value in found.items()}


def run(size: str, device: str, repeats: int) -> Result:
    """Peak memory of each in a process of its own, then both in turn in one process."""
    setting, kinds = SETTINGS[size], contenders.precisions(device)
    peaks = {f"ours, {kind}": _peak(ours_alone, setting, device, kind) for kind in kinds}
    against = contenders.against(device)
    peaks[f"plain, {against}"] = _peak(plain_alone, setting, device, against)
    progress("step: building both")
    with tempfile.TemporaryDirectory() as folder:
        plain = Plain(setting, device)
        ours = Ours(setting, plain.pictures.features, plain.pictures.features_syn, device, Path(folder))
        contenders.give_weights(ours.model, plain.model)
        terms = {"ours": ours.terms(), "plain": plain.terms()}
        steps = {f"ours, {kind}": partial(ours.step, kind) for kind in kinds}
        steps |= {f"plain, {kind}": partial(plain.step, kind) for kind in kinds}
        progress("step: one step of each")
        operations = {name: contenders.operations(step) for name, step in steps.items()}
        progress(f"step: {repeats} of each in turn")
        seconds = alternate(steps, repeats, device, warmup=False)
    trained = {"ours": _trained(ours.optimizer), "plain": _trained(plain.optimizer)}
    floors = {name: _floor(name, operations[name], trained, device) for name in steps}
    rows = [
        Row(name, times, setting.batch / statistics.median(times), "samples/s", peaks.get(name))
        for name, times in seconds.items()
    ]
    ratios = contenders.ratios(rows, "samples/s", device, FASTER[device] if size == "full" else None, floors)
    ratios.append(_memory(peaks, trained, f"ours, {contenders.usual(device)}", SMALLER if size == "full" else None))
    if device == "cuda" and size == "full":
        gib = _peak(ours_alone, LARGE, device, "fp16") / 2**30
        ratios.append(Ratio("GiB of a step in fp16, B = 32, 32 tokens, with AdamW's state", gib, T4_GIB, most=True))
    return Result(
        "step",
        size,
        device,
        f"B = {setting.batch}, {setting.tokens} tokens each, full objective, AdamW with its state, clipping; ours: "
        f"{setting.sizes.trimmed:,} pieces, float16 features from the disk; plain: "
        f"{setting.sizes.decoder['vocab_size']:,} pieces, {setting.sizes.encoder} on both pictures of "
        f"{setting.sizes.side} px, eager; {torch.get_num_threads()} threads",
        tuple(rows),
        tuple(ratios),
        {"terms": terms, "operations": operations, "trained_parameters": trained, "floor_seconds": floors},
    )


def ours_alone(setting: Setting, device: str, kind: str) -> None:
    """Three steps of ours; the first makes AdamW's state."""
    features = torch.randn(2, setting.batch, PATCHES, setting.sizes.channels)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(setting, *features, device, Path(folder))
        for _ in range(3):
            ours.step(kind)


def plain_alone(setting: Setting, device: str, kind: str) -> None:
    plain = Plain(setting, device)
    for _ in range(2):
        plain.step(kind)


def _peak(function: Callable[[Setting, str, str], None], setting: Setting, device: str, kind: str) -> int:
    progress(f"step: peak memory of {function.__name__}, {kind}, B = {setting.batch}")
    return peak_memory(function, setting, device, kind)


def _trained(optimizer: torch.optim.Optimizer) -> int:
    """Parameters that AdamW has moments of."""
    return sum(parameter.numel() for parameter in optimizer.state)


def _floor(name: str, operations: int, trained: Mapping[str, int], device: str) -> float:
    """Seconds of the counted operations and of AdamW's bytes at the ceilings measured here, one after the other."""
    whose, kind = name.split(", ")
    products = operations / ceiling.gemm_flops(device, precision.DTYPES[kind])
    return products + ADAMW_TRAFFIC * trained[whose] / ceiling.copy_bytes(device)


def _memory(peaks: Mapping[str, int], trained: Mapping[str, int], ours: str, wanted: float | None) -> Ratio:
    plain = next(name for name in peaks if name.startswith("plain"))
    ratio = Ratio(f"peak memory, {plain} / {ours}", peaks[plain] / peaks[ours], wanted)
    state = ADAMW_STATE * trained["ours"]
    bound = (
        f"weights, gradients and moments of {trained['ours'] / 1e6:.0f} M parameters in fp32 alone are "
        f"{state / 1e9:.2f} GB of {peaks[ours] / 1e9:.2f}: none that keeps them could pass {peaks[plain] / state:.2f}"
    )
    return ratio if ratio.reached else replace(ratio, bound=bound)
