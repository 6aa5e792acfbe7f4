import pytest
import torch

from bncap.device import autocast, compute_dtype, gradient_scaler
from bncap.errors import BncapError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("capability", "dtype"), [((6, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_a_card_computes_in_bfloat16_where_it_has_it(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert compute_dtype(CUDA) == getattr(torch, dtype)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_a_cpu_computes_as_asked_and_in_float32_by_itself(precision):
    with autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert not gradient_scaler(CPU, precision).is_enabled()


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(BncapError, match="fp16 is for a GPU"):
        autocast(CPU, "fp16")


def test_only_float16_needs_a_scaler(monkeypatch):
    made = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: made.append(enabled))
    for precision in ("fp32", "fp16", "bf16"):
        gradient_scaler(CUDA, precision)
    assert made == [False, True, False]
