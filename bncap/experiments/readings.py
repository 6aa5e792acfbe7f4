"""Other readings of the paper, one place at a time: what each changes in scores, losses, attention and the gap.

Readings are of :data:`bncap.config.READINGS`.  Each is compared, on the same seeds, with what it departs from: the main
model, or for the rows with captions on synthetic images the same row without, and cross-entropy alone with them.

A loss that is read otherwise is another quantity: hence each run is measured as its log has it, with its saved weights
under its own reading, and with these under the default's.  The gap between real and synthetic patches is that of
notebook 08: the same pairs, and patches of them that the seed's default main model keeps.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bncap import objective
from bncap.batches import Batch
from bncap.config import ALL_VARIANTS, MAIN, READINGS, VARIANTS
from bncap.decoders.captioner import CaptionModel, Tap
from bncap.device import default_device
from bncap.encoders.features import FeatureStore, build_features
from bncap.experiments import alignment, comparisons, estimates, paper
from bncap.experiments.alignment import PatchSample, Points
from bncap.experiments.comparisons import last_epoch
from bncap.experiments.estimates import Record
from bncap.experiments.evaluate import load_run
from bncap.experiments.runs import READING_STEP, inputs_of, run_dir, run_variants, weights_dir
from bncap.objective import text_weights
from bncap.pipeline import artifacts, hub, paths
from bncap.pipeline.workers import one_thread, run_parallel
from bncap.settings import Config, Loss, override

ON_SYNTHETIC = "ce_real_syn"
TERMS = ("pal", "infonce", "ot")
SETS = ("relevant", "all", "background")
DISTANCES = ("centroid_distance", "relative_centroid_distance", "mmd_rbf")
GAP = "relevant/mmd_rbf"
"""The gap by which readings are judged: MMD over text-relevant patches, which no change of scale can alter."""
MEASURES = (
    *(f"{how}/{term}" for how in ("logged", "own", "default") for term in TERMS),
    *(f"{part}/{distance}" for part in SETS for distance in DISTANCES),
    "relevant/mmd_rbf_chance", "attended_patches", "kept_patches", "ot_floor_share",
)  # fmt: skip
INITIAL = "initial"
"""The variant of the rows of the default before training."""
MEASURE_COLUMNS = ("variant", "measure", "value")
TABLE_COLUMNS = (
    "variant", "against", "measure", "first", "second", "difference", "low", "high", "seeds", "excludes_zero",
)  # fmt: skip
MEAN_ATTENTION: dict[str, Any] = {"tau": 1.0, "rho": 1.0, "domain": "log", "keep": "mass"}
"""With these, w of Eq. 8 is the mean attention itself."""

BySeed = Mapping[int, Mapping[tuple[str, str], float]]
"""Seed -> (variant, measure) -> value."""


def references_of(reading: str) -> tuple[str, ...]:
    """The variants that a reading is compared with: first the one that it is an alternative to."""
    row = reading.removesuffix("_syn")
    return (row, ON_SYNTHETIC) if row in VARIANTS else (MAIN,)


def find_equal_readings(config: Config) -> dict[str, str]:
    """Readings that are the default with these components and data, and why, as a sentence."""
    equal = {}
    layers = artifacts.read_json(Path(hub.path(config, config.components.decoder), "config.json"))["decoder_layers"]
    if config.model.last_k in (0, layers):
        equal["all_layers"] = f"The decoder has {layers} layers, so that the last K = {layers} are all of them."
    triplets = inputs_of(config, MAIN).triplets
    images = Counter(row["image"] for row in artifacts.read_csv(artifacts.require(triplets) / "triplets.csv"))
    count, size = sum(images.values()), config.train.batch
    # Batches keep captions of one picture apart where there are as many batches as captions, and in a last, smaller
    # batch where there are pictures enough for it.
    if max(images.values()) <= count // size and len(images) >= count % size:
        chance = sum(n * (n - 1) for n in images.values()) / (count * (count - 1)) if count > 1 else 0.0
        equal["false_negatives"] = (
            "No batch holds two captions of one picture, so that no two are each other's negatives; in a batch of "
            f"{size} drawn at random there would be {chance * size * (size - 1) / 2:.2f} such pairs of "
            f"{size * (size - 1) // 2} on average."
        )
    return equal


def run_readings(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 11: train, score and measure the readings that differ from the default; folders by (variant, seed).

    Rows of Table 3 that they are compared with have to be there: BncapError names the one that is missing.
    """
    equal = find_equal_readings(config)
    trained = [name for name in READINGS if name not in equal]
    if any(override(config, READINGS[name].overrides).features.penultimate for name in trained):
        build_features(override(config, ["features.penultimate=True"]), step=READING_STEP)
    references = list(dict.fromkeys(other for name in trained for other in references_of(name)))
    for name in references:
        for seed in seeds:
            artifacts.require(run_dir(config, name, seed))
    folders = run_variants(config, trained, seeds)
    jobs = [(config, (*references, *trained), seed) for seed in seeds]
    run_parallel(build_measures, jobs, label=f"{READING_STEP}/measured")
    return folders


