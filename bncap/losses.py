"""The objective, Eqs. (6) to (13), but for Eq. (13)'s solver, which is `bncap.sinkhorn.transport_plan`.

Symbols of the paper (Sec. 4), used as variable names and in the docstrings:
    B, T, V        batch, caption tokens, vocabulary
    S, D, L, K     patches, decoder width, decoder layers, how many last layers the attention is averaged over
    x, x~, y       real image, synthetic image, caption; E(x) (B, S, D) the patches behind the bridge
    A              decoder cross-attention, mean over heads and the last K layers (B, T, S)
    v, w           attention over patches at temperature tau; the same over the kept patches, renormalised (B, S)
    tau, rho       attention temperature; the share of the mass (or of the patches) that is kept
    r, r~          pooled descriptors of real and synthetic image (B, D): `r`, `r_syn`
    Z, z, z+       the 2B pooled descriptors, one of them, its partner; t InfoNCE's temperature
    C, P, a, b     patch-to-patch cost, transport plan, masses of the real and the synthetic patches
    epsilon, H     entropic regularisation and the entropy
    lambda_PAL, alpha, beta     weights of PAL, InfoNCE and OT beside the cross-entropy

Tensors and named scalars in, tensors out. Half-precision input is computed and returned in float32, under autocast too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bncap.sinkhorn import check_problem, full_precision, safe_log, solve_plan


def total(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Eq. (6), Sec. 4.3: L = L_CE + lambda_PAL L_PAL + alpha L_InfoNCE + beta L_OT, a weighted sum of named scalars.

    terms: scalar tensors by name, at least one; a term that a batch does not have is left out. weights: one number
    for each term (1 for the cross-entropy); weights of absent terms are allowed.
    Returns a scalar. Raises ValueError for no terms, a term without a weight, or one that is no scalar.
    """
    if not terms:
        raise ValueError("the objective has no terms")
    for name, term in terms.items():
        if name not in weights:
            raise ValueError(f"the term {name!r} has no weight; weights are given for {sorted(weights)}")
        if term.ndim != 0:
            raise ValueError(f"the term {name!r} must be a scalar, got shape {tuple(term.shape)}")
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


@full_precision
def caption_nll(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Eq. (7), Sec. 4.5: L_CE = -sum_t log p(y_t | y_<t, E(x)), as a mean over the real tokens, PAD masked.

    The paper prints a sum over t. It is divided here by the number of real tokens in the batch, so that the weights
    lambda_PAL, alpha, beta of Eq. 6 mean the same beside captions of any length and batches of any size.

    logits: (B, T, V). labels: (B, T) integers in [0, V), or ignore_index where nothing is to be predicted (PAD).
    Returns a scalar. Raises ValueError for wrong shapes or a batch without a single real token.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"caption_nll needs logits (B, T, V) and labels (B, T), got {tuple(logits.shape)}, {tuple(labels.shape)}"
        )
    if not (labels != ignore_index).any():
        raise ValueError(f"no label differs from ignore_index = {ignore_index}: the batch has no token to learn from")
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignore_index)  # (B T, V), (B T)


@full_precision
def patch_weights(
    attention: Tensor,
    token_mask: Tensor,
    tau: float = 1.0,
    rho: float = 0.5,
    *,
    domain: str = "log",
    keep: str = "mass",
) -> Tensor:
    """Eq. (8), Sec. 4.6: text-conditioned patch weights w = TopKSoftmax(A, tau, rho).

        A_s = mean of attention over the real tokens
        v = softmax(log A / tau) for domain "log" (tau = 1 keeps the attention itself), softmax(A / tau) for "prob"
        w = v over the kept patches, renormalised
    Kept are, for keep "mass", the smallest set of patches that holds at least rho of v's mass, and for "count" the
    ceil(rho S) patches of largest v; ties go to the lower index. A mass or count that meets rho up to rounding
    (1e-6 relative; 1e-12 in float64) meets it. In domain "log" a patch without attention keeps a weight of exactly 0.

    attention: (B, T, S) >= 0, rows on the simplex, mean over heads and the last K layers. token_mask: (B, T) bool,
    True = real token; what attention holds at the others has no influence. tau > 0. 0 < rho <= 1.
    Returns (B, S): non-negative, rows summing to 1, exact zeros outside the kept patches. The gradient flows through
    `attention`, the choice of patches taken as fixed; pass attention.detach() where w is not to be pulled.
    Raises ValueError for values outside these ranges, wrong shapes, a row without a real token, and attention that
    is NaN, infinite, negative or all zero over a row's real tokens.
    """
    if attention.ndim != 3 or token_mask.shape != attention.shape[:2]:
        raise ValueError(
            "patch_weights needs attention (B, T, S) and token_mask (B, T), "
            f"got {tuple(attention.shape)} and {tuple(token_mask.shape)}"
        )
    if token_mask.is_floating_point():
        raise ValueError("token_mask must be boolean (True = real token), not an additive float mask")
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    if not 0 < rho <= 1:
        raise ValueError(f"rho must be in (0, 1], got {rho}")
    if domain not in ("log", "prob") or keep not in ("mass", "count"):
        raise ValueError(f'domain must be "log" or "prob" and keep "mass" or "count", got {domain!r} and {keep!r}')
    mean = _mean_attention(attention, token_mask.bool())  # (B, S), float64
    v = ((safe_log(mean) if domain == "log" else mean) / tau).softmax(1)
    rounding = 1e-6 if attention.dtype == torch.float32 else 1e-12
    w = v * _kept_patches(mean.detach(), v.detach(), rho, keep, rounding)
    return (w / w.sum(1, keepdim=True)).to(attention.dtype)  # (B, S)


