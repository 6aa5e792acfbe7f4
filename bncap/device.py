"""Which device there is, and whether the installed torch can use it."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CU126 = "pip install torch==2.14.1 torchvision==0.29.2 --index-url https://download.pytorch.org/whl/cu126"
"""The last build of torch that has kernels for a P100."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``malloc.h``."""


def default_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, up to tensors of 32 MB; elsewhere nothing happens.

    By itself it returns them to the system, which has to clear every page again: a tenth of a step at full size on a
    CPU.  Whoever has set glibc's own variables has decided already.
    """
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a build of torch for ``architectures`` (``torch.cuda.get_arch_list()``) runs on a GPU of ``capability``.

    Machine code runs on the same major version and any higher minor one; ``compute_`` entries are translated for any
    newer GPU; those with a letter, such as sm_90a, are for one GPU alone.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if match is None:
            return True  # another maker's GPU, on which nothing is known here
        built, letter = (int(match[2]), int(match[3])), match[4]
        older = not letter and built < capability and (match[1] == "compute" or built[0] == capability[0])
        if older or built == capability:
            return True
    return False
