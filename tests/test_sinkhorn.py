"""The transport plan against known answers and POT, iterate by iterate."""

from __future__ import annotations

import numpy as np
import ot as pot
import pytest
import torch
from torch.autograd import gradcheck

from bncap.sinkhorn import transport_plan

F64 = torch.float64


def problem(B: int = 2, S: int = 5, S_syn: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(B, S, S_syn, generator=generator, dtype=F64)
    a, b = (torch.randn(B, n, generator=generator, dtype=F64).softmax(1) for n in (S, S_syn))
    return cost, a, b


def pot_plan(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor, epsilon: float, n_iters: int) -> torch.Tensor:
    rows = [
        pot.sinkhorn(
            a_.numpy(), b_.numpy(), C.numpy(), epsilon, "sinkhorn_log", numItermax=n_iters, stopThr=0, warn=False
        )
        for a_, b_, C in zip(a, b, cost, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("epsilon", [0.005, 0.05, 0.5, 5.0])
@pytest.mark.parametrize("n_iters", [1, 30])
def test_the_plan_is_the_one_of_pot_after_as_many_iterations(epsilon, n_iters):
    cost, a, b = problem()
    plan, _ = transport_plan(cost, a, b, epsilon, n_iters)
    assert torch.allclose(plan, pot_plan(cost, a, b, epsilon, n_iters), atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.005, 0.05, 5.0])
@pytest.mark.parametrize("least", [1e-3, 1e-9, 1e-15])
def test_tiny_and_zero_masses_give_the_plan_of_pot(epsilon, least):
    cost, a, b = problem(B=3)
    a[0, 0], b[1, 3] = least, least
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    plan, _ = transport_plan(cost, a, b, epsilon)
    assert torch.allclose(plan, pot_plan(cost, a, b, epsilon, 30), rtol=1e-9, atol=1e-14)
    single, _ = transport_plan(cost.float(), a.float(), b.float(), epsilon)
    assert torch.allclose(single.double(), plan, atol=1e-5)


def test_the_row_marginal_is_exact_and_the_error_is_that_of_the_columns():
    cost, a, b = problem()
    plan, error = transport_plan(cost, a, b, 0.05, 3)
    assert torch.allclose(plan.sum(2), a, atol=1e-15)
    assert torch.allclose(error, (plan.sum(1) - b).abs().sum(1), atol=1e-15) and (error > 1e-4).all()
    assert (transport_plan(cost, a, b, 0.05, 2000)[1] < 1e-9).all()


def test_two_by_two_meets_its_closed_form():
    # P = [[p, .6 - p], [.6 - p, p - .2]] by its marginals, and P = u K v gives P11 P22 / (P12 P21) = exp(-2 / eps).
    a, ratio = torch.tensor([[0.6, 0.4]], dtype=F64), np.exp(-2.0)
    p = max(np.roots([1 - ratio, 1.2 * ratio - 0.2, -0.36 * ratio]))
    plan, _ = transport_plan(torch.eye(2, dtype=F64).unsqueeze(0), a, a, 1.0, 100)
    assert np.allclose(plan[0], [[p, 0.6 - p], [0.6 - p, p - 0.2]], atol=1e-12)


@pytest.mark.parametrize("n_iters", [1, 30])
def test_a_patch_of_zero_mass_may_as_well_not_be_there(n_iters):
    cost, a, b = problem()
    a[:, 1], b[:, [0, 4]] = 0, 0
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    plan, _ = transport_plan(cost, a, b, 0.05, n_iters)
    rows, columns = [0, 2, 3, 4], [1, 2, 3, 5]
    without, _ = transport_plan(cost[:, rows][:, :, columns], a[:, rows], b[:, columns], 0.05, n_iters)
    assert torch.allclose(plan[:, rows][:, :, columns], without, atol=1e-15)
    assert (plan[:, 1] == 0).all() and (plan[:, :, [0, 4]] == 0).all()


@pytest.mark.parametrize("epsilon", [0.005, 0.05, 5.0])
def test_zero_masses_give_finite_gradients_that_are_zero_on_their_costs(epsilon):
    cost, a, b = problem()
    a[:, 1], b[:, 0] = 0, 0
    inputs = [t.clone().requires_grad_() for t in (cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True))]
    plan, error = transport_plan(*inputs, epsilon)
    ((plan * cost).sum() + error.sum()).backward()
    assert all(t.grad.isfinite().all() for t in inputs)
    assert (inputs[0].grad[:, 1] == 0).all() and (inputs[0].grad[:, :, 0] == 0).all()


def test_the_gradient_through_the_iterations_is_right():
    inputs = [t.requires_grad_() for t in problem(S=3, S_syn=2)]
    # Masses are perturbed one at a time, by far less than the tolerance within which their sums must agree.
    assert gradcheck(lambda C, a, b: transport_plan(C, a, b, 0.3, 5)[0], inputs)


def test_the_detached_gradient_is_the_envelope_gradient_of_the_entropic_value():
    # At the optimum d/dC min(<P, C> - eps H(P)) = P*; POT solves the perturbed problems independently.
    cost, a, b = problem(B=1, S=3, S_syn=3)
    plan, _ = transport_plan(cost, a, b, 0.5, 60)

    def value(C: torch.Tensor) -> float:
        P = pot_plan(C, a, b, 0.5, 60)
        return float((P * C).sum() + 0.5 * (P * (P.log() - 1)).sum())

    for s in range(3):
        for t in range(3):
            step = torch.zeros_like(cost)
            step[0, s, t] = 1e-4
            slope = (value(cost + step) - value(cost - step)) / 2e-4
            assert slope == pytest.approx(plan[0, s, t].item(), abs=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"n_iters": 0}, "n_iters"),
        ({"a": torch.ones(2, 5) / 4}, "row 0"),
        ({"a": torch.tensor([[0.2] * 5, [0.5, 0.5, 0.5, -0.5, 0.0]])}, "row 1"),
        ({"a": torch.zeros(2, 5), "b": torch.zeros(2, 6)}, "positive sums"),
        ({"a": torch.full((2, 5), torch.nan)}, "row 0"),
        ({"b": torch.ones(2, 5) / 5}, "needs cost"),
    ],
)
def test_the_plan_refuses_what_cannot_be_transported(change, message):
    cost, a, b = problem()
    with pytest.raises(ValueError, match=message):
        transport_plan(**{"cost": cost, "a": a, "b": b, **change})
