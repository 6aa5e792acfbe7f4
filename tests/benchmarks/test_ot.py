"""The OT loss (Eqs. 12-13), forward and backward: ours, POT sample by sample, geomloss in a batch."""

from __future__ import annotations

import ot as pot
import pytest
import torch
from torch.nn.functional import normalize

from bncap import losses
from bncap.settings import Loss

LOSS = Loss()


@pytest.fixture(scope="module")
def problem(full_size):
    """``x``, ``y`` (B, S, D) that take a gradient, and ``w`` (B, S), which is zero on the patches left out."""
    B, S, D = (64, 49, 1024) if full_size else (32, 49, 96)
    generator = torch.Generator().manual_seed(42)
    attention = (0.5 * torch.randn(B, 1, S, generator=generator)).softmax(2)
    w = losses.patch_weights(attention, torch.ones(B, 1, dtype=torch.bool), LOSS.tau, LOSS.rho)
    real, background = torch.randn(B, S, D, generator=generator), torch.randn(B, 1, D, generator=generator)
    moved = torch.randperm(S, generator=generator)
    synthetic = (real + torch.randn(B, S, D, generator=generator))[:, moved]
    return (real + background).requires_grad_(), (synthetic + background).requires_grad_(), w


def compute_ours(x, y, w):
    return losses.ot(x, y, w, LOSS.epsilon, LOSS.n_iters)


def compute_pot(x, y, w):
    """As one would write it with POT: each sample by itself on its kept patches, the plan a constant."""
    costs = []
    for x_i, y_i, w_i in zip(x, y, w, strict=True):
        kept = w_i > 0
        a, cost = w_i[kept], 1 - normalize(x_i[kept], dim=1) @ normalize(y_i[kept], dim=1).T
        options = {"numItermax": LOSS.n_iters, "stopThr": 0, "warn": False}
        plan = pot.sinkhorn(a, a, cost.detach(), LOSS.epsilon, "sinkhorn_log", **options)
        costs.append((plan * cost).sum())
    return torch.stack(costs).mean()


def compute_geomloss(x, y, w):
    """geomloss's batched loop without debiasing, at one epsilon, on the k heaviest patches of each sample."""
    from geomloss._legacy.sinkhorn_divergence import log_weights, sinkhorn_loop
    from geomloss._legacy.sinkhorn_samples import softmin_tensorized

    w, index = w.topk(int(w.ne(0).sum(1).max()), dim=1)
    x, y = (patches.gather(1, index.unsqueeze(2).expand(-1, -1, patches.shape[2])) for patches in (x, y))
    cost = 1 - normalize(x, dim=-1) @ normalize(y, dim=-1).mT  # (B, k, k)
    fixed, log_w = cost.detach(), log_weights(w)
    _, _, g, f = sinkhorn_loop(
        softmin_tensorized, log_w, log_w, None, None, fixed, fixed.mT, [LOSS.epsilon] * LOSS.n_iters, None, debias=False
    )
    plan = w.unsqueeze(2) * w.unsqueeze(1) * ((f.unsqueeze(2) + g.unsqueeze(1) - fixed) / LOSS.epsilon).exp()
    return (plan * cost).sum((1, 2)).mean()


@pytest.mark.parametrize(
    ("name", "compute", "tolerance"),
    [
        ("ours", compute_ours, 1e-6),
        ("POT in a loop", compute_pot, 1e-4),
        # It averages the two updates of an iteration: 30 iterations lead elsewhere.
        ("geomloss", compute_geomloss, 0.03),
    ],
)
def test_ot(measure, problem, name, compute, tolerance):
    assert compute(*problem).item() == pytest.approx(compute_ours(*problem).item(), rel=tolerance)
    measure("OT loss", name, lambda: compute(*problem).backward(), len(problem[2]), rounds=10)
