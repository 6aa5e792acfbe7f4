"""Where components are found, and what of them goes into a step's key."""

import json
import os

import pytest

from bncap.config import get_config
from bncap.errors import BncapError
from bncap.pipeline import artifacts, hub, paths
from bncap.pipeline.files import file_hash, remembered_hash

CONFIG = get_config("kaggle")


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "maker" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"old")
    (folder / "README.md").write_text("words")
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "artifacts"))
    return folder


def test_a_name_is_found_in_the_first_of_the_model_folders_that_has_it(models, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("BNCAP_MODELS", os.pathsep.join([str(tmp_path / "empty"), str(tmp_path / "models")]))
    found = hub.find(CONFIG, "maker/model")
    assert (found.folder, found.source) == (models, "BNCAP_MODELS")
    assert hub.path(CONFIG, "maker/model") == str(models)
    assert hub.find(CONFIG, str(models)).source == "folder"
    for name, words in (
        (str(tmp_path / "nowhere"), "nowhere is no folder"),
        ("mini:prior", "'mini:prior'; .*mini:encoder"),
    ):
        with pytest.raises(BncapError, match=words):
            hub.find(CONFIG, name)


def test_the_revision_is_read_from_the_hubs_own_layouts(tmp_path, models):
    commit = "0123456789abcdef"
    snapshot = tmp_path / "models--maker--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    assert hub.Component("maker/model", snapshot, "hub").record()["revision"] == commit
    notes = models / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text(f"{commit}\netag\n123.4\n")
    found = hub.find(CONFIG, "maker/model")
    assert found.record()["revision"] == commit
    assert not any(".cache" in name for name in found.record()["files"])


class Unreachable(Exception):
    """As the client's HTTP library has it: an error of its own kind."""


@pytest.fixture
def no_network(monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise Unreachable("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refuse)


def test_a_name_that_is_nowhere_is_one_line_with_the_reason_and_two_remedies(models, no_network, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    said = r"\(Name or service not known\); .*BNCAP_MODELS/maker/absent.*hf download maker/absent"
    with pytest.raises(BncapError, match=said) as error:
        hub.find(CONFIG, "maker/absent")
    assert len(str(error.value).splitlines()) == 1


def test_a_download_of_the_files_that_are_loaded_which_fails_is_no_model(models, monkeypatch):
    import huggingface_hub

    files = ["config.json", "model.safetensors", "pytorch_model.bin"]

    def refuse(name, **how):
        assert how["allow_patterns"] == ["config.json", "model.safetensors"]
        raise Unreachable("connection lost")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, revision: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BncapError, match="connection lost"):
        hub.find(CONFIG, "maker/half")


def test_safetensors_are_preferred_folder_by_folder_and_other_formats_left():
    loaded = ["2_Dense/pytorch_model.bin", "model.safetensors", "sp.model"]
    left = ["pytorch_model.bin", "tf_model.h5", "README.md", "onnx/model.onnx", "openvino/model.bin"]
    assert hub.loaded_files([*left, *loaded, "unet/w.fp16.safetensors", ".gitattributes"]) == loaded


def test_changed_weights_make_a_step_anew_and_its_manifest_says_what_was_loaded(models):
    folder = paths.step_dir("kaggle", "01_data_build", "thing", 1)
    made = []
    build = lambda where: made.append(artifacts.write_text(where / "out.txt", "x"))  # noqa: E731
    how = {"settings": {}, "components": ["maker/model", "identity"], "config": CONFIG, "build": build}
    artifacts.run_step(folder, **how)
    artifacts.run_step(folder, **how)
    assert len(made) == 1
    record = json.loads((folder / "manifest.json").read_text())["components"]
    assert list(record) == ["maker/model"] and record["maker/model"]["source"] == "BNCAP_MODELS"
    assert record["maker/model"]["files"]["pytorch_model.bin"] == file_hash(models / "pytorch_model.bin")
    (models / "pytorch_model.bin").write_bytes(b"other")
    artifacts.run_step(folder, **how)
    assert len(made) == 2


def test_the_shipped_encoder_is_known_by_its_bytes():
    found = hub.find(get_config("mini"), "mini:encoder")
    assert not found.is_step and "model.safetensors" in found.record()["files"]


def test_the_hubs_cache_names_a_blob_by_its_hash(tmp_path):
    sha = "a" * 64
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / sha).write_bytes(b"anything")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / sha)
    assert remembered_hash(tmp_path / "model.safetensors") == sha


def test_a_revision_that_is_in_the_cache_stays(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--maker--kept" / "snapshots" / "abc123").mkdir(parents=True)
    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, revision: ["config.json"])
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, revision, **_: asked.append(revision) or str(tmp_path)
    )
    hub.find(CONFIG, "maker/kept")
    hub.find(CONFIG, "maker/new")
    assert asked == ["abc123", None]
