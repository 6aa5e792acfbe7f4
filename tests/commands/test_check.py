"""The check before anything starts, on machines that a fixture describes."""

import sys
from collections import namedtuple

import pytest

from bncap.commands import check
from bncap.commands.check import MISSING, NEEDS, OK, OTHER, Requirement
from bncap.config import get_config
from bncap.errors import BncapError
from bncap.pipeline import hub, paths

GB = 10**9
T4_BUILD = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CU126_BUILD = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(tmp_path, monkeypatch, artifacts_dir):
    """Sets what the machine pretends to be; by default a Kaggle kernel with two T4."""
    for name in ("BNCAP_DATA", "BNCAP_MODELS", "BNCAP_INPUTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "no-kaggle")

    def pretend(gpus=(("Tesla T4", (7, 5)),) * 2, built=T4_BUILD, memory=31.0, disk=20.9):
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i=0: gpus[i][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: gpus[i][1])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        properties = namedtuple("Properties", "total_memory")(16 * GB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: properties)
        monkeypatch.setattr(check, "memory_here", lambda: memory)
        monkeypatch.setattr(check.shutil, "disk_usage", lambda _: Usage(0, 0, disk * GB))

    pretend()
    return pretend


def put_models(folder, names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").touch()


def put_data(root):
    annotations = [
        f"annotations/{name}.json" for name in ("captions_train2014", "captions_val2014", "instances_val2014")
    ]
    for name in (*annotations, "flickr30k/results.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in ("train2014", "val2014", "flickr30k/flickr30k_images"):
        (root / name).mkdir()


def every_model(config):
    return check.real_components(config, check.find_need())


def found(config, what, notebook=None):
    return [f for f in check.check_requirements(config, notebook) if f.name == what]


def test_the_mini_profile_needs_nothing_from_outside_and_no_torch(machine, monkeypatch):
    machine(gpus=(), memory=24, disk=10)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(check, "DRIVER", paths.KAGGLE_INPUT)
    findings = check.check_requirements(get_config("mini"))
    assert MISSING not in {f.state for f in findings}
    assert "torch" not in sys.modules


def test_two_t4_are_fine(machine):
    (device,) = found(get_config("kaggle"), "device")
    assert device.state == OK and device.here.startswith("2 x Tesla T4, 16 GB")


def test_a_p100_without_kernels_is_named_with_the_command_that_helps(machine):
    machine(gpus=(("Tesla P100-PCIE-16GB", (6, 0)),))
    for profile in ("kaggle", "mini"):
        (device,) = found(get_config(profile), "device")
        assert device.state == MISSING and "no kernels for sm_60" in device.here
        assert "torch==2.14.1" in device.remedy and "whl/cu126" in device.remedy


def test_a_p100_is_fine_with_the_build_that_has_its_kernels(machine):
    machine(gpus=(("Tesla P100-PCIE-16GB", (6, 0)),), built=CU126_BUILD)
    assert found(get_config("kaggle"), "device")[0].state == OK


def test_no_gpu_stops_the_paper_but_not_a_small_run_or_a_notebook_without_models(machine):
    machine(gpus=())
    assert found(get_config("kaggle"), "device")[0].state == MISSING
    assert found(get_config("kaggle"), "device", "09")[0].state == OK
    assert found(get_config("kaggle", ["data.triplets=100"]), "device")[0].state == OK


def test_an_identity_translator_and_the_mini_verifier_need_no_gpu(machine):
    machine(gpus=())
    config = get_config("kaggle", ["components.translator=identity", "components.verifier=mini:verifier"])
    assert found(config, "device", "01")[0].state == OK
    assert [f.here for f in found(config, "models", "01")] == ["none from outside"]


def test_without_synthetic_pictures_no_synthesiser_and_no_prior_are_needed(machine):
    config = get_config("kaggle", ["components.synthesiser=none"])
    assert list(check.real_components(config, NEEDS["02"]).values()) == ["encoder"]


def test_what_is_made_already_needs_no_more_room(machine, artifacts_dir):
    config = get_config("mini")
    machine(disk=0.5)
    assert found(config, "disk")[0].state == MISSING
    (artifacts_dir / "mini" / "02_synthesis" / "features-s42").mkdir(parents=True)
    with (artifacts_dir / "mini" / "02_synthesis" / "features-s42" / "train.npy").open("wb") as stream:
        stream.truncate(6 * GB // 10)  # a sparse file
    assert found(config, "disk")[0].state == OK


@pytest.mark.parametrize(
    ("memory", "profile", "state"), [(8, "kaggle", MISSING), (3.9, "mini", OK), (2, "mini", MISSING)]
)
def test_memory_is_compared_with_what_was_measured(machine, memory, profile, state):
    machine(memory=memory)
    assert found(get_config(profile), "memory")[0].state == state


def test_a_containers_limit_counts_where_it_is_lower(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("1000000000\n")
    monkeypatch.setattr(check, "MEMORY_LIMITS", (tmp_path / "max",))
    assert check.memory_here() > 1
    monkeypatch.setattr(check, "MEMORY_LIMITS", (tmp_path / "max", tmp_path / "limit", tmp_path / "none"))
    assert check.memory_here() == 1


def test_packages_that_are_missing_or_of_other_versions_are_named(machine, monkeypatch):
    monkeypatch.setattr(check, "locked_versions", lambda: {"numpy": "0.1", "no-such-package": "1.0"})
    (packages,), (versions,) = (found(get_config("mini"), name) for name in ("packages", "versions"))
    assert packages.state == MISSING and packages.remedy == "pip install no-such-package==1.0"
    assert versions.state == OTHER and "numpy" in versions.here and "locked 0.1" in versions.here


def test_the_table_shows_remedies_where_they_help():
    rows = [
        Requirement("a", "here"),
        Requirement("b", "gone", MISSING, "get it"),
        Requirement("c", "old", OTHER, "mind"),
    ]
    assert [line.split()[0] for line in check.format_table(rows).splitlines()] == ["ok", "MISSING", "->", "other", "->"]


def test_models_are_found_below_bncap_models_in_the_cache_and_in_both_kaggle_layouts(machine, tmp_path, monkeypatch):
    config = get_config("kaggle")
    names = list(every_model(config))
    put_models(tmp_path / "models", names[:3])
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path / "models"))
    put_models(tmp_path / "hf" / "hub" / f"models--{names[3].replace('/', '--')}" / "snapshots", ["abc"])
    put_models(tmp_path / "input" / "my-models", [names[4]])
    put_models(tmp_path / "input" / "datasets" / "me" / "others", names[5:])
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "input")
    found = {f.name: f for f in check._models(config, check.find_need())}
    assert {f.state for f in found.values()} == {OK} and len(found) == len(names)
    assert found["synthesiser_prior"].here.endswith("hub cache")


def test_a_missing_model_is_named_with_the_ways_to_get_it(machine):
    (model,) = found(get_config("kaggle"), "decoder")
    assert model.state == MISSING and "facebook/mbart-large-50" in model.here
    assert "hf download facebook/mbart-large-50" in model.remedy and "$BNCAP_MODELS/facebook" in model.remedy


def test_a_model_without_weights_or_half_fetched_is_missing(machine, tmp_path, monkeypatch):
    config = get_config("kaggle")
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path))
    (tmp_path / "facebook" / "mbart-large-50").mkdir(parents=True)
    assert "no weights" in found(config, "decoder")[0].here
    cache = tmp_path / "hf" / "hub" / "models--sentence-transformers--LaBSE"
    put_models(cache / "snapshots", ["abc"])
    assert found(config, "verifier")[0].state == OK
    (cache / "blobs").mkdir()
    (cache / "blobs" / "1234.incomplete").touch()
    assert found(config, "verifier")[0].state == MISSING


