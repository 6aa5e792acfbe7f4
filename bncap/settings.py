"""Settings: frozen, typed sections with the paper's values as defaults, checked when they are made.

Each field has its range beside it.  A section that is made with a wrong type, a value out of range or an unknown field
is refused.  Profiles and variants, which change some of these values, are in :mod:`bncap.config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from bncap.errors import BncapError
from bncap.text import language_name

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]


def _check_language(code: str) -> str:
    try:
        language_name(code)
    except BncapError as error:
        raise ValueError(error) from None
    return code


def _split_numbers(value: Any) -> Any:
    """``"(42, 43)"``, ``"42,43"``, ``"[42]"`` or ``"42"`` as a list of texts."""
    if isinstance(value, str):
        return [number for number in value.strip("()[] ").split(",") if number.strip()]
    return value


def _check_distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed occurs twice; the seeds must be distinct")
    return seeds


Language = Annotated[str, AfterValidator(_check_language)]
Seeds = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_split_numbers), AfterValidator(_check_distinct)]


@dataclass(frozen=True, config=CHECKED)
class World:
    """Size of the mini world (profiles ``mini`` and ``smoke``; ignored where the data are real)."""

    train_images: NonNegativeInt = 1000
    validation_images: NonNegativeInt = 100
    test_images: NonNegativeInt = 400
    ood_images: NonNegativeInt = 400
    fault_rate: Share = 0.15  # share of the mini translator's outputs that are wrong
    retrain_encoder: bool = False  # True: train the mini encoder, do not take the one that ships with the package
    model_steps: PositiveFloat = 1.0  # multiplies the number of training steps of each mini component


@dataclass(frozen=True, config=CHECKED)
class Data:
    """Corpus: Secs. 4.2.1, 4.2.2 and 5.1."""

    # "coco": BNCAP_DATA in the layout of COCO and Flickr30k; "mini": the mini world in that layout; "own": `captions`
    source: Literal["coco", "mini", "own"] = "coco"
    captions: str = ""  # own: the captions file, in any format of bncap.data.readers
    images: str = ""  # own: the folder of its images; "": the folder of the captions file, or images/ in it
    train: str = "annotations/captions_train2014.json"  # 414,113 captions of 82,783 images
    held_out: str = "annotations/captions_val2014.json"  # validation and test images (MSCOCO-1k) are drawn from it
    ood: str = ""  # Flickr30k-1k is drawn from this file; "": the first known Flickr30k file that exists
    lang: Language = "bn_IN"  # target language, an mBART-50 code
    seed: NonNegativeInt = 42  # of the draws of triplets and test images; runs of all seeds share the data
    shards: PositiveInt = 10  # Sec. 4.2.2
    translation_batch: PositiveInt = 128  # Sec. 4.2.1
    threshold: Cosine = 0.55  # accept a pair iff its cosine is at least this (below Eq. 4)
    reject_copies: bool = True  # reject a translation that is the English caption itself: its cosine is 1
    check_images: bool = True  # False: do not open the images, for a build of captions alone
    max_rejected: Share = 0.01  # the build stops when a larger share of the images is unusable
    own_share: Annotated[float, Field(gt=0, le=0.4)] = 0.1  # of own images: for validation, and as much for the test
    triplets: PositiveInt = 80_000  # Sec. 5.1
    captions_per_image: PositiveInt = 5  # at most so many accepted captions of one image become triplets
    validation_images: NonNegativeInt = 500  # the paper gives no number
    test_images: NonNegativeInt = 1000  # MSCOCO-1k
    ood_images: NonNegativeInt = 1000  # Flickr30k-1k


@dataclass(frozen=True, config=CHECKED)
class Components:
    """Pretrained parts by hub name or folder; ``mini:<name>`` is made by notebook 00 or ships with the package."""

    encoder: str = "timm/maxvit_base_tf_224.in1k"
    decoder: str = "facebook/mbart-large-50"
    translator: str = "Helsinki-NLP/opus-mt-en-inc"  # "identity": keep the English text
    verifier: str = "sentence-transformers/LaBSE"
    synthesiser: str = "kandinsky-community/kandinsky-2-1"  # "none": no synthetic images
    synthesiser_prior: str = "kandinsky-community/kandinsky-2-1-prior"
    bertscore: str = "bert-base-multilingual-cased"  # what bert-score takes for Bengali, with this layer
    bertscore_layer: PositiveInt = 9
    vit: str = "timm/vit_base_patch16_224.augreg_in21k"  # Table 1, row 2
    gpt2: str = "flax-community/gpt2-bengali"  # Table 1, row 2
    cnn: str = "timm/resnet50.a1_in1k"  # Table 1, row 3


@dataclass(frozen=True, config=CHECKED)
class Synthesis:
    """Synthetic images: Sec. 4.2.3."""

    seed: NonNegativeInt = 42  # the seed of each image is derived from this and the id of its caption
    negative_prompt: str = "low quality, bad anatomy, watermark"
    side: PositiveInt = 768  # px, as generated
    stored_side: NonNegativeInt = 224  # px, as stored: the input size of the encoder; 0 stores the full size
    prior_steps: PositiveInt = 25  # the paper gives neither steps nor guidance: the defaults of diffusers
    steps: PositiveInt = 100
    guidance: NonNegativeFloat = 4.0
    english_tokens: PositiveInt = 37  # 37 + 40: Kandinsky reads at most 77 tokens
    target_tokens: PositiveInt = 40
    batch: PositiveInt = 4  # fixed, because an image depends on its place in the batch
    shard: PositiveInt = 1000  # images in a tar shard


@dataclass(frozen=True, config=CHECKED)
class Features:
    """Cached outputs of the frozen encoder: Sec. 4.1, Eq. 2."""

    batch: PositiveInt = 64
    penultimate: bool = False  # True: store the stage before the last too, for model.multi_scale


@dataclass(frozen=True, config=CHECKED)
class Model:
    """Bridge and decoder: Secs. 4.3 to 4.6."""

    last_k: NonNegativeInt = 2  # decoder layers whose cross-attention weighs the patches (Eq. 8); 0: all of them
    multi_scale: bool = False  # True: PAL and OT on the penultimate stage too; needs features.penultimate
    max_tokens: Annotated[int, Field(ge=3)] = 32  # of a caption; the shortest is language token, a word, end token
    trim_vocabulary: bool = False  # True: keep only the pieces that the captions use, of mBART-50's 250,054
    checkpointing: bool = False  # True: less memory, more time, the same values


@dataclass(frozen=True, config=CHECKED)
class Loss:
    """Eqs. 6 to 13, values of Sec. 5.1; the second group holds readings of places that the paper leaves open."""

    lambda_pal: NonNegativeFloat = 0.5  # Eq. 6
    alpha: NonNegativeFloat = 0.3  # Eq. 6, weight of InfoNCE
    beta: NonNegativeFloat = 0.5  # Eq. 6, weight of OT
    tau: PositiveFloat = 1.0  # Eq. 8, temperature of the attention
    rho: PositiveShare = 0.5  # Eq. 8
    temperature: PositiveFloat = 0.07  # Eq. 11
    epsilon: PositiveFloat = 0.05  # Eq. 13
    n_iters: PositiveInt = 30  # Eq. 13, Sinkhorn iterations

    domain: Literal["log", "prob"] = "log"  # Eq. 8, tau acts on the log of the attention or on the attention
    keep: Literal["mass", "count"] = "mass"  # Eq. 8, rho is a share of the mass or of the number of patches
    language_token: bool = False  # Eq. 8, True: the mean includes the step that predicts the language token
    weight_gradient: bool = False  # Eqs. 8 to 13, True: the alignment terms have a gradient through w
    plan_gradient: bool = False  # Eq. 13, True: differentiate through the Sinkhorn iterations
    same_image_negatives: bool = False  # Eq. 11, True: captions of one image are negatives of each other, as printed
    divergence: bool = False  # Eq. 13, True: subtract the cost of transporting each set of patches to itself
    synthetic_masses: bool = False  # Eq. 13, True: b from the decoder's attention over the synthetic image
    # Images of the cross-entropy; "real+real" takes twice the real images: the compute-matched row of Table 3.
    ce_on: Literal["real", "real+synthetic", "real+real"] = "real"


@dataclass(frozen=True, config=CHECKED)
class Train:
    """Secs. 4.5 and 5.1; the paper gives no batch size, rates, decay, warm-up or clipping norm."""

    epochs: PositiveInt = 6
    batch: PositiveInt = 32  # triplets an optimiser step
    accumulation: PositiveInt = 1  # number of micro-batches that a batch is split into
    learning_rate: PositiveFloat = 3e-4  # of the decoder
    bridge_learning_rate: PositiveFloat = 1e-3  # of the bridge, which starts from random weights
    weight_decay: NonNegativeFloat = 0.01
    warmup: Share = 0.1  # share of the steps, One-Cycle
    clip: PositiveFloat = 1.0  # gradient norm
    unfreeze: Share = 0.3  # share of the steps over which the decoder is unfrozen, top layer first
    # Of matrix products; "auto": bf16 or fp16 on a GPU, fp32 on a CPU.
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"


@dataclass(frozen=True, config=CHECKED)
class Decode:
    """Beam search: Sec. 4.5, Eq. 1; the paper names the constraints and gives no numbers."""

    beams: PositiveInt = 5
    length_penalty: float = 1.0
    no_repeat_ngram: NonNegativeInt = 3  # 0: no such constraint
    batch: PositiveInt = 64


@dataclass(frozen=True, config=CHECKED)
class Experiment:
    """Repeated runs, and sizes of single experiments."""

    n_seeds: PositiveInt = 1
    seeds: Seeds = ()  # explicit seeds; empty: SEED, SEED + 1, ... (n_seeds of them)
    sensitivity_triplets: PositiveShare = 0.5  # share of the triplets in Table 4, "a smaller subset of the data"
    umap_seeds: PositiveInt = 3  # further UMAP projections of the same patches: how far they depend on UMAP's seed
    umap_pairs: PositiveInt = 300  # real-synthetic pairs whose patches are drawn in Fig. 3


@dataclass(frozen=True, config=CHECKED)
class Config:
    """The settings of an experiment; :func:`bncap.config.get_config` makes one."""

    profile: str = "paper"
    world: World = World()
    data: Data = Data()
    components: Components = Components()
    synthesis: Synthesis = Synthesis()
    features: Features = Features()
    model: Model = Model()
    loss: Loss = Loss()
    train: Train = Train()
    decode: Decode = Decode()
    experiment: Experiment = Experiment()

    @model_validator(mode="after")
    def _check_sections(self) -> Config:
        if self.model.multi_scale and not self.features.penultimate:
            raise BncapError("model.multi_scale=True needs features.penultimate=True")
        return self

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The configuration that :meth:`as_dict` gave, after JSON too; fields that no longer exist are left out."""
        sections: dict[str, Any] = {
            name: {field: value for field, value in values.get(name, {}).items() if field in section}
            for name, section in _fields().items()
        }
        try:
            return cls(profile=values["profile"], **sections)
        except ValidationError as error:
            raise BncapError(_explain(error)) from None

    def seeds(self, first: int) -> tuple[int, ...]:
        """Seeds of the repeated runs when the notebook's SEED is ``first``."""
        return self.experiment.seeds or tuple(range(first, first + self.experiment.n_seeds))


