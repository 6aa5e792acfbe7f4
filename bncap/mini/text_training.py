"""The training loop of the miniature's language models: sentences are tokenised many at a time, and only places that
have a label meet the vocabulary."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from bncap.chunked_cross_entropy import IGNORED
from bncap.mini.corpus import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH, LEARNING_RATE = 32, 3e-3
STRETCH = 50
"""Batches whose sentences are tokenised together."""

Example = tuple[list[int], list[int]]
"""Ids that a model reads, and its labels; where a model does not align them itself, of the same length."""


@dataclass(frozen=True)
class Task:
    """A model and its training: ``encode`` makes examples of sentences, ``head`` reads ``states(inputs, labels)``."""

    model: PreTrainedModel
    states: Callable[[dict[str, Tensor], Tensor], Tensor]
    head: torch.nn.Module
    encode: Callable[[list[str], random.Random], list[Example]]


def _examples(task: Task, sentences: Sequence[str], steps: int, rng: random.Random) -> Iterator[list[Example]]:
    """``steps`` batches of sentences in epochs, each in a random order; a stretch of batches is encoded at a time.

    They are not sorted by length: batches of one length taught the masked language model less in the same steps.
    """
    size = min(BATCH, len(sentences))
    order: list[str] = []
    for first in range(0, steps, STRETCH):
        batches = min(STRETCH, steps - first)
        while len(order) < batches * size:
            order += rng.sample(sentences, len(sentences))
        stretch, order = order[: batches * size], order[batches * size :]
        examples = task.encode(stretch, rng)
        yield from (examples[start : start + size] for start in range(0, len(examples), size))


def _collate(examples: list[Example], pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """The model's inputs, padded with ``pad``, and labels padded with :data:`IGNORED`: int64, (B, S) and (B, T)."""
    inputs, labels = ([torch.tensor(ids) for ids in column] for column in zip(*examples, strict=True))
    ids = pad_sequence(inputs, batch_first=True, padding_value=pad)
    real = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in inputs])[:, None]
    return (
        {"input_ids": ids, "attention_mask": real.long()},
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )


def _predict(task: Task, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of the places that have a label, and those labels (N,): nothing else meets the vocabulary."""
    inputs, labels = _collate(examples, task.model.config.pad_token_id)
    real = labels != IGNORED
    return task.head(task.states(inputs, labels)[real]), labels[real]


def fit(task: Task, out: Path, texts: Texts, seed: int, steps: int) -> dict[str, float]:
    """Train on the captions, save in ``out``, and measure loss and accuracy on those held out."""
    rng = random.Random(f"{seed}|batches")
    parameters = list(task.model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    total = max(steps, 2)
    warm_up = max(0.1, 1.5 / total)  # of a single step, that of 10 steps is divided by nought
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total, pct_start=warm_up)
    # Without dropout, which a model this small and this short of steps does not need; its configuration keeps the rate.
    task.model.eval()
    for examples in tqdm(_examples(task, texts.train, steps, rng), total=steps, desc=out.name):
        loss = F.cross_entropy(*_predict(task, examples))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    task.model.save_pretrained(out)
    with torch.no_grad():
        logits, labels = _predict(task, task.encode(list(texts.held_out), rng))
    accuracy = (logits.argmax(-1) == labels).float().mean()
    return {"loss": F.cross_entropy(logits, labels).item(), "accuracy": accuracy.item()}
