"""How far real and synthetic patches lie apart, before and after training: the numbers behind Fig. 3 and Sec. 5.6.

The encoder is frozen and cannot move, so that patches are measured behind the bridge, E(x); the encoder's own F(x)
stands beside them for reference.  Only training captions have synthetic pictures, so the pairs are drawn from the
training triplets.  Patches count as text-relevant where the trained main model's w (Eq. 8) keeps them: one choice for
every state, so that before and after are compared over the same patches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bncap import analysis
from bncap.config import BASE, MAIN
from bncap.encoders.feature_store import FeatureStore
from bncap.errors import BncapError
from bncap.experiments import gap
from bncap.experiments.runs import inputs_of, load_run, weights_of
from bncap.losses import pool
from bncap.model import Captioner
from bncap.objective import text_weights
from bncap.pipeline import artifacts, paths
from bncap.pipeline.workers import one_thread, run_parallel
from bncap.settings import Config, Loss

PATCHES = 2
"""Patches drawn of each picture, at the same places in both of a pair.

With 300 pairs the three states are 3,600 points, which UMAP places in seconds; all 49 would take it minutes.
"""
NEIGHBOURS = 10
ENCODER = "encoder"
"""What the rows of F(x) have for a model; their moment is ``frozen``."""
MOMENTS = {"before": "initial", "after": "best"}
"""Moment -> folder of the weights in a training run."""
POINT_COLUMNS = ("model", "moment", "domain", "relevant", "x", "y")
ROW_COLUMNS = ("model", "moment", "set", "metric", "value")

Array = NDArray[np.float64]
State = tuple[str, str]  # model, moment


@dataclass(frozen=True)
class Patches:
    """Descriptors of both pictures of N pairs in one state: ``real`` and ``synthetic``, (N, S, D) float32."""

    real: Tensor
    synthetic: Tensor


@dataclass(frozen=True)
class Pairs:
    """N training pairs as rows of ``triplets.csv``, and the ``places`` (N, P) of their patches that are measured."""

    triplets: list[dict[str, str]]
    places: Tensor

    def captions(self) -> list[str]:
        return [triplet["target"] for triplet in self.triplets]

    def features(self, store: FeatureStore, penultimate: bool = False) -> tuple[Tensor, Tensor]:
        """(N, S, C) float16 of the real and of the synthetic pictures."""
        real = store.rows("train", [triplet["image"] for triplet in self.triplets])
        synthetic = store.rows("synthetic", [triplet["caption_id"] for triplet in self.triplets])
        return store.take("train", real, penultimate), store.take("synthetic", synthetic, penultimate)


@dataclass(frozen=True)
class Sample:
    """Which patches are measured: ``places`` (N, P) int64, ``relevant`` (N, P) bool; ``weights`` (N, S), Eq. 8's w."""

    places: Tensor
    relevant: Tensor
    weights: Tensor

    def take(self, patches: Tensor) -> Array:
        """The drawn patches of (N, S, D) as points (N P, D), pair by pair."""
        index = self.places.unsqueeze(2).expand(-1, -1, patches.shape[2])
        return patches.gather(1, index).flatten(0, 1).double().numpy()

    def sets(self) -> dict[str, tuple[NDArray[np.bool_], Tensor]]:
        """Set -> which points belong to it, and the weights (N, S) that pool a picture's patches of it."""
        relevant, kept = self.relevant.flatten().numpy(), self.weights.gt(0)
        return {
            "all": (np.ones_like(relevant), torch.ones_like(self.weights) / self.weights.shape[1]),
            "relevant": (relevant, self.weights),
            "background": (~relevant, (~kept).float() / (~kept).sum(1, keepdim=True).clamp(min=1)),
        }


def build_all(config: Config, seeds: Sequence[int]) -> list[Path]:
    """:func:`build_alignment` of every seed, and the first seed's patches on further maps, side by side.

    Returns the seeds' folders; the maps' are those of :func:`bncap.experiments.gap.umap_seeds`.
    """
    others = gap.umap_seeds(config, seeds[0])[1:]
    jobs = [*((config, seed) for seed in seeds), *((config, seeds[0], umap_seed) for umap_seed in others)]
    return run_parallel(build_alignment, jobs, label=gap.STEP)[: len(seeds)]


