"""The report and its sentences, on runs with known scores and on the committed miniature."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser

import pytest
from fake_runs import committed, make_rest, make_runs, patch_evidence, varied

from bncap.config import get_config
from bncap.errors import BncapError
from bncap.experiments import encoder_accuracy, paper
from bncap.experiments.scores import TABLES
from bncap.pipeline import paths
from bncap.report import findings, plot_tables, report_sections, tables
from bncap.report import page as report
from bncap.report import results as results_module
from bncap.report.results import write_results

WRITERS = (tables.table1, tables.table2, tables.table3, tables.table4)


@pytest.fixture
def config(artifacts_dir, monkeypatch):
    patch_evidence(monkeypatch)
    return get_config("smoke", ["experiment.n_seeds=3"])


def make_all(config, score=varied, **options):
    make_runs(config, score, **options)
    make_rest(config)
    for name, table in zip(TABLES, WRITERS, strict=True):
        tables.write_table(table(config, 42), name, config)
    return json.loads(write_results(config, 42).read_text("utf-8"))


class Cells(HTMLParser):
    """Text of the cells of score tables, and everything that an element would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.cells, self.links = False, [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "table":
            self.inside = given.get("class") == "scores"
        if tag == "td" and self.inside:
            self.cells.append("")
        self.links += [given[name] for name in ("src", "href") if name in given]

    def handle_data(self, data):
        if self.cells and self.inside and self.lasttag == "td":
            self.cells[-1] += data


def parse(page: str) -> Cells:
    parser = Cells()
    parser.feed(page)
    return parser


NOT_RESULTS = r"<h2 id=\"(?:run|signatures)\">.*?(?=<h2|</body>)"
"""What was run when, and how scores were computed: in manifests and signatures, not in ``results.json``."""
NAMES = (
    r"(?:Tables?|Figs?\.|Fig|Eqs?\.|Sec\.|Secs\.) \d+(?:[.\d]*)(?:(?:,| to| and) \d+(?:\.\d+)*)*",
    r"BLEU-4|BERT-F1|MSCOCO-1k|Flickr30k-1k|GPT-2|mBART-50|BLEU-n|F1|B[1-4]\b|commit [0-9a-f]+|\d{4}-\d\d-\d\d|MMD-RBF",
    r"[λτρ] ?= ?[\d.]+|K = \w+|\+? ?\d+ × \d+",
)
"""What has a digit and is no number."""


def numbers_shown(page: str) -> set[str]:
    """All numbers of the report's text, as it spells them."""
    text = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.S)
    text = re.sub(NOT_RESULTS, " ", text, flags=re.S)
    text = re.sub(r'<div class="bncap-attention".*?(?=<figure)', " ", text, flags=re.S)  # of samples.json
    text = html.unescape(re.sub(r"<[^>]+>", " ", text))
    for name in NAMES:
        text = re.sub(name, " ", text)
    return set(re.findall(r"(?<![\w.])[-−+]?\d+(?:\.\d+)?", text))


