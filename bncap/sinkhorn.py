"""Entropic optimal transport by Sinkhorn iterations in the log domain, batched, in float32 or wider.

Two forms of one algorithm: through autograd where a gradient has to pass the iterations, else in place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

MASS_TOLERANCE = 1e-4  # relative; float32 weights over 49 patches sum to 1 within 1e-6
# How far the scalings may move between two visits to the log domain: a float32 kernel entry that underflows below
# 1e-38 then stands for less than 1e-18 of the mass, and neither a scaling nor a sum of scaled entries leaves float32.
SCALING_RANGE = 1e20


def full_precision(function: Callable) -> Callable:
    """Run `function` with autocast off and its floating tensors in their widest dtype, float32 at least.

    exp(-C/epsilon) at epsilon = 0.05 underflows in float16 by C = 1, and a cosine rounded to float16 is wrong in
    the third digit. Integer and boolean tensors and plain numbers pass through as they are.
    """

    @functools.wraps(function)
    def wide(*args, **kwargs):
        floats = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        if not floats:
            return function(*args, **kwargs)
        dtype = widest(*floats)
        device = floats[0].device.type
        if all(v.dtype == dtype for v in floats) and not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)

        def widen(v):
            return v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v

        with torch.autocast(device, enabled=False):
            return function(*map(widen, args), **{name: widen(v) for name, v in kwargs.items()})

    return wide


def widest(*tensors: Tensor) -> torch.dtype:
    """The dtype that holds every one of the floating tensors, float32 at least."""
    return functools.reduce(torch.promote_types, (v.dtype for v in tensors), torch.float32)


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
    check_settings(epsilon, n_iters)
    _, _, smallest = survey(a, b)
    if torch.is_grad_enabled() and (cost.requires_grad or a.requires_grad or b.requires_grad):
        plan = iterate(cost, a, b, epsilon, n_iters)
    else:
        plan = iterate_in_place(cost, a, b, epsilon, n_iters, smallest)
    return plan, (plan.sum(1) - b).abs().sum(1)


def check_settings(epsilon: float, n_iters: int) -> None:
    """Raise ValueError unless epsilon > 0 and n_iters >= 1."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if n_iters < 1:
        raise ValueError(f"n_iters must be at least 1, got {n_iters}")


@torch.no_grad()
def survey(a: Tensor, b: Tensor) -> tuple[list[int], list[int], float]:
    """What has to be known of masses a (B, S), b (B, S') before they are transported; a GPU is waited for once.

    Returns how many patches of each row of a, and of b, have mass, and the smallest mass as a share of its row's sum.
    Raises ValueError for masses that are negative, NaN, empty or of sums that disagree, naming the row.
    """
    figures = [
        figure
        for mass in (a, b)
        for figure in (mass.count_nonzero(1), mass.sum(1), mass.masked_fill(mass == 0, torch.inf).amin(1))
    ]
    number_a, sum_a, least_a, number_b, sum_b, least_b = torch.stack([f.double() for f in figures]).tolist()
    smallest = 1.0
    for row, (A, B, s, t) in enumerate(zip(sum_a, sum_b, least_a, least_b, strict=True)):
        # Written so that NaN fails each comparison.
        if not (s > 0 and t > 0 and A > 0 and B > 0 and abs(A - B) <= MASS_TOLERANCE * max(A, B)):
            raise ValueError(
                f"masses of batch row {row} must be non-negative with equal positive sums, got sums {A:.6g} and {B:.6g}"
            )
        smallest = min(smallest, s / A, t / B)
    return [int(n) for n in number_a], [int(n) for n in number_b], smallest


def iterate(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, n_iters: int) -> Tensor:
    """The plan (B, S, S') of `transport_plan` by operations that autograd follows; what comes in is taken as valid."""
    log_a, log_b, log_kernel = safe_log(a), safe_log(b), -cost / epsilon
    log_u = torch.zeros_like(a).masked_fill(a == 0, -torch.inf)
    for _ in range(n_iters):
        log_v = log_b - torch.logsumexp(log_kernel + log_u.unsqueeze(2), dim=1)  # (B, S')
        log_u = log_a - torch.logsumexp(log_kernel + log_v.unsqueeze(1), dim=2)  # (B, S)
    return (log_kernel + log_u.unsqueeze(2) + log_v.unsqueeze(1)).exp()  # (B, S, S')


@torch.no_grad()
def iterate_in_place(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, n_iters: int, smallest: float) -> Tensor:
    """The plan (B, S, S') of `transport_plan` without a gradient; smallest as `survey` gives it, the rest as there.

    The kernel is exp(-C/epsilon + log u + log v), so neither it nor its sums can overflow or vanish, and what an
    iteration changes is a factor on either side of it, absorbed into log u and log v every few iterations. After the
    first iteration a factor moves by at most 1 / smallest in each, which says how many may pass in between; masses
    too small for even one are left to `iterate`. Source: Schmitzer 2019, Stabilized sparse scaling algorithms, 3.
    """
    visit = n_iters if smallest == 1 else int(math.log(SCALING_RANGE) / -2 / math.log(smallest))
    if visit < 1:
        return iterate(cost, a, b, epsilon, n_iters)
    # The batch comes last: sums over either side then run along contiguous memory, 3 to 5 times as fast on a CPU.
    log_kernel = cost.new_empty(*cost.shape[1:], len(cost))
    torch.div(cost.permute(1, 2, 0), -epsilon, out=log_kernel)  # (S, S', B)
    a, b = a.T.contiguous(), b.T.contiguous()
    log_u = torch.zeros_like(a).masked_fill_(a == 0, -torch.inf)
    log_v = b.log() - (log_kernel + log_u.unsqueeze(1)).logsumexp(0)  # (S', B)
    log_u = a.log() - (log_kernel + log_v).logsumexp(1)  # (S, B)
    kernel = torch.add(log_kernel, log_u.unsqueeze(1)).add_(log_v).exp_()
    u, v, scaled = torch.ones_like(a), torch.ones_like(b), torch.empty_like(kernel)
    tiny = torch.finfo(a.dtype).tiny  # a sum is 0 where the mass is, and 0 / tiny = 0
    for i in range(1, n_iters):
        if i % visit == 0:
            log_u.add_(u.log_())
            log_v.add_(v.log_())
            torch.add(log_kernel, log_u.unsqueeze(1), out=kernel).add_(log_v).exp_()
            u.fill_(1)
        torch.sum(torch.mul(kernel, u.unsqueeze(1), out=scaled), 0, out=v)
        torch.div(b, v.clamp_min_(tiny), out=v)
        torch.sum(torch.mul(kernel, v, out=scaled), 1, out=u)
        torch.div(a, u.clamp_min_(tiny), out=u)
    return kernel.mul_(v).mul_(u.unsqueeze(1)).permute(2, 0, 1).contiguous()
