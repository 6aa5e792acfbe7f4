"""The miniature's image encoders, trained to tell which object and colour covers each cell of painted scenes.

For each cell of the 7 x 7 map this proxy task asks for the kind (or "background") and the colour of the object that
covers it, in newly painted ``real`` and ``synthetic`` scenes of the training domain (ImageNet, too, holds photographs
and drawings); no out-of-domain picture is shown.  The checkpoint of the MaxViT ships with the package;
``python -m bncap.small_models.encoder --seed 42 --out DIR`` makes it again.  Notebook 00 trains the encoders of the
baselines.  :mod:`bncap.encoders.mini_models` has the architectures.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from bncap.encoders.mini_models import GRID
from bncap.errors import BncapError
from bncap.mini.draw import STYLES, boxes, paint
from bncap.mini.scene import COLOURS, KINDS, SIDE, Scene, sample_scene
from bncap.pipeline.artifacts import write_json

CHECKPOINT = Path(__file__).parent / "checkpoints" / "maxvit_mini"
"""The checkpoint that ships with the package."""

COMMAND = "python -m bncap.small_models.encoder --seed 42 --out DIR"
BACKGROUND_LABEL = len(KINDS)
IGNORED_LABEL = -100


@dataclass(frozen=True)
class Recipe:
    """How an encoder is pretrained.

    ``scenes``: different pictures, None for a new one each time; ``bf16``: the part of the encoder that computes in
    bfloat16 where the processor can; not attention, whose backward pass becomes many times slower so on a CPU.
    """

    steps: int
    batch: int
    lr: float
    scenes: int | None = None
    bf16: str | None = None


RECIPES = {
    "bncap_maxvit_mini": Recipe(steps=1200, batch=32, lr=3e-3),
    "bncap_vit_mini": Recipe(steps=280, batch=16, lr=5e-3, scenes=1500, bf16="patch_embed.backbone"),
    "bncap_cnn_mini": Recipe(steps=300, batch=16, lr=8e-3, scenes=1500, bf16=""),
}


class PaintedScenes(Dataset):
    """Scene ``i``, painted on demand: in turn ``real``, ``synthetic``, ``real``, ..., or always in one ``style``.

    An item is a picture (3, 112, 112) uint8 with its kind and colour labels, (7, 7) int64 each; it depends on (seed, i)
    alone.  ``count`` is the number of objects to try to place, None for the usual 1 to 3.
    """

    def __init__(self, length: int, seed: int, style: str | None = None, count: int | None = None) -> None:
        self.length, self.seed, self.style, self.count = length, seed, style, count

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = random.Random(f"proxy {self.seed} {index}")
        scene = sample_scene(rng, out_of_domain=self.style == "ood", count=self.count)
        style = self.style or ("real", "synthetic")[index % 2]
        picture = np.asarray(paint(scene, style, rng.getrandbits(32)))
        return (np.ascontiguousarray(picture.transpose(2, 0, 1)), *cell_labels(scene))


def cell_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Kind and colour label of each cell, two (7, 7) int64 arrays.

    A cell belongs to the object whose box covers most of it, if that is at least half; it is background if none covers
    more than a tenth; the others are ``IGNORED_LABEL``, as is the colour of the background.
    """
    edges = np.arange(GRID + 1) * (SIDE / GRID)
    cover = np.zeros((len(scene.objects), GRID, GRID))
    for n, (x, y, width, height) in enumerate(boxes(scene)):
        across = np.clip(np.minimum(edges[1:], x + width) - np.maximum(edges[:-1], x), 0, None)
        down = np.clip(np.minimum(edges[1:], y + height) - np.maximum(edges[:-1], y), 0, None)
        cover[n] = np.outer(down, across) * (GRID / SIDE) ** 2
    most, owner = cover.max(axis=0), cover.argmax(axis=0)
    kind_of = np.array([KINDS.index(o.kind) for o in scene.objects])
    colour_of = np.array([COLOURS.index(o.colour) for o in scene.objects])
    colours = np.where(most >= 0.5, colour_of[owner], IGNORED_LABEL)
    kinds = np.where(most >= 0.5, kind_of[owner], np.where(most <= 0.1, BACKGROUND_LABEL, IGNORED_LABEL))
    return kinds, colours


