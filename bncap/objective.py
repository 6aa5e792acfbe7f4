"""One batch through the model and the losses: the terms of Eq. 6."""

from __future__ import annotations

import torch
from torch import Tensor

from bncap.batches import Batch
from bncap.losses import caption_nll, info_nce, ot, pal, patch_weights, pool
from bncap.model import IGNORED, Captioner
from bncap.settings import Loss


def weights_of(loss: Loss) -> dict[str, float]:
    """Weight of each term of Eq. 6; terms of weight 0 are not computed."""
    weights = {"ce": 1.0, "pal": loss.lambda_pal, "infonce": loss.alpha, "ot": loss.beta}
    return {name: weight for name, weight in weights.items() if weight > 0}


def terms(model: Captioner, batch: Batch, loss: Loss, extra: Batch | None = None) -> dict[str, Tensor]:
    """The raw terms of Eq. 6 that have a weight, by name.

    Args:
        extra: further real captions whose cross-entropy is averaged in (``loss.ce_on = "real+real"``).

    Alignment terms are taken over the triplets that have a synthetic picture and left out if none of the batch has.
    """
    memory = model.bridge(batch.real)
    logits, attention = model(memory, batch.labels)
    captioned = [(logits, batch.labels)]
    if loss.ce_on == "real+synthetic" and batch.paired.any():
        labels = batch.labels[batch.paired]
        captioned.append((model(model.bridge(batch.synthetic[batch.paired]), labels)[0], labels))
    if extra is not None:
        captioned.append((model(model.bridge(extra.real), extra.labels)[0], extra.labels))
    found = {"ce": _mean_nll(captioned)}
    if len(weights_of(loss)) > 1 and batch.paired.any():
        found |= _alignment(model, batch, loss, memory, attention)
    return found


def _alignment(model: Captioner, batch: Batch, loss: Loss, memory: Tensor, attention: Tensor) -> dict[str, Tensor]:
    pairs = batch.paired
    wanted = weights_of(loss)
    labels = batch.labels[pairs]
    x, x_syn = memory[pairs], model.bridge(batch.synthetic[pairs])
    w = text_weights(model, attention[pairs], labels, loss)
    r, r_syn = pool(x, w), pool(x_syn, w)
    found = {}
    if "pal" in wanted:
        found["pal"] = pal(r, r_syn)
    if "infonce" in wanted:
        groups = None if loss.same_image_negatives else batch.images[pairs]
        found["infonce"] = info_nce(r, r_syn, loss.temperature, groups)
    if "ot" in wanted:
        w_syn = text_weights(model, model(x_syn, labels)[1], labels, loss) if loss.synthetic_masses else None
        found["ot"] = _transport(x, x_syn, w, loss, w_syn)
    if model.penultimate_bridge is not None:
        _add_penultimate(found, model, batch, w, loss)
    return found


def text_weights(model: Captioner, attention: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """w (B, S) of Eq. 8 from the tapped ``attention`` (B, T, S), read as ``loss`` says."""
    real_tokens = labels.ne(IGNORED)
    if not loss.language_token:
        real_tokens = real_tokens & labels.ne(model.language_id)
    if not loss.weight_gradient:
        attention = attention.detach()  # w says where to look and is not itself pulled
    return patch_weights(attention, real_tokens, loss.tau, loss.rho, domain=loss.domain, keep=loss.keep)


def _transport(x: Tensor, x_syn: Tensor, w: Tensor, loss: Loss, w_syn: Tensor | None = None) -> Tensor:
    return ot(x, x_syn, w, loss.epsilon, loss.n_iters, detach_plan=not loss.plan_gradient, weights_syn=w_syn)


def _add_penultimate(found: dict[str, Tensor], model: Captioner, batch: Batch, w: Tensor, loss: Loss) -> None:
    """Multi-scale alignment (Sec. 4.1): PAL and OT on E^(p) as well, averaged with the final stage's.

    Each patch of the final stage covers the same square of finer patches; its weight is shared among them evenly.
    """
    x = model.penultimate_bridge(batch.real_penultimate[batch.paired])
    x_syn = model.penultimate_bridge(batch.synthetic_penultimate[batch.paired])
    side, fine = round(w.shape[1] ** 0.5), round(x.shape[1] ** 0.5)
    grid = w.view(-1, 1, side, side)  # (B, 1, H, W)
    spread = torch.nn.functional.interpolate(grid, (fine, fine), mode="nearest").flatten(1)  # (B, S^(p))
    spread = spread / spread.sum(1, keepdim=True)
    if "pal" in found:
        found["pal"] = (found["pal"] + pal(pool(x, spread), pool(x_syn, spread))) / 2
    if "ot" in found:
        found["ot"] = (found["ot"] + _transport(x, x_syn, spread, loss)) / 2


def _mean_nll(captioned: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over all real tokens of all (logits, labels)."""
    counts = [labels.ne(IGNORED).sum() for _, labels in captioned]
    sums = [caption_nll(logits, labels) * n for (logits, labels), n in zip(captioned, counts, strict=True)]
    return sum(sums) / sum(counts)
