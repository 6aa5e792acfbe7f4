"""Kernels and dataset for Kaggle: what its own package makes of them, and the generated code in both layouts."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from bncap.errors import BncapError
from bncap.kaggle import session
from bncap.kaggle.kernels import PACKAGE_SLUG, Export, write_kernels
from bncap.pipeline import paths

LAYOUTS = {"old": "{slug}", "datasets": "datasets/somebody/{slug}", "notebooks": "notebooks/somebody/{slug}"}
EXPORT = Export("somebody", translation_kernels=4, synthesis_kernels=2, data=("else/coco",))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("kernels")
    return {folder.name: folder for folder in write_kernels(EXPORT, out)}


def metadata(folder):
    return json.loads((folder / "kernel-metadata.json").read_text("utf-8"))


def code_cells(folder):
    cells = json.loads((folder / f"{folder.name}.ipynb").read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


class Recorder:
    """In the place of Kaggle's client: keeps what would have been sent."""

    def __init__(self):
        self.sent = []
        self.kernels = self.datasets = self.kernels_api_client = self.dataset_api_client = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def save_kernel(self, request):
        self.sent.append(request)

    def create_dataset(self, request):
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetResponse

        self.sent.append(request)
        return ApiCreateDatasetResponse()


@pytest.fixture
def api(tmp_path, monkeypatch):
    """Kaggle's own code with made-up credentials; nothing leaves this process."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    for name, value in {"USERNAME": "somebody", "KEY": "0" * 32, "CONFIG_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"KAGGLE_{name}", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    from kaggle.api.kaggle_api_extended import KaggleApi
    from requests import HTTPError

    def unknown(*_, **__):
        raise HTTPError("404")

    api, recorder = KaggleApi(), Recorder()
    api.authenticate()
    monkeypatch.setattr(api, "build_kaggle_client", lambda: recorder)
    monkeypatch.setattr(api, "dataset_status", unknown)
    api.recorder = recorder
    return api


def test_kaggles_own_code_accepts_every_kernel(api, written, capsys):
    for name, folder in written.items():
        if name != PACKAGE_SLUG:
            api.kernels_push(str(folder))
            request = api.recorder.sent[-1]
            assert request.slug == f"somebody/{name}" and json.loads(request.text)["nbformat"] == 4
    assert len(api.recorder.sent) == len(written) - 1 == 16
    assert "does not resolve" not in capsys.readouterr().out  # titles agree with slugs


def test_kaggles_own_code_accepts_the_dataset_with_all_of_its_folders(api, written, monkeypatch):
    uploaded = {}

    def upload(name, path, *_, **__):
        uploaded[name] = zipfile.ZipFile(path).namelist() if name.endswith(".zip") else None

    monkeypatch.setattr(api, "_upload_file", upload)
    api.dataset_create_new(str(written[PACKAGE_SLUG]), dir_mode="zip", quiet=True)
    assert api.recorder.sent[0].slug == PACKAGE_SLUG
    assert set(uploaded) == {
        "bncap.zip", "notebooks.zip", "requirements.txt", "pyproject.toml", "run_all.sh", "README.md", "LICENSE"
    }  # fmt: skip
    assert {"__main__.py", "small_models/checkpoints/maxvit_mini/model.safetensors"} <= set(uploaded["bncap.zip"])


def test_sources_are_kernels_that_come_before(written):
    seen = set()
    for name, folder in list(written.items())[1:]:
        sources = metadata(folder)["kernel_sources"]
        assert set(sources) <= seen
        seen.add(f"somebody/{name}")
    shares = [f"bncap-01-translation-{i}-of-4" for i in range(1, 5)]
    shards = [code_cells(written[name])[0].split("'--shards', '")[1].split("'")[0] for name in shares]
    assert ",".join(shards) == "0,1,2,3,4,5,6,7,8,9"
    read = metadata(written["bncap-02-synthesis"])["kernel_sources"]
    assert read == [f"somebody/bncap-{n}" for n in ("01-data-build", "02-synthesis-1-of-2", "02-synthesis-2-of-2")]


def test_a_gpu_is_asked_for_where_one_is_needed(written):
    plain = {n[6:8] for n, folder in written.items() if n != PACKAGE_SLUG and not metadata(folder)["enable_gpu"]}
    assert plain == {"03", "09"}
    assert metadata(written["bncap-04-training"])["machine_shape"] == "NvidiaTeslaT4"
    assert metadata(written["bncap-09-report"])["machine_shape"] == ""


def test_data_and_models_are_attached_by_their_kind(tmp_path):
    models = ("me/weights", "google/mbart/pyTorch/large/1")
    folders = write_kernels(Export("somebody", data=("a/coco", "b/flickr"), models=models, resume=True), tmp_path)
    found = metadata(folders[1])
    assert found["dataset_sources"] == ["somebody/bncap-package", "a/coco", "b/flickr", "me/weights"]
    assert found["model_sources"] == ["google/mbart/pyTorch/large/1"]
    assert found["kernel_sources"] == ["somebody/bncap-01-data-build"]  # itself, to go on


def test_the_mini_world_has_its_kernel_only_where_it_is_needed(tmp_path, written):
    assert not any(name.startswith("bncap-00") for name in written)
    assert "no kernel for notebook 00" in (written[PACKAGE_SLUG].parent / "README.md").read_text("utf-8")
    folders = write_kernels(Export("somebody", profile="mini"), tmp_path)
    assert folders[1].name == "bncap-00-mini-world"
    assert "somebody/bncap-00-mini-world" in metadata(folders[2])["kernel_sources"]


def test_the_same_call_writes_the_same_bytes_over_its_own_folders(tmp_path):
    def content():
        folders = write_kernels(EXPORT, tmp_path)
        files = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()]
        return {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in files}

    first = content()
    assert content() == first
    assert not any("__pycache__" in name or name.endswith(".pyc") or "artifacts/" in name for name in first)


@pytest.mark.parametrize(
    "wrong",
    [{"user": "Some Body"}, {"translation_kernels": 11}, {"synthesis_kernels": -1}, {"minutes": 720},
     {"data": ("coco",)}, {"models": ("a/b/c",)}, {"profile": "large"}],
)  # fmt: skip
def test_a_wrong_option_is_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(BncapError):
        write_kernels(Export(**({"user": "somebody"} | wrong)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_captions_of_ones_own_are_named_as_they_lie_in_a_kernel(tmp_path):
    for captions in ((), ("data.captions=/home/me/captions.csv",)):
        with pytest.raises(BncapError, match="a kernel has no such file; upload it"):
            write_kernels(Export("somebody", "own", captions), tmp_path / "out")
    folders = write_kernels(Export("somebody", "own", ("data.captions=/kaggle/input/mine/captions.csv",)), tmp_path)
    assert [folder.name[6:8] for folder in folders[1:]] == ["00", "01", "02", "04", "10"]


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    with pytest.raises(BncapError, match="--out"):
        write_kernels(Export("somebody"), tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / PACKAGE_SLUG).mkdir()
    (tmp_path / PACKAGE_SLUG / "mine.txt").write_text("mine")
    with pytest.raises(BncapError, match="holds something else"):
        write_kernels(Export("somebody"), tmp_path)
    assert (tmp_path / PACKAGE_SLUG / "mine.txt").read_text() == "mine"


def start(folder, root, tmp_path, cells):
    """Run the first ``cells`` code cells of a kernel in a process of its own, on inputs below ``root``."""
    settings, *others = code_cells(folder)[:cells]
    settings = settings.replace('"/kaggle/', f'"{root}/').replace("/tmp/bncap", str(tmp_path / "scratch"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BNCAP", "KAGGLE", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-c", "\n".join([settings, *others])],
        cwd=tmp_path, capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["old", "datasets"])
def test_a_kernel_finds_package_and_its_own_output_in_both_layouts(written, tmp_path, layout):
    root, name = tmp_path / "kaggle", "bncap-04-training"
    package = root / "input" / LAYOUTS[layout].format(slug=PACKAGE_SLUG)
    own = root / "input" / LAYOUTS["old" if layout == "old" else "notebooks"].format(slug=name)
    (own / "artifacts" / "kaggle").mkdir(parents=True)
    (own / "artifacts" / "kaggle" / "made.txt").write_text("made")
    package.parent.mkdir(parents=True, exist_ok=True)
    package.symlink_to(written[PACKAGE_SLUG])
    done = start(written[name], root, tmp_path, 3)
    assert done.returncode == 0, done.stderr
    assert f"continuing from {own}" in done.stdout
    assert (tmp_path / "scratch" / "package" / "bncap" / "__main__.py").is_file()
    assert [p.relative_to(root).as_posix() for p in (root / "working").rglob("*") if p.is_file()] == [
        "working/artifacts/kaggle/made.txt"
    ]


def test_without_the_package_a_kernel_says_what_to_attach(written, tmp_path):
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    done = start(written["bncap-04-training"], tmp_path / "kaggle", tmp_path, 2)
    assert done.returncode == 1 and "attach the dataset somebody/bncap-package" in done.stderr


def fake_package(folder, status):
    (folder / "bncap").mkdir(parents=True)
    (folder / "bncap" / "__init__.py").touch()
    (folder / "bncap" / "__main__.py").write_text(f"import sys\nprint(sys.argv[1:])\nsys.exit({status})")
    return folder


@pytest.fixture
def lacking(monkeypatch):
    """Two packages of the requirements and torch are not installed; what pip is asked for is recorded."""
    calls, gone = [], {"torch", "sacremoses", "diffusers"}
    monkeypatch.setattr(session, "installed_version", lambda name: None if name in gone else "1.0")

    def pip(command, check):
        calls.append(command)
        gone.difference_update(argument.split("==")[0] for argument in command)

    monkeypatch.setattr(session.subprocess, "run", pip)
    return calls


@pytest.mark.parametrize("internet", [True, False])
def test_only_what_is_missing_is_installed_and_torch_never(lacking, tmp_path, monkeypatch, internet):
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path)
    if not internet:
        with pytest.raises(BncapError, match="missing packages: diffusers==.* sacremoses=="):
            session.install_missing(False, tmp_path)
        assert not lacking, "there are no wheels"
    wheels = tmp_path / "datasets" / "me" / "wheels" / "all"
    wheels.mkdir(parents=True)
    (wheels / "sacremoses-0.2.0-py3-none-any.whl").touch()
    session.install_missing(internet, tmp_path)
    (command,) = lacking
    assert {a.split("==")[0] for a in command if "==" in a} == {"sacremoses", "diffusers"}
    assert (tmp_path / "constraints.txt").read_text().startswith("torchvision==1.0")
    assert ("--no-index" in command) == (f"--find-links={wheels}" in command) == (not internet)


def test_the_end_of_the_time_is_a_good_end_and_any_other_failure_stops_the_kernel(tmp_path, capsys):
    session.run(["run", "--only", "04"], fake_package(tmp_path / "a", 75))
    printed = capsys.readouterr().out
    assert "['run', '--only', '04']" in printed and "Time is up" in printed
    with pytest.raises(BncapError, match="exit status 1"):
        session.run(["run"], fake_package(tmp_path / "b", 1))


def test_the_report_gets_all_figures_and_what_is_too_large_for_the_output_stays_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setenv("BNCAP_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "scratch"))
    for slug, name in (("bncap-01-data-build", "acceptance.png"), ("notebooks/me/bncap-04-training", "captions.png")):
        (tmp_path / "input" / slug / "artifacts").mkdir(parents=True)
        (tmp_path / "input" / slug / "figures" / "kaggle").mkdir(parents=True)
        (tmp_path / "input" / slug / "figures" / "kaggle" / name).touch()
    session.gather_figures()
    assert sorted(p.name for p in (tmp_path / "figures/kaggle").iterdir()) == ["acceptance.png", "captions.png"]
    for step in ("features-vit-s42", "vit_gpt2-s42"):
        (tmp_path / "scratch/kaggle/05_baselines" / step).mkdir(parents=True)
    session.keep_artifacts(tmp_path / "kept", "features-*")
    assert [p.name for p in (tmp_path / "kept/kaggle/05_baselines").iterdir()] == ["vit_gpt2-s42"]