def build_alignment(config: Config, seed: int, umap_seed: int | None = None) -> Path:
    """Measure the runs of ``seed`` and draw their patches' UMAP: the step folder ``08_umap_mmd/analysis-s<seed>``.

    - ``points.csv``: places of the drawn patches in one UMAP fitted to three states at once (before training, after
      CE alone, after the full objective);
    - ``alignment.csv`` and ``summary.json``: for each model, moment and set of patches, distances in D dimensions and,
      prefixed ``umap_``, in the two of the picture.  The summary's keys are ``model/moment/set/metric``.

    UMAP's seed is that of the runs.  With another ``umap_seed`` the same patches are only drawn anew:
    ``08_umap_mmd/map<umap_seed>-s<seed>`` has the same files with the distances of the picture alone.
    """
    umap_seed = seed if umap_seed is None else umap_seed
    inputs = [
        paths.step_dir(config.profile, "02_synthesis", "images", config.data.seed),
        paths.step_dir(config.profile, "02_synthesis", "features", config.data.seed),
        *(weights_of(config, variant, seed) for variant in (BASE, MAIN)),
    ]
    names = ("tau", "rho", "domain", "keep", "language_token")
    settings = {name: getattr(config.loss, name) for name in names}
    settings |= {"pairs": config.experiment.umap_pairs, "patches": PATCHES, "max_tokens": config.model.max_tokens}
    return artifacts.run_step(
        gap.folder_of(config, seed, umap_seed),
        settings=settings | {"umap_seed": umap_seed, "by_chance": True},  # what an older summary has not
        inputs=inputs,
        build=functools.partial(_build, config, seed, umap_seed),
        config=config,
        quiet=True,
    )


def draw(config: Config, seed: int) -> Pairs:
    """The pairs of ``seed``, and which of their patches are measured."""
    images = inputs_of(config, MAIN).triplets
    paired = [row for row in artifacts.read_csv(artifacts.require(images) / "triplets.csv") if row["synthetic"]]
    if not paired:
        raise BncapError(f"{images.name}/triplets.csv has no synthetic picture: make them with notebook 02")
    rng = np.random.default_rng(seed)
    triplets = [paired[i] for i in sorted(rng.permutation(len(paired))[: config.experiment.umap_pairs])]
    patches = FeatureStore(inputs_of(config, MAIN).features).take("train", [0]).shape[1]
    everywhere = np.tile(np.arange(patches), (len(triplets), 1))
    return Pairs(triplets, torch.from_numpy(rng.permuted(everywhere, axis=1)[:, :PATCHES]))


@torch.no_grad()
def caption_weights(model: Captioner, features: Tensor, captions: list[str], loss: Loss, max_tokens: int) -> Tensor:
    """w (N, S) of Eq. 8 for (N, S, C) ``features`` with their captions, as in training."""
    labels = model.labels(captions, max_tokens)
    _, attention = model.states(model.bridge(features), labels)
    return text_weights(model, attention, labels, loss)


def measure(x: Array, y: Array, bandwidth: float) -> dict[str, float]:
    """Distances of two sets of points (N, D), (M, D).

    ``spread`` is the points' root mean square distance from their common mean.  ``relative_centroid_distance`` is in
    units of it, and ``mmd_rbf_fixed`` has the kernel of width ``bandwidth``: both compare states whose scales differ.
    What ends in ``_chance`` is what the same points give when they are parted at random.
    """
    both = np.concatenate([x, y])
    spread = float(np.sqrt(((both - both.mean(0)) ** 2).sum(1).mean()))
    apart = _apart(x, y)
    return {
        **apart,
        "spread": spread,
        "relative_centroid_distance": apart["centroid_distance"] / spread if spread else 0.0,
        "mmd_rbf_fixed": analysis.mmd_rbf(x, y, bandwidth),
        "domain_mixing": analysis.domain_mixing(x, y, min(NEIGHBOURS, len(both) - 1)),
    }


