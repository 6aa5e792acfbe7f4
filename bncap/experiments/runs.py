"""The runs behind Tables 1 to 4: which variant, which seed, where it goes; each trained and scored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bncap.config import BASE, BASELINES, FILTERS, MAIN, READINGS, REFERENCES, SENSITIVITY, VARIANTS, Variant
from bncap.experiments import caption_scores
from bncap.pipeline import artifacts, hub, paths, workers
from bncap.settings import Config, override

if TYPE_CHECKING:
    from torch import nn

    from bncap.encoders.feature_store import FeatureStore

TRAINING = "04_training"
BASELINE = "05_baselines"
ABLATION = "06_ablations"
SENSITIVITY_STEP = "07_sensitivity"
READING_STEP = "11_readings"
FILTER_STEP = "12_error_analysis"
SLOWEST = ("cnn_lstm", "ce_real_syn", "ce_real_matched", *(name for name in READINGS if name.endswith("_syn")))
"""Variants that take up to twice as long as others: they begin first, else a worker would be alone with one at last."""


@dataclass(frozen=True)
class Inputs:
    """Step folders that a run reads: pairs of all splits, its training triplets, features of their pictures."""

    corpus: Path
    triplets: Path
    features: Path


def inputs_of(config: Config, variant: str) -> Inputs:
    """Where the data of ``variant`` lie."""

    def step_dir(step: str, name: str) -> Path:
        return paths.step_dir(config.profile, step, name, config.data.seed)

    features = "02_synthesis", "features"
    if variant in BASELINES:
        features = BASELINE, f"features-{baseline_encoder(variant)}"
    elif variant in READINGS and config.features.penultimate:
        features = READING_STEP, "features"
    elif variant in FILTERS:
        features = FILTER_STEP, "features"
    triplets = (FILTER_STEP, f"pairs-{variant}") if variant in FILTERS else ("02_synthesis", "images")
    return Inputs(step_dir("01_data_build", "corpus"), step_dir(*triplets), step_dir(*features))


def run_variants(
    config: Config, step: str, variants: Mapping[str, Variant], seeds: Sequence[int], jobs: int | None = None
) -> dict[tuple[str, int], Path]:
    """Train and score each variant with each seed; returns the folder of each, by (variant, seed).

    Finished runs are skipped.  On a CPU the runs stand side by side, one thread each; on a GPU one after the other.
    """
    wanted = [(name, seed) for seed in seeds for name in variants]
    started = sorted(wanted, key=lambda each: each[0] not in SLOWEST)  # else in the given order
    arguments = [(override(config, variants[name].overrides), step, name, seed) for name, seed in started]
    import torch

    if torch.cuda.is_available():
        jobs = 1
    made = dict(zip(started, workers.run_parallel(run, arguments, jobs, label=step), strict=True))
    folders = {each: made[each] for each in wanted}
    for (name, seed), folder in folders.items():
        seconds = artifacts.read_json(folder / artifacts.MANIFEST)["seconds"]
        print(f"{step}/{name}-s{seed}: {seconds:.0f} s")
    return folders


def run_main(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 04: the variants of :func:`trainable`."""
    return run_variants(config, TRAINING, trainable(config), seeds)


def trainable(config: Config) -> dict[str, Variant]:
    """Cross-entropy alone and the full objective; without the latter where no caption has a synthetic picture."""
    images = paths.step_dir(config.profile, "02_synthesis", "images", config.data.seed)
    paired = artifacts.read_json(artifacts.require(images) / "counts.json")["paired"]
    return {name: VARIANTS[name] for name in ((BASE, MAIN) if paired else (BASE,))}


