"""The miniature's image encoders: genuine timm models for 112 px with 49 patches, pretrained on a dense proxy.

For each cell of the 7 x 7 map the proxy asks for the kind (or "background") and the colour of the object that covers
it, in freshly painted ``real`` and ``synthetic`` scenes of the training domain, as ImageNet also holds photographs and
drawings; nothing out-of-domain is shown.  Importing this module registers three architectures with timm:
``bncap_maxvit_mini`` (its checkpoint ships with the package), ``bncap_vit_mini`` and ``bncap_cnn_mini`` (the
baselines' encoders, trained at first use).  A checkpoint is a folder in hub layout, for
``timm.create_model("local-dir:<folder>")``.

``python -m bncap.mini.encoder --seed 42 --out DIR`` makes the shipped checkpoint again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import HybridEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, save_for_hf
from timm.models.maxxvit import MaxxVit, model_cfgs
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from bncap.errors import BncapError
from bncap.mini.draw import STYLES
from bncap.mini.proxy import BACKGROUND_LABEL, GRID, IGNORED_LABEL, PaintedScenes
from bncap.mini.scene import COLOURS, KINDS, SIDE

CHECKPOINT = Path(__file__).parent / "checkpoints" / "maxvit_mini"
"""The checkpoint that ships with the package."""

_COMMAND = "python -m bncap.mini.encoder --seed 42 --out DIR"

default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, SIDE, SIDE), "pool_size": (GRID, GRID), "fixed_input_size": fixed, "num_classes": 0,
            "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 1.0, "interpolation": "bicubic",
            "first_conv": first_conv, "classifier": classifier, "license": "mit",
        }
        for name, fixed, first_conv, classifier in (
            ("bncap_maxvit_mini", True, "stem.conv1", "head.fc"),
            ("bncap_vit_mini", True, "patch_embed.backbone.conv1.0", "head"),
            ("bncap_cnn_mini", False, "conv1.0", "fc"),
        )
    }
)  # fmt: skip
"""Read by timm's ``register_model`` under exactly this name."""


@register_model
def bncap_maxvit_mini(pretrained: bool = False, **kwargs) -> MaxxVit:
    """MaxViT of three stages (32, 64, 128 channels), 0.63M parameters; last map (128, 7, 7)."""
    base = model_cfgs["test_maxvit"]
    attention = replace(base.transformer_cfg, dim_head=16, window_size=(GRID, GRID), grid_size=(GRID, GRID))
    cfg = replace(
        base, embed_dim=(32, 64, 128), depths=(1, 1, 1), block_type=("M",) * 3, stem_width=16, transformer_cfg=attention
    )
    return build_model_with_cfg(
        MaxxVit, "bncap_maxvit_mini", pretrained, model_cfg=cfg, feature_cfg={"flatten_sequential": True}, **kwargs
    )


