"""Steps of earlier sessions, both layouts of Kaggle's inputs, data in several folders."""

import os

import pytest

from bncap.config import get_config
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts, paths


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """An artefact root that is written, and one of an earlier session that is read."""
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "work"))
    monkeypatch.setenv("BNCAP_INPUTS", str(tmp_path / "earlier"))
    return tmp_path / "work", tmp_path / "earlier"


def make(folder, value, made=None):
    def build(where):
        artifacts.write_text(where / "out.txt", str(value))
        if made is not None:
            made.append(value)

    return artifacts.run_step(folder, settings={"value": value}, build=build, quiet=True)


@pytest.fixture
def earlier(roots, monkeypatch):
    """A finished step in the earlier root."""
    work, old = roots
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(old))
    (old).mkdir()
    folder = make(paths.step_dir("kaggle", "01_data_build", "corpus", 42), 1)
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(work))
    return folder


def test_a_finished_step_of_an_earlier_session_is_used_where_it_lies(roots, earlier):
    made = []
    folder = paths.step_dir("kaggle", "01_data_build", "corpus", 42)
    assert folder == earlier
    assert make(folder, 1, made) == earlier and not made
    assert artifacts.short_name(earlier / "out.txt") == "kaggle/01_data_build/corpus-s42/out.txt"
    assert not (roots[0] / "kaggle").exists()


def test_with_other_settings_it_is_made_in_the_working_root_and_the_earlier_one_stays(roots, earlier):
    made = []
    folder = make(paths.step_dir("kaggle", "01_data_build", "corpus", 42), 2, made)
    assert folder == roots[0] / "kaggle/01_data_build/corpus-s42" and made == [2]
    assert (earlier / "out.txt").read_text() == "1"
    assert paths.step_dir("kaggle", "01_data_build", "corpus", 42) == folder


def test_work_that_an_earlier_session_left_unfinished_goes_on(roots, monkeypatch):
    work, old = roots

    def stopped(where):
        artifacts.write_text(where / "half.txt", "half")
        raise OutOfTime("time is up")

    old.mkdir()
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(old))
    with pytest.raises(OutOfTime):
        artifacts.run_step(paths.step_dir("kaggle", "04", "run", 1), settings={"a": 1}, build=stopped)
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(work))
    seen = []
    folder = paths.step_dir("kaggle", "04", "run", 1)
    assert folder.is_relative_to(work)
    artifacts.run_step(folder, settings={"a": 1}, build=lambda where: seen.append((where / "half.txt").read_text()))
    assert seen == ["half"] and not artifacts.is_finished(old / "kaggle/04/run-s1")


def test_a_copy_of_unfinished_work_that_is_cut_short_is_not_gone_on_from(roots, monkeypatch):
    work, old = roots
    (old / "kaggle/04/run-s1").mkdir(parents=True)
    artifacts.write_json(
        old / "kaggle/04/run-s1" / artifacts.WORKING, {"key": artifacts.Step({"a": 1}, build=print).key}
    )
    for name in ("note.txt", "work.txt"):
        artifacts.write_text(old / "kaggle/04/run-s1" / name, "half")
    whole = artifacts.shutil.copytree

    def cut(source, target):
        whole(source, target)
        (target / "work.txt").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.shutil, "copytree", cut)
    folder, seen = paths.step_dir("kaggle", "04", "run", 1), []

    def run():
        artifacts.run_step(folder, settings={"a": 1}, build=lambda where: seen.append((where / "work.txt").read_text()))

    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(artifacts.shutil, "copytree", whole)
    run()
    assert seen == ["half"] and [p.name for p in folder.parent.iterdir() if p.is_dir()] == ["run-s1"]


def test_pictures_are_found_below_the_first_root_that_has_them(tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    monkeypatch.setenv("BNCAP_DATA", f"{a}:{b}")
    for file in (b / "x/1.png", a / "x/2.png", b / "x/2.png", b / "y/4.png"):
        artifacts.write_text(file, "")
    found = paths.data_paths(get_config("paper"), ["x/1.png", "x/2.png", "x/3.png", "y/4.png", "y/5.png"])
    assert [str(path.relative_to(tmp_path)) for path in found.values()] == [
        "b/x/1.png", "a/x/2.png", "a/x/3.png", "b/y/4.png", "b/y/5.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "where", ["bncap-01", "notebooks/someone/bncap-01", "datasets/someone/bncap-01"], ids=["old", "kernel", "data set"]
)
def test_both_layouts_of_kaggles_inputs_are_searched(where, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.delenv("BNCAP_INPUTS", raising=False)
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "work"))
    folder = tmp_path / "input" / where
    step = folder / "artifacts" / "kaggle" / "01_data_build" / "corpus-s42"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    assert paths.input_roots() == [folder / "artifacts"]
    assert paths.step_dir("kaggle", "01_data_build", "corpus", 42) == step
    (folder / "coco2014" / "train2014").mkdir(parents=True)
    monkeypatch.delenv("BNCAP_DATA", raising=False)
    assert paths.data_path(get_config("kaggle"), "train2014") == folder / "coco2014" / "train2014"
    version = tmp_path / "input" / "models" / "someone" / "mbart" / "transformers" / "default" / "1"
    version.mkdir(parents=True)
    assert {folder, version} <= set(paths.model_folders())


def test_without_any_data_folder_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("BNCAP_DATA", raising=False)
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "none")
    with pytest.raises(BncapError, match="BNCAP_DATA"):
        paths.dataset_roots(get_config("kaggle"))
    with pytest.raises(BncapError, match="--captions"):
        paths.dataset_roots(get_config("own"))


def test_own_pictures_may_be_named_from_their_folder_or_from_the_captions_file(tmp_path):
    for name in ("Images/a.png", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    config = get_config("own", [f"data.captions={tmp_path / 'mine.csv'}"])
    wanted = {"a.png": "Images/a.png", "Images/a.png": "Images/a.png", "b.png": "b.png", "no.png": "Images/no.png"}
    assert paths.data_paths(config, wanted) == {name: tmp_path / path for name, path in wanted.items()}


def test_relative_folders_are_made_absolute_once_and_empty_variables_are_not_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BNCAP_ARTIFACTS", "out")
    monkeypatch.setenv("BNCAP_FIGURES", "")
    monkeypatch.setenv("BNCAP_INPUTS", os.pathsep.join(["earlier", "/other"]))
    paths.resolve_variables()
    monkeypatch.chdir("/")
    assert paths.artifacts_root() == tmp_path / "out"
    assert paths.input_roots() == [tmp_path / "earlier", paths.Path("/other")]
    assert "BNCAP_FIGURES" not in os.environ
    monkeypatch.setenv("BNCAP_ARTIFACTS", "")
    assert paths.artifacts_root() == paths.ROOT / "artifacts"