def test_a_model_folder_that_is_not_there_is_missing_and_no_error(machine):
    (model,) = found(get_config("kaggle", ["components.encoder=./nowhere"]), "encoder")
    assert model.state == MISSING and "./nowhere is no folder" in model.here


def test_each_file_of_the_data_sets_is_found_or_named(machine, tmp_path, monkeypatch):
    config = get_config("kaggle")
    put_data(tmp_path / "data")
    monkeypatch.setenv("BNCAP_DATA", str(tmp_path / "data"))
    findings = check._data(config, check.find_need())
    assert [f.state for f in findings] == [OK] * 7
    (tmp_path / "data" / "val2014").rmdir()
    (tmp_path / "data" / "flickr30k" / "results.csv").unlink()
    missing = [f for f in check._data(config, check.find_need()) if f.state == MISSING]
    assert [f.name for f in missing] == ["COCO", "Flickr30k"]
    assert missing[0].here == "val2014: not found" and "results_20130124.token: not found" in missing[1].here


def test_boxes_are_asked_for_where_scores_are_made_and_their_lack_stops_nothing(machine, tmp_path, monkeypatch):
    put_data(tmp_path / "data")
    monkeypatch.setenv("BNCAP_DATA", str(tmp_path / "data"))
    (tmp_path / "data/annotations/instances_val2014.json").unlink()
    objects = {n: [f for f in check._data(get_config("kaggle"), NEEDS[n]) if f.name == "objects"] for n in NEEDS}
    assert [n for n, found in objects.items() if found] == ["04", "05", "11", "12"]
    assert objects["04"][0].state == OTHER and "no noun scores, no grounding" in objects["04"][0].here
    hindi = check._data(get_config("kaggle", ["data.lang=hi_IN"]), NEEDS["04"])
    assert any(f.name == "objects" and f.state == OTHER for f in hindi)


