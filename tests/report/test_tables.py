"""Tables and results.json from runs with known scores, and the paper's numbers as it prints them."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest
from fake_runs import ALL, make_runs, varied

from bncap.config import SENSITIVITY, VARIANTS, get_config
from bncap.errors import BncapError
from bncap.experiments import comparisons, paper
from bncap.pipeline import paths
from bncap.report import tables

SCORES = ["B1", "B2", "B3", "B4", "METEOR", "BERT-F1"]


@pytest.fixture
def config(artifacts_dir):
    return get_config("smoke")  # two seeds, 42 and 43


def write(config, name):
    """The paths of the table's CSV, Markdown and LaTeX."""
    return tables.write_table(tables.read_table(name, config, 42), name, config)


def test_the_papers_rows_are_as_its_tables_print_them():
    assert list(paper.TABLE1["pal_infonce_ot"].values()) == [48.01, 28.59, 17.19, 10.85, 27.64, 71.20]
    assert list(paper.TABLE1["vit_gpt2"].values()) == [26.84, 12.32, 4.68, 3.21, 26.62, 57.34]
    assert list(paper.TABLE1["cnn_lstm"].values()) == [28.03, 15.45, 6.51, 3.98, 22.57, 70.98]
    assert list(paper.TABLE2["test"].values()) == [38.61, 25.11, 17.43, 12.00, 28.14, 75.40]
    assert paper.TABLE2["ood"] == paper.TABLE3["pal_infonce_ot"]
    assert list(paper.TABLE3["ce_real"].values()) == [36.57, 23.81, 12.37, 5.80, 24.96, 68.38]
    assert [row["B4"] for row in paper.TABLE3.values()] == [5.80, 5.91, 7.50, 7.52, 10.19, 10.34, 12.29]
    assert [row["METEOR"] for row in paper.TABLE3.values()] == [24.96, 24.51, 24.99, 26.22, 27.29, 27.49, 27.98]
    assert [row["BERT-F1"] for row in paper.TABLE3.values()] == [68.38, 68.69, 69.70, 70.21, 70.97, 70.69, 71.20]
    assert [tuple(row.values()) for row in paper.TABLE4.values()] == [
        (2.77, 12.8, 62.2), (2.50, 17.5, 63.7), (2.37, 10.9, 61.3), (2.42, 15.8, 61.9),
    ]  # fmt: skip
    assert round(100 * paper.CENTROID_DISTANCE.relative, 1) == -41.0
    assert (paper.MMD.before, paper.MMD.after) == (0.013, 0.002)


def test_every_row_of_the_paper_belongs_to_a_variant_of_ours():
    assert set(paper.TABLE3) == set(VARIANTS) - {"ce_real_matched"}
    assert list(paper.TABLE4) == list(SENSITIVITY)
    assert paper.printed("ce_real_matched", "ood") == {} and paper.printed("pal", "test") == {}


@pytest.mark.parametrize("name", list(tables.TABLES))
def test_columns_and_rows_are_those_of_the_table_with_one_row_a_seed(config, name):
    make_runs(config)
    frame = tables.read_table(name, config, 42)
    first = ["lambda", "tau", "rho"] if name == "table4_sensitivity" else ["method"]
    assert list(frame.columns) == [*first, "split", "seed", *SCORES, "noun_precision"]
    spec = tables.TABLES[name]
    assert len(frame) == len(spec.variants) * len(spec.splits) * 2
    assert not frame.duplicated([*first, "split", "seed"]).any()
    for _, row in frame.iterrows():
        variant = tables.variant_of(row)
        assert row["B4"] == pytest.approx(varied(variant, row["seed"], row["split"], "B4"), abs=1e-4)


def test_without_known_objects_the_columns_are_exactly_the_papers(config):
    make_runs(config, nouns=())
    assert list(tables.read_table("table2_main", config, 42).columns) == ["method", "split", "seed", *SCORES]
    [csv, *_] = write(config, "table2_main")
    assert csv.read_text("utf-8").splitlines()[0] == "method,split,seed,B1,B2,B3,B4,METEOR,BERT-F1"


