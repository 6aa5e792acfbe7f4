"""The report, on runs with known scores and made-up measurements."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser

import pytest
from fake_runs import make_rest, make_runs, patch_evidence, varied

from bncap.config import get_config
from bncap.errors import BncapError
from bncap.experiments import paper
from bncap.experiments.runs import TABLES
from bncap.pipeline import paths
from bncap.report import page, summaries, tables
from bncap.report.results import write_results


@pytest.fixture
def config(artifacts_dir, monkeypatch):
    patch_evidence(monkeypatch)
    return get_config("smoke", ["experiment.n_seeds=3"])


def make_all(config, score=varied, **options):
    make_runs(config, score, **options)
    make_rest(config)
    for name in TABLES:
        tables.write_table(tables.read_table(name, config, 42), name, config)
    return json.loads(write_results(config, 42).read_text("utf-8"))


def render(config) -> str:
    return page.write_report(config, 42).read_text("utf-8")


class Parsed(HTMLParser):
    """Text of the cells of tables, and everything that an element would fetch."""

    def __init__(self, text) -> None:
        super().__init__()
        self.cells, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "td":
            self.cells.append("")
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self.cells and self.lasttag == "td":
            self.cells[-1] += data


def collect_numbers(value) -> set[float]:
    """Every number anywhere in ``value``."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*map(collect_numbers, value))
    return {abs(float(value))} if isinstance(value, int | float) else set()


def test_every_decimal_number_in_the_reports_tables_is_found_in_the_results(config):
    results = make_all(config)
    known = {
        f"{scale * v:.{digits}f}" for v in collect_numbers(results) for digits in (1, 2, 3, 4) for scale in (1, 100)
    }
    cells = [re.sub(r"[λτρ]=[\d.]+|Sec\. [\d.]+", "", cell) for cell in Parsed(render(config)).cells]
    numbers = {number for cell in cells for number in re.findall(r"\d+\.\d+", cell)}
    assert len(numbers) > 100 and numbers - known <= {"0.3", "0.5", "0.7", "1.0", "1.3", "0.1"}  # settings of Table 4
    assert {f"{v:.2f}" for row in paper.TABLE3.values() for v in row.values()} <= numbers


def test_the_report_is_one_file_with_every_figure_and_the_font_inside(config):
    make_all(config)
    text = render(config)
    links = Parsed(text).links
    assert sum(link.startswith("data:image/png;base64,") for link in links) == len(page.FIGURES)
    assert all(link.startswith(("data:image/", "#")) for link in links)
    png = (paths.figures_dir("smoke") / "fig3_umap.png").read_bytes()
    assert base64.b64encode(png).decode() in text
    [font] = re.findall(r"font/ttf;base64,([A-Za-z0-9+/=]+)\)", text)
    assert base64.b64decode(font)[:4] == b"\x00\x01\x00\x00"
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert all(caption in html.unescape(text) for caption in summaries.CAPTIONS["figures"].values())
    assert 'name="viewport"' in text and text.count('class="scroll"') == text.count("<table")


def test_the_same_files_give_the_same_report_and_captions_cannot_break_it(config):
    make_all(config)
    first = render(config)
    assert render(config) == first and "একটি লাল &lt;বল&gt;।" in first


def test_the_report_names_profile_seeds_commit_and_images(config):
    make_all(config)
    run = page.describe_run(config, 42)
    assert run["Profile"] == "smoke" and run["Seeds"] == "42, 43, 44"
    assert run["Training"] == "40 synthetic images beside 37 real ones"
    assert run["Test images"] == "16 in domain, 16 out of domain" and run["Commit"]
    assert run["Runs"].startswith(f"{3 * 15},")
    text = render(config)
    assert all(html.escape(value, quote=False) in text for value in run.values())
    assert "<!--kind-->" in text and "figures/published/report.html" in text


