"""The device, whether the installed torch can use it, and the precision of its matrix products."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence

import torch

from bncap.errors import BncapError

CU126 = "pip install torch==2.14.1 torchvision==0.29.2 --index-url https://download.pytorch.org/whl/cu126"
"""The last build of torch that has kernels for a P100."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``malloc.h``."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Values of ``train.precision`` beside ``"auto"``."""


def default_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, up to tensors of 32 MB; elsewhere nothing happens.

    Clearing returned pages again takes a tenth of a step at full size on a CPU.  glibc's own variables have precedence.
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
        if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)) is None:
            return True  # another maker's GPU, of which nothing is known here
        built, letter = (int(match[2]), int(match[3])), match[4]
        older = not letter and built < capability and (match[1] == "compute" or built[0] == capability[0])
        if older or built == capability:
            return True
    return False


def compute_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The type that ``precision`` means on ``device``.

    ``"auto"``: on CUDA bfloat16 where the card computes in it (Ampere and newer), else float16; float32 on a CPU, where
    few processors gain by less.  Raises :class:`BncapError` for float16 on a CPU, which has no use for a scaler.
    """
    if precision == "fp16" and device.type == "cpu":
        raise BncapError("train.precision=fp16 is for a GPU; on a CPU take fp32, or bf16 where it is fast")
    if precision != "auto":
        return DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """A context in which matrix products run in :func:`compute_dtype`; does nothing for float32."""
    dtype = compute_dtype(device, precision)
    whole = dtype == torch.float32
    return torch.autocast(device.type, torch.bfloat16 if whole else dtype, enabled=not whole)


def gradient_scaler(device: torch.device, precision: str = "auto") -> torch.amp.GradScaler:
    """Loss scaling, in effect for float16 alone, whose gradients would underflow."""
    return torch.amp.GradScaler(device.type, enabled=compute_dtype(device, precision) == torch.float16)
