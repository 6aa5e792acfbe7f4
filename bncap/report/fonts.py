"""Fonts for captions in any language of mBART-50.

Latin, Greek, Cyrillic, Georgian, Hebrew and most of Arabic are in DejaVu Sans, which comes with matplotlib; Bengali and
Devanagari are drawn in Hind Siliguri and Hind, which come as packages.  For other letters a font is looked for among
those installed: packages ``fontpkg-*`` and the system's.
"""

from __future__ import annotations

import pkgutil
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from matplotlib.font_manager import findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

FAMILIES = ("DejaVu Sans", "Hind Siliguri", "Hind")
"""Always there, in the order in which a letter is looked for."""

SCRIPTS = {"Cjk": "Chinese", "Hiragana": "Chinese", "Katakana": "Chinese", "Hangul": "Korean", "Myanmar": "Burmese"}
"""What the scripts of Unicode's names are called here; Japanese is to have its characters from one font."""
PACKAGES = {
    "Arabic": "fontpkg-noto-sans-arabic",  # Urdu has letters that DejaVu Sans lacks
    "Khmer": "fontpkg-noto-sans-khmer",
    "Tamil": "fontpkg-noto-sans-tamil",
    "Telugu": "fontpkg-noto-sans-telugu",
    "Thai": "fontpkg-noto-sans-thai",
}
"""Scripts that pip has a font for."""


def register() -> None:
    """Make the regular and bold cuts of the fonts that come as packages known to matplotlib."""
    known = fontManager.get_font_names()
    for module, family in (("fontpkg_hind_siliguri", "Hind Siliguri"), ("fontpkg_hind", "Hind")):
        if family not in known:
            for path in _files(module):
                if path.stem.endswith(("-Regular", "-Bold")):
                    fontManager.addfont(path)


def families(text: str) -> list[str]:
    """Font families that together have every letter of ``text``: :data:`FAMILIES` and, where need be, others.

    Where no installed font has a script's letters, one line on stderr, once a script, names the script and the remedy;
    they are drawn as boxes.
    """
    register()
    lacking: dict[str, set[str]] = {}
    for char in {char for char in text if char.isprintable()} - _bundled():
        lacking.setdefault(_script(char), set()).add(char)
    scripts = sorted(lacking)
    found = _find(tuple(frozenset(lacking[script]) for script in scripts)) if scripts else ()
    for script, family in zip(scripts, found, strict=True):
        if family is None:
            _warn(script)
    return list(dict.fromkeys((*FAMILIES, *(family for family in found if family))))


@cache
def _bundled() -> frozenset[str]:
    return frozenset().union(*(_characters(findfont(name, fallback_to_default=False)) for name in FAMILIES))


def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):  # a damaged file, or a font of bitmaps
        return frozenset()


def _script(char: str) -> str:
    """First word of the character's Unicode name, which for letters and marks is the script; "" for symbols."""
    if unicodedata.category(char)[0] not in "LM":
        return ""
    first = unicodedata.name(char, "unnamed").split()[0].capitalize()
    return SCRIPTS.get(first, first)


@cache
def _find(wanted: tuple[frozenset[str], ...]) -> tuple[str | None, ...]:
    """For each set of characters the family of an installed font that has them all; upright, and Noto's if it can be.

    The folders are read anew, as matplotlib's own list of fonts may be older than a font.
    """
    choices: list[list[str]] = [[] for _ in wanted]
    for path in _installed():
        known = _characters(path)
        for characters, paths in zip(wanted, choices, strict=True):
            if characters <= known:
                paths.append(path)
    return tuple(_add(min(paths, key=_preference)) if paths else None for paths in choices)


def _add(path: str) -> str:
    family = FT2Font(path).family_name
    if family not in fontManager.get_font_names():
        fontManager.addfont(path)
    return family


def _preference(path: str) -> tuple[bool, bool, bool, str]:
    font = FT2Font(path)
    regular = font.style_name in ("Regular", "Book", "Normal", "Roman")
    return not regular, "Noto" not in font.family_name, "Serif" in font.family_name, path


def _installed() -> Iterator[str]:
    modules = sorted(module.name for module in pkgutil.iter_modules() if module.name.startswith("fontpkg_"))
    yield from (str(path) for module in modules for path in _files(module))
    yield from sorted(findSystemFonts())


def _files(module: str) -> list[Path]:
    spec = find_spec(module)
    folders = spec.submodule_search_locations if spec else []
    return sorted(path for folder in folders for path in Path(folder, "files").glob("*.[to]tf"))


@cache
def _warn(script: str) -> None:
    system = "fonts-noto-cjk" if script in ("Chinese", "Korean") else "fonts-noto-core"
    pip = f" (or pip install {PACKAGES[script]})" if script in PACKAGES else ""
    what, font = (
        (f"{script} letters", f"a Noto font for {script}") if script else ("some symbols", "a Noto font for them")
    )
    print(
        f"warning: no installed font has {what}, the figures show boxes instead; install {font}, such as the system "
        f"package {system}{pip}",
        file=sys.stderr,
    )
