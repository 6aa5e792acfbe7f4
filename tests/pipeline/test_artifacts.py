import multiprocessing
import time

import pytest
from safetensors import SafetensorError

from bncap.config import get_config
from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths


def step(variant="a", name="01_data_build"):
    return paths.step_dir("smoke", name, variant, 42)


def write(text):
    return lambda folder: artifacts.write_text(folder / "out.txt", text)


def make(text="one", settings=None, inputs=(), folder=None):
    calls = []

    def build(target):
        calls.append(target)
        write(text)(target)

    artifacts.run_step(folder or step(), settings=settings or {"x": 1}, inputs=inputs, build=build)
    return len(calls)


def test_a_finished_step_is_skipped_and_a_changed_setting_makes_it_again(artifacts_dir, capsys):
    assert [make(), make()] == [1, 0]
    assert "01_data_build/a-s42: up to date" in capsys.readouterr().out
    assert make("two", {"x": 2}) == 1 and (step() / "out.txt").read_text() == "two"


def test_a_changed_input_makes_the_step_again_and_an_identical_one_does_not(artifacts_dir):
    upper = step("upper", "02_synthesis")
    make("one")
    assert make("up", inputs=[step()], folder=upper) == 1
    make("one", {"x": 2})  # same bytes by another setting
    assert make("up", inputs=[step()], folder=upper) == 0
    make("two", {"x": 3})
    assert make("up", inputs=[step()], folder=upper) == 1


def test_a_step_that_is_made_again_says_what_changed(artifacts_dir, capsys, monkeypatch):
    make(settings={"loss": {"tau": 1.0, "rho": 0.5}}, inputs=[])
    make(settings={"loss": {"tau": 0.7, "rho": 0.5}})
    assert "made again because setting loss.tau (1.0, now 0.7) changed" in capsys.readouterr().out
    upper = step("upper", "02_synthesis")
    make(inputs=[step()], folder=upper)
    make("two", {"loss": 1})
    make(inputs=[step()], folder=upper)
    assert "made again because input smoke/01_data_build/a-s42 changed" in capsys.readouterr().out
    monkeypatch.setattr(artifacts.SOURCES, "step_code", lambda build: {"bncap.losses": "another"})
    assert make("two", {"loss": 1}) == 1
    assert "made again because the code of bncap.losses changed" in capsys.readouterr().out
    assert artifacts.read_manifest(step())["code"] == {"bncap.losses": "another"}


def test_a_forced_step_is_made_again_once_in_a_run(artifacts_dir, monkeypatch):
    lower, upper = step(), step("upper", "02_synthesis")
    make(folder=lower), make(folder=upper)
    monkeypatch.setenv("BNCAP_FORCE", "token:02,04")
    assert [make(folder=folder) for folder in (lower, upper, upper)] == [0, 1, 0]
    monkeypatch.setenv("BNCAP_FORCE", "another run:02")
    assert [make(folder=folder) for folder in (upper, upper)] == [1, 0]
    monkeypatch.delenv("BNCAP_FORCE")
    assert make(folder=upper) == 0


def test_a_forced_step_continues_what_its_own_run_began_and_nothing_else(artifacts_dir, monkeypatch):
    seen = []

    def stop(folder):
        seen.append((folder / "part.txt").exists())
        artifacts.write_text(folder / "part.txt", "kept")
        raise RuntimeError("stopped")

    for token in ("", "first:01", "first:01", "second:01", ""):
        monkeypatch.setenv("BNCAP_FORCE", token)
        with pytest.raises(RuntimeError):
            artifacts.run_step(step(), settings={"x": 1}, build=stop)
    assert seen == [False, False, True, False, True]


def test_each_of_two_plain_files_of_one_name_counts(artifacts_dir, tmp_path):
    sources = [tmp_path / part / "captions.json" for part in ("train", "val")]
    for source in sources:
        artifacts.write_text(source, "1")
    assert [make(inputs=sources), make(inputs=sources)] == [1, 0]
    for source in sources:
        source.write_text("2")
        assert make(inputs=sources) == 1


