"""GPU-hours of every table at the paper's scale: the runs of each, what they compute, and how fast a card is at that.

A card that was measured is taken as fast as it was.  Another is given its published peaks times the share of the
ceilings that our step reaches where it was measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bncap.bench import operations
from bncap.bench.operations import TOKENS, Decoder, Work
from bncap.commands.random_models import MBART50, Sizes
from bncap.commands.resources import REAL_SHARE
from bncap.config import BASE, BASELINES, MAIN, SENSITIVITY, VARIANTS, get_config
from bncap.pipeline import artifacts
from bncap.settings import override

QUOTA = 30
"""GPU-hours a week that Kaggle gives."""
CAPTIONS = 5
"""Of a COCO picture."""
ENCODERS = {"": Sizes().encoder, "vit_gpt2": "vit_base_patch16_224", "cnn_lstm": "resnet50"}
"""timm's name of the encoder of each baseline; "" is that of all other runs."""


@dataclass(frozen=True)
class Card:
    """Published peaks: fp16 matrix products with float32 sums, operations a second; memory, bytes a second."""

    name: str
    operations: float
    bytes: float
    source: str


CARDS = (
    Card("T4", 65e12, 320e9, "NVIDIA T4 data sheet: 65 TFLOP/s fp16 on tensor cores, 320 GB/s"),
    Card("P100", 18.7e12, 732e9, "NVIDIA P100 PCIe 16 GB data sheet: 18.7 TFLOP/s fp16, 732 GB/s"),
)


@dataclass(frozen=True)
class Clock:
    """How long a card takes: effective operations and bytes a second; ``searching`` is that of decoding, if it differs.

    ``how`` says in Markdown where the figures come from, ``measured`` whether on this very card.
    """

    name: str
    operations: float
    bytes: float
    how: str
    measured: bool = False
    searching: Clock | None = None

    def hours(self, work: Work, part: str = "training") -> float:
        if part == "decoding" and self.searching:
            return self.searching.hours(work)
        return (work.operations / self.operations + work.bytes / self.bytes) / 3600


@dataclass(frozen=True)
class Run:
    """A training with its evaluation.

    ``steps`` of the optimiser and the work of one ``step``; ``tested`` pictures are decoded; ``parts``: the whole work
    of "training", "validation" and "decoding".
    """

    label: str
    steps: int
    step: Work
    tested: int
    parts: Mapping[str, Work]


def tables(plain: bool = False) -> dict[str, list[Run]]:
    """Table -> the runs that it adds to those above it, ours or those of the ``plain`` reading."""
    rest = [name for name in VARIANTS if name not in (BASE, MAIN)]
    return {
        "Table 2": [run_of(name, plain) for name in (BASE, MAIN)],
        "Table 1": [run_of(name, plain) for name in BASELINES],
        "Table 3": [run_of(name, plain) for name in rest],
        "Table 4": [run_of(name, plain) for name in SENSITIVITY],
    }


def run_of(name: str, plain: bool = False) -> Run:
    """What the run ``name`` computes at the paper's scale.

    The ``plain`` reading sends every picture through the encoder at every use, pads captions to the maximum and keeps
    the whole vocabulary.
    """
    variant = (VARIANTS | BASELINES | SENSITIVITY)[name]
    config = override(get_config("paper" if plain else "kaggle"), variant.overrides)
    share = config.experiment.sensitivity_triplets if name in SENSITIVITY else 1.0
    triplets, batch = round(share * config.data.triplets), config.train.batch
    steps = config.train.epochs * math.ceil(triplets / batch)
    decoder = _decoder(name, plain)
    tokens = config.model.max_tokens if plain else TOKENS
    passes = 1 if config.loss.ce_on == "real" else 2
    aligned = max(config.loss.lambda_pal, config.loss.alpha, config.loss.beta) > 0
    seen = operations.encoding(ENCODERS.get(name, ENCODERS[""])) * plain  # a picture
    step = operations.training(decoder, batch, tokens, passes, config.model.checkpointing)
    step += operations.alignment(decoder, batch) * aligned + seen * (batch * (passes + aligned))
    validated = config.train.epochs * config.data.validation_images * CAPTIONS
    tested = config.data.test_images + config.data.ood_images
    together = operations.decoding(decoder, config.decode.batch, config.decode.beams, tokens)
    searched = together * (1 / config.decode.batch)
    parts = {
        "training": step * steps,
        "validation": (operations.validation(decoder, tokens) + seen) * validated,
        "decoding": (searched + seen) * tested,
    }
    return Run(variant.label, steps, step, tested, parts)


