"""How far real and synthetic patches lie apart before and after training, over all seeds (Fig. 3, Sec. 5.6).

Patches of pairs from the training triplets are measured behind the bridge, E(x), as the encoder is frozen; its own F(x)
stands beside them for reference.  They count as text-relevant where the trained main model's w (Eq. 8) keeps them: one
choice for every state.  As the paper measures on a picture drawn by UMAP, they are also measured in UMAPs of other
seeds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from torch import Tensor

from bncap import analysis
from bncap.config import BASE, MAIN
from bncap.decoders.captioner import CaptionModel
from bncap.encoders.features import FeatureStore
from bncap.errors import BncapError
from bncap.experiments import estimates, paper
from bncap.experiments.evaluate import load_run
from bncap.experiments.runs import inputs_of, weights_dir
from bncap.losses import pool
from bncap.objective import text_weights
from bncap.pipeline import artifacts, paths
from bncap.pipeline.workers import one_thread, run_parallel
from bncap.settings import Config, Loss

STEP = "08_umap_mmd"
PATCHES = 2
"""Patches drawn of each picture, at the same places in both of a pair; all 49 would take UMAP minutes."""
NEIGHBOURS = 10
ENCODER = "encoder"
"""The model of the rows of F(x); their moment is ``frozen``."""
POINT_COLUMNS = ("model", "moment", "domain", "relevant", "x", "y")
ROW_COLUMNS = ("model", "moment", "set", "metric", "value")
KEY = ["variant", "set", "metric"]
TABLE_COLUMNS = (*KEY, "seed", "before", "after", "change")
PRINTED = {"umap_centroid_distance": paper.CENTROID_DISTANCE, "umap_mmd_rbf": paper.MMD}
"""Metrics that the paper has a number for, on all patches; for the centroids it does not say in which space."""
SET_DIFFERENCE = "relevant less background"
CHANGES = {"centroid_distance": "centroid_change", "domain_mixing": "mixing_change"}
"""What is compared between these two sets: the relative change of a distance, the change of a share."""
CHANCE = "_chance"
"""Suffix of a measure whose points are divided at random (:func:`bncap.analysis.mmd_rbf_chance`)."""

Array = NDArray[np.float64]
State = tuple[str, str]  # model, moment
Points = tuple[Array, Array]
"""Points (M, D) of the real and of the synthetic pictures."""
BySeed = Mapping[int, Mapping[str, float]]
"""Seed -> ``model/moment/set/metric`` -> value."""


@dataclass(frozen=True)
class PatchSample:
    """N training pairs, rows of ``triplets.csv``, and which of their S patches are measured.

    ``places``: (N, P) int64, the same in both pictures of a pair.  ``weights``: (N, S), Eq. 8's w of the trained main
    model, by which :meth:`sets` tells text-relevant patches from background; None before it is computed.
    """

    triplets: list[dict[str, str]]
    places: Tensor
    weights: Tensor | None = None

    def captions(self) -> list[str]:
        return [triplet["target"] for triplet in self.triplets]

    def features(self, store: FeatureStore, penultimate: bool = False) -> tuple[Tensor, Tensor]:
        """(N, S, C) float16 of the real and of the synthetic pictures."""
        real = store.rows("train", [triplet["image"] for triplet in self.triplets])
        synthetic = store.rows("synthetic", [triplet["caption_id"] for triplet in self.triplets])
        return store.take("train", real, penultimate), store.take("synthetic", synthetic, penultimate)

    def weighted(self, model: CaptionModel, real: Tensor, config: Config) -> PatchSample:
        """The sample with w of ``model`` for its captions over the ``real`` pictures' features (N, S, C)."""
        weights = caption_weights(model, real, self.captions(), config.loss, config.model.max_tokens)
        return replace(self, weights=weights)

    def take(self, patches: Tensor) -> Array:
        """The sampled patches of (N, S, D) as points (N P, D), pair by pair."""
        return patches.take_along_dim(self.places.unsqueeze(2), 1).flatten(0, 1).double().numpy()

    def relevant(self) -> NDArray[np.bool_]:
        """Whether w keeps each of the sampled patches, (N P,)."""
        assert self.weights is not None  # of :meth:`weighted`
        return self.weights.gather(1, self.places).gt(0).flatten().numpy()

    def sets(self) -> dict[str, tuple[NDArray[np.bool_], Tensor]]:
        """Set -> which points belong to it, and the weights (N, S) that pool a picture's patches of it.

        A set without a point is left out: with rho = 1 there is no background.
        """
        assert self.weights is not None  # of :meth:`weighted`
        relevant, others = self.relevant(), self.weights.eq(0)
        sets = {
            "all": (np.ones_like(relevant), torch.ones_like(self.weights) / self.weights.shape[1]),
            "relevant": (relevant, self.weights),
            "background": (~relevant, others.float() / others.sum(1, keepdim=True).clamp(min=1)),
        }
        return {name: (members, w) for name, (members, w) in sets.items() if members.any()}


