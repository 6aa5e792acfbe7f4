"""What the README claims is what the committed miniature measured."""

import json
import re

import pytest

from bncap import paths

README = (paths.ROOT / "README.md").read_text("utf-8")


def test_its_numbers_are_those_of_the_committed_results():
    names, paragraph = re.search(r"<!-- results: (.+?) -->\n(.+?)\n\n", README, re.S).groups()
    saved = json.loads((paths.ROOT / "figures/mini/results.json").read_text("utf-8"))
    means = {(s["variant"], s["split"], s["metric"]): s["mean"] for s in saved["summary"]}
    expected = [f"{means[tuple(name.split('/'))]:.1f}" for name in names.split()]
    assert re.findall(r"\d+\.\d", paragraph) == expected


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?:notebooks|figures)/[^)]+)\)", README))))
def test_its_links_lead_somewhere(path):
    assert (paths.ROOT / path).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:loss|data|components|synthesis|train)\.\w+)", README))))
def test_its_settings_exist(name):
    from bncap.config import get_config

    section, field = name.split(".")
    assert hasattr(getattr(get_config("mini"), section), field)
