"""The training loop (Sec. 4.5 and 5.1): one flat loop over epochs, batches and micro-batches."""

from __future__ import annotations

import csv
import math
import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from bncap import objective
from bncap.batches import Batch, Triplets
from bncap.chunked_cross_entropy import IGNORED, chunked_cross_entropy
from bncap.data.pairs import read_corpus
from bncap.decoders.captioner import CaptionModel, read_tensors
from bncap.device import autocast, default_device, gradient_scaler, keep_freed_memory
from bncap.encoders.features import FeatureStore
from bncap.errors import BncapError
from bncap.losses import total
from bncap.pipeline import artifacts, deadline
from bncap.settings import Config

TERMS = ("ce", "pal", "infonce", "ot")
STEP_COLUMNS = ("step", "epoch", *TERMS, *(f"weighted_{t}" for t in TERMS), "total", "grad_norm", "learning_rate")
VALIDATION_COLUMNS = ("epoch", "step", "ce")
LAST, BEST = "last.pt", "best.safetensors"
"""What a run goes on from: the state of training, and the weights of the best epoch so far."""


@dataclass(frozen=True)
class Validation:
    """Held-out captions: (N, S, C) features of their pictures and (N, T) labels."""

    features: Tensor
    labels: Tensor


def validation_set(model: CaptionModel, store: FeatureStore, corpus: Path, max_tokens: int) -> Validation:
    """The corpus's validation pairs as features and labels."""
    pairs = [pair for pair in read_corpus(corpus) if pair.split == "validation"]
    if not pairs:
        raise BncapError(f"{corpus.name}/corpus.csv has no validation pair: lower data.threshold or draw more images")
    rows = store.rows("validation", [pair.image for pair in pairs])
    return Validation(store.take("validation", rows), model.labels([pair.target for pair in pairs], max_tokens))


def train(
    model: CaptionModel, triplets: Triplets, validation: Validation, config: Config, seed: int, folder: Path
) -> dict[str, float]:
    """Train ``model`` in place and leave it with the weights of the epoch of lowest validation cross-entropy.

    ``steps.csv`` and ``validation.csv`` in ``folder`` grow as it runs; ``last.pt`` holds the state after the last whole
    epoch, or after the step at which the time was up, from which an interrupted run goes on to the same bytes.

    Returns:
        ``best_epoch`` and ``validation_ce`` of the weights that the model ends with.

    Raises :class:`bncap.errors.OutOfTime` when the minutes of the run are used up, its state being saved.
    """
    settings, device = config.train, default_device()
    keep_freed_memory()
    model.to(device)
    if config.model.checkpointing:
        model.decoder.activation_checkpointing_enable({"use_reentrant": False})
    steps_per_epoch = triplets.steps(settings.batch)
    steps = steps_per_epoch * settings.epochs
    optimizer, scheduler = build_optimizer(model, config, steps)
    scaler = gradient_scaler(device, settings.precision)
    torch.manual_seed(seed)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    record = load_state(folder / LAST, parts) or {"epoch": 0, "step": 0, "best_epoch": 0, "validation_ce": math.inf}
    _cut(folder / "steps.csv", STEP_COLUMNS, record["step"])
    _cut(folder / "validation.csv", VALIDATION_COLUMNS, record["epoch"])

    label = f"{folder.parent.name}/{folder.name}"
    bar = tqdm(total=steps, initial=record["step"], desc=label, unit="step", leave=False)
    unfrozen = None

    for epoch in range(record["epoch"], settings.epochs):
        model.train()
        done = record["step"] - epoch * steps_per_epoch
        for batch, extra in epoch_batches(triplets, config, seed, epoch, device, done):
            if (stage := layers_to_train(model, record["step"], steps, settings.unfreeze)) != unfrozen:
                model.unfreeze_top(stage)
                unfrozen = stage
            rate = optimizer.param_groups[-1]["lr"]
            raw, norm = training_step(model, batch, config, optimizer, scaler, extra)
            if math.isfinite(norm):  # else the scaler has left the step out
                scheduler.step()
            record["step"] += 1
            _log_step(folder / "steps.csv", record["step"], epoch + 1, raw, config, norm, rate)
            bar.update()
            if deadline.reached():
                save_state(folder / LAST, parts, record)
                deadline.check(f"{label}: step {record['step']} of {steps}")
        ce = validation_ce(model, validation, settings.batch, settings.precision)
        _append(folder / "validation.csv", [epoch + 1, record["step"], f"{ce:.6f}"])
        if ce < record["validation_ce"]:
            record |= {"best_epoch": epoch + 1, "validation_ce": ce}
            with artifacts.atomic(folder / BEST) as temporary:
                save_weights(temporary, model)
        record["epoch"] = epoch + 1
        save_state(folder / LAST, parts, record)
    bar.close()
    put_weights(model, read_tensors(folder / BEST))
    model.eval()
    return {"best_epoch": record["best_epoch"], "validation_ce": record["validation_ce"]}