def test_a_missing_figure_is_an_error_that_names_its_notebook(config):
    make_all(config)
    for name, notebook in page.FIGURES.items():
        figure = paths.figures_dir("smoke") / f"{name}.png"
        figure.rename(figure.with_suffix(".away"))
        with pytest.raises(BncapError, match=rf"{name}\.png .*{notebook}.*--profile smoke --only {notebook[:2]}"):
            render(config)
        figure.with_suffix(".away").rename(figure)
    render(config)


def test_missing_tables_and_results_of_other_seeds_are_errors_with_the_command(config):
    make_all(config)
    with pytest.raises(BncapError, match=r"seeds \[42, 43, 44\], not \[7, 8, 9\].*--only 09"):
        page.write_report(config, 7)
    (paths.figures_dir("smoke") / "table3_ablations.csv").unlink()
    with pytest.raises(BncapError, match=r"table3_ablations\.csv is missing.*06_ablations"):
        render(config)


def test_degenerate_captions_are_reported_above_all_results(config, monkeypatch):
    make_all(config)
    assert "Degenerate captions" not in render(config)
    patch_evidence(monkeypatch, degenerate=("pal",))
    make_all(config)
    text = re.sub(r"\s+", " ", render(config))
    warning = text.index("PAL (in domain); PAL (out of domain).")
    assert text.index("Degenerate captions") < warning < text.index('<section id="claims_table"')


def test_each_claim_stands_with_its_verdict_and_what_the_paper_prints(config):
    results = make_all(config)
    claims = summaries.claims(results["claims"]).cells
    assert list(claims["Verdict"]) == [claim["verdict"] for claim in results["claims"]]
    main = claims[claims["Claim"] == "The tri-loss beats cross-entropy alone"].iloc[0]
    assert main["Compared"] == "PAL + InfoNCE + OT against CE (Real-only)" and main["Paper"] == "+6.49"
    assert main["Difference"].startswith("+")
    text = re.sub(r"\s+", " ", html.unescape(render(config)))
    counts = claims["Verdict"].value_counts()
    assert f"{counts['holds']} hold, {counts['does not hold']} do not hold" in text


def test_the_headline_sets_the_full_objective_beside_cross_entropy(config):
    results = make_all(config)
    headline = summaries.headline(results).cells.set_index("Measure")
    pair = next(
        r for r in results["pairs"] if (r["variant"], r["split"], r["metric"]) == ("pal_infonce_ot", "ood", "B4")
    )
    row = headline.loc["BLEU-4 out of domain"]
    assert list(row.iloc[:2]) == [f"{pair['first']:.2f}", f"{pair['second']:.2f}"]
    assert row["Difference"].startswith(f"{pair['difference']:+.2f}") and row["Paper's difference"] == "+6.49"
    assert "noun attention in the object's box out of domain, %" in headline.index


def test_one_seed_gives_no_verdict_on_distances_and_no_nan(artifacts_dir, monkeypatch):
    patch_evidence(monkeypatch)
    config = get_config("smoke", ["experiment.n_seeds=1"])
    results = make_all(config)
    by_seeds = [c for c in results["claims"] if c["section"] == "alignment"]
    assert by_seeds and all(c["verdict"] == "cannot be told" and c["low"] is None for c in by_seeds)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", render(config))
    assert "there is 1 seed" in text and "nan" not in text


def test_without_the_extended_notebooks_the_report_leaves_their_sections_out(config, monkeypatch):
    patch_evidence(monkeypatch, extended=False)
    make_all(config)
    (paths.figures_dir("smoke") / "readings.png").unlink()
    text = render(config)
    assert 'id="readings"' not in text and 'id="errors"' not in text and "Measured on" not in text


def test_sections_of_the_extended_notebooks_name_date_and_commit_and_whether_it_is_another(config):
    make_all(config)
    expected = "Measured on 2026-01-02 at commit 0123abc, another commit than that of the runs above."
    assert render(config).count(expected) == 2