def build_measures(config: Config, variants: Sequence[str], seed: int) -> Path:
    """Measure the default's run and those of ``variants``: ``11_readings/measured-s<seed>/measures.csv``.

    Measures: ``logged/<term>``, its mean over the last epoch of the log; ``own/<term>`` and ``default/<term>``, of the
    saved weights on the drawn pairs, without dropout; ``<set>/<metric>``, the gap of these pairs;
    ``attended_patches``, the exponential of the entropy of the mean attention; ``kept_patches``, those with w > 0
    under the run's own reading; ``ot_floor_share``, how many per cent of the default's OT loss it costs to carry each
    picture's patches to themselves.  The variant ``initial`` is the default before training.
    """
    configs = {name: override(config, ALL_VARIANTS[name].overrides) for name in (MAIN, *variants)}
    features = dict.fromkeys(inputs_of(own, name).features for name, own in configs.items())
    weights = [weights_dir(config, name, seed) for name in configs]
    read = {name: [asdict(own.loss), asdict(own.model)] for name, own in configs.items()}
    drawn = {"pairs": config.experiment.umap_pairs, "patches": alignment.PATCHES, "batch": config.train.batch}
    return artifacts.run_step(
        paths.step_dir(config.profile, READING_STEP, "measured", seed),
        settings={"readings": read, **drawn},
        inputs=[inputs_of(config, MAIN).triplets, *features, *weights],
        components=[config.components.decoder],
        build=functools.partial(_build_measures, configs, seed),
        config=config,
        quiet=True,
    )


def _build_measures(configs: Mapping[str, Config], seed: int, folder: Path) -> None:
    rows = []
    with one_thread():
        default, sample = configs[MAIN], alignment.sample_patches(configs[MAIN], seed)
        real, synthetic = sample.features(FeatureStore(inputs_of(default, MAIN).features))
        trained = weights_dir(default, MAIN, seed)
        sample = sample.weighted(load_run(default, MAIN, trained), real, default)
        before = _bridge_points(load_run(default, MAIN, trained, "initial"), real, synthetic, sample)
        rows += [[INITIAL, *row] for row in _measure_gap(before, before, sample).items()]
        for variant, own in configs.items():
            weights = weights_dir(default, variant, seed)
            model = load_run(own, variant, weights).to(default_device())
            last = last_epoch(pd.read_csv(weights / "steps.csv", float_precision="round_trip"))
            measures = {f"logged/{term}": float(last[term].mean()) for term in TERMS if last[term].notna().any()}
            measures |= _measure_gap(_bridge_points(model, real, synthetic, sample), before, sample)
            measures |= _measure_reading(model, sample, own, default, variant, seed)
            rows += [[variant, *row] for row in measures.items()]
    artifacts.write_csv(folder / "measures.csv", MEASURE_COLUMNS, ((*names, f"{value:.8f}") for *names, value in rows))