def median_distance(x: Array, y: Array) -> float:
    """Median distance over the pairs of the pooled points, the kernel width of :func:`bncap.analysis.mmd_rbf`."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(np.concatenate([x, y]))))


def _apart(x: Array, y: Array) -> dict[str, float]:
    return {
        "centroid_distance": analysis.centroid_distance(x, y),
        "centroid_distance_chance": analysis.centroid_distance_chance(x, y),
        "mmd_rbf": analysis.mmd_rbf(x, y),
        "mmd_rbf_chance": analysis.mmd_rbf_chance(x, y),
    }


def _build(config: Config, seed: int, umap_seed: int, folder: Path) -> None:
    with one_thread():
        states, sample = _states(config, seed)
        points = {state: (sample.take(p.real), sample.take(p.synthetic)) for state, p in states.items()}
        rows = _distances(states, points, sample) if umap_seed == seed else []
        embedded = _embed({state: pair for state, pair in points.items() if state[0] != ENCODER}, umap_seed)
    drawn = {state: pair for state, pair in embedded.items() if state != (BASE, "before")}
    rows += _embedded_distances(embedded, sample)
    artifacts.write_csv(folder / "points.csv", POINT_COLUMNS, _point_rows(drawn, sample))
    rounded = [[*row[:-1], round(row[-1], 6)] for row in rows]
    artifacts.write_csv(folder / "alignment.csv", ROW_COLUMNS, rounded)
    artifacts.write_json(folder / "summary.json", {"/".join(row[:-1]): row[-1] for row in rounded})


def _states(config: Config, seed: int) -> tuple[dict[State, Patches], Sample]:
    """Descriptors of the drawn pairs in every state, and which of their patches are measured."""
    drawn = draw(config, seed)
    real, synthetic = drawn.features(FeatureStore(inputs_of(config, MAIN).features))  # (N, S, C)
    states = {(ENCODER, "frozen"): Patches(real.float(), synthetic.float())}
    for variant in (BASE, MAIN):
        for moment, weights in MOMENTS.items():
            model = load_run(config, variant, weights_of(config, variant, seed), weights)
            with torch.no_grad():
                states[variant, moment] = Patches(model.bridge(real).float(), model.bridge(synthetic).float())
    if not torch.equal(states[BASE, "before"].real, states[MAIN, "before"].real):
        raise BncapError(f"{BASE} and {MAIN} of seed {seed} start from different weights: train both anew")
    # the model is the main one after training, the last that the loop has loaded
    w = caption_weights(model, real, drawn.captions(), config.loss, config.model.max_tokens)
    return states, Sample(drawn.places, w.gather(1, drawn.places).gt(0), w)


def _distances(
    states: Mapping[State, Patches], points: Mapping[State, tuple[Array, Array]], sample: Sample
) -> list[list]:
    rows = []
    for (model, moment), (x, y) in points.items():
        reference = points.get((model, "before"), (x, y))
        patches = states[model, moment]
        for name, (members, weights) in sample.sets().items():
            if not members.any():
                continue  # rho = 1 leaves no background
            width = median_distance(reference[0][members], reference[1][members])
            found = measure(x[members], y[members], width)
            pooled = pool(patches.real, weights), pool(patches.synthetic, weights)
            found["paired_cosine"] = float(analysis.paired_cosine(*pooled).mean())
            rows += [[model, moment, name, metric, value] for metric, value in found.items()]
    return rows


def _embed(points: Mapping[State, tuple[Array, Array]], seed: int) -> dict[State, tuple[Array, Array]]:
    """One UMAP of all states' points; the two models share their state before training, which enters once."""
    distinct = [state for state in points if state != (BASE, "before")]
    flat = analysis.umap_2d(np.concatenate([side for state in distinct for side in points[state]]), seed)
    sides = np.split(flat, 2 * len(distinct))
    embedded = {state: (sides[2 * i], sides[2 * i + 1]) for i, state in enumerate(distinct)}
    return {(BASE, "before"): embedded[MAIN, "before"], **embedded}


def _embedded_distances(embedded: Mapping[State, tuple[Array, Array]], sample: Sample) -> list[list]:
    rows = []
    for (model, moment), (x, y) in embedded.items():
        for name, (members, _) in sample.sets().items():
            if members.any():
                found = _apart(x[members], y[members])
                rows += [[model, moment, name, f"umap_{metric}", value] for metric, value in found.items()]
    return rows


def _point_rows(drawn: Mapping[State, tuple[Array, Array]], sample: Sample) -> Iterator[list]:
    relevant = sample.relevant.flatten().int().tolist()
    for (model, moment), sides in drawn.items():
        for domain, side in zip(("real", "synthetic"), sides, strict=True):
            for flag, (x, y) in zip(relevant, side, strict=True):
                yield [model, moment, domain, flag, f"{x:.4f}", f"{y:.4f}"]
