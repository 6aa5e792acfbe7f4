"""Which device there is, and whether the installed torch can use it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CU126 = "pip install torch==2.14.1 torchvision==0.29.2 --index-url https://download.pytorch.org/whl/cu126"
"""The last build of torch that has kernels for a P100."""


def default_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