def _measure_gap(points: Points, before: Points, sample: PatchSample) -> dict[str, float]:
    """``<set>/<metric>`` of real and synthetic points; ``before`` training they give the fixed kernel its width."""
    measures: dict[str, float] = {}
    for name, (members, _) in sample.sets().items():
        width = alignment.median_distance(*(side[members] for side in before))
        first, second = (side[members] for side in points)
        distances = alignment.measure_distances(first, second, width)
        measures |= {f"{name}/{metric}": value for metric, value in distances.items()}
    return measures


@torch.no_grad()
def _bridge_points(model: CaptionModel, real: Tensor, synthetic: Tensor, sample: PatchSample) -> Points:
    device = model.bridge.projection.weight.device
    first, second = (sample.take(model.bridge(side.to(device)).float().cpu()) for side in (real, synthetic))
    return first, second


@torch.no_grad()
def _measure_reading(
    model: CaptionModel, sample: PatchSample, own: Config, default: Config, variant: str, seed: int
) -> dict[str, float]:
    """What depends on the reading: under ``own``, then of the same weights under ``default``."""
    batches = list(_batches(model, sample, own, variant, seed))
    attention, w = (_weights(model, batches, loss) for loss in (replace(own.loss, **MEAN_ATTENTION), own.loss))
    measures = {f"own/{name}": value for name, value in _mean_terms(model, batches, own.loss).items()}
    measures["attended_patches"] = float(torch.special.entr(attention).sum(1).exp().mean())
    measures["kept_patches"] = float(w.gt(0).sum(1).double().mean())
    model.penultimate_bridge = None
    model.tap = Tap([layer.encoder_attn for layer in model.layers[-default.model.last_k :]])
    values = _mean_terms(model, batches, default.loss)
    above = _mean_terms(model, batches, replace(default.loss, divergence=True))["ot"]
    measures |= {f"default/{name}": value for name, value in values.items()}
    return measures | {"ot_floor_share": 100 * (1 - above / values["ot"])}


def _mean_terms(model: CaptionModel, batches: Sequence[Batch], loss: Loss) -> dict[str, float]:
    """Mean over ``batches`` of each raw alignment term that ``loss`` has a weight for."""
    values = [objective.compute_terms(model, batch, loss) for batch in batches]
    return {name: float(torch.stack([each[name] for each in values]).mean()) for name in TERMS if name in values[0]}


