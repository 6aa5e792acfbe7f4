"""The notebooks are prose with thin code cells; this reads their JSON and holds them to it."""

import ast
import json
import re
import statistics

import pytest

from bncap.pipeline import paths

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
NAMES = (
    "00_mini_world", "01_data_build", "02_synthesis", "03_objective_by_hand", "04_training", "05_baselines",
    "06_ablations", "07_sensitivity", "08_umap_mmd", "09_report", "10_caption_your_image", "11_readings",
    "12_error_analysis",
)  # fmt: skip
HEADINGS = ["Purpose", "Parameters", "Inputs", "Run", "Check", "Outputs"]
PARAMETERS = ['PROFILE = "mini"', "SEED = 42", "OVERRIDES = []"]
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def text(cell):
    return "".join(cell["source"])


def code_lines(cell):
    return [line for line in text(cell).splitlines() if line.strip() and not line.strip().startswith("#")]


def test_the_series_is_complete_and_in_order():
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@each
def test_a_notebook_is_valid(path):
    import nbformat

    nbformat.validate(nbformat.read(path, as_version=4))


@each
def test_the_headings_are_the_fixed_ones_in_order(path):
    found = [h for cell in cells(path, "markdown") for h in re.findall(r"^## (.+)$", text(cell), re.M)]
    assert found == HEADINGS


@each
def test_the_title_bears_the_number(path):
    assert text(cells(path, "markdown")[0]).startswith(f"# {path.stem[:2]}")


@each
def test_one_cell_is_tagged_parameters_and_holds_them(path):
    tagged = [c for c in cells(path, "code") if "parameters" in c["metadata"].get("tags", [])]
    assert [code_lines(c) for c in tagged] == [PARAMETERS]


@each
def test_no_outputs_are_committed(path):
    assert not any(c["outputs"] or c["execution_count"] for c in cells(path, "code"))


@each
def test_the_kernel_is_python3(path):
    assert json.loads(path.read_text("utf-8"))["metadata"]["kernelspec"]["name"] == "python3"


@each
def test_nothing_is_defined_in_a_notebook(path):
    assert not any(re.search(r"^\s*(def|class|async def) ", text(c), re.M) for c in cells(path, "code"))


@each
def test_code_cells_are_thin(path):
    lengths = [len(code_lines(c)) for c in cells(path, "code")]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 16


@each
def test_there_is_at_least_as_much_prose_as_code(path):
    letters = {k: sum(len("".join(text(c).split())) for c in cells(path, k)) for k in ("markdown", "code")}
    assert letters["markdown"] >= letters["code"], letters


@each
def test_a_notebook_checks_what_it_says(path):
    """Between the headings Check and Outputs something is asserted."""
    everything = json.loads(path.read_text("utf-8"))["cells"]
    heads = {h: i for i, c in enumerate(everything) for h in HEADINGS if re.search(rf"^## {h}$", text(c), re.M)}
    checks = everything[heads["Check"] : heads["Outputs"]]
    assert any(re.search(r"^\s*assert ", text(c), re.M) for c in checks if c["cell_type"] == "code")


@each
def test_a_check_that_fails_says_what_is_wrong(path):
    asserts = [node for cell in cells(path, "code") for node in ast.walk(ast.parse(text(cell)))
               if isinstance(node, ast.Assert)]  # fmt: skip
    assert all(node.msg is not None for node in asserts)
