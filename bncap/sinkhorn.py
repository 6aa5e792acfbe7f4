"""Entropic optimal transport by Sinkhorn iterations in the log domain, batched, in float32 or wider."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MASS_TOLERANCE = 1e-4  # relative; float32 weights over 49 patches sum to 1 within 1e-6


def full_precision(function: Callable) -> Callable:
    """Run `function` with autocast off and its floating tensors in their widest dtype, float32 at least.

    exp(-C/epsilon) at epsilon = 0.05 underflows in float16 by C = 1, and a cosine rounded to float16 is wrong in
    the third digit. Integer and boolean tensors and plain numbers pass through as they are.
    """

    @functools.wraps(function)
    def wide(*args: Any, **kwargs: Any) -> Any:
        floats = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, (v.dtype for v in floats), torch.float32)
        device = floats[0].device.type

        def widen(v: Any) -> Any:
            return v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v

        with torch.autocast(device, enabled=False):
            return function(*map(widen, args), **{name: widen(v) for name, v in kwargs.items()})

    return wide


def safe_log(x: Tensor) -> Tensor:
    """log(x) of a non-negative tensor, -inf at 0 with gradient 0 there (torch.log gives inf, then 0 * inf = NaN)."""
    zero = x == 0
    return x.masked_fill(zero, 1).log().masked_fill(zero, -torch.inf)


@full_precision
def transport_plan(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float = 0.05, n_iters: int = 30
) -> tuple[Tensor, Tensor]:
    """Eq. (13), Sec. 4.6: the plan P* of entropic optimal transport, by Sinkhorn iterations in the log domain.

        P* = argmin_{P >= 0} <P, C> - epsilon H(P)   such that   P 1 = a,   P^T 1 = b

    cost: (B, S, S'), finite, any sign. a: (B, S), b: (B, S'): masses >= 0, each row of positive sum, the sums of a
    and b equal within 1e-4 (relative). Patches of zero mass get an exactly zero plan and take no part in any
    iterate, so they may as well not be there. epsilon > 0, in units of the cost. n_iters >= 1: each updates b's
    scaling, then a's, as POT does.

    Returns the plan (B, S, S') and the marginal error (B,). After the last half-step the row marginal P 1 = a is
    exact (up to rounding); the column marginal is the violated one, and the error is its L1 distance
    sum_t |(P^T 1)_t - b_t|. Half-precision input is computed and returned in float32. Differentiable in all three
    tensors, through the iterations.
    Raises ValueError for wrong shapes, epsilon <= 0, n_iters < 1, and masses that are negative, empty or disagree.
    """
    if cost.ndim != 3 or a.shape != cost.shape[:2] or b.shape != (cost.shape[0], cost.shape[2]):
        raise ValueError(
            "transport_plan needs cost (B, S, S'), a (B, S), b (B, S'), "
            f"got {tuple(cost.shape)}, {tuple(a.shape)}, {tuple(b.shape)}"
        )
    check_problem(a, b, epsilon, n_iters)
    plan = solve_plan(cost, a, b, epsilon, n_iters)
    return plan, (plan.sum(1) - b).abs().sum(1)


def solve_plan(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, n_iters: int) -> Tensor:
    """The plan (B, S, S') of `transport_plan` for arguments that have been checked.

    With the kernel K = exp(-C / epsilon) the plan is diag(u) K diag(v); each iteration sets v so that the columns sum
    to b, then u so that the rows sum to a. All of it is done with logarithms, which neither overflow nor vanish.
    """
    log_a, log_b, log_kernel = safe_log(a), safe_log(b), -cost / epsilon
    log_u = torch.zeros_like(a).masked_fill(a == 0, -torch.inf)
    for _ in range(n_iters):
        log_v = log_b - torch.logsumexp(log_kernel + log_u.unsqueeze(2), dim=1)  # (B, S')
        log_u = log_a - torch.logsumexp(log_kernel + log_v.unsqueeze(1), dim=2)  # (B, S)
    return (log_kernel + log_u.unsqueeze(2) + log_v.unsqueeze(1)).exp()  # (B, S, S')


@torch.no_grad()
def check_problem(a: Tensor, b: Tensor, epsilon: float, n_iters: int) -> None:
    """Raise ValueError unless epsilon > 0, n_iters >= 1, and the rows of a (B, S) and b (B, S') are masses of equal
    positive sums, none of them negative or NaN; it names the row. A GPU is waited for once."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if n_iters < 1:
        raise ValueError(f"n_iters must be at least 1, got {n_iters}")
    figures = torch.stack([f.double() for mass in (a, b) for f in (mass.sum(1), mass.amin(1))], 1)  # (B, 4)
    for row, (sum_a, least_a, sum_b, least_b) in enumerate(figures.tolist()):
        # Written so that NaN fails each comparison.
        positive = least_a >= 0 and least_b >= 0 and sum_a > 0 and sum_b > 0
        if not (positive and abs(sum_a - sum_b) <= MASS_TOLERANCE * max(sum_a, sum_b)):
            raise ValueError(
                f"masses of batch row {row} must be non-negative with equal positive sums, got sums {sum_a:.6g} and "
                f"{sum_b:.6g}"
            )