def test_mean_and_deviation_over_seeds_stand_above_both_rows_that_the_paper_prints(config):
    make_runs(config, lambda v, seed, split, metric: 10.0 if seed == 42 else 12.0)
    _, md, tex = write(config, "table1_baselines")
    lines = md.read_text("utf-8").splitlines()
    here = next(i for i, line in enumerate(lines) if line.startswith("| PAL + InfoNCE + OT"))
    assert lines[here].count("11.00 ± 1.41") == 7
    assert re.sub(r"\s", "", lines[here + 1]).endswith("|paper,Table1|48.01|28.59|17.19|10.85|27.64|71.20|–|")
    assert re.sub(r"\s", "", lines[here + 2]).endswith("|paper,Tables2,3|49.14|29.64|18.11|12.29|27.98|71.20|–|")
    assert "over 2 seeds (42, 43); 16 test images out of domain" in lines[0]
    assert "BLEU-4 10.85 in Table 1 and 12.29 in Tables 2, 3" in md.read_text("utf-8")
    assert tex.read_text("utf-8").count(r"11.00{\tiny\ $\pm$ 1.41}") == 3 * 7


def test_a_single_seed_shows_no_deviation_and_says_so(artifacts_dir):
    config = get_config("smoke", ["experiment.n_seeds=1"])
    make_runs(config, lambda *_: 10.0)
    _, md, _ = write(config, "table2_main")
    text = md.read_text("utf-8")
    assert "±" not in text and "nan" not in text and "One seed (42), so no standard deviation" in text


def test_table_four_shows_three_metrics_of_the_paper_and_a_dash_for_the_others(config):
    make_runs(config)
    _, md, _ = write(config, "table4_sensitivity")
    text = "\n".join(read_rows(md.read_text("utf-8")))
    assert "| λ | τ | ρ | From |" in text
    assert "| paper, Table 4 | – | – | – | 2.50 | 17.50 | 63.70 | – |" in text
    assert "| 0.5 | 1.3 | 0.5 | here |" in text


def test_latex_escapes_what_latex_would_read_and_needs_only_booktabs(config):
    make_runs(config)
    row = ["a&b_c", "here", "1.00 ± 0.10"]
    text = tables.FormattedTable("x", "Table 1", "50 % of A_1 & B#{λ} ± 2", ["Method", "From", "B1"], [row], 2).latex()
    assert r"50 \% of A\_1 \& B\#\{$\lambda$\} $\pm$ 2" in text
    assert r"a\&b\_c & here & 1.00{\tiny\ $\pm$ 0.10} \\" in text
    for name in tables.TABLES:
        tex = write(config, name)[2].read_text("utf-8")
        tex.encode("ascii")
        assert {r"\toprule", r"\midrule", r"\bottomrule", r"\caption", r"\label"} <= set(re.findall(r"\\[a-z]+", tex))
        tabulars = re.findall(r"\\begin{tabular}{@{}([lr]+)@{}}(.*?)\\end{tabular}", tex, re.S)
        assert len(tabulars) == 2  # scores and differences
        for columns, content in tabulars:
            body = [line for line in content.splitlines() if line.endswith(r" \\")]
            assert {line.replace(r"\&", "").count("&") for line in body} == {len(columns) - 1}


def read_rows(text: str) -> list[str]:
    """Lines with single blanks."""
    return [re.sub(r" +", " ", line) for line in text.splitlines()]


def split_blocks(text: str) -> tuple[str, str]:
    above, below = re.sub(r" +", " ", text).split("**Differences")
    return above, below


def test_marks_stand_where_the_intervals_below_the_table_leave_out_zero(config):
    """PAL alone scores otherwise than all others, METEOR excepted."""
    make_runs(config, lambda v, seed, split, metric: 30.0 if v == "pal" and metric != "METEOR" else 20.0)
    text = write(config, "table3_ablations")[1].read_text("utf-8")
    above, below = split_blocks(text)
    assert "\\* differs from CE (Real-only); † from the row above: 0 lies outside the 95% interval" in above
    rows = {line.split(" | ")[0].strip("| "): line for line in above.splitlines() if "| here |" in line}
    assert rows["PAL"].count(r"30.00\*†") == 6 and rows["PAL"].count("| 20.00 ±") == 1
    assert rows["PAL + InfoNCE"].count("20.00† ±") == 6 and r"\*" not in rows["PAL + InfoNCE"]
    assert not any(mark in line for name, line in rows.items() if not name.startswith("PAL") for mark in "*†")
    lines = below.splitlines()
    assert "over the test images and the 2 seeds, 2000 samples" in lines[0]
    [base] = [line for line in lines if line.startswith("| PAL | CE (Real-only) |")]
    [after] = [line for line in lines if line.startswith("| PAL + InfoNCE | row above |")]
    assert re.fullmatch(r"\| PAL \|.*\| \+10\.00\\\* \[\+\d+\.\d+, \+\d+\.\d+\] \| \+0\.00 \[.*", base)
    assert after.count("| -10.00† [-") == 3
    assert sum(line.startswith("| CE (Real+Syn) |") for line in lines) == 2