def save_state(path: Path, parts: dict[str, Any], record: dict[str, Any]) -> None:
    """Write ``record``, the state of each of ``parts`` (model, optimiser, ...) and the random-number states."""
    rng = {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})
    state = {name: part.state_dict() for name, part in parts.items()}
    with artifacts.atomic(path) as temporary:
        torch.save({**state, "rng": rng, "record": record}, temporary)


def load_state(path: Path, parts: dict[str, Any]) -> dict[str, Any] | None:
    """Restore what :func:`save_state` wrote and return its record; None if there is no checkpoint.

    Raises :class:`BncapError` with the file's name if it is damaged or something else.
    """
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["rng"]["cpu"])
        if "cuda" in saved["rng"]:
            torch.cuda.set_rng_state(saved["rng"]["cuda"])
        return saved["record"]
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise BncapError(f"{path} is no whole state of a training ({error}); delete it and start again") from error


def save_weights(path: Path, model: nn.Module) -> None:
    """Write every parameter of ``model`` once, tied ones under their first name."""
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, path)


@torch.no_grad()
def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy what :func:`save_weights` wrote into the parameters of ``model``, wherever these are."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def remove_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs: at full size about four fifths of the folder."""
    for name in (LAST, BEST):
        (folder / name).unlink(missing_ok=True)


