"""Ours computes what the paper's plain reading computes: every term, every gradient, the step, the search."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from plain_reading import PlainReading, info_nce
from transformers import MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from bncap import objective, train
from bncap.batches import Batch
from bncap.chunked_cross_entropy import IGNORED
from bncap.config import get_config
from bncap.losses import total
from bncap.model import build_captioner
from bncap.settings import Decode, Loss
from bncap.small_models.encoder import CHECKPOINT

CHANNELS, TOKENS, SIDE = 128, 14, 112
CLOSE = 1e-5
"""Largest difference of two tensors in fp32, relative to the norm of one."""
NOTHING = 1e-8
"""Of the whole gradient's norm: the bias of a key has no gradient but rounding, as softmax does not depend on it."""
ROUNDING = 2e-4
"""Largest relative change of a term by features of float16."""


@pytest.fixture(scope="module")
def encoder():
    return timm.create_model(f"local-dir:{CHECKPOINT}", pretrained=True)


@pytest.fixture
def pair(mbart_folder, encoder):
    """Makes ours and the plain reading with the same weights, no dropout."""

    def make(last_k=2, captions=None):
        torch.manual_seed(3)
        ours = build_captioner(str(mbart_folder), "bn_IN", CHANNELS, last_k, captions=captions)
        sharpen(ours.decoder)
        mbart = MBartForConditionalGeneration.from_pretrained(mbart_folder, attn_implementation="eager")
        language = ours.tokenizer.convert_tokens_to_ids("bn_IN")
        sharpen(mbart)
        plain = PlainReading(encoder, mbart, language, TOKENS, last_k=last_k)
        plain.projection.load_state_dict(ours.bridge.projection.state_dict())
        plain.norm.load_state_dict(ours.bridge.norm.state_dict())
        for model in (ours, plain):
            for module in model.modules():
                for name in ("dropout", "activation_dropout", "attention_dropout"):
                    if isinstance(getattr(module, name, None), float):
                        setattr(module, name, 0.0)
        return ours.train(), plain.train()

    return make


