import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import nbformat
import pytest

from bncap import __main__ as cli
from bncap.commands import runner
from bncap.errors import BncapError
from bncap.experiments import estimates
from bncap.pipeline import artifacts, code, files, paths

PARAMETERS = 'PROFILE = "mini"\nSEED = 42\nOVERRIDES = []'
STEP = """
from bncap.pipeline import artifacts, paths
folder = paths.step_dir(PROFILE, "{step}", "x", SEED)
artifacts.run_step(folder, settings={{"o": list(OVERRIDES)}}, build=lambda f: artifacts.write_text(f / "n.txt", "1"))
"""
FIGURE = 'artifacts.write_text(paths.figures_dir(PROFILE) / "figure.txt", "drawn")'


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)


@pytest.fixture
def series(artifacts_dir, tmp_path, monkeypatch):
    """Two notebooks, the second of which draws a figure."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", folder)
    notebook(folder / "01_first.ipynb", STEP.format(step="01_first"))
    notebook(folder / "02_second.ipynb", STEP.format(step="02_second"), FIGURE)
    return folder


def run(*overrides):
    runner.run(runner.Request("smoke", 42, overrides), runner.select())


def test_a_second_start_runs_nothing(series, capsys):
    run()
    capsys.readouterr()
    run()
    assert capsys.readouterr().out.splitlines() == ["01_first: up to date", "02_second: up to date"]


def test_a_trial_makes_the_steps_that_depend_on_its_settings_and_leaves_the_standard_run(series, artifacts_dir, capsys):
    notebook(series / "01_first.ipynb", STEP.format(step="01_first").replace("list(OVERRIDES)", "0"))
    run()
    run("train.epochs=3")
    root = paths.artifacts_root()
    assert root.parent == artifacts_dir
    assert [manifest.parts[-3] for manifest in root.glob("smoke/*/x-s42/manifest.json")] == ["02_second"]
    assert (paths.figures_dir("smoke") / "figure.txt").is_file() and paths.figures_dir("smoke").name == root.name
    capsys.readouterr()
    run()
    assert capsys.readouterr().out.splitlines() == ["01_first: up to date", "02_second: up to date"]


def test_a_kernel_has_the_runs_environment_and_its_notebooks_folder_and_is_gone_afterwards(series, artifacts_dir):
    look = f"""
