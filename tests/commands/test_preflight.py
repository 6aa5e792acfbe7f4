"""The check before anything starts, on machines that are pretended."""

import json
import sys
from collections import namedtuple

import pytest

from bncap.commands import check, check_data, resources
from bncap.commands.check import MISSING, NEEDS, OK, OTHER, Finding
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
        monkeypatch.setattr(resources, "memory_here", lambda: memory)
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: Usage(0, 0, disk * GB))

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
    return check.real_components(config, check._need(None))


def found(config, what, notebook=None):
    return [f for f in check.preflight(config, notebook) if f.what == what]


def test_the_mini_profile_needs_nothing_from_outside_and_no_torch(machine, monkeypatch):
    machine(gpus=(), memory=24, disk=10)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(check, "DRIVER", paths.KAGGLE_INPUT)
    findings = check.preflight(get_config("mini"))
    assert MISSING not in {f.state for f in findings}
    assert "torch" not in sys.modules


def test_two_t4_are_fine(machine):
    (device,) = found(get_config("kaggle"), "device")
    assert device.state == OK and device.found.startswith("2 x Tesla T4, 16 GB")


def test_a_p100_without_kernels_is_named_with_the_command_that_helps(machine):
    machine(gpus=(("Tesla P100-PCIE-16GB", (6, 0)),))
    for profile in ("kaggle", "mini"):
        (device,) = found(get_config(profile), "device")
        assert device.state == MISSING and "no kernels for sm_60" in device.found
        assert "torch==2.14.1" in device.remedy and "whl/cu126" in device.remedy


def test_a_p100_is_fine_with_the_build_that_has_its_kernels(machine):
    machine(gpus=(("Tesla P100-PCIE-16GB", (6, 0)),), built=CU126_BUILD)
    assert found(get_config("kaggle"), "device")[0].state == OK


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [((7, 5), ["sm_70"], True), ((7, 0), ["sm_75"], False), ((8, 9), ["sm_75", "sm_80"], True),
     ((6, 0), ["sm_75", "compute_75"], False), ((9, 0), ["compute_80"], True), ((9, 0), ["sm_90a"], True),
     ((9, 2), ["sm_90a"], False), ((12, 0), ["sm_100", "sm_120"], True), ((10, 3), ["sm_100"], True),
     ((7, 5), [], False), ((9, 0), ["gfx90a"], True)],
)  # fmt: skip
def test_machine_code_runs_on_its_major_version_and_intermediate_code_on_newer_ones(capability, built, runs):
    assert check.has_kernels(capability, built) is runs


def test_no_gpu_stops_the_paper_but_not_a_small_run_or_a_notebook_without_models(machine):
    machine(gpus=())
    assert found(get_config("kaggle"), "device")[0].state == MISSING
    assert found(get_config("kaggle"), "device", "09")[0].state == OK
    assert found(get_config("kaggle", ["data.triplets=100"]), "device")[0].state == OK


def test_an_identity_translator_and_the_mini_verifier_need_no_gpu(machine):
    machine(gpus=())
    config = get_config("kaggle", ["components.translator=identity", "components.verifier=mini:verifier"])
    assert found(config, "device", "01")[0].state == OK
    assert [f.found for f in found(config, "models", "01")] == ["none from outside"]


def test_without_synthetic_pictures_no_synthesiser_and_no_prior_are_needed(machine):
    config = get_config("kaggle", ["components.synthesiser=none"])
    assert list(check.real_components(config, NEEDS["02"]).values()) == ["encoder"]


def test_every_notebook_of_the_kaggle_profile_fits_the_output_of_a_kernel_but_the_one_that_says_so(machine):
    config = get_config("kaggle")
    too_large = {n for n in NEEDS if any(f.state == MISSING for f in found(config, "disk", n))}
    assert too_large == {"05", "11"}  # the features of two more encoders; seventeen models


