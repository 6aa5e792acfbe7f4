"""Distances between two sets of points against scikit-learn, SciPy and known answers."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine, pdist
from sklearn.metrics.pairwise import rbf_kernel

from bncap.analysis import (
    centroid_distance,
    centroid_distance_chance,
    domain_mixing,
    mmd_rbf,
    mmd_rbf_chance,
    paired_cosine,
    umap_2d,
)


def clouds(n: int = 30, m: int = 20, shift: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4)), rng.normal(size=(m, 4)) + shift


def test_the_centroid_distance_is_that_of_the_means():
    assert centroid_distance([[0.0, 0.0], [2.0, 0.0]], [[4.0, 4.0]]) == 5.0
    x, y = clouds()
    assert centroid_distance(x, y) == pytest.approx(math.dist(x.mean(0), y.mean(0)), abs=1e-14)


@pytest.mark.parametrize("bandwidth", [None, 0.3, 2.0])
def test_mmd_agrees_with_the_mean_kernels_of_scikit_learn(bandwidth):
    x, y = clouds()
    sigma = np.median(pdist(np.concatenate([x, y]))) if bandwidth is None else bandwidth
    gamma = 1 / (2 * sigma**2)
    oracle = rbf_kernel(x, gamma=gamma).mean() + rbf_kernel(y, gamma=gamma).mean() - 2 * rbf_kernel(x, y, gamma).mean()
    assert mmd_rbf(x, y, bandwidth) == pytest.approx(oracle, abs=1e-12)


def test_mmd_of_two_single_points_is_known():
    # The one distance is the bandwidth: k(x, y) = exp(-1/2), and 1 + 1 - 2 exp(-1/2).
    assert mmd_rbf([[0.0]], [[3.0]]) == pytest.approx(2 - 2 * math.exp(-0.5))


def test_mmd_of_equal_points_is_zero_and_a_median_of_zero_between_unequal_ones_is_refused():
    assert mmd_rbf(np.ones((4, 2)), np.ones((3, 2))) == 0
    with pytest.raises(ValueError, match="bandwidth="):
        mmd_rbf(np.zeros((9, 1)), np.ones((1, 1)))
    assert mmd_rbf(np.zeros((9, 1)), np.ones((1, 1)), bandwidth=1) == pytest.approx(2 - 2 * math.exp(-0.5))
    with pytest.raises(ValueError, match="median distance is 0"):
        mmd_rbf_chance(np.zeros((9, 1)), np.ones((1, 1)))
    with pytest.raises(ValueError, match="positive"):
        mmd_rbf(np.zeros((2, 1)), np.ones((2, 1)), bandwidth=0)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 5)])
def test_what_chance_leaves_is_the_mean_over_all_ways_to_part_the_points(n, m):
    x, y = clouds(n, m)
    both = np.concatenate([x, y])
    parted = [
        (both[list(first)], np.delete(both, list(first), axis=0)) for first in itertools.combinations(range(n + m), n)
    ]
    assert len(parted) == math.comb(n + m, n)
    assert mmd_rbf_chance(x, y) == pytest.approx(np.mean([mmd_rbf(*pair) for pair in parted]), rel=1e-12)
    squares = [centroid_distance(*pair) ** 2 for pair in parted]
    assert centroid_distance_chance(x, y) == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-12)


def test_paired_cosines_agree_with_scipy():
    x, y = clouds(m=30)
    assert np.allclose(paired_cosine(x, y), [1 - cosine(p, q) for p, q in zip(x, y, strict=True)], atol=1e-12)
    assert paired_cosine(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [0.0]
    with pytest.raises(ValueError, match="30 and 20"):
        paired_cosine(*clouds())


def test_domain_mixing_agrees_with_a_plain_loop():
    x, y = clouds(12, 9)
    points, domain, k = np.concatenate([x, y]), [0] * 12 + [1] * 9, 4
    shares = []
    for i in range(21):
        near = sorted((j for j in range(21) if j != i), key=lambda j: math.dist(points[i], points[j]))[:k]
        shares.append(sum(domain[j] != domain[i] for j in near) / k)
    assert domain_mixing(x, y, k) == pytest.approx(np.mean(shares))


def test_with_all_neighbours_the_mixing_is_the_share_of_the_other_domain():
    x, y = clouds(6, 4)
    assert domain_mixing(x, y, k=9) == pytest.approx(2 * 6 * 4 / (10 * 9))
    with pytest.raises(ValueError, match="between 1 and 9"):
        domain_mixing(x, y, k=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_with_a_gradient_give_what_their_arrays_give(dtype):
    x, y = (torch.from_numpy(p).to(dtype).requires_grad_() for p in clouds())
    arrays = [p.detach().double().numpy() for p in (x, y)]
    for measure in (centroid_distance, mmd_rbf, domain_mixing):
        assert measure(x, y) == measure(*arrays)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((0, 2)), np.ones((2, 3)), np.full((2, 2), np.nan)])
def test_points_that_are_no_set_of_finite_vectors_of_one_width_are_refused(bad):
    with pytest.raises(ValueError, match="points"):
        centroid_distance(np.ones((2, 2)), bad)


def test_umap_gives_the_same_bytes_for_the_same_seed_and_keeps_two_clouds_apart():
    # In a process of its own without numba's compilation, which takes longer than ten points do.
    code = """if True:
        import numpy as np
        from bncap.analysis import umap_2d
        rng = np.random.default_rng(0)
        points = np.concatenate([rng.normal(size=(5, 3)), rng.normal(size=(5, 3)) + 50])
        once, again, other = umap_2d(points, 1), umap_2d(points, 1), umap_2d(points, 2)
        assert once.shape == (10, 2) and once.dtype == np.float64
        assert once.tobytes() == again.tobytes() != other.tobytes()
        spread = np.linalg.norm(once - np.repeat([once[:5].mean(0), once[5:].mean(0)], 5, axis=0), axis=1).mean()
        print(np.linalg.norm(once[:5].mean(0) - once[5:].mean(0)) / spread)
    """
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) > 2


def test_umap_refuses_too_few_points():
    with pytest.raises(ValueError, match="at least 5"):
        umap_2d(np.ones((4, 2)), seed=0)