def numbers_known(value, found=None) -> set[float]:
    """Every number anywhere in ``value``."""
    found = set() if found is None else found
    if isinstance(value, dict):
        value = [*value.values(), *value]
    if isinstance(value, list):
        for part in value:
            numbers_known(part, found)
    elif isinstance(value, str):
        found |= {float(n) for n in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", value)}
    elif isinstance(value, int | float):
        found.add(float(value))
    return found


def spellings(known: set[float]) -> set[str]:
    """A number to 0 to 4 decimals, and as per cent to one."""
    plain = {f"{abs(v):.{digits}f}" for v in known for digits in range(5)}
    return plain | {f"{abs(100 * v):.{digits}f}" for v in known if abs(v) < 100 for digits in range(2)}


def unknown(page: str, results) -> list[str]:
    known = spellings(numbers_known(results))
    return sorted(n for n in numbers_shown(page) if n.lstrip("-−+") not in known)


ALLOWED = {"0", "95", "95%", "100", "1000", "2000"}
"""The ends of a scale, the level of the intervals, their samples, and the images in the paper's test sets."""


def test_every_number_of_the_committed_report_is_found_in_the_committed_results():
    folder = paths.ROOT / "figures/published"
    page = (folder / "report.html").read_text("utf-8")
    assert len(numbers_shown(page)) > 800
    assert [n for n in unknown(page, committed()) if n.lstrip("-−+") not in ALLOWED] == []


def test_a_number_that_is_not_among_the_results_is_seen():
    page = (paths.ROOT / "figures/published/report.html").read_text("utf-8")
    wrong = page.replace('<h2 id="limits">', '<p>It is 14.4142.</p><h2 id="limits">')
    assert "14.4142" in unknown(wrong, committed())


def test_every_number_in_the_reports_tables_is_found_in_the_results(config):
    results = make_all(config)
    page = report.write_report(config, 42).read_text("utf-8")
    assert [n for n in unknown(page, results) if n.lstrip("-−+") not in ALLOWED] == []
    numbers = {n for cell in parse(page).cells for n in re.findall(r"-?\d+\.\d{2,4}(?!\d)", cell)}
    spelled = {f"{round(v, 2):.2f}" for row in paper.TABLE3.values() for v in row.values()}
    assert len(numbers) > 100 and spelled <= numbers


def test_the_report_is_one_file_with_every_figure_and_the_font_inside(config):
    make_all(config)
    page = report.write_report(config, 42).read_text("utf-8")
    links = parse(page).links
    assert sum(link.startswith("data:image/png;base64,") for link in links) == len(report_sections.FIGURES)
    assert all(link.startswith(("data:image/", "#")) for link in links)
    png = (paths.figures_dir("smoke") / "fig3_umap.png").read_bytes()
    assert base64.b64encode(png).decode() in page
    [font] = re.findall(r"font/ttf;base64,([A-Za-z0-9+/=]+)\)", page)
    assert base64.b64decode(font)[:4] == b"\x00\x01\x00\x00" and len(font) > 200_000
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert all(sentence in html.unescape(page) for _, sentence in report_sections.FIGURES.values())
    assert 'name="viewport"' in page and page.count('class="scroll"') == page.count("<table")


def test_the_same_files_give_the_same_report_and_captions_cannot_break_it(config, monkeypatch):
    variety = [{**record, "most_frequent": "একটি লাল <বল>।"} for record in committed()["diversity"]]
    monkeypatch.setattr(results_module.diversity, "summarise", lambda config, first_seed: variety)
    make_all(config)
    path = report.write_report(config, 42)
    first = path.read_bytes()
    assert report.write_report(config, 42).read_bytes() == first
    assert "একটি লাল &lt;বল&gt;।" in first.decode("utf-8")


def test_what_was_run_says_profile_seeds_commit_and_images(config):
    make_all(config)
    run = dict(report.what_was_run(config, 42))
    assert run["Profile"] == "smoke" and run["Seeds"] == "42, 43, 44"
    assert run["Training"] == "40 synthetic images beside 37 real ones"
    assert run["Test images"] == "16 in domain, 16 out of domain" and run["Commit"]
    assert run["Runs"].startswith(f"{3 * 15},")


def test_a_missing_figure_is_an_error_that_names_its_notebook(config):
    make_all(config)
    for name, (notebook, _) in report_sections.FIGURES.items():
        figure = paths.figures_dir("smoke") / f"{name}.png"
        figure.rename(figure.with_suffix(".away"))
        with pytest.raises(BncapError, match=rf"{name}\.png .*{notebook}.*--profile smoke --only {notebook[:2]}"):
            report.write_report(config, 42)
        figure.with_suffix(".away").rename(figure)
    report.write_report(config, 42)


def test_missing_tables_and_results_of_other_seeds_are_errors_with_the_command(config):
    make_all(config)
    with pytest.raises(BncapError, match=r"seeds \[42, 43, 44\], not \[7, 8, 9\].*--only 09"):
        report.write_report(config, 7)
    (paths.figures_dir("smoke") / "table3_ablations.csv").unlink()
    with pytest.raises(BncapError, match=r"table3_ablations\.csv is missing.*06_ablations"):
        report.write_report(config, 42)


def test_a_caption_given_to_most_images_is_reported_above_all_results(config):
    results = make_all(config, share=87.5)
    warning = "Degenerate captions: PAL, out of domain: one and the same caption for up to 87.5 % of the images"
    assert f"{warning} (seeds 42, 43, 44)." in findings.warnings(results)
    page = report.write_report(config, 42).read_text("utf-8")
    assert page.index(warning) < page.index('id="claims"')
    assert findings.warnings(make_all(config, share=50.0)) == []


def test_the_report_lists_each_claim_under_its_verdict_with_what_the_paper_prints(config):
    results = make_all(config)
    page = html.unescape(report.write_report(config, 42).read_text("utf-8"))
    groups = report_sections.claimed(results)
    assert [group["kind"] for group in groups] == ["holds", "fails", "open"]
    assert sum(len(claim["lines"]) for group in groups for claim in group["told"]) == len(results["claims"])
    for group in groups:
        assert f"{group['title']}: {group['count']}" in page
        assert all(line in page for claim in group["told"] for line in claim["lines"])
    [main] = [claim for claim in groups[0]["told"] if claim["says"] == "The tri-loss beats cross-entropy alone"]
    assert main["compared"] == "PAL + InfoNCE + OT against CE (Real-only)"
    assert main["lines"][0].startswith("BLEU-4 out of domain: +") and main["lines"][0].endswith("; the paper: +6.49")


def test_one_seed_is_said_to_tell_nothing_of_other_seeds(artifacts_dir, monkeypatch):
    patch_evidence(monkeypatch)
    config = get_config("smoke", ["experiment.n_seeds=1"])
    results = make_all(config)
    by_seeds = [c for c in results["claims"] if c["section"] == "alignment"]
    assert by_seeds and all(c["verdict"] == "cannot be told" and c["low"] is None for c in by_seeds)
    page = report.write_report(config, 42).read_text("utf-8")
    assert "Here there is 1 seed" in page and "with one seed, which tells nothing of chance" in page
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)


