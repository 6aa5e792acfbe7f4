"""What the documents say: their numbers are the published ones, their links and settings exist."""

import json
import re

import pytest

from bncap.commands.publish import DOCUMENTS, NUMBERS, PUBLISHED, marked
from bncap.config import get_config
from bncap.pipeline import paths

TEXTS = {name: (paths.ROOT / name).read_text("utf-8") for name in DOCUMENTS if (paths.ROOT / name).is_file()}
SETTING = r"`((?:loss|data|components|synthesis|train|model|features)\.[a-z]\w*)"


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


@pytest.mark.parametrize("name", sorted({name for text in TEXTS.values() for name in re.findall(SETTING, text)}))
def test_their_settings_exist(name):
    section, field = name.split(".")
    assert hasattr(getattr(get_config("mini"), section), field)