def test_what_is_made_already_needs_no_more_room(machine, artifacts_dir):
    config = get_config("mini")
    machine(disk=0.5)
    assert found(config, "disk")[0].state == MISSING
    (artifacts_dir / "mini" / "02_synthesis" / "features-s42").mkdir(parents=True)
    with (artifacts_dir / "mini" / "02_synthesis" / "features-s42" / "train.npy").open("wb") as stream:
        stream.truncate(6 * GB // 10)  # a sparse file
    assert found(config, "disk")[0].state == OK


def test_full_size_pictures_need_more_room():
    need = [resources.disk_needed(get_config("kaggle", [f"synthesis.stored_side={s}"]), True, "02") for s in (224, 0)]
    assert 15 < need[0] < 20 < 80 < need[1] < 110


def test_little_memory_is_missing(machine):
    machine(memory=8.0)
    assert found(get_config("kaggle"), "memory")[0].state == MISSING
    assert found(get_config("mini"), "memory")[0].state == OK


def test_the_limit_of_a_container_counts_where_it_is_lower(monkeypatch):
    physical = resources.memory_here()
    monkeypatch.setattr(resources, "_container_limits", lambda: [3 * GB, 2**63 - 4096])
    assert resources.memory_here() == 3.0
    monkeypatch.setattr(resources, "_container_limits", lambda: [2**63 - 4096])
    assert resources.memory_here() >= physical


def test_models_are_found_below_bncap_models_in_the_cache_and_in_both_kaggle_layouts(machine, tmp_path, monkeypatch):
    config = get_config("kaggle")
    names = list(every_model(config))
    put_models(tmp_path / "models", names[:3])
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path / "models"))
    put_models(tmp_path / "hf" / "hub" / f"models--{names[3].replace('/', '--')}" / "snapshots", ["abc"])
    put_models(tmp_path / "input" / "my-models", [names[4]])
    put_models(tmp_path / "input" / "datasets" / "me" / "others", names[5:])
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "input")
    found = {f.what: f for f in check._models(config, check._need(None))}
    assert {f.state for f in found.values()} == {OK} and len(found) == len(names)
    assert found["synthesiser_prior"].found.endswith("hub cache")


def test_a_missing_model_is_named_with_the_ways_to_get_it(machine):
    (model,) = found(get_config("kaggle"), "decoder")
    assert model.state == MISSING and "facebook/mbart-large-50" in model.found
    assert "hf download facebook/mbart-large-50" in model.remedy and "$BNCAP_MODELS/facebook" in model.remedy


def test_a_model_without_weights_or_half_fetched_is_missing(machine, tmp_path, monkeypatch):
    config = get_config("kaggle")
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path))
    (tmp_path / "facebook" / "mbart-large-50").mkdir(parents=True)
    assert "no weights" in found(config, "decoder")[0].found
    cache = tmp_path / "hf" / "hub" / "models--sentence-transformers--LaBSE"
    put_models(cache / "snapshots", ["abc"])
    assert found(config, "verifier")[0].state == OK
    (cache / "blobs").mkdir()
    (cache / "blobs" / "1234.incomplete").touch()
    assert found(config, "verifier")[0].state == MISSING


def test_a_model_folder_that_is_not_there_is_missing_and_no_error(machine):
    (model,) = found(get_config("kaggle", ["components.encoder=./nowhere"]), "encoder")
    assert model.state == MISSING and "./nowhere is no folder" in model.found


def test_each_file_of_the_data_sets_is_found_or_named(machine, tmp_path, monkeypatch):
    config = get_config("kaggle")
    put_data(tmp_path / "data")
    monkeypatch.setenv("BNCAP_DATA", str(tmp_path / "data"))
    findings = check_data.of_data(config, check._need(None))
    assert [f.state for f in findings] == [OK] * 7
    (tmp_path / "data" / "val2014").rmdir()
    (tmp_path / "data" / "flickr30k" / "results.csv").unlink()
    missing = [f for f in check_data.of_data(config, check._need(None)) if f.state == MISSING]
    assert [f.what for f in missing] == ["COCO", "Flickr30k"]
    assert missing[0].found == "val2014: not found" and "results_20130124.token: not found" in missing[1].found


def test_boxes_are_asked_for_where_scores_are_made_and_their_lack_stops_nothing(machine, tmp_path, monkeypatch):
    put_data(tmp_path / "data")
    monkeypatch.setenv("BNCAP_DATA", str(tmp_path / "data"))
    (tmp_path / "data/annotations/instances_val2014.json").unlink()
    objects = {n: [f for f in check_data.of_data(get_config("kaggle"), NEEDS[n]) if f.what == "objects"] for n in NEEDS}
    assert [n for n, found in objects.items() if found] == ["04", "05", "11", "12"]
    assert objects["04"][0].state == OTHER and "no noun scores, no grounding" in objects["04"][0].found
    hindi = check_data.of_data(get_config("kaggle", ["data.lang=hi_IN"]), NEEDS["04"])
    assert any(f.what == "objects" and f.state == OTHER for f in hindi)


