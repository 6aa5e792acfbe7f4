"""Style of the figures: shaped letters, reproducible bytes, contact sheets, intervals."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.font_manager import findfont
from PIL import Image

from bncap.report import style


@pytest.fixture(autouse=True)
def use_style():
    with plt.rc_context():
        style.use_style()
        yield
    plt.close("all")


def draw_text(text="বাংলা", size=40):
    fig = plt.figure(figsize=(3, 1), layout="none")
    fig.text(0.05, 0.3, text, fontsize=size)
    return fig


def count_inked_columns(path) -> int:
    return int((np.asarray(Image.open(path).convert("L")) < 128).any(axis=0).sum())


@pytest.mark.parametrize(
    ("family", "text", "joined", "apart"),
    [("Hind Siliguri", "ক্ষত্রিয় বিদ্যালয়ে", "ক্ত", "কত"), ("Hind", "क्षत्रिय विद्यालय", "क्ष", "कष")],
)
def test_letters_of_bengali_and_hindi_are_drawn_shaped_in_their_own_font(
    family, text, joined, apart, tmp_path, recwarn
):
    draw_text(text).canvas.draw()
    assert family.replace(" ", "") in findfont(family)
    assert not [w for w in recwarn if "missing from font" in str(w.message)]
    # two consonants that are joined are one letter, hardly wider than either
    widths = [count_inked_columns(style.save(draw_text(t), tmp_path / str(i))) for i, t in enumerate((joined, apart))]
    assert widths[0] < 0.75 * widths[1]


@pytest.mark.parametrize("text", ["كلب يجري", "کلب رץ ț ă ắ ə", "ძაღლი გარბის", "собака їєґ ңғүұқөһі", "œuvre ğ ı İ ß"])
def test_arabic_hebrew_georgian_cyrillic_and_latin_letters_need_no_other_font(text, recwarn):
    draw_text(text).canvas.draw()
    assert not [w for w in recwarn if "missing from font" in str(w.message)]


def test_letters_that_no_font_has_are_one_line_with_their_script_and_the_remedy(tmp_path, capsys):
    style.save(draw_text("க ᠮᠣᠩ", size=8), tmp_path / "a", pdf=True)
    [line] = capsys.readouterr().err.splitlines()
    assert "a.png" in line and "Mongolian" in line and "Noto Sans" in line


def test_the_same_data_give_the_same_bytes_without_dates(tmp_path):
    first, second = (style.save(draw_text(), tmp_path / name, pdf=True) for name in ("a", "b"))
    for suffix in (".png", ".pdf"):
        content = first.with_suffix(suffix).read_bytes()
        assert content == second.with_suffix(suffix).read_bytes()
        assert b"CreationDate" not in content and b"Software" not in content


def test_saving_makes_folders_closes_the_figure_and_writes_no_pdf_unasked(tmp_path):
    fig = draw_text()
    path = style.save(fig, tmp_path / "new" / "folder" / "a.v2.png")
    assert path == tmp_path / "new" / "folder" / "a.v2.png" and path.is_file()
    assert list(path.parent.iterdir()) == [path] and not plt.fignum_exists(fig.number)


def test_a_contact_sheet_shows_every_picture_and_has_room_for_its_captions(tmp_path):
    pictures = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    path = style.image_grid(pictures, ["এক", "দুই", "three\nlines\nhere"], tmp_path / "sheet", columns=2)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    shown = [((pixels[..., c] > 250) & (np.delete(pixels, c, axis=2) < 5).all(-1)).sum() for c in range(3)]
    assert max(shown) == pytest.approx(min(shown), rel=0.02) and min(shown) > 200 * 200
    assert not (pixels[-3:] < 200).any(), "a caption runs over the lower edge"


def test_a_contact_sheet_with_a_caption_too_few_is_an_error():
    with pytest.raises(ValueError, match="2 images, 1 captions"):
        style.image_grid([Image.new("L", (2, 2))] * 2, ["one"], "unused")


def test_pictures_side_by_side_have_one_height():
    row = style.side_by_side(Image.new("RGB", (10, 20)), Image.new("L", (40, 40), 255), gap=3)
    assert row.size == (10 + 3 + 20, 20) and row.getpixel((25, 5)) == (255, 255, 255)


def test_an_interval_is_filled_where_it_leaves_out_zero_and_an_unknown_value_is_left_out():
    _, axis = plt.subplots()
    rows = [("a", "x", 1.0, 0.5, 1.5, True), ("b", "x", 1.0, -0.5, 1.5, False), ("b", "y", None, None, None, False)]
    frame = pd.DataFrame(rows, columns=["line", "series", "value", "low", "high", "excludes_zero"])
    style.draw_intervals(axis, frame, ["a", "b"], {"x": "#112233", "y": "#445566"})
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots] == ["#112233", "white"]
    assert [dot.get_ydata()[0] for dot in dots] == pytest.approx([-0.2, 0.8])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b"]