@register_model
def bncap_cnn_mini(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet of four basic blocks (32, 64, 128, 128 channels) and stride 16; last map (128, 7, 7).

    Its blocks take part from the first step: begun as identities, as timm does it, they learn kinds 150 steps later.
    """
    shape = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 128), "output_stride": 16}
    stem = {"stem_type": "deep", "stem_width": 8, "zero_init_last": False}
    return build_model_with_cfg(ResNet, "bncap_cnn_mini", pretrained, **{**shape, **stem, **kwargs})


@register_model
def bncap_vit_mini(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """Hybrid ViT, as timm's ``vit_small_resnet26d``: 3 blocks of width 128, no class token; last map (128, 7, 7).

    Its patch embedding is the first three stages of ``bncap_cnn_mini``, and its blocks start small (LayerScale 0.1):
    in the seconds that it is trained for, a projection of raw 16 px patches learns colours but hardly any kinds.
    """
    embed = partial(HybridEmbed, backbone=bncap_cnn_mini(features_only=True, out_indices=(3,)), proj=False)
    shape = {"embed_layer": embed, "patch_size": 1, "embed_dim": 128, "depth": 3, "num_heads": 4, "class_token": False}
    options = {"global_pool": "avg", "init_values": 0.1, "feature_cfg": {"out_indices": 1, "feature_cls": "getter"}}
    return build_model_with_cfg(VisionTransformer, "bncap_vit_mini", pretrained, **{**shape, **options, **kwargs})


@dataclass(frozen=True)
class Recipe:
    """How an encoder is pretrained.

    ``scenes`` is the number of different pictures, None for a new one each time; ``bf16`` names the part of the encoder
    whose modules compute in bfloat16 where the processor has instructions for it; not attention, whose backward pass is
    many times slower so on a CPU."""

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


def build(arch: str) -> nn.Module:
    """A freshly initialised encoder by its registered name, without a classifier."""
    return timm.create_model(arch, num_classes=0)


def last_map(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """(B, 3, 112, 112) uint8 -> the map (B, C, 7, 7) float that ``features_only`` yields last, before a final norm."""
    pixels = ((pictures.float() / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
    return encoder.forward_intermediates(pixels, indices=1, intermediates_only=True)[-1]


def _augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Other contrast, exposure, white balance, slope of light, sharpness and noise; (B, 3, 112, 112) uint8 in and out.

    The range is that of usual ImageNet training; the colours stay recognisable.
    """

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


def _batches(recipe: Recipe, steps: int, seed: int):
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
    """Pretrain an encoder on the dense proxy and save it to ``out`` in hub layout.

    ``arch`` is a key of :data:`RECIPES`, whose number of steps holds unless ``steps`` is given.  Writes
    ``config.json``, ``model.safetensors`` (fp32) and ``proxy_heads.safetensors``.  The same seed and number of threads
    give the same bytes on one machine.  Leaves torch's global random state as it was.
    """
    recipe = RECIPES[arch]
    steps = steps or recipe.steps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The faster layout for convolutions on a CPU.
        encoder = build(arch).train().to(memory_format=torch.channels_last)
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
    """Accuracy of a checkpoint's proxy heads over the cells of ``n`` scenes painted afresh in ``style``.

    Returns ``kind`` and ``colour`` over the cells of objects and ``background`` over the others, in [0, 1].
    Raises BncapError if a file of the checkpoint is missing or does not fit.
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
            f" (the shipped one: `{_COMMAND}`)"
        ) from error
    hits = {"kind": [], "colour": [], "background": []}
    for pictures, kinds, colours in DataLoader(PaintedScenes(n, seed, style), batch_size=50):
        kind_logits, colour_logits = heads(last_map(encoder, pictures))
        on_object, on_ground = colours != IGNORED_LABEL, kinds == BACKGROUND_LABEL
        hits["kind"].append((kind_logits.argmax(1) == kinds)[on_object])
        hits["colour"].append((colour_logits.argmax(1) == colours)[on_object])
        hits["background"].append((kind_logits.argmax(1) == kinds)[on_ground])
    return {name: torch.cat(parts).float().mean().item() for name, parts in hits.items()}


def pretrain(out: Path | str, seed: int, steps: int | None = None, progress: bool = True) -> dict:
    """Pretrain the MaxViT and write ``card.json`` beside it; returns the card.

    The card holds the seed, steps and images seen, accuracies on 600 held-out scenes of each style, package versions
    and the SHA-256 of the weights.
    """
    arch = "bncap_maxvit_mini"
    pretrain_classifier(arch, out, seed, steps, progress)
    steps = steps or RECIPES[arch].steps
    card = {
        "architecture": arch,
        "command": _COMMAND,
        "seed": seed,
        "steps": steps,
        "images": steps * RECIPES[arch].batch,
        "accuracy": {style: evaluate(out, style, n=600, seed=seed + 1) for style in STYLES},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
        "sha256": hashlib.sha256((Path(out) / "model.safetensors").read_bytes()).hexdigest(),
    }
    (Path(out) / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Pretrain the miniature's MaxViT on painted scenes (about 10 minutes)."
    )
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