def build_alignments(config: Config, seeds: Sequence[int]) -> list[Path]:
    """:func:`build_alignment` of every seed, whose folders it returns, and of the first with each UMAP seed."""
    others = umap_seeds(config, seeds[0])[1:]
    jobs = [*((config, seed) for seed in seeds), *((config, seeds[0], umap_seed) for umap_seed in others)]
    return run_parallel(build_alignment, jobs, label=STEP)[: len(seeds)]


def build_alignment(config: Config, seed: int, umap_seed: int | None = None) -> Path:
    """Measure the runs of ``seed`` and embed their patches by UMAP: the step folder ``08_umap_mmd/analysis-s<seed>``.

    - ``points.csv``: places of the sampled patches in one UMAP fitted to three states at once (before training, after
      CE alone, after the full objective);
    - ``alignment.csv`` and ``summary.json``: for each model, moment and set of patches, distances in D dimensions and,
      prefixed ``umap_``, in the two of the picture.  The summary's keys are ``model/moment/set/metric``.

    UMAP's seed is that of the runs.  With another ``umap_seed`` the same patches are only embedded again:
    ``08_umap_mmd/map<umap_seed>-s<seed>`` has the same files with the distances in two dimensions alone.
    """
    umap_seed = seed if umap_seed is None else umap_seed
    data = inputs_of(config, MAIN)
    settings = {name: getattr(config.loss, name) for name in ("tau", "rho", "domain", "keep", "language_token")}
    settings |= {"pairs": config.experiment.umap_pairs, "patches": PATCHES, "max_tokens": config.model.max_tokens}
    return artifacts.run_step(
        analysis_dir(config, seed, umap_seed),
        settings=settings | {"umap_seed": umap_seed, "by_chance": True},
        inputs=[data.triplets, data.features, *(weights_dir(config, variant, seed) for variant in (BASE, MAIN))],
        build=functools.partial(_build, config, seed, umap_seed),
        config=config,
        quiet=True,
    )


def sample_patches(config: Config, seed: int) -> PatchSample:
    """The pairs of ``seed``, and which of their patches are measured."""
    images = inputs_of(config, MAIN).triplets
    paired = [row for row in artifacts.read_csv(artifacts.require(images) / "triplets.csv") if row["synthetic"]]
    if not paired:
        raise BncapError(f"{images.name}/triplets.csv has no synthetic picture: make them with notebook 02")
    rng = np.random.default_rng(seed)
    triplets = [paired[i] for i in sorted(rng.permutation(len(paired))[: config.experiment.umap_pairs])]
    patches = FeatureStore(inputs_of(config, MAIN).features).take("train", [0]).shape[1]
    everywhere = np.tile(np.arange(patches), (len(triplets), 1))
    return PatchSample(triplets, torch.from_numpy(rng.permuted(everywhere, axis=1)[:, :PATCHES]))


