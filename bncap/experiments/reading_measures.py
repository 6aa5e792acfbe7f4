"""What a trained run shows of its reading: its alignment terms, its attention, the gap between real and synthetic.

A loss that is read otherwise is another quantity, so that its values alone cannot be compared.  Hence each run is
measured three ways: as its log has it, with its saved weights under its own reading, and with the same weights under
the default's.  The gap is that of notebook 08: the same pairs, and patches of them that the seed's default main model
keeps, whatever the run itself attends to.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bncap import objective
from bncap.attention import Tap
from bncap.batches import Batch
from bncap.config import ALL_VARIANTS, MAIN
from bncap.device import default_device
from bncap.encoders.feature_store import FeatureStore
from bncap.experiments import alignment
from bncap.experiments.alignment import Array, Pairs, Sample
from bncap.experiments.alignment import draw as draw
from bncap.experiments.convergence import last_epoch
from bncap.experiments.runs import READING_STEP, inputs_of, load_run, weights_of
from bncap.model import Captioner
from bncap.objective import text_weights
from bncap.pipeline import artifacts, paths
from bncap.pipeline.workers import one_thread, run_parallel
from bncap.settings import Config, Loss, override

TERMS = ("pal", "infonce", "ot")
GAP = "relevant/mmd_rbf"
"""The gap by which readings are judged: MMD over text-relevant patches, which no change of scale can alter."""
INITIAL = "initial"
"""What the rows of the default before training have for a variant."""
COLUMNS = ("variant", "measure", "value")
EVERYTHING = {"tau": 1.0, "rho": 1.0, "domain": "log", "keep": "mass"}
"""With these, w of Eq. 8 is the mean attention itself."""

Points = tuple[Array, Array]


def build_all(config: Config, variants: Sequence[str], seeds: Sequence[int]) -> list[Path]:
    """:func:`build` of every seed, side by side."""
    return run_parallel(build, [(config, tuple(variants), seed) for seed in seeds], label=f"{READING_STEP}/measured")


def build(config: Config, variants: Sequence[str], seed: int) -> Path:
    """Measure the default's run and those of ``variants``: ``11_readings/measured-s<seed>/measures.csv``.

    Measures: ``logged/<term>``, its mean over the last epoch of the log; ``own/<term>`` and ``default/<term>``, of the
    saved weights on the drawn pairs, without dropout; ``<set>/<metric>``, the gap of these pairs;
    ``attended_patches``, the exponential of the entropy of the mean attention; ``kept_patches``, those with w > 0
    under the run's own reading; ``ot_floor_share``, how many per cent of the default's OT loss it costs to carry each
    picture's patches to themselves.  The variant ``initial`` is the default before training.
    """
    configs = {name: override(config, ALL_VARIANTS[name].overrides) for name in (MAIN, *variants)}
    images = inputs_of(config, MAIN).triplets
    features = dict.fromkeys(inputs_of(own, name).features for name, own in configs.items())
    settings = {
        "readings": {name: [asdict(own.loss), asdict(own.model)] for name, own in configs.items()},
        "pairs": config.experiment.umap_pairs,
        "patches": alignment.PATCHES,
        "batch": config.train.batch,
    }
    return artifacts.run_step(
        paths.step_dir(config.profile, READING_STEP, "measured", seed),
        settings=settings,
        inputs=[images, *features, *(weights_of(config, name, seed) for name in configs)],
        components=[config.components.decoder],
        build=functools.partial(_build, configs, seed),
        config=config,
        quiet=True,
    )


def read(config: Config, seed: int) -> dict[tuple[str, str], float]:
    """(variant, measure) -> value of the step that :func:`build` makes."""
    folder = artifacts.require(paths.step_dir(config.profile, READING_STEP, "measured", seed))
    return {
        (row["variant"], row["measure"]): float(row["value"]) for row in artifacts.read_csv(folder / "measures.csv")
    }


@torch.no_grad()
def terms(model: Captioner, batches: Sequence[Batch], loss: Loss) -> dict[str, float]:
    """Mean over ``batches`` of each raw alignment term that ``loss`` has a weight for."""
    found = [objective.compute_terms(model, batch, loss) for batch in batches]
    return {name: float(torch.stack([one[name] for one in found]).mean()) for name in TERMS if name in found[0]}


def gap(points: Points, before: Points, sample: Sample) -> dict[str, float]:
    """``<set>/<metric>`` of real and synthetic points; ``before`` training they give the fixed kernel its width."""
    found = {}
    for name, (members, _) in sample.sets().items():
        if members.any():  # rho = 1 leaves no background
            width = alignment.median_distance(*(side[members] for side in before))
            distances = alignment.measure(*(side[members] for side in points), width)
            found |= {f"{name}/{metric}": value for metric, value in distances.items()}
    return found


def _build(configs: Mapping[str, Config], seed: int, folder: Path) -> None:
    rows = []
    with one_thread():
        default, drawn = configs[MAIN], draw(configs[MAIN], seed)
        real, synthetic = drawn.features(FeatureStore(inputs_of(default, MAIN).features))
        main, initial = (
            load_run(default, MAIN, weights_of(default, MAIN, seed), moment) for moment in ("best", "initial")
        )
        w = alignment.caption_weights(main, real, drawn.captions(), default.loss, default.model.max_tokens)
        sample = Sample(drawn.places, w.gather(1, drawn.places).gt(0), w)
        before = _points(initial, real, synthetic, sample)
        rows += [[INITIAL, *row] for row in gap(before, before, sample).items()]
        for variant, own in configs.items():
            weights = weights_of(default, variant, seed)
            model = load_run(own, variant, weights).to(default_device())
            found = _logged(weights) | gap(_points(model, real, synthetic, sample), before, sample)
            found |= _read_otherwise(model, drawn, own, default, variant, seed)
            rows += [[variant, *row] for row in found.items()]
    artifacts.write_csv(folder / "measures.csv", COLUMNS, ((*names, f"{value:.8f}") for *names, value in rows))


def _logged(weights: Path) -> dict[str, float]:
    steps = artifacts.read_csv(weights / "steps.csv")
    logged = {term: [float(row[term]) for row in last_epoch(steps) if row[term]] for term in TERMS}
    return {f"logged/{term}": float(np.mean(values)) for term, values in logged.items() if values}


@torch.no_grad()
def _points(model: Captioner, real: Tensor, synthetic: Tensor, sample: Sample) -> Points:
    device = model.bridge.projection.weight.device
    return tuple(sample.take(model.bridge(side.to(device)).float().cpu()) for side in (real, synthetic))


@torch.no_grad()
def _read_otherwise(
    model: Captioner, drawn: Pairs, own: Config, default: Config, variant: str, seed: int
) -> dict[str, float]:
    """What depends on the reading: under ``own``, then of the same weights under ``default``."""
    batches = list(_batches(model, drawn, own, variant, seed))
    attention, w = _weights(model, batches, (replace(own.loss, **EVERYTHING), own.loss))
    found = {f"own/{name}": value for name, value in terms(model, batches, own.loss).items()}
    found["attended_patches"] = float(torch.special.entr(attention).sum(1).exp().mean())
    found["kept_patches"] = float(w.gt(0).sum(1).double().mean())
    model.penultimate_bridge = None
    model.tap = Tap([layer.encoder_attn for layer in model.layers[-default.model.last_k :]])
    values = terms(model, batches, default.loss)
    above = terms(model, batches, replace(default.loss, divergence=True))["ot"]
    found |= {f"default/{name}": value for name, value in values.items()}
    return found | {"ot_floor_share": 100 * (1 - above / values["ot"])}


def _batches(model: Captioner, drawn: Pairs, own: Config, variant: str, seed: int) -> Iterator[Batch]:
    """The pairs shuffled into batches of the size trained with; what is left over is left out, as InfoNCE depends on
    the size."""
    store = FeatureStore(inputs_of(own, variant).features)
    stages = {"": False, "_penultimate": True} if own.model.multi_scale else {"": False}
    features = {}
    for name, stage in stages.items():
        features[f"real{name}"], features[f"synthetic{name}"] = drawn.features(store, stage)
    numbers = {image: i for i, image in enumerate(sorted({triplet["image"] for triplet in drawn.triplets}))}
    everything = Batch(
        labels=model.labels(drawn.captions(), own.model.max_tokens),
        images=torch.tensor([numbers[triplet["image"]] for triplet in drawn.triplets]),
        paired=torch.ones(len(drawn.triplets), dtype=torch.bool),
        **features,
    )
    order = torch.from_numpy(np.random.default_rng([seed, len(numbers)]).permutation(len(drawn.triplets)))
    size = min(own.train.batch, len(order))
    for rows in order[: len(order) // size * size].split(size):
        yield everything.part(rows).to(model.bridge.projection.weight.device)


def _weights(model: Captioner, batches: Sequence[Batch], losses: Sequence[Loss]) -> list[Tensor]:
    """w (N, S) of Eq. 8 over all captions of ``batches``, read as each of ``losses`` says."""
    attention = [model.states(model.bridge(batch.real), batch.labels)[1] for batch in batches]
    return [
        torch.cat([text_weights(model, a, batch.labels, loss) for a, batch in zip(attention, batches, strict=True)])
        for loss in losses
    ]