@torch.no_grad()
def sharpen(mbart):
    """Make a random decoder attend to some patches more than to others, and prefer some words."""
    generator = torch.Generator().manual_seed(8)
    for parameter in mbart.model.decoder.layers.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def pictures(seed, count=5):
    """Real and synthetic pixels of ``count`` triplets, two of them of one image: blots the size of a patch."""
    blots = torch.randn(2 * count, 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    real, synthetic = F.interpolate(blots, SIDE, mode="bilinear").split(count)
    images = torch.arange(count)
    images[-1], real[-1] = 0, real[0]
    return real, synthetic, images


def captions(ours, seed, count=5):
    """(count, T) labels of random pieces, 2 to ``TOKENS - 2`` of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((count, TOKENS), IGNORED)
    for row in labels:
        words = int(torch.randint(2, TOKENS - 1, (), generator=generator))
        row[0], row[words + 1] = ours.language_id, ours.tokenizer.eos_token_id
        row[1 : words + 1] = torch.randint(4, 30, (words,), generator=generator)
    return labels[:, : int(labels.ne(IGNORED).sum(1).max())]


def cached(plain, real, synthetic, labels, images, dtype=torch.float32):
    """The batch that ours trains on: features as they come out of a cache of ``dtype``."""
    features, features_syn = (plain.features(pixels).to(dtype) for pixels in (real, synthetic))
    return Batch(features, features_syn, labels, images, torch.ones_like(images, dtype=torch.bool))


def renamed(plain):
    """The parameters that are trained, under the names that they have in ours."""
    names = {"projection": "bridge.projection", "norm": "bridge.norm", "mbart": "decoder"}
    found = {}
    for name, parameter in plain.named_parameters():
        part, _, rest = name.partition(".")
        if part in names and not rest.startswith("model.encoder."):
            found[f"{names[part]}.{rest}"] = parameter
    return found


def assert_same_gradients(ours, plain):
    found = {name: p.grad for name, p in ours.named_parameters() if "model.encoder." not in name}
    wanted = {name: p.grad for name, p in renamed(plain).items()}
    assert found.keys() == wanted.keys()
    whole = torch.stack([g.norm() for g in wanted.values()]).norm()
    for name, gradient in wanted.items():
        bound = NOTHING * whole if name.endswith("k_proj.bias") else CLOSE * gradient.norm()
        assert (found[name] - gradient).norm() <= bound, name


def assert_same_terms(found, wanted):
    assert found.keys() == wanted.keys() == {"ce", "pal", "infonce", "ot"}
    for name, value in wanted.items():
        assert torch.as_tensor(found[name]).item() == pytest.approx(torch.as_tensor(value).item(), rel=CLOSE), name


@pytest.mark.parametrize(
    ("seed", "last_k", "values"),
    [
        (0, 2, {}),
        (1, 1, {}),
        (2, 3, {}),
        (3, 2, {"tau": 0.5, "rho": 0.3, "temperature": 0.2}),
        (4, 2, {"rho": 1.0, "epsilon": 0.1, "n_iters": 2}),
    ],
)
def test_every_term_and_gradient_is_that_of_the_plain_reading(pair, seed, last_k, values):
    ours, plain = pair(last_k)
    for name, value in values.items():
        setattr(plain, name, value)
    real, synthetic, images = pictures(seed)
    labels = captions(ours, seed)
    found = objective.compute_terms(ours, cached(plain, real, synthetic, labels, images), Loss(**values))
    wanted = plain.terms(real, synthetic, labels, images)
    assert_same_terms(found, wanted)
    total(found, plain.weights).backward()
    total(wanted, plain.weights).backward()
    assert_same_gradients(ours, plain)


READ_OTHERWISE = [
    {"domain": "prob", "tau": 0.02},
    {"keep": "count", "rho": 0.3},
    {"language_token": True},
    {"weight_gradient": True},
    {"plan_gradient": True},
    {"weight_gradient": True, "plan_gradient": True},
    {"same_image_negatives": True},
    {"synthetic_masses": True},
    {"divergence": True},
    {"divergence": True, "synthetic_masses": True},
]


@pytest.mark.parametrize("reading", READ_OTHERWISE, ids=lambda reading: "+".join(reading))
def test_every_other_reading_has_the_terms_and_gradients_of_its_own_plain_reading(pair, reading):
    ours, plain = pair()
    real, synthetic, images = pictures(12)
    labels = captions(ours, 12)
    found = objective.compute_terms(ours, cached(plain, real, synthetic, labels, images), Loss(**reading))
    wanted = plainly(plain, real, synthetic, labels, images, Loss(**reading))
    assert_same_terms(found, wanted)
    default = plain.terms(real, synthetic, labels, images)
    differ = {name for name in default if abs(wanted[name] / default[name] - 1) > 1e-3}
    assert bool(differ) != bool(reading.keys() <= {"weight_gradient", "plan_gradient"}), "the values tell them apart"
    total(found, plain.weights).backward()
    total(wanted, plain.weights).backward()
    assert_same_gradients(ours, plain)


def plainly(plain, real, synthetic, labels, images, loss):
    """The terms under another reading, one sample after the other, over all patches, in float64 from w on."""
    words = labels.ne(IGNORED) if loss.language_token else labels.ne(IGNORED) & labels.ne(plain.language)
    (x, ce, w), (x_syn, _, w_syn) = (attended(plain, pixels, labels, words, loss) for pixels in (real, synthetic))
    b = w_syn if loss.synthetic_masses else w
    carried = [carry(*sides, loss) for sides in zip(x, x_syn, w, b, strict=True)]
    if loss.divergence:
        floors = [
            (carry(p, p, m, m, loss) + carry(q, q, n, n, loss)) / 2 for p, q, m, n in zip(x, x_syn, w, b, strict=True)
        ]
        carried = [one - floor for one, floor in zip(carried, floors, strict=True)]
    r, r_syn = (torch.stack([m @ one for m, one in zip(w, side, strict=True)]) for side in (x, x_syn))
    groups = torch.arange(len(images)) if loss.same_image_negatives else images
    return {
        "ce": ce,
        "pal": (1 - F.cosine_similarity(r, r_syn)).mean(),
        "infonce": info_nce(r, r_syn, groups, loss.temperature),
        "ot": torch.stack(carried).mean(),
    }


def attended(plain, pixels, labels, words, loss):
    """Patches E(x), cross-entropy, and w of each caption."""
    x = plain.embed(pixels)
    output = plain.mbart(encoder_outputs=BaseModelOutput(x), labels=labels, output_attentions=True)
    attention = torch.stack(output.cross_attentions[-plain.last_k :]).mean((0, 2)).double()  # (B, T, S)
    if not loss.weight_gradient:
        attention = attention.detach()
    weights = []
    for mean in (a[real].mean(0) for a, real in zip(attention, words, strict=True)):
        v = ((mean if loss.domain == "prob" else mean.log()) / loss.tau).softmax(0)
        order = v.argsort(descending=True, stable=True)
        few = int((v[order].cumsum(0) < loss.rho).sum()) + 1
        kept = order[: math.ceil(loss.rho * len(v)) if loss.keep == "count" else few]
        weights.append(torch.zeros_like(v).index_put((kept,), v[kept] / v[kept].sum()))
    return x.double(), output.loss, weights


def carry(x, y, a, b, loss):
    """<P, C>: scalings of exp(-C / epsilon) in turn, as Sinkhorn's are written."""
    cost = 1 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    kernel, u = (-cost / loss.epsilon).exp(), a.gt(0).double()  # patches without mass take no part from the start
    for _ in range(loss.n_iters):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
    plan = u[:, None] * kernel * v
    return ((plan if loss.plan_gradient else plan.detach()) * cost).sum()


def train_config(*overrides):
    return get_config("paper", ["train.batch=5", "train.learning_rate=0.01", "train.precision=fp32", *overrides])


@pytest.mark.parametrize("overrides", [("train.accumulation=2",), ("model.checkpointing=True",)])
def test_accumulation_and_checkpointing_leave_the_gradient_of_the_plain_reading(pair, overrides):
    ours, plain = pair()
    real, synthetic, images = pictures(6)
    labels = captions(ours, 6)
    config = train_config(*overrides)
    if config.model.checkpointing:
        ours.decoder.activation_checkpointing_enable({"use_reentrant": False})
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    found = train.backpropagate(ours, cached(plain, real, synthetic, labels, images), config, scaler)
    wanted = plain.terms(real, synthetic, labels, images)
    assert_same_terms(found, wanted)
    total(wanted, plain.weights).backward()
    assert_same_gradients(ours, plain)


def test_optimiser_steps_leave_the_weights_of_the_plain_reading(pair):
    ours, plain = pair()
    config = train_config()
    optimizer, _ = train.build_optimizer(ours, config, 100)
    for group, rate in zip(optimizer.param_groups, (1e-3, 0.01), strict=True):
        group["lr"] = rate  # as if the warm-up were over
    theirs = plain.adamw(0.01, 1e-3, config.train.weight_decay)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for seed in (7, 8):
        real, synthetic, images = pictures(seed)
        labels = captions(ours, seed)
        batch = cached(plain, real, synthetic, labels, images)
        found, _ = train.training_step(ours, batch, config, optimizer, scaler)
        assert_same_terms(found, plain.step(theirs, real, synthetic, labels, images, config.train.clip))
    wanted = renamed(plain)
    for name, parameter in ours.named_parameters():
        # AdamW makes whole steps of the rounding in a gradient that is nothing: a key's bias moves, to no effect
        if "model.encoder." not in name and not name.endswith("k_proj.bias"):
            assert (parameter - wanted[name]).norm() <= CLOSE * wanted[name].norm(), name


@pytest.mark.parametrize(("beams", "repeats"), [(1, 0), (3, 3), (5, 2)])
def test_beam_search_over_features_finds_the_captions_of_the_plain_reading(pair, beams, repeats):
    ours, plain = (model.eval() for model in pair())
    real, _, _ = pictures(11)
    search = Decode(beams=beams, no_repeat_ngram=repeats)
    with torch.no_grad():
        found, _ = ours.generate(ours.bridge(plain.features(real)), search, TOKENS)
    wanted = plain.generate(
        real, num_beams=beams, no_repeat_ngram_size=repeats, max_new_tokens=TOKENS, early_stopping=False
    )
    assert found.tolist() == wanted.tolist()
    assert len(set(map(tuple, found.tolist()))) > 1
