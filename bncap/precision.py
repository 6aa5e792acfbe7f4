"""Mixed precision: in which type the matrix products of a training or decoding step are computed."""

from __future__ import annotations

import torch

from bncap.errors import BncapError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Values of ``train.precision`` beside ``"auto"``."""


def compute_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The type that ``precision`` means on ``device``.

    ``"auto"``: on CUDA bfloat16 where the card computes in it (Ampere and newer), else float16; float32 on a CPU, where
    few processors gain by less.  Raises :class:`BncapError` for float16 on a CPU, which has no use for a scaler.
    """
    if precision != "auto":
        if precision == "fp16" and device.type == "cpu":
            raise BncapError("train.precision=fp16 is for a GPU; on a CPU take fp32, or bf16 where it is fast")
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