def _mean_attention(attention: Tensor, real: Tensor) -> Tensor:
    """Mean over the real tokens in float64, (B, S); ValueError names a row without any or of unusable attention."""
    # Summed along the contiguous axis: torch adds the columns of a (T, S) matrix in an order that depends on the
    # column, so equal patches would differ in the last bit and ties would not go to the lower index.
    masked = attention.masked_fill(~real.unsqueeze(2), 0).double()  # (B, T, S)
    mean = masked.transpose(1, 2).contiguous().sum(2) / real.sum(1, keepdim=True)  # (B, S), NaN without a real token
    whole = mean.detach().sum(1)
    # NaN fails every comparison; one flag, so that a GPU is waited for once.
    valid = (mean.detach().amin(1) >= 0) & (whole > 0) & (whole < torch.inf)
    if not valid.all():
        row = int((~valid).nonzero()[0])
        if not real[row].any():
            raise ValueError(f"batch row {row} has no real token: its token_mask is all False")
        raise ValueError(f"attention of batch row {row} is NaN, infinite, negative or all zero")
    return mean


def _kept_patches(mean: Tensor, v: Tensor, rho: float, keep: str, rounding: float) -> Tensor:
    """Boolean (B, S): the patches that Eq. 8 keeps of v, ranked by the mean attention, of which v is monotone."""
    S = v.shape[1]
    order = mean.argsort(dim=1, descending=True, stable=True)
    if keep == "count":
        kept = torch.arange(S, device=v.device).expand_as(order) < math.ceil(rho * S - 1e-9)
    else:
        # A patch is needed while it and the smaller ones hold more than 1 - rho. Summed from the small end, so that
        # rho = 1 keeps a patch of 1e-12 too, which a running sum from the large end would have rounded away.
        kept = v.gather(1, order).flip(1).cumsum(1).flip(1) > (1 - rho) * (1 + rounding)
    kept[:, 0] = True  # also where rho is below the rounding
    return torch.empty_like(kept).scatter_(1, order, kept)


@full_precision
def pool(patches: Tensor, weights: Tensor) -> Tensor:
    """Eq. (9), Sec. 4.6: text-weighted pooling r = sum_s w_s E_s(x).

    patches: (B, S, D). weights: (B, S), as `patch_weights` gives them; the real image's serve both images.
    Returns (B, D). Raises ValueError for wrong shapes.
    """
    if patches.ndim != 3 or weights.shape != patches.shape[:2]:
        raise ValueError(
            f"pool needs patches (B, S, D) and weights (B, S), got {tuple(patches.shape)} and {tuple(weights.shape)}"
        )
    return torch.bmm(weights.unsqueeze(1), patches).squeeze(1)  # (B, D)


@full_precision
def pal(r: Tensor, r_syn: Tensor) -> Tensor:
    """Eq. (10), Sec. 4.6: patch alignment L_PAL = 1 - cos(r, r~), mean over the batch.

    r, r_syn: (B, D). The cosine with a zero vector is 0. Returns a scalar in [0, 2].
    Raises ValueError for wrong shapes.
    """
    _check_pair("pal", r, r_syn)
    return 1 - (_unit(r) * _unit(r_syn)).sum(1).mean()


@full_precision
def info_nce(r: Tensor, r_syn: Tensor, temperature: float = 0.07, groups: Tensor | None = None) -> Tensor:
    """Eq. (11), Sec. 4.6: InfoNCE over the set Z = {r_i, r~_i} of 2B pooled descriptors.

        L = -1/|Z| sum_{z in Z} log( exp(cos(z, z+) / t) / sum_{z' in Z without z} exp(cos(z, z') / t) )

    r, r_syn: (B, D). temperature: t > 0. groups: (B,) integer ids or None; vectors of equal id, such as those of
    several captions of one image, are no negatives of each other, while each keeps its own partner as positive.
    Returns a scalar >= 0: 0 for B = 1, log(2B - 1) for equal vectors. Raises ValueError for wrong shapes or t <= 0.
    """
    _check_pair("info_nce", r, r_syn)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    B = r.shape[0]
    z = _unit(torch.cat([r, r_syn]))  # (2B, D)
    similarity = z @ z.T / temperature  # (2B, 2B)
    index = torch.arange(2 * B, device=r.device)
    partner = index.roll(B)
    if groups is None:
        excluded = index[:, None] == index
    else:
        if groups.shape != (B,):
            raise ValueError(f"groups must have shape ({B},), got {tuple(groups.shape)}")
        ids = torch.cat([groups, groups])  # (2B,)
        excluded = (ids[:, None] == ids) & (partner[:, None] != index)  # the vector itself is of its own group
    return F.cross_entropy(similarity.masked_fill(excluded, -torch.inf), partner)


