"""The OT loss over kept patches against a plain loop over samples, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bncap import losses

F64 = torch.float64


def patches(B: int, S: int, D: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(B, S, D, generator=generator, dtype=F64)
    return [
        (shared + torch.randn(B, S, D, generator=generator, dtype=F64)).to(dtype).requires_grad_() for _ in range(2)
    ]


def keeping(*numbers: int, S: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    """Masses (B, S), row i over `numbers[i]` patches drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.zeros(len(numbers), S, dtype=F64)
    for row, n in zip(w, numbers, strict=True):
        row[torch.randperm(S, generator=generator)[:n]] = torch.randn(n, generator=generator, dtype=F64).softmax(0)
    return w.to(dtype)


def ot_by_loop(x, y, a, b, epsilon=0.05, n_iters=30):
    values = []
    for x_i, y_i, a_i, b_i in zip(x.unbind(), y.unbind(), a.unbind(), b.unbind(), strict=True):
        cost = 1 - F.normalize(x_i[a_i > 0], dim=1) @ F.normalize(y_i[b_i > 0], dim=1).T
        log_kernel, log_a, log_b = -cost.detach() / epsilon, a_i[a_i > 0].log(), b_i[b_i > 0].log()
        log_u = torch.zeros_like(log_a)
        for _ in range(n_iters):
            log_v = log_b - (log_kernel + log_u[:, None]).logsumexp(0)
            log_u = log_a - (log_kernel + log_v).logsumexp(1)
        values.append(((log_kernel + log_u[:, None] + log_v).exp() * cost).sum())
    return torch.stack(values).mean()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("n_iters", [1, 2, 30])
@pytest.mark.parametrize("numbers", [(20, 18, 19, 21), (1, 49, 3, 15), (1, 1, 1, 1), (49, 49, 49, 49)])
def test_value_and_gradients_are_those_of_a_loop_over_samples(numbers, n_iters):
    x, y = patches(4, 49, 64)
    w = keeping(*numbers, S=49)
    ours, plain = losses.ot(x, y, w, n_iters=n_iters), ot_by_loop(x, y, w, w, n_iters=n_iters)
    assert relative(ours, plain) < 1e-5
    for mine, loop in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(plain, (x, y)), strict=True):
        assert relative(mine, loop) < 1e-5
        assert ((mine != 0).any(2) == (w > 0)).all() or n_iters == 1


def test_the_two_sides_may_keep_different_numbers_of_patches():
    x, _ = patches(6, 12, 16, F64)
    _, y = patches(6, 9, 16, F64, seed=2)
    a, b = keeping(1, 12, 5, 5, 7, 2, S=12, dtype=F64), keeping(9, 1, 4, 6, 2, 2, S=9, dtype=F64)
    ours, plain = losses.ot(x, y, a, weights_syn=b), ot_by_loop(x, y, a, b)
    assert torch.allclose(ours, plain, rtol=1e-13)
    for mine, loop in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(plain, (x, y)), strict=True):
        assert torch.allclose(mine, loop, atol=1e-14)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_patches_give_a_float32_loss_and_gradients_of_their_own_type(half):
    x, y = (v.detach().to(half).requires_grad_() for v in patches(3, 9, 16))
    wide = [v.detach().float().requires_grad_() for v in (x, y)]
    w = keeping(1, 9, 4, S=9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.ot(x, y, w)
        through = losses.ot(x, y, w, detach_plan=False)
    ours = torch.autograd.grad(loss, (x, y))
    plain = losses.ot(*wide, w)
    assert loss.dtype == through.dtype == torch.float32 and torch.equal(loss, plain)
    assert torch.allclose(through, plain, rtol=1e-5)
    for mine, theirs in zip(ours, torch.autograd.grad(plain, wide), strict=True):
        assert mine.dtype == half and torch.equal(mine, theirs.to(half))


def test_a_zero_patch_is_as_far_from_everything_as_an_orthogonal_one_and_breaks_no_gradient():
    x, y = patches(2, 5, 8, F64)
    with torch.no_grad():
        x[0, 1] = 0
    w = keeping(5, 5, S=5, dtype=F64)
    ours, plain = losses.ot(x, y, w), ot_by_loop(x, y, w, w)
    assert torch.allclose(ours, plain)
    assert all(g.isfinite().all() for g in torch.autograd.grad(ours, (x, y)))
