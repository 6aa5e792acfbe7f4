"""The documents: their numbers are the published ones; their links, settings, functions and modules exist."""

import json
import pydoc
import re

import pytest

from bncap.commands.publish import DOCUMENTS, NUMBERS, PUBLISHED, marked
from bncap.config import get_config
from bncap.pipeline import paths

PAGES = (*DOCUMENTS, "bncap/README.md", "bncap/kaggle/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
TEXTS = {name: (paths.ROOT / name).read_text("utf-8") for name in PAGES if (paths.ROOT / name).is_file()}
MODULES = {path.stem for path in paths.PACKAGE.iterdir()}
FILE = re.compile(r"\.(py|csv|json|md|sh|txt|html|png|pdf)$")


def dotted_names() -> list[str]:
    """``section.field`` and ``module.function`` in backticks."""
    names = set(re.findall(r"`(?:bncap\.)?([a-z_]+(?:\.[A-Za-z_]\w*)+)", "\n".join(TEXTS.values())))
    first = {*MODULES, *get_config("mini").as_dict()}
    return sorted(name for name in names if name.partition(".")[0] in first and not FILE.search(name))


def test_their_numbers_are_the_published_ones():
    numbers = json.loads((PUBLISHED / NUMBERS).read_text("utf-8"))
    quoted = {name: number for text in TEXTS.values() for name, number in marked(text).items()}
    assert quoted == {name: numbers[name] for name in quoted} and {"bleu4", "reading/rho_by_count"} <= set(quoted)


@pytest.mark.parametrize(
    ("document", "link"),
    [
        (name, link)
        for name, text in TEXTS.items()
        for link in sorted(set(re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)))
    ],
)
def test_their_links_lead_somewhere(document, link):
    assert (paths.ROOT / document).parent.joinpath(link).exists()


@pytest.mark.parametrize("name", dotted_names())
def test_their_settings_and_functions_exist(name):
    section, _, field = name.partition(".")
    assert hasattr(getattr(get_config("mini"), section, None), field) or pydoc.locate(f"bncap.{name}")


def test_the_map_of_the_package_lists_every_module():
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", TEXTS["bncap/README.md"], re.MULTILINE)
    modules = [path.relative_to(paths.PACKAGE).as_posix() for path in paths.PACKAGE.rglob("*.py")]
    assert sorted(listed) == sorted(name for name in modules if not name.endswith("__init__.py"))