def split_overrides(overrides: str | Iterable[str]) -> list[str]:
    """The assignments one by one.  One string, as papermill's ``-p OVERRIDES train.epochs=1`` hands it over, is split
    at the blanks and commas before each ``section.field=``.
    """
    if not isinstance(overrides, str):
        return list(overrides)
    sections = "|".join(_fields())
    return re.split(rf"[\s,]+(?=(?:{sections})\.\w+\s*=)", overrides.strip()) if overrides.strip() else []


def override(config: Config, overrides: str | Iterable[str]) -> Config:
    """``config`` with ``"section.field=value"`` strings applied in order; the last one of a field counts.

    ``overrides`` may be one string, see :func:`split_overrides`.

    Raises :class:`BncapError` for an unknown section or field (with the nearest name), a value of the wrong type, or
    one out of its range.
    """
    known = _fields()
    changes: dict[str, dict[str, str]] = {}
    for assignment in split_overrides(overrides):
        name, equals, value = assignment.partition("=")
        section, _, field = name.strip().partition(".")
        if not equals or section not in known:
            raise BncapError(
                f"cannot read {assignment!r}: write section.field=value with a section of {', '.join(known)}"
            )
        if field not in known[section]:
            near = difflib.get_close_matches(field, known[section], 1)
            hint = f"; did you mean {section}.{near[0]}?" if near else f"; it has {', '.join(known[section])}"
            raise BncapError(f"unknown field {section}.{field}{hint}")
        changes.setdefault(section, {})[field] = value.strip()
    try:
        sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
        return dataclasses.replace(config, **sections)
    except ValidationError as error:
        raise BncapError(_explain(error)) from None


def _fields() -> dict[str, tuple[str, ...]]:
    """The names of the fields of each section."""
    sections = {name: section for name, section in vars(Config()).items() if name != "profile"}
    return {name: tuple(vars(section)) for name, section in sections.items()}


def _explain(error: ValidationError) -> str:
    """``loss.rho=0: input should be greater than 0``, one line an error."""
    lines = []
    for detail in error.errors():
        *section, field = [part for part in (error.title.lower(), *detail["loc"]) if isinstance(part, str)][-2:]
        lines.append(f"{'.'.join((*section, field))}={detail['input']}: {detail['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)
