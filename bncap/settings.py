"""The types of the settings: frozen sections with the paper's values as defaults, overridden by name and checked."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, get_args, get_origin, get_type_hints

from bncap.errors import BncapError
from bncap.text import language_name


@dataclass(frozen=True)
class World:
    """Size of the mini world (profiles ``mini`` and ``smoke``; ignored where the data are real)."""

    train_images: int = 1000
    validation_images: int = 100
    test_images: int = 400
    ood_images: int = 400
    fault_rate: float = 0.15  # share of the mini translator's outputs that are wrong
    retrain_encoder: bool = False  # instead of the checkpoint that ships with the package
    model_steps: float = 1.0  # multiplies the steps that each mini component is trained for


@dataclass(frozen=True)
class Data:
    """Corpus: Sec. 4.2.1 and 4.2.2."""

    # "coco": BNCAP_DATA in COCO's and Flickr30k's layout; "mini": the mini world, same layout; "own": a captions file
    source: str = "coco"
    captions: str = ""  # own: the captions file, in any format of bncap.data.readers
    images: str = ""  # own: the folder of its pictures; "": that of the captions file, or images/ in it
    train: str = "annotations/captions_train2014.json"
    held_out: str = "annotations/captions_val2014.json"  # validation and test (MSCOCO-1k) are drawn from it
    ood: str = ""  # Flickr30k-1k is drawn from it; "": the first there is of OOD_FILES in bncap.data.splits
    lang: str = "bn_IN"  # target language, an mBART-50 code
    seed: int = 42  # of the draws of triplets and test images; runs of all seeds share the data
    shards: int = 10
    translation_batch: int = 128
    threshold: float = 0.55  # accept a pair iff its cosine is at least this (below Eq. 4)
    reject_copies: bool = True  # refuse a translation that is the English caption itself
    check_images: bool = True  # False: the pictures are not looked at, as when only captions are to be built
    max_rejected: float = 0.01  # share of the pictures that may be unusable before the build stops
    own_share: float = 0.1  # share of an own data set's pictures for validation, and as much for the test
    triplets: int = 80_000
    captions_per_image: int = 5  # at most so many accepted captions of one image become triplets
    validation_images: int = 500
    test_images: int = 1000  # MSCOCO-1k
    ood_images: int = 1000  # Flickr30k-1k


@dataclass(frozen=True)
class Components:
    """Pretrained parts by hub name or folder; ``mini:<name>`` is what notebook 00 made (or the package ships)."""

    encoder: str = "timm/maxvit_base_tf_224.in1k"
    decoder: str = "facebook/mbart-large-50"
    translator: str = "Helsinki-NLP/opus-mt-en-inc"  # "identity": the English text unchanged
    verifier: str = "sentence-transformers/LaBSE"
    synthesiser: str = "kandinsky-community/kandinsky-2-1"  # "none": no synthetic pictures
    synthesiser_prior: str = "kandinsky-community/kandinsky-2-1-prior"
    bertscore: str = "bert-base-multilingual-cased"
    bertscore_layer: int = 9
    vit: str = "timm/vit_base_patch16_224.augreg_in21k"
    gpt2: str = "flax-community/gpt2-bengali"
    cnn: str = "timm/resnet50.a1_in1k"


@dataclass(frozen=True)
class Synthesis:
    """Sec. 4.2.3."""

    seed: int = 42
    negative_prompt: str = "low quality, bad anatomy, watermark"
    side: int = 768  # px, drawn
    stored_side: int = 224  # px, kept: what the encoder sees; 0 keeps the full size
    prior_steps: int = 25  # the paper gives neither steps nor guidance: the library's own defaults
    steps: int = 100
    guidance: float = 4.0
    english_tokens: int = 37
    target_tokens: int = 40
    batch: int = 4  # fixed, so that an image can be made again to the byte
    shard: int = 1000  # pictures a tar shard


@dataclass(frozen=True)
class Features:
    batch: int = 64
    penultimate: bool = False  # also keep the stage before the last, for multi-scale alignment (Sec. 4.1)


@dataclass(frozen=True)
class Model:
    last_k: int = 2  # decoder layers whose cross-attention weighs the patches (Eq. 8); 0 is all of them
    multi_scale: bool = False  # PAL and OT on the penultimate stage as well; needs features.penultimate
    max_tokens: int = 32
    trim_vocabulary: bool = False  # only the pieces that the captions use, of mBART-50's 250,054
    checkpointing: bool = False


CE_ON = ("real", "real+synthetic", "real+real")


@dataclass(frozen=True)
class Loss:
    """Eqs. 6 to 13; the second group holds the readings of places the paper leaves open."""

    lambda_pal: float = 0.5
    alpha: float = 0.3
    beta: float = 0.5
    tau: float = 1.0
    rho: float = 0.5
    temperature: float = 0.07
    epsilon: float = 0.05
    n_iters: int = 30

    domain: str = "log"  # Eq. 8, tau acts on log of the attention ("log") or on the attention ("prob")
    keep: str = "mass"  # Eq. 8, top-rho by mass ("mass") or by number of patches ("count")
    language_token: bool = False  # Eq. 8, include the step that predicts the language token in the mean
    weight_gradient: bool = False  # let the alignment terms pull on the attention through w
    plan_gradient: bool = False  # Eq. 13, differentiate through the Sinkhorn iterations
    same_image_negatives: bool = False  # Eq. 11, captions of one image as each other's negatives, as printed
    divergence: bool = False  # Eq. 13, less what it costs to carry each picture's patches to themselves
    synthetic_masses: bool = False  # Eq. 13, b from the decoder's attention over the synthetic image
    ce_on: str = "real"  # "real"; "real+synthetic"; "real+real": twice the real images, the compute-matched row


PRECISIONS = ("auto", "fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Train:
    """Sec. 4.5 and 5.1."""

    epochs: int = 6
    batch: int = 32  # triplets per optimiser step
    accumulation: int = 1  # micro-batches that a batch is split into
    learning_rate: float = 3e-4
    bridge_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps, One-Cycle
    clip: float = 1.0
    unfreeze: float = 0.3  # the decoder is unfrozen from the top to whole over this share of the steps
    precision: str = "auto"  # of matrix products: "auto" is bf16 or fp16 on a GPU, fp32 on a CPU; or one of the three


@dataclass(frozen=True)
class Decode:
    beams: int = 5
    length_penalty: float = 1.0
    no_repeat_ngram: int = 3
    batch: int = 64


@dataclass(frozen=True)
class Experiment:
    n_seeds: int = 1
    seeds: tuple[int, ...] = ()  # explicit seeds; empty: SEED, SEED + 1, ... (n_seeds of them)
    sensitivity_triplets: float = 0.5  # share of the triplets in Table 4, "a smaller subset of the data"
    umap_seeds: int = 3  # further pictures of the same patches, to show what UMAP's own seed does
    umap_pairs: int = 300  # real-synthetic pairs whose patches are drawn in Fig. 3


@dataclass(frozen=True)
class Config:
    """The whole of an experiment; :func:`bncap.config.get_config` makes one."""

    profile: str = "paper"
    world: World = field(default_factory=World)
    data: Data = field(default_factory=Data)
    components: Components = field(default_factory=Components)
    synthesis: Synthesis = field(default_factory=Synthesis)
    features: Features = field(default_factory=Features)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    train: Train = field(default_factory=Train)
    decode: Decode = field(default_factory=Decode)
    experiment: Experiment = field(default_factory=Experiment)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """What :meth:`as_dict` gave, after its way through JSON too; fields that are no more are left out."""
        sections: dict[str, Any] = {"profile": values["profile"]}
        for section in (f for f in fields(cls) if f.name != "profile"):
            known = {f.name for f in fields(section.default_factory)}
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.get(section.name, {}).items()}
            sections[section.name] = section.default_factory(**{k: v for k, v in given.items() if k in known})
        return cls(**sections)

    def seeds(self, first: int) -> tuple[int, ...]:
        """Seeds of the repeated runs when the notebook's SEED is ``first``."""
        return self.experiment.seeds or tuple(range(first, first + self.experiment.n_seeds))