class ProxyHeads(nn.Module):
    """Per-cell classifiers of kind (24 and background) and colour (8) on an encoder's last map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kind = nn.Linear(width, len(KINDS) + 1)
        self.colour = nn.Linear(width, len(COLOURS))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, 7, 7) -> logits (B, 25, 7, 7) and (B, 8, 7, 7)."""
        cells = features.permute(0, 2, 3, 1)  # (B, 7, 7, C)
        cells = F.layer_norm(cells, cells.shape[-1:])
        return self.kind(cells).permute(0, 3, 1, 2), self.colour(cells).permute(0, 3, 1, 2)


def last_map(encoder: Any, pictures: Tensor) -> Tensor:
    """(B, 3, 112, 112) uint8 -> the map (B, C, 7, 7) float that ``features_only`` yields last, before a final norm."""
    pixels = ((pictures.float() / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
    return encoder.forward_intermediates(pixels, indices=1, intermediates_only=True)[-1]


def _augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Vary contrast, exposure, white balance, slope of light, sharpness and noise; (B, 3, 112, 112) uint8."""

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(len(pictures), channels, 1, 1, generator=generator)

    pixels = pictures.float()
    pixels += draw(0, 0.8) * (_mean_of_neighbours(pixels) - pixels)
    pixels.sub_(118).mul_(draw(0.6, 1.2)).add_(118)
    axis = torch.linspace(-0.5, 0.5, SIDE)
    light = draw(0.5, 1.2) + draw(-0.4, 0.4) * axis[:, None] + draw(-0.4, 0.4) * axis
    pixels.mul_(light).mul_(draw(0.82, 1.12, channels=3))
    noise = torch.randn(1, *pixels.shape[1:], generator=generator).contiguous(memory_format=torch.channels_last)
    return pixels.add_(draw(0, 8) * noise).clamp_(0, 255).byte()


def _mean_of_neighbours(pixels: Tensor) -> Tensor:
    """Mean over 3 x 3 px, at the border over those inside, as ``avg_pool2d`` gives it in nine times the time."""
    sums = F.conv2d(pixels, torch.ones(3, 1, 3, 3), padding=1, groups=3)
    inside = F.conv2d(torch.ones(1, 1, *pixels.shape[2:]), torch.ones(1, 1, 3, 3), padding=1)
    return sums.div_(inside)


def _batches(recipe: Recipe, steps: int, seed: int) -> Iterator[list[Tensor]]:
    """``steps`` batches (pictures, kinds, colours): new scenes throughout, or epochs over ``recipe.scenes`` cached."""
    if recipe.scenes is None:
        # One worker paints while the model trains; items depend on their index alone, so it changes no bytes.
        yield from DataLoader(PaintedScenes(steps * recipe.batch, seed, count=4), recipe.batch, num_workers=1)
        return
    painted = PaintedScenes(min(recipe.scenes, steps * recipe.batch), seed, count=4)
    cached = [torch.from_numpy(np.stack(part)) for part in zip(*(painted[i] for i in range(len(painted))), strict=True)]
    cached[0] = cached[0].contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [torch.randperm(len(painted), generator=generator) for _ in range(steps * recipe.batch // len(painted) + 1)]
    )
    for step in range(steps):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        yield [part[chosen] for part in cached]


def pretrain_classifier(arch: str, out: Path | str, seed: int, steps: int | None = None, progress: bool = True) -> None:
    """Pretrain an encoder, a key of :data:`RECIPES`, and save it to ``out`` in hub layout, with its heads beside it.

    The same seed and number of threads give the same bytes on one machine; torch's global random state stays.
    """
    recipe = RECIPES[arch]
    steps = steps or recipe.steps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The faster layout for convolutions on a CPU.
        encoder = timm.create_model(arch, num_classes=0).train().to(memory_format=torch.channels_last)
        heads = ProxyHeads(encoder.num_features)
    if recipe.bf16 is not None and torch.cpu.get_capabilities().get("amx_bf16"):
        for module in encoder.get_submodule(recipe.bf16).children():
            module.forward = torch.autocast("cpu", torch.bfloat16)(module.forward)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=steps, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    # Three cells in four are background; at full weight they hold the kinds back for hundreds of steps.
    weight = torch.ones(len(KINDS) + 1).index_fill(0, torch.tensor(BACKGROUND_LABEL), 0.3)
    bar = tqdm(_batches(recipe, steps, seed), total=steps, desc=arch, disable=not progress, mininterval=1.0)
    for pictures, kinds, colours in bar:
        kind_logits, colour_logits = heads(last_map(encoder, _augment(pictures, generator)).float())
        loss = F.cross_entropy(kind_logits, kinds, weight, ignore_index=IGNORED_LABEL, label_smoothing=0.05)
        loss = loss + 0.5 * F.cross_entropy(colour_logits, colours, ignore_index=IGNORED_LABEL, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    save_for_hf(encoder.to(memory_format=torch.contiguous_format), str(out), safe_serialization=True)
    save_file(heads.state_dict(), Path(out) / "proxy_heads.safetensors")


@torch.inference_mode()
def evaluate(folder: Path | str, style: str, n: int, seed: int) -> dict[str, float]:
    """Accuracy of a checkpoint's proxy heads on ``n`` new scenes in ``style``, in [0, 1].

    Returns ``kind`` and ``colour`` over the cells of objects and ``background`` over the others.  Raises BncapError if
    a file of the checkpoint is missing or does not fit.
    """
    folder = Path(folder)
    try:
        encoder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        heads = ProxyHeads(encoder.num_features)
        heads.load_state_dict(load_file(folder / "proxy_heads.safetensors"))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BncapError(
            f"{folder}: not a whole checkpoint ({reason}); delete the folder and make it again"
            f" (the shipped one: `{COMMAND}`)"
        ) from error
    hits: dict[str, list[Tensor]] = {"kind": [], "colour": [], "background": []}
    for pictures, kinds, colours in DataLoader(PaintedScenes(n, seed, style), batch_size=50):
        kind_logits, colour_logits = heads(last_map(encoder, pictures))
        on_object, on_ground = colours != IGNORED_LABEL, kinds == BACKGROUND_LABEL
        hits["kind"].append((kind_logits.argmax(1) == kinds)[on_object])
        hits["colour"].append((colour_logits.argmax(1) == colours)[on_object])
        hits["background"].append((kind_logits.argmax(1) == kinds)[on_ground])
    return {name: torch.cat(parts).float().mean().item() for name, parts in hits.items()}


def pretrain(out: Path | str, seed: int, steps: int | None = None, progress: bool = True) -> dict:
    """Pretrain the MaxViT and write ``card.json``, with accuracies on 600 held-out scenes of each style; the card."""
    arch = "bncap_maxvit_mini"
    pretrain_classifier(arch, out, seed, steps, progress)
    steps = steps or RECIPES[arch].steps
    card = {
        "architecture": arch,
        "command": COMMAND,
        "seed": seed,
        "steps": steps,
        "images": steps * RECIPES[arch].batch,
        "accuracy": {style: evaluate(out, style, n=600, seed=seed + 1) for style in STYLES},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
        "sha256": hashlib.sha256((Path(out) / "model.safetensors").read_bytes()).hexdigest(),
    }
    write_json(Path(out) / "card.json", card)
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the miniature's MaxViT on painted scenes (10 minutes).")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json, model.safetensors, card.json")
    parser.add_argument("--steps", type=int, default=None, help="default: the shipped checkpoint's number")
    arguments = parser.parse_args()
    # The painter has the second core; two threads beside it wait for each other more than they work.
    torch.set_num_threads(1)
    card = pretrain(arguments.out, arguments.seed, arguments.steps)
    for style, accuracy in card["accuracy"].items():
        print(f"{style:9}  " + "  ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
    print(f"sha256     {card['sha256']}")


if __name__ == "__main__":
    main()