def test_the_manifest_records_what_reproduction_needs_and_the_configuration_outside_the_key(artifacts_dir):
    calls = []
    for overrides in ((), ("train.epochs=9",)):
        config = get_config("smoke", overrides)
        artifacts.run_step(step(), settings={"x": 1}, build=lambda f: (write("1")(f), calls.append(f)), config=config)
    assert len(calls) == 1  # the second is up to date
    manifest = artifacts.read_json(step() / "manifest.json")
    assert manifest["outputs"]["out.txt"]["sha256"] == artifacts.file_hash(step() / "out.txt")
    assert manifest["settings"] == {"x": 1} and manifest["seed"] == 42 and manifest["variant"] == "a"
    assert {"commit", "packages", "seconds", "peak_memory_bytes", "inputs", "step"} <= set(manifest)
    assert manifest["config"]["train"]["epochs"] == 1 and len(manifest["config_sha256"]) == 64


@pytest.mark.parametrize(("settings", "kept"), [({"x": 1}, True), ({"x": 2}, False)])
def test_a_failed_build_continues_from_its_own_work_alone(artifacts_dir, settings, kept):
    def fail(folder):
        artifacts.write_text(folder / "part.txt", "kept")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        artifacts.run_step(step(), settings={"x": 1}, build=fail)
    assert not artifacts.is_finished(step())
    seen = []
    artifacts.run_step(step(), settings=settings, build=lambda f: seen.append((f / "part.txt").exists()))
    assert seen == [kept]


def test_a_rebuild_that_fails_loses_nothing_that_was_finished(artifacts_dir):
    make("precious")

    def fail(folder):
        raise RuntimeError("stopped")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            artifacts.run_step(step(), settings={"x": 2}, build=fail)
    previous = step().with_name(".a-s42.previous")
    assert (previous / "out.txt").read_text() == "precious"
    make("new", {"x": 2})
    assert not previous.exists()


def test_an_output_that_is_gone_or_changed_under_its_manifest_is_named_by_its_step_and_those_that_read_it(
    artifacts_dir,
):
    make()
    for damage in (lambda path: path.write_text("tampered"), lambda path: path.unlink()):
        damage(step() / "out.txt")
        for use in (make, lambda: make(inputs=[step()], folder=step("upper", "02_synthesis"))):
            with pytest.raises(BncapError, match=r"01_data_build/a-s42/out\.txt .*delete smoke/01_data_build/a-s42"):
                use()


def test_a_missing_input_names_the_command_that_makes_it(artifacts_dir):
    with pytest.raises(BncapError, match=r"\./run_all\.sh --profile smoke --only 01"):
        make(inputs=[step("missing")], folder=step("upper", "02_synthesis"))


@pytest.mark.parametrize("by_safetensors", [False, True])
def test_a_full_disk_is_named_with_the_remedy_and_the_last_result_is_kept(artifacts_dir, by_safetensors):
    def build(folder):
        if by_safetensors:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        (folder / "log.csv").symlink_to("/dev/full")
        with (folder / "log.csv").open("a") as stream:
            stream.write("1,2,3")

    make("precious")
    with pytest.raises(BncapError, match="disk full while writing smoke/01_data_build/a-s42: .*BNCAP_ARTIFACTS"):
        artifacts.run_step(step(), settings={"x": 2}, build=build)
    assert (step().with_name(".a-s42.previous") / "out.txt").read_text() == "precious"


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"key": "k", "outputs": {}}'])
def test_a_damaged_manifest_is_named_with_its_remedy_and_nothing_is_deleted(artifacts_dir, content):
    make()
    (step() / "manifest.json").write_text(content)
    for use in (make, lambda: artifacts.fingerprint(step())):
        with pytest.raises(BncapError, match=r"smoke/01_data_build/a-s42/manifest\.json is no.*; delete"):
            use()
    assert (step() / "out.txt").read_text() == "one"


def test_a_root_that_is_a_file_is_an_error_with_the_variable_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "file"))
    monkeypatch.setenv("BNCAP_FIGURES", str(tmp_path / "file"))
    with pytest.raises(BncapError, match=r"file/smoke/01_data_build cannot be written .*set BNCAP_ARTIFACTS"):
        make()
    with pytest.raises(BncapError, match=r"file/smoke cannot be made .*set BNCAP_FIGURES"):
        paths.figures_dir("smoke")
    assert (tmp_path / "file").read_text() == "mine"


