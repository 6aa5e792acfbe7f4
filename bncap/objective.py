"""One batch through the model and the losses: the terms of Eq. 6."""

from __future__ import annotations

import torch
from torch import Tensor

from bncap.batches import Batch
from bncap.chunked_cross_entropy import IGNORED, chunked_cross_entropy
from bncap.decoders.captioner import CaptionModel
from bncap.losses import info_nce, ot, pal, patch_weights, pool, sinkhorn_divergence
from bncap.settings import Loss


def term_weights(loss: Loss) -> dict[str, float]:
    """Weight of each term of Eq. 6; terms of weight 0 are not computed."""
    weights = {"ce": 1.0, "pal": loss.lambda_pal, "infonce": loss.alpha, "ot": loss.beta}
    return {name: weight for name, weight in weights.items() if weight > 0}


def compute_terms(model: CaptionModel, batch: Batch, loss: Loss, extra: Batch | None = None) -> dict[str, Tensor]:
    """The raw terms of Eq. 6 that have a weight, by name.

    Args:
        extra: further real captions whose cross-entropy is averaged in (``loss.ce_on = "real+real"``).

    Alignment terms are taken over the triplets that have a synthetic picture and left out if none of the batch has.
    """
    memory = model.bridge(batch.real)
    ce, masses = compute_cross_entropy(model, batch, loss, memory, extra)
    found = {"ce": ce}
    if masses:
        found |= compute_alignment(model, batch, loss, memory, *masses)
    return found


def compute_cross_entropy(
    model: CaptionModel, batch: Batch, loss: Loss, memory: Tensor, extra: Batch | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The part of the objective that needs the decoder: the cross-entropy, and the masses w of the triplets with a
    pair, followed by w~ for ``loss.synthetic_masses``.  There are no masses if no alignment term has a weight, no
    triplet has a synthetic picture, or the cross-entropy is not finite.
    """
    states, attention = model.states(memory, batch.labels)
    captioned = [(states, batch.labels)]
    pairs = _pairs(batch)
    if loss.ce_on == "real+synthetic" and pairs is not None:
        labels = batch.labels[pairs]
        assert batch.synthetic is not None  # as there are pairs
        captioned.append((model.states(model.bridge(batch.synthetic[pairs]), labels)[0], labels))
    if extra is not None:
        captioned.append((model.states(model.bridge(extra.real), extra.labels)[0], extra.labels))
    joined = torch.cat([part.flatten(0, 1) for part, _ in captioned])  # (N, D), through the output layer once
    ce = chunked_cross_entropy(joined, *model.head, torch.cat([labels.flatten() for _, labels in captioned]))
    if len(term_weights(loss)) == 1 or pairs is None:
        return ce, []
    assert attention is not None and batch.synthetic is not None  # the tap is open, and there are pairs
    labels = batch.labels[pairs]
    try:
        masses = [text_weights(model, attention[pairs], labels, loss)]
        if loss.synthetic_masses:
            attention_syn = model.states(model.bridge(batch.synthetic[pairs]), labels)[1]
            assert attention_syn is not None  # the tap is open
            masses.append(text_weights(model, attention_syn, labels, loss))
        return ce, masses
    except ValueError:
        if ce.isfinite():
            raise
        return ce, []  # the attention is not finite either; the caller reports the cross-entropy


def _pairs(batch: Batch) -> Tensor | slice | None:
    """Where the captions with a synthetic picture are; None if there are none, and all of them without a copy."""
    rows = batch.paired.nonzero().squeeze(1)
    if not len(rows):
        return None
    return slice(None) if len(rows) == len(batch.paired) else rows


def count_tokens(batch: Batch, loss: Loss, extra: Batch | None = None) -> Tensor:
    """(B,) int64: tokens of each row in the mean that :func:`compute_cross_entropy` takes."""
    counts = batch.labels.ne(IGNORED).sum(1)
    if loss.ce_on == "real+synthetic":
        counts = counts * (1 + batch.paired.long())
    if extra is not None:
        counts = counts + extra.labels.ne(IGNORED).sum(1)
    return counts


def compute_alignment(
    model: CaptionModel, batch: Batch, loss: Loss, memory: Tensor, w: Tensor, w_syn: Tensor | None = None
) -> dict[str, Tensor]:
    """The alignment terms that have a weight: of the (B, S, D) ``memory`` and the masses, without the decoder."""
    pairs = _pairs(batch)
    assert pairs is not None and batch.synthetic is not None  # else there are no masses
    weights = term_weights(loss)
    x, x_syn = memory[pairs], model.bridge(batch.synthetic[pairs])
    r, r_syn = pool(x, w), pool(x_syn, w)
    found = {}
    if "pal" in weights:
        found["pal"] = pal(r, r_syn)
    if "infonce" in weights:
        groups = None if loss.same_image_negatives else batch.images[pairs]
        found["infonce"] = info_nce(r, r_syn, loss.temperature, groups)
    if "ot" in weights:
        found["ot"] = _transport(x, x_syn, w, loss, w_syn)
    if model.penultimate_bridge is not None:
        _add_penultimate(found, model, batch, pairs, w, loss)
    return found


def text_weights(model: CaptionModel, attention: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """w (B, S) of Eq. 8 from the tapped ``attention`` (B, T, S), read as ``loss`` says."""
    real_tokens = labels.ne(IGNORED)
    if not loss.language_token:
        real_tokens = real_tokens & labels.ne(model.language_id)
    if not loss.weight_gradient:
        attention = attention.detach()  # w chooses the patches and gets no gradient itself
    return patch_weights(attention, real_tokens, loss.tau, loss.rho, domain=loss.domain, keep=loss.keep)


def _transport(x: Tensor, x_syn: Tensor, w: Tensor, loss: Loss, w_syn: Tensor | None = None) -> Tensor:
    term = sinkhorn_divergence if loss.divergence else ot
    return term(x, x_syn, w, loss.epsilon, loss.n_iters, detach_plan=not loss.plan_gradient, weights_syn=w_syn)


def _add_penultimate(
    found: dict[str, Tensor], model: CaptionModel, batch: Batch, pairs: Tensor | slice, w: Tensor, loss: Loss
) -> None:
    """Multi-scale alignment (Sec. 4.1): PAL and OT on E^(p) as well, averaged with the final stage's.

    Each patch of the final stage covers the same square of finer patches; its weight is shared among them evenly.
    """
    bridge, real, synthetic = model.penultimate_bridge, batch.real_penultimate, batch.synthetic_penultimate
    assert bridge is not None and real is not None and synthetic is not None  # model.multi_scale
    x, x_syn = bridge(real[pairs]), bridge(synthetic[pairs])
    side, fine = round(w.shape[1] ** 0.5), round(x.shape[1] ** 0.5)
    grid = w.view(-1, 1, side, side)  # (B, 1, H, W)
    spread = torch.nn.functional.interpolate(grid, (fine, fine), mode="nearest").flatten(1)  # (B, S^(p))
    spread = spread / spread.sum(1, keepdim=True)
    if "pal" in found:
        found["pal"] = (found["pal"] + pal(pool(x, spread), pool(x_syn, spread))) / 2
    if "ot" in found:
        found["ot"] = (found["ot"] + _transport(x, x_syn, spread, loss)) / 2