def override(config: Config, overrides: Iterable[str]) -> Config:
    """``config`` with ``"section.field=value"`` strings applied in order, checked."""
    for assignment in overrides:
        name, equals, text = assignment.partition("=")
        section_name, _, field_name = name.strip().partition(".")
        sections = {f.name for f in fields(Config)} - {"profile"}
        if not equals or section_name not in sections:
            raise BncapError(
                f"cannot read {assignment!r}: write section.field=value with a section of {', '.join(sorted(sections))}"
            )
        section = getattr(config, section_name)
        types = get_type_hints(type(section))
        if field_name not in types:
            near = difflib.get_close_matches(field_name, types, 1)
            hint = f"; did you mean {section_name}.{near[0]}?" if near else f"; it has {', '.join(types)}"
            raise BncapError(f"unknown field {section_name}.{field_name}{hint}")
        value = _parse(assignment, text.strip(), types[field_name])
        config = dataclasses.replace(config, **{section_name: dataclasses.replace(section, **{field_name: value})})
    _check(config)
    return config


def _parse(assignment: str, text: str, kind: Any) -> Any:
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text.replace("true", "True").replace("false", "False"))
    except (ValueError, SyntaxError):
        value = text
    if get_origin(kind) is tuple:
        value = tuple(value) if isinstance(value, tuple | list) else (value,)
        if all(type(v) is get_args(kind)[0] for v in value):
            return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise BncapError(f"{assignment!r}: expected a value of type {getattr(kind, '__name__', kind)}, got {text!r}")
    return value


