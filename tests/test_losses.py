"""Eqs. (6) to (12) and the OT loss against known answers, plain loops and torch's cross-entropy."""

from __future__ import annotations

import math

import ot as pot
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from bncap import losses

F64 = torch.float64


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def attention_of(B: int, T: int, S: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    return (2 * randn(B, T, S, seed=seed)).softmax(2).to(dtype)


def all_real(attention: torch.Tensor) -> torch.Tensor:
    return torch.ones(attention.shape[:2], dtype=torch.bool)


def of_mean(*mean: float, dtype: torch.dtype = F64) -> tuple[torch.Tensor, torch.Tensor]:
    """One caption of one token, so that the mean attention is what is given."""
    attention = torch.tensor(mean, dtype=dtype).view(1, 1, -1)
    return attention, all_real(attention)


# ---- Eq. (6)


def test_the_objective_is_the_weighted_sum_of_its_terms():
    terms = {"ce": torch.tensor(2.0), "pal": torch.tensor(0.5), "ot": torch.tensor(0.25)}
    weights = {"ce": 1.0, "pal": 0.5, "info_nce": 0.1, "ot": 2.0}
    assert losses.total(terms, weights).item() == 2.75


def test_the_objective_refuses_a_term_without_a_weight_a_vector_and_nothing_at_all():
    with pytest.raises(ValueError, match="'pal' has no weight"):
        losses.total({"pal": torch.tensor(1.0)}, {"ce": 1.0})
    with pytest.raises(ValueError, match="'ce' must be a scalar"):
        losses.total({"ce": torch.ones(2)}, {"ce": 1.0})
    with pytest.raises(ValueError, match="no terms"):
        losses.total({}, {"ce": 1.0})


# ---- Eq. (7)


def test_caption_nll_is_the_mean_over_real_tokens_of_a_plain_loop():
    logits = randn(2, 4, 7).requires_grad_()
    labels = torch.tensor([[3, 1, 6, -100], [0, -100, -100, -100]])
    real = [(i, t) for i in range(2) for t in range(4) if labels[i, t] != -100]
    by_loop = -sum(logits[i, t].log_softmax(0)[labels[i, t]] for i, t in real) / len(real)
    nll = losses.caption_nll(logits, labels)
    assert torch.allclose(nll, by_loop, atol=1e-12)
    nll.backward()
    assert (logits.grad[labels == -100] == 0).all() and (logits.grad[labels != -100] != 0).all()


def test_caption_nll_refuses_a_batch_without_tokens_and_shapes_that_disagree():
    with pytest.raises(ValueError, match="no label"):
        losses.caption_nll(torch.zeros(1, 2, 5), torch.full((1, 2), -100))
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        losses.caption_nll(torch.zeros(1, 2, 5), torch.zeros(1, 3, dtype=torch.long))


# ---- Eq. (8)


def weights_by_loop(attention, token_mask, tau, rho, domain, keep):
    rows = []
    for A, mask in zip(attention.tolist(), token_mask.tolist(), strict=True):
        S, real = len(A[0]), [row for row, is_real in zip(A, mask, strict=True) if is_real]
        mean = [sum(row[s] for row in real) / len(real) for s in range(S)]
        e = [m ** (1 / tau) if domain == "log" else math.exp(m / tau) for m in mean]
        v = [x / sum(e) for x in e]
        order = sorted(range(S), key=lambda s: (-v[s], s))
        if keep == "count":
            kept = order[: math.ceil(rho * S - 1e-9)]
        else:
            kept = []
            while sum(v[s] for s in kept) < rho - 1e-9 and len(kept) < S:
                kept.append(order[len(kept)])
        share = sum(v[s] for s in kept)
        rows.append([v[s] / share if s in kept else 0.0 for s in range(S)])
    return torch.tensor(rows, dtype=F64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", ["log", "prob"])
@pytest.mark.parametrize("keep", ["mass", "count"])
@pytest.mark.parametrize(("tau", "rho"), [(1.0, 0.5), (0.5, 0.1), (2.0, 0.9), (0.7, 1.0)])
def test_patch_weights_agree_with_a_plain_loop(dtype, domain, keep, tau, rho):
    attention = attention_of(5, 6, 9, dtype=dtype)
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 5, 2])[:, None]
    w = losses.patch_weights(attention, mask, tau, rho, domain=domain, keep=keep)
    assert w.dtype == dtype
    assert torch.allclose(w.double(), weights_by_loop(attention, mask, tau, rho, domain, keep), atol=1e-6)


