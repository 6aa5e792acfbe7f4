import errno
import json
import multiprocessing
import time

import pytest

from bncap import artifacts, paths
from bncap.errors import BncapError


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


def test_a_finished_step_is_skipped_and_says_so(artifacts_dir, capsys):
    assert make() == 1
    assert make() == 0
    assert "01_data_build/a-s42: up to date" in capsys.readouterr().out


def test_a_changed_setting_makes_the_step_anew(artifacts_dir):
    make()
    assert make("two", {"x": 2}) == 1
    assert (step() / "out.txt").read_text() == "two"


def test_a_changed_input_makes_the_step_anew_and_an_identical_one_does_not(artifacts_dir):
    upper = step("upper", "02_synthesis")
    make("one")
    assert make("up", inputs=[step()], folder=upper) == 1
    make("one", {"x": 2})  # same bytes by another setting
    assert make("up", inputs=[step()], folder=upper) == 0
    make("two", {"x": 3})
    assert make("up", inputs=[step()], folder=upper) == 1


def test_a_plain_file_counts_as_an_input(artifacts_dir, tmp_path):
    source = tmp_path / "data.json"
    source.write_text("1")
    make(inputs=[source])
    assert make(inputs=[source]) == 0
    source.write_text("2")
    assert make(inputs=[source]) == 1


def test_the_manifest_records_what_reproduction_needs(artifacts_dir):
    make()
    manifest = artifacts.read_json(step() / "manifest.json")
    assert manifest["outputs"]["out.txt"]["sha256"] == artifacts.file_hash(step() / "out.txt")
    assert manifest["settings"] == {"x": 1} and manifest["seed"] == 42 and manifest["variant"] == "a"
    assert {"commit", "packages", "seconds", "peak_memory_bytes", "inputs", "step"} <= set(manifest)


def test_a_failed_build_keeps_its_work_and_goes_on_from_it(artifacts_dir):
    def fail(folder):
        artifacts.write_text(folder / "part.txt", "kept")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        artifacts.run_step(step(), settings={"x": 1}, build=fail)
    assert not artifacts.is_finished(step())
    seen = []
    artifacts.run_step(step(), settings={"x": 1}, build=lambda f: seen.append((f / "part.txt").read_text()))
    assert seen == ["kept"]


def test_unfinished_work_of_other_settings_is_not_reused(artifacts_dir):
    def fail(folder):
        artifacts.write_text(folder / "part.txt", "stale")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        artifacts.run_step(step(), settings={"x": 1}, build=fail)
    seen = []
    artifacts.run_step(step(), settings={"x": 2}, build=lambda f: seen.append((f / "part.txt").exists()))
    assert seen == [False]


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


def test_an_output_changed_under_its_manifest_is_an_error_that_names_it(artifacts_dir):
    make()
    (step() / "out.txt").write_text("tampered")
    with pytest.raises(BncapError, match=r"01_data_build/a-s42/out.txt was changed"):
        make()


def test_an_output_gone_under_its_manifest_is_an_error_that_names_it(artifacts_dir):
    make()
    (step() / "out.txt").unlink()
    with pytest.raises(BncapError, match=r"out.txt is gone"):
        make()


def test_an_output_that_was_only_touched_is_intact(artifacts_dir):
    make()
    (step() / "out.txt").touch()
    assert make() == 0


def test_a_missing_input_names_the_command_that_makes_it(artifacts_dir):
    with pytest.raises(BncapError, match=r"\./run_all\.sh --profile smoke --only 01"):
        make(inputs=[step("missing")], folder=step("upper", "02_synthesis"))


def test_a_full_disk_is_said_in_one_line(artifacts_dir):
    def fill(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BncapError, match="disk full while writing 01_data_build/a-s42|disk full while writing smoke"):
        artifacts.run_step(step(), settings={}, build=fill)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    artifacts.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


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
