"""The training loop (Sec. 4.5 and 5.1): one flat loop over epochs, batches and micro-batches."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bncap import artifacts, checkpoints, deadline, objective
from bncap.batches import Batch, Triplets
from bncap.corpus import read_corpus
from bncap.device import default_device
from bncap.errors import BncapError
from bncap.features import FeatureStore
from bncap.losses import total
from bncap.model import IGNORED, Captioner
from bncap.settings import Config

TERMS = ("ce", "pal", "infonce", "ot")
STEP_COLUMNS = ("step", "epoch", *TERMS, *(f"weighted_{t}" for t in TERMS), "total", "grad_norm", "learning_rate")
VALIDATION_COLUMNS = ("epoch", "step", "ce")
LAST, BEST = "last", "best.safetensors"
"""What a run goes on from: the state of training, and the weights of the best epoch so far."""


@dataclass(frozen=True)
class Validation:
    """Held-out captions: (N, S, C) features of their pictures and (N, T) labels."""

    features: Tensor
    labels: Tensor


def validation_set(model: Captioner, store: FeatureStore, corpus: Path, max_tokens: int) -> Validation:
    """The corpus's validation pairs as features and labels."""
    pairs = [pair for pair in read_corpus(corpus) if pair.split == "validation"]
    if not pairs:
        raise BncapError(f"{corpus.name}/corpus.csv has no validation pair: lower data.threshold or draw more images")
    rows = store.rows("validation", [pair.image for pair in pairs])
    return Validation(store.take("validation", rows), model.labels([pair.target for pair in pairs], max_tokens))


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision on CUDA: bfloat16 where the card has it, else float16; nothing on a CPU."""
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda and torch.cuda.get_device_capability()[0] >= 8 else torch.float16
    return torch.autocast(device.type, dtype if cuda else torch.bfloat16, enabled=cuda)


def train(
    model: Captioner, triplets: Triplets, validation: Validation, config: Config, seed: int, folder: Path
) -> dict[str, float]:
    """Train ``model`` in place and leave it with the weights of the epoch of lowest validation cross-entropy.

    ``steps.csv`` and ``validation.csv`` in ``folder`` grow as it runs; ``last/`` holds the state after the last whole
    epoch, or after the step at which the time was up, from which an interrupted run goes on to the same bytes.

    Returns:
        ``best_epoch`` and ``validation_ce`` of the weights that the model ends with.

    Raises :class:`bncap.errors.OutOfTime` when the minutes of the run are used up, its state being saved.
    """
    settings, device = config.train, default_device()
    model.to(device)
    if config.model.checkpointing:
        model.decoder.activation_checkpointing_enable({"use_reentrant": False})
    weights = objective.weights_of(config.loss)
    steps_per_epoch = math.ceil(len(triplets) / settings.batch)
    steps = steps_per_epoch * settings.epochs
    optimizer, scheduler = _optimisation(model, config, steps)
    half = device.type == "cuda" and autocast(device).fast_dtype == torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    torch.manual_seed(seed)
    best = folder / BEST
    record = checkpoints.load(folder / LAST, model, optimizer, scheduler, scaler)
    record = record or {"epoch": 0, "step": 0, "best_epoch": 0, "validation_ce": math.inf}
    _cut(folder / "steps.csv", STEP_COLUMNS, record["step"])
    _cut(folder / "validation.csv", VALIDATION_COLUMNS, record["epoch"])

    label = f"{folder.parent.name}/{folder.name}"
    bar = tqdm(total=steps, initial=record["step"], desc=label, unit="step", leave=False)

    for epoch in range(record["epoch"], settings.epochs):
        model.train()
        done = record["step"] - epoch * steps_per_epoch
        for batch, extra in _batches(triplets, config, seed, epoch, done):
            _unfreeze(model, record["step"], steps, settings.unfreeze)
            raw = _backward(model, batch.to(device), extra, config, weights, scaler)
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            rate = optimizer.param_groups[-1]["lr"]
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            record["step"] += 1
            _log_step(folder / "steps.csv", record["step"], epoch + 1, raw, weights, float(norm), rate)
            bar.update()
            if deadline.reached():
                checkpoints.save(folder / LAST, model, optimizer, scheduler, scaler, record)
                deadline.check(f"{label}: step {record['step']} of {steps}")
        ce = validation_ce(model, validation, settings.batch)
        _append(folder / "validation.csv", [epoch + 1, record["step"], f"{ce:.6f}"])
        if ce < record["validation_ce"]:
            record |= {"best_epoch": epoch + 1, "validation_ce": ce}
            with artifacts.atomic(best) as temporary:
                checkpoints.save_weights(temporary, model)
        record["epoch"] = epoch + 1
        checkpoints.save(folder / LAST, model, optimizer, scheduler, scaler, record)
    bar.close()
    checkpoints.put_weights(model, checkpoints.read_tensors(best))
    model.eval()
    return {"best_epoch": record["best_epoch"], "validation_ce": record["validation_ce"]}


def tidy(folder: Path) -> None:
    """Remove what only an unfinished run needs: at full size about four fifths of the folder."""
    shutil.rmtree(folder / LAST, ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)


def _optimisation(
    model: Captioner, config: Config, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """AdamW and One-Cycle (Sec. 4.5); the bridge, which starts from nothing, has a learning rate of its own."""
    settings = config.train
    bridge = [p for name, p in model.named_parameters() if not name.startswith("decoder.")]
    decoder = [p for name, p in model.named_parameters() if name.startswith("decoder.")]
    rates = [settings.bridge_learning_rate, settings.learning_rate]
    optimizer = torch.optim.AdamW(
        [{"params": bridge, "lr": rates[0]}, {"params": decoder, "lr": rates[1]}], weight_decay=settings.weight_decay
    )
    warmup = min(1.0, max(settings.warmup, 2 / (steps + 1)))  # OneCycleLR divides by zero on a shorter one
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps + 1, pct_start=warmup, cycle_momentum=False
    )
    return optimizer, scheduler


def _batches(
    triplets: Triplets, config: Config, seed: int, epoch: int, done: int
) -> Iterator[tuple[Batch, Batch | None]]:
    """Batches of one epoch but the first ``done``; for ``ce_on = "real+real"`` each with as many more real captions."""
    size = config.train.batch
    rows = islice(triplets.epoch(seed, epoch, size), done, None)
    if config.loss.ce_on != "real+real":
        yield from ((triplets.batch(r), None) for r in rows)
    else:
        others = islice(triplets.epoch(seed + 1_000_003, epoch, size), done, None)
        yield from ((triplets.batch(r), triplets.batch(o)) for r, o in zip(rows, others, strict=True))


def _backward(
    model: Captioner,
    batch: Batch,
    extra: Batch | None,
    config: Config,
    weights: dict[str, float],
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """Gradient of one batch; returns its raw terms.

    With ``train.accumulation`` the decoder sees a micro-batch at a time, and the gradient is still that of the whole
    batch: a micro-batch's cross-entropy counts by its share of the tokens, and the alignment terms, for which the
    masses are all that is needed of the decoder, are taken over the batch, so that InfoNCE keeps its negatives.
    """
    device, loss = batch.real.device, config.loss
    extra = extra.to(device) if extra is not None else None
    count = len(batch.labels)
    size = math.ceil(count / config.train.accumulation)
    if size == count:
        with autocast(device):
            found = objective.terms(model, batch, loss, extra)
        return _descend(found, 1.0, weights, scaler)
    raw = {"ce": 0.0}
    masses: list[list[Tensor]] = []
    whole = objective.tokens(batch, loss, extra)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        part, more = batch.part(rows), extra.part(rows) if extra is not None else None
        with autocast(device):
            ce, found = objective.captioning(model, part, loss, model.bridge(part.real), more)
        masses += [found] if found else []
        share = objective.tokens(part, loss, more) / whole
        # the masses' own graph is needed again below
        raw["ce"] += _descend({"ce": ce}, share, weights, scaler, retain_graph=loss.weight_gradient)["ce"]
    if masses:
        with autocast(device):
            joined = (torch.cat(parts) for parts in zip(*masses, strict=True))
            found = objective.alignment(model, batch, loss, model.bridge(batch.real), *joined)
        raw |= _descend(found, 1.0, weights, scaler)
    return raw


def _descend(
    found: dict[str, Tensor],
    share: float,
    weights: dict[str, float],
    scaler: torch.amp.GradScaler,
    retain_graph: bool = False,
) -> dict[str, float]:
    """Add the gradient of ``share`` of the weighted terms; returns the same share of the raw ones."""
    loss = total(found, weights)
    if not torch.isfinite(loss):
        broken = [name for name, value in found.items() if not torch.isfinite(value)]
        raise BncapError(
            f"the loss is not finite (terms {', '.join(broken) or 'none'}); lower train.learning_rate, or check "
            "the features; what was trained until the last epoch is kept in last/"
        )
    scaler.scale(loss * share).backward(retain_graph=retain_graph)
    return {name: float(value.detach()) * share for name, value in found.items()}


def _unfreeze(model: Captioner, step: int, steps: int, share: float) -> None:
    """From the top decoder layer to the whole decoder, in even stages over the first ``share`` of the steps."""
    stages = len(model.layers)
    model.unfreeze_top(1 + step * stages // math.ceil(share * steps) if step < share * steps else stages)


@torch.no_grad()
def validation_ce(model: Captioner, validation: Validation, batch: int) -> float:
    """Cross-entropy per real token of the held-out captions, in nats."""
    model.eval()
    device = model.bridge.projection.weight.device
    nats, tokens = 0.0, 0
    for start in range(0, len(validation.labels), batch):
        rows = slice(start, start + batch)
        labels = validation.labels[rows].to(device)
        with autocast(device):
            logits, _ = model(model.bridge(validation.features[rows].to(device)), labels)
        flat = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        nats, tokens = nats + float(flat), tokens + int(labels.ne(IGNORED).sum())
    return nats / tokens


def _log_step(
    path: Path, step: int, epoch: int, raw: dict[str, float], weights: dict[str, float], norm: float, rate: float
) -> None:
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
