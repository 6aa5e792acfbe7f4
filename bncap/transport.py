"""The transport cost <P, C> over the kept patches alone: rows that keep few do not pay for rows that keep many."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bncap.sinkhorn import widest

# Nanoseconds on a CPU core that a further group costs in calls, against about 1 a number for what padding costs.
GROUP_COST = 600_000  # nanoseconds
PASSES = 2  # nanoseconds for each gathered number of x or y, forward and backward together


class Kept(NamedTuple):
    """Rows of the batch gathered to one number of patches: where they lie in (B S) and (B S'), and their masses."""

    rows_x: Tensor  # (n k,)
    rows_y: Tensor  # (n k',)
    a: Tensor  # (n, k)
    b: Tensor  # (n, k')


def kept_patches(a: Tensor, b: Tensor, groups: list[list[int]], k_a: list[int], k_b: list[int]) -> list[Kept]:
    """The patches of mass in their order, group by group, to the largest number of the group.

    a: (B, S), b: (B, S'). groups: batch rows, as `groups_of` gives them, or one of all rows. k_a, k_b: how many
    patches of each row have mass. Rows that keep fewer than others of their group are filled up with patches of their
    own of zero mass.
    """
    order_a = (a != 0).byte().argsort(dim=1, descending=True, stable=True)
    order_b = order_a if b is a else (b != 0).byte().argsort(dim=1, descending=True, stable=True)
    found = []
    for group in groups:
        rows = torch.tensor(group) if len(groups) > 1 else torch.arange(len(a), device=a.device)  # (n,)
        index_a = order_a[rows, : max(k_a[i] for i in group)] + rows.unsqueeze(1) * a.shape[1]  # (n, k)
        index_b = order_b[rows, : max(k_b[i] for i in group)] + rows.unsqueeze(1) * b.shape[1]  # (n, k')
        found.append(Kept(index_a.flatten(), index_b.flatten(), a.take(index_a), b.take(index_b)))
    return found


def groups_of(numbers: list[int], width: int, n_iters: int) -> list[list[int]]:
    """Batch rows in groups, each padded to its largest number of patches, split where that pays on a CPU.

    numbers: patches of each row; width: D. On a GPU, where a group costs launches and padding next to nothing, all
    rows are one group.
    """

    def work(n: int, k: int) -> int:
        return n * k * (2 * PASSES * width + k * n_iters)

    def split(rows: list[int]) -> list[list[int]]:
        whole = work(len(rows), numbers[rows[-1]])
        if whole - sum(work(1, numbers[i]) for i in rows) <= GROUP_COST:
            return [rows]
        parts = [work(n, numbers[rows[n - 1]]) + work(len(rows) - n, numbers[rows[-1]]) for n in range(1, len(rows))]
        best = min(range(len(parts)), key=parts.__getitem__)
        if whole - parts[best] <= GROUP_COST:
            return [rows]
        return split(rows[: best + 1]) + split(rows[best + 1 :])

    return split(sorted(range(len(numbers)), key=numbers.__getitem__))


class CostAtPlan(torch.autograd.Function):
    """sum_b <P, C> with C the cosine cost of the kept patches and P = solve(C, a, b), held fixed.

    x: (B, S, D), y: (B, S', D), any floating dtype; computed in float32 or wider, kept patches only, never normalised
    ones: with x^ = x / |x|, the gradient for x_s is (x^_s sum_t P_st cos_st - sum_t P_st y^_t) / |x_s|.
    """

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, kept: list[Kept], solve: Callable[[Tensor, Tensor, Tensor], Tensor]):
        dtype = widest(x, y, kept[0].a, kept[0].b)
        value, saved = 0, []
        for rows_x, rows_y, a, b in kept:
            x_k, y_k = gather(x, rows_x, len(a)).to(dtype), gather(y, rows_y, len(b)).to(dtype)
            inverse_x, inverse_y = _inverse_norm(x_k), _inverse_norm(y_k).mT  # (n, k, 1), (n, 1, k')
            cosine = torch.bmm(x_k, y_k.mT).mul_(inverse_x).mul_(inverse_y)  # (n, k, k')
            cost = 1 - cosine
            plan = solve(cost, a.to(dtype), b.to(dtype))
            value += (plan * cost).sum()
            pull = cosine.mul_(plan)
            own_x, own_y = pull.sum(2, keepdim=True) * inverse_x**2, pull.sum(1).unsqueeze(2) * inverse_y.mT**2
            saved += [rows_x, rows_y, x_k, y_k, own_x, own_y, plan.mul_(inverse_x).mul_(inverse_y)]
        ctx.save_for_backward(*saved)
        ctx.shapes, ctx.dtypes = (x.shape, y.shape), (x.dtype, y.dtype)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        saved = ctx.saved_tensors
        pulls = [
            torch.zeros(shape, dtype=dtype, device=grad.device) if needed else None
            for shape, dtype, needed in zip(ctx.shapes, ctx.dtypes, ctx.needs_input_grad, strict=False)
        ]
        with torch.autocast(grad.device.type, enabled=False):
            for i in range(0, len(saved), 7):
                rows_x, rows_y, x_k, y_k, own_x, own_y, across = saved[i : i + 7]
                across = across * grad
                if pulls[0] is not None:
                    _pull(pulls[0], rows_x, x_k, own_x * grad, across, y_k)
                if pulls[1] is not None:
                    _pull(pulls[1], rows_y, y_k, own_y * grad, across.mT, x_k)
        return *pulls, None, None


def gather(patches: Tensor, rows: Tensor, n: int) -> Tensor:
    """The rows (n k,) of patches (B, S, D), seen as (B S, D), as (n, k, D)."""
    return patches.flatten(0, 1).index_select(0, rows).view(n, -1, patches.shape[2])


def _inverse_norm(x: Tensor) -> Tensor:
    """1 / |x| along the last axis, 1 for a zero vector, (n, k, 1)."""
    norm = torch.linalg.vector_norm(x, dim=2, keepdim=True)
    return norm.masked_fill_(norm == 0, 1).reciprocal_()


def _pull(grad: Tensor, rows: Tensor, x: Tensor, own: Tensor, across: Tensor, y: Tensor) -> None:
    """Write own x - across y, (n, k, D), to the rows of grad (B, S, D)."""
    pulled = (x * own).baddbmm_(across, y, alpha=-1)
    grad.flatten(0, 1).index_copy_(0, rows, pulled.flatten(0, 1).to(grad.dtype))
