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


def bench_rows():
    """The table of speeds, from the files of the benchmarks."""
    files = {
        p.name.split("-")[0]: json.loads(p.read_text("utf-8")) for p in paths.ROOT.glob("figures/bench/*-cpu.json")
    }
    times = {bench: {row["name"]: row.get("median") for row in record["rows"]} for bench, record in files.items()}
    peaks = {bench: {row["name"]: row["peak"] for row in record["rows"]} for bench, record in files.items()}
    step, ot, decode, features, mini = (times[name] for name in ("step", "ot", "decode", "features", "mini"))
    pot, jpegs, rows = "POT in a loop, all patches", "64 JPEGs read and decoded", "64 rows of features"
    data = next(row for row in files["data"]["rows"] if row["peak"])
    plain, ours = step["plain, fp32"], step["ours, fp32"]
    half = f"{step['ours, bf16']:.2f} s in bf16"
    yield f"| a training step, B = 8, 24 tokens | {plain:.1f} s | {ours:.2f} s, {half} | {plain / ours:.1f} × |"
    plain, ours = peaks["step"]["plain, fp32"], peaks["step"]["ours, fp32"]
    yield f"| its peak memory | {plain / 1e9:.1f} GB | {ours / 1e9:.1f} GB | {plain / ours:.1f} × |"
    plain, ours = ot[pot], ot["ours"]
    yield f"| the OT loss, B = 64 | POT in a loop: {1e3 * plain:.0f} ms | {1e3 * ours:.1f} ms | {plain / ours:.0f} × |"
    plain, ours = decode["plain, fp32"], decode["ours, fp32"]
    half = f"{decode['ours, bf16']:.1f} s in bf16"
    yield f"| 16 captions, beam 5, 24 tokens | {plain:.0f} s | {ours:.1f} s, {half} | {plain / ours:.1f} × |"
    yield (
        f"| 64 pictures of a batch | JPEGs: {1e3 * features[jpegs]:.0f} ms | features: {1e3 * features[rows]:.1f} ms "
        f"| {features[jpegs] / features[rows]:.0f} × |"
    )
    yield f"| 414,113 captions to shards and back | – | {data['median']:.0f} s, {data['peak'] / 1e9:.2f} GB | |"
    again = f"{mini['started again']:.1f} s when started again"
    yield f"| the whole miniature (three seeds) | – | {mini['the whole miniature']:.0f} s, {again} | |"


def test_its_speeds_are_those_of_the_committed_benchmarks():
    assert [line for line in bench_rows() if line not in README] == []