def _slow_step(root, marker):
    import os

    os.environ["BNCAP_ARTIFACTS"] = root

    def build(folder):
        marker.set()
        time.sleep(1.0)
        write("slow")(folder)

    artifacts.run_step(step(), settings={"x": 1}, build=build)


def test_two_runs_on_one_folder_wait_and_say_for_whom(artifacts_dir, capsys):
    context = multiprocessing.get_context("fork")
    marker = context.Event()
    other = context.Process(target=_slow_step, args=(str(artifacts_dir), marker))
    other.start()
    assert marker.wait(10)
    assert make("never") == 0  # finished by the other while this one waited
    other.join()
    assert f"waiting for another run (process {other.pid}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_a_foreign_note_of_unfinished_work_is_named_and_the_work_is_left(artifacts_dir, content):
    folder = artifacts_dir / "mini" / "01_data_build" / "corpus-s42"
    folder.mkdir(parents=True)
    (folder / "unfinished.json").write_text(content)
    (folder / "rows.csv").write_text("hours of work")
    with pytest.raises(BncapError, match=r"corpus-s42/unfinished\.json .*; delete"):
        artifacts.run_step(folder, settings={}, build=lambda where: None)
    assert (folder / "rows.csv").read_text() == "hours of work"


def test_a_damaged_json_file_outside_the_artefacts_is_named_with_its_whole_path(tmp_path):
    (tmp_path / "captioner.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(BncapError, match=rf"^{tmp_path}/captioner\.json is not readable JSON"):
        artifacts.read_json(tmp_path / "captioner.json")


def select(profile, overrides=(), seed=42):
    artifacts.select_folders(get_config(profile, overrides), seed)
    return paths.figures_dir(profile), paths.artifacts_root()


@pytest.mark.parametrize(
    ("overrides", "seed", "differs"),
    [
        (["train.epochs=3"], 42, {"train.epochs": 3}),
        ("train.epochs=3 loss.tau=0.5", 42, {"train.epochs": 3, "loss.tau": 0.5}),
        ([], 7, {"seeds": [7, 8]}),
        (["experiment.seeds=[1, 2]"], 1, {"seeds": [1, 2]}),
        (["experiment.n_seeds=1"], 42, {"seeds": [42]}),
    ],
)
def test_other_settings_or_seeds_are_a_trial_with_folders_of_its_own(artifacts_dir, tmp_path, overrides, seed, differs):
    figures, root = select("smoke", overrides, seed)
    assert figures.parent == tmp_path / "figures/smoke" and root.parent == artifacts_dir
    assert figures.name == root.name and figures.name.startswith("trial-")
    assert artifacts.read_json(figures / "trial.json") == {"profile": "smoke", "differs": differs}
    assert select("smoke", overrides, seed) == (figures, root)
    assert select("smoke", ["train.epochs=1", "experiment.seeds=[42, 43]"]) == (
        tmp_path / "figures/smoke",
        artifacts_dir,
    )


def test_the_data_of_profile_own_are_part_of_its_standard_run(artifacts_dir):
    data = ["data.captions=/a/captions.csv", "data.images=/a/photos", "data.lang=hi_IN", "data.max_rejected=0.1"]
    assert select("own", data)[1] == artifacts_dir
    assert select("own", [*data, "train.epochs=2"])[1] != artifacts_dir
    assert select("kaggle", data)[1] != artifacts_dir


def test_a_trial_reuses_what_is_the_same_and_leaves_what_is_not(artifacts_dir, tmp_path, monkeypatch):
    standard = step()
    make()
    root = select("smoke", ["train.epochs=3"])[1]
    assert make(folder=step()) == 0 and step() == standard
    assert make(settings={"x": 2}) == 1 and step().is_relative_to(root) and make(settings={"x": 2}) == 0
    artifacts_dir.rename(tmp_path / "inputs")
    monkeypatch.setenv("BNCAP_INPUTS", str(tmp_path / "inputs"))
    assert make(settings={"x": 2}) == 0, "the output of an earlier session"
    select("smoke")
    assert make() == 0