@pytest.mark.parametrize(("gain", "said", "above"), [(2.0, "raise it", 5), (-2.0, "do not raise it", 0)])
def test_the_report_opens_with_whether_the_alignment_terms_raise_the_scores(config, gain, said, above):
    def score(variant, seed, split, metric):
        return 20.0 + (0 if variant.startswith("ce_real") else gain + 0.1 * (seed % 3))

    results = make_all(config, score)
    first, *_, last = findings.overview(results)
    assert f"say that the terms {said}" in first
    assert f"{above} have a higher mean" in first and "in the paper 5 have" in first
    counts = results["derived"]["verdicts"]
    assert f"{counts['holds']} come out as it says, {counts['does not hold']} the other" in last
    assert first in html.unescape(report.write_report(config, 42).read_text("utf-8"))


def test_without_the_extended_notebooks_the_report_leaves_their_parts_out(config, monkeypatch):
    monkeypatch.setattr(results_module.extended, "read", lambda profile, name: None)
    make_all(config)
    (paths.figures_dir("smoke") / "readings.png").unlink()
    page = report.write_report(config, 42).read_text("utf-8")
    assert "The paper read otherwise" not in page and "commit" not in page.partition('<h2 id="run">')[0]


def test_what_the_extended_notebooks_found_stands_with_its_date_and_commit(config):
    results = make_all(config)
    page = report.write_report(config, 42).read_text("utf-8")
    for name in ("readings", "error_analysis"):
        made = results[name]["made"]
        assert f"Measured on {made['date']} at commit {made['commit']}" in page


def test_the_report_says_how_well_each_captioners_encoder_sees(config):
    results = make_all(config)
    accuracy = encoder_accuracy.accuracy(config)
    assert accuracy["ViT + Bangla GPT-2"] == pytest.approx({"real": 45.0, "ood": 15.0, "synthetic": 45.0})
    assert accuracy == results["encoders"]
    assert "CNN + LSTM 67.5 % in domain and 22.5 % out of it" in encoder_accuracy.apart(accuracy)
    assert encoder_accuracy.apart(accuracy) in html.unescape(report.write_report(config, 42).read_text("utf-8"))


def test_ranking_agrees_with_the_paper_where_scores_do_and_is_reversed_where_they_fall(config):
    order = list(paper.TABLE3)

    def score(sign):
        return lambda v, seed, split, metric: 50.0 + sign * (order.index(v) if v in order else 0)

    assert "correlation of their means with the paper's is +1.00" in findings.ranking(make_all(config, score(1)))
    reversed_ = findings.ranking(make_all(config, score(-1)))
    assert "is -1.00" in reversed_ and "CE (Real-only) has the highest" in reversed_
    assert "tells them apart in nothing" in findings.ranking(make_all(config, lambda *_: 3.0))


def test_the_papers_own_contradictions_are_written_from_its_numbers():
    one, two = findings.contradictions()
    assert "BLEU-4 10.85 and 12.29" in one and "BERT-F1" not in one
    assert "lowest BLEU-4, METEOR, BERT-F1 of its Table 4" in two


def test_the_dot_plot_has_a_panel_for_each_known_metric_and_the_same_bytes_twice(config, tmp_path):
    make_runs(config)
    frame = tables.table3(config, 42)
    first, again = (plot_tables.dot_plot(frame, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == again
    narrow = plot_tables.dot_plot(frame.drop(columns="noun_precision"), tmp_path / "c.png").read_bytes()
    assert narrow != first and plot_tables.dot_plot(tables.table4(config, 42), tmp_path / "d.png").is_file()
