"""The paper as it reads: the oracle of the parity tests and the other side of the benchmarks.

Nothing of ``bncap`` is used.  Every step sends both pictures through MaxViT and captions of the maximum length through
the whole of mBART-50, eagerly, all attention maps kept; the alignment terms are written for one sample after the other,
over all S patches.  B batch, T caption tokens, S patches, C channels of the encoder, D decoder width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

IGNORED = -100


class PlainReading(nn.Module):
    """MaxViT (frozen), bridge and mBART-50 with the objective of Eq. 6.

    Args:
        encoder: a timm model; the map after its last stage is used.
        mbart: whole, loaded with ``attn_implementation="eager"``.
        language: id of the target language's token.
        tokens: the length that all captions are padded to.
        last_k: K; the rest are the values of Eqs. 6 to 13.
    """

    def __init__(
        self,
        encoder: nn.Module,
        mbart: MBartForConditionalGeneration,
        language: int,
        tokens: int,
        *,
        last_k: int = 2,
        tau: float = 1.0,
        rho: float = 0.5,
        temperature: float = 0.07,
        epsilon: float = 0.05,
        n_iters: int = 30,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.mbart = mbart
        width = mbart.config.d_model
        self.projection = nn.Linear(encoder.feature_info[-1]["num_chs"], width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.language, self.tokens, self.last_k = language, tokens, last_k
        self.tau, self.rho, self.temperature = tau, rho, temperature
        self.epsilon, self.n_iters = epsilon, n_iters
        self.weights = weights or {"ce": 1.0, "pal": 0.5, "infonce": 0.3, "ot": 0.5}

    def train(self, mode: bool = True) -> PlainReading:
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Eq. 2: (B, 3, H, W) pictures -> (B, S, C)."""
        last = len(self.encoder.feature_info) - 1
        maps = self.encoder.forward_intermediates(pixels, indices=[last], intermediates_only=True, output_fmt="NCHW")
        return maps[0].flatten(2).transpose(1, 2)

    def embed(self, pixels: Tensor) -> Tensor:
        """Eq. 3: (B, 3, H, W) -> E(x) (B, S, D)."""
        return self.norm(self.projection(self.features(pixels)))

    def terms(self, pixels: Tensor, pixels_syn: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The four raw terms of Eq. 6.

        Args:
            labels: (B, T) ``lang w_1 ... w_n </s>``, then -100.
            images: (B,) the image that each caption is of.
        """
        labels = F.pad(labels, (0, self.tokens - labels.shape[1]), value=IGNORED)
        x, x_syn = self.embed(pixels), self.embed(pixels_syn)
        output = self.mbart(encoder_outputs=BaseModelOutput(x), labels=labels, output_attentions=True)
        attention = torch.stack(output.cross_attentions[-self.last_k :]).float().mean((0, 2))  # (B, T, S)
        words = (labels != IGNORED) & (labels != self.language)
        w = [patch_weights(a[real].detach(), self.tau, self.rho) for a, real in zip(attention, words, strict=True)]
        x, x_syn = x.float(), x_syn.float()
        r = torch.stack([one @ patches for one, patches in zip(w, x, strict=True)])  # (B, D), Eq. 9
        r_syn = torch.stack([one @ patches for one, patches in zip(w, x_syn, strict=True)])
        transported = [
            ot(patches, others, mass, self.epsilon, self.n_iters)
            for patches, others, mass in zip(x, x_syn, w, strict=True)
        ]
        return {
            "ce": output.loss,
            "pal": torch.stack([1 - F.cosine_similarity(a, b, dim=0) for a, b in zip(r, r_syn, strict=True)]).mean(),
            "infonce": info_nce(r, r_syn, images, self.temperature),
            "ot": torch.stack(transported).mean(),
        }

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        pixels: Tensor,
        pixels_syn: Tensor,
        labels: Tensor,
        images: Tensor,
        clip: float = 1.0,
        mixed: AbstractContextManager | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> dict[str, float]:
        """One optimiser step; ``mixed`` is the autocast to compute the terms in.  Returns the raw terms."""
        scaler = scaler or torch.amp.GradScaler(pixels.device.type, enabled=False)
        optimizer.zero_grad()
        with mixed or nullcontext():
            found = self.terms(pixels, pixels_syn, labels, images)
        loss = sum(self.weights[name] * term for name, term in found.items())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        return {name: float(term.detach()) for name, term in found.items()}

    def adamw(
        self, learning_rate: float = 3e-4, bridge_learning_rate: float = 1e-3, weight_decay: float = 0.01
    ) -> torch.optim.AdamW:
        """AdamW over bridge and decoder, the bridge with a learning rate of its own."""
        bridge = [*self.projection.parameters(), *self.norm.parameters()]
        groups = [
            {"params": bridge, "lr": bridge_learning_rate},
            {"params": list(self.mbart.parameters()), "lr": learning_rate},
        ]
        return torch.optim.AdamW(groups, weight_decay=weight_decay)

    @torch.no_grad()
    def generate(self, pixels: Tensor, **options) -> Tensor:
        """(B, T) ids by the library's ``generate`` from pictures; ``options`` are its own."""
        return self.mbart.generate(
            encoder_outputs=BaseModelOutput(self.embed(pixels)),
            decoder_start_token_id=self.mbart.config.eos_token_id,
            forced_bos_token_id=self.language,
            **options,
        )


def patch_weights(attention: Tensor, tau: float, rho: float) -> Tensor:
    """Eq. 8 of one sample: (T, S) attention of its real tokens -> w (S,), zero outside the top rho of the mass."""
    v = (attention.mean(0).log() / tau).softmax(0)
    order = v.argsort(descending=True, stable=True)
    kept = order[: int((v[order].cumsum(0) < rho).sum()) + 1]
    w = torch.zeros_like(v)
    w[kept] = v[kept]
    return w / w.sum()


def info_nce(r: Tensor, r_syn: Tensor, images: Tensor, temperature: float) -> Tensor:
    """Eq. 11 over 2B descriptors, one after the other; captions of one image are no negatives of each other."""
    count = len(r)
    z, ids = F.normalize(torch.cat([r, r_syn])), 2 * images.tolist()
    losses = []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        others = [j for j in range(2 * count) if j == partner or (j != i and ids[j] != ids[i])]
        similarity = z[others] @ z[i] / temperature
        losses.append(similarity.logsumexp(0) - similarity[others.index(partner)])
    return torch.stack(losses).mean()


def ot(x: Tensor, y: Tensor, mass: Tensor, epsilon: float, n_iters: int) -> Tensor:
    """Eqs. 12 and 13 of one sample: <P*, C> of (S, D) patches under ``mass`` (S,) on both sides, P* taken as fixed."""
    cost = 1 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).T  # (S, S)
    with torch.no_grad():
        kernel, log_mass = -cost / epsilon, mass.log()  # -inf where there is no mass
        log_u = torch.zeros_like(mass).masked_fill(mass == 0, -torch.inf)
        for _ in range(n_iters):
            log_v = log_mass - (kernel + log_u[:, None]).logsumexp(0)
            log_u = log_mass - (kernel + log_v[None, :]).logsumexp(1)
        plan = (kernel + log_u[:, None] + log_v[None, :]).exp()  # (S, S)
    return (plan * cost).sum()