def real_pictures() -> float:
    """Photographs that the runs use, in training and held out."""
    data = get_config("kaggle").data
    return REAL_SHARE * data.triplets + data.validation_images + data.test_images + data.ood_images


def features() -> dict[str, Work]:
    """The single pass of each encoder over the pictures that its runs use: real ones, and the main one's synthetic."""
    drawn, real = get_config("kaggle").data.triplets, real_pictures()
    return {name: operations.encoding(name) * (real + (not baseline) * drawn) for baseline, name in ENCODERS.items()}


def sums(clock: Clock, runs: Mapping[str, list[Run]]) -> dict[str, float]:
    """Table -> hours of its runs."""
    return {
        table: sum(clock.hours(work, part) for run in of_table for part, work in run.parts.items())
        for table, of_table in runs.items()
    }


def clocks(folder: Path, plain: bool = False) -> list[Clock]:
    """The card that was measured, if ``step-full-cuda.json`` is there, then :data:`CARDS`; none without any step."""
    device = "cuda" if read(folder, "step", "cuda") else "cpu"
    step, decode = read(folder, "step", device), read(folder, "decode", device)
    if step is None:
        return []
    whose = "plain" if plain else "ours"
    share, row = efficiency(step, whose)
    where = step["machine"].get("gpu") or f"a CPU ({step['machine']['processor']})"
    how = f"of the ceilings measured on {where} a step ({row}) reaches {share:.1%}"
    searched = None
    if decode:
        searched, row = efficiency(decode, whose)
        how += f", a search ({row}) {searched:.1%}"
    derived = [_scaled(card, share, how, searched and _scaled(card, searched)) for card in CARDS]
    return [*([_measured(folder, step)] if device == "cuda" and not plain else []), *derived]


def efficiency(record: Mapping[str, Any], whose: str) -> tuple[float, str]:
    """Share of the measured ceilings that ``whose`` row of a bench's ``record`` reaches, and which row that is.

    Of several precisions it is half, which :data:`CARDS` compute in.
    """
    medians = {row["name"]: row["median"] for row in record["rows"] if row["name"].startswith(f"{whose}, ")}
    name = min(medians, key=lambda row: row.endswith("fp32"))
    return record["details"]["floor_seconds"][name] / medians[name], name


def read(folder: Path, bench: str, device: str, size: str = "full") -> dict[str, Any] | None:
    """A bench's JSON, None if it is not there."""
    path = folder / f"{bench}-{size}-{device}.json"
    return artifacts.read_json(path) if path.is_file() else None


def _scaled(card: Card, share: float, how: str = "", searching: Clock | None = None) -> Clock:
    return Clock(card.name, card.operations * share, card.bytes * share, how, searching=searching)


def _measured(folder: Path, step: Mapping[str, Any]) -> Clock:
    """The GPU as it was measured: a step of a whole batch where ``growth`` has one, else as many small ones."""
    batch, name, main = get_config("kaggle").train.batch, step["machine"]["gpu"], run_of(MAIN)
    growth, decode = read(folder, "growth", "cuda"), read(folder, "decode", "cuda")
    points = growth["details"]["points"] if growth else []
    whole = [statistics.median(p["seconds"]) for p in points if (p["axis"], p["value"]) == ("batch", batch)]
    seconds = whole[0] if whole else batch / _fastest(step)["rate"]
    how = f"measured: {seconds:.4g} s a step of {batch}, scaled by counted operations for other work"
    searching = None
    if decode:
        rate = _fastest(decode)["rate"]
        searching = Clock(name, main.parts["decoding"].operations * rate / main.tested, math.inf, "")
        how += f"; {rate:.3g} pictures/s decoded"
    return Clock(name, main.step.operations / seconds, math.inf, how, True, searching)


def _fastest(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return max((row for row in record["rows"] if row["name"].startswith("ours")), key=lambda row: row["rate"])


def _decoder(name: str, plain: bool) -> Decoder:
    pieces = MBART50["vocab_size"] if plain else Sizes().trimmed
    if name == "vit_gpt2":
        return operations.gpt2()
    return operations.lstm(pieces) if name == "cnn_lstm" else operations.mbart(pieces)
