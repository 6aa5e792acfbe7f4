"""The output layer and the cross-entropy in one, a chunk of tokens at a time: logits are never whole nor twice.

For V = 250,054 the logits of a batch and their gradient are the largest tensors of a training step.  Both are computed
in the forward pass, in one buffer of a fixed size, and only the gradients of the inputs are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
"""Label of a position at which nothing is to be predicted."""
BUFFER = 64 * 2**20
"""Bytes of float32 logits at a time."""


def chunked_cross_entropy(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    reduction: str = "mean",
    buffer: int = BUFFER,
) -> Tensor:
    """Negative log-likelihood of ``labels`` under softmax(W h + b), as :func:`bncap.losses.caption_nll` has it.

    Matrix products run in the autocast type, everything else in float32 (float64 for float64 states).  A second
    ``backward`` through the same result is a RuntimeError, as the gradients are given out once.

    Args:
        states: (N, D) h, one row a token.
        weight, bias: (V, D) W and (V,) b of the output layer; no bias if None.
        labels: (N,) int64 in [0, V), or :data:`IGNORED`, where the layer is not computed.
        reduction: ``"mean"`` over the real tokens, or their ``"sum"``.
        buffer: bytes that the logits may take at a time; one token at least.

    Returns a scalar in nats.  Raises ValueError for wrong shapes or if no label is real.
    """
    if states.ndim != 2 or labels.shape != states.shape[:1] or weight.shape[1:] != states.shape[1:]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (states, weight, labels))
        raise ValueError(f"chunked_cross_entropy needs states (N, D), weight (V, D) and labels (N,), got {shapes}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {reduction!r}')
    real = labels.ne(IGNORED).nonzero().squeeze(1)
    if not len(real):
        raise ValueError(f"no label differs from ignore_index = {IGNORED}: the batch has no token to learn from")
    if len(real) < len(labels):
        states, labels = states.index_select(0, real), labels.index_select(0, real)
    rows = max(1, buffer // (4 * len(weight)))
    nats = _ChunkedCrossEntropy.apply(states, weight, bias, labels, rows, torch.is_grad_enabled())
    return nats / len(labels) if reduction == "mean" else nats


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, rows: int, differentiable: bool
    ) -> Tensor:
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wide = torch.promote_types(weight.dtype, torch.float32)
        wanted = [differentiable and needed for needed in ctx.needs_input_grad[:3]]
        ctx.dtypes = states.dtype, weight.dtype
        gathered = zip((states, weight, bias), wanted, strict=True)
        ctx.gradients = [torch.zeros_like(t, dtype=wide) if t is not None and use else None for t, use in gathered]
        with torch.autocast(kind, enabled=False):
            h, w = states.to(dtype), weight.to(dtype)
            nats = states.new_zeros((), dtype=wide)
            for start in range(0, len(h), rows):
                part = slice(start, start + rows)
                logits = _product(h[part], w.t(), wide)  # (rows, V)
                if bias is not None:
                    logits += bias
                nats += _nll_and_gradient(logits, labels[part], any(wanted))
                _accumulate(ctx.gradients, part, logits, h[part], w)
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of chunked_cross_entropy were given out before; compute it again")
        (states, weight, bias), ctx.gradients = ctx.gradients, None  # released, so that .grad needs no copy
        states = None if states is None else states.mul_(scale).to(ctx.dtypes[0])
        weight = None if weight is None else weight.mul_(scale).to(ctx.dtypes[1])
        bias = None if bias is None else bias.mul_(scale)
        return states, weight, bias, None, None, None


def _nll_and_gradient(logits: Tensor, labels: Tensor, differentiable: bool) -> Tensor:
    """Sum of the rows' negative log-likelihoods; turns (rows, V) ``logits`` into softmax minus one-hot in place."""
    target = labels.unsqueeze(1)
    log_sums = logits.logsumexp(1, keepdim=True)  # (rows, 1)
    nats = (log_sums - logits.gather(1, target)).sum()
    if differentiable:
        logits.sub_(log_sums).exp_()
        logits.scatter_add_(1, target, logits.new_full((), -1).expand_as(target))
    return nats


def _accumulate(gradients: list[Tensor | None], part: slice, error: Tensor, h: Tensor, w: Tensor) -> None:
    """Add the share of the tokens ``part``, whose logits have the gradient ``error`` (rows, V)."""
    states, weight, bias = gradients
    if bias is not None:
        bias += error.sum(0)
    narrow = error.to(h.dtype)  # in [-1, 1]: the scale comes in the backward pass, where float32 holds it
    if states is not None:
        states[part] = _product(narrow, w, states.dtype)
    if weight is not None and h.dtype == weight.dtype:
        weight.addmm_(narrow.t(), h)
    elif weight is not None:
        weight += _product(narrow.t(), h, weight.dtype)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """``a @ b`` in ``dtype``, on CUDA without a rounding in between, in which float16 could overflow."""
    if a.is_cuda and a.dtype != dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)