import os
from pathlib import Path
import matplotlib
from bncap.pipeline import artifacts, paths
assert "inline" in matplotlib.get_backend() and Path.cwd() == Path({str(series)!r})
seen = f"{{os.getpid()}} {{os.environ['BNCAP_ARTIFACTS']}}"
artifacts.write_text(paths.figures_dir(PROFILE) / "kernel.txt", seen)
"""
    notebook(series / "02_second.ipynb", look)
    run()
    process, folder = (paths.figures_dir("smoke") / "kernel.txt").read_text().split()
    assert folder == str(artifacts_dir) and not Path(f"/proc/{process}").exists()


def test_what_is_deleted_is_made_again_and_nothing_else(series, artifacts_dir, tmp_path, capsys):
    run()
    shutil.rmtree(artifacts_dir / "smoke/02_second/x-s42")
    capsys.readouterr()
    run()
    out = capsys.readouterr().out
    assert "01_first: up to date" in out and "02_second: running" in out
    (tmp_path / "figures/smoke/figure.txt").unlink()
    run()
    assert (tmp_path / "figures/smoke/figure.txt").read_text() == "drawn"


def test_an_override_reaches_the_notebook_and_its_executed_copy(series, artifacts_dir):
    run("train.epochs=2")
    executed = (paths.artifacts_root() / "smoke/notebooks/01_first.ipynb").read_text("utf-8")
    assert 'OVERRIDES = [\\"train.epochs=2\\"]' in executed
    assert artifacts.read_json(paths.artifacts_root() / "smoke/01_first/x-s42/manifest.json")["settings"]["o"] == [
        "train.epochs=2"
    ]


def test_a_failing_notebook_says_where_what_and_how_to_go_on(series, artifacts_dir, monkeypatch, capsys):
    notebook(series / "02_second.ipynb", "x = 1", "# a comment\nraise ValueError('broken thing')")
    status = cli.main(["run", "--profile", "smoke", "--seed", "7", "--set", "train.epochs=2"])
    error = capsys.readouterr().err.strip().splitlines()[-3:]
    assert status == 1
    assert error[0].startswith("error: 02_second.ipynb failed in code cell 3")
    assert error[1] == "ValueError: broken thing"
    assert "./run_all.sh --profile smoke --seed 7 --set train.epochs=2 --from 02" in error[2]
    assert artifacts.is_finished(paths.artifacts_root() / "smoke/01_first/x-s7")


def test_notebooks_are_selected_by_number(series):
    names = lambda **options: [path.name[:2] for path in runner.select(**options)]  # noqa: E731
    assert names() == ["01", "02"]
    assert names(first="02") == ["02"] and names(last="01") == ["01"] and names(only="02") == ["02"]
    with pytest.raises(BncapError, match="there is no notebook '07'"):
        names(only="07")


def test_the_extended_notebooks_run_before_the_report_and_only_where_asked_for():
    numbers = lambda **options: [path.name[:2] for path in runner.select(**options)]  # noqa: E731
    assert numbers() == [f"{n:02d}" for n in range(11)]
    assert numbers(extended=True) == [*(f"{n:02d}" for n in range(9)), "11", "12", "09", "10"]
    assert numbers(only="09,11") == ["11", "09"] and numbers(first="11") == ["11", "12"]
    assert numbers(extended=True, first="08", last="09") == ["08", "09"]


def test_the_report_runs_again_when_an_extended_notebook_has_found_something(series, capsys):
    notebook(series / "09_report.ipynb", "print('the report')")
    run()
    for content in ({"x": 1.0}, {"x": 2.0}):
        estimates.write_extended("smoke", estimates.READINGS, content)
        capsys.readouterr()
        run()
        assert "09_report: running" in (said := capsys.readouterr().out) and "02_second: up to date" in said
    estimates.write_extended("smoke", estimates.READINGS, {"x": 2.0})
    run()
    assert "09_report: up to date" in capsys.readouterr().out


def test_own_data_run_the_notebooks_that_need_no_second_test_set():
    assert [path.name[:2] for path in runner.select(own=True)] == ["00", "01", "02", "04", "10"]
    assert [path.name[:2] for path in runner.select(first="02", last="08", own=True)] == ["02", "04"]
    for asked in ({"only": "02,06"}, {"first": "05", "last": "09"}):
        with pytest.raises(BncapError, match="notebook 0[56] compares variants on a second test set"):
            runner.select(**asked, own=True)


def test_status_tells_finished_from_unfinished_and_changed(series, artifacts_dir):
    with pytest.raises(BncapError, match="nothing has been run"):
        runner.status_table("smoke")
    run()
    (artifacts_dir / "smoke/03_half/x-s42").mkdir(parents=True)
    (artifacts_dir / "smoke/01_first/x-s42/n.txt").write_text("tampered")
    table = runner.status_table("smoke")
    (artifacts_dir / "smoke/02_second/x-s42/manifest.json").write_text("{}")
    assert "02_second/x-s42" in table and "unreadable" in runner.status_table("smoke")
    states = {line.split()[0]: line.split()[1] for line in table.splitlines()[1:]}
    assert states == {"01_first/x-s42": "changed", "02_second/x-s42": "finished", "03_half/x-s42": "unfinished"}


def test_a_corrupt_record_is_named(series, artifacts_dir, capsys):
    run()
    (artifacts_dir / "smoke/notebooks/01_first.json").write_text("{")
    assert cli.main(["run", "--profile", "smoke"]) == 1
    assert "01_first.json is not readable JSON" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]", "3"])
def test_a_notebook_with_a_record_of_something_else_runs_again(series, artifacts_dir, capsys, content):
    run()
    (artifacts_dir / "smoke/notebooks/01_first.json").write_text(content)
    run()
    assert "01_first: running" in capsys.readouterr().out.partition("02_second: running")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "--profile", "nope"], "unknown profile"),
        (["run", "--profile", "own"], "--captions FILE"),
        (["check", "--download", "--only", "77"], "there is no notebook '77'"),
        (["run", "--set", "train.epoch=1"], "did you mean"),
        (["run", "--set", "loss.tau=0"], "loss.tau=0"),
        (["run", "--seeds", "a,b"], "whole numbers"),
        (["run", "--seeds", "42,42"], "a seed occurs twice"),
        (["run", "--seed", "-1"], "from 0 to 2^32 - 1"),
        (["run", "--from", "02", "--to", "01"], "no notebook from 02 to 01"),
        (["run", "--jobs", "0"], "--jobs"),
        (["run", "--only", "77"], "there is no notebook"),
        (["status", "--profile", "paper"], "nothing has been run"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_1(series, artifacts_dir, capsys, arguments, message):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
    assert not list(artifacts_dir.rglob("*.ipynb")), "a notebook was started first"


def test_check_passes_here_and_says_what_kaggle_lacks(capsys, monkeypatch):
    monkeypatch.delenv("BNCAP_DATA", raising=False)
    assert cli.main(["check"]) == 0
    assert cli.main(["check", "--profile", "kaggle"]) == 1
    assert "BNCAP_DATA is not set" in capsys.readouterr().out


def test_an_output_changed_under_a_notebook_that_is_up_to_date_is_named(series, artifacts_dir, capsys):
    run()
    (artifacts_dir / "smoke/01_first/x-s42/n.txt").write_text("tampered")
    assert cli.main(["run", "--profile", "smoke", "--only", "02"]) == 1
    assert "01_first/x-s42/n.txt was changed after it was finished; delete" in capsys.readouterr().err


def test_two_runs_over_the_same_folders_wait_and_say_for_whom(series, artifacts_dir, capsys):
    context = multiprocessing.get_context("fork")
    marker = context.Event()

    def hold(folder):
        with files.locked(folder):
            marker.set()
            time.sleep(1)

    for folder in (artifacts_dir / "smoke/notebooks", paths.figures_dir("smoke")):
        marker.clear()
        other = context.Process(target=hold, args=(folder,))
        other.start()
        assert marker.wait(10)
        run()
        other.join()
        assert f"waiting for another run (process {other.pid} on" in capsys.readouterr().err


def test_a_full_disk_under_the_executed_notebook_is_said_and_the_notebook_is_run_again(
    series, artifacts_dir, monkeypatch, capsys
):
    import papermill

    run()

    def fill(source, output, **options):
        Path(output).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(papermill, "execute_notebook", fill)
        assert cli.main(["run", "--profile", "smoke", "--force"]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: disk full while writing smoke/notebooks/01_first.ipynb: free some space")
    run()
    assert "01_first: running" in capsys.readouterr().out
    assert (artifacts_dir / "smoke/notebooks/01_first.ipynb").read_text() != "half"


def test_a_notebook_whose_process_is_killed_says_so_and_how_to_go_on(series, artifacts_dir, capsys):
    notebook(series / "02_second.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert cli.main(["run", "--profile", "smoke"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error[0].startswith("error: 02_second.ipynb: its Python process ended abruptly")
    assert error[1].endswith("continue with: ./run_all.sh --profile smoke --from 02 --jobs 1")


def test_a_root_that_cannot_be_written_is_one_line(series, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    for variable in ("BNCAP_FIGURES", "BNCAP_ARTIFACTS"):
        monkeypatch.setenv(variable, str(tmp_path / "file"))
        assert cli.main(["run", "--profile", "smoke"]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and f"set {variable} to a folder that can be" in error[0]
    assert cli.main(["check"]) == 1
    assert "set BNCAP_ARTIFACTS" in capsys.readouterr().out


def test_an_error_of_the_system_is_one_line(series, artifacts_dir, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", "results.json")

    monkeypatch.setattr(runner, "run", refuse)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == (
        "error: results.json: Permission denied; check that path and its disk, then start again\n"
    )


def test_an_edited_function_runs_the_notebooks_that_import_it_and_an_edited_comment_none(
    series, artifacts_dir, tmp_path, monkeypatch, capsys
):
    """The notebooks import ``bncap.pipeline`` alone."""
    package = tmp_path / "bncap"
    shutil.copytree(paths.PACKAGE, package, ignore=shutil.ignore_patterns("checkpoints"))

    def lines(name, old, new):
        path = package / name
        path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(code, "SOURCES", code.SourceTree(package))
            patch.setattr(runner, "_package_hash", lambda: name + new)
            capsys.readouterr()
            run()
        return [line for line in capsys.readouterr().out.splitlines() if "up to date" not in line]

    run()
    manifest = artifacts_dir / "smoke/01_first/x-s42/manifest.json"
    before = manifest.stat().st_mtime_ns
    assert lines("pipeline/files.py", '"""JSON, CSV', '"""CSV') == []
    assert lines("losses.py", "import", "from math import pi\nimport") == []
    assert len(lines("pipeline/files.py", "from __future__", "X = 1\nfrom __future__")) == 4
    assert manifest.stat().st_mtime_ns == before, "the steps do not depend on it"


def test_force_makes_the_steps_of_the_chosen_notebooks_again_once(series, artifacts_dir, capsys):
    run()
    manifests = [artifacts_dir / f"smoke/{name}/x-s42/manifest.json" for name in ("01_first", "02_second")]
    before = [manifest.stat().st_mtime_ns for manifest in manifests]
    command = ["run", "--profile", "smoke", "--force"]
    assert cli.main([*command, "--only", "02"]) == 0
    after = [manifest.stat().st_mtime_ns for manifest in manifests]
    assert after[0] == before[0] and after[1] > before[1] and artifacts.FORCE_VARIABLE not in os.environ
    notebook(series / "02_second.ipynb", "raise ValueError('stop')")
    assert cli.main(command) == 1
    assert capsys.readouterr().err.strip().endswith("./run_all.sh --profile smoke --only 01,02 --force")
    notebook(series / "02_second.ipynb", STEP.format(step="02_second"))
    assert cli.main(command) == 0
    assert "01_first: up to date" in capsys.readouterr().out, "the same forced run continues"
    assert manifests[0].stat().st_mtime_ns > after[0] and manifests[1].stat().st_mtime_ns > after[1]
    assert cli.main(command) == 0
    assert "up to date" not in capsys.readouterr().out, "the next forced run begins"


def test_a_failing_check_quotes_its_own_line(series, capsys):
    notebook(series / "02_second.ipynb", "x = 1\n\nfor i in range(2):\n    assert i == 0, f'record {i}: delete it'")
    assert cli.main(["run", "--profile", "smoke"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-3:]
    assert error[0].endswith("assert i == 0, f'record {i}: delete it'") and error[1].endswith("record 1: delete it")