@pytest.mark.parametrize("attached", ["coco", "datasets/someone/coco", "datasets/someone/coco/coco2014"])
def test_the_data_sets_are_found_among_the_inputs_of_a_kernel(machine, tmp_path, monkeypatch, attached):
    put_data(tmp_path / "input" / attached)
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "input")
    findings = check_data.of_data(get_config("kaggle"), check._need(None))
    assert {f.state for f in findings} == {OK}


def test_without_any_data_the_remedy_says_where_they_are_to_be_had(machine):
    (data,) = found(get_config("kaggle"), "data")
    assert data.state == MISSING and "BNCAP_DATA" in data.remedy and "cocodataset.org" in data.remedy


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
    assert [f.state for f in check_data.of_data(config, NEEDS["01"])] == [MISSING, MISSING]
    (tmp_path / "mine.csv").write_text("image,caption\n" + "".join(f"{i}.png,বিড়াল\n" for i in range(3)))
    (tmp_path / "pictures").mkdir()
    assert [f.state for f in check_data.of_data(config, NEEDS["01"])] == [OK, OK]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "name the captions file with --captions FILE"),
        (b"", "mine.csv is empty"),
        (b"file,text\na.png,a cat\n", "its first line is 'file,text'"),
        ("image,caption\na.png,বিড়াল\n".encode("utf-16"), "is not UTF-8"),
        ("image,caption\na.png,বিড়াল\n".encode("utf-16-le"), "is no UTF-8 text: byte 0x00 at offset 1 (line 1)"),
        ("image,caption\na.png,বিড়াল\n".encode(), "at least 3"),
    ],
)
def test_own_captions_are_read_before_any_notebook_starts(machine, tmp_path, content, said):
    if content is not None:
        (tmp_path / "mine.csv").write_bytes(content)
    config = get_config("own", [f"data.captions={tmp_path / 'mine.csv'}", f"data.images={tmp_path}"])
    with pytest.raises(BncapError) as error:
        check.ensure(config, "00")
    assert str(error.value).startswith("notebook 00 in profile own cannot run: captions: ")
    assert len(str(error.value).splitlines()) == 1 and said in str(error.value)


def test_a_profile_for_own_captions_without_any_says_how_to_name_them(machine):
    for notebook in ("00", "01", "04"):
        with pytest.raises(BncapError, match="--captions FILE") as error:
            check.ensure(get_config("own"), notebook)
        assert "cocodataset" not in str(error.value)


def test_another_version_is_said_and_a_missing_package_is_missing(machine, monkeypatch):
    monkeypatch.setattr(check, "pins", lambda: {"numpy": "0.1", "no-such-package": "1.0"})
    packages, other = check._packages()
    assert packages.state == MISSING and packages.remedy == "pip install no-such-package==1.0"
    assert other.state == OTHER and "numpy" in other.found and "pinned 0.1" in other.found


def test_what_only_the_tests_use_is_not_needed():
    assert "torch" in check.pins() and not {"pytest", "ruff", "pot", "triton"} & set(check.pins())


def test_require_says_one_line_or_all_that_is_missing(machine, capsys):
    machine(memory=24, disk=50)
    check.require(get_config("mini"), "04")
    assert capsys.readouterr().out.startswith("all that notebook 04 in profile mini needs is here")
    with pytest.raises(BncapError, match="hf download facebook/mbart-large-50") as error:
        check.require(get_config("kaggle"), "04")
    assert "bert-base-multilingual-cased" in str(error.value) and "LaBSE" not in str(error.value)


def test_an_unknown_notebook_is_refused():
    with pytest.raises(BncapError, match="no notebook '77'"):
        check.preflight(get_config("mini"), "77")
    with pytest.raises(BncapError, match="no notebook '77'"):
        check.download(get_config("mini"), "77")


def test_download_fetches_what_is_not_here_and_nothing_else(machine, tmp_path, monkeypatch):
    put_models(tmp_path, ["facebook/mbart-large-50"])
    monkeypatch.setenv("BNCAP_MODELS", str(tmp_path))
    fetched = []
    monkeypatch.setattr(hub, "_fetch", lambda name: fetched.append(name) or tmp_path)
    check.download(get_config("kaggle"), "04")
    assert fetched == ["timm/maxvit_base_tf_224.in1k", "bert-base-multilingual-cased"]


def test_the_table_has_a_line_for_each_finding_and_remedies_where_they_help():
    findings = [Finding("a", "here"), Finding("b", "gone", MISSING, "get it"), Finding("c", "older", OTHER, "mind it")]
    lines = check.table(findings).splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "MISSING", "->", "other", "->"]
    assert json.dumps(lines).count("get it") == 1