def test_a_mass_that_meets_rho_exactly_keeps_no_further_patch():
    for dtype in (torch.float32, torch.float64):
        uniform = of_mean(*[1 / 4] * 4, dtype=dtype)
        assert losses.patch_weights(*uniform, rho=0.5).tolist() == [[0.5, 0.5, 0.0, 0.0]]
        tenths = of_mean(0.1, 0.2, 0.3, 0.4, dtype=dtype)
        assert (losses.patch_weights(*tenths, rho=0.7) > 0).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("S", [5, 13, 49])
def test_equal_patches_are_kept_from_the_lowest_index_however_many_tokens_are_averaged(dtype, S):
    for T in range(1, 20):
        attention = torch.rand(1, T, 1, generator=torch.Generator().manual_seed(T), dtype=dtype).expand(1, T, S)
        w = losses.patch_weights(attention, all_real(attention), rho=2 / S)
        assert w.tolist()[0] == [0.5, 0.5] + [0.0] * (S - 2)


def test_a_count_keeps_seven_of_fifty_at_14_percent_although_the_product_rounds_up():
    attention = attention_of(4, 3, 50)
    assert 0.14 * 50 > 7
    assert (losses.patch_weights(attention, all_real(attention), rho=0.14, keep="count") > 0).sum(1).tolist() == [7] * 4


def test_what_the_attention_holds_at_pad_steps_has_no_influence():
    attention, mask = attention_of(2, 4, 5), torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    spoiled = attention.masked_fill(~mask[:, :, None], torch.nan)
    assert torch.equal(losses.patch_weights(attention, mask), losses.patch_weights(spoiled, mask))


def test_a_patch_without_attention_stays_at_zero_with_a_finite_gradient():
    attention, mask = of_mean(0.6, 0.4, 0.0)
    w = losses.patch_weights(attention.requires_grad_(), mask, tau=0.5, rho=1.0)
    (w * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert w[0, 2].item() == 0 and attention.grad.isfinite().all()


@pytest.mark.parametrize("domain", ["log", "prob"])
def test_the_gradient_of_the_patch_weights_is_right(domain):
    attention = attention_of(2, 3, 5).requires_grad_()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    assert gradcheck(lambda A: losses.patch_weights(A, mask, 0.7, 0.8, domain=domain), attention)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, "tau"),
        ({"rho": 0.0}, "rho"),
        ({"rho": 1.1}, "rho"),
        ({"domain": "sqrt"}, "domain"),
        ({"keep": "some"}, "keep"),
        ({"token_mask": torch.ones(2, 4, dtype=torch.bool)}, "needs attention"),
        ({"token_mask": torch.zeros(2, 3)}, "boolean"),
        ({"token_mask": torch.tensor([[True] * 3, [False] * 3])}, "row 1 has no real token"),
        ({"attention": torch.full((2, 3, 5), torch.nan)}, "row 0 is NaN"),
        ({"attention": -attention_of(2, 3, 5)}, "row 0 is NaN, infinite, negative"),
        ({"attention": torch.zeros(2, 3, 5)}, "all zero"),
    ],
)
def test_patch_weights_refuse_what_they_cannot_read(change, message):
    attention = attention_of(2, 3, 5)
    with pytest.raises(ValueError, match=message):
        losses.patch_weights(**{"attention": attention, "token_mask": all_real(attention), **change})


# ---- Eqs. (9) and (10)