@full_precision
def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """Eq. (12), Sec. 4.6: cost between patches, C_st = 1 - cos(x_s, y_t).

    x: (B, S, D), y: (B, S', D). The cosine with a zero vector is 0. Returns (B, S, S') in [0, 2] up to rounding.
    Raises ValueError for wrong shapes.
    """
    if x.ndim != 3 or y.ndim != 3 or x.shape[0] != y.shape[0] or x.shape[2] != y.shape[2]:
        raise ValueError(f"cosine_cost needs (B, S, D) and (B, S', D), got {tuple(x.shape)} and {tuple(y.shape)}")
    return 1 - torch.bmm(_unit(x), _unit(y).mT)  # (B, S, S')


@full_precision
def ot(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    epsilon: float = 0.05,
    n_iters: int = 30,
    *,
    detach_plan: bool = True,
    weights_syn: Tensor | None = None,
) -> Tensor:
    """The OT loss <P*, C> of Eq. (13), Sec. 4.6, mean over the batch: patch-to-patch transport under the text weights.

    x: (B, S, D) real and y: (B, S', D) synthetic patches. weights: (B, S), the masses a on the real patches and, as
    printed, b on the synthetic ones (then S' = S); weights_syn: (B, S') gives b masses of its own, w~ of the
    synthetic image. epsilon, n_iters: as in `transport_plan`.
    detach_plan: True takes the gradient of <P*, C> at the fixed solved plan, so none reaches the weights; False
    differentiates through the Sinkhorn iterations.
    Patches of zero mass are left out before anything is computed, which changes no value and no gradient.
    Returns a scalar. Raises ValueError for wrong shapes and for masses that `transport_plan` refuses.
    """
    a, b = weights, weights if weights_syn is None else weights_syn
    if x.ndim != 3 or y.ndim != 3 or a.shape != x.shape[:2] or b.shape != y.shape[:2] or x.shape[2] != y.shape[2]:
        raise ValueError(
            "ot needs x (B, S, D), y (B, S', D), weights (B, S) and, where S' differs, weights_syn (B, S'), "
            f"got {tuple(x.shape)}, {tuple(y.shape)}, {tuple(a.shape)}, {tuple(b.shape)}"
        )
    check_problem(a, b, epsilon, n_iters)
    x, a = _drop_patches(x, a)  # (B, k, D), (B, k)
    y, b = _drop_patches(y, b)
    cost = cosine_cost(x, y)  # (B, k, k')
    if detach_plan:
        plan = solve_plan(cost.detach(), a.detach(), b.detach(), epsilon, n_iters)
    else:
        plan = solve_plan(cost, a, b, epsilon, n_iters)
    return (plan * cost).sum() / len(x)


def _drop_patches(patches: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    """The patches with mass (B, k, D), in their order, and their masses (B, k); k is the largest number of a row, and
    rows with fewer are padded with patches of zero mass."""
    k = int(masses.count_nonzero(1).max())
    kept = (masses != 0).byte().argsort(dim=1, descending=True, stable=True)[:, :k]  # (B, k)
    rows = kept + torch.arange(len(kept), device=kept.device).unsqueeze(1) * masses.shape[1]  # of (B S, D)
    return patches.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, kept.shape), masses.gather(1, kept)


def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    epsilon: float = 0.05,
    n_iters: int = 30,
    *,
    detach_plan: bool = True,
    weights_syn: Tensor | None = None,
) -> Tensor:
    """The OT loss less its floor: `ot(x, y)` minus the mean of `ot(x, x)` and `ot(y, y)`.

    An entropic plan carries some mass of a patch to others even between equal pictures, so that `ot` is above 0 there
    and falls when all patches of a picture grow alike. This is 0 for x = y (Genevay et al., AISTATS 2018).
    Arguments, result and errors as in `ot`.
    """
    own = weights if weights_syn is None else weights_syn
    settings = {"epsilon": epsilon, "n_iters": n_iters, "detach_plan": detach_plan}
    floor = (ot(x, x, weights, **settings) + ot(y, y, own, **settings)) / 2
    return ot(x, y, weights, weights_syn=weights_syn, **settings) - floor


def _unit(x: Tensor) -> Tensor:
    """x / |x| along the last axis; a zero vector stays zero, with a finite gradient."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)


def _check_pair(name: str, r: Tensor, r_syn: Tensor) -> None:
    if r.ndim != 2 or r.shape != r_syn.shape:
        raise ValueError(f"{name} needs two tensors (B, D), got {tuple(r.shape)} and {tuple(r_syn.shape)}")
