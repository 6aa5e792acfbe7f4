"""What :func:`bncap.experiments.grounding.summarise` found, as sentences and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bncap.config import BASE, MAIN
from bncap.experiments import paper
from bncap.experiments.noun_attention import AGAINST
from bncap.experiments.paper import SPLITS
from bncap.experiments.records import Record, one, selected
from bncap.report import layout

VERDICTS = {
    "more": ("its words look at their objects more", "holds"),
    "less": ("its words look at their objects less", "does not hold"),
    "neither": ("no difference can be told", "cannot be told"),
}
"""Side of 0 on which an interval lies -> what it says, and what becomes of the claim."""
COMPARED = {"share": ("chance", "mean_map", "other"), "pointing": ("chance", "mean_map")}
"""What the table sets beside each measure; the CSV has everything."""
HEADINGS = {
    "share": "Mass in the box", "pointing": "Pointing game", "chance": "chance", "mean_map": "mean map",
    "other": "other objects",
}  # fmt: skip


def span(record: Record, name: str = "value", sign: str = "") -> str:
    """``58.2 [56.1, 60.2]``; a dash where it is not known."""
    if record[name] is None:
        return "–"
    value, low, high = (f"{record[key]:{sign}.1f}" for key in (name, "low", "high"))
    return f"{value} [{low}, {high}]"


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Where the words look, and what became of the claim that alignment grounds them better, from the numbers alone."""
    rows, differences = found["rows"], found["differences"]
    lines = notes(found)
    for split in dict.fromkeys(row["split"] for row in rows):
        lines += _places(rows, split)
    for variant in dict.fromkeys(row["variant"] for row in rows if row["variant"] != BASE):
        lines += _against_base([d for d in differences if d["variant"] == variant and d["against"] == BASE], variant)
    if rows:
        lines.append(
            "A box also holds background, a patch's descriptor has also seen what is around it, and attention is not "
            "all that a word is made from: these numbers say where the weights lie, not why a word was chosen."
        )
    return lines


def _without(found: Mapping[str, Any]) -> str:
    names = " and ".join(SPLITS[split] for split in found["without_boxes"])
    return f"The pictures {names} have no annotated boxes, or there are no words for their kinds: they are"


def _places(rows: Sequence[Record], split: str) -> list[str]:
    place = {"split": split, "source": "generated"}
    shares = {row["variant"]: row for row in rows if selected(row, **place, measure="share")}
    beside = {name: one(rows, **place, variant=BASE, measure=f"share_{name}")["value"] for name in AGAINST}
    if None in (*(row["value"] for row in shares.values()), *beside.values()):
        return [f"Too few things of the pictures {SPLITS[split]} are named to tell where the words look."]
    listed = "; ".join(f"{paper.label(variant)} {span(row)} %" for variant, row in shares.items())
    base = paper.label(BASE)
    return [
        f"Of the nouns that {base} names of the pictures {SPLITS[split]}, {shares[BASE]['counted']:.1f} % have their "
        f"object in the picture. While such a noun is written, this much of the attention lies in its object's box: "
        f"{listed}. Of {base}'s nouns the box is {beside['chance']:.1f} % of the picture; a map that looks at the "
        f"middle would have {beside['centre']:.1f} % in it, the nouns' mean map has {beside['mean_map']:.1f} %; and "
        f"another object's box in the picture holds {beside['other']:.1f} % of the noun's attention."
    ]


def _against_base(differences: Sequence[Record], variant: str) -> list[str]:
    """The verdict, split by split, is that of the mass in the box in generated captions; the others are counted."""
    known = [d for d in differences if d["difference"] is not None]
    chief = [d for d in known if d["measure"] == "share" and d["source"] == "generated"]
    if not chief:
        return []
    listed = "; ".join(f"{SPLITS[d['split']]} {span(d, 'difference', '+')}, {VERDICTS[_side(d)][0]}" for d in chief)
    sides = {"more": 0, "less": 0, "neither": 0}
    for difference in known:
        sides[_side(difference)] += 1
    line = (
        f"{paper.label(variant)} less {paper.label(BASE)}, mass in the box in the model's own captions, points: "
        f"{listed}. Of the {len(known)} comparisons (test sets, its own and reference captions, both "
        f"measures) {sides['more']} have an interval above 0 and {sides['less']} one below."
    )
    if variant == MAIN:
        claim = " and ".join(f"{VERDICTS[_side(d)][1]} {SPLITS[d['split']]}" for d in chief)
        line += f" The claim that alignment grounds the words better {claim}."
    return [line]


def _side(difference: Record) -> str:
    if not difference["excludes_zero"]:
        return "neither"
    return "more" if difference["difference"] > 0 else "less"


CAPTION = (
    "Where the words look while they are written. Per cent, mean over nouns and then seeds, with 95 % bootstrap "
    "intervals over images and seeds; *: the difference from CE (Real-only) leaves out 0. Nouns: those of all seeds "
    "whose object has a box that the encoder sees, of all that are named. Beside each measure, what it would be for a "
    "uniform map (chance) and for the mean map of the nouns, and what the noun's map has in the boxes of the other "
    "kinds in the picture."
)


def table(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, of every split, source and variant."""
    header = ["Images", "Captions", "Method", "Nouns"]
    for measure, beside in COMPARED.items():
        header += [HEADINGS[measure], *(HEADINGS[name] for name in beside), "less CE"]
    rows = []
    places = dict.fromkeys((row["split"], row["source"], row["variant"]) for row in found["rows"])
    for split, source, variant in places:
        place = {"split": split, "source": source, "variant": variant}
        size = one(found["rows"], **place, measure="share")
        cells = [SPLITS[split], source, paper.label(variant), f"{size['words']} of {size['named']}"]
        for measure, beside in COMPARED.items():
            cells.append(span(one(found["rows"], **place, measure=measure)))
            values = (one(found["rows"], **place, measure=f"{measure}_{name}")["value"] for name in beside)
            cells += ["–" if value is None else f"{value:.1f}" for value in values]
            difference = one(found["differences"], **place, measure=measure, against=BASE)
            mark = " *" if difference and difference["excludes_zero"] else ""
            cells.append(span(difference, "difference", "+") + mark if difference else "")
        rows.append(tuple(cells))
    return tuple(header), rows


def notes(found: Mapping[str, Any]) -> list[str]:
    """What is left out."""
    return [f"{_without(found)} left out."] if found["without_boxes"] else []


def markdown(found: Mapping[str, Any]) -> str:
    """The table for GitHub."""
    header, rows = table(found)
    return layout.markdown_table(CAPTION, header, rows, 3, notes(found))