def test_the_block_of_differences_is_made_from_the_records_that_the_csv_holds(config):
    make_runs(config)
    frame = tables.read_table("table2_main", config, 42)
    csv, md, _ = tables.write_table(frame, "table2_main", config)
    records = comparisons.read_differences(config, "table2_main")
    assert records == comparisons.compare_table(config, 42, "table2_main")
    main, differences = tables.format_table(frame, "table2_main", config, records)
    assert main.markdown() + "\n" + differences.markdown() == md.read_text("utf-8")
    assert list(differences.cells) == ["Method", "Images", "Against", "B4", "METEOR", "BERT-F1", "Noun prec."]
    shown = {(row["Images"], name): row[name] for _, row in differences.cells.iterrows() for name in differences.cells}
    [there] = [r for r in records if (r["split"], r["metric"]) == ("ood", "METEOR")]
    assert shown["out of domain", "METEOR"].startswith(f"{there['difference']:+.2f}")
    assert f"[{there['low']:+.2f}, {there['high']:+.2f}]" in shown["out of domain", "METEOR"]


def test_what_is_known_of_one_split_alone_is_a_dash_on_the_other(config):
    make_runs(config, nouns=("test",))  # COCO's pictures have annotated objects, those of Flickr30k have none
    _, md, _ = write(config, "table2_main")
    lines = [re.sub(r"\s+", " ", line) for line in md.read_text("utf-8").splitlines()]
    for block in ("here", "CE (Real-only)"):  # scores and differences
        inside, outside = (
            next(line for line in lines if line.startswith(f"| PAL + InfoNCE + OT | {split} | {block} |"))
            for split in ("in domain", "out of domain")
        )
        assert outside.endswith("| – |") and "–" not in inside


def test_the_settings_of_table_four_stand_beside_the_same_data_without_pal(config):
    make_runs(config)
    text = write(config, "table4_sensitivity")[1].read_text("utf-8")
    above, below = split_blocks(text)
    values = [varied("ce_real_part", seed, "ood", "B4") for seed in (42, 43)]
    mean, std = sum(values) / 2, abs(values[0] - values[1]) / math.sqrt(2)
    assert re.search(rf"CE \(Real-only\), same part of the data, has .*B4 {mean:.2f} ± {std:.2f}", above)
    assert "differs from CE (Real-only), same part of the data; † from the row above" in above
    assert below.count("| CE (Real-only), same part of the data |") == 4 and below.count("| row above |") == 3


def test_a_table_without_anything_to_compare_with_has_no_marks_and_no_second_block(config):
    make_runs(config, variants=["ce_real"])
    frame = tables.read_table("table2_main", config, 42, ["ce_real"])
    csv, md, tex = tables.write_table(frame, "table2_main", config)
    assert "Differences" not in md.read_text("utf-8") and "differs" not in md.read_text("utf-8")
    assert tex.read_text("utf-8").count("tabular") == 2
    assert comparisons.read_differences(config, "table2_main") == []


def test_a_missing_run_is_an_error_with_the_command_that_makes_it(config):
    make_runs(config, variants=[v for v in ALL if v not in ("pal", "vit_gpt2")])
    tables.read_table("table2_main", config, 42)
    with pytest.raises(BncapError, match=r"06_ablations/pal-s42 .*run_all\.sh --profile smoke --only 06"):
        tables.read_table("table3_ablations", config, 42)
    with pytest.raises(BncapError, match=r"vit_gpt2-s42 .*--only 05"):
        tables.read_table("table1_baselines", config, 42)


def test_an_unknown_table_is_refused_with_the_known_names(config):
    make_runs(config)
    with pytest.raises(BncapError, match="table1_baselines"):
        tables.write_table(tables.read_table("table1_baselines", config, 42), "table1", config)


def test_the_same_runs_give_the_same_bytes_and_the_csv_reads_back(config):
    make_runs(config)
    first = {}
    for turn in range(2):
        written = []
        for name in tables.TABLES:
            written += write(config, name)
        content = {path.name: path.read_bytes() for path in written}
        assert len(content) == 12 and all(b"\r" not in data for data in content.values())
        first = first or content
        assert content == first, f"turn {turn}"
    frame = tables.read_table("table4_sensitivity", config, 42)
    pd.testing.assert_frame_equal(pd.read_csv(paths.figures_dir("smoke") / "table4_sensitivity.csv"), frame)
