"""Decoder cross-attention, kept only where it is used.

The modules that a :class:`Tap` marks compute their attention weights in float32 and keep the mean over heads; every
other attention of the model runs through PyTorch's fused kernel.  (``output_attentions=True`` returns nothing under
SDPA, and the eager path keeps all maps of all layers, after dropout.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "bncap_tapped"
"""Value of ``attn_implementation`` for a model whose attention is to be tapped."""


def _tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    tap = getattr(module, "tap", None)
    tapped = tap is not None and tap.open
    if not tapped and not _fused_is_slow(query):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if attention_mask is None and getattr(module, "is_causal", False):
        attention_mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scaling @ key.transpose(-2, -1)).float()  # (B, heads, T, S)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = scores.softmax(-1)
    if tap is not None and tapped:
        tap.weights[module.layer_idx] = weights.mean(1)  # (B, T, S), before dropout
    mixed = nn.functional.dropout(weights, dropout, module.training).to(value.dtype) @ value  # (B, heads, T, d)
    return mixed.transpose(1, 2).contiguous(), None  # (B, T, heads, d)


def _fused_is_slow(query: Tensor) -> bool:
    """Whether PyTorch's fused kernel is a detour: in bfloat16 on a CPU its backward pass takes six times as long."""
    return query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16


AttentionInterface.register(IMPLEMENTATION, _tapped_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


class Tap:
    """Keeps the latest weights of ``modules``, the cross-attention of some decoder layers.

    The modules stay tapped after the forward pass, because activation checkpointing computes it a second time and must
    find the same operations.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self.weights: dict[int, Tensor] = {}
        self.open = True
        for module in modules:
            module.tap = self

    def take(self) -> Tensor | None:
        """Mean over the tapped layers and their heads, (B, T, S) float32, rows on the simplex; forgets the weights.

        To be called before ``backward()``, whose recomputation fills the store again.  None if the tap is closed.
        """
        if not self.open:
            return None
        layers = [self.weights.pop(index) for index in sorted(self.weights)]
        return torch.stack(layers).mean(0)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Run the modules fused meanwhile, where nobody asks for their weights; ``backward()`` belongs inside."""
        before, self.open = self.open, False
        try:
            yield
        finally:
            self.open = before