@torch.no_grad()
def caption_weights(model: CaptionModel, features: Tensor, captions: list[str], loss: Loss, max_tokens: int) -> Tensor:
    """w (N, S) of Eq. 8 for (N, S, C) ``features`` with their captions, as in training."""
    labels = model.labels(captions, max_tokens)
    _, attention = model.states(model.bridge(features), labels)
    assert attention is not None  # the tap is open
    return text_weights(model, attention, labels, loss)


def measure_distances(x: Array, y: Array, bandwidth: float) -> dict[str, float]:
    """Distances of two sets of points (N, D), (M, D).

    ``spread`` is the points' root mean square distance from their common mean.  ``relative_centroid_distance`` is in
    units of it, and ``mmd_rbf_fixed`` has the kernel of width ``bandwidth``: both compare states whose scales differ.
    """
    both = np.concatenate([x, y])
    spread = float(np.sqrt(((both - both.mean(0)) ** 2).sum(1).mean()))
    distances = _domain_distances(x, y)
    return {
        **distances,
        "spread": spread,
        "relative_centroid_distance": distances["centroid_distance"] / spread if spread else 0.0,
        "mmd_rbf_fixed": analysis.mmd_rbf(x, y, bandwidth),
        "domain_mixing": analysis.domain_mixing(x, y, min(NEIGHBOURS, len(both) - 1)),
    }


def median_distance(x: Array, y: Array) -> float:
    """Median distance over the pairs of the pooled points, the kernel width of :func:`bncap.analysis.mmd_rbf`."""
    return float(np.median(pdist(np.concatenate([x, y]))))


def _domain_distances(x: Array, y: Array) -> dict[str, float]:
    return {
        "centroid_distance": analysis.centroid_distance(x, y),
        "centroid_distance_chance": analysis.centroid_distance_chance(x, y),
        "mmd_rbf": analysis.mmd_rbf(x, y),
        "mmd_rbf_chance": analysis.mmd_rbf_chance(x, y),
    }


def _build(config: Config, seed: int, umap_seed: int, folder: Path) -> None:
    with one_thread():
        states, sample = _describe(config, seed)
        points = {state: (sample.take(real), sample.take(synthetic)) for state, (real, synthetic) in states.items()}
        rows = _distance_rows(states, points, sample) if umap_seed == seed else []
        embedded = _embed({state: sides for state, sides in points.items() if state[0] != ENCODER}, umap_seed)
    for (model, moment), (x, y) in embedded.items():
        for name, (members, _) in sample.sets().items():
            distances = _domain_distances(x[members], y[members])
            rows += [[model, moment, name, f"umap_{metric}", value] for metric, value in distances.items()]
    rows = [[*names, round(value, 6)] for *names, value in rows]
    artifacts.write_csv(folder / "points.csv", POINT_COLUMNS, _point_rows(embedded, sample))
    artifacts.write_csv(folder / "alignment.csv", ROW_COLUMNS, rows)
    artifacts.write_json(folder / "summary.json", {"/".join(names): value for *names, value in rows})


def _describe(config: Config, seed: int) -> tuple[dict[State, tuple[Tensor, Tensor]], PatchSample]:
    """Descriptors (N, S, D) of the real and synthetic pictures of the sampled pairs in every state, and the sample."""
    sample = sample_patches(config, seed)
    real, synthetic = sample.features(FeatureStore(inputs_of(config, MAIN).features))  # (N, S, C)
    states = {(ENCODER, "frozen"): (real.float(), synthetic.float())}
    for variant in (BASE, MAIN):
        for moment, weights in {"before": "initial", "after": "best"}.items():
            model = load_run(config, variant, weights_dir(config, variant, seed), weights)
            with torch.no_grad():
                states[variant, moment] = model.bridge(real).float(), model.bridge(synthetic).float()
    if not torch.equal(states[BASE, "before"][0], states[MAIN, "before"][0]):
        raise BncapError(f"{BASE} and {MAIN} of seed {seed} start from different weights: train both again")
    # the model is the main one after training, the last that the loop has loaded
    return states, sample.weighted(model, real, config)