def run_baselines(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 05: the two captioners of Table 1, on features of their own encoders."""
    from bncap.encoders.features import build_features

    for name in BASELINES:
        part = baseline_encoder(name)
        build_features(config, getattr(config.components, part), BASELINE, f"features-{part}", with_synthetic=False)
    return run_variants(config, BASELINE, BASELINES, seeds)


def run_ablations(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 06: the variants of Table 3 that notebook 04 has not trained."""
    rest = {name: variant for name, variant in VARIANTS.items() if name not in (BASE, MAIN)}
    return run_variants(config, ABLATION, rest, seeds)


def run_sensitivity(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 07: the settings of Table 4, and cross-entropy alone, on ``experiment.sensitivity_triplets`` of the
    triplets.
    """
    return run_variants(config, SENSITIVITY_STEP, REFERENCES | SENSITIVITY, seeds)


def folder_of(config: Config, variant: str, seed: int) -> Path:
    """Where the run of ``variant`` lies, whichever notebook made it."""
    if variant in (BASE, MAIN):
        step = TRAINING
    elif variant in VARIANTS:
        step = ABLATION
    else:
        homes = {BASELINE: BASELINES, READING_STEP: READINGS, FILTER_STEP: FILTERS}
        step = next((step for step, variants in homes.items() if variant in variants), SENSITIVITY_STEP)
    return paths.step_dir(config.profile, step, variant, seed)


def weights_of(config: Config, variant: str, seed: int) -> Path:
    """Where the weights and the log of the run of ``variant`` lie."""
    step = folder_of(config, variant, seed).parent.name
    return paths.step_dir(config.profile, step, f"{variant}.weights", seed)


def baseline_encoder(variant: str) -> str:
    return variant.partition("_")[0]


def run(config: Config, step: str, variant: str, seed: int) -> Path:
    """Train and score one variant: weights in two steps, so that other decoding settings need no new training."""
    trained = _train(config, step, variant, seed)
    data = inputs_of(config, variant)

    def build(folder: Path) -> None:
        from bncap.data.corpus import read_corpus
        from bncap.device import default_device
        from bncap.encoders.feature_store import FeatureStore
        from bncap.experiments.evaluate import evaluate

        model = load_run(config, variant, trained).to(default_device())
        evaluate(model, FeatureStore(data.features), read_corpus(data.corpus), config, folder)

    settings = {
        "decode": asdict(config.decode),
        "max_tokens": config.model.max_tokens,
        "bertscore": [config.components.bertscore, config.components.bertscore_layer],
        "lang": config.data.lang,
        "items": caption_scores.COLUMNS,
    }
    inputs = [trained, data.corpus, data.features]
    if config.data.source == "mini":
        inputs += paths.dataset_roots(config)  # the objects of its pictures
    elif config.data.source == "coco":
        from bncap.experiments import evaluate

        inputs += evaluate.objects_files(config).values()
    return artifacts.run_step(
        paths.step_dir(config.profile, step, variant, seed),
        settings=settings,
        inputs=inputs,
        components=[config.components.bertscore],
        build=build,
        config=config,
        quiet=True,
    )


def _train(config: Config, step: str, variant: str, seed: int) -> Path:
    data = inputs_of(config, variant)
    share = config.experiment.sensitivity_triplets if step == SENSITIVITY_STEP else 1.0
    decoder = config.components.gpt2 if variant == "vit_gpt2" else config.components.decoder
    encoder = getattr(config.components, baseline_encoder(variant) if variant in BASELINES else "encoder")

    def build(folder: Path) -> None:
        import torch

        from bncap.batches import Triplets
        from bncap.encoders.feature_store import FeatureStore
        from bncap.objective import term_weights
        from bncap.train import remove_checkpoints, train, validation_set

        if not (
            folder / "best" / "captioner.json"
        ).is_file():  # written last: nothing is left to do but to remove the checkpoints
            store = FeatureStore(data.features)
            torch.manual_seed(seed)
            model = build_model(config, variant, store, data)
            triplets = Triplets(
                data.triplets,
                store,
                lambda captions: model.labels(captions, config.model.max_tokens),
                share=share,
                share_seed=config.data.seed,
                penultimate=config.model.multi_scale,
                paired=len(term_weights(config.loss)) > 1 or config.loss.ce_on == "real+synthetic",
            )
            origin = {"variant": variant, "seed": seed, "profile": config.profile}
            origin |= {"encoder": encoder, "pretrained": decoder}
            if variant not in BASELINES:  # notebook 08 looks back at where the captioners of this paper began
                model.save_initial(folder / "initial", origin)
            validation = validation_set(model, store, data.corpus, config.model.max_tokens)
            record = train(model, triplets, validation, config, seed, folder)
            model.save(folder / "best", {**origin, **record})
        remove_checkpoints(folder)

    settings = {
        "model": asdict(config.model),
        "loss": asdict(config.loss),
        "train": asdict(config.train),
        "lang": config.data.lang,
        "share": share,
        "decoder": decoder,
        "encoder": encoder,
    }
    return artifacts.run_step(
        paths.step_dir(config.profile, step, f"{variant}.weights", seed),
        settings=settings,
        inputs=[data.triplets, data.corpus, data.features],
        components=[decoder],
        build=build,
        config=config,
        quiet=True,
    )


def build_model(config: Config, variant: str, store: FeatureStore, data: Inputs) -> nn.Module:
    """The untrained captioner of ``variant`` over the features of ``store``, with the words of ``data``."""
    from bncap.data.corpus import read_corpus
    from bncap.decoders import baselines
    from bncap.model import build_captioner

    captions = None
    if config.model.trim_vocabulary:
        captions = [pair.target for pair in read_corpus(data.corpus) if pair.split == "train"]
        if variant in FILTERS:  # some of which the corpus refuses
            captions += [row["target"] for row in artifacts.read_csv(data.triplets / "triplets.csv")]
    if variant in BASELINES:
        return baselines.build_baseline(variant, config, store.channels(), captions)
    return build_captioner(
        hub.path(config, config.components.decoder),
        config.data.lang,
        store.channels(),
        config.model.last_k,
        store.channels(penultimate=True) if config.model.multi_scale else None,
        captions,
    )


def load_run(config: Config, variant: str, trained: Path, moment: str = "best") -> nn.Module:
    """The captioner of a finished training step at its ``"best"`` epoch or in its ``"initial"`` state."""
    from bncap.decoders import baselines
    from bncap.model import load_captioner, load_initial

    if variant in BASELINES:
        return baselines.load_baseline(variant, artifacts.require(trained) / moment)
    if moment == "initial":
        return load_initial(artifacts.require(trained) / moment, hub.path(config, config.components.decoder))[0]
    return load_captioner(artifacts.require(trained) / moment)[0]
