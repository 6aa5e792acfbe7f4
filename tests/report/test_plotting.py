"""Figures: shaped letters, reproducible bytes, contact sheets."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.font_manager import findfont
from PIL import Image

from bncap.report import plotting


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plotting.use_style()
        yield


def draw(text="বাংলা", size=40):
    fig = plt.figure(figsize=(3, 1), layout="none")
    fig.text(0.05, 0.3, text, fontsize=size)
    return fig


def ink(path) -> np.ndarray:
    """Which columns of the picture have something dark in them."""
    return (np.asarray(Image.open(path).convert("L")) < 128).any(axis=0)


def test_bengali_is_drawn_in_its_own_font_without_missing_glyphs(recwarn):
    draw().canvas.draw()
    assert findfont("Hind Siliguri").endswith("HindSiliguri-Regular.ttf")
    assert not [w for w in recwarn if "missing from font" in str(w.message)]


def test_bengali_is_shaped(tmp_path):
    # ka + hasanta + ta is one letter, hardly wider than either; unshaped it would be as wide as the two.
    joined, two = (ink(plotting.save(draw(text), tmp_path / f"{i}")).sum() for i, text in enumerate(("ক্ত", "কত")))
    assert joined < 0.75 * two


def test_the_same_data_give_the_same_bytes_without_dates(tmp_path):
    first, second = (plotting.save(draw(), tmp_path / name, pdf=True) for name in ("a", "b"))
    for suffix in (".png", ".pdf"):
        content = first.with_suffix(suffix).read_bytes()
        assert content == second.with_suffix(suffix).read_bytes()
        assert b"CreationDate" not in content and b"Software" not in content


def test_saving_makes_folders_closes_the_figure_and_writes_no_pdf_unasked(tmp_path):
    fig = draw()
    path = plotting.save(fig, tmp_path / "new" / "folder" / "a.v2.png")
    assert path == tmp_path / "new" / "folder" / "a.v2.png" and path.is_file()
    assert list(path.parent.iterdir()) == [path] and not plt.fignum_exists(fig.number)


def test_a_contact_sheet_shows_every_picture_and_has_room_for_its_captions(tmp_path):
    pictures = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    path = plotting.image_grid(pictures, ["এক", "দুই", "three\nlines\nhere"], tmp_path / "sheet", columns=2)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    for channel in range(3):
        others = [c for c in range(3) if c != channel]
        shown = ((pixels[..., channel] > 250) & (pixels[..., others] < 5).all(-1)).sum()
        assert abs(shown - 300 * 300) < 0.03 * 300 * 300  # 1.5 inches at 200 dpi
    assert not (pixels[-3:] < 200).any(), "a caption runs over the lower edge"


def test_a_contact_sheet_with_a_caption_too_few_is_an_error():
    with pytest.raises(ValueError, match="2 images, 1 captions"):
        plotting.image_grid([Image.new("L", (2, 2))] * 2, ["one"], "unused")


def test_wrapping_counts_letters_not_combining_marks_and_breaks_no_word():
    assert plotting.wrap("aaa bbb ccc\nd", 7) == "aaa bbb\nccc\nd"
    assert plotting.wrap("কিকি খুখু গিগি", 5) == "কিকি খুখু\nগিগি"
    assert plotting.wrap("abcdefgh ij", 3) == "abcdefgh\nij"


def test_pictures_side_by_side_have_one_height():
    row = plotting.side_by_side(Image.new("RGB", (10, 20)), Image.new("L", (40, 40), 255), gap=3)
    assert row.size == (10 + 3 + 20, 20) and row.getpixel((25, 5)) == (255, 255, 255)


def test_a_line_of_a_script_without_blanks_ends_after_any_letter_with_its_marks():
    assert plotting.wrap("犬が走っている", 3).split("\n") == ["犬が走", "ってい", "る"]
    assert plotting.wrap("กี่ดี", 1) == "กี่\nดี"
    assert plotting.wrap("একটি বিড়ালবিড়ালবিড়াল", 4).split("\n") == ["একটি", "বিড়ালবিড়ালবিড়াল"]
