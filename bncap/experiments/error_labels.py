"""What pictures show and what captions say of it: what was there to be said, and what of that was said rightly.

Truth is in the annotations: kinds and boxes in COCO's form, and the colours that the mini world adds.  The kinds that a
caption names are found with the lexicon of :func:`bncap.experiments.evaluate.noun_lexicon`; colours and relations are read in the
mini world alone, by :mod:`bncap.mini.parse`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bncap.mini.grammar import OPPOSITE
from bncap.mini.parse import Said, read_bn
from bncap.pipeline import artifacts
from bncap.settings import Config
from bncap.text import iso

NOTHING = "(left out)"
"""Stands in a confusion for what is said where a kind is missing and no wrong one is named."""
NUMBERS = ((1, "1"), (2, "2"), (3, "3"), (6, "4 to 6"))
"""Groups by the number of objects: (at most, name)."""

Box = tuple[float, float, float, float]
Group = tuple[str, str]
"""A dimension, one of "object", "colour", "relation" and "number", and a value such as "ball" in it."""


@dataclass(frozen=True)
class Thing:
    """An object of a picture; ``box`` is (x, y, width, height) px, ``colour`` None where it is not known."""

    kind: str
    box: Box
    colour: str | None = None


def things_of(config: Config, split: str) -> dict[str, tuple[Thing, ...]] | None:
    """Picture -> its objects in the order of the annotations; None where they are not known."""
    from bncap.experiments import evaluate  # which brings the decoder along

    objects = evaluate.objects_of(config, split)
    if objects is None:
        return None
    known = _colours(evaluate.objects_files(config)[split]) if reads_sentences(config) else {}
    things = {}
    for image, found in objects.items():
        colours = known.get(image.rpartition("/")[2], [None] * len(found))
        things[image] = tuple(Thing(*thing, colour) for thing, colour in zip(found, colours, strict=True))
    return things


def reads_sentences(config: Config) -> bool:
    """Whether colours and relations of captions can be read: in the mini world, in Bengali."""
    return config.data.source == "mini" and iso(config.data.lang) == "bn"


def groups_of(things: Sequence[Thing], sentences: bool) -> set[Group]:
    """The groups that a picture belongs to; colours and relations only with ``sentences``."""
    groups = {("object", thing.kind) for thing in things}
    number = next((name for most, name in NUMBERS if len(things) <= most), "7 or more")
    groups.add(("number", number if things else "none"))
    if sentences:
        groups |= {("colour", thing.colour) for thing in things if thing.colour}
        groups |= {("relation", relation) for relation in relations_of(things).values()}
    return groups


def relations_of(things: Sequence[Thing]) -> dict[tuple[str, str], str]:
    """(kind, kind) -> where the first is from the second, by the centres of their boxes, in the annotations' order.

    Only of kinds that the picture has once.  The greater of the two distances decides: side by side, or one above the
    other (:attr:`bncap.mini.scene.Scene.relation`).
    """
    counts = Counter(thing.kind for thing in things)
    single = [thing for thing in things if counts[thing.kind] == 1]
    return {(a.kind, b.kind): _relation(a.box, b.box) for i, a in enumerate(single) for b in single[i + 1 :]}


def judge(things: Sequence[Thing], named: set[str], caption: str, sentences: bool) -> Iterator[tuple[Group, bool]]:
    """(group, right) for each thing that the caption of a picture could say or did say.

    - object: each kind in the picture; right if it is among the kinds ``named``;
    - number: the same, gathered by the number of objects;
    - colour: each object, of a kind that the picture has once, that the caption gives a colour; by the true colour;
    - relation: each pair of such objects that the caption relates; by the true relation, in the annotations' order.
    """
    number = next(group for group in groups_of(things, False) if group[0] == "number")
    for kind in sorted({thing.kind for thing in things}):
        yield ("object", kind), kind in named
        yield number, kind in named
    if sentences:
        said = read_bn(caption)
        yield from _judge_colours(things, said)
        yield from _judge_relations(things, said)


def confuse(there: set[str], said: set[str]) -> dict[tuple[str, str], float]:
    """(kind there, what is said of it) -> weight; the weights of a kind that is there sum to 1.

    A kind that is named is said of itself.  Missing and wrongly named kinds are shared evenly among each other, which
    in a picture of one object is exact; where fewer wrong kinds are named than are missing, the rest is
    :data:`NOTHING`.
    """
    missing, wrong = sorted(there - said), sorted(said - there)
    cells = {(kind, kind): 1.0 for kind in there & said}
    for kind in missing:
        instead = min(1.0, len(wrong) / len(missing))
        cells |= {(kind, other): instead / len(wrong) for other in wrong}
        if instead < 1:
            cells[kind, NOTHING] = 1 - instead
    return cells


def _judge_colours(things: Sequence[Thing], said: Said) -> Iterator[tuple[Group, bool]]:
    counts = Counter(thing.kind for thing in things)
    for thing in things:
        told = next((m.colour for m in said.objects if m.kind == thing.kind and m.colour), None)
        if counts[thing.kind] == 1 and thing.colour and told:
            yield ("colour", thing.colour), told == thing.colour


def _judge_relations(things: Sequence[Thing], said: Said) -> Iterator[tuple[Group, bool]]:
    truth = relations_of(things)
    for figure, relation, ground in said.relations:
        pair = said.objects[figure].kind, said.objects[ground].kind
        if pair in truth:
            yield ("relation", truth[pair]), relation == truth[pair]
        elif pair[::-1] in truth:
            yield ("relation", truth[pair[::-1]]), OPPOSITE[relation] == truth[pair[::-1]]


def _relation(a: Box, b: Box) -> str:
    dx, dy = (a[i] + a[i + 2] / 2 - b[i] - b[i + 2] / 2 for i in (0, 1))
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _colours(instances: Path) -> dict[str, list[str | None]]:
    """Picture's file name -> the colours of its objects, in the order of :func:`bncap.experiments.evaluate.objects_of`."""
    content = artifacts.read_json(instances)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    colours: dict[str, list[str | None]] = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        colours[names[annotation["image_id"]]].append(annotation.get("colour"))
    return colours
