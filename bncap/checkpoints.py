"""Training state in safetensors and JSON, enough to go on exactly where a run was stopped."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bncap.errors import BncapError
from bncap.pipeline.artifacts import read_json, write_json

STATE = "state.json"


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    record: dict[str, Any],
) -> None:
    """Write weights, optimiser moments, random-number states and ``record`` so that a stop at any moment leaves a
    complete checkpoint: the new one is written beside the old one and takes its place at the end."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_weights(fresh / "model.safetensors", model)
    tensors = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    save_file(tensors, fresh / "training.safetensors")
    write_json(
        fresh / STATE,
        {
            "record": record,
            "groups": optimizer.state_dict()["param_groups"],
            "scheduler": {
                k: v for k, v in scheduler.state_dict().items() if not k.startswith("_") and k != "optimizer"
            },
            "scaler": scaler.state_dict(),
        },
    )
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
) -> dict[str, Any] | None:
    """Restore what :func:`save` wrote and return its record; None if there is no checkpoint."""
    fresh = folder.with_name(f".{folder.name}.new")
    if (fresh / STATE).is_file():  # whole: stopped before it took the place of the old one, which may be half removed
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    if not folder.is_dir():
        return None
    saved = read_json(folder / STATE)
    if not isinstance(saved, dict) or not {"record", "groups", "scheduler", "scaler"} <= set(saved):
        raise BncapError(f"{folder / STATE} is no state of a training; delete {folder} and start again")
    weights, tensors = (read_tensors(folder / f"{name}.safetensors") for name in ("model", "training"))
    put_weights(model, weights)
    torch.set_rng_state(tensors.pop("rng.cpu"))
    if "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors.pop("rng.cuda"))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        _, index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})
    scheduler.load_state_dict(saved["scheduler"])
    scaler.load_state_dict(saved["scaler"])
    return saved["record"]


def save_weights(path: Path, model: nn.Module) -> None:
    """Write every parameter of ``model`` once, tied ones under their first name."""
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, path)


@torch.no_grad()
def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy what :func:`save_weights` wrote into the parameters of ``model``, wherever these are."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; :class:`BncapError` with its name if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BncapError(f"{path} cannot be read ({error}); delete {path.parent} and start again") from error


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the parameters' names and bytes."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