def _batches(model: CaptionModel, sample: PatchSample, own: Config, variant: str, seed: int) -> Iterator[Batch]:
    """The pairs shuffled into batches of the size trained with; what is left over is left out, as InfoNCE depends on
    the size."""
    store = FeatureStore(inputs_of(own, variant).features)
    stages = {"": False, "_penultimate": True} if own.model.multi_scale else {"": False}
    features = {}
    for name, stage in stages.items():
        features[f"real{name}"], features[f"synthetic{name}"] = sample.features(store, stage)
    numbers = {image: i for i, image in enumerate(sorted({triplet["image"] for triplet in sample.triplets}))}
    everything = Batch(
        labels=model.labels(sample.captions(), own.model.max_tokens),
        images=torch.tensor([numbers[triplet["image"]] for triplet in sample.triplets]),
        paired=torch.ones(len(sample.triplets), dtype=torch.bool),
        **features,
    )
    order = torch.from_numpy(np.random.default_rng([seed, len(numbers)]).permutation(len(sample.triplets)))
    size = min(own.train.batch, len(order))
    for rows in order[: len(order) // size * size].split(size):
        yield everything.part(rows).to(model.bridge.projection.weight.device)


def _weights(model: CaptionModel, batches: Sequence[Batch], loss: Loss) -> Tensor:
    """w (N, S) of Eq. 8 over all captions of ``batches``, read as ``loss`` says."""
    attended = ((model.states(model.bridge(batch.real), batch.labels)[1], batch.labels) for batch in batches)
    return torch.cat([text_weights(model, a, labels, loss) for a, labels in attended if a is not None])


def summarise_readings(config: Config, first_seed: int) -> dict[str, Any]:
    """What :func:`run_readings` left, for :func:`bncap.experiments.estimates.write_extended`; numbers rounded, unknown
    ones None.

    - ``readings``: variant, label, reason, and what it is compared with; ``same``: those that are the default here;
    - ``scores``: differences of scores, as :func:`bncap.experiments.comparisons.compare_pairs`;
    - ``measures``: differences of what :func:`build_measures` measures, Student's t over seeds;
    - ``before``: the gap before training, mean over seeds;
    - ``flags``: readings of which some loss, as the run logs it, ends lower than the default's while the gap ends
      larger than the default's, both intervals leaving out 0: records of ``measures`` under ``terms`` and ``gap``;
      each term with that of the same loss as the ``default`` reads it, and whether it is lower so too (``in_both``);
      ``above_before``: whether the gap has grown.
    """
    seeds, equal = config.seeds(first_seed), find_equal_readings(config)
    by_seed = {seed: _read_measures(config, seed) for seed in seeds}
    trained = [name for name in READINGS if name not in equal]
    pairs = [(name, other, split) for name in trained for other in references_of(name) for split in paper.SPLITS]
    measures = [record for name in trained for record in _differences(by_seed, name, references_of(name)[0])]
    before = {
        measure: estimates.rounded(float(np.mean(values)))
        for measure in MEASURES
        if (values := [v[INITIAL, measure] for v in by_seed.values() if (INITIAL, measure) in v])
    }
    described = [
        {"variant": name, "label": reading.label, "reason": reading.reason, "settings": list(reading.overrides),
         "against": list(references_of(name)), "trained": name in trained}
        for name, reading in READINGS.items()
    ]  # fmt: skip
    return {
        "readings": described,
        "same": [{"variant": name, "label": READINGS[name].label, "why": why} for name, why in equal.items()],
        "scores": comparisons.compare_pairs(config, first_seed, pairs),
        "measures": measures,
        "before": before,
        "flags": list(_flags(measures, before)),
    }


def write_readings(config: Config, content: Record) -> Path:
    """Write ``figures/<profile>/readings.csv``: every difference; ``measure`` is ``<split>/<metric>`` for scores."""
    scores = [{**record, "measure": f"{record['split']}/{record['metric']}"} for record in content["scores"]]
    path = paths.figures_dir(config.profile) / "readings.csv"
    return estimates.write_csv(path, [*scores, *content["measures"]], TABLE_COLUMNS)


def _read_measures(config: Config, seed: int) -> dict[tuple[str, str], float]:
    folder = artifacts.require(paths.step_dir(config.profile, READING_STEP, "measured", seed))
    rows = artifacts.read_csv(folder / "measures.csv")
    return {(row["variant"], row["measure"]): float(row["value"]) for row in rows}


def _differences(by_seed: BySeed, name: str, other: str) -> Iterator[dict[str, Any]]:
    for measure in MEASURES:
        values = [{s: v[n, measure] for s, v in by_seed.items() if (n, measure) in v} for n in (name, other)]
        if all(values):
            same = {"variant": name, "against": other, "measure": measure}
            yield {**same, **estimates.seed_difference(*values)}


def _flags(measures: Sequence[Record], before: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for gap in estimates.select(measures, measure=GAP, excludes_zero=True):
        where = {"variant": gap["variant"], "against": gap["against"]}
        terms = [
            {**logged, "default": default, "in_both": _ends_lower(default)}
            for term in TERMS
            for logged in estimates.select(measures, **where, measure=f"logged/{term}")
            for default in estimates.select(measures, **where, measure=f"default/{term}")
            if _ends_lower(logged)
        ]
        if gap["difference"] > 0 and terms:
            yield {**where, "terms": terms, "gap": gap, "above_before": gap["first"] > before[GAP]}


def _ends_lower(record: Record) -> bool:
    return record["excludes_zero"] and record["difference"] < 0
