"""Profiles (sizes and sources) and variants (rows of the tables): named changes of the settings.

``get_config("mini", ["train.epochs=2"])`` gives a :class:`Config`.  The defaults in :mod:`bncap.settings` are the
paper's values; a profile or a variant lists only what it changes, each value with its reason.  A profile changes sizes,
sources and component names, never code paths.  A new row of Table 3 is one more entry of :data:`VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bncap.errors import BncapError
from bncap.settings import Config, override, split_overrides

MINI_COMPONENTS = tuple(
    f"components.{part}=mini:{part}"
    for part in ("encoder", "decoder", "translator", "verifier", "synthesiser", "bertscore", "vit", "gpt2", "cnn")
) + ("components.bertscore_layer=2",)

MINI = (
    "data.source=mini",
    *MINI_COMPONENTS,
    "data.threshold=0.7",  # notebook 01: near the best F1, and it keeps enough out-of-domain references
    "data.triplets=1280",  # 40 steps of 32 triplets an epoch
    "data.captions_per_image=2",  # so that 1,280 triplets cover most of the 1,000 images
    "data.validation_images=100",  # all images of the mini world's splits
    "data.test_images=400",
    "data.ood_images=400",
    "synthesis.side=112",  # the mini encoder's input: 7 x 7 patches of 16 px
    "synthesis.stored_side=112",
    "synthesis.batch=32",  # small images
    # A decoder of 0.3 M parameters, not 400 M, and 240 steps: the best held-out cross-entropy of five settings.
    "train.learning_rate=0.008",
    "train.bridge_learning_rate=0.008",
    "train.unfreeze=0.1",
    "decode.beams=3",  # 5 gains nothing measurable in the mini world
    "decode.batch=200",
    "features.batch=32",  # on a CPU a sixth faster than 64
    "experiment.n_seeds=5",  # for intervals over seeds
)

PROFILES: dict[str, tuple[str, ...]] = {
    "paper": (),
    # The same mathematics on a 16 GB card: without the vocabulary that no caption uses.  If that is still too much,
    # train.accumulation=4 and model.checkpointing=True take less memory and more time.
    "kaggle": ("model.trim_vocabulary=True",),
    "mini": MINI,
    # The user's captions and images in any language of mBART-50, with small models on a CPU.
    "own": (
        *MINI,
        "data.source=own",
        "components.synthesiser=none",  # the mini synthesiser draws only the mini world
        "data.triplets=100000",  # all of them
        "data.captions_per_image=5",  # all of them, in the usual data sets
        "model.max_tokens=48",  # a small vocabulary splits words into many pieces
        "train.epochs=8",  # few captions need more epochs than COCO; the best epoch is kept
        "experiment.n_seeds=1",  # one model, for use
    ),
    # Runs every notebook in seconds, for the tests; its scores mean nothing.
    "smoke": (
        *MINI,
        "world.train_images=48",
        "world.validation_images=8",
        "world.test_images=16",
        "world.ood_images=16",
        "world.model_steps=0.02",
        "data.threshold=-1.0",  # accept all pairs: the verifier is hardly trained
        "data.triplets=40",
        "data.validation_images=8",
        "data.test_images=16",
        "data.ood_images=16",
        "train.epochs=1",
        "train.batch=16",
        "decode.beams=2",
        "model.max_tokens=16",
        "experiment.n_seeds=2",
        "experiment.umap_pairs=12",
    ),
}

OWN_NOTEBOOKS = ("00", "01", "02", "04", "10")
"""Notebooks for ``data.source=own``; the others compare variants out of domain, and own data have one test set."""

EXTENDED_NOTEBOOKS = ("11", "12")
"""Notebooks that ``--extended`` adds; they run before the report, which includes their results."""


@dataclass(frozen=True)
class Variant:
    """A row of a table: its label there, the settings that it changes, and the source or reason."""

    label: str
    overrides: tuple[str, ...]
    reason: str


VARIANTS: dict[str, Variant] = {
    "ce_real": Variant(
        "CE (Real-only)",
        ("loss.lambda_pal=0", "loss.alpha=0", "loss.beta=0"),
        "Table 3, row 1: no alignment term",
    ),
    "ce_real_matched": Variant(
        "CE (Real-only, compute-matched)",
        ("loss.lambda_pal=0", "loss.alpha=0", "loss.beta=0", "loss.ce_on=real+real"),
        "as many captioned images a step as CE (Real+Syn): the two differ only in the images",
    ),
    "ce_real_syn": Variant(
        "CE (Real+Syn)",
        ("loss.lambda_pal=0", "loss.alpha=0", "loss.beta=0", "loss.ce_on=real+synthetic"),
        "Table 3, row 2: the only row with captions on synthetic images",
    ),
    "ce_infonce": Variant("CE + InfoNCE", ("loss.lambda_pal=0", "loss.beta=0"), "Table 3, row 3"),
    "ce_infonce_ot": Variant("CE + InfoNCE + OT", ("loss.lambda_pal=0",), "Table 3, row 4"),
    "pal": Variant("PAL", ("loss.alpha=0", "loss.beta=0"), "Table 3, row 5"),
    "pal_infonce": Variant("PAL + InfoNCE", ("loss.beta=0",), "Table 3, row 6"),
    "pal_infonce_ot": Variant("PAL + InfoNCE + OT", (), "Table 3, row 7: the main model, Eq. 6 whole"),
}

BASE = "ce_real"
"""The baseline of the other rows of Table 3."""
MAIN = "pal_infonce_ot"
"""The main model."""

CE_ONLY = ("loss.lambda_pal=0", "loss.alpha=0", "loss.beta=0", "loss.ce_on=real", "model.multi_scale=False")

BASELINES: dict[str, Variant] = {
    "vit_gpt2": Variant("ViT + Bangla GPT-2", CE_ONLY, "Table 1, row 2: cross-entropy on real images"),
    "cnn_lstm": Variant(
        "CNN + LSTM",
        # The cell has no layers to checkpoint.  At the main model's rate a decoder that starts from random weights
        # gives every image of the miniature the same caption; this rate had the best held-out cross-entropy of four.
        (*CE_ONLY, "model.checkpointing=False", "train.learning_rate=0.001"),
        "Table 1, row 3: cross-entropy on real images",
    ),
}
"""The captioners of Table 1; ``vit_...`` and ``cnn_...`` read features of that component of ``config.components``."""

SENSITIVITY: dict[str, Variant] = {
    f"lambda{lam}-tau{tau}-rho{rho}": Variant(
        f"λ={lam}, τ={tau}, ρ={rho}",
        (f"loss.lambda_pal={lam}", f"loss.tau={tau}", f"loss.rho={rho}", "loss.alpha=0", "loss.beta=0"),
        "Table 4: hyper-parameters of PAL alone, on less data",
    )
    for lam, tau, rho in ((0.3, 0.7, 0.5), (0.5, 0.7, 0.1), (0.5, 1.0, 0.5), (0.5, 1.3, 0.5))
}

PART_BASE = "ce_real_part"
"""Cross-entropy alone on the part of the data that Table 4 uses: the baseline of its rows."""

REFERENCES: dict[str, Variant] = {
    PART_BASE: Variant(
        "CE (Real-only), same part of the data",
        ("loss.lambda_pal=0", "loss.alpha=0", "loss.beta=0"),
        "Table 4: its rows without PAL",
    )
}
"""Baselines that are no row of a table in the paper."""

READINGS: dict[str, Variant] = {
    "tau_on_probabilities": Variant("τ on probabilities", ("loss.domain=prob",), "Eq. 8: τ acts on the attention"),
    "rho_by_count": Variant("ρ by count", ("loss.keep=count",), "Eq. 8: a share of the patches, not of the mass"),
    "language_token": Variant(
        "language token in A", ("loss.language_token=True",), "Eq. 8: the mean includes its step"
    ),
    "last_layer": Variant("K = 1", ("model.last_k=1",), "Eq. 8: the last decoder layer alone"),
    "all_layers": Variant("K = L", ("model.last_k=0",), "Eq. 8: every decoder layer"),
    "weight_gradient": Variant("gradient through w", ("loss.weight_gradient=True",), "Eqs. 8 to 13: not detached"),
    "plan_gradient": Variant(
        "gradient through P", ("loss.plan_gradient=True",), "Eq. 13: differentiate through the iterations"
    ),
    "false_negatives": Variant(
        "same-image negatives", ("loss.same_image_negatives=True",), "Eq. 11 as printed: 2B - 2 negatives"
    ),
    "synthetic_masses": Variant("masses of x̃'s own", ("loss.synthetic_masses=True",), "Eq. 13: b from x~ itself"),
    "divergence": Variant(
        "Sinkhorn divergence", ("loss.divergence=True",), "Eq. 13 less the cost of each set to itself"
    ),
    "multi_scale": Variant(
        "multi-scale", ("features.penultimate=True", "model.multi_scale=True"), "Sec. 4.1: E^(p) aligned as well"
    ),
    "lambda_2": Variant("λ = 2", ("loss.lambda_pal=2",), "Eq. 6: four times the weight of PAL"),
    **{
        f"{name}_syn": Variant(
            f"{VARIANTS[name].label}, CE on synthetic too",
            (*VARIANTS[name].overrides, "loss.ce_on=real+synthetic"),
            "Table 3: 'on top of this CE baseline', that is CE (Real+Syn)",
        )
        for name in ("ce_infonce", "ce_infonce_ot", "pal", "pal_infonce", "pal_infonce_ot")
    },
}
"""Alternative readings of the paper, one place each: of the full objective, in the last five of rows of Table 3."""

FILTERS: dict[str, Variant] = {
    f"filter{threshold}": Variant(
        f"τ = {threshold}",
        (*CE_ONLY, f"data.threshold={threshold}"),
        "Sec. 4.2.2: cross-entropy on equally many pairs, drawn from those that this threshold accepts",
    )
    for threshold in (0.0, 0.4, 0.55, 0.7)
}
"""Verification thresholds: their effect on the captioner."""

COMPARED = VARIANTS | BASELINES | REFERENCES | SENSITIVITY
"""Every run behind Tables 1 to 4."""
ALL_VARIANTS = COMPARED | READINGS | FILTERS


def get_config(profile: str, overrides: str | Iterable[str] = ()) -> Config:
    """The resolved configuration of ``profile`` with ``overrides`` such as ``["train.epochs=2"]`` on top.

    ``overrides`` may be one string too, see :func:`bncap.settings.split_overrides`.

    Raises :class:`BncapError` for an unknown profile or field, a value of the wrong type, or one out of its range.
    """
    if profile not in PROFILES:
        raise BncapError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    return override(Config(profile=profile), (*PROFILES[profile], *split_overrides(overrides)))