POSITIVE = (
    "loss.tau", "loss.temperature", "loss.epsilon", "train.clip", "train.learning_rate", "train.bridge_learning_rate",
    "world.model_steps", "experiment.sensitivity_triplets",
)  # fmt: skip
AT_LEAST_ONE = (
    "loss.n_iters", "data.shards", "data.triplets", "data.captions_per_image", "data.translation_batch",
    "synthesis.batch", "synthesis.shard", "synthesis.prior_steps", "synthesis.steps", "features.batch",
    "train.epochs", "train.batch", "train.accumulation", "decode.beams", "decode.batch",
    "experiment.n_seeds", "experiment.umap_pairs", "experiment.umap_seeds",
)  # fmt: skip


def _check(config: Config) -> None:
    language_name(config.data.lang)
    loss, train, data, seeds = config.loss, config.train, config.data, config.experiment.seeds
    rules = {
        **{f"{name} must be > 0": _value(config, name) > 0 for name in POSITIVE},
        **{f"{name} must be >= 1": _value(config, name) >= 1 for name in AT_LEAST_ONE},
        "loss.rho must be in (0, 1]": 0 < loss.rho <= 1,
        "loss.lambda_pal, loss.alpha and loss.beta must be >= 0": min(loss.lambda_pal, loss.alpha, loss.beta) >= 0,
        "loss.domain must be 'log' or 'prob'": loss.domain in ("log", "prob"),
        "loss.keep must be 'mass' or 'count'": loss.keep in ("mass", "count"),
        "train.precision must be 'auto', 'fp32', 'fp16' or 'bf16'": train.precision in PRECISIONS,
        "loss.ce_on must be 'real', 'real+synthetic' or 'real+real'": loss.ce_on in CE_ON,
        "data.validation_images, data.test_images and data.ood_images must be >= 0": min(
            data.validation_images, data.test_images, data.ood_images
        )
        >= 0,
        "data.threshold must be a cosine, in [-1, 1]": -1 <= data.threshold <= 1,
        "data.source must be 'coco', 'mini' or 'own'": data.source in ("coco", "mini", "own"),
        "data.max_rejected must be in [0, 1]": 0 <= data.max_rejected <= 1,
        "data.own_share must be in (0, 0.4]": 0 < data.own_share <= 0.4,
        "synthesis.stored_side must be >= 0": config.synthesis.stored_side >= 0,
        "train.warmup and train.unfreeze must be in [0, 1]": 0 <= train.warmup <= 1 and 0 <= train.unfreeze <= 1,
        "experiment.sensitivity_triplets must be in (0, 1]": config.experiment.sensitivity_triplets <= 1,
        "experiment.seeds must be different whole numbers >= 0": len(set(seeds)) == len(seeds)
        and min(seeds, default=0) >= 0,
        "model.last_k must be >= 0": config.model.last_k >= 0,
        "model.max_tokens must be >= 3": config.model.max_tokens >= 3,  # the language, a word, the end
        "model.multi_scale needs features.penultimate=True": not config.model.multi_scale
        or config.features.penultimate,
    }
    for section in (getattr(config, f.name) for f in fields(Config) if f.name != "profile"):
        for name, value in vars(section).items():
            rules[f"{type(section).__name__.lower()}.{name} must be finite"] = not isinstance(value, float) or isfinite(
                value
            )
    for rule, holds in rules.items():
        if not holds:
            raise BncapError(rule)


def _value(config: Config, name: str) -> float:
    section, _, field_name = name.partition(".")
    return getattr(getattr(config, section), field_name)
