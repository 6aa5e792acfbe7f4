"""One chain through every notebook in the profile ``smoke``, and what a reader does with it afterwards."""

import shutil

import pytest

from bncap.__main__ import main
from bncap.commands import runner
from bncap.pipeline import artifacts

pytestmark = pytest.mark.chain

TABLES = ("table1_baselines", "table2_main", "table3_ablations", "table4_sensitivity")
FIGURES = ("fig1_patches", "fig2_pipeline", "fig3_convergence", "fig3_umap")
FILES = (
    [f"{t}.{s}" for t in TABLES for s in ("csv", "md", "tex")]
    + [f"{f}.{s}" for f in FIGURES for s in ("png", "pdf")]
    + [f"{t}_differences.csv" for t in TABLES]
    + [f"{f}.png" for f in ("differences", "attention", "umap_seeds", "lengths", "captions")]
    + [f"grounding.{s}" for s in ("png", "pdf", "csv", "md")]
    + ["alignment.csv", "alignment.md", "diversity.csv", "report.html", "results.json"]
    + [f"readings{s}" for s in (".png", "_gap.png", ".csv", ".json")]
    + [f"error_analysis.{s}" for s in ("csv", "json")]
    + ["errors.png", "confusion.png", "confusion.csv", "filter.png", "filter.csv"]
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Artefact and figure folders after all notebooks have run once."""
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNCAP_ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("BNCAP_FIGURES", str(folder / "figures"))
        patch.setenv("BNCAP_TRIAL", "")
        runner.run(runner.Request("smoke", 42), runner.select(extended=True))
        yield folder


@pytest.mark.parametrize("name", FILES)
def test_the_chain_yields_every_table_and_figure(chain, name):
    assert (chain / "figures/smoke" / name).stat().st_size > 0


def test_the_tables_have_the_fixed_columns(chain):
    scores = ["B1", "B2", "B3", "B4", "METEOR", "BERT-F1"]
    for name in TABLES:
        header = (chain / f"figures/smoke/{name}.csv").read_text().splitlines()[0].split(",")
        first = ["lambda", "tau", "rho"] if name == "table4_sensitivity" else ["method"]
        assert header[: len(first) + 8] == [*first, "split", "seed", *scores]


def test_every_step_has_a_manifest_with_its_configuration(chain):
    steps = sorted((chain / "artifacts/smoke").glob("[0-9][0-9]_*/*/manifest.json"))
    assert {path.parent.parent.name[:2] for path in steps} >= {
        "00",
        "01",
        "02",
        "04",
        "05",
        "06",
        "07",
        "08",
        "11",
        "12",
    }
    assert all(artifacts.read_json(path)["settings"] is not None for path in steps)


def test_a_second_start_finds_everything_up_to_date(chain, capsys):
    runner.run(runner.Request("smoke", 42), runner.select(extended=True))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13 and all(line.endswith("up to date") for line in lines)


def test_a_deleted_artefact_comes_back_with_the_same_bytes(chain):
    folder = chain / "artifacts/smoke/06_ablations/pal-s42"
    weights = chain / "artifacts/smoke/06_ablations/pal.weights-s42"
    before = artifacts.fingerprint(folder), artifacts.fingerprint(weights)
    results = {name: (chain / "figures/smoke" / name).read_bytes() for name in ("results.json", "table3_ablations.csv")}
    shutil.rmtree(folder)
    shutil.rmtree(weights)
    (chain / "figures/smoke/results.json").unlink()
    runner.run(runner.Request("smoke", 42), runner.select(only="06,09"))
    assert (artifacts.fingerprint(folder), artifacts.fingerprint(weights)) == before
    for name, content in results.items():
        assert (chain / "figures/smoke" / name).read_bytes() == content, name


def test_the_trained_model_captions_a_picture_from_the_command_line(chain, capsys):
    picture = sorted((chain / "artifacts/smoke/00_mini_world/world-s42/val2014").glob("*.jpg"))[0]
    assert main(["caption", str(picture), "--profile", "smoke", "--attention", str(chain / "attention.png")]) == 0
    assert picture.name in capsys.readouterr().out
    assert (chain / "attention.png").stat().st_size > 0
