"""What the README claims is what the committed miniature measured."""

import json
import re

import pytest

from bncap.config import MAIN
from bncap.pipeline import paths
from bncap.report.findings import interval

README = (paths.ROOT / "README.md").read_text("utf-8")


RESULTS = json.loads((paths.ROOT / "figures/mini/results.json").read_text("utf-8"))


def test_its_first_numbers_are_those_of_the_committed_results():
    names, paragraph = re.search(r"<!-- results: (.+?) -->\n(.+?)\n\n", README, re.S).groups()
    first, second, third = (name.split("/") for name in names.split())
    keys = ("variant", "against", "split", "metric")
    [score] = [r for r in RESULTS[first[0]] if [r[key] for key in keys] == first[1:]]
    keys = ("variant", "against", "split", "measure", "source")
    looks = [r for r in RESULTS[second[0]]["differences"] if [r[key] for key in keys] == [*second[1:], "generated"]]
    keys = ("variant", "against", "set", "metric")
    [gap] = [r for r in RESULTS[third[0]]["differences"] if [r[key] for key in keys] == third[1:]]
    expected = [interval(score), interval(looks[0], 1), interval(gap)]
    assert re.findall(r"[-+]\d+\.\d+ \[[^\]]+\]", " ".join(paragraph.split())) == expected


def test_its_page_of_readings_has_what_each_alternative_changes():
    found = RESULTS["readings"]["found"]
    table = README[README.index("## How the paper is read") : README.index("## Step through it")]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    shown = 0
    for reading in (r for r in found["readings"] if r["trained"] and r["against"][0] == MAIN):
        same = {"variant": reading["variant"], "against": MAIN, "split": "ood", "metric": "B4"}
        [record] = [r for r in found["scores"] if same.items() <= r.items()]
        [row] = [row for row in rows if f"`{reading['settings'][-1]}`" in row]
        assert row.endswith(f"| {interval(record)} |")
        shown += 1
    numbers = [row for row in rows if re.search(r"\[[-+]\d", row)]
    assert shown == len(numbers) == 11


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?:notebooks|figures)/[^)]+)\)", README))))
def test_its_links_lead_somewhere(path):
    assert (paths.ROOT / path).is_file()


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:loss|data|components|synthesis|train|model|features)\.[a-z]\w*)", README)))
)
def test_its_settings_exist(name):
    from bncap.config import get_config

    section, field = name.split(".")
    assert hasattr(getattr(get_config("mini"), section), field)
