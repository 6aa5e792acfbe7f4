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
    yield f"| the whole miniature | – | {mini['the whole miniature']:.0f} s, {again} | |"


def test_its_speeds_are_those_of_the_committed_benchmarks():
    assert [line for line in bench_rows() if line not in README] == []
