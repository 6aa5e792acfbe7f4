"""A new variant is one line in ``VARIANTS``: it then stands in Table 3, the comparisons, the figures and the report."""

import os
import shutil
import subprocess
import sys

import pytest

from bncap.pipeline import paths

MAIN_LINE = '    "pal_infonce_ot": Variant('
NEW_LINE = '    "pal_ot": Variant("PAL + OT", ("loss.alpha=0",), "PAL and OT without InfoNCE"),\n'
SCRIPT = """
import pytest
from fake_runs import make_rest, make_runs, patch_evidence

from bncap.config import VARIANTS, get_config
from bncap.experiments import comparisons, paper, runs
from bncap.pipeline import paths
from bncap.report import figures_results, page, results, tables

config = get_config("smoke")
patch_evidence(pytest.MonkeyPatch())
assert "pal_ot" in VARIANTS and "pal_ot" in runs.TRAINED_BY["06_ablations"]
make_runs(config)
make_rest(config)
for name in runs.TABLES:
    tables.write_table(tables.read_table(name, config, 42), name, config)
folder = paths.figures_dir("smoke")
figures_results.draw_scores(tables.read_table("table3_ablations", config, 42), folder / "scores")
differences = comparisons.compare_with_base(config, 42)
figures_results.draw_differences(differences, folder / "differences")
assert any(record["variant"] == "pal_ot" and record["low"] is not None for record in differences)
pairs = [pair for pair in paper.score_pairs() if set(pair[:2]) <= set(VARIANTS)]
paper.check_claims({"pairs": comparisons.compare_pairs(config, 42, pairs)})
results.write_results(config, 42)
page.write_report(config, 42)
"""


@pytest.mark.slow
def test_one_line_adds_a_variant_everywhere(tmp_path):
    shutil.copytree(paths.PACKAGE, tmp_path / "bncap", ignore=shutil.ignore_patterns("__pycache__"))
    config = tmp_path / "bncap" / "config.py"
    text = config.read_text("utf-8")
    assert text.count(MAIN_LINE) == 1
    config.write_text(text.replace(MAIN_LINE, NEW_LINE + MAIN_LINE), "utf-8")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(paths.ROOT / "tests")]),
        "BNCAP_ARTIFACTS": str(tmp_path / "artifacts"), "BNCAP_FIGURES": str(tmp_path / "figures"), "BNCAP_TRIAL": "",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = tmp_path / "figures" / "smoke"
    assert "pal_ot" in (figures / "table3_ablations.csv").read_text("utf-8")
    assert "PAL + OT" in (figures / "table3_ablations.md").read_text("utf-8")
    assert '"pal_ot"' in (figures / "results.json").read_text("utf-8")
    assert "PAL + OT" in (figures / "report.html").read_text("utf-8")