def test_pooling_is_the_weighted_sum_of_the_patches():
    patches, w = randn(3, 4, 5), attention_of(3, 1, 4)[:, 0]
    by_loop = torch.stack([sum(w[i, s] * patches[i, s] for s in range(4)) for i in range(3)])
    assert torch.allclose(losses.pool(patches, w), by_loop, atol=1e-14)
    with pytest.raises(ValueError, match="pool"):
        losses.pool(patches, w.T)


def test_pal_is_zero_for_parallel_one_for_orthogonal_and_two_for_opposite_descriptors():
    r = torch.tensor([[3.0, 0.0]])
    for other, value in [([5.0, 0.0], 0.0), ([0.0, 2.0], 1.0), ([-1.0, 0.0], 2.0)]:
        assert losses.pal(r, torch.tensor([other])).item() == value
    assert losses.pal(torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item() == 0.5


def test_pal_agrees_with_torch_and_its_gradient_is_right():
    r, r_syn = randn(4, 6).requires_grad_(), randn(4, 6, seed=1).requires_grad_()
    assert torch.allclose(losses.pal(r, r_syn), 1 - F.cosine_similarity(r, r_syn).mean(), atol=1e-12)
    assert gradcheck(losses.pal, (r, r_syn))


def test_a_zero_descriptor_gives_no_nan():
    r, r_syn = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    loss = losses.pal(r, r_syn) + losses.info_nce(r, r_syn)
    loss.backward()
    assert loss.item() == pytest.approx(1 + math.log(3)) and r.grad.isfinite().all() and r_syn.grad.isfinite().all()


# ---- Eq. (11)


def test_info_nce_is_the_cross_entropy_over_the_other_vectors_with_the_partner_as_label():
    B, t = 5, 0.07
    r, r_syn = randn(B, 8).requires_grad_(), randn(B, 8, seed=1).requires_grad_()
    z = F.normalize(torch.cat([r, r_syn]), dim=1)
    logits = (z @ z.T / t)[~torch.eye(2 * B, dtype=torch.bool)].view(2 * B, 2 * B - 1)
    labels = torch.cat([torch.arange(B) + B - 1, torch.arange(B)])  # one column fewer, as the vector itself is left out
    oracle = F.cross_entropy(logits, labels)
    loss = losses.info_nce(r, r_syn, t)
    assert torch.allclose(loss, oracle, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (r, r_syn)), torch.autograd.grad(oracle, (r, r_syn)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_captions_of_one_image_are_no_negatives_of_each_other():
    r, r_syn, groups, t = randn(4, 6), randn(4, 6, seed=1), torch.tensor([7, 3, 7, 5]), 0.2
    z, ids = F.normalize(torch.cat([r, r_syn]), dim=1), [7, 3, 7, 5] * 2
    total = 0.0
    for i in range(8):
        partner = (i + 4) % 8
        denominator = sum(math.exp(z[i] @ z[j] / t) for j in range(8) if j == partner or ids[j] != ids[i])
        total -= math.log(math.exp(z[i] @ z[partner] / t) / denominator)
    assert losses.info_nce(r, r_syn, t, groups).item() == pytest.approx(total / 8, abs=1e-12)


@pytest.mark.parametrize("B", [2, 5])
def test_info_nce_of_equal_vectors_is_the_log_of_their_number(B):
    same = torch.ones(B, 3)
    assert losses.info_nce(same, same).item() == pytest.approx(math.log(2 * B - 1), abs=1e-6)


def test_the_gradient_of_info_nce_is_right_and_bad_arguments_are_refused():
    r, r_syn = randn(3, 4).requires_grad_(), randn(3, 4, seed=1).requires_grad_()
    assert gradcheck(lambda a, b: losses.info_nce(a, b, 0.5, torch.tensor([0, 1, 0])), (r, r_syn))
    with pytest.raises(ValueError, match="temperature"):
        losses.info_nce(r, r_syn, 0.0)
    with pytest.raises(ValueError, match="groups"):
        losses.info_nce(r, r_syn, groups=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="info_nce"):
        losses.info_nce(r, r_syn[:2])


# ---- Eq. (12)


def test_the_cosine_cost_agrees_with_torch_pair_by_pair():
    x, y = randn(2, 3, 5), randn(2, 4, 5, seed=1)
    oracle = 1 - F.cosine_similarity(x[:, :, None], y[:, None], dim=3)
    assert torch.allclose(losses.cosine_cost(x, y), oracle, atol=1e-12)
    with pytest.raises(ValueError, match="cosine_cost"):
        losses.cosine_cost(x, y[:1])


# ---- the OT loss


def sparse_weights(B: int, S: int, rho: float = 0.8, seed: int = 3) -> torch.Tensor:
    attention = attention_of(B, 2, S, seed=seed)
    return losses.patch_weights(attention, all_real(attention), rho=rho)


def test_the_gradient_through_the_iterations_is_right_and_a_detached_plan_leaves_the_weights_alone():
    x, y = randn(2, 3, 4).requires_grad_(), randn(2, 3, 4, seed=1).requires_grad_()
    w = randn(2, 3).softmax(1).requires_grad_()
    assert gradcheck(lambda x, y, w: losses.ot(x, y, w, 0.5, 10, detach_plan=False), (x, y, w), atol=1e-6)
    losses.ot(x, y, w).backward()
    assert w.grad is None and x.grad.abs().sum() > 0


def test_ot_refuses_negative_weights_though_they_are_no_kept_patches():
    with pytest.raises(ValueError, match="row 0"):
        losses.ot(randn(1, 2, 3), randn(1, 2, 3), torch.tensor([[1.5, -0.5]]))


# ---- the Sinkhorn divergence


@pytest.mark.parametrize("detach_plan", [True, False])
def test_the_divergence_of_equal_patches_is_nothing_and_pulls_at_nothing_where_the_ot_loss_does(detach_plan):
    x, w = randn(4, 7, 5) + 2 * randn(4, 1, 5, seed=1), sparse_weights(4, 7)
    y = x.clone().requires_grad_()
    assert losses.ot(x, y, w) > 1e-3, "there is a floor"
    value = losses.sinkhorn_divergence(x, y, w, 0.2, 300, detach_plan=detach_plan)
    assert abs(value) < 1e-14
    assert torch.autograd.grad(value, y)[0].abs().max() < 1e-6
    assert torch.autograd.grad(losses.ot(x, y, w), y)[0].abs().max() > 1e-4


def test_the_divergence_is_the_ot_loss_less_half_of_what_either_side_costs_itself_by_converged_plans():
    x, y, w, w_syn = randn(3, 6, 4), randn(3, 6, 4, seed=1), sparse_weights(3, 6), sparse_weights(3, 6, seed=4)

    def carried(p, q, a, b):
        samples = [
            (m[m > 0], n[n > 0], c[m > 0][:, n > 0]) for m, n, c in zip(a, b, losses.cosine_cost(p, q), strict=True)
        ]
        plans = [pot.sinkhorn(m, n, c, 0.2, numItermax=5000, stopThr=1e-9, warn=False) for m, n, c in samples]
        return torch.stack([(plan * c).sum() for plan, (_, _, c) in zip(plans, samples, strict=True)]).mean()

    for b in (None, w_syn):
        own = w if b is None else b
        wanted = carried(x, y, w, own) - (carried(x, x, w, w) + carried(y, y, own, own)) / 2
        found = losses.sinkhorn_divergence(x, y, w, 0.2, 2000, weights_syn=b)
        assert torch.allclose(found, wanted, rtol=1e-6)


# ---- precision


def test_half_precision_and_autocast_give_what_float32_gives():
    half = [randn(2, 5, 8, seed=s, dtype=torch.float16) for s in (0, 1)]
    w = sparse_weights(2, 5).half()
    plain = [losses.pool(half[0].float(), w.float()), losses.cosine_cost(half[0].float(), half[1].float())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = [losses.pool(half[0], w), losses.cosine_cost(half[0], half[1])]
        loss = losses.ot(half[0], half[1], sparse_weights(2, 5).float())
    for ours, theirs in zip(mixed, plain, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
    assert torch.equal(loss, losses.ot(half[0].float(), half[1].float(), sparse_weights(2, 5).float()))