def _distance_rows(
    states: Mapping[State, tuple[Tensor, Tensor]], points: Mapping[State, Points], sample: PatchSample
) -> list[list]:
    rows = []
    for (model, moment), (x, y) in points.items():
        reference = points.get((model, "before"), (x, y))
        for name, (members, weights) in sample.sets().items():
            width = median_distance(*(side[members] for side in reference))
            distances = measure_distances(x[members], y[members], width)
            pooled = (pool(side, weights) for side in states[model, moment])
            distances["paired_cosine"] = float(analysis.paired_cosine(*pooled).mean())
            rows += [[model, moment, name, metric, value] for metric, value in distances.items()]
    return rows


def _embed(points: Mapping[State, Points], seed: int) -> dict[State, Points]:
    """One UMAP of all states' points; the two models share their state before training, which enters once."""
    distinct = [state for state in points if state != (BASE, "before")]
    flat = analysis.umap_2d(np.concatenate([side for state in distinct for side in points[state]]), seed)
    sides = np.split(flat, 2 * len(distinct))
    embedded = {state: (sides[2 * i], sides[2 * i + 1]) for i, state in enumerate(distinct)}
    return {(BASE, "before"): embedded[MAIN, "before"], **embedded}


def _point_rows(embedded: Mapping[State, Points], sample: PatchSample) -> Iterator[list]:
    relevant = sample.relevant().astype(int).tolist()
    for (model, moment), sides in embedded.items():
        if (model, moment) != (BASE, "before"):  # it is that of the main model
            for domain, side in zip(("real", "synthetic"), sides, strict=True):
                for flag, (x, y) in zip(relevant, side, strict=True):
                    yield [model, moment, domain, flag, f"{x:.4f}", f"{y:.4f}"]


def analysis_dir(config: Config, seed: int, umap_seed: int | None = None) -> Path:
    """Where :func:`build_alignment` puts the runs of ``seed``, or their map of another UMAP seed."""
    name = "analysis" if umap_seed in (None, seed) else f"map{umap_seed}"
    return paths.step_dir(config.profile, STEP, name, seed)


def umap_seeds(config: Config, first_seed: int) -> tuple[int, ...]:
    """The UMAP seeds that the first seed's patches are drawn with; the first of them gives Fig. 3."""
    return tuple(range(first_seed, first_seed + config.experiment.umap_seeds))


def summarise_alignment(config: Config, first_seed: int) -> dict[str, Any]:
    """The numbers of notebook 08, as far as it has been run; all are rounded, an unknown one is None.

    - ``by_seed``: seed -> ``model/moment/set/metric`` -> value;
    - ``summary``: for each variant, set and metric the means over seeds before and after training with their standard
      deviations, the relative ``change`` of the means, the least and the most change of a seed (``change_low``,
      ``change_high``), and in how many seeds the value ``fell``;
    - ``differences``: ``variant`` after training less ``against``, which is "before" or CE after training, with the
      95 % interval over seeds (Student's t); in the set :data:`SET_DIFFERENCE` those of two changes in training;
    - ``umap_seeds``: the same patches of the first seed under each UMAP seed, in two dimensions;
    - ``umap_range``: over those, the least and the most ``change`` in training, the ``span`` between them, which is
      the share ``span_of_paper`` of the paper's change, and the least and the most ``before`` training.
    """
    seeds = config.seeds(first_seed)
    by_seed = _read_summaries({seed: analysis_dir(config, seed) for seed in seeds})
    maps = _read_summaries({s: analysis_dir(config, seeds[0], s) for s in umap_seeds(config, seeds[0])})
    moments, drawn = _moments(by_seed), _moments(maps)
    drawn = drawn[drawn["metric"].isin(list(PRINTED))]
    summary = moments.assign(fell=moments["after"] < moments["before"]).groupby(KEY, as_index=False)
    summary = summary.agg(
        before=("before", "mean"), before_std=("before", "std"), after=("after", "mean"), after_std=("after", "std"),
        change_low=("change", "min"), change_high=("change", "max"), fell=("fell", "sum"), seeds=("seed", "size"),
    )  # fmt: skip
    ranges = drawn.groupby(KEY, as_index=False).agg(
        umap_seeds=("seed", "size"), change_low=("change", "min"), change_high=("change", "max"),
        before_low=("before", "min"), before_high=("before", "max"),
    )  # fmt: skip
    span = ranges["change_high"] - ranges["change_low"]
    printed = ranges["metric"].map({metric: change.relative for metric, change in PRINTED.items()})
    ranges = ranges.assign(span=span, paper_change=printed, span_of_paper=span / printed.abs())
    return {
        "by_seed": {str(seed): values for seed, values in by_seed.items()},
        "summary": estimates.to_records(summary.assign(change=[*map(_relative, summary["before"], summary["after"])])),
        "differences": [*_differences(moments), *_set_differences(moments)],
        "umap_seeds": estimates.to_records(drawn.rename(columns={"seed": "umap_seed"})),
        "umap_range": estimates.to_records(ranges),
    }


