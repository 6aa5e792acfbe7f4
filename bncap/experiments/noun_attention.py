"""The nouns of captions, the patches that they look at, and what of that lies in their objects' boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bncap.decoders import decode
from bncap.experiments import boxes
from bncap.experiments.boxes import Array
from bncap.experiments.evaluate import Object
from bncap.metrics import Nouns
from bncap.model import Captioner
from bncap.settings import Config
from bncap.text import tokenise

MEASURES = ("share", "pointing")
AGAINST = ("chance", "centre", "mean_map", "other")
"""A uniform map; a round one in the middle; the mean of the nouns' own maps (same run, split and source), which knows
no picture; and the noun's map on the boxes of each other kind in the picture, mean over them, where there is one."""
COLUMNS = tuple(f"{m}{a}" for a in ("", *(f"_{name}" for name in AGAINST)) for m in MEASURES)
"""What :func:`measure` finds of a noun."""

Scene = Mapping[str, tuple[Array, Array]]
"""Kind -> the share of each patch in its boxes, and whether the patch's centre is, (S,) each; kinds in view only."""


@dataclass(frozen=True)
class Look:
    """A noun of a caption of ``image`` and its map (S,)."""

    image: str
    word: str
    kind: str
    map: np.ndarray


def scene(objects: Sequence[Object], view: boxes.View, side: int) -> Scene:
    """What is seen of a picture's objects, on the grid."""
    kinds: dict[str, list[boxes.Box]] = {}
    for kind, box in objects:
        kinds.setdefault(kind, []).append(box)
    found = {kind: boxes.region(kinds[kind], view, side) for kind in sorted(kinds)}
    return {kind: region for kind, region in found.items() if region[0].any()}


def find_looks(
    model: Captioner, nouns: Nouns, images: Sequence[str], features: Tensor, texts: Sequence[str], config: Config
) -> Iterator[Look]:
    """The nouns of ``texts``, captions of ``images`` with their (N, S, C) ``features``, by teacher forcing in batches.

    A noun's map is the mean over its words, each the mean over its pieces (:func:`bncap.decoders.decode.word_attentions`).
    """
    size = config.decode.batch
    for start in range(0, len(texts), size):
        batch = slice(start, start + size)
        found = decode.word_attentions(model, features[batch], texts[batch], config.model.max_tokens)
        for image, words in zip(images[batch], found, strict=True):
            # punctuation is part of a word of the model, and none of a word of the lexicon
            pieces = [(token, i) for i, word in enumerate(words) for token in tokenise(word.word, nouns.lang)]
            for first, end, kind in nouns.find([token for token, _ in pieces]):
                own = sorted({i for _, i in pieces[first:end]})
                phrase = " ".join(token for token, _ in pieces[first:end])
                yield Look(image, phrase, kind, np.mean([words[i].weights for i in own], axis=0, dtype=np.float64))


def measure(looks: Sequence[Look], scenes: Mapping[str, Scene]) -> Array:
    """(M, len(COLUMNS)): both measures of M nouns, then of each of :data:`AGAINST`; NaN without another kind."""
    maps = np.stack([look.map for look in looks])  # (M, S)
    own = _stacked([[scenes[look.image][look.kind]] for look in looks], maps.shape[1])
    others = _stacked(
        [[region for kind, region in scenes[look.image].items() if kind != look.kind] for look in looks], maps.shape[1]
    )
    uniform = np.full_like(maps, 1 / maps.shape[1])
    centre = np.broadcast_to(boxes.centre_map(round(maps.shape[1] ** 0.5)), maps.shape)
    mean_map = np.broadcast_to(maps.mean(axis=0), maps.shape)
    pairs = ((maps, own), (uniform, own), (centre, own), (mean_map, own), (maps, others))
    columns = [
        part
        for looked, (covered, centres) in pairs
        for part in (boxes.mass_inside(looked, covered), boxes.pointing(looked, centres))
    ]
    return np.stack(columns, axis=1)


def _stacked(regions: Sequence[Sequence[tuple[Array, Array]]], patches: int) -> tuple[Array, Array]:
    """The means of each noun's regions, (M, S) both; as both measures are linear in them, so is the mean of these."""
    nothing = np.full(patches, np.nan)
    covered, centres = (
        [np.mean([region[part] for region in own], axis=0) if own else nothing for own in regions] for part in (0, 1)
    )
    return np.stack(covered), np.stack(centres)
