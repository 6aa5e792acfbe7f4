"""The figures of notebook 12 show what the records hold, and can do without what is not known."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from bncap.config import MAIN
from bncap.report import plot_errors


def row(dimension, group, measure, value, split="ood"):
    bounds = {"value": value, "low": None if value is None else value - 2, "high": None if value is None else value + 2}
    same = {"variant": MAIN, "split": split, "dimension": dimension, "group": group, "measure": measure}
    return {**same, **bounds, "pictures": 9, "asked": 9}


KINDS = [row("object", kind, "named", value) for kind, value in (("ball", 40), ("cup", 80), ("hat", None))]
NUMBERS = [row("number", n, measure, 50) for n in ("1", "2") for measure in ("named", "B4")]
RELATIONS = [row("relation", name, "relation_right", 25) for name in ("left", "right")]
GUESSES = [{"variant": MAIN, "split": "ood", "measure": "relation_right", "value": 30.0}]
PAIRS = [
    {"filter": f"filter{t}", "threshold": t, "accepted": 90, "candidates": 100, "pairs": 40, "faulty_accepted": f,
     "faulty_pairs": f + 1}
    for t, f in ((0.0, 10.0), (0.7, 2.0))
]  # fmt: skip
DIFFERENCES = [
    {"variant": "filter0.7", "against": "filter0.0", "split": split, "metric": "B4", "difference": 1.0, "low": -1.0,
     "high": 2.0, "excludes_zero": False}
    for split in ("test", "ood")
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """All texts of the figures that are written."""
    texts, save = [], Figure.savefig

    def spying(figure, *args, **kwargs):
        texts.extend(text.get_text() for text in figure.findobj(Text) if text.get_visible())
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spying)
    return texts


def test_errors_are_drawn_by_group_from_the_best_to_the_worst(tmp_path, drawn):
    found = {"rows": KINDS + NUMBERS + RELATIONS, "guesses": GUESSES}
    path = plot_errors.groups_figure(found, tmp_path / "errors")
    assert Image.open(path).size[0] == pytest.approx(7.6 * 200, abs=2)
    kinds = [text for text in drawn if text in ("ball", "cup", "hat")]
    assert kinds == ["cup", "ball"] and "left" in drawn


def test_without_colours_and_relations_their_panels_are_left_out(tmp_path, drawn):
    plot_errors.groups_figure({"rows": KINDS + NUMBERS, "guesses": []}, tmp_path / "errors")
    assert not any("Relation" in text or "Colour" in text for text in drawn) and "out of domain" in drawn


def test_a_confusion_has_a_row_and_a_column_for_each_kind_and_one_for_what_is_left_out(tmp_path, drawn):
    records = [
        {"variant": MAIN, "split": split, "pictures": "all", "there": there, "said": said, "share": 50.0, "times": 4}
        for split in ("test", "ood")
        for there, said in (("ball", "cup"), ("ball", "ball"), ("cup", "(left out)"))
    ]
    assert plot_errors.confusion_figure(records, tmp_path / "confusion").is_file()
    assert drawn.count("(left out)") == 2 and "Out of domain" in drawn


def test_the_filter_is_drawn_with_and_without_known_faults(tmp_path, drawn):
    plot_errors.filter_figure({"pairs": PAIRS, "differences": DIFFERENCES}, tmp_path / "filter")
    assert "Faulty translations (%)" in drawn and "BLEU-4 less that of τ = 0" in drawn
    drawn.clear()
    unknown = [{**record, "faulty_accepted": None, "faulty_pairs": None} for record in PAIRS]
    plot_errors.filter_figure({"pairs": unknown, "differences": DIFFERENCES}, tmp_path / "filter")
    assert "Pairs accepted (%)" in drawn and "Faulty translations (%)" not in drawn


def test_lengths_are_drawn_for_each_variant_beside_the_references(tmp_path, drawn):
    records = [
        {"variant": name, "split": "ood", "lengths": [0.0, 50.0, 50.0], "degenerate": name == "pal", "distinct": 42.0,
         "vocabulary": 12.0}
        for name in ("references", "ce_real", "pal")
    ]  # fmt: skip
    first = plot_errors.lengths_figure(records, tmp_path / "lengths").read_bytes()
    assert {"CE (Real-only)", "PAL", "references"} <= set(drawn) and "42 % distinct\n12 words" in drawn
    assert plot_errors.lengths_figure(records, tmp_path / "lengths").read_bytes() == first
