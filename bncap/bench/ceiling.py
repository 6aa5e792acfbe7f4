"""What this machine can do at most, measured: matrix products, copies, exponentials.  Bounds are told against these."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from bncap.bench.harness import alternate

SIDE = 2048  # of the square matrices multiplied
COPIED = 1 << 26  # float32 numbers copied, far more than the caches hold
REPEATS = 5


def gemm_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a square matrix product in ``dtype``."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    return 2 * SIDE**3 / _seconds(lambda: a @ b, device)


def copy_bytes(device: str) -> float:
    """Bytes a second of a copy in memory, those read and those written."""
    a = torch.ones(COPIED, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _seconds(lambda: b.copy_(a), device)


def exponentials(device: str) -> float:
    """float32 exponentials a second on numbers that lie in the cache."""
    a = torch.linspace(-5, 0, 1 << 16, device=device)
    b = torch.empty_like(a)
    return len(a) / _seconds(lambda: torch.exp(a, out=b), device)


def _seconds(run: Callable[[], object], device: str) -> float:
    return statistics.median(alternate({"": run}, REPEATS, device)[""])