@pytest.mark.parametrize("attached", ["coco", "datasets/someone/coco", "datasets/someone/coco/coco2014"])
def test_the_data_sets_are_found_among_the_inputs_of_a_kernel(machine, tmp_path, monkeypatch, attached):
    put_data(tmp_path / "input" / attached)
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "input")
    findings = check._data(get_config("kaggle"), check.find_need())
    assert {f.state for f in findings} == {OK}


def test_captions_alone_need_no_pictures(machine, tmp_path, monkeypatch):
    put_data(tmp_path / "data")
    (tmp_path / "data" / "train2014").rmdir()
    monkeypatch.setenv("BNCAP_DATA", str(tmp_path / "data"))
    states = {
        checked: {f.state for f in found(get_config("kaggle", [f"data.check_images={checked}"]), "COCO", "01")}
        for checked in (True, False)
    }
    assert states == {True: {OK, MISSING}, False: {OK}}


def test_own_captions_and_pictures_are_found_or_named(machine, tmp_path):
    config = get_config("own", [f"data.captions={tmp_path / 'mine.csv'}", f"data.images={tmp_path / 'pictures'}"])
    assert [f.state for f in check._data(config, NEEDS["01"])] == [MISSING, MISSING]
    (tmp_path / "mine.csv").write_text("image,caption\n" + "".join(f"{i}.png,বিড়াল\n" for i in range(3)))
    (tmp_path / "pictures").mkdir()
    assert [f.state for f in check._data(config, NEEDS["01"])] == [OK, OK]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "name the captions file with --captions FILE"),
        (b"", "mine.csv is empty"),
        (b"file,text\na.png,a cat\n", "its first line is 'file,text'"),
        ("image,caption\na.png,বিড়াল\n".encode("utf-16"), "iconv -f UTF-16 "),
        ("image,caption\na.png,বিড়াল\n".encode("utf-16-le"), "is no UTF-8 text: byte 0x00 at offset 1 (line 1)"),
        ("image,caption\na.png,বিড়াল\n".encode(), "at least 3"),
    ],
)
def test_own_captions_are_read_before_any_notebook_starts(machine, tmp_path, content, said):
    if content is not None:
        (tmp_path / "mine.csv").write_bytes(content)
    config = get_config("own", [f"data.captions={tmp_path / 'mine.csv'}", f"data.images={tmp_path}"])
    with pytest.raises(BncapError) as error:
        check.require(config, "00")
    assert str(error.value).startswith("notebook 00 in profile own cannot run: captions: ")
    assert len(str(error.value).splitlines()) == 1 and said in str(error.value)


def test_a_profile_for_own_captions_without_any_says_how_to_name_them(machine):
    for notebook in ("00", "01", "04"):
        with pytest.raises(BncapError, match="--captions FILE") as error:
            check.require(get_config("own"), notebook)
        assert "cocodataset" not in str(error.value)


def test_require_says_one_line_or_all_that_is_missing(machine, capsys):
    machine(memory=24, disk=50)
    check.require(get_config("mini"), "04")
    assert "notebook 04 in profile mini" in capsys.readouterr().out
    with pytest.raises(BncapError, match="hf download facebook/mbart-large-50") as error:
        check.require(get_config("kaggle"), "04")
    assert "bert-base-multilingual-cased" in str(error.value) and "LaBSE" not in str(error.value)


def test_an_unknown_notebook_is_refused():
    with pytest.raises(BncapError, match="no notebook '77'"):
        check.check_requirements(get_config("mini"), "77")
    with pytest.raises(BncapError, match="no notebook '77'"):
        check.download(get_config("mini"), "77")


def test_download_fetches_what_is_not_here_and_nothing_else(machine, tmp_path, monkeypatch):
    put_models(tmp_path, ["facebook/mbart-large-50"])
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path))
    fetched = []
    monkeypatch.setattr(hub, "_fetch", lambda name: fetched.append(name) or tmp_path)
    check.download(get_config("kaggle"), "04")
    assert fetched == ["timm/maxvit_base_tf_224.in1k", "bert-base-multilingual-cased"]