def build_optimizer(
    model: CaptionModel, config: Config, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """AdamW and One-Cycle (Sec. 4.5); the bridge, which starts from nothing, has a learning rate of its own."""
    settings = config.train
    bridge = [p for name, p in model.named_parameters() if not name.startswith("decoder.")]
    decoder = [p for name, p in model.named_parameters() if name.startswith("decoder.")]
    rates = [settings.bridge_learning_rate, settings.learning_rate]
    groups = [{"params": bridge, "lr": rates[0]}, {"params": decoder, "lr": rates[1]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    warmup = min(1.0, max(settings.warmup, 2 / (steps + 1)))  # OneCycleLR divides by zero on a shorter one
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps + 1, pct_start=warmup, cycle_momentum=False
    )
    return optimizer, scheduler


def epoch_batches(
    triplets: Triplets, config: Config, seed: int, epoch: int, device: torch.device, done: int
) -> Iterator[tuple[Batch, Batch | None]]:
    """Batches of one epoch but the first ``done``; for ``ce_on = "real+real"`` each with as many more real captions."""
    size = config.train.batch
    batches = triplets.batches(seed, epoch, size, device, skip=done)
    if config.loss.ce_on != "real+real":
        return ((batch, None) for batch in batches)
    return zip(batches, triplets.batches(seed + 1_000_003, epoch, size, device, skip=done), strict=True)


def layers_to_train(model: CaptionModel, step: int, steps: int, share: float) -> int:
    """Decoder layers to be trained: from the top one to all, in even stages over the first ``share`` of the steps."""
    stages = len(model.layers)
    return 1 + step * stages // math.ceil(share * steps) if step < share * steps else stages


def training_step(
    model: CaptionModel,
    batch: Batch,
    config: Config,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    extra: Batch | None = None,
) -> tuple[dict[str, float], float]:
    """Move the weights by one batch; returns its raw terms and the norm of the gradient before it was cut.

    The norm is not finite if the scaled gradient of half precision overflowed and the step was left out.
    """
    try:
        with nullcontext() if len(objective.term_weights(config.loss)) > 1 else model.untapped():
            raw = backpropagate(model, batch, config, scaler, extra)
        scaler.unscale_(optimizer)
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(trained, config.train.clip, foreach=True)
        scaler.step(optimizer)
        scaler.update()
    except torch.OutOfMemoryError as error:
        raise BncapError(
            f"the GPU's memory does not hold {config.train.batch} captions: set train.accumulation (now "
            f"{config.train.accumulation}) higher, or model.checkpointing=True; the last epoch is kept in {LAST}"
        ) from error
    optimizer.zero_grad(set_to_none=True)
    *numbers, norm = torch.stack([*raw.values(), norm]).tolist()  # the step's one wait for a GPU
    values = dict(zip(raw, numbers, strict=True))
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if not (broken or math.isfinite(norm) or scaler.is_enabled()):
        broken = ["gradient"]
    if broken:
        raise BncapError(
            f"the loss is not finite (terms {', '.join(broken)}); lower train.learning_rate, or check "
            f"the features; what was trained until the last epoch is kept in {LAST}"
        )
    return values, norm


def backpropagate(
    model: CaptionModel, batch: Batch, config: Config, scaler: torch.amp.GradScaler, extra: Batch | None = None
) -> dict[str, Tensor]:
    """Gradient of one batch; returns its raw terms.

    With ``train.accumulation`` the decoder sees a micro-batch at a time, and the gradient is still that of the whole
    batch: a micro-batch's cross-entropy counts by its share of the tokens, and the alignment terms, for which the
    masses are all that is needed of the decoder, are taken over the batch, so that InfoNCE keeps its negatives.
    """
    device, loss = batch.real.device, config.loss
    count = len(batch.labels)
    size = math.ceil(count / config.train.accumulation)
    if size == count:
        with autocast(device, config.train.precision):
            found = objective.compute_terms(model, batch, loss, extra)
        return _descend(found, 1.0, config, scaler)
    raw = {"ce": torch.zeros((), device=device)}
    masses: list[list[Tensor]] = []
    tokens = objective.count_tokens(batch, loss, extra).tolist()
    for start in range(0, count, size):
        rows = slice(start, start + size)
        part, more = batch.part(rows), extra.part(rows) if extra is not None else None
        with autocast(device, config.train.precision):
            ce, weights = objective.compute_cross_entropy(model, part, loss, model.bridge(part.real), more)
        masses += [weights] if weights else []
        share = sum(tokens[rows]) / sum(tokens)
        # the masses' own graph is needed again below
        raw["ce"] += _descend({"ce": ce}, share, config, scaler, retain_graph=loss.weight_gradient)["ce"]
    if masses:
        with autocast(device, config.train.precision):
            joined = (torch.cat(parts) for parts in zip(*masses, strict=True))
            found = objective.compute_alignment(model, batch, loss, model.bridge(batch.real), *joined)
        raw |= _descend(found, 1.0, config, scaler)
    return raw


def _descend(
    found: dict[str, Tensor], share: float, config: Config, scaler: torch.amp.GradScaler, retain_graph: bool = False
) -> dict[str, Tensor]:
    """Add the gradient of ``share`` of the weighted terms; returns the same share of the raw ones."""
    loss = total(found, objective.term_weights(config.loss))
    scaler.scale(loss * share).backward(retain_graph=retain_graph)
    return {name: value.detach() * share for name, value in found.items()}


@torch.no_grad()
def validation_ce(model: CaptionModel, validation: Validation, batch: int, precision: str = "auto") -> float:
    """Cross-entropy per real token of the held-out captions, in nats; ``precision`` as ``train.precision``."""
    model.eval()
    device = model.bridge.projection.weight.device
    lengths = validation.labels.ne(IGNORED).sum(1)
    nats = torch.zeros((), dtype=torch.float64, device=device)
    for rows in lengths.argsort(stable=True).split(batch):  # captions of like length, for little padding
        labels = validation.labels[rows, : int(lengths[rows].max())].to(device)
        with autocast(device, precision), model.untapped():
            states, _ = model.states(model.bridge(validation.features[rows].to(device)), labels)
            nats += chunked_cross_entropy(states.flatten(0, 1), *model.head, labels.flatten(), reduction="sum")
    return float(nats) / int(lengths.sum())


def _log_step(
    path: Path, step: int, epoch: int, raw: dict[str, float], config: Config, norm: float, rate: float
) -> None:
    weights = objective.term_weights(config.loss)
    weighted = {name: weights[name] * value for name, value in raw.items()}
    numbers = [raw.get(t) for t in TERMS] + [weighted.get(t) for t in TERMS] + [sum(weighted.values()), norm, rate]
    _append(path, [step, epoch, *("" if n is None else f"{n:.6g}" for n in numbers)])


def _append(path: Path, row: list) -> None:
    with path.open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerow(row)


def _cut(path: Path, columns: tuple[str, ...], rows: int) -> None:
    """Leave the header and ``rows`` rows: what an interrupted run wrote after its last checkpoint is trained again."""
    lines = path.read_text("utf-8").splitlines()[1 : rows + 1] if path.is_file() else []
    artifacts.write_text(path, "\n".join([",".join(columns), *lines]) + "\n")
