"""The report and its sentences, on runs with known scores."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser

import pytest
from fake_runs import make_rest, make_runs, varied

from bncap import findings, paper, paths, plot_tables, report, tables
from bncap.config import get_config
from bncap.errors import BncapError
from bncap.findings import Claim, difference, judge

MAIN_AGAINST_CE = Claim("pal_infonce_ot", "ce_real")
WRITERS = (tables.table1, tables.table2, tables.table3, tables.table4)


@pytest.fixture
def config(artifacts_dir):
    return get_config("smoke", ["experiment.n_seeds=3"])


def make_all(config, score=varied, **options):
    make_runs(config, score, **options)
    make_rest(config)
    for name, table in zip(tables.TABLES, WRITERS, strict=True):
        tables.write_table(table(config, 42), name, config)
    return json.loads(tables.write_results(config, 42).read_text("utf-8"))


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


def test_every_number_in_the_reports_tables_is_found_in_the_results(config):
    results = make_all(config)
    cells = parse(report.write_report(config, 42).read_text("utf-8")).cells
    numbers = {n for cell in cells for n in re.findall(r"-?\d+\.\d{2,4}(?!\d)", cell)}
    summary = results["summary"]
    known = {v for s in summary for v in (s["mean"], s["std"], *s["paper"].values())}
    known |= {s[moment] for s in results["alignment_summary"] for moment in ("before", "after")}
    shown = {f"{v:.2f}" for v in known} | {f"{v:.4f}" for v in known}
    assert len(numbers) > 100 and numbers <= shown
    spelled = {f"{round(v, 2):.2f}" for row in paper.TABLE3.values() for v in row.values()}
    assert spelled <= numbers


def test_the_report_is_one_file_with_every_figure_and_the_font_inside(config):
    make_all(config)
    page = report.write_report(config, 42).read_text("utf-8")
    links = parse(page).links
    assert len(links) == len(report.FIGURES) and all(link.startswith("data:image/png;base64,") for link in links)
    png = (paths.figures_dir("smoke") / "fig3_umap.png").read_bytes()
    assert base64.b64encode(png).decode() in page
    [font] = re.findall(r"font/ttf;base64,([A-Za-z0-9+/=]+)\)", page)
    assert base64.b64decode(font)[:4] == b"\x00\x01\x00\x00" and len(font) > 200_000
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert all(sentence in page for _, sentence in report.FIGURES.values())
    assert 'name="viewport"' in page and page.count('class="scroll"') == page.count("<table")


def test_the_same_files_give_the_same_report_and_captions_cannot_break_it(config):
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
    assert run["Runs"].startswith(f"{3 * 14},")


def test_a_missing_figure_is_an_error_that_names_its_notebook(config):
    make_all(config)
    for name, (notebook, _) in report.FIGURES.items():
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
    assert page.index(warning) < page.index("What the numbers say")
    assert findings.warnings(make_all(config, share=50.0)) == []


def test_the_difference_over_seeds_has_students_interval():
    d = difference({1: 12.0, 2: 13.0, 3: 11.0, 4: 99.0}, {1: 10.0, 2: 12.0, 3: 8.0})
    assert (d.first, d.second, d.mean, d.std, d.seeds) == (12.0, 10.0, 2.0, 1.0, 3)
    assert (d.low, d.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    with pytest.raises(BncapError, match="same seeds"):
        difference({1: 1.0}, {2: 1.0})


def test_over_images_the_same_gain_everywhere_has_an_interval_of_no_width(config):
    make_runs(config)
    sentence = report.over_images(config, 42)
    assert "METEOR out of domain" in sentence and "(paired bootstrap over 16 images)" in sentence
    assert "+2.00, 95% interval +2.00 to +2.00" in sentence


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((2.0, 2.1, 1.9), "holds"), ((-2.0, -2.1, -1.9), "does not hold"), ((2.0, -1.0, 3.0), "open")],
)
def test_a_claim_holds_fails_or_stays_open_as_its_seeds_say(config, gains, verdict):
    def score(variant, seed, split, metric):
        return 20.0 + (gains[seed - 42] if variant == "pal_infonce_ot" else 0.0)

    verdicts = judge(make_all(config, score), [MAIN_AGAINST_CE])
    [sentence] = verdicts.pop(verdict)
    assert not any(verdicts.values())
    assert f"a difference of {sum(gains) / 3:+.2f}" in sentence and "over 3 seeds" in sentence
    assert sentence.endswith("The paper: +6.49.")


def test_one_seed_settles_nothing(artifacts_dir):
    config = get_config("smoke", ["experiment.n_seeds=1"])
    results = make_all(config)
    verdicts = judge(results)
    assert not verdicts["holds"] and not verdicts["does not hold"]
    assert all("with one seed, which tells nothing of chance" in sentence for sentence in verdicts["open"])
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", report.write_report(config, 42).read_text("utf-8"))


def test_the_papers_differences_are_those_of_its_tables():
    assert MAIN_AGAINST_CE.printed == pytest.approx(12.29 - 5.80)
    assert Claim("pal_infonce_ot", "cnn_lstm", table="Table 1").printed == pytest.approx(10.85 - 3.98)
    assert Claim("ce_real_syn", "ce_real_matched").printed is None
    assert Claim("pal", "ce_real", "noun_precision").printed is None


def test_ranking_agrees_with_the_paper_where_scores_do_and_is_reversed_where_they_fall(config):
    order = list(paper.TABLE3)

    def score(sign):
        return lambda v, seed, split, metric: 50.0 + sign * (order.index(v) if v in order else 0)

    assert "correlation of their means with the paper's is +1.00" in findings.ranking(make_all(config, score(1)))
    reversed_ = findings.ranking(make_all(config, score(-1)))
    assert "is -1.00" in reversed_ and "CE (Real-only) has the highest" in reversed_
    assert "tells them apart in nothing" in findings.ranking(make_all(config, lambda *_: 3.0))


def test_the_move_of_the_centroids_is_set_against_that_of_cross_entropy_and_the_papers(config):
    [sentence] = findings.alignment(make_all(config))
    assert sentence == (
        "Distance of the centroids of real and synthetic patches: 0.500 before training, 0.200 (-60%) after the full "
        "objective and 0.410 (-18%) after cross-entropy alone; full objective against cross-entropy: lower, beyond "
        "the scatter of seeds. The paper: 0.361 to 0.213 (-41%)."
    )


@pytest.mark.parametrize(
    ("gain", "said", "above"), [(2.0, "raise it", "5 have"), (-2.0, "do not raise it", "none have")]
)
def test_the_report_opens_with_whether_the_alignment_terms_raise_the_scores(config, gain, said, above):
    def score(variant, seed, split, metric):
        return 20.0 + (0 if variant.startswith("ce_real") else gain + 0.1 * (seed % 3))

    results = make_all(config, score)
    first, second = findings.overview(results, verdicts := judge(results))
    assert f"on average the terms {said}" in first and f"{above} a higher mean" in first and "in the paper all" in first
    assert f"Of the {len(findings.CLAIMS)} comparisons, {len(verdicts['holds'])} hold" in second
    assert first in html.unescape(report.write_report(config, 42).read_text("utf-8"))


def test_the_gap_of_text_relevant_and_background_patches_is_told_apart(config):
    results = make_all(config)
    for values in results["alignment"].values():
        moves = {"relevant": (2.0, 1.8, 0.5), "background": (1.0, 0.9, 1.5)}
        for part, (before, ce, full) in moves.items():
            for state, value in (("ce_real/before", before), ("pal_infonce_ot/before", before)):
                values[f"{state}/{part}/centroid_distance"] = value
            values[f"ce_real/after/{part}/centroid_distance"] = ce
            values[f"pal_infonce_ot/after/{part}/centroid_distance"] = full
    _, relevant, background = findings.alignment(results)
    assert "text-relevant patches alone: 2.000 before training, 0.500 (-75%)" in relevant
    assert "1.500 (+50%) after the full objective and 0.900 (-10%) after cross-entropy alone." in background


def test_one_seed_of_the_alignment_is_not_said_to_be_several(config):
    results = make_all(config)
    results["alignment"] = {"42": results["alignment"]["42"]}
    [sentence] = findings.alignment(results)
    assert "measured with one seed, which tells nothing of chance" in sentence


def test_the_report_says_how_well_each_captioners_encoder_sees(config):
    make_all(config)
    accuracy = report.encoder_accuracy(config)
    assert accuracy["ViT + Bangla GPT-2"] == pytest.approx({"real": 45.0, "ood": 15.0, "synthetic": 45.0})
    assert "CNN + LSTM 67.5 % in domain and 22.5 % out of it" in report.encoders_apart(config)
    assert report.encoders_apart(config) in html.unescape(report.write_report(config, 42).read_text("utf-8"))


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
    assert plot_tables.dot_plot(tables.table4(config, 42), tmp_path / "d.png").is_file()
    width = [int.from_bytes(data[16:20]) for data in (first, narrow)]
    assert width[0] > width[1]