def write_alignment(config: Config, content: Mapping[str, Any]) -> Path:
    """``figures/<profile>/alignment.csv``: before, after and relative change of each measure, a row for each seed."""
    path = paths.figures_dir(config.profile) / "alignment.csv"
    return estimates.write_csv(path, _moments(content["by_seed"]).to_dict("records"), TABLE_COLUMNS)


def _read_summaries(folders: Mapping[int, Path]) -> BySeed:
    finished = {seed: folder for seed, folder in folders.items() if artifacts.is_finished(folder)}
    return {seed: artifacts.read_json(folder / "summary.json") for seed, folder in finished.items()}


def _moments(by_seed: Mapping[Any, Mapping[str, float]]) -> pd.DataFrame:
    """A row for each variant, set, metric and seed measured at both moments: ``before``, ``after``, ``change``."""
    rows = [
        (variant, part, metric, seed, before, after, _relative(before, after))
        for seed, values in by_seed.items()
        for name, after in values.items()
        for variant, moment, part, metric in [name.split("/")]
        if moment == "after" and (before := values.get(f"{variant}/before/{part}/{metric}")) is not None
    ]
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).sort_values(KEY, kind="stable")


def _differences(moments: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """After training less before, and the full objective less cross-entropy alone, by set and metric."""
    runs = dict(iter(moments.set_index("seed").groupby(KEY)))
    for variant, against in ((MAIN, "before"), (MAIN, BASE), (BASE, "before")):
        for (name, part, metric), own in runs.items():
            other, moment = (variant, "before") if against == "before" else (against, "after")
            if name == variant and (other, part, metric) in runs and not metric.endswith(CHANCE):
                difference = estimates.seed_difference(dict(own["after"]), dict(runs[other, part, metric][moment]))
                yield {"variant": variant, "against": against, "set": part, "metric": metric, **difference}


def _set_differences(moments: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What training changes in text-relevant patches less what it changes in background ones."""
    moments = moments.assign(mixing_change=moments["after"] - moments["before"], centroid_change=moments["change"])
    runs = dict(iter(moments.set_index("seed").groupby(KEY)))
    for variant in (MAIN, BASE):
        for metric, name in CHANGES.items():
            keys = [(variant, part, metric) for part in ("relevant", "background")]
            if all(key in runs for key in keys):
                same = {"variant": variant, "against": "background", "set": SET_DIFFERENCE, "metric": name}
                yield {**same, **estimates.seed_difference(*(dict(runs[key][name]) for key in keys))}


def _relative(before: float, after: float) -> float:
    return after / before - 1 if before else math.nan
