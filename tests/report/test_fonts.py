"""Fonts: which letters the figures can show, where others are looked for, what is said where there is none."""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.font_manager import findfont, fontManager
from PIL import Image

from bncap.report import fonts, plotting

DOG = {
    "ar": "كلب يجري", "cs": "pes běží", "de": "Hündin läuft", "es": "año", "et": "koer jookseb", "fi": "juoksee",
    "fr": "œuvre ç", "he": "כלב רץ", "hi": "क्षत्रिय विद्यालय में एक कुत्ता दौड़ रहा है।", "lt": "šuo bėga",
    "lv": "suns skrien ķ", "mr": "कुत्रा धावतो, ळ", "ne": "कुकुर दौडिरहेको छ", "kk": "ит жүгіріп жүр ңғүұқөһі",
    "ka": "ძაღლი გარბის",
    "mk": "кучето трча ѓќ", "mn": "нохой гүйж байна", "pl": "pies biegnie ąćęłńóśźż", "ps": "سپی منډې وهي ځښړ",
    "ro": "câinele aleargă ș ț", "ru": "собака бежит", "sv": "åäö", "tr": "köpek koşuyor ğ ı İ",
    "uk": "собака біжить їєґ",
    "vi": "chó đang chạy ắ ằ ỡ ợ", "az": "it qaçır ə", "bn": "ক্ষত্রিয় বিদ্যালয়ে একটি কুকুর দৌড়ায়।", "fa": "سگ می‌دود",
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No font of the machine, nothing remembered, and matplotlib's settings as they were afterwards."""
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [])
    listed = list(fontManager.ttflist)
    forget()
    with plt.rc_context():
        plotting.use_style()
        yield
    fontManager.ttflist[:] = listed
    forget()


def forget():
    for remembered in (fonts._bundled, fonts._find, fonts._warn):
        remembered.cache_clear()


def write(text, path, size=40):
    fig = plt.figure(figsize=(4, 1), layout="none")
    fig.text(0.02, 0.3, text, fontsize=size)
    return plotting.save(fig, path)


def ink(path):
    return (np.asarray(Image.open(path).convert("L")) < 128).any(axis=0).sum()


@pytest.mark.parametrize("lang", sorted(DOG))
def test_the_fonts_that_are_always_there_have_every_letter(lang, capsys):
    assert fonts.families(DOG[lang]) == list(fonts.FAMILIES)
    assert capsys.readouterr().err == ""


def test_devanagari_is_drawn_in_hind_shaped_and_without_missing_glyphs(tmp_path, recwarn):
    # ka + virama + ssa is one letter, hardly wider than either; unshaped it would be as wide as the two
    joined, two = (ink(write(text, tmp_path / f"{i}")) for i, text in enumerate(("क्ष", "कष")))
    assert joined < 0.75 * two
    assert findfont("Hind").endswith("Hind-Regular.ttf")
    assert fonts.FAMILIES.index("Hind") > fonts.FAMILIES.index("Hind Siliguri")  # Bengali's digits and danda stay
    assert not recwarn.list


def test_a_script_is_looked_for_in_packages_and_the_systems_folders(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fonts, "FAMILIES", ("DejaVu Sans",))
    assert fonts.families("ক dog") == ["DejaVu Sans", "Hind Siliguri"]
    monkeypatch.setattr(fonts.pkgutil, "iter_modules", lambda: [])
    forget()
    hind = next(path for path in fonts._files("fontpkg_hind") if path.stem == "Hind-Regular")
    shutil.copy(hind, tmp_path / "system.ttf")
    (tmp_path / "damaged.ttf").write_bytes(hind.read_bytes()[:100])
    monkeypatch.setattr(
        fonts, "findSystemFonts", lambda: [str(tmp_path / name) for name in ("system.ttf", "damaged.ttf")]
    )
    assert fonts.families("क dog") == ["DejaVu Sans", "Hind"]
    assert capsys.readouterr().err == ""


def test_of_several_cuts_the_regular_one_is_taken(monkeypatch):
    taken = []
    monkeypatch.setattr(fonts, "FAMILIES", ("DejaVu Sans",))
    monkeypatch.setattr(fonts, "_add", lambda path: taken.append(Path(path).stem) or "family")
    fonts.families("কখ क")
    assert taken == ["HindSiliguri-Regular", "Hind-Regular"]


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("நாய்", "Tamil letters", "fonts-noto-core (or pip install fontpkg-noto-sans-tamil)"),
        ("犬が走る", "Chinese letters", "fonts-noto-cjk"),
        ("개가", "Korean letters", "fonts-noto-cjk"),
        ("ہے", "Arabic letters", "fonts-noto-core (or pip install fontpkg-noto-sans-arabic)"),
        ("ခွေး", "Burmese letters", "fonts-noto-core"),
        ("🐶", "some symbols", "fonts-noto-core"),
    ],
)
def test_a_script_without_a_font_is_one_line_with_the_remedy_once(text, what, remedy, tmp_path, capsys, recwarn):
    for name in "ab":
        write(text, tmp_path / name)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"no installed font has {what}" in lines[0] and lines[0].endswith(remedy)
    assert not recwarn.list


def test_a_figure_is_drawn_with_a_font_that_was_found(monkeypatch, tmp_path):
    expected = ink(write("ক্ত", tmp_path / "as_always"))
    monkeypatch.setattr(fonts, "FAMILIES", ("DejaVu Sans",))
    forget()
    plt.rcParams["font.family"] = ["DejaVu Sans"]
    assert ink(write("ক্ত", tmp_path / "found")) == expected


def test_what_is_not_printed_needs_no_font(capsys):
    assert fonts.families("a\u200c\u200d\n\t b") == list(fonts.FAMILIES)
    assert fonts.families("") == list(fonts.FAMILIES)
    assert capsys.readouterr().err == ""
