import base64
import io
import json
import subprocess

import nbformat
import pytest
from PIL import Image

from bncap.commands import publish as module
from bncap.commands import runner
from bncap.commands.publish import fill, marked, publish, quoted_numbers
from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths

RESULTS = json.loads((module.PUBLISHED / "results.json").read_text("utf-8"))


def png(side):
    stream = io.BytesIO()
    Image.effect_noise((side, side), 50).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def run(artifacts_dir, tmp_path, monkeypatch):
    """A finished run of one notebook with a picture in it, and a README that quotes a number; the folders."""
    cell = nbformat.v4.new_code_cell("1", metadata={"papermill": {"duration": 3}})
    picture = base64.b64encode(png(1500)).decode()
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "bar"}
    cell.outputs = [
        nbformat.v4.new_output("display_data", {"image/png": picture}),
        nbformat.v4.new_output("display_data", widget),
        nbformat.v4.new_output("stream", text=f"written to {artifacts_dir}/mini\n"),
    ]
    book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "P"}})
    notebook = tmp_path / "notebooks" / "09_report.ipynb"
    request = runner.Request("mini", 42)
    for path in (notebook, runner.executed_path(request, notebook)):
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, path)
    monkeypatch.setattr(paths, "NOTEBOOKS", notebook.parent)
    monkeypatch.setattr(runner, "is_current", lambda request, notebook, checked: True)
    figures = paths.figures_dir("mini")
    artifacts.write_json(figures / "results.json", RESULTS)
    artifacts.write_text(figures / "report.html", "<p><!--kind-->a run<!--/--></p>")
    (figures / "captions.png").write_bytes(png(10))
    (figures / "trial-1").mkdir()
    (tmp_path / "README.md").write_text("BLEU-4 <!--bleu4-->0<!--/--> points")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "old.png").write_text("")
    return tmp_path


def test_results_are_copied_and_the_quoted_numbers_renewed(run):
    numbers = publish("mini", run / "published", run)
    published = {path.name for path in (run / "published").iterdir()}
    assert published == {"results.json", "report.html", "captions.png", "numbers.json", "notebooks"}
    assert (run / "README.md").read_text() == f"BLEU-4 <!--bleu4-->{numbers['bleu4']}<!--/--> points"
    assert artifacts.read_json(run / "published/numbers.json") == numbers
    assert "published report" in (run / "published/report.html").read_text()
    assert "a run<" in (run / "figures/mini/report.html").read_text(), "the run's own report stays"


def test_notebooks_are_small_and_do_not_name_this_machine(run):
    publish("mini", run / "published", run)
    book = nbformat.read(run / "published/notebooks/09_report.ipynb", as_version=4)
    nbformat.validate(book)
    picture, bar, text = book.cells[0].outputs
    assert Image.open(io.BytesIO(base64.b64decode(picture.data["image/png"]))).width <= 1000
    assert dict(bar.data) == {"text/plain": "bar"} and not book.cells[0].metadata
    assert text.text == "written to artifacts/mini\n"


def test_own_photographs_and_unfinished_results_are_refused(run, monkeypatch):
    with pytest.raises(BncapError, match="own"):
        publish("own", run / "published", run)
    monkeypatch.setattr(runner, "is_current", lambda request, notebook, checked: False)
    with pytest.raises(BncapError, match=r"09_report.*--profile mini --extended"):
        publish("mini", run / "published", run)
    assert (run / "published/old.png").is_file()


def test_a_quoted_number_that_the_results_lack_is_named_and_nothing_is_written(run):
    (run / "README.md").write_text("<!--reading/none-->0<!--/-->")
    with pytest.raises(BncapError, match=r"README\.md quotes reading/none"):
        publish("mini", run / "published", run)
    assert (run / "published/old.png").is_file()


def test_numbers_are_differences_with_intervals():
    numbers = quoted_numbers(RESULTS)
    record = next(r for r in RESULTS["pairs"] if (r["variant"], r["against"], r["split"], r["metric"])
                  == ("pal_infonce_ot", "ce_real", "ood", "B4"))  # fmt: skip
    assert numbers["bleu4"] == f"{record['difference']:+.2f} [{record['low']:+.2f}, {record['high']:+.2f}]"
    assert "reading/rho_by_count" in numbers


def test_markers_are_read_and_filled():
    text = "a <!--x-->1<!--/--> b <!--y/z-->2\n3<!--/--> <!-- a comment -->"
    assert marked(text) == {"x": "1", "y/z": "2\n3"}
    assert fill(text, {"x": "9"}) == "a <!--x-->9<!--/--> b <!--y/z-->2\n3<!--/--> <!-- a comment -->"


@pytest.mark.skipif(not (paths.ROOT / ".git").exists(), reason="no clone")
def test_git_ignores_what_runs_make_and_keeps_what_is_published():
    names = [
        f"figures/{name}"
        for name in ("own/a.png", "mini/a.png", "kaggle/trial-1/a.png", "published/a.png", "README.md")
    ]
    ignored = subprocess.run(
        ["git", "check-ignore", *names, "artifacts/x"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert ignored.stdout.split() == [*names[:3], "artifacts/x"]
