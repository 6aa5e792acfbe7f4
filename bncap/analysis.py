"""How far real and synthetic descriptors lie apart: centroid distance, MMD, paired cosine, mixing, UMAP (Fig. 3).

Points are (N, D) numpy arrays or tensors on any device; everything is computed in float64 on the CPU, over all points:
nothing is chunked or subsampled, so whoever has more points than memory for their pairs chooses which to pass.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from sklearn.neighbors import NearestNeighbors

Points = Any  # numpy array or torch tensor, (N, D)


def centroid_distance(x: Points, y: Points) -> float:
    """Euclidean distance of the means of two sets of points (Sec. 5.6). x: (N, D), y: (M, D), N and M at least 1."""
    x, y = _points(x, y)
    return float(np.linalg.norm(x.mean(0) - y.mean(0)))


def centroid_distance_chance(x: Points, y: Points) -> float:
    """Root mean square of :func:`centroid_distance` over all ways to part the pooled points into N and M.

    sqrt((1/N + 1/M) S^2) with S^2 the trace of the pooled points' covariance (divisor N + M - 1).
    x: (N, D), y: (M, D), N and M at least 1.
    """
    x, y = _points(x, y)
    both = np.concatenate([x, y])
    variance = ((both - both.mean(0)) ** 2).sum() / (len(both) - 1)
    return float(np.sqrt((1 / len(x) + 1 / len(y)) * variance))


def mmd_rbf(x: Points, y: Points, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy with a Gaussian kernel (Sec. 5.6; Gretton et al., JMLR 2012), V-statistic.

        MMD^2 = mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j),   k(p, q) = exp(-|p - q|^2 / (2 sigma^2))

    The means run over all pairs, i = j included (the biased estimate, never negative). sigma is `bandwidth`, by
    default the median distance over the pairs i < j of the pooled set; equal points give 0.
    x: (N, D), y: (M, D). Needs about 8 (N + M)^2 bytes.
    Raises ValueError for wrong shapes, a bandwidth <= 0, and a median of 0 between points that are not all equal.
    """
    x, y = _points(x, y)
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    xx, yy, xy = pdist(x), pdist(y), cdist(x, y).ravel()
    distances = np.concatenate([xx, yy, xy])
    if not distances.any():
        return 0.0
    sigma = float(np.median(distances)) if bandwidth is None else bandwidth
    if sigma == 0:
        raise ValueError(
            "more than half of the pairs of points are equal, so the median distance is 0: pass bandwidth="
        )

    def kernel(d: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(-((d / sigma) ** 2) / 2)

    n, m = len(x), len(y)
    within_x = (n + 2 * kernel(xx).sum()) / n**2  # the diagonal k(p, p) = 1, and each pair i < j twice
    within_y = (m + 2 * kernel(yy).sum()) / m**2
    return max(0.0, float(within_x + within_y - 2 * kernel(xy).mean()))  # rounding may leave -1e-17


def mmd_rbf_chance(x: Points, y: Points) -> float:
    """Mean of :func:`mmd_rbf` over all ways to part the pooled points into N and M.

    (1/N + 1/M) (1 - k), k the mean kernel over the pairs i < j of the pooled points: what the biased estimate shows
    where the two sets differ by chance alone.  x: (N, D), y: (M, D).  Raises ValueError as :func:`mmd_rbf` does.
    """
    x, y = _points(x, y)
    distances = pdist(np.concatenate([x, y]))
    if not distances.any():
        return 0.0
    sigma = float(np.median(distances))
    if sigma == 0:
        raise ValueError("more than half of the pairs of points are equal, so the median distance is 0")
    return float((1 / len(x) + 1 / len(y)) * (1 - np.exp(-((distances / sigma) ** 2) / 2).mean()))


def paired_cosine(x: Points, y: Points) -> NDArray[np.float64]:
    """Cosine of each x_i with its partner y_i. x, y: (N, D). Returns (N,) in [-1, 1]; 0 with a zero vector."""
    x, y = _points(x, y)
    if len(x) != len(y):
        raise ValueError(f"paired points must be equally many, got {len(x)} and {len(y)}")
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.clip((x * y).sum(1) / np.where(norms == 0, 1, norms), -1, 1)


def domain_mixing(x: Points, y: Points, k: int = 10) -> float:
    """Share of the k nearest neighbours (Euclidean, the point itself left out) that come from the other domain.

    The mean over all points of the pooled set. 0: the domains lie apart. Two samples of one distribution give
    2 N M / ((N + M) (N + M - 1)) on average, about 0.5 for N = M. x: (N, D), y: (M, D). Returns a share in [0, 1].
    Raises ValueError for wrong shapes and for k outside 1 .. N + M - 1.
    """
    x, y = _points(x, y)
    if not 1 <= k < len(x) + len(y):
        raise ValueError(f"k must be between 1 and {len(x) + len(y) - 1}, one less than there are points, got {k}")
    fitted = NearestNeighbors(n_neighbors=k).fit(np.concatenate([x, y]))
    neighbours = fitted.kneighbors(return_distance=False)  # (N+M, k)
    domain = np.repeat([0, 1], [len(x), len(y)])
    return float((domain[neighbours] != domain[:, None]).mean())


def umap_2d(points: Points, seed: int) -> NDArray[np.float64]:
    """Two-dimensional UMAP of points (N, D), N at least 5: umap-learn with its own settings, on one thread.

    The neighbourhood is 15, or N - 1 for fewer than 16 points. The same points and seed give the same (N, 2) bytes.
    Raises ValueError for wrong shapes or fewer than 5 points.
    """
    (points,) = _points(points)
    if len(points) < 5:
        raise ValueError(f"UMAP needs at least 5 points, got {len(points)}")
    import umap  # compiles with numba for seconds, and one function needs it

    k = min(15, len(points) - 1)
    # umap-learn would call a Python function for each pair of points, 13 million times for 3,600 of them; a tree is
    # exact too, and unlike sklearn's default gives a point the distance 0 from itself
    distances, neighbours = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(points).kneighbors(points)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precomputed_knn.*transform will be unavailable")
        reducer = umap.UMAP(
            n_components=2, n_neighbors=k, random_state=seed, n_jobs=1, precomputed_knn=(neighbours, distances)
        )
        return np.asarray(reducer.fit_transform(points), dtype=np.float64)


def _points(*sets: Points) -> list[NDArray[np.float64]]:
    """The sets as float64 arrays (N, D) of one width."""
    arrays = [np.asarray(s.detach().cpu().double() if hasattr(s, "detach") else s, dtype=np.float64) for s in sets]
    for array in arrays:
        if array.ndim != 2 or len(array) == 0 or array.shape[1] != arrays[0].shape[1]:
            raise ValueError(f"points must be non-empty (N, D) of one D, got {[a.shape for a in arrays]}")
        if not np.isfinite(array).all():
            raise ValueError("points hold NaN or infinite values")
    return arrays
