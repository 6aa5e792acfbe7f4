"""Three small image encoders for 112 px with 49 patches, registered with timm when this module is imported.

``bncap_maxvit_mini`` is the miniature's main encoder, ``bncap_vit_mini`` and ``bncap_cnn_mini`` those of the baselines.
A checkpoint is a folder in the hub's layout, for ``timm.create_model("local-dir:<folder>")``;
:mod:`bncap.small_models.encoder` trains them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers import HybridEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.maxxvit import MaxxVit, model_cfgs
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer

from bncap.mini.scene import SIDE

GRID = 7
"""Cells on a side of the last map: 49 patches of 16 px."""

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
def bncap_maxvit_mini(pretrained: bool = False, **kwargs: Any) -> MaxxVit:
    """MaxViT of three stages (32, 64, 128 channels), 0.63M parameters; last map (128, 7, 7)."""
    base = model_cfgs["test_maxvit"]
    attention = replace(base.transformer_cfg, dim_head=16, window_size=(GRID, GRID), grid_size=(GRID, GRID))
    shape = {"embed_dim": (32, 64, 128), "depths": (1, 1, 1), "block_type": ("M",) * 3, "stem_width": 16}
    cfg = replace(base, **shape, transformer_cfg=attention)
    return build_model_with_cfg(
        MaxxVit, "bncap_maxvit_mini", pretrained, model_cfg=cfg, feature_cfg={"flatten_sequential": True}, **kwargs
    )


@register_model
def bncap_cnn_mini(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet of four basic blocks (32, 64, 128, 128 channels) and stride 16; last map (128, 7, 7).

    Its blocks take part from the first step: begun as identities, as timm does it, they learn kinds 150 steps later.
    """
    shape = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 128), "output_stride": 16}
    stem = {"stem_type": "deep", "stem_width": 8, "zero_init_last": False}
    return build_model_with_cfg(ResNet, "bncap_cnn_mini", pretrained, **{**shape, **stem, **kwargs})


@register_model
def bncap_vit_mini(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Hybrid ViT, as timm's ``vit_small_resnet26d``: 3 blocks of width 128, no class token; last map (128, 7, 7).

    Its patch embedding is the first three stages of ``bncap_cnn_mini``, and its blocks start small (LayerScale 0.1):
    in the seconds that it is trained for, a projection of raw 16 px patches learns colours but hardly any kinds.
    """
    embed = partial(HybridEmbed, backbone=bncap_cnn_mini(features_only=True, out_indices=(3,)), proj=False)
    shape = {"embed_layer": embed, "patch_size": 1, "embed_dim": 128, "depth": 3, "num_heads": 4, "class_token": False}
    options = {"global_pool": "avg", "init_values": 0.1, "feature_cfg": {"out_indices": 1, "feature_cls": "getter"}}
    return build_model_with_cfg(VisionTransformer, "bncap_vit_mini", pretrained, **{**shape, **options, **kwargs})
